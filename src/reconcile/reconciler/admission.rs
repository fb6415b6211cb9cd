//! When what a sync brought into an empty HAProxy can be served: when its checks have passed. Before that it answers 503,
//! and whoever follows `/ready` must not be led there.

use std::time::Duration;

use crate::model::BackendName;

use super::{Output, Reconciler, SYNC_DEADLINE};
use crate::reconcile::{backend::Backend, facts::Fact, plan};

/// So long it is waited until each server that was brought in is UP: one that is ill must not keep all others from traffic.
const ALL_ADMISSIONS: Duration = Duration::from_secs(5);
/// So long it is waited until each backend has a server that is UP. Longer than slow checks take; a service of which nothing
/// works must not keep HAProxy's group from being deployed, and Nomad waits for `healthy_deadline`.
const FIRST_ADMISSION: Duration = SYNC_DEADLINE;

/// What was applied and gets no request yet, since HAProxy has not checked it. What was in rotation before HAProxy was
/// restarted is put back so, and a sidecar that finds everything as it should be has brought in nothing.
#[derive(Default)]
pub(super) struct Admitting {
    /// When everything was applied.
    since: Option<Duration>,
    look_at: Option<Duration>,
    /// Backends that wait.
    pub(super) backends: Vec<BackendName>,
}

impl Reconciler {
    /// Whoever sends traffic here when everything is applied, and nothing checked yet, gets 503.
    pub(super) fn check_admissions(&mut self, now: Duration) {
        let in_sync = self.process.as_ref().is_some_and(|process| process.in_sync);
        let Some(admitting) = &mut self.admitting else {
            return;
        };
        if !in_sync {
            *admitting = Admitting::default();
            return;
        }
        if admitting.look_at.is_some_and(|at| now < at) {
            return;
        }
        let waited = now.saturating_sub(*admitting.since.get_or_insert(now));
        let waits = |backend: &&Backend| match backend.admissions(&self.policy) {
            (_, 0) => false,
            (0, _) => waited < FIRST_ADMISSION,
            (_, _) => waited < ALL_ADMISSIONS,
        };
        let backends = self.backends.iter();
        let waiting = backends.filter(|(_, backend)| waits(backend));
        admitting.backends = waiting.map(|(name, _)| name.clone()).collect();
        if admitting.backends.is_empty() {
            self.admitting = None;
            let fact = Fact::Admitted { waited };
            self.outputs.push_back(Output::Tell(fact));
        } else {
            admitting.look_at = Some(now + plan::ADMISSION_POLL);
        }
    }

    /// Another process of HAProxy is there. What was in rotation not long ago is put back without a check.
    pub(super) fn admit_again(&mut self, recent: bool) {
        if !recent {
            self.admitting = Some(Admitting::default());
        }
    }

    /// When to look for it next.
    pub(super) fn admissions_due(&self) -> Option<Duration> {
        self.admitting.as_ref()?.look_at
    }
}
