//! The metrics about guards against a catalog that says that too much is gone.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::register::{count, register};
use crate::model::Allocation;

/// Every metric about guards.
#[derive(Debug)]
pub struct GuardMetrics {
    guarded: Family<ByGuard, Gauge>,
    waiting: Gauge,
    frozen: Gauge,
    mass: Counter,
    opinions: Family<ByAnswer, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByGuard {
    guard: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByAnswer {
    answer: &'static str,
}

impl GuardMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        Self {
            guarded: register(
                to,
                "servers_guarded",
                "Servers kept in rotation without a registration, whoever else is UP, by what keeps them",
                Family::default(),
            ),
            waiting: register(
                to,
                "removals_waiting",
                "Servers that are not taken out now, because of the limit or because removals are stopped",
                Gauge::default(),
            ),
            frozen: register(
                to,
                "removals_frozen",
                "1 while the flag or the freeze file stops all removals",
                Gauge::default(),
            ),
            mass: register(
                to,
                "mass_deregistrations",
                "Times that so much was deregistered at once that it looked like a mistake",
                Counter::default(),
            ),
            opinions: register(
                to,
                "second_opinions",
                "Allocations that Nomad was asked for, by what it answered",
                Family::default(),
            ),
        }
    }

    /// A mass deregistration begins.
    pub fn mass_deregistration(&self) {
        self.mass.inc();
    }

    /// Nomad was asked for an allocation.
    pub fn second_opinion(&self, answer: &Allocation) {
        let answer = match answer {
            Allocation::Running => "running",
            Allocation::Stopping => "stopping",
            Allocation::Ended(_) => "ended",
            Allocation::Unknown => "unknown",
        };
        self.opinions.get_or_create(&ByAnswer { answer }).inc();
    }

    /// How many servers this guard keeps now.
    pub fn servers_guarded(&self, guard: &'static str, servers: usize) {
        self.guarded
            .get_or_create(&ByGuard { guard })
            .set(count(servers));
    }

    /// How many removals wait now, and whether all do.
    pub fn removals(&self, waiting: usize, frozen: bool) {
        self.waiting.set(count(waiting));
        self.frozen.set(i64::from(frozen));
    }
}
