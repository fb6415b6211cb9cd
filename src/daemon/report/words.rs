//! The longer lines: about holds, the state file and the guards.

use std::collections::BTreeMap;

use tracing::{debug, info, warn};

use crate::{
    admin::BackendCount,
    admin::ServersOwned,
    model::{BackendName, Command},
    reconcile::{
        Guard, HoldBegun, Overview, Owned, Restoring, Tally,
        plan::{Step, Why},
    },
};

pub(super) fn held(backend: &BackendName, hold: &HoldBegun) {
    match hold.guard {
        Some(Guard::Alive) => {
            warn!(
                %backend,
                server = %hold.server,
                registration = &*hold.registration,
                at_most = ?hold.at_most,
                "held in rotation: its registration is gone, but its allocation runs and passes HAProxy's check; to register it \
                 again, restart it or change its job"
            );
            return;
        }
        Some(Guard::Mass | Guard::Frozen) => {
            debug!(%backend, registration = &*hold.registration, guard = ?hold.guard, "held in rotation");
            return;
        }
        None => {}
    }
    info!(
        %backend,
        server = %hold.server,
        address = %hold.address,
        registration = &*hold.registration,
        up = hold.up,
        min_ready = hold.min_ready,
        at_most = ?hold.at_most,
        "held in rotation: its registration is gone, and too few others of its service are UP"
    );
}

pub(super) fn restoring(what: &Restoring) {
    match what {
        Restoring::NotPossible(backend) => warn!(
            %backend,
            "not in the state file: HAProxy does not restore the addresses of these slots; declare them with \
             `server-template nomad 1-32 slot.invalid:1 disabled init-addr last,127.0.0.1`"
        ),
        Restoring::Possible(backend) => {
            info!(%backend, "in the state file from now on: HAProxy restores these slots");
        }
        Restoring::NotDone => warn!(
            "HAProxy came up without the slots of the state file; it needs `server-state-file <path>` in `global`, \
             `load-server-state-from-file global` in `defaults` or in the backends, and the right to read the file"
        ),
    }
}

pub(super) fn kept(overview: &Overview, guard: Guard) -> usize {
    overview.guarded.get(&guard).copied().unwrap_or_default()
}

/// What an operator should know of guards, in lines.
pub(super) fn guard_lines(overview: &Overview) -> Vec<String> {
    let mut lines = Vec::new();
    if overview.frozen {
        let waiting = overview.waiting + kept(overview, Guard::Frozen);
        lines.push(format!("removals are stopped: {waiting} servers wait"));
    } else if overview.waiting > 0 {
        let waiting = overview.waiting;
        lines.push(format!("removals are limited: {waiting} servers wait"));
    }
    if overview.mass {
        let held = kept(overview, Guard::Mass);
        lines.push(format!("mass deregistration: {held} servers are held"));
    }
    let held = kept(overview, Guard::Alive);
    if held > 0 {
        lines.push(format!(
            "{held} servers are held because their allocations run without a registration"
        ));
    }
    lines
}

/// The word for how a drain ends by a step that is being sent, if it does.
pub(super) fn end_of_drain(step: &Step) -> Option<&'static str> {
    match (&step.command, step.why) {
        (Command::Maintenance(_), Why::Idle) => Some("idle"),
        (Command::Maintenance(_), Why::Deadline) => Some("deadline"),
        (Command::ShutdownSessions(_), _) => Some("sessions_closed"),
        (Command::Ready(_), Why::Returned) => Some("returned"),
        (_, _) => None,
    }
}

/// The backends' numbers, as metrics have them.
pub(super) fn counts(tallies: &[Tally]) -> BTreeMap<String, BackendCount> {
    let count = |tally: &Tally| BackendCount {
        missing: tally.wanted - tally.in_rotation,
        slots: tally.slots,
        slots_used: tally.slots_used,
    };
    let counted = tallies.iter();
    counted
        .map(|tally| (tally.backend.to_string(), count(tally)))
        .collect()
}

impl From<Owned> for ServersOwned {
    fn from(owned: Owned) -> Self {
        let Owned {
            in_rotation,
            down,
            draining,
            maintenance,
            free,
        } = owned;
        Self {
            in_rotation,
            down,
            draining,
            maintenance,
            free,
        }
    }
}
