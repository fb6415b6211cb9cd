//! The metrics about HAProxy's socket: whether it is there, what is written to it, and how long that takes.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::register::{LATENCIES, register};
use crate::model::{Command, Outcome};

/// Every metric about HAProxy's socket.
#[derive(Debug)]
pub struct HaproxyMetrics {
    connected: Gauge,
    restarts: Counter,
    commands: Family<ByOutcome, Counter>,
    batches: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    kind: &'static str,
    outcome: &'static str,
}

impl HaproxyMetrics {
    pub(super) fn new(to: &mut Registry) -> Self {
        let batches = Histogram::new(LATENCIES);
        to.register_with_unit(
            "haproxy_batch",
            "From a batch of requests being handed to the session until HAProxy has answered all of it",
            Unit::Seconds,
            batches.clone(),
        );
        Self {
            connected: register(
                to,
                "haproxy_connected",
                "1 while a session with HAProxy stands",
                Gauge::default(),
            ),
            restarts: register(
                to,
                "haproxy_restarts",
                "Times that another HAProxy process was found behind the socket",
                Counter::default(),
            ),
            commands: register(
                to,
                "commands",
                "Changing commands written to HAProxy, by what it answered",
                Family::default(),
            ),
            batches,
        }
    }

    /// Whether a session stands.
    pub fn connected(&self, is_connected: bool) {
        self.connected.set(is_connected.into());
    }

    /// Another HAProxy process answers on the socket.
    pub fn restarted(&self) {
        self.restarts.inc();
    }

    /// HAProxy answered a command.
    pub fn answered(&self, command: &Command, outcome: &Outcome) {
        self.count(command, word(Some(outcome)));
    }

    /// A command was written, and its answer was lost or not understood.
    pub fn unanswered(&self, command: &Command) {
        self.count(command, word(None));
    }

    /// HAProxy answered a batch, after so long.
    pub fn batch(&self, seconds: f64) {
        self.batches.observe(seconds);
    }

    fn count(&self, command: &Command, outcome: &'static str) {
        let kind = kind(command);
        let label = ByOutcome { kind, outcome };
        self.commands.get_or_create(&label).inc();
    }
}

/// The label that metrics have for an answer, or for none.
pub(super) const fn word(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Done) => "done",
        Some(Outcome::Notice(_)) => "notice",
        Some(Outcome::RetryLater(_)) => "retry_later",
        Some(Outcome::Refused(_)) => "refused",
        None => "unanswered",
    }
}

/// The label that metrics have for a command.
pub(super) fn kind(command: &Command) -> &'static str {
    match command {
        Command::SetAddress(..) => "set_address",
        Command::Ready(_) => "ready",
        Command::Drain(_) => "drain",
        Command::Maintenance(_) => "maintenance",
        Command::HealthDown(_) => "health_down",
        Command::EnableHealth(_) => "enable_health",
        Command::EnableAgent(_) => "enable_agent",
        Command::DisableAgent(_) => "disable_agent",
        Command::SetWeight(..) => "set_weight",
        Command::SetMaxconn(..) => "set_maxconn",
        Command::AddServer(..) => "add_server",
        Command::DeleteServer(_) => "delete_server",
        Command::ShutdownSessions(_) => "shutdown_sessions",
        Command::AddBackend(..) => "add_backend",
        Command::PublishBackend(_) => "publish_backend",
        Command::UnpublishBackend(_) => "unpublish_backend",
        Command::DeleteBackend(_) => "delete_backend",
    }
}
