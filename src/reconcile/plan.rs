//! The pure planner: what should be in one backend, what is there, what is remembered of it; out come the commands that
//! may be sent now, and when to look again. It is asked again after every answer, so a plan is only ever the next step.
//!
//! The order of commands is chosen so that a sidecar that dies between any two of them leaves a state which its
//! successor can tell from an operator's hand: `docs/architecture.md`, "States on the way".

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use crate::model::{
    Address, BackendName, BackendStat, Command, ServerName, ServerRef, ServerRow, ServerState,
    StatRow, Version,
};

pub use super::obstacle::Obstacle;

use super::{
    Policy, Removals,
    desired::{DesiredServer, Identity, Reason, Rejection},
    hands::{ByHand, Hand, Weight},
    hold::Hold,
    made::{self, Life, Origin},
    removal::PLACEHOLDER,
    server_name::{is_dynamic_name, is_same_allocation},
    slots,
    tags::LeavingTags,
};

/// What HAProxy reports of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedBackend {
    /// The backend's number; unknown while it has no servers.
    pub id: Option<u32>,
    /// The rows of `show servers state`, in HAProxy's order.
    pub servers: Vec<ServerState>,
    /// The rows of `show stat`, when they were asked for.
    pub stat: Option<BackendStat>,
    /// Whose it is.
    pub origin: Origin,
}

impl ObservedBackend {
    /// Takes in a row of this backend.
    pub fn push(&mut self, row: ServerRow) {
        self.id = Some(row.backend_id);
        self.servers.push(row.state);
    }

    /// The session counters of a server; nothing when they were not read, or HAProxy did not tell.
    #[must_use]
    pub fn stat_of(&self, server: &ServerName) -> Option<StatRow> {
        self.stat.as_ref()?.servers.get(server).copied()
    }
}

/// Which servers of a backend can be the sidecar's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// There are `server-template` slots: only they are used.
    Slots,
    /// There are none: servers are added and deleted.
    #[default]
    Dynamic,
}

/// The kind of a backend. It is one of slots when it has a server named prefix and number that the configuration
/// disabled: the `disabled` of a `server-template` line stays visible for life.
#[must_use]
pub fn kind(servers: &[ServerState], policy: &Policy) -> Kind {
    if servers
        .iter()
        .any(|server| slots::number(server, policy).is_some())
    {
        Kind::Slots
    } else {
        Kind::Dynamic
    }
}

/// Whether a server of a backend of this kind is the sidecar's.
#[must_use]
pub fn is_owned(server: &ServerState, kind: Kind, policy: &Policy) -> bool {
    match kind {
        Kind::Slots => slots::number(server, policy).is_some(),
        Kind::Dynamic => {
            server.name.as_ref().is_some_and(is_dynamic_name) && !server.admin.is_config_disabled()
        }
    }
}

/// What the core remembers of one backend and cannot read from HAProxy. All of it may be lost: it is derived again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Since when a server has been seen in drain, or in our maintenance with its address.
    pub drains: BTreeMap<ServerName, Duration>,
    /// Addresses that were sent to slots and not read back yet, and when.
    pub sent: BTreeMap<ServerName, (Address, Duration)>,
    /// Addresses that were sent when the connection broke, and until when HAProxy may yet show them.
    pub in_doubt: BTreeMap<ServerName, (Address, Duration)>,
    /// Servers that were seen ready, at the address that they have.
    pub seen_ready: BTreeSet<ServerName>,
    /// Those that were sent out of rotation since: otherwise somebody else did that.
    pub taken_out: BTreeSet<ServerName>,
    /// Whose the weights of servers are.
    pub weights: BTreeMap<ServerName, Weight>,
    /// Registrations that were in rotation, with their address, when the former HAProxy process was lost.
    pub put_back: BTreeSet<(Arc<str>, Address)>,
    /// Servers left alone until then, and HAProxy's words for why; none when that is ordinary.
    pub suspended: BTreeMap<ServerName, (Duration, String)>,
    /// What registrations asked for that are gone, while their server is there.
    pub departed: BTreeMap<Identity, DesiredServer>,
    /// Those of them that stay in rotation for now.
    pub holds: BTreeMap<Identity, Hold>,
    /// Servers whose hold has ended, until they are out of rotation.
    pub let_go: BTreeSet<ServerName>,
    /// Servers whose address belongs to another allocation now.
    pub claimed: BTreeSet<ServerName>,
    /// Who was admitted to slots, while they have the address that they had then.
    pub tenants: BTreeMap<ServerName, Tenant>,
    /// When sessions were last closed.
    pub closed_at: Option<Duration>,
    /// Parts of the catalog were never read: what has no registration may have one there, and stays unless it was known.
    pub strangers_stay: bool,
    /// Clients stay with a server by a cookie.
    pub cookies: bool,
    /// Servers whose removal is not finished, because Nomad was asked for their allocation.
    pub awaiting: BTreeSet<Identity>,
    /// Servers that a guard has kept once. Who takes them out then, means it.
    pub guarded: BTreeSet<Identity>,
    /// The balance method takes no weights: HAProxy said so.
    pub static_weights: bool,
    /// When the last change was sent.
    pub changed_at: Option<Duration>,
    /// If the backend may have to be made.
    pub life: Life,
}

