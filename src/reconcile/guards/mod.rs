//! Guards against a catalog that says that too much is gone: what was deregistered lately and what speaks against it, how fast
//! servers may leave, and whether they may leave at all.
//!
//! None of them keeps a server that fails HAProxy's checks, or whose address belongs to somebody else now.

mod mass;
mod pace;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

pub use mass::Extent;
pub(super) use pace::Pace;

use self::mass::Mass;
use super::{
    Policy,
    desired::{Contribution, DesiredServer, Reason, Rejection},
};
use crate::model::{Allocation, AllocationId, Registration, ServiceKey};

/// A registration: its namespace and its ID.
type Key = (Arc<str>, Arc<str>);

/// For so long an instance is held whose registration is gone although its allocation runs on. Nomad has nothing that puts
/// such a registration back by itself: this is the time for somebody to look, and then the catalog has the last word.
pub(super) const GRACE: Duration = Duration::from_mins(5);
/// So long after its deregistration an allocation is asked for, and what was asked before does not count: its client tells the
/// servers of a restart, or of its end, up to 0.2 s later, and that is a Raft message then.
pub const ASK_AFTER: Duration = Duration::from_secs(1);
/// No removal is finished before there is an answer, or this time is over.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// What was asked of an allocation is not asked again for so long, and what was answered is forgotten.
const REMEMBERED: Duration = Duration::from_mins(10);
/// So many registrations that are gone are remembered.
const MOST_GONE: usize = 20_000;
/// So many allocations are remembered that were asked for.
const MOST_ASKED: usize = 20_000;
/// Between two reports of what waits while removals are frozen.
const FROZEN_AGAIN: Duration = Duration::from_mins(1);

/// What keeps a server in rotation although its registration is gone, whoever else of its service is UP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guard {
    /// Too much was deregistered with it.
    Mass,
    /// Its allocation still runs.
    Alive,
    /// The operator has stopped all removals.
    Frozen,
}

impl Guard {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Mass, Self::Alive, Self::Frozen];

    /// The label that metrics have for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mass => "mass",
            Self::Alive => "alive",
            Self::Frozen => "frozen",
        }
    }
}

/// Whether servers may be taken out now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removals {
    /// They may.
    #[default]
    Allowed,
    /// Those that are UP wait for their turn, for this time.
    Limited(Duration),
    /// Not before the operator allows it again.
    Frozen,
}

/// An allocation that is asked for, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which one.
    pub allocation: AllocationId,
    /// Its registration has just gone: it is asked for after [`ASK_AFTER`], and somebody waits. Otherwise it is only to be shown.
    pub urgent: bool,
}

/// A registration that is gone.
#[derive(Debug)]
struct Gone {
    at: Duration,
    service: ServiceKey,
    allocation: AllocationId,
    /// When it turned out to be one of many.
    mass: Option<Duration>,
    /// Until when an answer is waited for.
    asked_until: Option<Duration>,
    answer: Option<Allocation>,
}

/// Everything that guards know.
#[derive(Debug)]
pub(super) struct Guards {
    pub(super) pace: Pace,
    gone: BTreeMap<Key, Gone>,
    mass: Mass,
    /// Allocations that were asked for, and when.
    asked: BTreeMap<AllocationId, Duration>,
    /// Registrations whose allocation has ended, and how.
    dead: BTreeMap<Key, Death>,
    frozen: Option<Frozen>,
    /// Since when servers wait for the limit, and whether that was told.
    pub(super) limited: Option<(Duration, bool)>,
    /// Servers may be waiting for it.
    pub(super) some_wait: bool,
}

#[derive(Debug)]
struct Death {
    status: Arc<str>,
    service: ServiceKey,
    at: Duration,
}

#[derive(Debug)]
struct Frozen {
    since: Duration,
    tell_at: Duration,
}

impl Guards {
    pub(super) fn new(per_second: NonZeroU32) -> Self {
        Self {
            pace: Pace::new(per_second),
            gone: BTreeMap::new(),
            mass: Mass::default(),
            asked: BTreeMap::new(),
            dead: BTreeMap::new(),
            frozen: None,
            limited: None,
            some_wait: false,
        }
    }

    // === What is gone ===

