//! Server-template slots: which one an instance has, and which one it may get. A slot is known by the address in it, so
//! a restarted sidecar finds its instances again.
//!
//! A slot that the sidecar takes out of service has weight 0, and gets its weight back when it is ready again. In drain or
//! maintenance with another weight, an operator did that.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::model::{Address, Command, ServerName, ServerRef, ServerState};

use super::{
    Policy, Removals,
    desired::{DesiredServer, Reason, desired_at},
    hands::{Hand, hand},
    plan::{
        Admission, CLOSE_EVERY, Kind, ObservedBackend, Obstacle, Plan, Situation, Tenant, Why,
        admit, watch_admissions,
    },
    removal::{self, PLACEHOLDER},
    server_name::is_same_allocation,
};

/// After this time an address that HAProxy has acknowledged but does not show is sent again.
const SEND_AGAIN: Duration = Duration::from_millis(100);
/// From 3.0 on the address is there at the second reading at the latest, mostly at the first.
const READ_AGAIN: Duration = Duration::from_millis(2);

/// The number of a slot: prefix and number for a name, and disabled by its configuration line.
#[must_use]
pub(super) fn number(server: &ServerState, policy: &Policy) -> Option<u32> {
    let digits = server
        .name
        .as_ref()?
        .as_str()
        .strip_prefix(policy.slot_prefix.as_str())?;
    let number = digits
        .parse()
        .ok()
        .filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
    number.filter(|_| server.admin.is_config_disabled())
}

struct Slot<'a> {
    number: u32,
    name: &'a ServerName,
    state: &'a ServerState,
    /// The address that it has, or will have once HAProxy shows what it acknowledged.
    address: Option<Address>,
    awaited: bool,
}

impl Slot<'_> {
    /// Better slots first, of several with one address: those that have it for certain, and in service before draining before
    /// maintenance.
    fn rank(&self) -> (bool, bool, bool, u32) {
        (
            self.awaited,
            self.state.admin.in_maintenance(),
            self.state.admin.in_drain(),
            self.number,
        )
    }

    /// Never used since HAProxy started, as far as its row tells.
    fn is_fresh(&self) -> bool {
        self.state.weight != 0 && self.state.port <= 1 && !self.awaited
    }
}

fn slots<'a>(situation: &Situation<'a>) -> Vec<Slot<'a>> {
    let mut slots: Vec<_> = situation
        .observed
        .servers
        .iter()
        .filter_map(|state| {
            let (number, name) = (number(state, situation.policy)?, state.name.as_ref()?);
            let sent = situation.memory.sent.get(name).map(|(address, _)| *address);
            let awaited = sent.is_some_and(|sent| state.address() != Some(sent));
            Some(Slot {
                number,
                name,
                state,
                address: sent.or(state.address()),
                awaited,
            })
        })
        .collect();
    slots.sort_by_key(Slot::rank);
    slots
}