/// Who was admitted to a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// The name that it would have as a dynamic server.
    pub server: ServerName,
    /// Where it listens.
    pub address: Address,
}

impl Memory {
    /// Takes in what was just observed.
    pub fn observe(&mut self, now: Duration, observed: &ObservedBackend) {
        let mut drains = BTreeMap::new();
        for server in &observed.servers {
            let Some(name) = &server.name else { continue };
            let is_leaving = server.admin.in_maintenance()
                && server.weight == 0
                && server.address() != Some(PLACEHOLDER);
            if server.admin.in_drain() || is_leaving {
                drains.insert(name.clone(), self.drains.get(name).copied().unwrap_or(now));
            }
            let tenant = self.tenants.get(name);
            if tenant.is_some_and(|tenant| server.address() != Some(tenant.address)) {
                // In another process another sidecar may have filled it.
                self.tenants.remove(name);
            }
            if server.address() == Some(PLACEHOLDER) {
                // A freed slot: what was seen of it was its former owner.
                self.forget(name);
            } else if server.admin.is_ready() {
                if !self.seen_ready.contains(name) {
                    self.seen_ready.insert(name.clone());
                }
                self.taken_out.remove(name);
            }
            if !server.admin.in_maintenance() {
                Weight::see(&mut self.weights, name, server);
            }
            if self
                .sent
                .get(name)
                .is_some_and(|(address, _)| server.address() == Some(*address))
            {
                self.sent.remove(name);
            }
        }
        self.drains = drains;
        self.in_doubt.retain(|name, (address, until)| {
            let is_it = |server: &&ServerState| server.name.as_ref() == Some(name);
            let server = observed.servers.iter().find(is_it);
            *until > now && server.is_some_and(|server| server.address() != Some(*address))
        });
        let present: HashSet<_> = observed
            .servers
            .iter()
            .filter_map(|server| server.name.as_ref())
            .collect();
        self.seen_ready.retain(|name| present.contains(name));
        self.taken_out.retain(|name| present.contains(name));
        self.weights.retain(|name, _| present.contains(name));
        // Nobody waits for a slot to be freed, so one that does not take is sent again with the next plan.
        let is_lost = |(address, at): &(Address, Duration)| {
            *address == PLACEHOLDER && now.saturating_sub(*at) > LOST
        };
        self.sent
            .retain(|name, sent| present.contains(name) && !is_lost(sent));
        self.tenants.retain(|name, _| present.contains(name));
        self.suspended.retain(|_, (until, _)| *until > now);
        if !self.departed.is_empty() {
            let addresses = observed.servers.iter().filter_map(ServerState::address);
            let addresses: BTreeSet<_> = addresses.collect();
            self.departed
                .retain(|(address, name), _| present.contains(name) || addresses.contains(address));
        }
    }

