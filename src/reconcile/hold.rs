//! Make before break. A server in rotation whose registration is gone keeps its traffic while too few others of its
//! service are UP in this HAProxy: with `count = 1` Nomad registers the replacement only after the old task has ended,
//! and that one still serves through its `shutdown_delay`.
//!
//! A hold is part of what is desired, so it outlives a reload of HAProxy. A sidecar that has just started has never seen
//! the registration: it holds what it finds in rotation by what HAProxy tells of it.

use std::{fmt, sync::Arc, time::Duration};

use crate::model::{Address, ServerName, ServerState, ServiceKey};

use super::{
    Guard, Policy,
    desired::{DesiredServer, Identity, desired_at},
    guards::GRACE,
    plan::{self, Kind, Memory, ObservedBackend},
    server_name::is_same_allocation,
    states::States,
    tags::FixedTags,
};

/// A server that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// As it was desired last.
    pub server: DesiredServer,
    /// Whose servers replace it; `None`, when nobody remembers, is all of the backend.
    pub service: Option<ServiceKey>,
    /// Since when.
    pub since: Duration,
    /// A predecessor held it, and it was not seen in rotation since.
    pub is_awaited: bool,
    /// What keeps it, besides that too few others are UP.
    pub guard: Option<Guard>,
    /// It was in drain, and has to be made ready again.
    pub recalled: bool,
}

impl Hold {
    /// How many of its service have to be UP.
    pub(super) fn min_ready(&self) -> u32 {
        self.server.leaving.min_ready.unwrap_or(1)
    }

    /// For how long at most; `None` is as long as the guard says so.
    pub(super) fn at_most(&self, policy: &Policy) -> Option<Duration> {
        match self.guard {
            Some(Guard::Alive) => Some(GRACE),
            Some(Guard::Frozen) => None,
            Some(Guard::Mass) | None => Some(self.server.leaving.hold.unwrap_or(policy.hold)),
        }
    }
}

/// A server is held from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldBegun {
    /// The server.
    pub server: ServerName,
    /// Where it listens.
    pub address: Address,
    /// The registration that is gone, as far as it is remembered.
    pub registration: Arc<str>,
    /// How many of its service are UP.
    pub up: u32,
    /// How many have to be.
    pub min_ready: u32,
    /// For how long at most.
    pub at_most: Duration,
    /// What keeps it, besides that too few others are UP.
    pub guard: Option<Guard>,
}

/// It no longer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldEnded {
    /// Where the server listens.
    pub address: Address,
    /// The registration that was gone.
    pub registration: Arc<str>,
    /// Why.
    pub end: HoldEnd,
    /// How long it lasted.
    pub lasted: Duration,
    /// What kept it last, besides that too few others are UP.
    pub guard: Option<Guard>,
}

/// Why a hold ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldEnd {
    /// The registration is back.
    Returned,
    /// Another registration has its address: what listens there is somebody else.
    Claimed(Arc<str>),
    /// So many of its service are UP.
    Replaced(u32),
    /// Its checks fail, or somebody took it out of rotation.
    OutOfRotation,
    /// It is no longer in HAProxy.
    Gone,
    /// Its time is over.
    Over,
}

impl HoldEnd {
    /// The label that metrics have for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Claimed(_) => "claimed",
            Self::Replaced(_) => "replaced",
            Self::OutOfRotation => "out_of_rotation",
            Self::Gone => "gone",
            Self::Over => "over",
        }
    }
}

impl fmt::Display for HoldEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Returned => f.write_str("its registration is back"),
            Self::Claimed(other) => {
                write!(f, "its address belongs to the registration {other} now")
            }
            Self::Replaced(up) => write!(f, "{up} of its service are UP"),
            Self::OutOfRotation => f.write_str("it is no longer UP and ready"),
            Self::Gone => f.write_str("it is no longer in HAProxy"),
            Self::Over => f.write_str("its time is over"),
        }
    }
}

/// Everything that holds depend on besides the memory.
pub(super) struct Review<'a> {
    /// What the registrations ask for, by address.
    pub(super) desired: &'a [DesiredServer],
    pub(super) observed: &'a ObservedBackend,
    pub(super) policy: &'a Policy,
    pub(super) now: Duration,
    /// The registration of another allocation, in another backend, that has a server's address.
    pub(super) claimed_elsewhere: &'a dyn Fn(&DesiredServer) -> Option<Arc<str>>,
    /// What keeps a server without a registration, whoever else is UP.
    pub(super) guard: &'a dyn Fn(&DesiredServer) -> Option<Guard>,
}

/// So long a server that was in drain when it was held may take to be in rotation again.
const RECALL: Duration = Duration::from_secs(2);

