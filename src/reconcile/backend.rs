//! One backend in the core: what is wanted there, what was seen, what is remembered, and when to look next.

mod answers;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::model::{BackendName, Backoff, Command, Request, ServerName, ServerState, Version};

use super::{
    Admissions, Guard, Policy, Removals, Staying, Stays,
    desired::{DesiredServer, Identity, Rejection},
    hands::{ByHand, Weight},
    hold::{HoldBegun, HoldEnded, Review},
    made::{Origin, Wish},
    plan::{self, Hindrance, Kind, Memory, ObservedBackend, Plan, Situation, Why},
    slots,
    states::States,
    turn::{Turn, turns},
};

/// Commands of one batch; the rest follows after the answer, so that other backends get their turn.
const MAX_STEPS: usize = 2_000;
/// After this time a server may be in another state than it was seen in.
const OLD: Duration = Duration::from_millis(20);
/// From so many servers on `add server` keeps HAProxy busy for long: one command at a time.
const BIG_BACKEND: usize = 1_000;

/// What the core holds of one backend.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
#[derive(Clone, Debug)]
pub(super) struct Backend {
    /// The servers that should be there, each address once, in their order.
    pub(super) desired: Vec<DesiredServer>,
    /// Registrations that share an address with one of `desired`.
    pub(super) doubles: Vec<Rejection>,
    /// What services contribute has changed since both were made.
    pub(super) stale: bool,
    /// What cannot be read from HAProxy.
    pub(super) memory: Memory,
    /// What was seen last.
    pub(super) observed: Option<ObservedBackend>,
    /// That was in the process that is there now.
    is_of_this_process: bool,
    /// How HAProxy's verdicts have changed since that was told last.
    pub(super) turns: Vec<Turn>,
    /// It is about to be deleted: nothing may lead here any more.
    pub(super) is_ending: bool,
    /// A server was in rotation then, whoever's.
    takes_traffic: bool,
    /// When that was.
    pub(super) observed_at: Duration,
    /// It was seen once more for what is to be taken out.
    looked_again: bool,
    /// `observed` was not planned on yet.
    pub(super) fresh: bool,
    /// Has to be observed as soon as possible.
    pub(super) dirty: bool,
    /// Is observed at this time.
    pub(super) due: Option<Duration>,
    /// A batch of it is under way.
    pub(super) busy: bool,
    /// Left alone until then, after a batch that failed.
    pub(super) paused_until: Option<Duration>,
    /// Batches of commands in a row without an end.
    pub(super) rounds: u32,
    /// The next observation needs session counters.
    pub(super) wants_stat: bool,
    /// Everything was applied, since HAProxy was connected.
    pub(super) settled: bool,
    /// Why the commands of the batch under way are sent, in their order.
    reasons: Vec<Why>,
    /// Commands that HAProxy accepted since it was settled last, by reason.
    pub(super) accepted: BTreeMap<Why, u32>,
    /// An event of the catalog is among what is being applied.
    pub(super) by_event: bool,
    /// When the change began that is being applied.
    pub(super) changing_since: Option<Duration>,
    /// What is in the way.
    pub(super) hindrances: BTreeSet<Hindrance>,
    /// What an operator did by hand, and since when it was seen.
    pub(super) by_hand: BTreeMap<ByHand, Duration>,
    /// Tags without effect, and registrations that share an address.
    pub(super) notes: BTreeSet<Rejection>,
    /// Servers that were made ready and have not been in rotation since, and when.
    pub(super) unadmitted: BTreeMap<ServerName, Duration>,
    /// What became of others, not counted yet.
    pub(super) admissions: Admissions,
    /// Why the last batch failed.
    pub(super) problem: Option<String>,
    /// Failed batches.
    pub(super) failures: Backoff,
    /// Refusals.
    pub(super) refusals: Backoff,
    /// Servers that may not be taken out now.
    pub(super) waiting: BTreeSet<ServerName>,
    /// In observing mode: what was told last.
    pub(super) would: Vec<plan::Step>,
    /// Servers that an event asked for and that were not in rotation yet, and when it came.
    pub(super) coming: BTreeMap<Identity, Duration>,
}