    /// The connection is gone. What was sent last may never have been carried out, nor what was sent with it.
    pub(super) fn disconnect(&mut self, now: Duration) {
        let sent = std::mem::take(&mut self.sent).into_iter();
        let in_doubt = sent.map(|(name, (address, _))| (name, (address, now + IN_DOUBT)));
        self.in_doubt.extend(in_doubt);
    }

    /// Remembers what is being sent.
    pub(super) fn send(&mut self, now: Duration, command: &Command) {
        let Some(ServerRef { server: name, .. }) = command.server() else {
            return;
        };
        match command {
            Command::SetAddress(_, address) => {
                // What was seen of it was its former owner.
                self.tenants.remove(name);
                self.forget(name);
                self.sent.insert(name.clone(), (*address, now));
            }
            Command::Drain(_) | Command::Maintenance(_) => {
                self.taken_out.insert(name.clone());
            }
            Command::SetWeight(_, weight) => Weight::send(&mut self.weights, name, *weight),
            Command::ShutdownSessions(_) => self.closed_at = Some(now),
            Command::Ready(_)
            | Command::HealthDown(_)
            | Command::EnableHealth(_)
            | Command::EnableAgent(_)
            | Command::DisableAgent(_)
            | Command::SetMaxconn(..)
            | Command::AddServer(..)
            | Command::DeleteServer(_)
            | Command::AddBackend(..)
            | Command::PublishBackend(_)
            | Command::UnpublishBackend(_)
            | Command::DeleteBackend(_) => {}
        }
        if let Command::Maintenance(_) = command {
            // On its way in again it can be in drain without a passed check.
            self.seen_ready.remove(name);
        }
    }

    /// Forgets what was seen of a server, because it will be another's.
    pub(super) fn forget(&mut self, name: &ServerName) {
        self.seen_ready.remove(name);
        self.taken_out.remove(name);
        self.weights.remove(name);
    }

    /// What the registration asked for that a server of this kind of backend was brought in for, if it is gone.
    #[must_use]
    pub fn departed_of(
        &self,
        address: Address,
        name: &ServerName,
        kind: Kind,
    ) -> Option<&DesiredServer> {
        match kind {
            Kind::Slots => {
                // Of several that were there one after the other, the one that had the slot last, by its last tags.
                let tenant = self.tenants.get(name);
                let had_it = |server: &DesiredServer| {
                    tenant.map(|tenant| {
                        let is_same = is_same_allocation(&tenant.server, &server.name);
                        (is_same, tenant.server == server.name)
                    })
                };
                let of_address = self.departed.values();
                of_address
                    .filter(|server| server.address == address)
                    .max_by_key(|server| (had_it(server), server.create_index))
            }
            Kind::Dynamic => self.departed.values().find(|server| server.name == *name),
        }
    }
}

/// Why a command is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// The registration has no server yet.
    Registered,
    /// The server was on its way in when something interrupted that.
    Resumed,
    /// The registration's backend is not in HAProxy.
    NoBackend,
    /// A server of the backend is UP for the first time.
    FirstUp,
    /// Nothing was registered for the backend for as long as it lingers.
    Lingered,
    /// It was in rotation when HAProxy was restarted or reloaded.
    PutBack,
    /// The registration came back while its server was drained.
    Returned,
    /// No registration wants the server any more.
    Deregistered,
    /// The drained server has no session left.
    Idle,
    /// The drained server still has sessions, but its time is over.
    Deadline,
    /// Another registration has the address now.
    OtherRegistration,
    /// Sessions last on in a slot that a registration waits for.
    SlotNeeded,
    /// The weight is another.
    Weight,
    /// The limit of connections is another.
    Maxconn,
    /// The sidecar was told to drain everything and to stop.
    Stopping,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registered => "registered in Nomad, not in HAProxy",
            Self::Resumed => "on its way in, continued",
            Self::NoBackend => "its backend is not in HAProxy",
            Self::FirstUp => "its first server is UP",
            Self::Lingered => "nothing was registered for it for --backend-linger",
            Self::PutBack => "was in rotation before HAProxy restarted",
            Self::Returned => "its registration came back",
            Self::Deregistered => "no longer registered in Nomad",
            Self::Idle => "drained, nothing left on it",
            Self::Deadline => "drain timeout",
            Self::OtherRegistration => "another registration has its address",
            Self::SlotNeeded => "its slot is needed, and no other is free",
            Self::Weight => "its weight changed",
            Self::Maxconn => "its maxconn changed",
            Self::Stopping => "the sidecar stops, and drains first",
        })
    }
}

