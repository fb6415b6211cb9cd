//! What is run next: everything, or one step of one backend.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use crate::model::{
    Address, BackendName, Batch, BatchId, Capability, Request, ServerState, ServiceKey, Version,
};

use super::{Failure, Hands, MAX_UNDER_WAY, Mode, Output, Purpose, Reconciler, UnderWay};
use crate::reconcile::{
    desired::{Contribution, DesiredServer, Rejection, one_per_address, possible_services},
    facts::Fact,
    made::Origin,
    plan::{Hindrance, Obstacle, Plan, Situation, Step},
    predict,
    server_name::is_same_allocation,
};

/// So many batches of commands in a row for one backend mean that something does not take.
const MOST_ROUNDS: u32 = 40;
/// When a sidecar that does not act looks again at what somebody else may have done.
pub(super) const STANDBY_LOOK: Duration = Duration::from_secs(1);

impl Reconciler {
    /// Another sidecar came into charge, or is gone.
    pub(super) fn turned(&mut self, now: Duration, mode: Mode) {
        if self.mode == mode {
            return;
        }
        self.mode = mode;
        if mode == Mode::Standby {
            self.recall(Hands::default());
        }
        let backends = self.backends.values_mut();
        backends.for_each(|backend| backend.memory.forget_deeds());
        // What was read is of another's time: everything is read again before anything is written.
        if let Some(info) = self.process.as_ref().map(|process| process.info.clone()) {
            self.disconnected(now);
            self.connected(now, info);
        }
    }

    pub(super) fn drive(&mut self, now: Duration) {
        let Some(process) = &mut self.process else {
            return;
        };
        if process.read_again_at.is_some_and(|at| at <= now) {
            process.read_again_at = None;
            process.read_everything_at = now;
        }
        if !process.reading_everything && process.read_everything_at <= now {
            process.reading_everything = true;
            let mut requests = vec![Request::Backends, Request::ServersState(None)];
            let can_make = process.info.version.can(Capability::DynamicBackends);
            // `cookie` lines stay as they are for the life of a process.
            if can_make || process.places.is_none() {
                requests.push(Request::BackendRows);
            }
            if can_make {
                requests.push(Request::Guids);
            }
            self.run(Purpose::Everything, requests, false);
        }
        if !self.process.as_ref().is_some_and(|process| process.swept) {
            return;
        }
        self.pass_on_claims(now);
        self.backends
            .values_mut()
            .for_each(|backend| backend.wake(now));
        self.step_routes(now);
        // What has to be changed comes before what is only watched.
        for is_urgent in [true, false] {
            let mut last: Option<BackendName> = None;
            while self.under_way.len() < MAX_UNDER_WAY
                && let Some(name) = self.next_due(now, last.as_ref(), is_urgent)
            {
                self.noticing(&name, |all| all.step(now, &name));
                last = Some(name);
            }
        }
        self.step_routes(now);
        self.check_sync(now);
    }

    /// The next backend after `last` that is to be looked at.
    fn next_due(
        &self,
        now: Duration,
        last: Option<&BackendName>,
        is_urgent: bool,
    ) -> Option<BackendName> {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut backends = self.backends.range((after, Bound::Unbounded));
        backends
            .find(|(_, backend)| backend.is_urgent() == is_urgent && backend.is_due(now))
            .map(|(name, _)| name.clone())
    }

