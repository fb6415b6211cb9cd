//! What all metrics are made with.

use prometheus_client::registry::{Metric, Registry, Unit};

/// Upper bounds of the buckets of latencies, in seconds.
pub(super) const LATENCIES: [f64; 11] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

pub(super) fn register<M: Metric + Clone>(
    to: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    to.register(name, help, metric.clone());
    metric
}

pub(super) fn register_seconds<M: Metric + Clone>(
    to: &mut Registry,
    name: &str,
    help: &str,
    metric: M,
) -> M {
    to.register_with_unit(name, help, Unit::Seconds, metric.clone());
    metric
}

pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
