//! Takes a server out: drain, until nothing is left on it or the time is over, then maintenance, then it is deleted, or
//! freed when it is a slot. Nothing is cut that could finish: with sessions left it waits in maintenance, unless its tags
//! say that they are to be closed then.

use std::{net::Ipv4Addr, num::NonZeroU16, time::Duration};

use crate::model::{Address, Command, Defect, ServerRef, ServerState};

use super::{
    Removals,
    desired::DesiredServer,
    plan::{CLOSE_EVERY, Kind, Plan, Situation, Why},
    slots,
};

/// Where freed slots point: nobody listens there. `0.0.0.0` would loop onto HAProxy's own frontend.
pub(super) const PLACEHOLDER: Address = Address {
    ip: std::net::IpAddr::V4(Ipv4Addr::LOCALHOST),
    port: NonZeroU16::MIN,
};

pub(super) const DRAIN_POLL: Duration = Duration::from_millis(100);
/// Sessions that outlived the drain timeout may last for hours.
const LEFTOVER_POLL: Duration = Duration::from_secs(2);

/// The next step of taking `state` out.
pub(super) fn plan(state: &ServerState, situation: &Situation<'_>, plan: &mut Plan) {
    take_out_of_rotation(state, situation, true, plan);
}

/// The next step for one whose successor, the same instance, is in rotation: nobody loses anything by it.
pub(super) fn plan_replaced(state: &ServerState, situation: &Situation<'_>, plan: &mut Plan) {
    take_out_of_rotation(state, situation, false, plan);
}

fn take_out_of_rotation(
    state: &ServerState,
    situation: &Situation<'_>,
    is_loss: bool,
    plan: &mut Plan,
) {
    let Some(name) = &state.name else { return };
    if situation.is_suspended(name, &name.as_str().into(), plan) {
        return;
    }
    let is_slot = slots::number(state, situation.policy).is_some();
    let kind = if is_slot { Kind::Slots } else { Kind::Dynamic };
    let departed = state
        .address()
        .and_then(|address| situation.memory.departed_of(address, name, kind));
    if situation.memory.strangers_stay && departed.is_none() {
        return;
    }
    if situation.removals == Removals::Frozen {
        plan.waiting.insert(name.clone());
        return;
    }
    let leaving = departed.map(|server| server.leaving).unwrap_or_default();
    let target = situation.server(name);
    // In drain, clients with its cookie would go on coming to what is another instance now.
    let is_claimed = situation.memory.claimed.contains(name);
    let leave_at_once = situation.memory.cookies && is_claimed;
    if state.admin.is_ready() && !leave_at_once {
        if is_loss && !is_claimed && state.is_given_traffic() {
            if let Removals::Limited(wait) = situation.removals {
                plan.waiting.insert(name.clone());
                plan.look_within(wait);
                return;
            }
            plan.removals += 1;
            plan.leaving.extend(departed.map(DesiredServer::identity));
        }
        drain(state, target, Why::Deregistered, plan);
        return;
    }
    if leave_at_once && !state.admin.in_maintenance() {
        take_out(state, target, Why::OtherRegistration, plan);
        return;
    }
    let Some(stat) = situation.observed.stat_of(name) else {
        plan.wants_stat = true;
        if situation.observed.stat.is_some() {
            plan.look_within(LEFTOVER_POLL);
        }
        return;
    };
    let idle = stat.sessions == 0 && stat.queued == 0;
    if state.admin.in_drain() && !state.admin.in_maintenance() {
        let over = situation.drain_is_over(name, leaving);
        // Clients that have its cookie come again, so a moment without any says nothing.
        let awaits_answer = departed.is_some_and(|server| {
            let memory = situation.memory;
            memory.awaiting.contains(&server.identity()) && (!is_slot || has_room(situation))
        });
        let is_done = idle && !situation.memory.cookies;
        if awaits_answer || (!is_done && !over) {
            plan.wants_stat = true;
            plan.look_within(DRAIN_POLL);
            return;
        }
        let why = if idle { Why::Idle } else { Why::Deadline };
        take_out(state, target, why, plan);
        return;
    }
    if !idle {
        plan.wants_stat = true;
        plan.look_within(LEFTOVER_POLL);
        if leaving.close_sessions {
            plan.look_within(CLOSE_EVERY);
            if situation.drain_is_over(name, leaving) && situation.may_close(plan) {
                plan.step(Command::ShutdownSessions(target), Why::Deadline);
                plan.look_within(DRAIN_POLL);
            }
        }
        return;
    }
    // Re-addressing closes the idle connection that would block the deletion for ever.
    if (is_slot || situation.version.has(Defect::IdleConnectionBlocksDelete))
        && state.address() != Some(PLACEHOLDER)
    {
        plan.step(Command::SetAddress(target.clone(), PLACEHOLDER), Why::Idle);
    }
    if !is_slot {
        plan.step(Command::DeleteServer(target), Why::Idle);
    }
}

/// Whether another slot is free, so that nobody waits for this one.
fn has_room(situation: &Situation<'_>) -> bool {
    let mut servers = situation.observed.servers.iter();
    servers.any(|state| {
        slots::number(state, situation.policy).is_some() && state.admin.in_maintenance()
    })
}

/// Out of rotation.
pub(super) fn drain(state: &ServerState, target: ServerRef, why: Why, plan: &mut Plan) {
    mark(state, &target, why, plan);
    plan.step(Command::Drain(target), why);
}

/// Out of drain into maintenance.
fn take_out(state: &ServerState, target: ServerRef, why: Why, plan: &mut Plan) {
    mark(state, &target, why, plan);
    plan.step(Command::Maintenance(target), why);
    // Until then a client with the server's cookie could come: only now what is on it is all that will be.
    plan.wants_stat = true;
}

/// Weight 0 tells our drain and our maintenance from an operator's, should the sidecar die or the registration return now.
/// An agent's word could end any of these.
pub(super) fn mark(state: &ServerState, target: &ServerRef, why: Why, plan: &mut Plan) {
    if state.agent.is_enabled() {
        plan.step(Command::DisableAgent(target.clone()), why);
    }
    if state.weight != 0 {
        plan.step(Command::SetWeight(target.clone(), 0), why);
    }
}
