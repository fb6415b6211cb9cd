//! The half of a follower that lists and reads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Follower, Outbox, POLL, stream::Stream};
use crate::{
    catalog::{Ask, Failure, FailureKind, How, Listing, Reading, Scope, Tell, Ticket},
    model::ServiceKey,
};

/// Between two reads of everything while the stream is open: deletions by garbage collection send no event.
const FULL_READ: Duration = Duration::from_mins(1);
/// A lower index may be that of a leader which is a moment behind the server that streams, so it is believed when it is
/// still there after this.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// A service that cannot be read in so many rounds, each begun by a good list, is left out of the next.
const STRIKES: u32 = 3;

/// A round: one list and the reads that it calls for.
#[derive(Clone, Debug)]
pub(super) enum Round {
    /// To `Listing` when due.
    Idle { due: Duration },
    /// To `Reading` by a list that is believed, to `Idle` by a failure.
    Listing(Ticket),
    /// To `Idle` when everything was read, or the round failed.
    Reading(Reads),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    list_index: u64,
    pending: BTreeSet<ServiceKey>,
    in_flight: BTreeMap<Ticket, ServiceKey>,
    read: BTreeMap<ServiceKey, Reading>,
    failed: BTreeMap<ServiceKey, Failure>,
    /// Everything is read, not only what could not be read before.
    full: bool,
}

impl Follower {
    pub(in crate::catalog) fn listed(
        &mut self,
        now: Duration,
        ticket: Ticket,
        result: Result<Listing, Failure>,
        out: &mut Outbox,
    ) {
        if !matches!(self.round, Round::Listing(asked) if asked == ticket) {
            return;
        }
        let listing = match result {
            Ok(listing) => listing,
            Err(failure) => return self.fail_round(now, Some(failure), out),
        };
        let known = self.view.latest();
        if listing.index >= known {
            self.low_since = None;
        } else if now
            < self
                .low_since
                .get_or_insert(now)
                .saturating_add(SECOND_LOOK)
        {
            self.round = Round::Idle {
                due: now.saturating_add(SECOND_LOOK),
            };
            return;
        } else {
            out.tells.push_back(Tell::IndexWentBack {
                namespace: Arc::clone(&self.namespace),
                from: known,
                to: listing.index,
            });
            self.low_since = None;
            self.view.reset_indexes();
            self.resync = true;
            self.reopen_stream(now, out);
        }
        self.reopen_for_new_namespaces(now, &listing, out);
        self.begin_reads(now, listing, out);
    }

    pub(in crate::catalog) fn read(
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
    pub(in crate::catalog) fn next_read(&mut self, out: &mut Outbox) -> Option<Ticket> {
        let Round::Reading(reads) = &mut self.round else {
            return None;
        };
        let key = reads.pending.pop_first()?;
        let ticket = out.ticket();
        reads.in_flight.insert(ticket, key.clone());
        out.asks.push_back(Ask::Read { ticket, key });
        Some(ticket)
    }

    /// Has no effect while a round is under way.
    pub(super) fn round_no_later_than(&mut self, at: Duration) {
        if let Round::Idle { due } = &mut self.round {
            *due = at.min(*due);
        }
    }

    pub(super) fn list(&mut self, out: &mut Outbox) {
        let ticket = out.ticket();
        self.round = Round::Listing(ticket);
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
        let failed = reads.failed.keys();
        news.extend(
            self.view
                .adopt(reads.list_index, reads.read, failed, unbroken),
        );
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
            due: now.saturating_add(self.round_backoff.next_delay(&mut out.random)),
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
}
