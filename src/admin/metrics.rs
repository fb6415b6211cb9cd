//! The metrics, and their text exposition. The daemon reports what happened through typed methods and does not know
//! the library behind them. Every label has a fixed, small set of values, or is a namespace of the configuration: names from
//! the catalog never become labels.

use std::{
    fmt,
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use super::{
    BackendMetrics, GuardMetrics, HaproxyMetrics, NomadMetrics, OperatorMetrics, RouteMetrics,
    SnapshotMetrics, StateFileMetrics, Status,
    process_metrics::ProcessMetrics,
    register::{LATENCIES, count, register, register_seconds},
    set_once::SetOnce,
};

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    ready: Gauge,
    syncs: Counter,
    sync_failures: Family<ByKind, Counter>,
    initial_sync: SetOnce<f64>,
    services_restored: SetOnce<i64>,
    catalog_age: Gauge<f64, AtomicU64>,
    event_to_applied: Histogram,
    servers_owned: Family<ByState, Gauge>,
    backends_blocked: Gauge,
    backends_made: Family<ByState, Gauge>,
    registrations_rejected: Gauge,
    leaving: Leaving,
    backends: BackendMetrics,
    haproxy: HaproxyMetrics,
    operators: OperatorMetrics,
    routes: RouteMetrics,
    snapshot: SnapshotMetrics,
    state_file: StateFileMetrics,
    guards: GuardMetrics,
    process: ProcessMetrics,
    nomad: NomadMetrics,
    registry: Registry,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

/// What becomes of instances that leave.
#[derive(Debug)]
struct Leaving {
    servers_held: Gauge,
    holds: Family<ByEnd, Counter>,
    jobs_short: Gauge,
}

impl Leaving {
    fn new(to: &mut Registry) -> Self {
        Self {
            servers_held: register(
                to,
                "servers_held",
                "Servers kept in rotation without a registration, for want of a replacement",
                Gauge::default(),
            ),
            holds: register(
                to,
                "holds",
                "Times that a server was kept so, by why that ended",
                Family::default(),
            ),
            jobs_short: register(
                to,
                "jobs_with_short_shutdown_delay",
                "Jobs whose instances stop too soon after their deregistration, of those that may be read",
                Gauge::default(),
            ),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByEnd {
    end: &'static str,
}

/// Which side a sync failed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncFailure {
    /// Nomad could not be read, or its answer was not acceptable.
    Nomad,
    /// HAProxy could not be reached, or was lost on the way.
    Haproxy,
    /// One backend could not be brought to what is wanted.
    Backend,
}

/// How many servers the sidecar owns, by what they are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServersOwned {
    /// READY and UP.
    pub in_rotation: usize,
    /// READY and not UP: waiting for HAProxy's check, or failed by it.
    pub down: usize,
    /// In drain.
    pub draining: usize,
    /// In maintenance with a registration.
    pub maintenance: usize,
    /// Slots without a registration.
    pub free: usize,
}

impl Metrics {
    /// All metrics at zero; those that cannot be known yet have no sample.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("haproxy_nomad_sidecar");
        let to = &mut registry;
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        to.register("build", "The running program", version);
        let metrics = Self {
            ready: register(
                to,
                "ready",
                "1 when the first sync is applied and HAProxy's checks have admitted it, as /ready answers",
                Gauge::default(),
            ),
            syncs: register(
                to,
                "syncs",
                "Full passes over all wanted services that ended with everything applied",
                Counter::default(),
            ),
            sync_failures: register(
                to,
                "sync_failures",
                "Syncs that failed, by the side that they failed on",
                Family::default(),
            ),
            initial_sync: register_seconds(
                to,
                "initial_sync_duration",
                "From the start of the process until the first sync was applied",
                SetOnce::default(),
            ),
            services_restored: register(
                to,
                "services_restored",
                "Services that the first sync applied",
                SetOnce::default(),
            ),
            catalog_age: register_seconds(
                to,
                "catalog_age",
                "Since the catalog was last known to be current; since the start, when it never was",
                Gauge::default(),
            ),
            event_to_applied: register_seconds(
                to,
                "event_to_applied",
                "From a catalog event to its change being applied and read back",
                Histogram::new(LATENCIES),
            ),
            servers_owned: register(
                to,
                "servers_owned",
                "Servers that the sidecar owns, by what they are doing",
                Family::default(),
            ),
            backends_blocked: register(
                to,
                "backends_blocked",
                "Backends that cannot be brought to what is wanted now",
                Gauge::default(),
            ),
            backends_made: register(
                to,
                "backends_made",
                "Backends that were made at runtime, by what they are doing",
                Family::default(),
            ),
            registrations_rejected: register(
                to,
                "registrations_rejected",
                "Registrations in the catalog that cannot be used",
                Gauge::default(),
            ),
            leaving: Leaving::new(to),
            backends: BackendMetrics::new(to),
            haproxy: HaproxyMetrics::new(to),
            operators: OperatorMetrics::new(to),
            routes: RouteMetrics::new(to),
            snapshot: SnapshotMetrics::new(to),
            state_file: StateFileMetrics::new(to),
            guards: GuardMetrics::new(to),
            process: ProcessMetrics::new(to),
            nomad: NomadMetrics::new(to),
            registry,
        };
        // A rate over a counter needs its zero.
        for failure in [
            SyncFailure::Nomad,
            SyncFailure::Haproxy,
            SyncFailure::Backend,
        ] {
            drop(metrics.sync_failures.get_or_create(&failure.into()));
        }
        metrics
    }

    /// Those about backends.
    #[must_use]
    pub const fn backends(&self) -> &BackendMetrics {
        &self.backends
    }

    /// Those about HAProxy's socket.
    #[must_use]
    pub const fn haproxy(&self) -> &HaproxyMetrics {
        &self.haproxy
    }

    /// Those about guards.
    #[must_use]
    pub const fn guards(&self) -> &GuardMetrics {
        &self.guards
    }

    /// Those about Nomad.
    #[must_use]
    pub const fn nomad(&self) -> &NomadMetrics {
        &self.nomad
    }

    /// Those about routes.
    #[must_use]
    pub const fn routes(&self) -> &RouteMetrics {
        &self.routes
    }

    /// Those about operators.
    #[must_use]
    pub const fn operators(&self) -> &OperatorMetrics {
        &self.operators
    }

    /// Those about the snapshot of the catalog.
    #[must_use]
    pub const fn snapshot(&self) -> &SnapshotMetrics {
        &self.snapshot
    }

    /// Those about the server-state file.
    #[must_use]
    pub const fn state_file(&self) -> &StateFileMetrics {
        &self.state_file
    }

    /// A full pass ended with everything applied.
    pub fn synced(&self) {
        self.syncs.inc();
    }

    /// A sync failed.
    pub fn sync_failed(&self, failure: SyncFailure) {
        self.sync_failures.get_or_create(&failure.into()).inc();
    }

    /// The first sync is applied: `duration` after the start, with this many services. Only the first call counts.
    pub fn first_sync(&self, duration: Duration, services: usize) {
        self.initial_sync.set(duration.as_secs_f64());
        self.services_restored.set(count(services));
    }

    /// A catalog event's change is applied, `latency` after the event's arrival.
    pub fn applied(&self, latency: Duration) {
        self.event_to_applied.observe(latency.as_secs_f64());
    }

    /// How many backends are blocked now.
    pub fn backends_blocked(&self, backends: usize) {
        self.backends_blocked.set(count(backends));
    }

    /// How many backends that were made at runtime there are: published, not yet, and wanted by nobody.
    pub fn backends_made(&self, published: usize, unpublished: usize, lingering: usize) {
        for (state, number) in [
            ("published", published),
            ("unpublished", unpublished),
            ("lingering", lingering),
        ] {
            let gauge = self.backends_made.get_or_create(&ByState { state });
            gauge.set(count(number));
        }
    }

    /// How many registrations are unusable now.
    pub fn registrations_rejected(&self, registrations: usize) {
        self.registrations_rejected.set(count(registrations));
    }

    /// How many servers are held now.
    pub fn servers_held(&self, servers: usize) {
        self.leaving.servers_held.set(count(servers));
    }

    /// A server is no longer held, for this reason.
    pub fn hold_ended(&self, end: &'static str) {
        self.leaving.holds.get_or_create(&ByEnd { end }).inc();
    }

    /// How many jobs have a `shutdown_delay` that is too short.
    pub fn jobs_short(&self, jobs: usize) {
        self.leaving.jobs_short.set(count(jobs));
    }

    /// A part of the process panicked.
    pub fn panicked(&self, part: &'static str) {
        self.process.panics(part).inc();
    }

    /// A part of the process may panic: its counter is there from the start.
    pub fn panics(&self, part: &'static str) {
        drop(self.process.panics(part));
    }

    /// How many servers the sidecar owns now.
    pub fn servers_owned(&self, servers: ServersOwned) {
        for (state, number) in [
            ("in_rotation", servers.in_rotation),
            ("down", servers.down),
            ("draining", servers.draining),
            ("maintenance", servers.maintenance),
            ("free", servers.free),
        ] {
            self.servers_owned
                .get_or_create(&ByState { state })
                .set(count(number));
        }
    }

    /// The text exposition of everything, as of `now`.
    pub fn render(&self, status: &Status, now: Instant) -> Result<String, fmt::Error> {
        self.ready.set(i64::from(status.is_ready()));
        self.catalog_age.set(status.catalog_age(now).as_secs_f64());
        self.snapshot.show(status);
        self.process.show(status);
        self.nomad.show(status, now);
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl From<SyncFailure> for ByKind {
    fn from(failure: SyncFailure) -> Self {
        Self {
            kind: match failure {
                SyncFailure::Nomad => "nomad",
                SyncFailure::Haproxy => "haproxy",
                SyncFailure::Backend => "backend",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{Followed, Namespace};
    use crate::model::{BackendName, Command, Outcome, ServerName, ServerRef};

    #[expect(clippy::disallowed_methods, reason = "only a starting point")]
    fn status() -> Status {
        Status::starting(Instant::now())
    }

    fn samples(metrics: &Metrics, status: &Status) -> Vec<String> {
        let now = status.started + Duration::from_secs(2);
        let text = metrics.render(status, now).unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| {
                let name = line.strip_prefix("haproxy_nomad_sidecar_");
                name.expect("every name has the prefix").to_owned()
            })
            .collect()
    }

    #[test]
    fn before_the_first_sync_its_duration_has_no_sample() {
        let mut samples = samples(&Metrics::new(), &status());
        let is_of_histogram = |sample: &str| {
            let names = [
                "event_to_applied",
                "haproxy_batch",
                "registered_to_in_rotation",
            ];
            names
                .iter()
                .any(|name| sample.starts_with(&format!("{name}_seconds")))
        };
        samples.retain(|sample| !is_of_histogram(sample));
        samples.sort();
        assert_eq!(
            samples,
            [
                "backends_blocked 0",
                "backends_not_in_state_file 0",
                concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
                "catalog_age_seconds 2.0",
                "haproxy_connected 0",
                "haproxy_restarts_total 0",
                "in_charge 0",
                "jobs_with_short_shutdown_delay 0",
                "mass_deregistrations_total 0",
                "observed_backends_pending 0",
                "observed_commands_pending 0",
                "ready 0",
                "registrations_rejected 0",
                "removals_frozen 0",
                "removals_waiting 0",
                "servers_admitting 0",
                "servers_held 0",
                "snapshot_in_use 0",
                "snapshot_writes_total{outcome=\"failed\"} 0",
                "snapshot_writes_total{outcome=\"written\"} 0",
                "state_file_failures_total 0",
                "state_file_writes_total 0",
                "sync_failures_total{kind=\"backend\"} 0",
                "sync_failures_total{kind=\"haproxy\"} 0",
                "sync_failures_total{kind=\"nomad\"} 0",
                "syncs_total 0",
            ]
        );
    }

    #[test]
    fn what_the_daemon_reports_is_counted_under_bounded_labels() {
        let metrics = Metrics::new();
        let server = ServerRef {
            backend: BackendName::new("web").unwrap(),
            server: ServerName::new("nomad1").unwrap(),
        };
        let command = Command::Ready(server);
        metrics.operators().servers_by_hand(1, 2, 0);
        metrics.operators().observed(&command);
        metrics.operators().pending(1, 6);
        metrics.synced();
        metrics.sync_failed(SyncFailure::Backend);
        metrics.first_sync(Duration::from_millis(1500), 100);
        metrics.haproxy().restarted();
        metrics.haproxy().answered(&command, &Outcome::Done);
        metrics
            .haproxy()
            .answered(&command, &Outcome::Refused("No such server.".to_owned()));
        metrics.haproxy().unanswered(&command);
        metrics.applied(Duration::from_millis(20));
        metrics.backends_blocked(3);
        metrics.registrations_rejected(4);
        metrics.servers_held(2);
        metrics.hold_ended("replaced");
        metrics.servers_owned(ServersOwned {
            in_rotation: 5,
            draining: 1,
            ..ServersOwned::default()
        });
        metrics.nomad().requests("list", "ok", 7);
        metrics.nomad().received_bytes("list", 400);
        metrics.nomad().stream_cut("default");
        metrics.nomad().reread("audit", 3);
        let mut status = status();
        status.missing.clear();
        let mut namespace = Namespace::new("default", status.started);
        namespace.followed = Followed::Stream;
        namespace.index = Some(17);
        status.namespaces = vec![namespace];

        let samples = samples(&metrics, &status);
        for expected in [
            "ready 1",
            "syncs_total 1",
            "sync_failures_total{kind=\"backend\"} 1",
            "initial_sync_duration_seconds 1.5",
            "services_restored 100",
            "haproxy_restarts_total 1",
            "commands_total{kind=\"ready\",outcome=\"done\"} 1",
            "commands_total{kind=\"ready\",outcome=\"refused\"} 1",
            "commands_total{kind=\"ready\",outcome=\"unanswered\"} 1",
            "event_to_applied_seconds_bucket{le=\"0.01\"} 0",
            "event_to_applied_seconds_bucket{le=\"0.025\"} 1",
            "event_to_applied_seconds_count 1",
            "backends_blocked 3",
            "registrations_rejected 4",
            "servers_held 2",
            "servers_by_hand{what=\"drain\"} 2",
            "servers_by_hand{what=\"weight\"} 0",
            "observed_commands_total{kind=\"ready\"} 1",
            "observed_backends_pending 1",
            "observed_commands_pending 6",
            "holds_total{end=\"replaced\"} 1",
            "servers_owned{state=\"in_rotation\"} 5",
            "servers_owned{state=\"draining\"} 1",
            "servers_owned{state=\"free\"} 0",
            "nomad_requests_total{kind=\"list\",outcome=\"ok\"} 7",
            "nomad_received_bytes_total{kind=\"list\"} 400",
            "namespace_followed{namespace=\"default\",by=\"stream\"} 1",
            "namespace_followed{namespace=\"default\",by=\"none\"} 0",
            "namespace_index{namespace=\"default\"} 17",
            "namespace_age_seconds{namespace=\"default\"} 2.0",
            "stream_cuts_total{namespace=\"default\"} 1",
            "rereads_total{cause=\"audit\"} 3",
        ] {
            assert!(
                samples.iter().any(|s| s == expected),
                "{expected}: {samples:#?}"
            );
        }
    }
}