/// One command and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is sent.
    pub command: Command,
    /// Why.
    pub why: Why,
}

/// A registration whose server cannot be brought to where it should be, for now.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hindrance {
    /// The registration, or for a server that nobody wants the server's name.
    pub registration: Arc<str>,
    /// What is in the way.
    pub obstacle: Obstacle,
}

/// The next step for one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    /// Commands to send now, those of one server next to each other.
    pub steps: Vec<Step>,
    /// The plan depends on session counters: read `show stat` with the next observation.
    pub wants_stat: bool,
    /// Something is on its way that HAProxy does not tell: look again after this time.
    pub look_again: Option<Duration>,
    /// What is in the way.
    pub hindrances: BTreeSet<Hindrance>,
    /// What stays as an operator left it.
    pub by_hand: BTreeSet<ByHand>,
    /// Tags that this kind of backend cannot fulfil.
    pub notes: BTreeSet<Rejection>,
    /// Servers that may not be taken out now.
    pub waiting: BTreeSet<ServerName>,
    /// How many servers that are UP are being taken out.
    pub removals: u32,
    /// Those of them whose registration is remembered.
    pub leaving: BTreeSet<Identity>,
}

impl Plan {
    /// Looks again after `delay` at the latest.
    pub(super) fn look_within(&mut self, delay: Duration) {
        self.look_again = Some(self.look_again.map_or(delay, |other| other.min(delay)));
    }

    pub(super) fn step(&mut self, command: Command, why: Why) {
        self.steps.push(Step { command, why });
    }

    pub(super) fn hinder(&mut self, registration: Arc<str>, obstacle: Obstacle) {
        self.hindrances.insert(Hindrance {
            registration,
            obstacle,
        });
    }

    /// Leaves the server `name` of a registration as it is by an operator's hand.
    pub(super) fn leave(
        &mut self,
        server: &DesiredServer,
        name: &ServerName,
        hand: Hand,
        is_outdated: bool,
    ) {
        self.by_hand.insert(ByHand {
            registration: server.registration.clone(),
            server: name.clone(),
            hand,
            is_outdated,
        });
    }

    /// Whether a server is one that an operator left so.
    pub(super) fn stays_by_hand(&self, name: &ServerName) -> bool {
        self.by_hand.iter().any(|left| left.server == *name)
    }

    /// Whether it is in maintenance or in drain by his hand.
    pub(super) fn is_out_by_hand(&self, name: &ServerName) -> bool {
        let mut left = self.by_hand.iter().filter(|left| left.server == *name);
        left.any(|left| !matches!(left.hand, Hand::Weight { .. }))
    }

    pub(super) fn note(&mut self, server: &DesiredServer, reason: Reason) {
        self.notes.insert(Rejection {
            registration: server.registration.clone(),
            reason,
        });
    }
}

/// Everything that a plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The backend.
    pub backend: &'a BackendName,
    /// What HAProxy reports of it.
    pub observed: &'a ObservedBackend,
    /// What is remembered of it.
    pub memory: &'a Memory,
    /// HAProxy's version.
    pub version: Version,
    /// What the operator decided.
    pub policy: &'a Policy,
    /// The time, since any fixed moment.
    pub now: Duration,
    /// Whether servers may be taken out.
    pub removals: Removals,
}

