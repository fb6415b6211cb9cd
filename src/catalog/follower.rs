//! Follows one namespace (or `*`): when its stream is opened, when it is listed and read, and what of that is believed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    catalog::{
        Ask, Failure, FailureKind, How, Line, Listing, Reading, Scope, StreamEnd, Tell, Ticket,
        Wanted,
        backoff::{Backoff, SplitMix64},
        view::View,
    },
    model::{Registration, ServiceKey},
};

/// How long a list waits for a stream that is being opened. A stream comes in milliseconds or, denied, never.
const HEAD_START: Duration = Duration::from_millis(250);
/// Between two reads of everything while the stream is open: deletions by garbage collection send no event.
const FULL_READ: Duration = Duration::from_mins(1);
/// Between two lists without a stream.
const POLL: Duration = Duration::from_secs(2);
/// Between two attempts to open a stream that was refused.
const STREAM_RETRY: Duration = Duration::from_mins(1);
/// A stream that lived as long was not a failure.
const STREAM_HELD: Duration = Duration::from_secs(30);
/// A stream of all namespaces does not deliver namespaces younger than itself (since 1.9.6).
const STAR_STREAM_AGE: Duration = Duration::from_hours(1);
/// A service that cannot be read in so many rounds, each begun by a good list, is left out of the next.
const STRIKES: u32 = 3;

/// What followers say, and what they share.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) asks: VecDeque<Ask>,
    pub(super) tells: VecDeque<Tell>,
    /// A sync is complete that began with a list of this index.
    pub(super) synced: Option<u64>,
    pub(super) random: SplitMix64,
    pub(super) tickets: u64,
}

impl Outbox {
    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }
}

/// The state of one followed namespace.
#[derive(Debug)]
pub(super) struct Follower {
    namespace: Arc<str>,
    view: View,
    stream: Stream,
    stream_backoff: Backoff,
    /// How the namespace is followed, as far as it was told.
    streaming: Option<bool>,
    /// The namespaces of the first list after the stream was opened, for `*`.
    delivered: Option<BTreeSet<Arc<str>>>,
    round: Round,
    round_backoff: Backoff,
    /// The stream was opened while a round was under way: that round proves nothing about the time before.
    again: bool,
    /// The next complete round replaces everything: it is the first, or lines may have been missed.
    resync: bool,
    full_read_due: Duration,
    /// Rounds in a row in which a service could not be read.
    strikes: BTreeMap<ServiceKey, u32>,
    trouble: Option<FailureKind>,
}

/// The stream.
#[derive(Debug)]
enum Stream {
    /// Not there. To `Opening` when due.
    Down {
        retry_at: Duration,
        /// Why it could not be opened; none if it was lost or never tried.
        refusal: Option<String>,
    },
    /// Asked for. To `Open` by its first line, to `Down` when it fails.
    Opening(Ticket),
    /// To `Down` when it ends, or is closed to be opened anew.
    Open { ticket: Ticket, since: Duration },
}

/// A round: one list and the reads that it calls for.
#[derive(Debug)]
enum Round {
    /// To `Listing` when due.
    Idle { due: Duration },
    /// To `Reading` by a list that is believed, to `Idle` by a failure.
    Listing {
        ticket: Ticket,
        /// A list before this one had a lower index than what is known.
        went_back: bool,
    },
    /// To `Idle` when everything was read, or the round failed.
    Reading(Reads),
}

#[derive(Debug, Default)]
struct Reads {
    list_index: u64,
    pending: BTreeSet<ServiceKey>,
    in_flight: BTreeMap<Ticket, ServiceKey>,
    read: BTreeMap<ServiceKey, Reading>,
    failed: BTreeMap<ServiceKey, Failure>,
    /// Everything is read, not only what could not be read before.
    full: bool,
}

