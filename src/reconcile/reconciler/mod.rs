//! The machine around the planner: takes inputs, keeps what is known, and says what to run next.
//!
//! One mutation, then drain [`Reconciler::poll`], then wait until [`Reconciler::next_timeout`]. Every backend goes its
//! own way: observed, planned, changed, observed again, until the plan is empty. What fails in one delays only that one.

mod account;
mod admission;
mod answers;
mod claims;
mod drive;
mod guarding;
mod picture;
mod recall;
mod restore;
mod routing;
mod stop;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    mem,
    sync::Arc,
    time::Duration,
};

use crate::model::{
    Allocation, AllocationId, BackendName, BackendRows, Backoff, Batch, BatchId, Capability,
    ProcessInfo, Registration, Request, Response, Scope, ServiceKey, SplitMix64,
};

pub use recall::{Hands, LeftServer};
pub use restore::{HeldServer, Remembered};

pub use picture::Sketch;
use recall::Recalled;
use restore::Restored;

use super::{
    Policy,
    backend::Backend,
    desired::{Contribution, contribution},
    facts::{Admissions, Fact},
    guards::{Guards, Question},
    made::{Origin, Places},
    plan::ObservedBackend,
    routes::machine::Routes,
    state_file::{Keeper, StateFile},
};

/// Something that happened outside.
#[derive(Clone, Debug)]
pub enum Input {
    /// The session stands, to this process.
    Connected(ProcessInfo),
    /// The session is gone. Batches under way are lost.
    Disconnected,
    /// A batch came through.
    Answered(BatchId, Vec<Response>),
    /// A batch did not.
    Failed(BatchId, Failure),
    /// The catalog was read.
    Synced {
        /// All services that are wanted and could be read.
        services: BTreeMap<ServiceKey, Vec<Registration>>,
        /// What could not be read so far: nothing follows from its not being in `services`.
        unproven: BTreeSet<Scope>,
    },
    /// One service of it changed: these are all its registrations.
    Changed(ServiceKey, Vec<Registration>),
    /// All servers of the sidecar's are to be drained, until [`Reconciler::has_drained`].
    Drain,
    /// Nomad is away, and this is what a predecessor knew.
    Restored(Remembered),
    /// What a predecessor knew to be by an operator's hand. Before this sidecar acts, or never.
    Recalled(Hands),
    /// What Nomad says of an allocation.
    Told(AllocationId, Allocation),
    /// Whether the operator stops all removals.
    Freeze(bool),
    /// Another sidecar came into charge of this HAProxy, or is gone.
    Turned(Mode),
    /// Time passed.
    Timeout,
}

/// Why a batch did not come through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// HAProxy said something to one of its requests that is not understood.
    NotUnderstood(String),
    /// The connection broke before it was its turn, or while it was.
    ConnectionLost,
}

/// Something that the core wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Run this on the session.
    Run(Batch),
    /// Read these services, although no list has them: they may have left servers behind.
    Prove(BTreeSet<ServiceKey>),
    /// Do this with the server-state file.
    StateFile(StateFile),
    /// Keep this for a successor.
    Hands(Hands),
    /// Ask for this allocation.
    Ask(Question),
    /// Know this.
    Tell(Fact),
}

/// Whether anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Commands are sent.
    Act,
    /// Commands are only told.
    Observe,
    /// Another sidecar sends them: what is missing is looked for again soon, and not told.
    Standby,
}

/// What a batch is for.
enum Purpose {
    Everything,
    Routes,
    Backend(BackendName),
}

struct UnderWay {
    purpose: Purpose,
    requests: Arc<[Request]>,
}

#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
struct Process {
    info: ProcessInfo,
    connected_at: Duration,
    /// Its backends, once read.
    places: Option<Places>,
    /// Those of them in which clients stay with a server by a cookie.
    cookies: BTreeSet<BackendName>,
    /// Everything was read once with the catalog known: backends may go their own ways.
    swept: bool,
    reading_everything: bool,
    read_everything_at: Duration,
    /// Old and new process overlap after a reload: everything once more then.
    read_again_at: Option<Duration>,
    in_sync: bool,
    found_told: bool,
    /// What was read before the catalog was known.
    early: Option<(Duration, Everything)>,
}

/// What a reading of everything found.
struct Everything {
    proxies: BTreeSet<BackendName>,
    /// Those of them that a sidecar made.
    made: BTreeSet<BackendName>,
    /// Their own rows, when they were asked for.
    rows: Option<BackendRows>,
    servers: BTreeMap<BackendName, ObservedBackend>,
    count: usize,
}

