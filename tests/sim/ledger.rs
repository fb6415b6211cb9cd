//! What may be taken out of HAProxy: the simulation's own book of what the sidecar was told, kept apart from the mirror
//! and the core that are on trial.
//!
//! A *claim* is one registration as it was told: service, ID, address and tags. It may be taken out when its absence was
//! told after its presence: by a deletion, by an event or reading that has it otherwise, or by a reading without it. A
//! new sidecar inherits the claims of the one before, since HAProxy still has their servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use haproxy_nomad_sidecar::{
    catalog::{Heard, Reading, Scope, Tell, Wanted},
    model::{BackendName, NomadEvent, Registration, ServerName, ServiceKey},
    reconcile::{
        Policy, Remembered,
        desired::{DesiredServer, contribution},
        made::Places,
    },
};

use crate::{
    claim::{Claim, Tenant, is_at, is_same},
    nomad_model::Table,
};

/// What a HAProxy of this version has, and whether it can have more.
pub(crate) fn places(backends: BTreeSet<BackendName>, version: &str) -> Places {
    Places {
        can_make: version.starts_with("3.4"),
        ..Places::from(backends)
    }
}

#[derive(Clone)]
pub(crate) struct Ledger {
    places: Places,
    policy: Policy,
    claims: BTreeMap<(ServiceKey, Arc<str>), Vec<Claim>>,
    /// What the mirror could not read.
    unproven: BTreeSet<Scope>,
    /// Since when that is nothing.
    all_read_since: Option<Duration>,
    is_synced: bool,
}

impl Ledger {
    pub(crate) fn new(places: Places, policy: Policy) -> Self {
        Self {
            places,
            policy,
            claims: BTreeMap::new(),
            unproven: BTreeSet::new(),
            all_read_since: None,
            is_synced: false,
        }
    }

    pub(crate) fn places(&self) -> Places {
        self.places.clone()
    }

    /// The server that a registration asks for, as the core resolves it.
    pub(crate) fn resolve(
        &self,
        registration: &Registration,
    ) -> Option<(BackendName, DesiredServer)> {
        let one = std::slice::from_ref(registration);
        let servers = contribution(&registration.service, one, &self.places, &self.policy).servers;
        let mut servers = servers.into_iter().flat_map(|(backend, servers)| {
            servers
                .into_iter()
                .map(move |server| (backend.clone(), server))
        });
        servers.next()
    }

    /// Of what is gone, and has no server any more, nobody will ask.
    pub(crate) fn forget_the_gone(&mut self) {
        for claims in self.claims.values_mut() {
            claims.retain(|claim| claim.told || !claim.removable);
        }
        self.claims.retain(|_, claims| !claims.is_empty());
    }

    /// A new sidecar, or another past of the catalog: indexes say nothing any more.
    pub(crate) fn forget_indexes(&mut self, is_new_sidecar: bool) {
        for claim in self.claims.values_mut().flatten() {
            claim.index = 0;
            claim.told &= !is_new_sidecar;
            claim.borrowed &= !is_new_sidecar;
        }
        self.all_read_since.take_if(|_| is_new_sidecar);
        self.is_synced &= !is_new_sidecar;
    }

    /// A sidecar that has not heard Nomad yet takes in what the one before knew.
    pub(crate) fn restored(&mut self, remembered: &Remembered) {
        if self.is_synced {
            return;
        }
        for registration in remembered.services.values().flatten() {
            self.claim(registration).borrowed = true;
        }
    }

    /// Something reaches the mirror.
    pub(crate) fn heard(&mut self, heard: &Heard) {
        if let Heard::Listed {
            result: Ok(listing),
            ..
        } = heard
        {
            // What a mirror has never known, nothing but a list can tell it to be absent, or not to take part.
            let wanted = Wanted::new("haproxy", false);
            for ((service, _), claims) in &mut self.claims {
                let listed = listing
                    .services
                    .iter()
                    .any(|one| one.key == *service && wanted.wants(&one.tags));
                for claim in claims.iter_mut().filter(|claim| !listed && !claim.told) {
                    claim.removable |= claim.index <= listing.index;
                }
            }
        }
        let Heard::StreamLine { line, .. } = heard else {
            return;
        };
        for event in &line.events {
            match event {
                NomadEvent::Registered(registration) => self.present(registration, line.index),
                NomadEvent::Deregistered(gone) => {
                    let key = (gone.service.clone(), gone.id.clone());
                    for claim in self.claims.entry(key).or_default() {
                        claim.removable |= claim.index < line.index;
                    }
                }
            }
        }
    }

