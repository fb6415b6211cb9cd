//! Registrations and events, as they stand in answers: the same keys in the same order.

use std::collections::BTreeSet;

use haproxy_nomad_sidecar::model::{Registration, ServiceKey};
use serde::{Deserialize, Serialize};

/// A registration as Nomad writes it: the same keys in the same order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServiceRegistration {
    #[serde(rename = "Address")]
    pub(crate) address: String,
    #[serde(rename = "AllocID")]
    pub(crate) alloc_id: String,
    #[serde(rename = "CreateIndex")]
    pub(crate) create_index: u64,
    #[serde(rename = "Datacenter")]
    pub(crate) datacenter: String,
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "JobID")]
    pub(crate) job_id: String,
    #[serde(rename = "ModifyIndex")]
    pub(crate) modify_index: u64,
    #[serde(rename = "Namespace")]
    pub(crate) namespace: String,
    #[serde(rename = "NodeID")]
    pub(crate) node_id: String,
    #[serde(rename = "Port")]
    pub(crate) port: i64,
    #[serde(rename = "ServiceName")]
    pub(crate) service_name: String,
    /// `null` only where something other than a Nomad client has written it.
    #[serde(rename = "Tags")]
    pub(crate) tags: Option<Vec<String>>,
}

impl Default for ServiceRegistration {
    fn default() -> Self {
        let mut unnamed = Self::new("web", 1, 8080);
        unnamed.id.clear();
        unnamed.alloc_id.clear();
        unnamed.job_id.clear();
        unnamed
    }
}

impl From<ServiceRegistration> for Registration {
    /// The same as the product has it.
    fn from(row: ServiceRegistration) -> Self {
        Self {
            id: row.id.into(),
            service: ServiceKey::new(&row.namespace, &row.service_name),
            alloc_id: row.alloc_id.into(),
            job_id: row.job_id.into(),
            tags: row.tags.unwrap_or_default(),
            address: row.address,
            port: row.port,
            create_index: row.create_index,
            modify_index: row.modify_index,
        }
    }
}

impl ServiceRegistration {
    /// What allocation number `alloc` of a job called `service` registers in the namespace `default`.
    pub(crate) fn new(service: &str, alloc: u32, port: i64) -> Self {
        let alloc_id = format!("{alloc:08x}-7777-7777-7777-777777777777");
        Self {
            address: "127.0.0.1".into(),
            id: format!("_nomad-task-{alloc_id}-group-grp-{service}-http"),
            alloc_id,
            create_index: 0,
            datacenter: "dc1".into(),
            job_id: service.into(),
            modify_index: 0,
            namespace: "default".into(),
            node_id: "b84a04da-6d7e-04af-3ecd-b54dbaf7447a".into(),
            port,
            service_name: service.into(),
            tags: Some(Vec::new()),
        }
    }

    /// With an allocation, an ID and a job after service and port, where none are given.
    pub(crate) fn complete(mut self) -> Self {
        let number = u32::try_from(self.port).unwrap_or_default();
        let whole = Self::new(&self.service_name, number, self.port);
        if self.alloc_id.is_empty() {
            self.alloc_id = whole.alloc_id;
        }
        if self.id.is_empty() {
            let (alloc, service) = (&self.alloc_id, &self.service_name);
            self.id = format!("_nomad-task-{alloc}-group-grp-{service}-http");
        }
        if self.job_id.is_empty() {
            self.job_id = whole.job_id;
        }
        self
    }

    pub(crate) fn tags(mut self, tags: &[&str]) -> Self {
        self.tags = Some(tags.iter().map(ToString::to_string).collect());
        self
    }

    pub(crate) fn address(mut self, address: &str) -> Self {
        self.address = address.into();
        self
    }

    pub(crate) fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = namespace.into();
        self
    }

    pub(crate) fn key(&self) -> Key {
        (self.namespace.clone(), self.id.clone())
    }

    /// Nomad's `Equal`: without the indexes, and the order of the tags does not matter.
    pub(crate) fn equal(&self, other: &Self) -> bool {
        let comparable = |registration: &Self| {
            let mut copy = registration.clone();
            (copy.create_index, copy.modify_index) = (0, 0);
            copy.tags.get_or_insert_default().sort();
            copy
        };
        comparable(self) == comparable(other)
    }
}

/// Namespace and ID: what makes a registration unique.
pub(crate) type Key = (String, String);

/// The Raft message that deletes a registration, which is what the event's `Type` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Deletion {
    /// The client or an operator deregistered it.
    ServiceDeregistration,
    /// A plan marked its allocation lost (1.10.4 and later).
    PlanResult,
    /// The client reported its allocation as ended.
    AllocationUpdated,
    /// Its node went down (1.8.0 to 1.10.3).
    NodeStreamEvent,
}

/// What one Raft entry published.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) index: u64,
    pub(crate) events: Vec<Event>,
}

/// One change in a batch.
#[derive(Debug)]
pub(crate) struct Event {
    topic: String,
    namespace: String,
    keys: Vec<String>,
    json: String,
}

/// What a stream asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Topic and key; an empty key means every one.
    pub(crate) topics: Vec<(String, String)>,
    /// The namespaces that are delivered, fixed when the stream is opened, as since 1.9.6.
    pub(crate) namespaces: BTreeSet<String>,
}

impl Batch {
    /// The line that a stream gets of this batch, without its newline.
    pub(crate) fn line(&self, wanted: &Wanted) -> Option<String> {
        let events: Vec<&str> = self
            .events
            .iter()
            .filter(|event| {
                wanted.namespaces.contains(&event.namespace)
                    && wanted.topics.iter().any(|(topic, key)| {
                        *topic == event.topic && (key.is_empty() || event.keys.contains(key))
                    })
            })
            .map(|event| event.json.as_str())
            .collect();
        (!events.is_empty()).then(|| {
            format!(
                r#"{{"Events":[{}],"Index":{}}}"#,
                events.join(","),
                self.index
            )
        })
    }
}

impl Event {
    /// What the change to `registration` is told as.
    pub(crate) fn new(kind: &str, index: u64, registration: &ServiceRegistration) -> Self {
        let ServiceRegistration {
            id,
            job_id,
            namespace,
            service_name,
            ..
        } = registration;
        Self {
            topic: "Service".into(),
            namespace: namespace.clone(),
            keys: vec![id.clone(), job_id.clone(), service_name.clone()],
            json: format!(
                r#"{{"FilterKeys":[{},{}],"Index":{index},"Key":{},"Namespace":{},"Payload":{{"Service":{}}},"Topic":"Service","Type":{}}}"#,
                json(job_id),
                json(service_name),
                json(id),
                json(namespace),
                json(registration),
                json(kind)
            ),
        }
    }
}

/// `value` as Nomad's encoder writes it.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("strings and numbers are always JSON")
}
