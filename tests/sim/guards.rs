//! What the guards hear: that removals are stopped, and what Nomad says of allocations; and the laws of both.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use haproxy_nomad_sidecar::{
    model::{Allocation, AllocationId, Command, Registration, Request},
    reconcile::{ASK_AFTER, Input, Question},
};

use crate::{
    claim::Tenant,
    haproxy_model::View,
    link::Health,
    matrix::{address_of, is_ghost},
    sabotage::Sabotage,
    session::Sent,
    world::{Event, World},
};

pub(crate) const FROZEN: &str = "(guards) nothing is taken out while removals are stopped";
pub(crate) const ALIVE: &str = "(guards) what runs is not taken out for want of a registration";
pub(crate) const ENDED: &str = "(guards) what has ended is not brought in";

/// Admin bits.
const MAINTENANCE: u8 = 1;
const DRAIN: u8 = 8;

/// For so long an instance is served that runs without a registration.
const GRACE: Duration = Duration::from_mins(5);
/// What was drained before it was known to run is back by then.
const CALLED_BACK: Duration = Duration::from_millis(500);
/// An answer has its effect by then.
const DONE_BY: Duration = Duration::from_millis(500);
/// A question that is not answered is given up.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// What becomes of questions.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ear {
    #[default]
    Open,
    Forbidden,
    Silent,
}

/// What the operator and Nomad say, and what the sidecars have heard.
#[derive(Default)]
pub(crate) struct Guards {
    /// Removals are stopped.
    pub(crate) is_frozen: bool,
    pub(crate) ear: Ear,
    /// What each sidecar has heard of each allocation, and when.
    heard: BTreeMap<(u32, Arc<str>), (Allocation, Duration)>,
}

impl World {
    // === Freezing ===

    pub(crate) fn freeze(&mut self, is_frozen: bool) {
        self.guards.is_frozen = is_frozen;
        self.both(|world| {
            let delay = world.random.latency();
            world.after(delay, Event::Freeze(world.generation));
        });
    }

    /// A sidecar finds out whether removals are stopped.
    pub(crate) fn hear_of_freezing(&mut self) {
        let (now, is_frozen) = (self.now, self.guards.is_frozen);
        if let Some(sidecar) = &mut self.sidecar {
            sidecar.frozen_since = is_frozen.then_some(now);
            if self.sabotage != Some(Sabotage::NothingFreezes) {
                self.input(Input::Freeze(is_frozen));
            }
        }
    }

    // === Second opinion ===

    pub(crate) fn ask_for(&mut self, question: Question) {
        let mut delay = self.random.latency();
        if question.urgent {
            delay += ASK_AFTER;
        }
        let event = Event::Opinion(self.generation, question.allocation, None);
        self.after(delay, event);
    }

    /// Nomad is asked, or has answered.
    pub(crate) fn give_opinion(&mut self, allocation: AllocationId, answer: Option<Allocation>) {
        let Some(answer) = answer else {
            let (answer, delay) = match (self.guards.ear, self.health()) {
                (Ear::Silent, _) | (_, Health::Hangs) => (Allocation::Unknown, GIVEN_UP),
                (Ear::Forbidden, _) | (_, Health::Away | Health::Failing(_)) => {
                    (Allocation::Unknown, self.random.latency())
                }
                _ => (self.allocation(&allocation.id), self.random.latency()),
            };
            return self.after(
                delay,
                Event::Opinion(self.generation, allocation, Some(answer)),
            );
        };
        self.trace(|| format!("  allocation {} is {answer:?}", allocation.id));
        let of = (self.generation, Arc::clone(&allocation.id));
        let heard = (answer.clone(), self.now);
        if answer != Allocation::Unknown {
            self.guards.heard.insert(of, heard);
        }
        let answer = match (self.sabotage, answer) {
            (Some(Sabotage::NobodyRuns), Allocation::Running) => Allocation::Stopping,
            (Some(Sabotage::NobodyHasEnded), Allocation::Ended(_)) => Allocation::Running,
            (_, answer) => answer,
        };
        self.input(Input::Told(allocation, answer));
    }

    /// What this sidecar was told of an allocation before it wanted a line.
    fn heard_before(&self, line: &Sent, allocation: &Arc<str>) -> Option<(&Allocation, Duration)> {
        let (answer, at) = self.heard_of(allocation)?;
        (*at < line.wanted_at).then_some((answer, *at))
    }