    /// Takes one backend a step further.
    fn step(&mut self, now: Duration, name: &BackendName) {
        let Some(process) = &self.process else {
            return;
        };
        let version = process.info.version;
        let Some(backend) = self.backends.get_mut(name) else {
            return;
        };
        if !backend.fresh {
            backend.busy = true;
            let requests = backend.readings(name);
            self.run(Purpose::Backend(name.clone()), requests, false);
            return;
        }
        let is_draining = self.draining_since.is_some();
        if !is_draining {
            self.prepare(now, name);
        }
        let removals = self.removals(now);
        let drain = is_draining.then(|| self.plan_drain(name));
        let Some(backend) = self.backends.get_mut(name) else {
            return;
        };
        let plan = match drain {
            Some(plan) => backend.planned(plan),
            None => backend.plan(now, name, version, &self.policy, removals),
        };
        let stat_missing = plan.wants_stat
            && backend.observed.as_ref().is_some_and(|observed| {
                observed.stat.is_none() && observed.origin != Origin::Missing
            });
        if stat_missing || backend.must_look_again(now, &plan) {
            // Half of a plan tells nothing.
            backend.busy = true;
            let requests = backend.readings(name);
            self.run(Purpose::Backend(name.clone()), requests, false);
            return;
        }
        if !is_draining {
            let notes = plan.notes.iter().chain(&backend.doubles).cloned().collect();
            self.tell_differences(now, name, &plan, notes);
            self.note_waiting(name, &plan, removals);
            if self.mode == Mode::Act {
                self.ask(now, name, &plan);
            }
        }
        let Some(backend) = self.backends.get_mut(name) else {
            return;
        };

        if plan.steps.is_empty() || self.mode != Mode::Act {
            let whole = if plan.steps.is_empty() || self.mode == Mode::Standby {
                Vec::new()
            } else {
                self.foresee(now, name, version)
            };
            self.settle(now, name, &plan, whole);
        } else if backend.rounds >= MOST_ROUNDS {
            let again_in = backend.failures.next_delay(&mut self.random);
            backend.rounds = 0;
            backend.dirty = true;
            backend.paused_until = Some(now + again_in);
            let problem = format!(
                "HAProxy acknowledges changes that it does not show, such as of {}",
                plan.steps[0]
                    .command
                    .server()
                    .map_or_else(|| name.to_string(), ToString::to_string)
            );
            self.outputs.push_back(Output::Tell(Fact::Failed {
                backend: Some(name.clone()),
                problem,
                again_in,
            }));
        } else {
            backend.settled = false;
            backend.busy = true;
            if plan.removals > 0 {
                self.guards.pace.take(now, plan.removals);
            }
            let lock_step = backend.lock_step(version);
            let requests = backend.send(now, name, &plan);
            for step in plan.steps {
                self.outputs.push_back(Output::Tell(Fact::Sent(step)));
            }
            self.run(Purpose::Backend(name.clone()), requests, lock_step);
        }
    }

    /// What a plan for a backend depends on, of everything else.
    fn prepare(&mut self, now: Duration, name: &BackendName) {
        // Of two services that a backend's name fits, the absence of one proves nothing about the other.
        let awaits_proof = !self.unanswered.is_empty()
            && possible_services(name, &self.policy)
                .iter()
                .any(|service| self.unanswered.contains(service));
        let moved = self.in_rotation_elsewhere(name);
        let (Some(process), Some(backend)) = (&self.process, self.backends.get_mut(name)) else {
            return;
        };
        backend.memory.strangers_stay =
            awaits_proof || !self.unproven.is_empty() || self.restored.unheard;
        backend.memory.cookies = process.cookies.contains(name);
        let life = &mut backend.memory.life;
        life.is_routed =
            life.is_ending(now, &self.policy) && self.routes.leads_to(name, &self.policy.maps);
        // They go first.
        self.routes.dirty |= life.is_routed;
        if std::mem::take(&mut backend.stale) {
            let (desired, doubles) = desired_in(&self.contributions, &self.members, name);
            let services = self.members.get(name).into_iter().flatten();
            let contributed = services.filter_map(|service| self.contributions.get(service));
            let wish = contributed.filter_map(|one| one.wishes.get(name)).max();
            backend.desire(desired.into_iter().cloned().collect(), doubles, wish);
        }
        let contributions = &self.contributions;
        let claimed_elsewhere = |held: &DesiredServer| {
            let others = contributions.values().flat_map(|other| &other.servers);
            let mut servers = others
                .filter(|(backend, _)| *backend != name)
                .flat_map(|(_, servers)| servers);
            // Another service of the same task, at the same port, is nobody else.
            let claims = |server: &&DesiredServer| {
                server.address == held.address
                    && (!is_same_allocation(&server.name, &held.name)
                        || moved.contains(&(server.registration.clone(), server.address)))
            };
            servers
                .find(claims)
                .map(|server| server.registration.clone())
        };
        let (guards, policy) = (&self.guards, &self.policy);
        let (begun, ended) = backend.review_holds(now, policy, &claimed_elsewhere, &|server| {
            guards.of(now, server, policy)
        });
        backend.memory.awaiting = (backend.memory.departed.values())
            .filter(|server| guards.awaits_answer(now, server))
            .map(DesiredServer::identity)
            .collect();
        for hold in ended {
            let fact = Fact::HoldEnded(name.clone(), hold);
            self.outputs.push_back(Output::Tell(fact));
        }
        for hold in begun {
            let fact = Fact::Held(name.clone(), hold);
            self.outputs.push_back(Output::Tell(fact));
        }
    }