impl Backend {
    pub(super) fn new() -> Self {
        Self {
            desired: Vec::new(),
            doubles: Vec::new(),
            stale: true,
            memory: Memory::default(),
            observed: None,
            is_of_this_process: false,
            turns: Vec::new(),
            is_ending: false,
            takes_traffic: false,
            observed_at: Duration::ZERO,
            looked_again: false,
            fresh: false,
            dirty: true,
            due: None,
            busy: false,
            paused_until: None,
            rounds: 0,
            wants_stat: false,
            settled: false,
            reasons: Vec::new(),
            accepted: BTreeMap::new(),
            by_event: false,
            changing_since: None,
            hindrances: BTreeSet::new(),
            by_hand: BTreeMap::new(),
            notes: BTreeSet::new(),
            unadmitted: BTreeMap::new(),
            admissions: Admissions::default(),
            problem: None,
            failures: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            refusals: Backoff::new(Duration::from_millis(200), Duration::from_mins(1)),
            waiting: BTreeSet::new(),
            would: Vec::new(),
            coming: BTreeMap::new(),
        }
    }

    /// Another HAProxy process is there: only what was in rotation is worth remembering.
    pub(super) fn forget_process(&mut self, is_recent: bool, policy: &Policy) {
        let mut memory = Memory::default();
        if is_recent {
            // A second restart before everything was put back must not forget the first.
            memory.put_back = std::mem::take(&mut self.memory.put_back);
            if let Some(observed) = &self.observed {
                let states = States::new(observed, self.kind(policy), policy);
                for server in self.wanted() {
                    if states.of(server).is_some_and(ServerState::in_rotation) {
                        let put_back = (server.registration.clone(), server.address);
                        memory.put_back.insert(put_back);
                    }
                }
            }
        }
        // Of slots HAProxy may have kept the weights.
        memory.weights = std::mem::take(&mut self.memory.weights);
        memory.weights.retain(|_, weight| weight.is_by_hand);
        memory.departed = std::mem::take(&mut self.memory.departed);
        // A state file may have brought slots back with their addresses, but not whose these were.
        memory.tenants = std::mem::take(&mut self.memory.tenants);
        memory.holds = std::mem::take(&mut self.memory.holds);
        memory.strangers_stay = self.memory.strangers_stay;
        memory.life = std::mem::take(&mut self.memory.life);
        memory.life.forget_process();
        self.memory = memory;
        self.is_of_this_process = false;
        self.would.clear();
        self.failures.reset();
        self.refusals.reset();
    }

    /// The connection is gone: nothing is known any more.
    pub(super) fn disconnect(&mut self, now: Duration) {
        self.busy = false;
        self.fresh = false;
        self.dirty = true;
        self.settled = false;
        self.due = None;
        self.memory.disconnect(now);
    }

    /// Whose it was seen to be.
    pub(super) fn origin(&self) -> Option<Origin> {
        self.observed.as_ref().map(|observed| observed.origin)
    }

    /// Whether it was made by a sidecar.
    pub(super) fn is_made(&self) -> bool {
        matches!(self.origin(), Some(Origin::Made { .. }))
    }

    /// The kind of backend that it was seen to be.
    pub(super) fn kind(&self, policy: &Policy) -> Kind {
        plan::kind(
            self.observed
                .as_ref()
                .map_or(&[], |observed| &observed.servers),
            policy,
        )
    }

