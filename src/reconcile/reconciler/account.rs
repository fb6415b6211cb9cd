//! What is there and what is missing, in numbers: for logs, metrics and `/ready`.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use crate::model::{BackendName, ServerState};

use super::{Output, Reconciler};
use crate::reconcile::{
    Guard,
    desired::{Rejection, possible_services},
    facts::{Admissions, Fact, Found, Overview},
    made::Origin,
    plan::{self, Kind, ObservedBackend},
};

/// So many obstacles of routes are told of in words.
const SHOWN_OBSTACLES: usize = 10;

impl Reconciler {
    /// What else is there: servers named like ours that no service resolves to, and everybody else's.
    pub(super) fn account_for(&mut self, rows: &BTreeMap<BackendName, ObservedBackend>) {
        let Some(process) = &mut self.process else {
            return;
        };
        let mut found = Found {
            process: process.info.clone(),
            slot_backends: 0,
            dynamic_backends: 0,
            owned: 0,
            foreign: 0,
            services: self.contributions.len(),
            unclaimed: BTreeSet::new(),
        };
        let mut to_prove = BTreeSet::new();
        for (name, observed) in rows {
            let kind = plan::kind(&observed.servers, &self.policy);
            let ours = observed
                .servers
                .iter()
                .filter(|server| plan::is_owned(server, kind, &self.policy))
                .count();
            let followed = self.members.contains_key(name);
            found.owned += if followed { ours } else { 0 };
            found.foreign += observed.servers.len() - if followed { ours } else { 0 };
            let in_service = |server: &&ServerState| {
                plan::is_owned(server, kind, &self.policy) && !server.admin.in_maintenance()
            };
            if !followed && observed.servers.iter().any(|server| in_service(&server)) {
                found.unclaimed.insert(name.clone());
            }
            // Slots of a backend that nobody follows may be an operator's own; our names are nobody else's.
            if !followed && kind == Kind::Dynamic && ours > 0 && !self.restored.unheard {
                to_prove.extend(possible_services(name, &self.policy));
            }
        }
        // Backends that a sidecar made are nobody else's either.
        if !self.restored.unheard {
            let made = process.places.iter().flat_map(|places| places.made.keys());
            let left = made.filter(|name| !self.members.contains_key(*name));
            to_prove.extend(left.flat_map(|name| possible_services(name, &self.policy)));
        }
        for name in self.members.keys() {
            match rows
                .get(name)
                .map(|observed| plan::kind(&observed.servers, &self.policy))
            {
                Some(Kind::Slots) => found.slot_backends += 1,
                Some(Kind::Dynamic) | None => found.dynamic_backends += 1,
            }
        }
        to_prove.retain(|service| self.proven.insert(service.clone()));
        if !to_prove.is_empty() {
            self.unanswered.extend(to_prove.iter().cloned());
            self.outputs.push_back(Output::Prove(to_prove));
        }
        if !mem::replace(&mut process.found_told, true) {
            self.outputs.push_back(Output::Tell(Fact::Found(found)));
        }
    }

    pub(super) fn check_sync(&mut self, now: Duration) {
        let Some(process) = &mut self.process else {
            return;
        };
        let unheard = self.restored.unheard;
        let tells_first = !self.first_sync_told && !unheard;
        if (!process.in_sync || tells_first)
            && self.backends.values().all(|backend| backend.settled)
            && self.routes.settled
        {
            if !mem::replace(&mut process.in_sync, true) {
                let took = now.saturating_sub(process.connected_at);
                let fact = if unheard {
                    Fact::SnapshotApplied { took }
                } else {
                    let hindrances = self.backends.values().map(|one| one.hindrances.len());
                    let blocked = hindrances.sum();
                    Fact::InSync { took, blocked }
                };
                self.outputs.push_back(Output::Tell(fact));
            }
            if tells_first {
                self.first_sync_told = true;
                let overview = self.overview();
                let fact = Fact::FirstSync {
                    took: now,
                    services: overview.services,
                    servers: overview.wanted,
                };
                self.outputs.push_back(Output::Tell(fact));
            }
        }
        self.check_admissions(now);
        if self.sync_check_at.is_some_and(|at| at <= now) {
            self.sync_check_at = None;
            let (missing, wanted) = self.missing();
            if missing > 0 {
                self.outputs
                    .push_back(Output::Tell(Fact::SyncFailed { missing, wanted }));
            }
        }
    }

    /// Registrations that are not in rotation although neither HAProxy's checks nor an operator are the reason.
    fn missing(&self) -> (usize, usize) {
        let (mut missing, mut wanted) = (0, 0);
        for backend in self.backends.values() {
            let states = backend.states(&self.policy);
            for server in &backend.desired {
                wanted += 1;
                let verdict = states
                    .of(server)
                    .is_some_and(|state| state.admin.is_ready());
                let by_operator = backend
                    .by_hand
                    .keys()
                    .any(|left| left.registration == server.registration);
                missing += usize::from(!verdict && !by_operator);
            }
        }
        (missing, wanted)
    }

    /// The same, and a server-state file is kept.
    #[must_use]
    pub fn with_state_file(mut self) -> Self {
        self.state_file.want();
        self
    }

