//! Follows one namespace (or `*`): when its stream is opened, when it is listed and read, and what of that is believed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

mod round;
mod stream;

use self::{round::Round, stream::Stream};
use crate::{
    catalog::{Ask, FailureKind, Scope, Tell, Ticket, Wanted, view::View},
    model::{Backoff, Registration, ServiceKey, SplitMix64},
};

/// How long a list waits for a stream that is being opened. A stream comes in milliseconds or, denied, never.
const HEAD_START: Duration = Duration::from_millis(250);
/// Between two tries after a failure, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Between two lists without a stream.
const POLL: Duration = Duration::from_secs(2);
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
    /// Since when lists have a lower index than what is known.
    low_since: Option<Duration>,
    /// Rounds in a row in which a service could not be read.
    strikes: BTreeMap<ServiceKey, u32>,
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
            streaming: None,
            delivered: None,
            round: Round::Idle {
                due: now.saturating_add(HEAD_START),
            },
            round_backoff: Backoff::new(FIRST_RETRY, LAST_RETRY),
            again: false,
            resync: true,
            full_read_due: now,
            low_since: None,
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
            self.list(out);
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
            Round::Listing(_) | Round::Reading(_) => None,
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

    /// Whether registrations of this service are known.
    pub(super) fn has(&self, key: &ServiceKey) -> bool {
        !self.view.registrations(key).is_empty()
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