    /// A reading of one service reaches the mirror.
    pub(crate) fn heard_read(&mut self, service: &ServiceKey, reading: &Reading) {
        for registration in &reading.registrations {
            self.present(registration, reading.index);
        }
        let present: BTreeSet<_> = reading
            .registrations
            .iter()
            .map(|one| one.id.clone())
            .collect();
        for ((of, id), claims) in &mut self.claims {
            if of == service && !present.contains(id) {
                for claim in claims {
                    claim.removable |= claim.index <= reading.index;
                }
            }
        }
    }

    fn present(&mut self, registration: &Registration, index: u64) {
        let claim = self.claim(registration);
        claim.index = claim.index.max(index);
        self.supersede(registration, index);
    }

    fn claim(&mut self, registration: &Registration) -> &mut Claim {
        let server = self.resolve(registration);
        let claims = self
            .claims
            .entry((registration.service.clone(), registration.id.clone()))
            .or_default();
        let at = claims
            .iter()
            .position(|claim| is_same(&claim.registration, registration));
        let at = at.unwrap_or_else(|| {
            claims.push(Claim {
                registration: registration.clone(),
                server,
                index: 0,
                removable: true,
                told: false,
                told_since: Duration::ZERO,
                gone_since: None,
                gone_before: None,
                gone_last: Duration::ZERO,
                generation: 0,
                borrowed: false,
            });
            claims.len() - 1
        });
        claims[at].registration = registration.clone();
        &mut claims[at]
    }

    /// The same registration, told otherwise than before.
    fn supersede(&mut self, registration: &Registration, index: u64) {
        let key = (registration.service.clone(), registration.id.clone());
        for claim in self.claims.get_mut(&key).into_iter().flatten() {
            if !is_same(&claim.registration, registration) {
                claim.removable |= claim.index < index;
            }
        }
    }

    /// The mirror says something. Gives what it may not say.
    pub(crate) fn told(&mut self, tell: &Tell, by: (Duration, u32)) -> Result<(), String> {
        match tell {
            Tell::Changed {
                key, registrations, ..
            } => {
                self.unproven.remove(&Scope::Service(key.clone()));
                self.note_what_is_read(by.0);
                self.return_borrowed(|service| service == key);
                self.replaced(key, registrations, by)
            }
            Tell::Synced(synced) => {
                self.is_synced = true;
                self.unproven.clone_from(&synced.unproven);
                self.note_what_is_read(by.0);
                self.return_borrowed(|service| synced.services.contains_key(service));
                let known: BTreeSet<_> = self
                    .claims
                    .keys()
                    .map(|(service, _)| service.clone())
                    .collect();
                for service in known.iter().chain(synced.services.keys()) {
                    let none = Vec::new();
                    self.replaced(service, synced.services.get(service).unwrap_or(&none), by)?;
                }
                // What could not be read is not there, and not gone either.
                for ((service, _), claims) in &mut self.claims {
                    let is_its = |scope: &Scope| match scope {
                        Scope::Namespace(namespace) => {
                            **namespace == *"*" || *namespace == service.namespace
                        }
                        Scope::Service(one) => one == service,
                    };
                    if synced.unproven.iter().any(is_its) {
                        let unread = claims.iter_mut().filter(|claim| !claim.told);
                        let gone_now = unread.filter(|claim| claim.gone_since == Some(by.0));
                        gone_now.for_each(|claim| claim.gone_since = None);
                    }
                }
                Ok(())
            }
            Tell::Current { .. }
            | Tell::Following { .. }
            | Tell::Rereads { .. }
            | Tell::StreamLost { .. }
            | Tell::IndexWentBack { .. }
            | Tell::Trouble { .. }
            | Tell::Recovered { .. } => Ok(()),
        }
    }

    fn note_what_is_read(&mut self, now: Duration) {
        if self.unproven.is_empty() {
            self.all_read_since.get_or_insert(now);
        } else {
            self.all_read_since = None;
        }
    }

    fn return_borrowed(&mut self, is_told: impl Fn(&ServiceKey) -> bool) {
        let told = self
            .claims
            .iter_mut()
            .filter(|((service, _), _)| is_told(service));
        told.flat_map(|(_, claims)| claims)
            .for_each(|claim| claim.borrowed = false);
    }

