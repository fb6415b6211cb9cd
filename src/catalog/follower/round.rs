//! The half of a follower that lists, and reads everything after a gap.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Follower, GRACE, Outbox, stream::Stream};
use crate::{
    catalog::{Ask, Cause, Failure, Listing, Reading, Scope, Tell, Ticket},
    model::ServiceKey,
};

/// Between two lists while the stream is open, at most.
const LIST: Duration = Duration::from_mins(1);
/// So much less, by chance, so that sidecars that were started together do not list together.
const LIST_JITTER_MILLIS: u64 = 6_000;
/// A lower index may be that of a leader which is a moment behind the server that streams, so it is believed when it is
/// still there after this.
const SECOND_LOOK: Duration = Duration::from_secs(2);

/// A round: one list and the reads that it calls for.
#[derive(Clone, Debug)]
pub(super) enum Round {
    /// To `Listing` when due.
    Idle { due: Duration },
    /// To `Reading` by a list that is believed and everything has to be read, otherwise to `Idle`.
    Listing {
        ticket: Ticket,
        /// The index that was known when it was asked.
        known: u64,
    },
    /// To `Idle` when everything was read, or the round failed.
    Reading(Reads),
}

#[derive(Clone, Debug, Default)]
pub(super) struct Reads {
    list_index: u64,
    pending: BTreeSet<ServiceKey>,
    in_flight: BTreeMap<Ticket, ServiceKey>,
    read: BTreeMap<ServiceKey, Reading>,
    /// How much more memory that takes than what it replaces.
    more: isize,
    failed: BTreeMap<ServiceKey, Failure>,
}

impl Round {
    /// The index of a read that waits for the others of its round.
    pub(super) fn read_at(&self, key: &ServiceKey) -> Option<u64> {
        match self {
            Self::Reading(reads) => reads.read.get(key).map(|reading| reading.index),
            Self::Idle { .. } | Self::Listing { .. } => None,
        }
    }
}

impl Follower {
    pub(in crate::catalog) fn listed(
        &mut self,
        now: Duration,
        ticket: Ticket,
        result: Result<Listing, Failure>,
        out: &mut Outbox,
    ) {
        let known = match self.round {
            Round::Listing {
                ticket: asked,
                known,
            } if asked == ticket => known,
            Round::Idle { .. } | Round::Listing { .. } | Round::Reading(_) => return,
        };
        self.round = Round::Idle { due: now };
        let listing = match result {
            Ok(listing) => listing,
            Err(failure) => return self.fail_round(now, Some(failure), out),
        };
        self.paused = false;
        let low_since = *self.low_since.get_or_insert(now);
        let due = low_since.saturating_add(SECOND_LOOK);
        if listing.index >= known {
            self.low_since = None;
        } else if now < due {
            self.round = Round::Idle { due };
            return;
        } else {
            out.tells.push_back(Tell::IndexWentBack {
                namespace: Arc::clone(&self.namespace),
                from: known,
                to: listing.index,
            });
            self.low_since = None;
            self.view.reset_indexes();
            self.resync = Some(Cause::IndexWentBack);
            self.reopen_stream(now, out);
        }
        self.reopen_for_new_namespaces(now, &listing, out);
        match self.resync {
            Some(Cause::StreamBroke) if self.view.is_complete_at(listing.index) => {
                // Nothing was missed.
                if self.is_streaming() {
                    self.view.stream_is_unbroken();
                }
                self.resync = None;
                self.rest_after(now, listing, out);
            }
            Some(cause) => self.begin_reads(now, cause, listing, out),
            None => self.rest_after(now, listing, out),
        }
    }

