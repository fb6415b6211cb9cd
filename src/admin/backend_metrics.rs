//! The metrics about backends and about what becomes of the servers in them. A backend is a label, since whoever is woken
//! wants to know which; only so many are, the others are counted together.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::register::{LATENCIES, count, register};

/// So many backends have a label of their own, in the order of their names: those of HAProxy's configuration are few, and
/// those that are made for services may be many.
const MAX_BACKENDS: usize = 200;

/// The label of all the others: no backend can have this name.
const OTHERS: &str = "(others)";

/// Every metric about backends.
#[derive(Debug)]
pub struct BackendMetrics {
    missing: Family<ByBackend, Gauge>,
    slots: Family<ByBackend, Gauge>,
    slots_used: Family<ByBackend, Gauge>,
    blocked: Family<ByReason, Gauge>,
    arrivals: Histogram,
    admitting: Gauge,
    admissions: Family<ByEnd, Counter>,
    drains: Family<ByEnd, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByBackend {
    backend: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEnd {
    end: &'static str,
}

/// What is told of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendCount {
    /// Registrations that should be in rotation and are not.
    pub missing: usize,
    /// Its slots.
    pub slots: usize,
    /// Slots that are taken.
    pub slots_used: usize,
}

impl BackendMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        let arrivals = Histogram::new(LATENCIES);
        to.register_with_unit(
            "registered_to_in_rotation",
            "From a catalog event that brought a registration to its server being READY and UP",
            Unit::Seconds,
            arrivals.clone(),
        );
        Self {
            missing: register(
                to,
                "backend_servers_missing",
                "Registrations that should have a server in rotation and have none",
                Family::default(),
            ),
            slots: register(
                to,
                "backend_slots",
                "Slots of the backend's server-template line",
                Family::default(),
            ),
            slots_used: register(
                to,
                "backend_slots_used",
                "Slots that have an instance's address",
                Family::default(),
            ),
            blocked: register(
                to,
                "instances_blocked",
                "Registrations that are not served as they ask, by what is in the way",
                Family::default(),
            ),
            arrivals,
            admitting: register(
                to,
                "servers_admitting",
                "Servers that were made ready and wait for HAProxy's check",
                Gauge::default(),
            ),
            admissions: register(
                to,
                "admissions",
                "Servers that were made ready, by what came of it",
                Family::default(),
            ),
            drains: register(to, "drains", "Drains that ended, by how", Family::default()),
        }
    }

    /// A registration that an event brought is in rotation.
    pub fn arrived(&self, seconds: f64) {
        self.arrivals.observe(seconds);
    }

    /// How many servers wait for their check, and how many so far came into rotation, or left before.
    pub fn admissions(&self, waiting: usize, passed: u64, left: u64) {
        self.admitting.set(count(waiting));
        for (end, total) in [("in_rotation", passed), ("left", left)] {
            let counter = self.admissions.get_or_create(&ByEnd { end });
            counter.inner().store(total, Ordering::Relaxed);
        }
    }

    /// A server is drained no longer.
    pub fn drain_ended(&self, end: &'static str) {
        self.drains.get_or_create(&ByEnd { end }).inc();
    }

    /// How things stand in each backend, by its name.
    pub fn backends(&self, backends: &BTreeMap<String, BackendCount>) {
        for family in [&self.missing, &self.slots, &self.slots_used] {
            // What is gone must not be told for ever.
            family.clear();
        }
        let (own, others) = split(backends);
        for (backend, counted) in own {
            self.backend(backend, counted);
        }
        if let Some(counted) = others {
            self.backend(OTHERS, &counted);
        }
    }

    fn backend(&self, backend: &str, counted: &BackendCount) {
        let label = ByBackend {
            backend: backend.to_owned(),
        };
        let set = |family: &Family<ByBackend, Gauge>, number| {
            family.get_or_create(&label).set(count(number));
        };
        set(&self.missing, counted.missing);
        if counted.slots > 0 {
            set(&self.slots, counted.slots);
            set(&self.slots_used, counted.slots_used);
        }
    }

    /// How many registrations each of these is in the way of.
    pub fn blocked(&self, by_reason: &BTreeMap<&'static str, usize>) {
        self.blocked.clear();
        for (reason, number) in by_reason {
            let label = ByReason { reason };
            self.blocked.get_or_create(&label).set(count(*number));
        }
    }
}

/// Those with a label of their own, and the sum of the others.
fn split(
    backends: &BTreeMap<String, BackendCount>,
) -> (Vec<(&str, &BackendCount)>, Option<BackendCount>) {
    let mut own = Vec::new();
    let mut others: Option<BackendCount> = None;
    for (backend, counted) in backends {
        if own.len() < MAX_BACKENDS {
            own.push((backend.as_str(), counted));
            continue;
        }
        let sum = others.get_or_insert_default();
        sum.missing += counted.missing;
        sum.slots += counted.slots;
        sum.slots_used += counted.slots_used;
    }
    (own, others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_many_backends_there_are_the_labels_are_bounded() {
        let one = BackendCount {
            missing: 1,
            slots: 4,
            slots_used: 2,
        };
        let backends = (0..MAX_BACKENDS + 3)
            .map(|number| (format!("b{number:05}"), one.clone()))
            .collect();
        let (own, others) = split(&backends);
        assert_eq!(own.len(), MAX_BACKENDS);
        let expected = BackendCount {
            missing: 3,
            slots: 12,
            slots_used: 6,
        };
        assert_eq!(others, Some(expected));
    }
}