    /// A registration is gone.
    pub(super) fn lost(&mut self, now: Duration, registration: &Registration) {
        let key = key_of(registration);
        self.dead.remove(&key);
        self.mass.lost(now, &key, &registration.job_id);
        if self.gone.len() >= MOST_GONE {
            return;
        }
        let gone = Gone {
            at: now,
            service: registration.service.clone(),
            allocation: allocation_of(registration),
            mass: None,
            asked_until: None,
            answer: None,
        };
        self.gone.insert(key, gone);
    }

    /// What is asked of the allocation of a server that is UP, and is being taken out or held without a registration.
    pub(super) fn ask(
        &mut self,
        now: Duration,
        server: &DesiredServer,
        policy: &Policy,
    ) -> Option<Question> {
        let gone = self.gone.get_mut(&key_of_server(server))?;
        if !policy.second_opinion || gone.asked_until.is_some() || gone.answer.is_some() {
            return None;
        }
        gone.asked_until = Some(now + ANSWER_WITHIN);
        Some(Question {
            allocation: gone.allocation.clone(),
            urgent: true,
        })
    }

    /// It is there, or there again.
    pub(super) fn registered(&mut self, registration: &Registration) {
        let key = key_of(registration);
        if self.gone.remove(&key).is_some() {
            self.mass.returned(&key);
        }
    }

    /// What is asked of a registration that is not served.
    pub(super) fn doubt(
        &mut self,
        now: Duration,
        registration: &Registration,
        policy: &Policy,
    ) -> Option<Question> {
        let allocation = allocation_of(registration);
        let is_new = policy.second_opinion
            && self.asked.len() < MOST_ASKED
            && !self.asked.contains_key(&allocation);
        if !is_new {
            return None;
        }
        self.asked.insert(allocation.clone(), now);
        Some(Question {
            allocation,
            urgent: false,
        })
    }

    /// The services that a mass deregistration concerns anew, and its extent when it has just begun.
    pub(super) fn judge(
        &mut self,
        now: Duration,
        policy: &Policy,
        registered: impl FnOnce() -> usize,
    ) -> (BTreeSet<ServiceKey>, Option<Extent>) {
        let (victims, begun) = self.mass.judge(now, policy.hold, registered);
        let mut services = BTreeSet::new();
        for key in &victims {
            if let Some(gone) = self.gone.get_mut(key) {
                gone.mass = Some(now);
                services.insert(gone.service.clone());
            }
        }
        (services, begun)
    }

    /// What Nomad says of an allocation: the services that have lost a registration of it.
    pub(super) fn told(
        &mut self,
        now: Duration,
        allocation: &AllocationId,
        answer: &Allocation,
    ) -> BTreeSet<ServiceKey> {
        if *answer == Allocation::Unknown {
            self.asked.remove(allocation);
        }
        let of_it = self.gone.values_mut();
        let of_it =
            of_it.filter(|gone| gone.allocation == *allocation && now >= gone.at + ASK_AFTER);
        of_it
            .map(|gone| {
                gone.asked_until = Some(Duration::ZERO);
                // Who cannot be asked now has not taken back what was said.
                if *answer != Allocation::Unknown || gone.answer.is_none() {
                    gone.answer = Some(answer.clone());
                }
                gone.service.clone()
            })
            .collect()
    }

    /// What keeps a server whose registration is gone.
    pub(super) fn of(
        &self,
        now: Duration,
        server: &DesiredServer,
        policy: &Policy,
    ) -> Option<Guard> {
        if self.frozen.is_some() {
            return Some(Guard::Frozen);
        }
        let gone = self.gone_of(server)?;
        match gone.answer {
            Some(Allocation::Running) if now < gone.at + GRACE => return Some(Guard::Alive),
            // It was told to stop, so its registration did not go by mistake.
            Some(Allocation::Stopping) => return None,
            // One that counts as lost may well run.
            Some(Allocation::Ended(ref status)) if &**status != "lost" => return None,
            Some(Allocation::Running | Allocation::Ended(_) | Allocation::Unknown) | None => {}
        }
        let hold = server.leaving.hold.unwrap_or(policy.hold);
        (now < gone.mass? + hold).then_some(Guard::Mass)
    }

