//! The metrics about the process itself.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Status, register::register};

/// Whether it acts, and how it fares.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    in_charge: Gauge,
    panics: Family<ByPart, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPart {
    part: &'static str,
}

impl ProcessMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        Self {
            in_charge: register(
                to,
                "in_charge",
                "1 when this sidecar may write to HAProxy, 0 when another one is in charge of it, or under --observe",
                Gauge::default(),
            ),
            panics: register(
                to,
                "panics",
                "Times that a part of the process failed and was started afresh: bugs",
                Family::default(),
            ),
        }
    }

    pub(super) fn show(&self, status: &Status) {
        self.in_charge.set(i64::from(status.in_charge));
    }

    pub(super) fn panics(&self, part: &'static str) -> Counter {
        self.panics.get_or_create(&ByPart { part }).clone()
    }
}
