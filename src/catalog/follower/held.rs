//! Without a stream: a blocking list of the namespace, and a blocking query for each wanted service, as many as may be
//! held. The services beyond that are read whenever the namespace has changed.

use std::{collections::BTreeMap, time::Duration};

use super::{Follower, GRACE, Outbox, round::Round, stream::Stream};
use crate::{
    catalog::{Ask, Failure, How, Reading, Ticket},
    model::ServiceKey,
};

/// Between two lists, so that a busy namespace is not listed without a pause.
const LIST_PAUSE: Duration = Duration::from_millis(500);
/// The same for each service that is read after a list.
const READ_PAUSE: Duration = Duration::from_millis(15);
/// However many those are.
const LONGEST_LIST_PAUSE: Duration = Duration::from_secs(15);
/// A query that is answered earlier without news was overtaken by changes of other services.
const EARLY: Duration = Duration::from_secs(1);
/// How long it is not asked again then.
const EARLY_PAUSE: Duration = Duration::from_millis(200);

/// The queries that Nomad holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    queries: BTreeMap<Ticket, Query>,
}

#[derive(Clone, Debug)]
pub(super) struct Query {
    key: ServiceKey,
    asked_at: Duration,
}

impl Held {
    pub(super) fn has(&self, key: &ServiceKey) -> bool {
        self.queries.values().any(|query| query.key == *key)
    }

    pub(super) fn take(&mut self, ticket: Ticket) -> Option<Query> {
        self.queries.remove(&ticket)
    }
}

impl Follower {
    /// Whether blocking queries do the work of the stream.
    pub(super) fn is_blocking(&self, now: Duration) -> bool {
        self.streamless_since
            .is_some_and(|since| now >= since.saturating_add(GRACE))
            && self.resync.is_none()
            && self.rests()
    }

    pub(super) fn announce_blocking(&mut self, now: Duration, out: &mut Outbox) {
        if let Stream::Down {
            refusal: Some(reason),
            ..
        } = &self.stream
            && self.is_blocking(now)
        {
            let reason = reason.clone();
            out.tells.extend(self.follow(How::Blocking { reason }));
        }
    }

    /// How many services wait for a blocking query.
    pub(in crate::catalog) fn wanted_queries(&self, now: Duration) -> usize {
        if !self.is_blocking(now) {
            return 0;
        }
        let is_free = |key: &&ServiceKey| !self.held.has(key) && !self.singles.has(key);
        self.view.known().filter(is_free).count()
    }

    /// The next service to ask for by a blocking query, if there is one.
    pub(in crate::catalog) fn next_held(
        &mut self,
        now: Duration,
        out: &mut Outbox,
    ) -> Option<Ticket> {
        if !self.is_blocking(now) {
            return None;
        }
        let is_free = |key: &&ServiceKey| !self.held.has(key) && !self.singles.has(key);
        let key = self.view.known().find(is_free)?.clone();
        let ticket = out.ticket();
        let after = Some(self.view.base(&key));
        let query = Query {
            key: key.clone(),
            asked_at: now,
        };
        self.held.queries.insert(ticket, query);
        out.asks.push_back(Ask::Read { ticket, key, after });
        Some(ticket)
    }

    /// The answer to a blocking query for one service.
    pub(super) fn held_read(
        &mut self,
        now: Duration,
        query: Query,
        result: Result<Reading, Failure>,
        out: &mut Outbox,
    ) {
        let is_good = result.is_ok();
        let has_changed = self.take_single(now, &query.key, result, out);
        if is_good && !has_changed && now < query.asked_at.saturating_add(EARLY) {
            let again_at = now.saturating_add(EARLY_PAUSE);
            self.singles.add_later(query.key, again_at);
        }
    }

    /// Lets go of everything that Nomad holds, and of a list: the stream is there, or something is wrong.
    pub(super) fn let_go(&mut self, now: Duration, out: &mut Outbox) {
        for (ticket, _) in std::mem::take(&mut self.held.queries) {
            out.asks.push_back(Ask::Cancel { ticket });
        }
        if let Round::Listing { ticket, .. } = self.round {
            out.asks.push_back(Ask::Cancel { ticket });
            self.round = Round::Idle { due: now };
        }
    }

    /// When the next blocking list may be asked.
    pub(super) fn next_held_list(&self) -> Duration {
        let without_query = self.view.known().filter(|key| !self.held.has(key)).count();
        let reads = READ_PAUSE.saturating_mul(u32::try_from(without_query).unwrap_or(u32::MAX));
        self.listed_at
            .saturating_add(reads.clamp(LIST_PAUSE, LONGEST_LIST_PAUSE))
    }

    /// The services that must be read since the namespace has changed.
    pub(super) fn without_query(&self) -> Vec<ServiceKey> {
        let known = self.view.known().filter(|key| !self.held.has(key));
        known.cloned().collect()
    }
}