    /// Whether its removal is not finished, because Nomad was asked for its allocation.
    pub(super) fn awaits_answer(&self, now: Duration, server: &DesiredServer) -> bool {
        let until = self.gone_of(server).and_then(|gone| gone.asked_until);
        until.is_some_and(|until| now < until)
    }

    fn gone_of(&self, server: &DesiredServer) -> Option<&Gone> {
        let namespace = Arc::clone(&server.service.namespace);
        self.gone
            .get(&(namespace, Arc::clone(&server.registration)))
    }

    // === Ghosts ===

    /// The allocation of a registration that is not served has ended.
    pub(super) fn bury(&mut self, now: Duration, registration: &Registration, status: &Arc<str>) {
        let death = Death {
            status: Arc::clone(status),
            service: registration.service.clone(),
            at: now,
        };
        self.dead.insert(key_of(registration), death);
    }

    /// Takes out of what a service contributes whose allocation has ended.
    pub(super) fn reject_dead(&self, contribution: &mut Contribution) {
        if self.dead.is_empty() {
            return;
        }
        for servers in contribution.servers.values_mut() {
            servers.retain(|server| {
                let Some(death) = self.dead.get(&key_of_server(server)) else {
                    return true;
                };
                contribution.rejections.insert(Rejection {
                    registration: Arc::clone(&server.registration),
                    reason: Reason::AllocationEnded(Arc::clone(&death.status)),
                });
                false
            });
        }
    }

    // === Freezing ===

    /// Stops all removals, or allows them again: for how long they were stopped.
    pub(super) fn freeze(&mut self, now: Duration, is_frozen: bool) -> Option<Duration> {
        if is_frozen {
            self.frozen.get_or_insert(Frozen {
                since: now,
                tell_at: now,
            });
            return None;
        }
        let since = self.frozen.take()?.since;
        Some(now.saturating_sub(since))
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Whether it is time to tell what waits: since when it does.
    pub(super) fn frozen_since(&mut self, now: Duration) -> Option<Duration> {
        let frozen = self
            .frozen
            .as_mut()
            .filter(|frozen| frozen.tell_at <= now)?;
        frozen.tell_at = now + FROZEN_AGAIN;
        Some(now.saturating_sub(frozen.since))
    }

    // === Time ===

    /// Ends a mass deregistration when its time has come: how long it lasted, and how many of its registrations are gone.
    pub(super) fn end_mass(&mut self, now: Duration, policy: &Policy) -> Option<(Duration, usize)> {
        let (lasted, _) = self.mass.end(now, policy.hold)?;
        let gone = self.gone.values().filter(|gone| gone.mass.is_some());
        Some((lasted, gone.count()))
    }

    /// When something is to be told or ended.
    pub(super) fn next_timeout(&self, policy: &Policy) -> Option<Duration> {
        let frozen = self.frozen.as_ref().map(|frozen| frozen.tell_at);
        let over_at = self.mass.over_at(policy.hold);
        frozen.into_iter().chain(over_at).min()
    }

    /// Forgets what is of no use any more; the services with registrations that are judged anew.
    pub(super) fn forget(&mut self, now: Duration) -> BTreeSet<ServiceKey> {
        let is_old = |at: Duration| now.saturating_sub(at) > REMEMBERED;
        self.gone.retain(|_, gone| !is_old(gone.at));
        self.asked.retain(|_, at| !is_old(*at));
        let mut revived = BTreeSet::new();
        self.dead.retain(|_, death| {
            if is_old(death.at) {
                revived.insert(death.service.clone());
            }
            !is_old(death.at)
        });
        revived
    }
}

fn key_of(registration: &Registration) -> Key {
    let namespace = Arc::clone(&registration.service.namespace);
    (namespace, Arc::clone(&registration.id))
}

fn key_of_server(server: &DesiredServer) -> Key {
    let namespace = Arc::clone(&server.service.namespace);
    (namespace, Arc::clone(&server.registration))
}

pub(super) fn allocation_of(registration: &Registration) -> AllocationId {
    AllocationId {
        namespace: Arc::clone(&registration.service.namespace),
        id: Arc::clone(&registration.alloc_id),
    }
}