/// Plans a backend of slots.
pub(super) fn plan(desired: &[&DesiredServer], situation: &Situation<'_>, plan: &mut Plan) {
    // A slot that shows one address may yet get another, which must be nobody else's then.
    let in_doubt = situation.memory.in_doubt.values();
    let left = in_doubt.map(|(_, until)| until.saturating_sub(situation.now));
    if let Some(left) = left.max().filter(|left| !left.is_zero()) {
        plan.look_within(READ_AGAIN.max(left / 4));
        return;
    }
    let slots = slots(situation);
    let wanted: BTreeMap<Address, &DesiredServer> = desired
        .iter()
        .map(|server| (server.address, *server))
        .collect();
    let mut taken: BTreeMap<Address, &ServerName> = BTreeMap::new();
    let mut used = BTreeSet::new();
    let mut pending = false;

    for slot in &slots {
        let Some((address, server)) = slot
            .address
            .and_then(|address| Some((address, *wanted.get(&address)?)))
        else {
            continue;
        };
        if slot.address == Some(PLACEHOLDER)
            || taken.contains_key(&address)
            || must_begin_anew(server, slot, situation)
        {
            continue;
        }
        taken.insert(address, slot.name);
        used.insert(slot.number);
        pending |= !slot.state.in_rotation();
        if situation.is_suspended(slot.name, &server.registration, plan) {
            continue;
        }
        if slot.awaited {
            await_address(slot, situation, plan);
        } else {
            keep(server, slot, situation, plan);
        }
    }
    watch_admissions(pending, situation, plan);

    let missing = wanted
        .keys()
        .filter(|address| !taken.contains_key(address))
        .count();
    let mut free = free_slots(missing, &slots, &used, situation, plan).into_iter();
    // What is registered comes before what is only held.
    let is_held = |server: &DesiredServer| situation.memory.holds.contains_key(&server.identity());
    let (held, registered): (Vec<_>, Vec<_>) =
        wanted.iter().partition(|(_, server)| is_held(server));
    let mut blocked = Vec::new();
    for (address, server) in registered.into_iter().chain(held) {
        note_tags(server, plan);
        if taken.contains_key(address) {
            continue;
        }
        let Some(slot) = free.next() else {
            blocked.push(*server);
            continue;
        };
        used.insert(slot.number);
        fill(server, slot, situation, plan);
    }
    // Some are just being freed.
    let freed = slots
        .iter()
        .filter(|slot| slot.awaited && slot.address == Some(PLACEHOLDER))
        .count();
    if freed > 0 && !blocked.is_empty() {
        plan.look_within(READ_AGAIN);
    }
    blocked.truncate(blocked.len().saturating_sub(freed));
    if !blocked.is_empty() && !plan.wants_stat {
        make_room(&blocked, &slots, &used, situation, plan);
    }

    for slot in slots.iter().filter(|slot| !used.contains(&slot.number)) {
        let state = slot.state;
        // In maintenance with a weight it is free already, or an operator's until it is needed.
        let leaving = state.weight == 0 && state.address() != Some(PLACEHOLDER);
        if !state.admin.in_maintenance() || (leaving && !slot.awaited) {
            removal::plan(state, situation, plan);
        }
    }
}

/// The free slots, fresh ones first. One that was used is free only when nothing of its former owner is left on it:
/// otherwise 2.6 sends later requests to the old address.
fn free_slots<'a, 'b>(
    missing: usize,
    slots: &'b [Slot<'a>],
    used: &BTreeSet<u32>,
    situation: &Situation<'_>,
    plan: &mut Plan,
) -> Vec<&'b Slot<'a>> {
    let is_free = |slot: &&Slot<'_>| {
        slot.state.admin.in_maintenance()
            && !used.contains(&slot.number)
            && !slot.awaited
            && !situation.memory.suspended.contains_key(slot.name)
    };
    let (mut fresh, used_before): (Vec<_>, Vec<_>) = slots
        .iter()
        .filter(is_free)
        .partition(|slot| slot.is_fresh());
    if fresh.len() < missing && !used_before.is_empty() && situation.observed.stat.is_none() {
        plan.wants_stat = true;
        return fresh;
    }
    let quiet = |slot: &&Slot<'_>| {
        situation
            .observed
            .stat_of(slot.name)
            .is_some_and(|stat| stat.is_quiet())
    };
    let mut quiet: Vec<_> = used_before.into_iter().filter(quiet).collect();
    // The least recently used first: whatever outside still remembers a former owner has had the most time to forget it.
    quiet.sort_by_key(|slot| (Reverse(slot.state.since_change), slot.number));
    fresh.extend(quiet);
    fresh
}

/// No slot is free. Long sessions of instances that are gone must not keep new ones out: of the slots whose drain is over,
/// the one that has waited longest is closed.
fn make_room(
    blocked: &[&DesiredServer],
    slots: &[Slot<'_>],
    used: &BTreeSet<u32>,
    situation: &Situation<'_>,
    plan: &mut Plan,
) {
    let has_sessions = |slot: &&Slot<'_>| {
        situation
            .observed
            .stat_of(slot.name)
            .is_some_and(|stat| stat.sessions > 0 || stat.queued > 0)
    };
    let leaving = |slot: &&Slot<'_>| {
        let departed = slot.address.and_then(|address| {
            let memory = situation.memory;
            memory.departed_of(address, slot.name, Kind::Slots)
        });
        let tags = departed.map(|server| server.leaving).unwrap_or_default();
        slot.state.admin.in_maintenance()
            && slot.state.weight == 0
            && !used.contains(&slot.number)
            && situation.drain_is_over(slot.name, tags)
    };
    let quarantined: Vec<_> = slots.iter().filter(leaving).filter(has_sessions).collect();
    for server in blocked {
        let obstacle = match quarantined.len() {
            0 => Obstacle::NoFreeSlot,
            slots => Obstacle::SlotsNotQuiet(slots),
        };
        plan.hinder(server.registration.clone(), obstacle);
    }
    let longest = quarantined
        .into_iter()
        .max_by_key(|slot| (slot.state.since_change, Reverse(slot.number)));
    if let Some(slot) = longest {
        plan.look_within(CLOSE_EVERY);
        if situation.removals != Removals::Frozen && situation.may_close(plan) {
            let target = situation.server(slot.name);
            plan.step(Command::ShutdownSessions(target), Why::SlotNeeded);
        }
    }
}

