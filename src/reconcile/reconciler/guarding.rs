//! Guards against a catalog that says that too much is gone: what disappears is counted and asked for, and what they decide is
//! told.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{Mode, Output, Reconciler};
use crate::{
    model::{Allocation, AllocationId, BackendName, Registration, ServerState, ServiceKey},
    reconcile::{
        Guard, Removals, desired::DesiredServer, facts::Fact, guards::allocation_of, plan::Plan,
    },
};

/// A server that has been DOWN for so many seconds may be one of an allocation that has ended.
const DOWN_FOR: i64 = 10;
/// So many of those are asked for after one reading of everything.
const DOUBTS: usize = 20;
/// What passes sooner is not said.
const LASTING: Duration = Duration::from_secs(1);

impl Reconciler {
    // === What is gone ===

    /// Compares two readings of the catalog. What was never read before cannot be gone.
    pub(super) fn compare(
        &mut self,
        now: Duration,
        before: &BTreeMap<ServiceKey, Vec<Registration>>,
        after: &BTreeMap<ServiceKey, Vec<Registration>>,
    ) {
        for (service, registrations) in before {
            let after = after.get(service).map_or(&[][..], Vec::as_slice);
            if registrations != after {
                self.note(now, registrations, after);
            }
        }
        let registered = || after.values().map(Vec::len).sum();
        self.judge(now, registered);
    }

    /// The same for one service, whose change is in the catalog already.
    pub(super) fn compare_service(
        &mut self,
        now: Duration,
        service: &ServiceKey,
        before: &[Registration],
    ) {
        let catalog = self.catalog.as_ref();
        let after = catalog.and_then(|catalog| catalog.get(service)).cloned();
        self.note(now, before, &after.unwrap_or_default());
        let registered = self
            .catalog
            .iter()
            .flat_map(BTreeMap::values)
            .map(Vec::len)
            .sum();
        self.judge(now, || registered);
    }

    fn note(&mut self, now: Duration, before: &[Registration], after: &[Registration]) {
        let ids = |registrations: &[Registration]| -> BTreeSet<Arc<str>> {
            registrations
                .iter()
                .map(|one| Arc::clone(&one.id))
                .collect()
        };
        let (were, are) = (ids(before), ids(after));
        for gone in before.iter().filter(|one| !are.contains(&one.id)) {
            self.guards.lost(now, gone);
        }
        for new in after.iter().filter(|one| !were.contains(&one.id)) {
            self.guards.registered(new);
            let question = self.guards.doubt(now, new, &self.policy);
            self.outputs.extend(question.map(Output::Ask));
        }
    }

    fn judge(&mut self, now: Duration, registered: impl FnOnce() -> usize) {
        let (services, begun) = self.guards.judge(now, &self.policy, registered);
        if let Some(extent) = begun {
            self.outputs
                .push_back(Output::Tell(Fact::MassBegan(extent)));
        }
        self.look_at(&services);
    }

    /// Whether the server of a registration is in rotation, as far as that was seen.
    fn is_served(&self, registration: &Registration) -> bool {
        let contribution = self.contributions.get(&registration.service);
        let mut servers = contribution.into_iter().flat_map(|one| &one.servers);
        servers.any(|(name, servers)| {
            let Some(backend) = self.backends.get(name) else {
                return false;
            };
            let states = backend.states(&self.policy);
            let mut of_it = servers
                .iter()
                .filter(|server| server.registration == registration.id);
            of_it.any(|server| states.of(server).is_some_and(ServerState::in_rotation))
        })
    }

    /// The backends of these services are to be planned again.
    fn look_at(&mut self, services: &BTreeSet<ServiceKey>) {
        if services.is_empty() {
            return;
        }
        for (name, members) in &self.members {
            if members.intersection(services).next().is_some()
                && let Some(backend) = self.backends.get_mut(name)
            {
                backend.dirty = true;
            }
        }
    }

    // === Second opinion ===

    /// Asks for the allocations of servers that `plan` takes out although they are UP, and of those held from now on.
    pub(super) fn ask(&mut self, now: Duration, name: &BackendName, plan: &Plan) {
        let Some(memory) = self.backends.get(name).map(|backend| &backend.memory) else {
            return;
        };
        let leaving = plan.leaving.iter();
        let leaving = leaving.filter_map(|identity| memory.departed.get(identity));
        let held = memory.holds.values().filter(|hold| hold.since == now);
        for server in leaving.chain(held.map(|hold| &hold.server)) {
            let question = self.guards.ask(now, server, &self.policy);
            self.outputs.extend(question.map(Output::Ask));
        }
    }

