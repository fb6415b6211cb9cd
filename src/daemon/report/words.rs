//! The longer lines: about what was found, holds, the state file and the guards.

use std::{collections::BTreeMap, time::Duration};

use tracing::{debug, info, warn};

use super::Rounded;
use crate::{
    admin::{BackendCount, ServersOwned},
    model::{BackendName, Command, ServiceKey},
    reconcile::{
        Found, Guard, Hand, HoldBegun, Overview, Owned, Restoring, Staying, Stays, Tally,
        desired::Rejection,
        plan::{Step, Why},
    },
};

/// So many servers are named in `/status`.
const NAMED: usize = 50;

pub(super) fn found(found: &Found) {
    let unclaimed: Vec<_> = found.unclaimed.iter().map(ToString::to_string).collect();
    info!(
        haproxy = found.process.version_text,
        slot_backends = found.slot_backends,
        dynamic_backends = found.dynamic_backends,
        owned_servers = found.owned,
        foreign_servers = found.foreign,
        services = found.services,
        "found; foreign servers are never touched"
    );
    if !unclaimed.is_empty() {
        info!(
            backends = unclaimed.join(", "),
            "servers named like ours are in backends that no service resolves to; they stay as they are, those in slots for good, \
             others until Nomad has said that nobody asks for them"
        );
    }
}

pub(super) fn in_sync(took: Duration, blocked: usize) {
    let took = Rounded(took);
    if blocked == 0 {
        return info!(
            ?took,
            "this HAProxy process has everything that is registered"
        );
    }
    info!(
        ?took,
        blocked,
        "this HAProxy process has everything that is registered, but what is blocked: `status` tells by what"
    );
}

pub(super) fn rejected(service: &ServiceKey, rejection: &Rejection) {
    let registration = &*rejection.registration;
    if rejection.reason.is_note() {
        info!(%service, registration, "{}", rejection.reason);
    } else {
        warn!(%service, registration, "not served: {}", rejection.reason);
    }
}

pub(super) fn mass_ended(lasted: Duration, gone: usize) {
    info!(
        lasted = ?Rounded(lasted),
        still_gone = gone,
        "the mass deregistration is over: what is still gone is taken out, unless it is held for another reason"
    );
}

pub(super) fn frozen(lasts: Duration, waiting: usize) {
    warn!(
        waiting,
        lasts = ?Rounded(lasts),
        "removals are stopped by --freeze or the freeze file: what is deregistered stays in HAProxy; unset the flag \
         and remove the file to go on"
    );
}

pub(super) fn limited(waiting: usize) {
    if waiting == 0 {
        return info!("no removal waits any more");
    }
    info!(
        waiting,
        "removals wait: no more than --max-removals-per-second servers are taken out of rotation"
    );
}

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

/// Servers that are not as their registrations, or the want of one, would have them, in lines; `at` on the core's clock.
pub(super) fn staying_lines(staying: &[Staying], at: Duration) -> Vec<String> {
    let named = staying.iter().take(NAMED).map(|one| {
        let what = match one.what {
            Stays::ByHand(Hand::Maintenance) => "by hand, in maintenance".to_owned(),
            Stays::ByHand(Hand::Drain) => "by hand, in drain".to_owned(),
            Stays::ByHand(Hand::Weight { has, asked }) => {
                format!("by hand, with weight {has} instead of {asked}")
            }
            Stays::Held(None) => "held, as too few others of its service are UP".to_owned(),
            Stays::Held(Some(Guard::Mass)) => "held, in a mass deregistration".to_owned(),
            Stays::Held(Some(Guard::Alive)) => "held, as its allocation runs".to_owned(),
            Stays::Held(Some(Guard::Frozen)) => "held, as removals are stopped".to_owned(),
        };
        let seconds = at.saturating_sub(one.since).as_secs();
        format!(
            "server {}/{}: {what}, for {seconds} s",
            one.backend, one.server
        )
    });
    let mut lines: Vec<_> = named.collect();
    if let Some(more @ 1..) = staying.len().checked_sub(NAMED) {
        lines.push(format!("and {more} more servers that stay"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServerName;

    #[test]
    fn what_stays_is_a_line_each_and_there_are_no_more_than_fifty() {
        let staying = |what| Staying {
            backend: BackendName::new("web").unwrap(),
            server: ServerName::new("nomad1").unwrap(),
            what,
            since: Duration::from_secs(10),
        };
        let kinds = [
            Stays::ByHand(Hand::Maintenance),
            Stays::ByHand(Hand::Drain),
            Stays::ByHand(Hand::Weight { has: 0, asked: 7 }),
            Stays::Held(None),
            Stays::Held(Some(Guard::Mass)),
            Stays::Held(Some(Guard::Alive)),
            Stays::Held(Some(Guard::Frozen)),
        ];
        assert_eq!(
            staying_lines(&kinds.map(staying), Duration::from_secs(52)),
            [
                "server web/nomad1: by hand, in maintenance, for 42 s",
                "server web/nomad1: by hand, in drain, for 42 s",
                "server web/nomad1: by hand, with weight 0 instead of 7, for 42 s",
                "server web/nomad1: held, as too few others of its service are UP, for 42 s",
                "server web/nomad1: held, in a mass deregistration, for 42 s",
                "server web/nomad1: held, as its allocation runs, for 42 s",
                "server web/nomad1: held, as removals are stopped, for 42 s",
            ]
        );
        for (count, lines, last) in [
            (50, 50, "server web/nomad1: by hand, in drain, for 0 s"),
            (51, 51, "and 1 more servers that stay"),
            (9_000, 51, "and 8950 more servers that stay"),
        ] {
            let many = vec![staying(Stays::ByHand(Hand::Drain)); count];
            let many = staying_lines(&many, Duration::ZERO);
            assert_eq!((many.len(), many.last().unwrap().as_str()), (lines, last));
        }
    }
}