fn fill(server: &DesiredServer, slot: &Slot<'_>, situation: &Situation<'_>, plan: &mut Plan) {
    let target = situation.server(slot.name);
    removal::mark(slot.state, &target, Why::Registered, plan);
    let has_check = slot.state.check.is_enabled();
    if situation.memory.cookies && has_check && !situation.was_in_rotation(server) {
        if slot.address != Some(PLACEHOLDER) {
            // First to where nobody is.
            plan.step(Command::SetAddress(target, PLACEHOLDER), Why::Registered);
            plan.look_within(Duration::ZERO);
            return;
        }
        // Clients that still have the cookie of this slot come as soon as it is in drain, before it is down. Where it
        // points now, nobody is; and a server that is ready and down stays down when it gets another address.
        for command in [Command::Drain, Command::HealthDown, Command::Ready] {
            plan.step(command(target.clone()), Why::Registered);
        }
    }
    plan.step(Command::SetAddress(target, server.address), Why::Registered);
    plan.look_within(Duration::ZERO);
}

fn await_address(slot: &Slot<'_>, situation: &Situation<'_>, plan: &mut Plan) {
    let Some((address, since)) = situation.memory.sent.get(slot.name) else {
        return;
    };
    let waited = situation.now.saturating_sub(*since);
    if waited >= SEND_AGAIN {
        plan.step(
            Command::SetAddress(situation.server(slot.name), *address),
            Why::Resumed,
        );
    }
    plan.look_within(if waited < READ_AGAIN {
        Duration::ZERO
    } else {
        READ_AGAIN
    });
}

/// A slot that has the address of a wanted instance.
fn keep(server: &DesiredServer, slot: &Slot<'_>, situation: &Situation<'_>, plan: &mut Plan) {
    let state = slot.state;
    let target = situation.server(slot.name);
    // Without weights there is still 0, for out of rotation.
    let asked = server
        .weight
        .filter(|weight| *weight == 0 || !situation.memory.static_weights);
    if server.weight.is_some() && asked.is_none() && server.weight != Some(state.initial_weight) {
        plan.note(
            server,
            Reason::NotWithSlots("weight (the balance method takes none)"),
        );
    }
    let weight = asked.unwrap_or(state.initial_weight);
    let put_back = situation.was_in_rotation(server);
    let why = if put_back {
        Why::PutBack
    } else {
        Why::Registered
    };
    let admission = Admission {
        enable_check: false,
        down: state.check.is_enabled() && !put_back,
        // What comes in has weight 0 until it is ready.
        weight: (weight != 0).then_some(weight),
    };
    if !state.admin.in_maintenance() && is_let_to_another(server, slot, situation) {
        // Where one instance was, another listens now: HAProxy's verdict was about the former.
        removal::mark(state, &target, Why::OtherRegistration, plan);
        // Also where it was in rotation in another process: else nothing would show that it was brought in.
        let admission = Admission {
            down: true,
            ..admission
        };
        admit(&target, &admission, Why::OtherRegistration, plan);
        return enable_agent(state, target, plan);
    }
    let Ok(hand) = hand(slot.name, state, weight, situation, plan) else {
        return;
    };
    // What an agent makes of it is as good.
    let is_agents = state.agent.is_enabled();
    let hand = hand.filter(|hand| !is_agents || !matches!(hand, Hand::Weight { .. }));
    if let Some(hand) = hand {
        plan.leave(server, slot.name, hand, false);
        if !state.admin.is_ready() {
            return;
        }
    } else if state.admin.in_maintenance() {
        admit(&target, &admission, why, plan);
    } else if state.admin.in_drain() {
        let Some(admitted) = was_admitted(slot, situation, plan) else {
            return;
        };
        if admitted {
            plan.step(Command::Ready(target.clone()), Why::Returned);
            if state.weight != weight {
                plan.step(Command::SetWeight(target.clone(), weight), Why::Returned);
            }
        } else {
            admit(&target, &admission, Why::Resumed, plan);
        }
    } else if state.weight != weight && !is_agents {
        plan.step(Command::SetWeight(target.clone(), weight), Why::Weight);
    }
    if !is_agents {
        enable_agent(state, target, plan);
    }
}

