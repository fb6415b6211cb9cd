//! The metrics about routes.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{
    haproxy_metrics::word,
    register::{count, register},
};
use crate::model::{MapChange, Outcome};

/// All of them.
#[derive(Debug)]
pub struct RouteMetrics {
    routes: Family<ByState, Gauge>,
    changes: Family<ByOutcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    kind: &'static str,
    outcome: &'static str,
}

impl RouteMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        Self {
            routes: register(
                to,
                "routes",
                "Routes that tags ask for, by what became of them",
                Family::default(),
            ),
            changes: register(
                to,
                "map_changes",
                "Changes of HAProxy's maps, by command and answer",
                Family::default(),
            ),
        }
    }

    /// How many routes there are now, by what became of them.
    pub fn routes(&self, routes: [(&'static str, usize); 5]) {
        for (state, routes) in routes {
            let gauge = self.routes.get_or_create(&ByState { state });
            gauge.set(count(routes));
        }
    }

    /// A map was to be changed; `None` is no answer.
    pub fn changed(&self, change: &MapChange, outcome: Option<&Outcome>) {
        let kind = match change {
            MapChange::Add(..) | MapChange::AddTo(..) => "add",
            MapChange::Set(..) => "set",
            MapChange::Delete(..) => "delete",
            MapChange::Prepare(_) => "prepare",
            MapChange::Commit(..) => "commit",
        };
        let outcome = word(outcome);
        let labels = ByOutcome { kind, outcome };
        self.changes.get_or_create(&labels).inc();
    }
}