/// Batches handed out at once: enough to keep HAProxy busy, few enough that an event does not wait behind many.
const MAX_UNDER_WAY: usize = 8;
/// Everything is read this often, or less often when it is much: 1,000 servers cost HAProxy 1.3 ms.
const READ_EVERYTHING: Duration = Duration::from_secs(5);
const READ_EVERYTHING_AT_MOST: Duration = Duration::from_secs(30);
/// A reading is still good for the first sync when the catalog comes so soon after it.
const EARLY: Duration = Duration::from_secs(1);
/// A sync counts as failed when something is missing after this time.
const SYNC_DEADLINE: Duration = Duration::from_secs(30);
/// For so long it is remembered what was in rotation before HAProxy restarted.
const PUT_BACK_WITHIN: Duration = Duration::from_secs(30);

/// The core.
pub struct Reconciler {
    policy: Policy,
    mode: Mode,
    random: SplitMix64,
    catalog: Option<BTreeMap<ServiceKey, Vec<Registration>>>,
    /// What of the catalog was never read.
    unproven: BTreeSet<Scope>,
    contributions: BTreeMap<ServiceKey, Contribution>,
    claims: claims::Claims,
    /// Which services resolve to a backend. Kept when they no longer do: what they left has to be taken out.
    members: BTreeMap<BackendName, BTreeSet<ServiceKey>>,
    backends: BTreeMap<BackendName, Backend>,
    /// Those of them that nobody has looked at yet since they were read.
    newly_observed: BTreeSet<BackendName>,
    routes: Routes,
    process: Option<Process>,
    last_process: Option<(ProcessInfo, Duration)>,
    under_way: BTreeMap<BatchId, UnderWay>,
    next_batch: u64,
    /// Services whose absence was asked for: each once.
    proven: BTreeSet<ServiceKey>,
    /// Those of them that no answer has come for.
    unanswered: BTreeSet<ServiceKey>,
    restored: Restored,
    recalled: Recalled,
    guards: Guards,
    sync_check_at: Option<Duration>,
    first_sync_told: bool,
    admitting: Option<admission::Admitting>,
    admissions: Admissions,
    failures: Backoff,
    draining_since: Option<Duration>,
    state_file: Keeper,
    outputs: VecDeque<Output>,
    /// Counts how often servers looked otherwise than before.
    looks: u64,
}

impl Reconciler {
    /// A core that knows nothing yet. `seed` drives the jitter of delays.
    #[must_use]
    pub fn new(policy: Policy, mode: Mode, seed: u64) -> Self {
        Self {
            guards: Guards::new(policy.max_removals_per_second),
            policy,
            mode,
            random: SplitMix64::new(seed),
            catalog: None,
            unproven: BTreeSet::new(),
            contributions: BTreeMap::new(),
            claims: claims::Claims::default(),
            members: BTreeMap::new(),
            backends: BTreeMap::new(),
            newly_observed: BTreeSet::new(),
            routes: Routes::new(),
            process: None,
            last_process: None,
            under_way: BTreeMap::new(),
            next_batch: 0,
            proven: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            restored: Restored::default(),
            recalled: Recalled::default(),
            sync_check_at: None,
            admissions: Admissions::default(),
            first_sync_told: false,
            admitting: Some(admission::Admitting::default()),
            failures: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            draining_since: None,
            state_file: Keeper::default(),
            outputs: VecDeque::new(),
            looks: 0,
        }
    }

    /// Takes in one input. `now` is the time since any fixed moment and never falls.
    pub fn handle(&mut self, now: Duration, input: Input) {
        match input {
            Input::Connected(info) => self.connected(now, info),
            Input::Disconnected => self.disconnected(now),
            Input::Answered(id, responses) => self.answered(now, id, responses),
            Input::Failed(id, failure) => self.failed(now, id, &failure),
            Input::Synced { services, unproven } => self.synced(now, services, unproven),
            Input::Changed(service, registrations) => self.changed(now, &service, registrations),
            Input::Drain => self.drain(now),
            Input::Restored(remembered) => self.restored(now, remembered),
            Input::Recalled(hands) => self.recall(hands),
            Input::Told(allocation, answer) => self.told(now, &allocation, &answer),
            Input::Freeze(is_frozen) => self.freeze(now, is_frozen),
            Input::Turned(mode) => self.turned(now, mode),
            Input::Timeout => {}
        }
        self.drive(now);
        self.guard(now);
        self.follow_what_was_read(now);
        self.tell_hands();
    }

