//! The metrics about Nomad: what is asked of it, and how its namespaces are followed. Labels have fixed values, or are the
//! namespaces that the operator has named.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Instant,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::{Followed, Status, register::register};

/// Every metric about Nomad.
#[derive(Debug)]
pub struct NomadMetrics {
    requests: Family<ByOutcome, Counter>,
    received: Family<ByKind, Counter>,
    followed: Family<ByFollowed, Gauge>,
    index: Family<ByNamespace, Gauge<u64, AtomicU64>>,
    age: Family<ByNamespace, Gauge<f64, AtomicU64>>,
    cuts: Family<ByNamespace, Counter>,
    went_back: Family<ByNamespace, Counter>,
    rereads: Family<ByCause, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByNamespace {
    namespace: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByFollowed {
    namespace: String,
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCause {
    cause: &'static str,
}

impl NomadMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        Self {
            requests: register(
                to,
                "nomad_requests",
                "Requests to Nomad, by kind and by what became of them",
                Family::default(),
            ),
            received: {
                let received = Family::<ByKind, Counter>::default();
                to.register_with_unit(
                    "nomad_received",
                    "What came in the bodies of Nomad's answers and streams",
                    Unit::Bytes,
                    received.clone(),
                );
                received
            },
            followed: register(
                to,
                "namespace_followed",
                "1 for how the namespace is followed now",
                Family::default(),
            ),
            index: register(
                to,
                "namespace_index",
                "The highest index of Nomad's table of registrations that is known",
                Family::default(),
            ),
            age: {
                let age = Family::<ByNamespace, Gauge<f64, AtomicU64>>::default();
                to.register_with_unit(
                    "namespace_age",
                    "Since the namespace was last known to be current; since the start, when it never was",
                    Unit::Seconds,
                    age.clone(),
                );
                age
            },
            cuts: register(
                to,
                "stream_cuts",
                "Event streams that were open and ended",
                Family::default(),
            ),
            went_back: register(
                to,
                "index_went_back",
                "Times that Nomad's index went back, as when its servers are restored from a snapshot",
                Family::default(),
            ),
            rereads: register(
                to,
                "rereads",
                "Services that were read, by cause",
                Family::default(),
            ),
        }
    }

    /// So many requests of this kind ended so, since the start.
    pub fn requests(&self, kind: &'static str, outcome: &'static str, total: u64) {
        let counter = self.requests.get_or_create(&ByOutcome { kind, outcome });
        counter.inner().store(total, Ordering::Relaxed);
    }

    /// So many bytes came for this kind, since the start.
    pub fn received_bytes(&self, kind: &'static str, total: u64) {
        let counter = self.received.get_or_create(&ByKind { kind });
        counter.inner().store(total, Ordering::Relaxed);
    }

    /// The stream of this namespace was cut.
    pub fn stream_cut(&self, namespace: &str) {
        self.cuts.get_or_create(&by_namespace(namespace)).inc();
    }

    /// The index of this namespace went back.
    pub fn index_went_back(&self, namespace: &str) {
        self.went_back.get_or_create(&by_namespace(namespace)).inc();
    }

    /// So many services are read, for this cause.
    pub fn reread(&self, cause: &'static str, services: usize) {
        let services = u64::try_from(services).unwrap_or(u64::MAX);
        let counter = self.rereads.get_or_create(&ByCause { cause });
        counter.inc_by(services);
    }

    /// What the status says of the namespaces, as of `now`.
    pub(super) fn show(&self, status: &Status, now: Instant) {
        // Namespaces that are no longer followed since SIGHUP are not shown.
        self.followed.clear();
        self.index.clear();
        self.age.clear();
        for namespace in &status.namespaces {
            let name = &namespace.name;
            for by in Followed::ALL {
                let label = ByFollowed {
                    namespace: name.clone(),
                    by: by.name(),
                };
                let is_so = i64::from(by == namespace.followed);
                self.followed.get_or_create(&label).set(is_so);
            }
            if let Some(index) = namespace.index {
                self.index.get_or_create(&by_namespace(name)).set(index);
            }
            let known = namespace.known_at.unwrap_or(status.started);
            let age = now.saturating_duration_since(known).as_secs_f64();
            self.age.get_or_create(&by_namespace(name)).set(age);
            // A rate over a counter needs its zero.
            drop(self.cuts.get_or_create(&by_namespace(name)));
            drop(self.went_back.get_or_create(&by_namespace(name)));
        }
    }
}

fn by_namespace(namespace: &str) -> ByNamespace {
    ByNamespace {
        namespace: namespace.to_owned(),
    }
}