    /// Registrations of this backend's services that have a server in rotation in another one: those that have moved there by
    /// their tags are not needed here any more.
    fn in_rotation_elsewhere(&self, name: &BackendName) -> BTreeSet<(Arc<str>, Address)> {
        let services = self.members.get(name).into_iter().flatten();
        let contributed = services.filter_map(|service| self.contributions.get(service));
        let elsewhere = contributed
            .flat_map(|one| &one.servers)
            .filter(|(other, _)| *other != name);
        let mut moved = BTreeSet::new();
        for (other, servers) in elsewhere {
            let observed = self
                .backends
                .get(other)
                .and_then(|one| one.observed.as_ref());
            let states = observed.map_or(&[][..], |observed| &observed.servers);
            let rotating = states.iter().filter(|state| state.in_rotation());
            let rotating: BTreeSet<_> = rotating.filter_map(ServerState::address).collect();
            let arrived = servers.iter().filter(|one| rotating.contains(&one.address));
            moved.extend(arrived.map(|one| (one.registration.clone(), one.address)));
        }
        moved
    }

    /// What the plan comes to in the end, in observing mode.
    fn foresee(&self, now: Duration, name: &BackendName, version: Version) -> Vec<Step> {
        let Some(backend) = self.backends.get(name) else {
            return Vec::new();
        };
        let Some(observed) = &backend.observed else {
            return Vec::new();
        };
        let desired: Vec<_> = backend.wanted().collect();
        let memory = &backend.memory;
        let situation = Situation {
            backend: name,
            observed,
            memory,
            version,
            policy: &self.policy,
            now,
            removals: self.removals(now),
        };
        predict::until_settled(&desired, &situation)
    }

    fn tell_differences(
        &mut self,
        now: Duration,
        name: &BackendName,
        plan: &Plan,
        notes: BTreeSet<Rejection>,
    ) {
        let Some(backend) = self.backends.get_mut(name) else {
            return;
        };
        let mut hindrances = plan.hindrances.clone();
        if !plan.steps.is_empty() {
            // What was refused is just being tried again: it is no longer in the way only when that came through.
            let refused = |hindrance: &&Hindrance| {
                let obstacle = &hindrance.obstacle;
                matches!(obstacle, Obstacle::Refused(..)) || obstacle.is_of_backend()
            };
            hindrances.extend(backend.hindrances.iter().filter(refused).cloned());
        }
        for hindrance in backend.hindrances.difference(&hindrances) {
            self.outputs.push_back(Output::Tell(Fact::Unhindered(
                name.clone(),
                hindrance.clone(),
            )));
        }
        for hindrance in hindrances.difference(&backend.hindrances) {
            self.outputs.push_back(Output::Tell(Fact::Hindered(
                name.clone(),
                hindrance.clone(),
            )));
        }
        backend.hindrances = hindrances;
        let by_hand = plan.by_hand.iter().map(|left| {
            let since = backend.by_hand.get(left).copied().unwrap_or(now);
            (left.clone(), since)
        });
        let by_hand: BTreeMap<_, _> = by_hand.collect();
        let before = std::mem::replace(&mut backend.by_hand, by_hand);
        for (left, _) in before
            .iter()
            .filter(|(left, _)| !plan.by_hand.contains(left))
        {
            let fact = Fact::NoLongerByHand(name.clone(), left.clone());
            self.outputs.push_back(Output::Tell(fact));
        }
        for left in plan
            .by_hand
            .iter()
            .filter(|left| !before.contains_key(left))
        {
            let fact = Fact::ByHand(name.clone(), left.clone());
            self.outputs.push_back(Output::Tell(fact));
        }
        let service = self.members.get(name).and_then(|services| services.first());
        if let Some(service) = service {
            for note in notes.difference(&backend.notes) {
                self.outputs
                    .push_back(Output::Tell(Fact::Rejected(service.clone(), note.clone())));
            }
        }
        backend.notes = notes;
        self.keep_hands(name, plan);
    }