    /// When to send [`Input::Timeout`](super::Input::Timeout) if nothing else happens before.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Duration> {
        let keeper = self.state_file.next_timeout(self.mode);
        let guards = self.guards.next_timeout(&self.policy);
        let own = self.next_step().into_iter();
        own.chain(keeper).chain(guards).min()
    }

    /// Tells who has arrived, and lets the state file follow what was read.
    pub(super) fn follow_what_was_read(&mut self, now: Duration) {
        for name in mem::take(&mut self.newly_observed) {
            let Some(backend) = self.backends.get_mut(&name) else {
                continue;
            };
            let Admissions { passed, left, .. } = mem::take(&mut backend.admissions);
            self.admissions.passed += passed;
            self.admissions.left += left;
            for turn in mem::take(&mut backend.turns) {
                let fact = Fact::Turned(name.clone(), turn);
                self.outputs.push_back(Output::Tell(fact));
            }
            for arrival in backend.arrivals(now, &self.policy) {
                let fact = Fact::Arrived(name.clone(), arrival);
                self.outputs.push_back(Output::Tell(fact));
            }
            if let Some(observed) = &backend.observed
                && let Some(fact) = self.state_file.observe(&name, observed, &self.policy)
            {
                self.outputs.push_back(Output::Tell(fact));
            }
        }
        let is_connected = self.process.is_some();
        let is_current = self.process.as_ref().is_some_and(|process| process.swept);
        while let Some(output) = self
            .state_file
            .review(now, self.mode, is_connected, is_current)
        {
            self.outputs.push_back(output);
        }
    }

    /// Where things stand.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let mut overview = Overview {
            catalog_known: self.catalog.is_some(),
            from_snapshot: self.restored.unheard,
            haproxy_read: self
                .process
                .as_ref()
                .is_some_and(|process| process.places.is_some() || process.early.is_some()),
            in_sync: self.process.as_ref().is_some_and(|process| process.in_sync),
            admitting: (self.admitting.as_ref()).map(|admitting| admitting.backends.clone()),
            backends: self.members.len(),
            unrestorable: self.state_file.literal(),
            frozen: self.guards.is_frozen(),
            admissions: self.admissions,
            routes: self.routes.count,
            routes_unsettled: !self.routes.settled,
            route_obstacles: (self.routes.obstacles.iter().take(SHOWN_OBSTACLES))
                .map(ToString::to_string)
                .collect(),
            ..Overview::default()
        };
        for (name, backend) in &self.backends {
            if !backend.settled {
                overview.unsettled.push(name.clone());
            }
            overview.blocked += usize::from(!backend.hindrances.is_empty());
            overview.wanted += backend.desired.len();
            overview.held += backend.memory.holds.len();
            overview.admissions.waiting += backend.unadmitted.len();
            if let Some(Origin::Made { is_published }) = backend.origin() {
                let made = &mut overview.made;
                let of_its_kind = match (&backend.memory.life.empty_since, is_published) {
                    (Some(_), _) => &mut made.lingering,
                    (None, true) => &mut made.published,
                    (None, false) => &mut made.unpublished,
                };
                *of_its_kind += 1;
            }
            for left in backend.by_hand.keys() {
                overview.by_hand.add(left.hand);
            }
            overview.staying.extend(backend.staying(name, &self.policy));
            overview.tallies.push(backend.tally(name, &self.policy));
            for hindrance in &backend.hindrances {
                let obstacle = hindrance.obstacle.as_str();
                *overview.obstacles.entry(obstacle).or_default() += 1;
            }
            overview.would.commands += backend.would.len();
            overview.would.backends += usize::from(!backend.would.is_empty());
            overview.waiting += backend.waiting.len();
            for guard in Guard::ALL {
                let servers = backend.guarded(guard);
                if servers > 0 {
                    *overview.guarded.entry(guard).or_default() += servers;
                }
            }
            let servers = backend
                .observed
                .iter()
                .flat_map(|observed| &observed.servers);
            let kind = backend.kind(&self.policy);
            let owned = &mut overview.owned;
            for state in servers.filter(|state| plan::is_owned(state, kind, &self.policy)) {
                if state.admin.in_maintenance() {
                    let mut by_hand = backend.by_hand.keys();
                    let held = by_hand.any(|left| Some(&left.server) == state.name.as_ref());
                    *(if held {
                        &mut owned.maintenance
                    } else {
                        &mut owned.free
                    }) += 1;
                } else if state.admin.in_drain() {
                    owned.draining += 1;
                } else if state.is_up() {
                    owned.in_rotation += 1;
                } else {
                    owned.down += 1;
                }
            }
        }
        overview.mass = overview.guarded.contains_key(&Guard::Mass);
        overview.would.commands += overview.routes.would;
        for contribution in self.contributions.values() {
            overview.services += usize::from(
                contribution
                    .servers
                    .values()
                    .any(|servers| !servers.is_empty()),
            );
            let rejections = contribution.rejections.iter();
            overview.routes.refused += rejections
                .filter(|each| each.reason.costs_a_route())
                .count();
            let served = |rejection: &&Rejection| !rejection.reason.is_note();
            for rejection in contribution.rejections.iter().filter(served) {
                overview.rejected += 1;
                let reason = rejection.reason.as_str();
                *overview.obstacles.entry(reason).or_default() += 1;
            }
        }
        overview
    }
}
