//! Reads of single services while everything is known: what a list has or lacks, what somebody wants proven, what failed
//! before, and in turn everything, since deletions by garbage collection send no event.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Follower, Outbox, round::Round};
use crate::{
    catalog::{Ask, Cause, Failure, FailureKind, Reading, Ticket},
    model::ServiceKey,
};

/// Everything is looked at once in this time, which leaves a minute for the list and the reads themselves.
const AUDIT: Duration = Duration::from_secs(510);
/// Not more than two requests a second, the lists included.
const AUDIT_PAUSE: Duration = Duration::from_millis(520);

#[derive(Clone, Debug, Default)]
pub(super) struct Singles {
    /// To be read as soon as possible.
    due: BTreeSet<ServiceKey>,
    /// To be read at that time: they failed before, or came back too early.
    later: BTreeMap<ServiceKey, Duration>,
    asked: BTreeMap<Ticket, ServiceKey>,
    /// What is read although no list has it, until it was.
    to_prove: BTreeSet<ServiceKey>,
    /// When the last service was looked at in its turn, or that began.
    audited_at: Option<Duration>,
}

impl Singles {
    /// Whether nothing is open but what failed.
    pub(super) fn is_done(&self) -> bool {
        self.due.is_empty() && self.asked.is_empty()
    }

    /// How many are to be read that no read is under way for.
    pub(super) fn waiting(&self) -> usize {
        self.due.iter().filter(|key| !self.is_asked(key)).count()
    }

    fn is_asked(&self, key: &ServiceKey) -> bool {
        self.asked.values().any(|asked| asked == key)
    }

    pub(super) fn has(&self, key: &ServiceKey) -> bool {
        self.due.contains(key) || self.later.contains_key(key) || self.is_asked(key)
    }

    pub(super) fn add_later(&mut self, key: ServiceKey, at: Duration) {
        self.later.insert(key, at);
    }

    /// A round reads them, or will.
    pub(super) fn hand_over(&mut self, out: &mut Outbox) -> BTreeSet<ServiceKey> {
        self.due.clear();
        self.later.clear();
        for (ticket, _) in std::mem::take(&mut self.asked) {
            out.asks.push_back(Ask::Cancel { ticket });
        }
        self.audited_at = None;
        self.to_prove.clone()
    }

    pub(super) fn take(&mut self, ticket: Ticket) -> Option<ServiceKey> {
        self.asked.remove(&ticket)
    }

    pub(super) fn proven(&mut self, key: &ServiceKey) -> bool {
        self.to_prove.remove(key)
    }
}

impl Follower {
    /// Reads a service although no list has it, and tells what there is of it.
    pub(in crate::catalog) fn prove(&mut self, key: ServiceKey, out: &mut Outbox) {
        if self.has(&key) || !self.singles.to_prove.insert(key.clone()) {
            return;
        }
        self.tell_rereads(Cause::Proof, 1, out);
        self.singles.due.insert(key);
    }

    /// The next service to be read by itself, if there is one.
    pub(super) fn next_single(&mut self, out: &mut Outbox) -> Option<Ticket> {
        if !self.view.is_live() || self.paused {
            return None;
        }
        // One that is under way already may be too old for what it is asked again for.
        let is_free = |key: &&ServiceKey| !self.singles.is_asked(key);
        let key = self.singles.due.iter().find(is_free)?.clone();
        self.singles.due.remove(&key);
        let ticket = out.ticket();
        self.singles.asked.insert(ticket, key.clone());
        out.asks.push_back(Ask::Read {
            ticket,
            key,
            after: None,
        });
        Some(ticket)
    }

    /// To be read as soon as possible, whoever has no query of its own.
    pub(super) fn read_soon(
        &mut self,
        cause: Cause,
        keys: impl IntoIterator<Item = ServiceKey>,
        out: &mut Outbox,
    ) {
        let before = self.singles.due.len();
        for key in keys {
            if !self.singles.later.contains_key(&key) && !self.held.has(&key) {
                self.singles.due.insert(key);
            }
        }
        self.tell_rereads(cause, self.singles.due.len() - before, out);
    }