    /// Nothing to send for this backend now.
    fn settle(&mut self, now: Duration, name: &BackendName, plan: &Plan, would: Vec<Step>) {
        let Some(backend) = self.backends.get_mut(name) else {
            return;
        };
        backend.rounds = 0;
        let resumption = backend.next_resumption();
        backend.due = plan
            .look_again
            .map(|delay| now + delay)
            .into_iter()
            .chain(resumption)
            .min();
        if !plan.steps.is_empty() && self.mode != Mode::Act {
            // What is not sent comes to nothing, so there is nothing to see soon.
            let again = now + STANDBY_LOOK;
            backend.due = backend.due.map(|due| due.max(again));
        }
        if backend.would != would {
            let mut told: Vec<_> = backend.would.iter().map(|step| &step.command).collect();
            let mut new = Vec::new();
            for Step { command, .. } in &would {
                match told.iter().position(|other| *other == command) {
                    Some(at) => drop(told.swap_remove(at)),
                    None => new.push(command.clone()),
                }
            }
            backend.would.clone_from(&would);
            if !would.is_empty() {
                self.outputs.push_back(Output::Tell(Fact::WouldSend {
                    backend: name.clone(),
                    steps: would,
                    new,
                }));
            }
        }
        let is_waiting = self.draining_since.is_some() && plan.look_again.is_some();
        if self.mode == Mode::Standby && !plan.steps.is_empty() {
            // Whoever is in charge is about to do it.
            backend.due = Some(now + STANDBY_LOOK);
            backend.settled = false;
            return;
        }
        if !backend.is_done() || is_waiting {
            return;
        }
        backend.settled = true;
        let since = backend.changing_since.take();
        let by_event = std::mem::take(&mut backend.by_event);
        if backend.memory.suspended.is_empty() {
            backend.refusals.reset();
        }
        if !backend.accepted.is_empty() {
            let commands = std::mem::take(&mut backend.accepted).into_iter().collect();
            let took = now.saturating_sub(since.unwrap_or(now));
            self.outputs.push_back(Output::Tell(Fact::Applied {
                backend: name.clone(),
                commands,
                took,
                by_event,
            }));
        }
        let origin = backend.origin().unwrap_or_default();
        let is_wanted = backend.wanted().next().is_some();
        if !is_wanted && backend.memory.life.is_gone(now, origin, &self.policy) {
            self.backends.remove(name);
            self.members.remove(name);
        }
    }

    /// A batch did not come through: its backend is tried again later, or everything is read again.
    pub(super) fn failed(&mut self, now: Duration, id: BatchId, failure: &Failure) {
        let Some(UnderWay { purpose, .. }) = self.under_way.remove(&id) else {
            return;
        };
        let Failure::NotUnderstood(problem) = failure else {
            if let Purpose::Backend(name) = purpose
                && let Some(backend) = self.backends.get_mut(&name)
            {
                backend.disconnect(now);
            }
            return;
        };
        let problem = problem.clone();
        let (backend, again_in) = match purpose {
            Purpose::Everything => {
                let delay = self.failures.next_delay(&mut self.random);
                if let Some(process) = &mut self.process {
                    process.reading_everything = false;
                    process.read_everything_at = now + delay;
                }
                (None, delay)
            }
            Purpose::Routes => return self.routes_failed(now, problem),
            Purpose::Backend(name) => {
                let Some(backend) = self.backends.get_mut(&name) else {
                    return;
                };
                backend.disconnect(now);
                let delay = backend.failures.next_delay(&mut self.random);
                backend.paused_until = Some(now + delay);
                backend.problem = Some(problem.clone());
                (Some(name), delay)
            }
        };
        self.outputs.push_back(Output::Tell(Fact::Failed {
            backend,
            problem,
            again_in,
        }));
    }

    pub(super) fn run(&mut self, purpose: Purpose, requests: Vec<Request>, lock_step: bool) {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        let requests: Arc<[Request]> = requests.into();
        self.outputs.push_back(Output::Run(Batch {
            id,
            requests: Arc::clone(&requests),
            lock_step,
        }));
        self.under_way.insert(id, UnderWay { purpose, requests });
    }
}

/// The desired servers of one backend, from all services that resolve to it, and those that share an address.
fn desired_in<'a>(
    contributions: &'a BTreeMap<ServiceKey, Contribution>,
    members: &BTreeMap<BackendName, BTreeSet<ServiceKey>>,
    name: &BackendName,
) -> (Vec<&'a DesiredServer>, Vec<Rejection>) {
    let services = members.get(name).into_iter().flatten();
    one_per_address(
        services
            .filter_map(|service| contributions.get(service)?.servers.get(name))
            .flatten(),
    )
}