    fn heard_of(&self, allocation: &Arc<str>) -> Option<&(Allocation, Duration)> {
        let of = (self.generation, Arc::clone(allocation));
        self.guards.heard.get(&of)
    }

    // === Laws ===

    /// A server in rotation is taken out of it whose registration is gone, while nobody else has its address.
    pub(crate) fn judge_guards(
        &mut self,
        view: &View,
        tenant: &Tenant,
        (since, gone): (Duration, Duration),
        line: &Sent,
    ) {
        let frozen_since = self.sidecar.as_ref().and_then(|one| one.frozen_since);
        let is_frozen = frozen_since.is_some_and(|at| at < line.wanted_at);
        let server = (view.backend.clone(), view.name.clone());
        let how = format!(
            "{:?} takes out {} at {}",
            line.text.trim_end(),
            tenant.id,
            view.address
        );
        if is_frozen {
            return self.violated(FROZEN, &how);
        }
        let is_alive = |(answer, at): (&Allocation, Duration)| {
            *answer == Allocation::Running && at >= gone + ASK_AFTER && since <= at + CALLED_BACK
        };
        let is_known =
            tenant.generation == self.generation && !self.operator.touched.contains(&server);
        if is_known
            && self.now < gone + GRACE
            && self
                .heard_before(line, &tenant.alloc_id)
                .is_some_and(is_alive)
        {
            self.violated(ALIVE, &how);
        }
    }

    /// What was in rotation and runs is called back, or was never taken out.
    pub(crate) fn expect_served(&mut self, one: &Registration) {
        let address = address_of(one);
        let is_served = |view: &View| view.address == address && view.in_rotation;
        let heard = self.heard_of(&one.alloc_id);
        let is_known = heard.is_some_and(|(answer, at)| {
            *answer == Allocation::Running && *at + DONE_BY <= self.now
        });
        if is_known && !self.servers().iter().any(is_served) {
            self.violated(ALIVE, &format!("{} is not in rotation", one.id));
        }
    }

    /// What has ended is not there any more.
    pub(crate) fn expect_no_ghosts(&mut self) {
        let is_ended_ghost = |one: &Tenant| {
            let heard = self.heard_of(&one.alloc_id).filter(|_| is_ghost(&one.id));
            heard
                .zip(one.told_since)
                .is_some_and(|((answer, at), told)| {
                    matches!(answer, Allocation::Ended(_))
                        && told <= *at
                        && *at + DONE_BY <= self.now
                })
        };
        let is_there = |view: &&View| {
            let tenants = self.ledger.tenants(&view.backend, view.address, None);
            view.admin & (MAINTENANCE | DRAIN) == 0 && tenants.iter().any(is_ended_ghost)
        };
        if let Some(view) = self.servers().iter().find(is_there) {
            let how = format!("{}/{} is still there", view.backend, view.name);
            self.violated(ENDED, &how);
        }
    }

    pub(crate) fn is_said_to_have_ended(&self, allocation: &Arc<str>) -> bool {
        let heard = self.heard_of(allocation);
        heard.is_some_and(|(answer, _)| matches!(answer, Allocation::Ended(_)))
    }

    /// A server is brought in.
    pub(crate) fn judge_arrival(&mut self, line: &Sent) {
        let Some(Request::Change(
            Command::AddServer(server, address, _) | Command::SetAddress(server, address),
        )) = &line.request
        else {
            return;
        };
        let address = std::net::SocketAddr::new(address.ip, address.port.get());
        let ghosts = self.ledger.tenants(server.backend.as_str(), address, None);
        let is_ghost = |one: &&Tenant| {
            let told = one.told_since.filter(|_| is_ghost(&one.id));
            let heard = self.heard_before(line, &one.alloc_id);
            heard.zip(told).is_some_and(|((answer, at), told)| {
                matches!(answer, Allocation::Ended(_)) && told <= at
            })
        };
        if let Some(ghost) = ghosts.iter().find(is_ghost) {
            let how = format!("{:?} brings in {}", line.text.trim_end(), ghost.id);
            self.violated(ENDED, &how);
        }
    }
}