    pub(in crate::catalog) fn read(
        &mut self,
        now: Duration,
        ticket: Ticket,
        result: Result<Reading, Failure>,
        out: &mut Outbox,
    ) {
        if let Some(query) = self.held.take(ticket) {
            return self.held_read(now, query, result, out);
        }
        if let Some(key) = self.singles.take(ticket) {
            self.take_single(now, &key, result, out);
            return;
        }
        let Round::Reading(reads) = &mut self.round else {
            return;
        };
        let Some(key) = reads.in_flight.remove(&ticket) else {
            return;
        };
        let oldest = reads.list_index.max(self.view.oldest_readable(&key));
        let result = result.and_then(|reading| self.view.admit(&key, reading, &mut reads.more));
        match result {
            Ok(reading) if reading.index >= oldest => {
                reads.read.insert(key, reading);
            }
            Ok(reading) => {
                let failure = Failure::too_old(&key, reading.index, oldest);
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

    /// What was not read so far is left out; if nothing was, that is told.
    pub(in crate::catalog) fn give_up(&mut self, now: Duration, out: &mut Outbox) {
        if let Round::Reading(reads) = &mut self.round {
            let in_flight = std::mem::take(&mut reads.in_flight);
            let late = std::mem::take(&mut reads.pending).into_iter();
            for key in late.chain(in_flight.values().cloned()) {
                reads
                    .failed
                    .insert(key.clone(), Failure::late(now, Some(&key)));
            }
            for (key, failure) in reads.failed.clone() {
                while !self.strikes.is_out(&key) {
                    self.strike(now, &key, &failure, out);
                }
            }
            let cancel = |ticket| Ask::Cancel { ticket };
            out.asks.extend(in_flight.into_keys().map(cancel));
            self.complete_if_done(now, out);
        } else if !self.view.is_live() && self.trouble.is_none() {
            self.fail_round(now, Some(Failure::late(now, None)), out);
        }
    }

    /// The next read that is not held, if there is one.
    pub(in crate::catalog) fn next_read(&mut self, out: &mut Outbox) -> Option<Ticket> {
        let Round::Reading(reads) = &mut self.round else {
            return self.next_single(out);
        };
        let key = reads.pending.pop_first()?;
        let ticket = out.ticket();
        reads.in_flight.insert(ticket, key.clone());
        out.asks.push_back(Ask::Read {
            ticket,
            key,
            after: None,
        });
        Some(ticket)
    }

    /// How many reads there are yet to ask.
    pub(in crate::catalog) fn waiting_reads(&self) -> usize {
        match &self.round {
            Round::Reading(reads) => reads.pending.len(),
            Round::Idle { .. } | Round::Listing { .. } if !self.rests() => 0,
            Round::Idle { .. } | Round::Listing { .. } => self.singles.waiting(),
        }
    }

    /// Has no effect while a round is under way.
    pub(super) fn round_no_later_than(&mut self, at: Duration) {
        if let Round::Idle { due } = &mut self.round {
            *due = at.min(*due);
        }
    }

    pub(super) fn list(&mut self, now: Duration, out: &mut Outbox) {
        let ticket = out.ticket();
        let may_be_held = self.is_blocking(now) && self.low_since.is_none();
        out.asks.push_back(Ask::List {
            ticket,
            namespace: Arc::clone(&self.namespace),
            after: may_be_held.then(|| self.view.list_index()),
        });
        let known = self.view.latest();
        self.round = Round::Listing { ticket, known };
        self.listed_at = now;
    }

    /// Reads everything that is wanted, known or asked for.
    fn begin_reads(&mut self, now: Duration, cause: Cause, listing: Listing, out: &mut Outbox) {
        let list_index = listing.index;
        let mut pending = self.singles.hand_over(out);
        pending.extend(self.strikes.services().cloned());
        pending.extend(self.view.to_read(listing.services));
        self.tell_rereads(cause, pending.len(), out);
        self.round = Round::Reading(Reads {
            list_index,
            pending,
            ..Reads::default()
        });
        self.let_go(now, out);
        self.complete_if_done(now, out);
    }

    /// After a list while everything is known: reads what differs.
    fn rest_after(&mut self, now: Duration, listing: Listing, out: &mut Outbox) {
        let has_moved = listing.index > self.view.list_index();
        let differing = self.view.compare(listing);
        self.read_soon(Cause::List, differing, out);
        if has_moved && self.is_blocking(now) {
            let services = self.without_query();
            self.read_soon(Cause::NamespaceMoved, services, out);
        }
        self.settle(now, out);
        self.rest(now, out);
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
        for (key, failure) in &reads.failed {
            self.strike(now, key, failure, out);
        }
        if !reads.failed.keys().all(|key| self.strikes.is_out(key)) {
            self.round = Round::Reading(reads);
            return self.fail_round(now, None, out);
        }
        let mut asked_for = Vec::new();
        for key in reads.read.keys() {
            self.strikes.clear(key, out);
            if self.singles.proven(key) {
                asked_for.push(key.clone());
            }
        }
        let unbroken = !self.again && self.is_streaming();
        let failed = reads.failed.keys();
        self.view
            .adopt(now, reads.list_index, reads.read, failed, unbroken);
        out.synced = Some(reads.list_index);
        // Whoever asked waits for an answer, also to what is not there.
        for key in asked_for {
            self.tell_changed(key, reads.list_index, None, out);
        }
        self.resync = self.again.then_some(Cause::StreamBroke);
        self.round = Round::Idle { due: now };
        self.settle(now, out);
        self.rest(now, out);
    }

    /// After a complete round or a list: when is the next?
    fn rest(&mut self, now: Duration, out: &mut Outbox) {
        let due = match self.streamless_since {
            _ if self.again => now,
            None => {
                let jitter = Duration::from_millis(out.random.next() % LIST_JITTER_MILLIS);
                now.saturating_add(LIST).saturating_sub(jitter)
            }
            Some(since) => since.saturating_add(GRACE).max(self.next_held_list()),
        };
        self.round = Round::Idle { due: due.max(now) };
    }

    /// Everything that was to be read was: whatever was wrong is over.
    pub(super) fn settle(&mut self, now: Duration, out: &mut Outbox) {
        if self.paused || !self.singles.is_done() {
            return;
        }
        self.round_backoff.reset();
        if self.trouble.take().is_some() {
            out.tells.push_back(Tell::Recovered {
                scope: Scope::Namespace(Arc::clone(&self.namespace)),
            });
            if let Stream::Down { retry_at, .. } = &mut self.stream {
                *retry_at = now;
            }
        }
        self.tell_current(out);
    }

    /// Everything that is known stays as it is, but for what was read already: events that it includes were passed over.
    pub(super) fn fail_round(&mut self, now: Duration, failure: Option<Failure>, out: &mut Outbox) {
        self.let_go(now, out);
        if let Round::Reading(reads) = &mut self.round {
            let reads = std::mem::take(reads);
            for (ticket, _) in reads.in_flight {
                out.asks.push_back(Ask::Cancel { ticket });
            }
            let readings = self.view.is_live().then_some(reads.read);
            for (key, reading) in readings.into_iter().flatten() {
                let index = reading.index;
                if self.view.adopt_one(now, &key, reading) {
                    self.tell_changed(key, index, None, out);
                }
            }
        }
        self.paused = true;
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
