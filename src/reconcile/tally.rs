//! How much of what is wanted in a backend is in rotation, and who has just arrived there.

use std::{collections::BTreeSet, mem, time::Duration};

use crate::model::{BackendName, ServerState};

use super::{
    Policy,
    backend::Backend,
    desired::{DesiredServer, Identity},
    facts::{Arrival, Tally},
    plan::{Kind, ObservedBackend},
    removal::PLACEHOLDER,
};

/// HAProxy counts in whole seconds, and may have been busy.
const INEXACT: Duration = Duration::from_secs(2);

impl Backend {
    /// Remembers since when those are waited for that an event has just brought.
    pub(super) fn expect(&mut self, former: &[DesiredServer], present: &BTreeSet<Identity>) {
        if let Some(since) = self.changing_since.filter(|_| self.by_event) {
            let known: BTreeSet<_> = former.iter().map(DesiredServer::identity).collect();
            let new = present.difference(&known).cloned();
            self.coming.extend(new.map(|identity| (identity, since)));
        }
    }

    /// The servers that an event asked for and that are in rotation now.
    pub(super) fn arrivals(&mut self, now: Duration, policy: &Policy) -> Vec<Arrival> {
        if self.coming.is_empty() {
            return Vec::new();
        }
        let (mut arrivals, mut coming) = (Vec::new(), mem::take(&mut self.coming));
        let states = self.states(policy);
        for server in &self.desired {
            let Some(since) = coming.get(&server.identity()) else {
                continue;
            };
            if let Some(state) = states.of(server).filter(|state| state.in_rotation()) {
                arrivals.push(Arrival {
                    registration: server.registration.clone(),
                    server: state.name.clone().unwrap_or_else(|| server.name.clone()),
                    took: now.saturating_sub(*since),
                });
                coming.remove(&server.identity());
            }
        }
        let wanted: BTreeSet<_> = self.desired.iter().map(DesiredServer::identity).collect();
        coming.retain(|identity, _| wanted.contains(identity));
        self.coming = coming;
        arrivals
    }

    /// Forgets which servers have been in rotation since they were made ready. One that was so between two looks has changed
    /// later than that.
    pub(super) fn settle_admissions(&mut self, now: Duration, observed: &ObservedBackend) {
        if self.unadmitted.is_empty() {
            return;
        }
        let mut waiting = BTreeSet::new();
        for state in observed.servers.iter().filter(|state| !state.in_rotation()) {
            let since = state
                .name
                .as_ref()
                .and_then(|name| self.unadmitted.get(name));
            let lasts = Duration::from_secs(u64::try_from(state.since_change).unwrap_or(0));
            if since.is_some_and(|since| now.saturating_sub(*since) <= lasts + INEXACT) {
                waiting.extend(state.name.clone());
            }
        }
        let states = observed.servers.iter();
        let is_out = |state: &ServerState| state.admin.in_maintenance() || state.admin.in_drain();
        let ready: BTreeSet<_> = states
            .filter(|state| !is_out(state))
            .filter_map(|state| state.name.as_ref())
            .collect();
        let admissions = &mut self.admissions;
        self.unadmitted.retain(|name, _| {
            let waits = waiting.contains(name);
            if !waits && ready.contains(name) {
                admissions.passed += 1;
            } else if !waits {
                admissions.left += 1;
            }
            waits
        });
    }

    /// How much of what is wanted is in rotation, and how full its slots are.
    pub(super) fn tally(&self, name: &BackendName, policy: &Policy) -> Tally {
        let states = self.states(policy);
        let in_rotation =
            |server: &&DesiredServer| states.of(server).is_some_and(ServerState::in_rotation);
        let slots = if self.kind(policy) == Kind::Slots {
            states.iter().count()
        } else {
            0
        };
        let used = |state: &&ServerState| slots > 0 && state.address() != Some(PLACEHOLDER);
        Tally {
            backend: name.clone(),
            wanted: self.desired.len(),
            in_rotation: self.desired.iter().filter(in_rotation).count(),
            slots,
            slots_used: states.iter().filter(used).count(),
        }
    }
}