    /// Asks for servers that have been DOWN for a while: only of those it matters whether their allocation has ended.
    pub(super) fn doubt(&mut self, now: Duration) {
        for service in self.guards.forget(now) {
            self.contribute(now, &service, false);
        }
        if !self.policy.second_opinion {
            return;
        }
        let mut down = Vec::new();
        for backend in self.backends.values() {
            let states = backend.states(&self.policy);
            let is_down = |server: &&DesiredServer| {
                states.of(server).is_some_and(|state| {
                    state.admin.is_ready() && !state.is_up() && state.since_change >= DOWN_FOR
                })
            };
            let servers = backend.desired.iter().filter(is_down);
            down.extend(
                servers.map(|server| (server.service.clone(), Arc::clone(&server.registration))),
            );
        }
        let mut questions = Vec::new();
        for (service, id) in down {
            let registrations = self.catalog.as_ref().and_then(|all| all.get(&service));
            let mut registrations = registrations.into_iter().flatten();
            let Some(registration) = registrations.find(|one| one.id == id) else {
                continue;
            };
            questions.extend(self.guards.doubt(now, registration, &self.policy));
            if questions.len() == DOUBTS {
                break;
            }
        }
        self.outputs.extend(questions.into_iter().map(Output::Ask));
    }

    /// Nomad has answered.
    pub(super) fn told(&mut self, now: Duration, allocation: &AllocationId, answer: &Allocation) {
        let fact = Fact::SecondOpinion(answer.clone());
        self.outputs.push_back(Output::Tell(fact));
        let services = self.guards.told(now, allocation, answer);
        self.look_at(&services);
        let Allocation::Ended(status) = answer else {
            return;
        };
        let registered = self.catalog.iter().flat_map(BTreeMap::values).flatten();
        let ghosts: Vec<_> = registered
            .filter(|one| allocation_of(one) == *allocation)
            .cloned()
            .collect();
        for ghost in ghosts {
            // HAProxy's checks know better.
            if !self.is_served(&ghost) {
                self.guards.bury(now, &ghost, status);
                self.contribute(now, &ghost.service, false);
            }
        }
    }

    // === Limit and freezing ===

    /// Whether a backend may take servers out now.
    pub(super) fn removals(&self, now: Duration) -> Removals {
        if self.guards.is_frozen() {
            return Removals::Frozen;
        }
        match self.guards.pace.wait(now) {
            // What is only told is told at once.
            Some(wait) if self.mode == Mode::Act => Removals::Limited(wait),
            Some(_) | None => Removals::Allowed,
        }
    }

    /// Takes in what a plan says of removals.
    pub(super) fn note_waiting(&mut self, name: &BackendName, plan: &Plan, removals: Removals) {
        let Some(backend) = self.backends.get_mut(name) else {
            return;
        };
        for server in plan.waiting.difference(&backend.waiting) {
            let fact = Fact::Waits(name.clone(), server.clone(), removals);
            self.outputs.push_back(Output::Tell(fact));
        }
        backend.waiting.clone_from(&plan.waiting);
        self.guards.some_wait |= !plan.waiting.is_empty();
    }

    pub(super) fn freeze(&mut self, now: Duration, is_frozen: bool) {
        if is_frozen == self.guards.is_frozen() {
            return;
        }
        let waiting = self.frozen_out();
        if let Some(lasted) = self.guards.freeze(now, is_frozen) {
            let fact = Fact::Thawed { lasted, waiting };
            self.outputs.push_back(Output::Tell(fact));
        }
        for backend in self.backends.values_mut() {
            backend.dirty |= !backend.waiting.is_empty() || !backend.memory.holds.is_empty();
        }
    }

    /// How many servers stay only because removals are stopped.
    fn frozen_out(&self) -> usize {
        let backends = self.backends.values();
        backends
            .map(|backend| backend.waiting.len() + backend.guarded(Guard::Frozen))
            .sum()
    }

    /// Tells what has come, and what is over.
    pub(super) fn guard(&mut self, now: Duration) {
        if let Some((lasted, gone)) = self.guards.end_mass(now, &self.policy) {
            let fact = Fact::MassEnded { lasted, gone };
            self.outputs.push_back(Output::Tell(fact));
        }
        if let Some(lasts) = self.guards.frozen_since(now) {
            let waiting = self.frozen_out();
            let fact = Fact::Frozen { lasts, waiting };
            self.outputs.push_back(Output::Tell(fact));
        }
        let waiting = if self.guards.is_frozen() || !self.guards.some_wait {
            0
        } else {
            let backends = self.backends.values();
            backends.map(|backend| backend.waiting.len()).sum()
        };
        // Whether it is worth while to count them, at every input.
        self.guards.some_wait &= self.guards.is_frozen() || waiting > 0;
        let (told, limited) = match self.guards.limited {
            None => (false, (waiting > 0).then_some((now, false))),
            Some((_, told)) if waiting == 0 => (told, None),
            Some((since, told)) => {
                let lasts = now.saturating_sub(since) >= LASTING;
                (lasts && !told, Some((since, told || lasts)))
            }
        };
        self.guards.limited = limited;
        if told {
            let fact = Fact::Limited { waiting };
            self.outputs.push_back(Output::Tell(fact));
        }
    }
}
