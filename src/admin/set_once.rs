//! A gauge that is unknown at first.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    encoding::{EncodeGaugeValue, EncodeMetric, MetricEncoder},
    metrics::MetricType,
};

/// A gauge that has no sample before it is set, and is set once.
#[derive(Debug)]
pub(super) struct SetOnce<N>(Arc<OnceLock<N>>);

impl<N> SetOnce<N> {
    pub(super) fn set(&self, value: N) {
        drop(self.0.set(value));
    }
}

impl<N> Default for SetOnce<N> {
    fn default() -> Self {
        Self(Arc::new(OnceLock::new()))
    }
}

impl<N> Clone for SetOnce<N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<N: EncodeGaugeValue> EncodeMetric for SetOnce<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self.0.get() {
            Some(value) => encoder.encode_gauge(value),
            None => Ok(()),
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}