    fn replaced(
        &mut self,
        service: &ServiceKey,
        registrations: &[Registration],
        (now, generation): (Duration, u32),
    ) -> Result<(), String> {
        for registration in registrations {
            let claim = self.claim(registration);
            // Said once more, it is no news: a read without it may be waiting for others to be adopted with it.
            claim.removable &= claim.told;
            if !claim.told {
                claim.told_since = now;
                claim.gone_before = claim.gone_since;
            }
            claim.told = true;
            claim.gone_since = None;
            claim.generation = generation;
        }
        for ((of, id), claims) in &mut self.claims {
            if of != service {
                continue;
            }
            for claim in claims {
                if registrations
                    .iter()
                    .any(|one| is_same(one, &claim.registration))
                {
                    continue;
                }
                if claim.told && !claim.removable && claim.server.is_some() {
                    return Err(format!(
                        "the mirror drops {service} {id} without having been told"
                    ));
                }
                // Told in one breath that it is there and that it is not, nobody has seen it there.
                if claim.told && claim.told_since == now {
                    claim.gone_since = claim.gone_before;
                }
                if claim.told {
                    claim.gone_last = now;
                }
                claim.told = false;
                // Tags that no sidecar was told of are nobody's.
                if claim.generation > 0 {
                    claim.gone_since.get_or_insert(now);
                }
            }
        }
        Ok(())
    }

    /// What the mirror has said to be there and is not, as a deletion without an event that was not found yet.
    pub(crate) fn outdated(&self, table: &Table) -> Option<&Registration> {
        let claims = self.claims.values().flatten();
        claims
            .filter(|claim| claim.told && claim.server.is_some())
            .map(|claim| &claim.registration)
            .find(|one| {
                let now = table.get(&(one.service.clone(), one.id.clone()));
                !now.is_some_and(|now| is_same(now, one))
            })
    }

