//! The JSON of a snapshot. What is read of it is as hostile as what Nomad says: nothing is believed but its form.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    Refusal, Snapshot, Source,
    held::{HeldWire, millis},
};
use crate::{
    model::{Registration, ServiceKey},
    reconcile::Remembered,
};

#[derive(Deserialize, Serialize)]
pub(super) struct Body {
    pub(super) source: Source,
    index: u64,
    /// Milliseconds since the epoch, like all times here.
    written: u64,
    current: BTreeMap<String, u64>,
    services: Vec<ServiceWire>,
    holds: Vec<HeldWire>,
}

#[derive(Deserialize, Serialize)]
struct ServiceWire {
    namespace: String,
    name: String,
    registrations: Vec<RegistrationWire>,
}

#[derive(Deserialize, Serialize)]
struct RegistrationWire {
    id: String,
    alloc: String,
    job: String,
    tags: Vec<String>,
    address: String,
    port: i64,
    created: u64,
    modified: u64,
}

impl Body {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let Snapshot {
            source,
            index,
            current,
            written,
            remembered,
        } = snapshot;
        let services = remembered.services.iter();
        let current = current.iter();
        Self {
            source: source.clone(),
            index: *index,
            written: millis(*written),
            current: current
                .map(|(namespace, at)| (namespace.clone(), millis(*at)))
                .collect(),
            services: services
                .map(|(key, registrations)| ServiceWire {
                    namespace: key.namespace.to_string(),
                    name: key.name.to_string(),
                    registrations: registrations.iter().map(RegistrationWire::of).collect(),
                })
                .collect(),
            holds: remembered
                .holds
                .iter()
                .map(|held| HeldWire::of(held, *written))
                .collect(),
        }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, numbers, and maps whose keys are texts")
    }

    pub(super) fn from_json(json: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(json).map_err(|error| Refusal::Damaged(error.to_string()))
    }

    /// With the holds that are not over at `now`.
    pub(super) fn into_snapshot(self, now: Duration) -> Result<Snapshot, Refusal> {
        let mut services: BTreeMap<ServiceKey, Vec<Registration>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for service in self.services {
            let key = ServiceKey::new(&service.namespace, &service.name);
            if !seen.insert(key.clone()) {
                return Err(Refusal::Damaged("a service is in it twice".to_owned()));
            }
            let registrations = service.registrations.into_iter();
            let registrations = registrations.map(|one| one.into_registration(&key));
            services.insert(key.clone(), registrations.collect());
        }
        let holds = self.holds.into_iter();
        Ok(Snapshot {
            index: self.index,
            current: self
                .current
                .into_iter()
                .filter(|(namespace, _)| self.source.namespaces.contains(namespace))
                .map(|(namespace, at)| (namespace, Duration::from_millis(at)))
                .collect(),
            written: Duration::from_millis(self.written),
            source: self.source,
            remembered: Remembered {
                services,
                holds: holds.filter_map(|held| held.into_held(now)).collect(),
            },
        })
    }
}

impl RegistrationWire {
    fn of(registration: &Registration) -> Self {
        Self {
            id: registration.id.to_string(),
            alloc: registration.alloc_id.to_string(),
            job: registration.job_id.to_string(),
            tags: registration.tags.clone(),
            address: registration.address.clone(),
            port: registration.port,
            created: registration.create_index,
            modified: registration.modify_index,
        }
    }

    fn into_registration(self, service: &ServiceKey) -> Registration {
        Registration {
            id: self.id.into(),
            service: service.clone(),
            alloc_id: self.alloc.into(),
            job_id: self.job.into(),
            tags: self.tags,
            address: self.address,
            port: self.port,
            create_index: self.created,
            modify_index: self.modified,
        }
    }
}