/// Last: an agent can make a server ready.
fn enable_agent(state: &ServerState, target: ServerRef, plan: &mut Plan) {
    if state.agent.is_configured() {
        plan.step(Command::EnableAgent(target), Why::Resumed);
    }
}

/// Whether a slot that is drained has been in service with the instance that it has. On its way in it may be UP in drain, too,
/// without a passed check. `None` while session counters have to be read for that.
fn was_admitted(slot: &Slot<'_>, situation: &Situation<'_>, plan: &mut Plan) -> Option<bool> {
    let (state, memory) = (slot.state, situation.memory);
    // Where there are cookies, no slot is on its way in in drain.
    if !state.check.is_enabled()
        || !state.is_up()
        || memory.cookies
        || memory.seen_ready.contains(slot.name)
    {
        return Some(true);
    }
    if situation.observed.stat.is_none() {
        plan.wants_stat = true;
        return None;
    }
    let stat = situation.observed.stat_of(slot.name);
    let rise = stat.and_then(|stat| stat.rise);
    Some(rise.is_some_and(|rise| i64::from(state.check_health) > rise))
}

/// Whether another instance than this one was admitted to the slot, so that its own check has to pass first.
fn is_let_to_another(server: &DesiredServer, slot: &Slot<'_>, situation: &Situation<'_>) -> bool {
    let tenant = situation.memory.tenants.get(slot.name);
    slot.state.check.is_enabled()
        && tenant.is_some_and(|tenant| !is_same_allocation(&tenant.server, &server.name))
}

/// Whether clients with the slot's cookie would reach the instance before its check has passed: then it gets another slot,
/// or this one once it was freed.
fn must_begin_anew(server: &DesiredServer, slot: &Slot<'_>, situation: &Situation<'_>) -> bool {
    let state = slot.state;
    let is_half_in = state.admin.in_maintenance() && state.weight == 0 && !slot.awaited;
    situation.memory.cookies
        && state.check.is_enabled()
        && !situation.was_in_rotation(server)
        && (is_half_in || is_let_to_another(server, slot, situation))
}

/// Whose slots are, as far as that is seen: who is found in a slot, and who was brought in, which shows by its being down.
pub(super) fn settle_tenants(
    desired: &[DesiredServer],
    observed: &ObservedBackend,
    policy: &Policy,
    tenants: &mut BTreeMap<ServerName, Tenant>,
) {
    for state in &observed.servers {
        let (Some(_), Some(name)) = (number(state, policy), &state.name) else {
            continue;
        };
        let server = state
            .address()
            .filter(|_| !state.admin.in_maintenance())
            .and_then(|address| desired_at(desired, address));
        let Some(server) = server else { continue };
        let is_admitted = !state.is_up() || !state.check.is_enabled();
        let is_another = |tenant: &Tenant| !is_same_allocation(&tenant.server, &server.name);
        if is_admitted || !tenants.get(name).is_some_and(is_another) {
            let tenant = Tenant {
                server: server.name.clone(),
                address: server.address,
            };
            tenants.insert(name.clone(), tenant);
        }
    }
}

/// Tags that a template line decides, and no command can change per slot.
fn note_tags(server: &DesiredServer, plan: &mut Plan) {
    let fixed = &server.fixed;
    for (given, tag) in [
        (server.maxconn.is_some(), "maxconn"),
        (fixed.backup, "backup"),
        (fixed.check_disabled, "check.disabled"),
        (fixed.check_port.is_some(), "check.port"),
        (fixed.inter.is_some(), "check.interval"),
        (fixed.fast_inter.is_some(), "check.fastinter"),
        (fixed.down_inter.is_some(), "check.downinter"),
        (fixed.rise.is_some(), "check.rise"),
        (fixed.fall.is_some(), "check.fall"),
        (fixed.check_profile.is_some(), "check.profile"),
        (fixed.maxqueue.is_some(), "maxqueue"),
        (fixed.slowstart.is_some(), "slowstart"),
        (fixed.cookie.is_some(), "cookie"),
        (fixed.send_proxy.is_some(), "send-proxy"),
        (fixed.proto.is_some(), "proto"),
        (fixed.agent_port.is_some(), "agent.port"),
        (fixed.agent_inter.is_some(), "agent.interval"),
        (fixed.tls_profile.is_some(), "tls.profile"),
    ] {
        if given {
            plan.note(server, Reason::NotWithSlots(tag));
        }
    }
}
