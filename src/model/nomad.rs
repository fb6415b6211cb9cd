//! What the Nomad service catalog says, as it says it: nothing here is validated yet.

use std::{fmt, sync::Arc};

/// A service of one namespace: the unit in which the catalog is read and believed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The service's name. Interpolated on the client, so at run time it can be any text.
    pub name: Arc<str>,
}

impl ServiceKey {
    /// The service `name` of `namespace`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}/{:?}", self.namespace, self.name)
    }
}

/// What a failure, or a lack of proof, is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everything in a namespace (or `*`).
    Namespace(Arc<str>),
    /// One service.
    Service(ServiceKey),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(namespace) => write!(f, "namespace {namespace}"),
            Self::Service(key) => write!(f, "service {key}"),
        }
    }
}

/// One `ServiceRegistration` of Nomad (`nomad/structs/service_registration.go`, the same fields from 1.3 to 2.0).
/// Everything in it was written by somebody who can run a job: hostile until validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Unique in its namespace; stable across tag changes of the same allocation.
    pub id: Arc<str>,
    /// The service and its namespace.
    pub service: ServiceKey,
    /// The allocation that registered it.
    pub alloc_id: Arc<str>,
    /// The job of that allocation.
    pub job_id: Arc<str>,
    /// The tags, in the catalog's order.
    pub tags: Vec<String>,
    /// An IP address, a host name, or nothing at all.
    pub address: String,
    /// The port; 0 when the service has none.
    pub port: i64,
    /// The Raft index that created this registration. A return after a deregistration has a new one.
    pub create_index: u64,
    /// The Raft index of its last change.
    pub modify_index: u64,
}

/// An allocation: its namespace and its ID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllocationId {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The ID.
    pub id: Arc<str>,
}

/// What Nomad says of an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// It runs, and is to run on.
    Running,
    /// Whoever runs it is ending it, or a task of it.
    Stopping,
    /// It has ended, or counts as lost: its client status.
    Ended(Arc<str>),
    /// Nothing that helps: it was not told, or is something else.
    Unknown,
}

impl Registration {
    /// What it takes in memory, about, in bytes.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// What a text takes beside its bytes.
        const TEXT: usize = 40;
        let texts = [
            &*self.id,
            &*self.service.namespace,
            &*self.service.name,
            &*self.alloc_id,
            &*self.job_id,
            &self.address,
        ];
        let tags = self.tags.iter().map(String::as_str);
        let texts = texts.into_iter().chain(tags);
        size_of::<Self>() + texts.map(|text| text.len() + TEXT).sum::<usize>()
    }
}

/// One change of the catalog, from the event stream. `Type` names the Raft message that caused it, so whatever is not
/// `ServiceRegistration` is a deletion (nomad/state/events.go).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NomadEvent {
    /// A registration was made or changed.
    Registered(Registration),
    /// A registration was deleted; this is how it was before.
    Deregistered(Registration),
}

impl NomadEvent {
    /// The registration that the event is about.
    #[must_use]
    pub fn registration(&self) -> &Registration {
        match self {
            Self::Registered(registration) | Self::Deregistered(registration) => registration,
        }
    }
}
