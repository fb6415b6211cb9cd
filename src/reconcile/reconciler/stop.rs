//! The end of a sidecar whose HAProxy is about to be stopped, too: everything that is its own drains. The next sidecar takes
//! that for a removal that was interrupted, and makes ready again what is registered.

use std::time::Duration;

use super::{Mode, Reconciler};
use crate::{
    model::{BackendName, ServerRef},
    reconcile::{
        Removals,
        plan::{self, Plan, Why},
        removal,
    },
};

impl Reconciler {
    pub(super) fn drain(&mut self, now: Duration) {
        if self.mode != Mode::Act || self.removals(now) == Removals::Frozen {
            return;
        }
        self.draining_since.get_or_insert(now);
        for backend in self.backends.values_mut() {
            backend.dirty = true;
            backend.settled = false;
        }
    }

    /// Whether nothing is left to wait for after [`super::Input::Drain`]: no session, or no time, or no HAProxy that it may
    /// drain.
    #[must_use]
    pub fn has_drained(&self, now: Duration) -> bool {
        let Some(since) = self.draining_since else {
            return true;
        };
        let is_over = now.saturating_sub(since) >= self.policy.drain_timeout;
        let is_swept = self.process.as_ref().is_some_and(|process| process.swept);
        let is_in_charge = self.mode == Mode::Act;
        is_over
            || !is_swept
            || !is_in_charge
            || self.backends.values().all(|backend| backend.settled)
    }

    /// The next step of draining one backend: its servers that are given traffic, and then a look at their sessions.
    pub(super) fn plan_drain(&self, name: &BackendName) -> Plan {
        let mut plan = Plan::default();
        let Some(backend) = self.backends.get(name) else {
            return plan;
        };
        let Some(observed) = &backend.observed else {
            return plan;
        };
        let kind = backend.kind(&self.policy);
        let ours = observed
            .servers
            .iter()
            .filter(|state| plan::is_owned(state, kind, &self.policy));
        for state in ours.filter(|state| !state.admin.in_maintenance()) {
            let Some(server) = &state.name else { continue };
            if state.admin.is_ready() {
                let target = ServerRef {
                    backend: name.clone(),
                    server: server.clone(),
                };
                removal::drain(state, target, Why::Stopping, &mut plan);
            }
            let stat = observed.stat_of(server);
            if stat.is_none_or(|stat| stat.sessions > 0 || stat.queued > 0) {
                plan.wants_stat = true;
                plan.look_again = Some(removal::DRAIN_POLL);
            }
        }
        plan
    }
}