impl Review<'_> {
    /// Begins and ends holds by what was just observed.
    pub(super) fn of(&self, memory: &mut Memory) -> (Vec<HoldBegun>, Vec<HoldEnded>) {
        let kind = plan::kind(&self.observed.servers, self.policy);
        if self.is_usual(memory, kind) {
            return (Vec::new(), Vec::new());
        }
        let states = States::new(self.observed, kind, self.policy);
        memory
            .guarded
            .retain(|(address, _)| self.wanted(*address).is_none());
        let ended = self.end_holds(memory, &states);
        let begun = self.begin_holds(memory, &states, kind);
        (begun, ended)
    }

    fn wanted(&self, address: Address) -> Option<&DesiredServer> {
        desired_at(self.desired, address)
    }

    fn end_holds(&self, memory: &mut Memory, states: &States<'_>) -> Vec<HoldEnded> {
        let mut ended = Vec::new();
        let mut let_go = Vec::new();
        let guarded = &mut memory.guarded;
        memory.holds.retain(|identity, hold| {
            let put_back = (hold.server.registration.clone(), hold.server.address);
            let state = states.of(&hold.server);
            hold.guard = state.and_then(|state| self.guard(&hold.server, state));
            hold.is_awaited &= !state.is_some_and(ServerState::in_rotation);
            let is_coming = hold.is_awaited || memory.put_back.contains(&put_back);
            let Some(end) = self.end_as_seen(hold, state, is_coming, states) else {
                return true;
            };
            if matches!(end, HoldEnd::Replaced(_) | HoldEnd::Over) {
                // It is not taken out by somebody who knows better, and may be called back.
                guarded.remove(identity);
            }
            if end != HoldEnd::Returned {
                let_go.extend(state.and_then(|state| state.name.clone()));
            }
            ended.push(HoldEnded {
                address: hold.server.address,
                registration: hold.server.registration.clone(),
                end,
                lasted: self.now.saturating_sub(hold.since),
                guard: hold.guard,
            });
            false
        });
        // What was let go is on its way out, and not held again before it was out of rotation once, or is wanted again.
        memory.let_go.extend(let_go);
        let is_leaving = |state: &ServerState| {
            let address = state.address();
            state.in_rotation() && address.is_none_or(|address| self.wanted(address).is_none())
        };
        memory
            .let_go
            .retain(|name| states.named(name).is_some_and(is_leaving));
        ended
    }

    /// Why a hold ends, whose server is in `state`. One that is coming need not be in rotation.
    fn end_as_seen(
        &self,
        hold: &Hold,
        state: Option<&ServerState>,
        is_coming: bool,
        states: &States<'_>,
    ) -> Option<HoldEnd> {
        if let Some(server) = self.wanted(hold.server.address) {
            let is_back = is_same_allocation(&server.name, &hold.server.name);
            return Some(if is_back {
                HoldEnd::Returned
            } else {
                HoldEnd::Claimed(server.registration.clone())
            });
        }
        let is_recalled = |state: &ServerState| {
            let is_recent = self.now.saturating_sub(hold.since) < RECALL;
            hold.recalled && is_recent && !state.admin.in_maintenance()
        };
        match state {
            None if !is_coming => Some(HoldEnd::Gone),
            Some(state) if !state.in_rotation() && !is_recalled(state) && !is_coming => {
                Some(HoldEnd::OutOfRotation)
            }
            Some(_) | None => self.end(hold, states),
        }
    }

    fn begin_holds(&self, memory: &mut Memory, states: &States<'_>, kind: Kind) -> Vec<HoldBegun> {
        let mut begun = Vec::new();
        memory.claimed.clear();
        for state in states.iter().filter(|state| !state.admin.in_maintenance()) {
            let (Some(name), Some(address)) = (&state.name, state.address()) else {
                continue;
            };
            if let Some(other) = self.wanted(address) {
                if let Some(former) = tenant(name, memory, kind)
                    && !is_same_allocation(&other.name, former)
                {
                    memory.claimed.insert(name.clone());
                }
                continue;
            }
            let Some(hold) = self.hold(state, name, address, memory, kind) else {
                continue;
            };
            if self.end(&hold, states).is_some() {
                continue;
            }
            begun.push(HoldBegun {
                server: name.clone(),
                address,
                registration: hold.server.registration.clone(),
                up: self.up(&hold, states),
                min_ready: hold.min_ready(),
                at_most: self.at_most(&hold),
                guard: hold.guard,
            });
            let identity = hold.server.identity();
            if hold.guard.is_some() {
                memory.guarded.insert(identity.clone());
                memory.let_go.remove(name);
            }
            memory.holds.insert(identity, hold);
        }
        begun
    }

    /// The hold of a server that nobody wants, if it can be held: it is in rotation, or has to be there again.
    fn hold(
        &self,
        state: &ServerState,
        name: &ServerName,
        address: Address,
        memory: &mut Memory,
        kind: Kind,
    ) -> Option<Hold> {
        let former = memory.departed_of(address, name, kind).cloned();
        let service = former.as_ref().map(|former| former.service.clone());
        let is_stranger = former.is_none();
        let server = former.unwrap_or_else(|| derived(state, name, address));
        if (self.claimed_elsewhere)(&server).is_some() {
            memory.claimed.insert(name.clone());
            return None;
        }
        let identity = server.identity();
        let guard = self.guard(&server, state);
        // It was not known yet that this one should not have been drained.
        let recalled = matches!(guard, Some(Guard::Mass | Guard::Alive))
            && is_in_drain(state)
            && !memory.guarded.contains(&identity);
        let is_unknown = is_stranger && memory.strangers_stay;
        let is_let_go = memory.let_go.contains(name) && guard.is_none();
        // By another process nothing tells whose slot it is, but who is held at that address.
        let is_held = |(held, _): &Identity| *held == address;
        let is_held_slot = kind == Kind::Slots && is_stranger && memory.holds.keys().any(is_held);
        let is_taken = is_let_go || is_held_slot || memory.holds.contains_key(&identity);
        ((state.is_given_traffic() || recalled) && !is_unknown && !is_taken).then_some(Hold {
            server,
            service,
            since: self.now,
            is_awaited: false,
            guard,
            recalled,
        })
    }

    /// Whether nothing leaves: whatever is there is wanted where it is. Most backends, most of the time.
    fn is_usual(&self, memory: &Memory, kind: Kind) -> bool {
        let is_wanted = |state: &ServerState| {
            let server = state
                .address()
                .and_then(|address| desired_at(self.desired, address));
            server.is_some_and(|server| {
                let name = state.name.as_ref();
                let tenant = name.and_then(|name| tenant(name, memory, kind));
                tenant.is_none_or(|tenant| *tenant == server.name)
            })
        };
        memory.holds.is_empty()
            && memory.let_go.is_empty()
            && memory.claimed.is_empty()
            && self.observed.servers.iter().all(|state| {
                state.admin.in_maintenance()
                    || is_wanted(state)
                    || !plan::is_owned(state, kind, self.policy)
            })
    }

    /// Why a server that is UP, and that nobody wants, need not be held.
    fn end(&self, hold: &Hold, states: &States<'_>) -> Option<HoldEnd> {
        if let Some(other) = (self.claimed_elsewhere)(&hold.server) {
            return Some(HoldEnd::Claimed(other));
        }
        if hold.guard.is_some() {
            return None;
        }
        let up = self.up(hold, states);
        if up >= hold.min_ready() {
            return Some(HoldEnd::Replaced(up));
        }
        (self.now.saturating_sub(hold.since) >= self.at_most(hold)).then_some(HoldEnd::Over)
    }

    /// How many registered servers of its service are given traffic. A canary replaces only a canary, and a backup only a
    /// backup.
    fn up(&self, hold: &Hold, states: &States<'_>) -> u32 {
        let elder = &hold.server;
        let replaces = |server: &&DesiredServer| {
            hold.service
                .as_ref()
                .is_none_or(|service| *service == server.service)
                && (elder.canary || !server.canary)
                && (elder.fixed.backup || !server.fixed.backup)
        };
        let serves =
            |server: &&DesiredServer| states.of(server).is_some_and(ServerState::is_given_traffic);
        let count = self.desired.iter().filter(replaces).filter(serves).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// What keeps a server as HAProxy has it. Without a check, nothing but the registration says that it lives.
    fn guard(&self, server: &DesiredServer, state: &ServerState) -> Option<Guard> {
        let guard = (self.guard)(server)?;
        (guard == Guard::Frozen || state.check.is_enabled()).then_some(guard)
    }

    fn at_most(&self, hold: &Hold) -> Duration {
        hold.at_most(self.policy).unwrap_or(Duration::MAX)
    }
}

fn is_in_drain(state: &ServerState) -> bool {
    state.admin.in_drain() && !state.admin.in_maintenance() && state.is_up()
}

/// Whose server it is, by the name that a dynamic one has; nobody remembers of slots that were there at the start.
fn tenant<'a>(name: &'a ServerName, memory: &'a Memory, kind: Kind) -> Option<&'a ServerName> {
    match kind {
        Kind::Dynamic => Some(name),
        Kind::Slots => memory.tenants.get(name).map(|tenant| &tenant.server),
    }
}

/// A server that a former sidecar brought in, by what HAProxy tells of it.
fn derived(state: &ServerState, name: &ServerName, address: Address) -> DesiredServer {
    DesiredServer {
        registration: name.as_str().into(),
        service: ServiceKey::new("", ""),
        address,
        name: name.clone(),
        // In drain it is 0.
        weight: (state.weight != state.initial_weight && !state.admin.in_drain())
            .then_some(state.weight),
        maxconn: None,
        canary: false,
        fixed: FixedTags {
            check_disabled: !state.check.is_configured(),
            ..FixedTags::default()
        },
        leaving: super::tags::LeavingTags::default(),
        create_index: 0,
    }
}