    /// Takes what was read of one service; true if it is not as it was before.
    pub(super) fn take_single(
        &mut self,
        now: Duration,
        key: &ServiceKey,
        result: Result<Reading, Failure>,
        out: &mut Outbox,
    ) -> bool {
        let result = result.and_then(|reading| self.view.admit(key, reading, &mut 0));
        let failure = match result {
            Ok(reading) if reading.index >= self.view.oldest_readable(key) => {
                return self.adopt_single(now, key, reading, out);
            }
            Ok(reading) => {
                // Perhaps Nomad was restored: a list tells.
                self.low_since.get_or_insert(now);
                self.let_go(now, out);
                self.round_no_later_than(now);
                Failure::too_old(key, reading.index, self.view.oldest_readable(key))
            }
            Err(failure) => failure,
        };
        if failure.kind.concerns_everything() {
            self.singles.due.insert(key.clone());
            self.fail_round(now, Some(failure), out);
        } else {
            self.strike(now, key, &failure, out);
        }
        false
    }

    fn adopt_single(
        &mut self,
        now: Duration,
        key: &ServiceKey,
        reading: Reading,
        out: &mut Outbox,
    ) -> bool {
        let index = reading.index;
        let was_out = self.strikes.clear(key, out);
        let was_known = self.view.knows(key);
        let has_changed = self.view.adopt_one(now, key, reading);
        let is_asked_for = self.singles.proven(key);
        if has_changed || is_asked_for || (was_out && !was_known) {
            self.tell_changed(key.clone(), index, None, out);
        }
        self.settle(now, out);
        has_changed
    }

    /// A service could not be read. It is tried again.
    pub(super) fn strike(
        &mut self,
        now: Duration,
        key: &ServiceKey,
        failure: &Failure,
        out: &mut Outbox,
    ) {
        let all_namespaces = self.follows_all();
        self.strikes.add(key, failure, all_namespaces, out);
        let again_at = now.saturating_add(self.strikes.delay(key));
        self.singles.add_later(key.clone(), again_at);
    }

    /// Looks at the next service in turn. Whoever has a query of its own, or cannot be read now, does not hold up the others.
    pub(super) fn audit(&mut self, now: Duration, out: &mut Outbox) {
        if !self.rests() {
            return;
        }
        match self.audit_due() {
            Some(due) if now < due => return,
            Some(_) => {
                let passes = |key: &ServiceKey| !self.singles.has(key) && !self.held.has(key);
                let next = self.view.least_recently_read(passes).cloned();
                self.read_soon(Cause::Audit, next, out);
            }
            None => {}
        }
        self.singles.audited_at = Some(now);
    }

    pub(super) fn retry_singles(&mut self, now: Duration, out: &mut Outbox) {
        if !self.rests() {
            return;
        }
        let later = self.singles.later.iter().filter(|(_, at)| **at <= now);
        let due: Vec<_> = later.map(|(key, _)| key.clone()).collect();
        for key in due {
            self.singles.later.remove(&key);
            // Only a read that failed is one too many: a query that came back early is held again.
            if self.strikes.has(&key) {
                self.read_soon(Cause::Retry, [key], out);
            }
        }
    }

    pub(super) fn singles_due(&self) -> Option<Duration> {
        let audit = self.audit_due();
        let later = self.singles.later.values().min().copied();
        audit
            .into_iter()
            .chain(later)
            .min()
            .filter(|_| self.rests())
    }

    /// Whether no round reads everything, and Nomad answers.
    pub(super) fn rests(&self) -> bool {
        self.view.is_live() && !self.paused && !matches!(self.round, Round::Reading(_))
    }

    /// Sooner than it seemed if there are more services by now.
    fn audit_due(&self) -> Option<Duration> {
        let services = u32::try_from(self.view.services_read()).unwrap_or(u32::MAX);
        let pause = (AUDIT / services.max(1)).max(AUDIT_PAUSE);
        Some(self.singles.audited_at?.saturating_add(pause))
    }
}

impl Failure {
    /// There is no memory for what a read has.
    pub(in crate::catalog) fn no_room(key: &ServiceKey, most: usize) -> Self {
        Self {
            kind: FailureKind::ServerError,
            text: format!(
                "service {key} has no room beside the others: what is followed would take more than {} MiB of memory; what \
                 is known of it stays: follow fewer namespaces, tag fewer services, or give the sidecar more memory",
                most / 1024 / 1024
            ),
        }
    }

    /// No answer to the list, or to the read of a service, in the time that there was.
    pub(super) fn late(now: Duration, service: Option<&ServiceKey>) -> Self {
        let what =
            service.map_or_else(String::new, |key| format!("service {key} cannot be read: "));
        Self {
            kind: FailureKind::Timeout,
            text: format!("{what}Nomad did not answer within {} s", now.as_secs()),
        }
    }

    /// A read that is older than what was known before.
    pub(super) fn too_old(key: &ServiceKey, index: u64, known: u64) -> Self {
        Self {
            kind: FailureKind::NotBelievable,
            text: format!("a read of {key} has index {index}, below {known} that was known before"),
        }
    }
}