impl Situation<'_> {
    pub(super) fn server(&self, name: &ServerName) -> ServerRef {
        ServerRef {
            backend: self.backend.clone(),
            server: name.clone(),
        }
    }

    /// Whether a server is left alone for now, because HAProxy would not change it. Unless that is ordinary, it is in the way of
    /// `registration`.
    pub(super) fn is_suspended(
        &self,
        server: &ServerName,
        registration: &Arc<str>,
        plan: &mut Plan,
    ) -> bool {
        let Some((_, text)) = self.memory.suspended.get(server) else {
            return false;
        };
        if !text.is_empty() {
            let obstacle = Obstacle::Refused(server.clone(), text.clone());
            plan.hinder(Arc::clone(registration), obstacle);
        }
        true
    }

    /// Whether a server that leaves has had the time for it that its tags, or the operator, give.
    pub(super) fn drain_is_over(&self, name: &ServerName, leaving: LeavingTags) -> bool {
        let since = self.memory.drains.get(name).copied().unwrap_or(self.now);
        let timeout = leaving.drain_timeout.unwrap_or(self.policy.drain_timeout);
        self.now.saturating_sub(since) >= timeout
    }

    /// Whether sessions may be closed now: those of one server at a time, with pauses, so that clients do not all come
    /// back at once.
    pub(super) fn may_close(&self, plan: &Plan) -> bool {
        let is_time = |at: Duration| self.now.saturating_sub(at) >= CLOSE_EVERY;
        let closes = |step: &Step| matches!(step.command, Command::ShutdownSessions(_));
        self.memory.closed_at.is_none_or(is_time) && !plan.steps.iter().any(closes)
    }

    pub(super) fn was_in_rotation(&self, server: &DesiredServer) -> bool {
        self.memory
            .put_back
            .contains(&(server.registration.clone(), server.address))
    }
}

/// From 3.0 on an address is shown a moment after it was acknowledged, mostly at once; this is far more.
const IN_DOUBT: Duration = Duration::from_millis(200);
/// After this time a slot that was freed is seen to be, or never.
const LOST: Duration = Duration::from_secs(1);
/// The pause between two servers whose sessions are closed.
pub(super) const CLOSE_EVERY: Duration = Duration::from_secs(1);
/// How often admissions are looked at: as often as HAProxy checks by our defaults.
pub(super) const ADMISSION_POLL: Duration = Duration::from_millis(250);
/// For how long after a change they are. Then the reading of everything is enough.
pub(super) const ADMISSION_WATCH: Duration = Duration::from_secs(10);

/// What to do next in one backend. `desired` has each address once.
pub fn plan(desired: &[&DesiredServer], situation: &Situation<'_>) -> Plan {
    let mut plan = Plan::default();
    match kind(&situation.observed.servers, situation.policy) {
        Kind::Slots => slots::plan(desired, situation, &mut plan),
        Kind::Dynamic => made::plan(desired, situation, &mut plan),
    }
    plan
}

pub(super) fn watch_admissions(pending: bool, situation: &Situation<'_>, plan: &mut Plan) {
    let changed_at = situation.memory.changed_at;
    if pending && changed_at.is_some_and(|at| situation.now.saturating_sub(at) < ADMISSION_WATCH) {
        plan.look_within(ADMISSION_POLL);
    }
}

/// What a server needs before it may be ready.
pub(super) struct Admission {
    /// Its check has to be enabled.
    pub(super) enable_check: bool,
    /// Its own checks have to pass first. Never without an enabled check: it would stay down.
    pub(super) down: bool,
    /// Its weight has to be set.
    pub(super) weight: Option<u16>,
}

/// The recipe that leaks no request on any version: out of maintenance into drain, down, and only then ready. The
/// session writes the commands of one server in one piece. Check and weight come last: without them nothing on the way looks
/// like an operator's maintenance or drain.
pub(super) fn admit(target: &ServerRef, admission: &Admission, why: Why, plan: &mut Plan) {
    if admission.down {
        plan.step(Command::Drain(target.clone()), why);
        plan.step(Command::HealthDown(target.clone()), why);
    }
    plan.step(Command::Ready(target.clone()), why);
    if admission.enable_check {
        plan.step(Command::EnableHealth(target.clone()), why);
    }
    if let Some(weight) = admission.weight {
        plan.step(Command::SetWeight(target.clone(), weight), why);
    }
}
