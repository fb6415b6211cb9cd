//! Follows one namespace (or `*`): when its stream is opened, when it is listed and read, and what of that is believed.
//!
//! With a stream: a list now and then, and reads of what differs or was not looked at for long ([`single`]). Without one:
//! blocking queries ([`held`]). After a gap, a round reads everything ([`round`]).

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

mod held;
mod round;
mod single;
mod stream;
mod strikes;

use self::{held::Held, round::Round, single::Singles, stream::Stream, strikes::Strikes};
use crate::{
    catalog::{Ask, Cause, FailureKind, Scope, Tell, Ticket, Wanted, view::View},
    model::{Backoff, Registration, ServiceKey, SplitMix64},
};

/// How long a list waits for a stream that is being opened. A stream comes in milliseconds or, denied, never.
const HEAD_START: Duration = Duration::from_millis(250);
/// How long there may be no stream before blocking queries do its work.
const GRACE: Duration = Duration::from_secs(1);
/// Between two tries after a failure, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// A stream of all namespaces does not deliver namespaces younger than itself (since 1.9.6).
const STAR_STREAM_AGE: Duration = Duration::from_hours(1);

/// What followers say, and what they share.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub(super) struct Follower {
    namespace: Arc<str>,
    view: View,
    stream: Stream,
    stream_backoff: Backoff,
    /// Since when there is no open stream.
    streamless_since: Option<Duration>,
    /// How the namespace is followed, as far as it was told since a stream was lost.
    streaming: Option<bool>,
    /// The namespaces of the first list after the stream was opened, for `*`.
    delivered: Option<BTreeSet<Arc<str>>>,
    round: Round,
    round_backoff: Backoff,
    /// When the last list was asked.
    listed_at: Duration,
    /// Nothing else is asked before a list was answered: the last answer was a failure that says nothing of one service.
    paused: bool,
    /// The stream was opened while a round was under way: that round proves nothing about the time before.
    again: bool,
    /// Why the next round reads everything; none if only what differs is read.
    resync: Option<Cause>,
    /// Since when lists have a lower index than what is known.
    low_since: Option<Duration>,
    singles: Singles,
    held: Held,
    strikes: Strikes,
    /// The failure that is about the whole namespace, as far as it was told.
    trouble: Option<FailureKind>,
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
            stream_backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            streamless_since: Some(now),
            streaming: None,
            delivered: None,
            round: Round::Idle {
                due: now.saturating_add(HEAD_START),
            },
            round_backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            listed_at: now,
            paused: false,
            again: false,
            resync: Some(Cause::FirstSync),
            low_since: None,
            singles: Singles::default(),
            held: Held::default(),
            strikes: Strikes::default(),
            trouble: None,
        }
    }

    /// From now on no more than this is known, in bytes of memory.
    pub(super) const fn limit(&mut self, most: usize) {
        self.view.limit(most);
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Duration, out: &mut Outbox) {
        if let Stream::Open { since, .. } = self.stream
            && self.follows_all()
            && now >= since.saturating_add(STAR_STREAM_AGE)
        {
            self.reopen_stream(now, out);
        }
        if let Stream::Down { retry_at, .. } = self.stream
            && retry_at <= now
        {
            self.open_stream(now, out);
        }
        self.announce_blocking(now, out);
        if let Round::Idle { due } = self.round
            && due <= now
        {
            self.again = false;
            self.list(now, out);
        }
        self.audit(now, out);
        self.retry_singles(now, out);
    }

    /// When [`Self::tick`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        let stream = match &self.stream {
            Stream::Down { retry_at, .. } => Some(*retry_at),
            Stream::Open { since, .. } if self.follows_all() => {
                Some(since.saturating_add(STAR_STREAM_AGE))
            }
            Stream::Opening(_) | Stream::Open { .. } => None,
        };
        let round = match &self.round {
            Round::Idle { due } => Some(*due),
            Round::Listing { .. } | Round::Reading(_) => None,
        };
        stream
            .into_iter()
            .chain(round)
            .chain(self.singles_due())
            .min()
    }

    /// Begins anew with a new stream and a full read: something outside changed, such as the token.
    pub(super) fn resync(&mut self, now: Duration, out: &mut Outbox) {
        self.stream_backoff.reset();
        self.round_backoff.reset();
        self.resync = Some(Cause::Resync);
        self.again = true;
        self.let_go(now, out);
        self.reopen_stream(now, out);
        self.round_no_later_than(now.saturating_add(HEAD_START));
    }

    /// Whether registrations of this service are known.
    pub(super) fn has(&self, key: &ServiceKey) -> bool {
        !self.view.registrations(key).is_empty()
    }

    /// Whether it was not read yet, and nothing has kept it from that.
    pub(super) fn begins(&self) -> bool {
        !self.view.is_live() && self.trouble.is_none() && !self.paused
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
            .services()
            .chain(self.view.unread())
            .filter(|key| !self.view.knows(key))
            .map(|key| Scope::Service(key.clone()));
        namespace.into_iter().chain(services)
    }

    fn follows_all(&self) -> bool {
        &*self.namespace == "*"
    }

    const fn is_streaming(&self) -> bool {
        matches!(self.stream, Stream::Open { .. })
    }

    /// Says that the mirror is the catalog, if it is.
    fn tell_current(&self, out: &mut Outbox) {
        if self.view.is_live()
            && self.resync.is_none()
            && self.trouble.is_none()
            && self.singles.is_done()
        {
            out.tells.push_back(Tell::Current {
                namespace: Arc::clone(&self.namespace),
                index: self.view.latest(),
            });
        }
    }

    fn tell_rereads(&self, cause: Cause, services: usize, out: &mut Outbox) {
        if services > 0 {
            out.tells.push_back(Tell::Rereads {
                namespace: Arc::clone(&self.namespace),
                cause,
                services,
            });
        }
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