    /// The rows of the last observation, to be found by desired server.
    pub(super) fn states(&self, policy: &Policy) -> States<'_> {
        match &self.observed {
            Some(observed) => States::new(observed, self.kind(policy), policy),
            None => States::default(),
        }
    }

    /// How many servers of registrations are in rotation, and how many could be and were not found by HAProxy's check to
    /// be UP, where anything was changed in this process.
    pub(super) fn admissions(&self, policy: &Policy) -> (usize, usize) {
        let states = self.states(policy);
        let changed = self.memory.changed_at.is_some();
        let servers = self.desired.iter().filter_map(|server| states.of(server));
        let ready = servers.filter(|state| changed && state.admin.is_ready());
        let (up, waiting): (Vec<_>, Vec<_>) = ready.partition(|state| state.is_up());
        (up.len(), waiting.len())
    }

    /// The servers that should be there: those of registrations, and those that are held.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &DesiredServer> {
        let held = self.memory.holds.values().map(|hold| &hold.server);
        self.desired.iter().chain(held)
    }

    /// The servers that stay as they are, by an operator's hand or by a hold.
    pub(super) fn staying(&self, name: &BackendName, policy: &Policy) -> Vec<Staying> {
        let by_hand = self.by_hand.iter().map(|(left, since)| Staying {
            backend: name.clone(),
            server: left.server.clone(),
            what: Stays::ByHand(left.hand),
            since: *since,
        });
        let mut staying: Vec<_> = by_hand.collect();
        if !self.memory.holds.is_empty() {
            let states = self.states(policy);
            staying.extend(self.memory.holds.values().map(|hold| {
                let seen = states.of(&hold.server).and_then(|state| state.name.clone());
                Staying {
                    backend: name.clone(),
                    server: seen.unwrap_or_else(|| hold.server.name.clone()),
                    what: Stays::Held(hold.guard),
                    since: hold.since,
                }
            }));
        }
        staying
    }

    /// Whether requests that are sent here are answered: then routes may lead here.
    pub(super) fn takes_traffic(&self) -> bool {
        self.takes_traffic
    }

    /// Whether a server of a registration is to be here, or is held.
    pub(super) fn is_wanted(&self) -> bool {
        self.stale || self.wanted().next().is_some()
    }

    /// How many servers this guard keeps.
    pub(super) fn guarded(&self, guard: Guard) -> usize {
        let holds = self.memory.holds.values();
        holds.filter(|hold| hold.guard == Some(guard)).count()
    }

    /// Takes in what registrations ask for now.
    pub(super) fn desire(
        &mut self,
        mut desired: Vec<DesiredServer>,
        doubles: Vec<Rejection>,
        wish: Option<&Wish>,
    ) {
        // What lingers, or is held, may have to be made again as it was.
        if wish.is_some() || !desired.is_empty() {
            self.memory.life.profile = wish.map(|wish| wish.profile.clone());
        }
        desired.sort_by_key(|server| server.address);
        let former = std::mem::replace(&mut self.desired, desired);
        let present: BTreeSet<_> = self.desired.iter().map(DesiredServer::identity).collect();
        self.expect(&former, &present);
        for server in former {
            let identity = server.identity();
            self.settle_weight(&server);
            if !present.contains(&identity) {
                self.memory.departed.insert(identity, server);
            }
        }
        self.memory
            .departed
            .retain(|identity, _| !present.contains(identity));
        self.doubles = doubles;
    }

    /// What is no longer asked for although nothing followed from it: how a server leaves is for its last tags to say.
    pub(super) fn pass_over<'a>(&mut self, passed: impl Iterator<Item = &'a DesiredServer>) {
        if !self.stale {
            return;
        }
        for last in passed {
            let mut desired = self.desired.iter_mut();
            if let Some(server) = desired.find(|server| server.identity() == last.identity()) {
                server.leaving = last.leaving;
                server.canary = last.canary;
            }
        }
    }

    /// What had the weight that its tags asked for until now has it from the sidecar, whatever they ask for next.
    fn settle_weight(&mut self, former: &DesiredServer) {
        let Some(observed) = &self.observed else {
            return;
        };
        let is_unsure = |weight: &Weight| weight.is_by_hand;
        if former.weight.is_none() || !self.memory.weights.values().any(is_unsure) {
            return;
        }
        let its = observed.servers.iter().find(|state| {
            state.address() == Some(former.address) && Some(state.weight) == former.weight
        });
        let name = its.and_then(|state| state.name.as_ref());
        if let Some(weight) = name.and_then(|name| self.memory.weights.get_mut(name)) {
            weight.settle(former.weight.unwrap_or_default());
        }
    }

    /// Begins and ends holds.
    pub(super) fn review_holds(
        &mut self,
        now: Duration,
        policy: &Policy,
        claimed_elsewhere: &dyn Fn(&DesiredServer) -> Option<Arc<str>>,
        guard: &dyn Fn(&DesiredServer) -> Option<Guard>,
    ) -> (Vec<HoldBegun>, Vec<HoldEnded>) {
        let Some(observed) = &self.observed else {
            return (Vec::new(), Vec::new());
        };
        let review = Review {
            desired: &self.desired,
            observed,
            policy,
            now,
            claimed_elsewhere,
            guard,
        };
        review.of(&mut self.memory)
    }

    /// Takes in what was read; whether it looks otherwise than before.
    pub(super) fn observe(
        &mut self,
        read_at: Duration,
        now: Duration,
        observed: ObservedBackend,
    ) -> bool {
        let before = (self.observed.as_ref()).map_or(&[][..], |before| &before.servers);
        let looks_otherwise = !before
            .iter()
            .map(look)
            .eq(observed.servers.iter().map(look));
        if std::mem::replace(&mut self.is_of_this_process, true) {
            let between = read_at.saturating_sub(self.observed_at);
            let is_new = |name: &ServerName| self.unadmitted.contains_key(name);
            let turns = turns(before, &observed.servers, between, is_new);
            self.turns.extend(turns);
        }
        self.memory.observe(now, &observed);
        self.settle_admissions(now, &observed);
        self.observed_at = read_at;
        let is_found = match observed.origin {
            Origin::Operator => true,
            Origin::Missing => false,
            Origin::Made { is_published } => is_published,
        };
        let mut servers = observed.servers.iter();
        self.takes_traffic = is_found && servers.any(ServerState::is_given_traffic);
        self.observed = Some(observed);
        self.fresh = true;
        self.dirty = false;
        self.due = None;
        looks_otherwise
    }

    /// Whether it is to be looked at.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        !self.busy
            && self.paused_until.is_none()
            && (self.is_urgent() || self.due.is_some_and(|due| due <= now))
    }

    /// Whether it waits to be planned, and not only to be looked at again.
    pub(super) fn is_urgent(&self) -> bool {
        self.fresh || self.dirty
    }

    /// Ends its pause when the time for that has come.
    pub(super) fn wake(&mut self, now: Duration) {
        self.paused_until = self.paused_until.filter(|until| *until > now);
    }

    /// When it will be due by the passing of time.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        if self.busy {
            None
        } else {
            self.due.max(self.paused_until)
        }
    }

    /// The readings that the next plan needs. After a change of the catalog everything is read that a plan could need.
    pub(super) fn readings(&self, name: &BackendName) -> Vec<Request> {
        let mut requests = vec![Request::ServersState(Some(name.clone()))];
        let is_missing = self.origin() == Some(Origin::Missing) && !self.wants_stat;
        if !is_missing && (self.dirty || self.wants_stat) {
            requests.push(Request::Stat(
                name.clone(),
                self.observed.as_ref().and_then(|observed| observed.id),
            ));
        }
        requests
    }

    /// What is ready was put back, and what has left comes anew: from then on it is what HAProxy's check says.
    fn settle_put_back(&mut self, policy: &Policy) {
        if self.memory.put_back.is_empty() {
            return;
        }
        let states = self.states(policy);
        let is_back = |server: &DesiredServer| {
            let state = states.of(server);
            state.is_some_and(|state| state.admin.is_ready())
        };
        let coming: BTreeSet<_> = self
            .wanted()
            .filter(|server| !is_back(server))
            .map(|server| (server.registration.clone(), server.address))
            .collect();
        self.memory.put_back.retain(|one| coming.contains(one));
    }

    /// Plans on the last observation.
    pub(super) fn plan(
        &mut self,
        now: Duration,
        name: &BackendName,
        version: Version,
        policy: &Policy,
        removals: Removals,
    ) -> Plan {
        self.settle_put_back(policy);
        let is_wanted = self.wanted().next().is_some();
        let Some(observed) = &self.observed else {
            return Plan::default();
        };
        // What was not read may want it.
        let is_empty = !is_wanted && observed.servers.is_empty() && !self.memory.strangers_stay;
        self.memory.life.see(now, observed.origin, is_empty);
        self.is_ending = self.memory.life.is_ending(now, policy) && removals != Removals::Frozen;
        if self.kind(policy) == Kind::Slots {
            slots::settle_tenants(&self.desired, observed, policy, &mut self.memory.tenants);
        }
        let desired: Vec<_> = self.wanted().collect();
        let situation = Situation {
            backend: name,
            observed,
            memory: &self.memory,
            version,
            policy,
            now,
            removals,
        };
        let mut plan = plan::plan(&desired, &situation);
        if !self.memory.holds.is_empty() {
            plan.look_within(plan::ADMISSION_POLL);
        }
        self.planned(plan)
    }

    /// Takes in what was planned on the last observation.
    pub(super) fn planned(&mut self, mut plan: Plan) -> Plan {
        plan.steps.truncate(boundary(&plan.steps));
        self.wants_stat = plan.wants_stat;
        self.fresh = false;
        plan
    }

    /// Whether `plan` takes out what may have come UP since it was seen, as the last one of its service: then it is looked
    /// at once more.
    pub(super) fn must_look_again(&mut self, now: Duration, plan: &Plan) -> bool {
        let takes_out = plan.steps.iter().any(|step| step.why == Why::Deregistered);
        let is_old = now.saturating_sub(self.observed_at) > OLD;
        let must = takes_out && is_old && !self.looked_again;
        self.looked_again = must;
        must
    }

    /// Remembers that the steps of `plan` are being sent, and gives the requests of their batch.
    pub(super) fn send(&mut self, now: Duration, name: &BackendName, plan: &Plan) -> Vec<Request> {
        self.rounds += 1;
        self.memory.changed_at = Some(now);
        self.changing_since.get_or_insert(now);
        self.reasons = plan.steps.iter().map(|step| step.why).collect();
        // It tells whether the backend is published: one that was just made is not.
        let publishes = |step: &plan::Step| {
            matches!(
                step.command,
                Command::PublishBackend(_) | Command::UnpublishBackend(_)
            )
        };
        self.wants_stat |= plan.steps.iter().any(publishes);
        for step in &plan.steps {
            self.memory.send(now, &step.command);
            if let Command::Ready(server) = &step.command {
                self.unadmitted.insert(server.server.clone(), now);
            }
        }
        let mut requests: Vec<_> = plan
            .steps
            .iter()
            .map(|step| Request::Change(step.command.clone()))
            .collect();
        requests.extend(self.readings(name));
        requests
    }

    /// Whether its commands go one at a time.
    pub(super) fn lock_step(&self, version: Version) -> bool {
        let servers = self
            .observed
            .as_ref()
            .map_or(0, |observed| observed.servers.len());
        servers > BIG_BACKEND && version.has(crate::model::Defect::SlowInBigBackends)
    }

    /// The earliest time at which a suspended server may be tried again.
    pub(super) fn next_resumption(&self) -> Option<Duration> {
        self.memory
            .suspended
            .values()
            .map(|(until, _)| *until)
            .min()
    }

    /// Whether it counts as done: nothing more can be done now, and what HAProxy refused, it refused for good.
    pub(super) fn is_done(&self) -> bool {
        self.memory.sent.is_empty()
            && (self.memory.suspended.is_empty() || self.refusals.tries() >= 3)
    }
}

/// Where to cut a long list of steps: never between two commands of one server.
fn boundary(steps: &[plan::Step]) -> usize {
    let Some(last) = steps.get(MAX_STEPS) else {
        return steps.len();
    };
    let server = last.command.server();
    steps[..MAX_STEPS]
        .iter()
        .rposition(|step| step.command.server() != server)
        .map_or(MAX_STEPS, |at| at + 1)
}

/// What of a server is seen.
fn look(state: &ServerState) -> impl PartialEq + '_ {
    (
        &state.name,
        state.address(),
        state.admin,
        state.oper,
        state.weight,
    )
}
