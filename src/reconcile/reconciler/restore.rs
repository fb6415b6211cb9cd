//! What a sidecar leaves to its successor, for when that one starts without Nomad, and what the successor makes of it.
//!
//! It is a catalog that nobody has confirmed: what it has is admitted by HAProxy's checks, what it lacks proves nothing,
//! and what Nomad does not list later is read before it is believed to be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use super::{Mode, Output, Reconciler};
use crate::{
    model::{BackendName, Registration, ServiceKey},
    reconcile::{
        backend::Backend,
        desired::{DesiredServer, with_profile},
        hold::Hold,
        server_name::is_dynamic_name,
    },
};

/// The catalog as it was known, and what was held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// All services with registrations.
    pub services: BTreeMap<ServiceKey, Vec<Registration>>,
    /// Servers that were in rotation without a registration.
    pub holds: Vec<HeldServer>,
}

/// A server that is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldServer {
    /// Where.
    pub backend: BackendName,
    /// As it was desired last.
    pub server: DesiredServer,
    /// Whose servers replace it, if that is remembered.
    pub service: Option<ServiceKey>,
    /// For how long at most from now on.
    pub left: Duration,
}

/// What of the catalog is not Nomad's word but a predecessor's.
#[derive(Default)]
pub(super) struct Restored {
    /// All of it.
    pub(super) unheard: bool,
    /// Services that Nomad has said nothing of so far.
    pub(super) borrowed: BTreeSet<ServiceKey>,
    /// Since when `holds` are waiting for HAProxy to be read.
    at: Duration,
    holds: Vec<HeldServer>,
}

impl Reconciler {
    /// What a successor should know; nothing before Nomad was heard, and nothing while another sidecar is in charge.
    #[must_use]
    pub fn remember(&self, now: Duration) -> Option<Remembered> {
        if self.restored.unheard || self.mode != Mode::Act {
            return None;
        }
        let all = self.catalog.as_ref()?.iter();
        let there = all.filter(|(_, registrations)| !registrations.is_empty());
        let services = there
            .map(|(key, registrations)| (key.clone(), registrations.clone()))
            .collect();
        let mut holds = Vec::new();
        for (name, backend) in &self.backends {
            for hold in backend.memory.holds.values() {
                let at_most = hold.server.leaving.hold.unwrap_or(self.policy.hold);
                // A slot that was held by what HAProxy told of it has no name to be known by.
                if is_dynamic_name(&hold.server.name) {
                    holds.push(HeldServer {
                        backend: name.clone(),
                        server: hold.server.clone(),
                        service: hold.service.clone(),
                        left: at_most.saturating_sub(now.saturating_sub(hold.since)),
                    });
                }
            }
        }
        Some(Remembered { services, holds })
    }

    /// Takes in what a predecessor left, unless Nomad was heard before.
    pub(super) fn restored(&mut self, now: Duration, remembered: Remembered) {
        if self.catalog.is_some() {
            return;
        }
        let Remembered {
            mut services,
            holds,
        } = remembered;
        // Of these it has to be proven, too, that nothing is registered.
        let held = holds.iter().filter_map(|held| held.service.clone());
        for service in held {
            services.entry(service).or_default();
        }
        self.restored = Restored {
            unheard: true,
            borrowed: services.keys().cloned().collect(),
            at: now,
            holds,
        };
        self.synced(now, services, BTreeSet::new());
    }

    /// Nomad was heard: `services` gets what it lacks and nobody has proven to be gone, until that was read.
    pub(super) fn keep_borrowed(
        &mut self,
        now: Duration,
        services: &mut BTreeMap<ServiceKey, Vec<Registration>>,
    ) {
        let Some(catalog) = &self.catalog else { return };
        if mem::take(&mut self.restored.unheard)
            && let Some(process) = &mut self.process
        {
            // Who else may have left servers is only asked now.
            process.read_everything_at = now;
        }
        let borrowed = &mut self.restored.borrowed;
        borrowed.retain(|service| !services.contains_key(service));
        if borrowed.is_empty() {
            return;
        }
        for service in borrowed.iter() {
            let known = catalog.get(service).cloned().unwrap_or_default();
            services.insert(service.clone(), known);
        }
        self.unanswered.extend(borrowed.iter().cloned());
        self.outputs.push_back(Output::Prove(borrowed.clone()));
    }

    /// Holds what was held, where HAProxy has a backend for it.
    pub(super) fn restore_holds(&mut self, now: Duration) {
        let process = self.process.as_ref();
        let Some(places) = process.and_then(|process| process.places.as_ref()) else {
            return;
        };
        for held in mem::take(&mut self.restored.holds) {
            let HeldServer {
                backend: name,
                mut server,
                service,
                left,
            } = held;
            let is_allowed = service
                .as_ref()
                .is_none_or(|service| self.policy.rules.backend(service, &name).is_ok());
            if !(places.can_make || places.backends.contains(&name)) || !is_allowed {
                continue;
            }
            let Ok(fixed) = with_profile(&server.fixed, &server.service, &self.policy) else {
                continue;
            };
            server.fixed = fixed;
            let waited = now.saturating_sub(self.restored.at);
            server.leaving.hold = Some(left.saturating_sub(waited));
            self.members
                .entry(name.clone())
                .or_default()
                .extend(service.clone());
            let backend = self.backends.entry(name).or_insert_with(Backend::new);
            let hold = Hold {
                service,
                since: now,
                is_awaited: true,
                guard: None,
                recalled: false,
                server,
            };
            if backend.memory.life.profile.is_none() && places.can_make {
                backend.memory.life.profile = self.policy.backend_profiles.first().cloned();
            }
            backend.memory.holds.insert(hold.server.identity(), hold);
        }
    }
}