    /// Whether the mirror has said of all of these since then that they are there.
    pub(crate) fn knows<'a>(
        &self,
        mut all: impl Iterator<Item = &'a Registration>,
        since: Duration,
    ) -> bool {
        all.all(|one| {
            let claims = self.claims.get(&(one.service.clone(), one.id.clone()));
            let mut claims = claims.into_iter().flatten();
            claims.any(|claim| {
                claim.told && claim.told_since <= since && is_same(&claim.registration, one)
            })
        })
    }

    /// The registrations whose server this is and that may not be taken out. `name` only of a dynamic server.
    pub(crate) fn owners(
        &self,
        backend: &str,
        address: SocketAddr,
        name: Option<&str>,
    ) -> Vec<&Registration> {
        let mut here: Vec<_> = self
            .claims
            .values()
            .flatten()
            .filter(|claim| !claim.removable)
            .filter_map(|claim| Some((claim, claim.server.as_ref()?)))
            .filter(|(_, (of, server))| of.as_str() == backend && is_at(server, address))
            .collect();
        // Of several with one address only the youngest is served.
        here.sort_by_key(|(claim, _)| claim.registration.create_index);
        let youngest = here.pop();
        youngest
            .filter(|(_, (_, server))| name.is_none_or(|name| server.name.as_str() == name))
            .map(|(claim, _)| &claim.registration)
            .into_iter()
            .collect()
    }

    /// How long a server is held without a tag.
    pub(crate) fn hold(&self) -> Duration {
        self.policy.hold
    }

    /// All whose server this was or is. `name` only of a dynamic server.
    pub(crate) fn tenants(
        &self,
        backend: &str,
        address: SocketAddr,
        name: Option<&str>,
    ) -> Vec<Tenant> {
        let here = self.claims.values().flatten().filter(|claim| {
            claim.server.as_ref().is_some_and(|(of, server)| {
                of.as_str() == backend
                    && is_at(server, address)
                    && name.is_none_or(|name| server.name.as_str() == name)
            })
        });
        here.filter_map(Claim::tenant).collect()
    }

    /// The server that a registration asks for here now, at the same address with other tags.
    pub(crate) fn successor(&self, backend: &str, tenant: &Tenant) -> Option<ServerName> {
        let mut claims = self.claims.values().flatten();
        claims.find_map(|claim| {
            let (of, server) = claim.server.as_ref()?;
            let is_here = of.as_str() == backend && server.address == tenant.address;
            (claim.told && is_here && claim.tenant().is_some_and(|one| one.is(tenant)))
                .then(|| server.name.clone())
        })
    }

    /// Whether anything resolves to this backend, as far as the sidecar knows.
    pub(crate) fn follows(&self, backend: &str) -> bool {
        let there = self
            .claims
            .values()
            .flatten()
            .filter(|claim| claim.is_there());
        let mut servers = there.filter_map(|claim| claim.server.as_ref());
        servers.any(|(of, _)| of.as_str() == backend)
    }

    /// Whether a service is there that may not be taken out, and all of its registrations were such then.
    pub(crate) fn is_asked_for(
        &self,
        namespace: &str,
        service: &str,
        then: Duration,
        asks: impl Fn(&Registration) -> bool,
    ) -> bool {
        let claims = self.claims.iter();
        let of_it = claims.filter(|((of, _), _)| *of == ServiceKey::new(namespace, service));
        let was_there = |claim: &&Claim| {
            !claim.removable
                || claim.is_there()
                || claim.gone_since.is_some_and(|gone| gone >= then)
        };
        let claims = of_it.flat_map(|(_, claims)| claims);
        let here: Vec<_> = claims
            .filter(|claim| claim.server.is_some())
            .filter(was_there)
            .collect();
        here.iter().any(|claim| !claim.removable)
            && here.iter().all(|claim| asks(&claim.registration))
    }

    /// Whether a registration asks for a server at the same address in this other backend now.
    pub(crate) fn moved(&self, tenant: &Tenant, from: &str, to: &str) -> bool {
        let told = self.claims.values().flatten().filter(|claim| claim.told);
        let mut at = told.filter_map(|claim| Some((claim.server.as_ref()?, claim.tenant()?)));
        at.any(|((backend, server), one)| {
            let is_there = backend.as_str() == to && server.address == tenant.address;
            from != to && is_there && one.is(tenant)
        })
    }

    /// Whether an address was another's too, in any backend, since then.
    pub(crate) fn others_at(&self, address: SocketAddr, tenant: &Tenant, since: Duration) -> bool {
        self.at(address)
            .filter(|claim| claim.is_there() || claim.gone_since.is_some_and(|gone| gone >= since))
            .filter_map(Claim::tenant)
            .any(|one| !one.is(tenant))
    }

    /// Whether an address is somebody else's now.
    pub(crate) fn is_anothers(&self, address: SocketAddr, tenant: Option<&Tenant>) -> bool {
        self.at(address)
            .filter(|claim| claim.is_there())
            .filter_map(Claim::tenant)
            .any(|one| tenant.is_none_or(|tenant| !one.is(tenant)))
    }

    /// Who has an address since then at the latest, if nobody has it in this backend, as far as the mirror has said. What this
    /// sidecar has never known to be there, since it first read HAProxy, is let alone while something cannot be read.
    pub(crate) fn stranger_at(
        &self,
        backend: &str,
        address: SocketAddr,
        since: Duration,
        by: (u32, Option<Duration>),
    ) -> Option<String> {
        let is_here = |claim: &&Claim| {
            let server = claim.server.as_ref();
            server.is_some_and(|(of, _)| of.as_str() == backend)
        };
        let (here, elsewhere): (Vec<_>, Vec<_>) = self.at(address).partition(is_here);
        let all_is_read = self.all_read_since.is_some_and(|at| at <= since);
        let is_gone = |claim: &&Claim| {
            let was_known =
                claim.generation == by.0 && by.1.is_some_and(|at| Some(at) < claim.gone_since);
            !claim.is_there()
                && (all_is_read || was_known)
                && claim.gone_since.is_some_and(|at| at <= since)
        };
        // Two services of one allocation may have one port.
        let is_same_task = |one: &&Claim| {
            let alloc_id = &one.registration.alloc_id;
            here.iter()
                .any(|two| two.registration.alloc_id == *alloc_id)
        };
        let stranger = elsewhere
            .into_iter()
            .find(|claim| claim.told && claim.told_since <= since && !is_same_task(claim))?;
        here.iter()
            .all(is_gone)
            .then(|| stranger.registration.id.to_string())
    }

    fn at(&self, address: SocketAddr) -> impl Iterator<Item = &Claim> {
        self.claims.values().flatten().filter(move |claim| {
            let server = claim.server.as_ref();
            server.is_some_and(|(_, server)| is_at(server, address))
        })
    }
}
