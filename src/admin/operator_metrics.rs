//! The metrics about operators: what they did by hand, and what a sidecar that only observes would have done for them.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use super::{
    haproxy_metrics::kind,
    register::{count, register},
};
use crate::model::Command;

/// All of them.
#[derive(Debug)]
pub struct OperatorMetrics {
    servers_by_hand: Family<ByWhat, Gauge>,
    observed_commands: Family<ByKind, Counter>,
    backends_pending: Gauge,
    commands_pending: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByWhat {
    what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

impl OperatorMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        Self {
            servers_by_hand: register(
                to,
                "servers_by_hand",
                "Servers that the sidecar owns and that stay as an operator left them, by what he did",
                Family::default(),
            ),
            observed_commands: register(
                to,
                "observed_commands",
                "Changing commands that were not sent because of --observe, each planned change once",
                Family::default(),
            ),
            backends_pending: register(
                to,
                "observed_backends_pending",
                "Backends that would be changed now, but for --observe",
                Gauge::default(),
            ),
            commands_pending: register(
                to,
                "observed_commands_pending",
                "Changing commands that would be sent now, but for --observe",
                Gauge::default(),
            ),
        }
    }

    /// How many servers are in maintenance, in drain and with another weight by hand now.
    pub fn servers_by_hand(&self, maintenance: usize, drain: usize, weight: usize) {
        for (what, servers) in [
            ("maintenance", maintenance),
            ("drain", drain),
            ("weight", weight),
        ] {
            let gauge = self.servers_by_hand.get_or_create(&ByWhat { what });
            gauge.set(count(servers));
        }
    }

    /// A command would have been sent.
    pub fn observed(&self, command: &Command) {
        let kind = kind(command);
        self.observed_commands.get_or_create(&ByKind { kind }).inc();
    }

    /// So many commands in so many backends would be sent now.
    pub fn pending(&self, backends: usize, commands: usize) {
        self.backends_pending.set(count(backends));
        self.commands_pending.set(count(commands));
    }
}
