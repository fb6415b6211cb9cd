//! The metrics about the snapshot of the catalog.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{Status, register::register};

/// What becomes of the snapshot.
#[derive(Debug)]
pub struct SnapshotMetrics {
    in_use: Gauge,
    writes: Family<ByOutcome, Counter>,
    refusals: Family<ByReason, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByReason {
    reason: &'static str,
}

const WRITTEN: ByOutcome = ByOutcome { outcome: "written" };
const FAILED: ByOutcome = ByOutcome { outcome: "failed" };

impl SnapshotMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        let new = Self {
            in_use: register(
                to,
                "snapshot_in_use",
                "1 while what is served is a snapshot's, since Nomad was away at the start",
                Gauge::default(),
            ),
            writes: register(
                to,
                "snapshot_writes",
                "Snapshots of the catalog, by whether they could be written",
                Family::default(),
            ),
            refusals: register(
                to,
                "snapshots_refused",
                "Snapshots that were not used although Nomad was away at the start, by why",
                Family::default(),
            ),
        };
        // A rate over a counter needs its zero.
        for outcome in [WRITTEN, FAILED] {
            drop(new.writes.get_or_create(&outcome));
        }
        new
    }

    /// One was written.
    pub fn written(&self) {
        self.writes.get_or_create(&WRITTEN).inc();
    }

    /// It could not be.
    pub fn failed(&self) {
        self.writes.get_or_create(&FAILED).inc();
    }

    /// Nomad is away, and the snapshot is not used for this reason.
    pub fn refused(&self, reason: &'static str) {
        self.refusals.get_or_create(&ByReason { reason }).inc();
    }

    pub(super) fn show(&self, status: &Status) {
        self.in_use.set(status.snapshot.is_some().into());
    }
}