    /// The next thing that the core wants, until `None`.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn next_step(&self) -> Option<Duration> {
        let process = self.process.as_ref()?;
        let mut times: Vec<_> = process.read_again_at.into_iter().collect();
        if !process.reading_everything {
            times.push(process.read_everything_at);
        }
        // Before that nothing of the following is looked at, however late it is.
        if process.swept {
            times.extend(self.sync_check_at);
            times.extend(self.admissions_due());
            times.extend(self.claims.due(self.policy.hold));
            if self.under_way.len() < MAX_UNDER_WAY {
                times.extend(self.backends.values().filter_map(Backend::next_timeout));
                times.extend(self.routes.paused_until);
            }
        }
        times.into_iter().min()
    }

    // === Nomad ===

    fn synced(
        &mut self,
        now: Duration,
        mut services: BTreeMap<ServiceKey, Vec<Registration>>,
        unproven: BTreeSet<Scope>,
    ) {
        self.unproven = unproven;
        let mut early = None;
        if self.catalog.is_none()
            && let Some(process) = &mut self.process
        {
            let fresh = |read_at: Duration| now.saturating_sub(read_at) <= EARLY;
            early = process.early.take().filter(|(at, _)| fresh(*at));
            if early.is_none() {
                // One reading of everything is cheaper than one of each backend.
                process.read_everything_at = now;
            }
        }
        self.unanswered
            .retain(|service| !services.contains_key(service));
        self.keep_borrowed(now, &mut services);
        let before = self.catalog.take().unwrap_or_default();
        self.compare(now, &before, &services);
        let names = before.keys().chain(services.keys());
        let changed: BTreeSet<_> = names
            .filter(|name| before.get(name) != services.get(name))
            .cloned()
            .collect();
        self.catalog = Some(services);
        for service in changed {
            self.contribute(now, &service, false);
        }
        self.sync_check_at.get_or_insert(now + SYNC_DEADLINE);
        if let Some((read_at, everything)) = early {
            self.sweep(read_at, now, everything);
        }
    }

    fn changed(&mut self, now: Duration, service: &ServiceKey, registrations: Vec<Registration>) {
        // Before the first list nothing is complete.
        let Some(catalog) = self.catalog.as_mut().filter(|_| !self.restored.unheard) else {
            return;
        };
        self.restored.borrowed.remove(service);
        let before = catalog.insert(service.clone(), registrations);
        self.compare_service(now, service, &before.unwrap_or_default());
        self.unproven.remove(&Scope::Service(service.clone()));
        self.unanswered.remove(service);
        self.contribute(now, service, true);
    }

    /// Makes anew what one service contributes, and marks the backends that this concerns.
    fn contribute(&mut self, now: Duration, service: &ServiceKey, by_event: bool) {
        let places = self.process.as_ref();
        let Some(places) = places.and_then(|process| process.places.as_ref()) else {
            return;
        };
        let registrations = self
            .catalog
            .as_ref()
            .and_then(|catalog| catalog.get(service));
        let mut new = contribution(
            service,
            registrations.map_or(&[], Vec::as_slice),
            places,
            &self.policy,
        );
        self.guards.reject_dead(&mut new);
        let rivals = self.claim(now, service, &mut new);
        let old = self.contributions.remove(service).unwrap_or_default();
        self.tell_rejections(service, &old, &new);
        let concerned: BTreeSet<_> = old
            .servers
            .keys()
            .chain(new.servers.keys())
            .cloned()
            .collect();
        for name in concerned {
            let members = self.members.entry(name.clone()).or_default();
            let is_new = members.insert(service.clone());
            let is_changed = old.servers.get(&name) != new.servers.get(&name)
                || old.wishes.get(&name) != new.wishes.get(&name);
            if is_new || is_changed {
                let passed_over = old.servers.get(&name);
                let backend = self.backends.entry(name).or_insert_with(Backend::new);
                backend.pass_over(passed_over.into_iter().flatten());
                backend.dirty = true;
                backend.stale = true;
                backend.settled = false;
                backend.by_event |= by_event;
                backend.changing_since.get_or_insert(now);
            }
        }
        self.routes.contribute(service, new.routing.as_ref());
        if new != Contribution::default() {
            self.contributions.insert(service.clone(), new);
        }
        for rival in rivals {
            self.contribute(now, &rival, by_event);
        }
    }

    // === HAProxy ===

    fn connected(&mut self, now: Duration, info: ProcessInfo) {
        if let Some((before, lost_at)) = self.last_process.take()
            && !before.is_same_process(&info)
        {
            let recent = now.saturating_sub(lost_at) < PUT_BACK_WITHIN;
            self.admit_again(recent);
            for backend in self.backends.values_mut() {
                backend.forget_process(recent, &self.policy);
            }
            self.state_file.restarted();
            let fact = Fact::Restarted {
                before: Box::new(before),
                now: Box::new(info.clone()),
            };
            self.outputs.push_back(Output::Tell(fact));
        }
        self.recalled.begin(&info);
        self.process = Some(Process {
            info,
            connected_at: now,
            places: None,
            cookies: BTreeSet::new(),
            swept: false,
            reading_everything: false,
            read_everything_at: now,
            read_again_at: Some(now + Duration::from_secs(1)),
            in_sync: false,
            found_told: false,
            early: None,
        });
    }

    fn disconnected(&mut self, now: Duration) {
        if let Some(process) = self.process.take() {
            self.last_process = Some((process.info, now));
        }
        self.under_way.clear();
        for backend in self.backends.values_mut() {
            backend.disconnect(now);
        }
        self.routes.disconnect();
    }

    fn answered(&mut self, now: Duration, id: BatchId, responses: Vec<Response>) {
        let Some(UnderWay { purpose, requests }) = self.under_way.remove(&id) else {
            return;
        };
        match purpose {
            Purpose::Everything => self.read_everything(now, responses),
            Purpose::Routes => self.routes_answered(now, &requests, responses),
            Purpose::Backend(name) => self.noticing(&name, |all| {
                all.backend_answered(now, &name, &requests, responses);
            }),
        }
    }

    fn read_everything(&mut self, now: Duration, responses: Vec<Response>) {
        let mut everything = Everything {
            proxies: BTreeSet::new(),
            made: BTreeSet::new(),
            rows: None,
            servers: BTreeMap::new(),
            count: 0,
        };
        for response in responses {
            match response {
                Response::Backends(names) => everything.proxies.extend(names),
                Response::BackendRows(rows) => everything.rows = Some(rows),
                Response::Guids(made) => everything.made = made,
                Response::Servers(servers) => {
                    everything.count = servers.len();
                    // Servers of a backend come together: it is looked up once.
                    let mut rows = servers.into_iter().peekable();
                    while let Some(row) = rows.next() {
                        let name = row.backend.clone();
                        let backend = everything.servers.entry(name.clone()).or_default();
                        backend.push(row);
                        while let Some(row) = rows.next_if(|row| row.backend == name) {
                            backend.push(row);
                        }
                    }
                }
                Response::Info(_)
                | Response::NoSuchBackend
                | Response::Stat(_)
                | Response::Map(_)
                | Response::NoSuchMap
                | Response::MapVersion(_)
                | Response::Verdicts(_)
                | Response::Changed(_) => {}
            }
        }
        let Some(process) = &mut self.process else {
            return;
        };
        self.failures.reset();
        process.reading_everything = false;
        let interval = READ_EVERYTHING
            * u32::try_from(everything.count / 1_000)
                .unwrap_or(u32::MAX)
                .clamp(1, 6);
        process.read_everything_at = now + interval.min(READ_EVERYTHING_AT_MOST);
        if self.catalog.is_some() {
            self.sweep(now, now, everything);
        } else {
            process.early = Some((now, everything));
        }
    }

    /// Looks at every backend as it was read.
    fn sweep(&mut self, read_at: Duration, now: Duration, everything: Everything) {
        let Everything {
            proxies,
            made,
            rows: own_rows,
            servers: mut rows,
            count: _,
        } = everything;
        let Some(process) = &mut self.process else {
            return;
        };
        let first = !mem::replace(&mut process.swept, true);
        if first {
            // The sync begins now: before, one of the two sides was not there.
            self.sync_check_at = Some(now + SYNC_DEADLINE);
        }
        let unpublished = own_rows.as_ref().map(|rows| &rows.unpublished);
        let is_published =
            |name: &BackendName| unpublished.is_some_and(|them| !them.contains(name));
        let places = Places {
            // One that was removed while everything was read is in one of the two only.
            made: (made.intersection(&proxies))
                .map(|name| (name.clone(), is_published(name)))
                .collect(),
            backends: proxies,
            can_make: process.info.version.can(Capability::DynamicBackends),
        };
        let resolve_again = process.places.as_ref().is_none_or(|before| {
            before.backends != places.backends || !before.made.keys().eq(places.made.keys())
        });
        if now.saturating_sub(process.connected_at) > PUT_BACK_WITHIN {
            self.backends
                .values_mut()
                .for_each(|backend| backend.memory.put_back.clear());
        }
        process.places = Some(places);
        if let Some(rows) = own_rows {
            process.cookies = rows.cookies;
        }
        if resolve_again {
            // Also those that left the catalog while HAProxy was away.
            let known = self.catalog.iter().flat_map(BTreeMap::keys);
            let services: BTreeSet<_> = known.chain(self.contributions.keys()).cloned().collect();
            for service in services {
                self.contribute(now, &service, false);
            }
        }
        self.restore_holds(now);
        self.account_for(&rows);
        let places = self.process.as_ref();
        let places = places.and_then(|process| process.places.as_ref());
        for (name, backend) in &mut self.backends {
            if !backend.busy && (first || !backend.dirty) {
                let mut observed = rows.remove(name).unwrap_or_default();
                observed.origin = places.map_or(Origin::Operator, |places| places.origin(name));
                self.recalled.remind(name, backend, &observed);
                self.looks += u64::from(backend.observe(read_at, now, observed));
                self.newly_observed.insert(name.clone());
            }
        }
        self.routes.dirty = true;
        self.doubt(now);
    }
}
