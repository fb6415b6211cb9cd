//! Backends that more than one service resolves to by its name, as `my-web` and `my_web` do: one of them has it, the other
//! is not served, and both are told so by name. Services that name a backend by a tag share it.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use super::{
    super::{
        desired::{Contribution, DesiredServer, Reason, Rejection},
        facts::Fact,
    },
    Output, Reconciler,
};
use crate::model::{BackendName, ServiceKey};

/// Who has which backend by its name.
#[derive(Default)]
pub(super) struct Claims {
    by_backend: BTreeMap<BackendName, Claim>,
    /// Which backend each service claims.
    of: BTreeMap<ServiceKey, BackendName>,
}

/// The services that claim one backend, by the oldest of their registrations.
struct Claim {
    claimants: BTreeMap<ServiceKey, u64>,
    holder: ServiceKey,
    since: Duration,
    /// When the holder's last registration was gone.
    vacant: Option<Duration>,
}

impl Claim {
    /// The first of those who claim it.
    fn first(&self) -> Option<&ServiceKey> {
        let first = self.claimants.iter().min_by_key(|(_, index)| **index);
        first.map(|(service, _)| service)
    }
}

impl Claims {
    /// Takes in what `service` claims by its name now. Says whose standing this changes.
    ///
    /// A holder stays one while it has registrations, however young: an update must not hand its backend to another. Only
    /// among those who come at the same time the first registration wins.
    fn settle(
        &mut self,
        now: Duration,
        service: &ServiceKey,
        contribution: &Contribution,
    ) -> BTreeSet<ServiceKey> {
        let mut changed = BTreeSet::new();
        let claimed = contribution.by_name.as_ref().and_then(|backend| {
            let servers = contribution.servers.get(backend)?.iter();
            let oldest = servers.map(|server| server.create_index).min()?;
            Some((backend, oldest))
        });
        let former = match claimed {
            Some((backend, _)) => self.of.insert(service.clone(), backend.clone()),
            None => self.of.remove(service),
        };
        if let Some(former) = former.filter(|former| claimed.is_none_or(|(new, _)| new != former)) {
            self.withdraw(now, service, &former, &mut changed);
        }
        if let Some((backend, oldest)) = claimed {
            let claim = self.by_backend.entry(backend.clone());
            let claim = claim.or_insert_with(|| Claim {
                claimants: BTreeMap::new(),
                holder: service.clone(),
                since: now,
                vacant: None,
            });
            if claim.claimants.insert(service.clone(), oldest).is_none() {
                // Each names the others.
                changed.extend(claim.claimants.keys().cloned());
            }
            if claim.holder == *service {
                claim.vacant = None;
            } else if claim.since == now
                && let Some(first) = claim.first().cloned()
                && claim.holder != first
            {
                claim.holder = first;
                changed.extend(claim.claimants.keys().cloned());
            }
        }
        changed.remove(service);
        changed
    }

    fn withdraw(
        &mut self,
        now: Duration,
        service: &ServiceKey,
        backend: &BackendName,
        changed: &mut BTreeSet<ServiceKey>,
    ) {
        let Some(claim) = self.by_backend.get_mut(backend) else {
            return;
        };
        claim.claimants.remove(service);
        changed.extend(claim.claimants.keys().cloned());
        if claim.claimants.is_empty() {
            self.by_backend.remove(backend);
        } else if claim.holder == *service {
            claim.vacant = Some(now);
        }
    }

    /// When a holder that is gone has lost its backend.
    pub(super) fn due(&self, hold: Duration) -> Option<Duration> {
        let vacant = self.by_backend.values().filter_map(|claim| claim.vacant);
        vacant.map(|since| since + hold).min()
    }

    /// Gives the backends of those who have been gone for `hold` to the next. Says whose standing this changes.
    fn pass_on(&mut self, now: Duration, hold: Duration) -> BTreeSet<ServiceKey> {
        let mut changed = BTreeSet::new();
        for claim in self.by_backend.values_mut() {
            if claim.vacant.is_some_and(|since| since + hold <= now)
                && let Some(first) = claim.first().cloned()
            {
                claim.holder = first;
                claim.since = now;
                claim.vacant = None;
                changed.extend(claim.claimants.keys().cloned());
            }
        }
        changed
    }

    /// Takes out of a contribution what is another's, and says so to both.
    fn apply(&self, service: &ServiceKey, contribution: &mut Contribution) {
        let Some((backend, claim)) = self
            .of
            .get(service)
            .and_then(|backend| Some((backend, self.by_backend.get(backend)?)))
        else {
            return;
        };
        let Some(servers) = contribution.servers.get_mut(backend) else {
            return;
        };
        let mut reject = |server: &DesiredServer, reason| {
            contribution.rejections.insert(Rejection {
                registration: server.registration.clone(),
                reason,
            });
        };
        if claim.holder != *service {
            contribution.wishes.remove(backend);
            contribution
                .routing
                .take_if(|routing| routing.backend == *backend);
            for server in mem::take(servers) {
                let reason = Reason::ClaimedBackend(backend.clone(), claim.holder.clone());
                reject(&server, reason);
            }
        } else if let Some(server) = servers.first() {
            for other in claim.claimants.keys().filter(|other| *other != service) {
                reject(server, Reason::Claimant(backend.clone(), other.clone()));
            }
        }
    }
}

impl Reconciler {
    /// What a service contributes, without what another one has. Then it is to be made anew for those who are returned, too.
    pub(super) fn claim(
        &mut self,
        now: Duration,
        service: &ServiceKey,
        contribution: &mut Contribution,
    ) -> BTreeSet<ServiceKey> {
        let changed = self.claims.settle(now, service, contribution);
        self.claims.apply(service, contribution);
        changed
    }

    /// Says what is rejected now and was not, and the other way round.
    pub(super) fn tell_rejections(
        &mut self,
        service: &ServiceKey,
        old: &Contribution,
        new: &Contribution,
    ) {
        for rejection in old.rejections.difference(&new.rejections) {
            self.outputs.push_back(Output::Tell(Fact::Unrejected(
                service.clone(),
                rejection.clone(),
            )));
        }
        for rejection in new.rejections.difference(&old.rejections) {
            self.outputs.push_back(Output::Tell(Fact::Rejected(
                service.clone(),
                rejection.clone(),
            )));
        }
    }

    /// Gives on what is free.
    pub(super) fn pass_on_claims(&mut self, now: Duration) {
        for service in self.claims.pass_on(now, self.policy.hold) {
            self.contribute(now, &service, true);
        }
    }
}