impl Follower {
    pub(super) fn new(namespace: Arc<str>, wanted: Wanted, now: Duration) -> Self {
        Self {
            view: View::new(Arc::clone(&namespace), wanted),
            namespace,
            stream: Stream::Down {
                retry_at: now,
                refusal: None,
            },
            stream_backoff: Backoff::default(),
            streaming: None,
            delivered: None,
            round: Round::Idle {
                due: now.saturating_add(HEAD_START),
            },
            round_backoff: Backoff::default(),
            again: false,
            resync: true,
            full_read_due: now,
            strikes: BTreeMap::new(),
            trouble: None,
        }
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Duration, out: &mut Outbox) {
        if let Stream::Open { since, .. } = self.stream
            && &*self.namespace == "*"
            && now >= since.saturating_add(STAR_STREAM_AGE)
        {
            self.reopen_stream(now, out);
        }
        if let Stream::Down { retry_at, .. } = self.stream
            && retry_at <= now
        {
            self.open_stream(now, out);
        }
        if let Round::Idle { due } = self.round
            && due <= now
        {
            self.again = false;
            self.list(false, out);
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let stream = match &self.stream {
            Stream::Down { retry_at, .. } => Some(*retry_at),
            Stream::Open { since, .. } if &*self.namespace == "*" => {
                Some(since.saturating_add(STAR_STREAM_AGE))
            }
            Stream::Opening(_) | Stream::Open { .. } => None,
        };
        let round = match &self.round {
            Round::Idle { due } => Some(*due),
            Round::Listing { .. } | Round::Reading(_) => None,
        };
        stream.into_iter().chain(round).min()
    }

    /// Begins anew with a new stream and a full read: something outside changed, such as the token.
    pub(super) fn resync(&mut self, now: Duration, out: &mut Outbox) {
        self.stream_backoff.reset();
        self.round_backoff.reset();
        self.full_read_due = now;
        self.resync = true;
        self.again = true;
        self.reopen_stream(now, out);
        self.round_no_later_than(now.saturating_add(HEAD_START));
    }

    pub(super) fn stream_opened(&mut self, now: Duration, ticket: Ticket) -> Option<Tell> {
        if !matches!(self.stream, Stream::Opening(asked) if asked == ticket) {
            return None;
        }
        self.stream = Stream::Open { ticket, since: now };
        self.delivered = None;
        self.resync = true;
        self.again = true;
        self.round_no_later_than(now);
        self.follow(How::Stream)
    }

    pub(super) fn stream_line(&mut self, ticket: Ticket, line: Line, out: &mut Outbox) {
        if !matches!(self.stream, Stream::Open { ticket: open, .. } if open == ticket) {
            return;
        }
        let index = line.index;
        for key in self.view.take(line) {
            self.tell_changed(key, index, Some(index), out);
        }
        if self.view.is_live() && !self.resync {
            self.tell_current(out);
        }
    }

    pub(super) fn stream_ended(
        &mut self,
        now: Duration,
        ticket: Ticket,
        end: StreamEnd,
        out: &mut Outbox,
    ) {
        match self.stream {
            Stream::Open {
                ticket: open,
                since,
            } if open == ticket => {
                if now >= since.saturating_add(STREAM_HELD) {
                    self.stream_backoff.reset();
                }
            }
            Stream::Opening(asked) if asked == ticket => {}
            Stream::Down { .. } | Stream::Opening(_) | Stream::Open { .. } => return,
        }
        self.view.stream_broke();
        let soon = now.saturating_add(self.stream_backoff.next(&mut out.random));
        let (retry_at, refusal) = match end {
            StreamEnd::Refused(reason) => {
                self.round_no_later_than(now);
                out.tells.extend(self.follow(How::Poll {
                    reason: reason.clone(),
                }));
                (now.saturating_add(STREAM_RETRY), Some(reason))
            }
            StreamEnd::Unreachable(reason) => (soon, Some(reason)),
            StreamEnd::Lost(reason) => {
                self.resync = true;
                out.tells.push_back(Tell::StreamLost {
                    namespace: Arc::clone(&self.namespace),
                    reason,
                });
                (soon, None)
            }
        };
        self.stream = Stream::Down { retry_at, refusal };
    }

    pub(super) fn listed(
        &mut self,
        now: Duration,
        ticket: Ticket,
        result: Result<Listing, Failure>,
        out: &mut Outbox,
    ) {
        let went_back = match self.round {
            Round::Listing {
                ticket: asked,
                went_back,
            } if asked == ticket => went_back,
            Round::Idle { .. } | Round::Listing { .. } | Round::Reading(_) => return,
        };
        let listing = match result {
            Ok(listing) => listing,
            Err(failure) => return self.fail_round(now, Some(failure), out),
        };
        let known = self.view.latest();
        if listing.index < known {
            // One low index can be a server that is a moment behind the one that streams.
            if !went_back {
                return self.list(true, out);
            }
            out.tells.push_back(Tell::IndexWentBack {
                namespace: Arc::clone(&self.namespace),
                from: known,
                to: listing.index,
            });
            self.view.reset_indexes();
            self.resync = true;
            self.reopen_stream(now, out);
        }
        self.reopen_for_new_namespaces(now, &listing, out);
        self.begin_reads(now, listing, out);
    }

    pub(super) fn read(
        &mut self,
        now: Duration,
        ticket: Ticket,
        result: Result<Reading, Failure>,
        out: &mut Outbox,
    ) {
        let Round::Reading(reads) = &mut self.round else {
            return;
        };
        let Some(key) = reads.in_flight.remove(&ticket) else {
            return;
        };
        let oldest = reads.list_index.max(self.view.oldest_readable());
        match result {
            Ok(reading) if reading.index >= oldest => {
                reads.read.insert(key, reading);
            }
            Ok(reading) => {
                let failure = Failure {
                    kind: FailureKind::NotBelievable,
                    text: format!(
                        "a read of {key} has index {}, below {oldest} that was known before",
                        reading.index
                    ),
                };
                reads.failed.insert(key, failure);
            }
            Err(failure) if failure.kind.concerns_everything() => {
                return self.fail_round(now, Some(failure), out);
            }
            Err(failure) => {
                reads.failed.insert(key, failure);
            }
        }
        self.complete_if_done(now, out);
    }

    /// The next read of the round, if there is one.
    pub(super) fn next_read(&mut self, out: &mut Outbox) -> Option<Ticket> {
        let Round::Reading(reads) = &mut self.round else {
            return None;
        };
        let key = reads.pending.pop_first()?;
        let ticket = out.ticket();
        reads.in_flight.insert(ticket, key.clone());
        out.asks.push_back(Ask::Read { ticket, key });
        Some(ticket)
    }

    /// Every service that has registrations.
    pub(super) fn services(&self) -> impl Iterator<Item = (ServiceKey, Vec<Registration>)> {
        self.view.services()
    }

    /// What could not be read so far.
    pub(super) fn unproven(&self) -> impl Iterator<Item = Scope> {
        let namespace =
            (!self.view.is_live()).then(|| Scope::Namespace(Arc::clone(&self.namespace)));
        let services = self
            .strikes
            .keys()
            .filter(|key| !self.view.knows(key))
            .map(|key| Scope::Service(key.clone()));
        namespace.into_iter().chain(services)
    }

    fn follow(&mut self, how: How) -> Option<Tell> {
        let streaming = matches!(how, How::Stream);
        if self.streaming.replace(streaming) == Some(streaming) {
            return None;
        }
        Some(Tell::Following {
            namespace: Arc::clone(&self.namespace),
            how,
        })
    }

    fn open_stream(&mut self, now: Duration, out: &mut Outbox) {
        let ticket = out.ticket();
        self.stream = Stream::Opening(ticket);
        out.asks.push_back(Ask::OpenStream {
            ticket,
            namespace: Arc::clone(&self.namespace),
        });
        if self.resync {
            self.round_no_later_than(now.saturating_add(HEAD_START));
        }
    }

    fn reopen_stream(&mut self, now: Duration, out: &mut Outbox) {
        if let Stream::Opening(ticket) | Stream::Open { ticket, .. } = self.stream {
            out.asks.push_back(Ask::CloseStream { ticket });
        }
        self.view.stream_broke();
        self.stream = Stream::Down {
            retry_at: now,
            refusal: None,
        };
    }

    fn reopen_for_new_namespaces(&mut self, now: Duration, listing: &Listing, out: &mut Outbox) {
        if &*self.namespace != "*" || !matches!(self.stream, Stream::Open { .. }) {
            return;
        }
        let listed: BTreeSet<Arc<str>> = listing
            .services
            .iter()
            .map(|service| Arc::clone(&service.key.namespace))
            .collect();
        match &self.delivered {
            None => self.delivered = Some(listed),
            Some(delivered) if listed.is_subset(delivered) => {}
            Some(_) => self.reopen_stream(now, out),
        }
    }

    /// Has no effect while a round is under way.
    fn round_no_later_than(&mut self, at: Duration) {
        if let Round::Idle { due } = &mut self.round {
            *due = at.min(*due);
        }
    }

    fn list(&mut self, went_back: bool, out: &mut Outbox) {
        let ticket = out.ticket();
        self.round = Round::Listing { ticket, went_back };
        out.asks.push_back(Ask::List {
            ticket,
            namespace: Arc::clone(&self.namespace),
        });
    }

    /// When the table did not move since everything was known, only what could not be read before is read.
    fn begin_reads(&mut self, now: Duration, listing: Listing, out: &mut Outbox) {
        let list_index = listing.index;
        let full = !self.view.is_complete_at(list_index) || now >= self.full_read_due;
        let mut pending: BTreeSet<ServiceKey> = self.strikes.keys().cloned().collect();
        if full {
            pending.extend(self.view.to_read(listing.services));
        }
        self.round = Round::Reading(Reads {
            list_index,
            pending,
            in_flight: BTreeMap::new(),
            read: BTreeMap::new(),
            failed: BTreeMap::new(),
            full,
        });
        self.complete_if_done(now, out);
    }

    fn complete_if_done(&mut self, now: Duration, out: &mut Outbox) {
        if let Round::Reading(reads) = &mut self.round
            && reads.pending.is_empty()
            && reads.in_flight.is_empty()
        {
            let reads = std::mem::take(reads);
            self.complete(now, reads, out);
        }
    }

    /// Leaves the round idle.
    fn complete(&mut self, now: Duration, reads: Reads, out: &mut Outbox) {
        if !self.isolate(&reads.failed, out) {
            return self.fail_round(now, None, out);
        }
        let mut news = BTreeSet::new();
        for key in reads.read.keys() {
            if self
                .strikes
                .remove(key)
                .is_some_and(|strikes| strikes >= STRIKES)
            {
                out.tells.push_back(Tell::Recovered {
                    scope: Scope::Service(key.clone()),
                });
                if !self.view.knows(key) {
                    news.insert(key.clone());
                }
            }
        }
        let unbroken = !self.again && matches!(self.stream, Stream::Open { .. });
        news.extend(self.view.adopt(reads.list_index, reads.read, unbroken));
        self.recovered(now, out);
        if self.resync && reads.full {
            out.synced = Some(reads.list_index);
        } else {
            for key in news {
                self.tell_changed(key, reads.list_index, None, out);
            }
            self.tell_current(out);
        }
        self.resync = self.again;
        if reads.full {
            self.full_read_due = now.saturating_add(FULL_READ);
        }
        self.rest(now, out);
    }

    /// After a complete round: when is the next?
    fn rest(&mut self, now: Duration, out: &mut Outbox) {
        self.round_backoff.reset();
        let pause = match &self.stream {
            _ if self.again => Duration::ZERO,
            Stream::Open { .. } => FULL_READ,
            Stream::Opening(_) | Stream::Down { refusal: None, .. } => POLL,
            Stream::Down {
                refusal: Some(reason),
                ..
            } => {
                let reason = reason.clone();
                out.tells.extend(self.follow(How::Poll { reason }));
                POLL
            }
        };
        self.round = Round::Idle {
            due: now.saturating_add(pause),
        };
    }

    fn recovered(&mut self, now: Duration, out: &mut Outbox) {
        if self.trouble.take().is_none() {
            return;
        }
        out.tells.push_back(Tell::Recovered {
            scope: Scope::Namespace(Arc::clone(&self.namespace)),
        });
        if let Stream::Down { retry_at, .. } = &mut self.stream {
            *retry_at = now;
        }
    }

    /// Counts the failures of single services; true if the round can do without them.
    fn isolate(&mut self, failed: &BTreeMap<ServiceKey, Failure>, out: &mut Outbox) -> bool {
        let mut all_isolated = true;
        for (key, failure) in failed {
            let strikes = self.strikes.entry(key.clone()).or_default();
            let before = *strikes;
            *strikes = match failure.kind {
                FailureKind::Unreadable => STRIKES,
                FailureKind::Denied
                | FailureKind::BadToken
                | FailureKind::Unreachable
                | FailureKind::Timeout
                | FailureKind::ServerError
                | FailureKind::NotBelievable
                | FailureKind::Limited => before.saturating_add(1),
            };
            all_isolated &= *strikes >= STRIKES;
            if before < STRIKES && *strikes >= STRIKES {
                out.tells.push_back(Tell::Trouble {
                    scope: Scope::Service(key.clone()),
                    failure: failure.clone(),
                });
            }
        }
        all_isolated
    }

    /// Everything that is known stays as it is.
    fn fail_round(&mut self, now: Duration, failure: Option<Failure>, out: &mut Outbox) {
        self.round = Round::Idle {
            due: now.saturating_add(self.round_backoff.next(&mut out.random)),
        };
        if let Some(failure) = failure
            && self.trouble != Some(failure.kind)
        {
            self.trouble = Some(failure.kind);
            out.tells.push_back(Tell::Trouble {
                scope: Scope::Namespace(Arc::clone(&self.namespace)),
                failure,
            });
        }
    }

    fn tell_current(&self, out: &mut Outbox) {
        out.tells.push_back(Tell::Current {
            namespace: Arc::clone(&self.namespace),
        });
    }

    fn tell_changed(
        &self,
        key: ServiceKey,
        index: u64,
        event_index: Option<u64>,
        out: &mut Outbox,
    ) {
        out.tells.push_back(Tell::Changed {
            registrations: self.view.registrations(&key),
            index,
            event_index,
            key,
        });
    }
}
