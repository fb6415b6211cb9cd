//! The metrics of the server-state file.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};

use super::register::{count, register};

/// How the file is kept.
#[derive(Debug)]
pub struct StateFileMetrics {
    writes: Counter,
    failures: Counter,
    backends_not_in: Gauge,
}

impl StateFileMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        Self {
            writes: register(
                to,
                "state_file_writes",
                "Times that the state file was written, marked as current, or removed",
                Counter::default(),
            ),
            failures: register(
                to,
                "state_file_failures",
                "Times that the state file could not be written or removed",
                Counter::default(),
            ),
            backends_not_in: register(
                to,
                "backends_not_in_state_file",
                "Backends whose slots HAProxy would not restore from the state file",
                Gauge::default(),
            ),
        }
    }

    /// It is as it should be.
    pub fn written(&self) {
        self.writes.inc();
    }

    /// It could not be made so.
    pub fn failed(&self) {
        self.failures.inc();
    }

    /// So many backends with slots are left out of it.
    pub fn backends_not_in(&self, backends: usize) {
        self.backends_not_in.set(count(backends));
    }
}
