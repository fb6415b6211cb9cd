//! The state that the weather is in: what lasts for a while, and what waits for its moment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use haproxy_nomad_sidecar::{catalog::FailureKind, model::ServiceKey};

use crate::weather::{kind::Moment, plan::Fault};

/// So many faults wait for the same moment; what comes when there are more is not drawn.
const WAITING: usize = 3;

/// Each is over at its time.
#[derive(Clone, Default)]
pub(crate) struct Air {
    /// Nobody listens.
    pub(crate) away: Duration,
    /// The servers are away, the agent is not.
    pub(crate) serverless: Duration,
    pub(crate) leaderless: Duration,
    /// Nothing is answered, nothing is sent.
    pub(crate) frozen: Duration,
    /// No token.
    pub(crate) revoked: Duration,
    pub(crate) forbidden: BTreeMap<Arc<str>, Duration>,
    pub(crate) unreadable: Option<(ServiceKey, Duration)>,
    waiting: Vec<Fault>,
}

impl Air {
    pub(crate) fn await_moment(&mut self, fault: Fault) {
        let moment = fault.kind.moment();
        let of_moment = self
            .waiting
            .iter()
            .filter(|one| one.kind.moment() == moment);
        if of_moment.count() < WAITING {
            self.waiting.push(fault);
        }
    }

    /// The fault that has waited longest for one of these moments.
    pub(crate) fn take(&mut self, moments: &[Moment]) -> Option<Fault> {
        let at = self
            .waiting
            .iter()
            .position(|fault| moments.contains(&fault.kind.moment()))?;
        Some(self.waiting.remove(at))
    }

    pub(crate) fn is_forbidden(&self, now: Duration, namespace: &str) -> bool {
        now < self.revoked
            || self
                .forbidden
                .get(namespace)
                .is_some_and(|until| now < *until)
    }

    pub(crate) fn is_anything_forbidden(&self, now: Duration) -> bool {
        now < self.revoked || self.forbidden.values().any(|until| now < *until)
    }

    /// Why nothing is answered at all, and how long it takes to say so.
    pub(crate) fn failure(&self, now: Duration) -> Option<(FailureKind, Duration)> {
        let at_once = Duration::ZERO;
        if now < self.away {
            Some((FailureKind::Unreachable, at_once))
        } else if now < self.serverless {
            Some((FailureKind::ServerError, at_once))
        } else if now < self.leaderless {
            Some((FailureKind::ServerError, Duration::from_secs(5)))
        } else {
            None
        }
    }

    /// From now on there are no faults.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
