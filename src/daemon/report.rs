//! What an operator sees: log lines, metrics and the status behind `/ready`. One INFO for each applied change; a state
//! that lasts is said at its begin and at its end.

mod picture;
mod routes;
mod snapshot;
mod words;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::{
    admin::{Followed, FromSnapshot, Metrics, Missing, Status, SyncFailure},
    catalog::{Cause, FailureKind, Scope},
    config::Config,
    haproxy::{
        command::print,
        session::{ConnectError, SessionError},
    },
    model::{BackendName, BatchId, Capability, Command, ProcessInfo, Request, Response},
    nomad::{
        route::Route,
        traffic::{Kind, Outcome},
        watch::Event,
    },
    reconcile::{
        Arrival, Extent, Fact, Guard, HoldEnded, Overview,
        plan::{Step, Why},
        routes::RouteFact,
    },
};

pub(super) use self::picture::{Show, wall_clock};
use self::{
    picture::{Drawing, system_time},
    words::{guard_lines, held, kept, restoring, staying_lines},
};
use super::{
    charge::Standing,
    following::{Following, Said},
    now,
};

/// Passes on what happens.
pub(super) struct Report {
    metrics: Arc<Metrics>,
    status: watch::Sender<Status>,
    haproxy: Result<(), String>,
    route: Arc<Route>,
    /// The address of Nomad that was asked first, when that was said last.
    asked_at: String,
    following: Following,
    nomad: String,
    /// Nomad answers, and refuses: no time will change that.
    is_refused: bool,
    snapshot: Option<FromSnapshot>,
    catalog_at: Option<Instant>,
    /// How long the last event of the catalog was under way from its last byte to the core.
    event_lag: Duration,
    pub(super) show: Show,
    drawing: Drawing,
}

impl Report {
    pub(super) fn new(
        metrics: Arc<Metrics>,
        status: watch::Sender<Status>,
        route: Arc<Route>,
        namespaces: &[String],
        show: Show,
    ) -> Self {
        show.audit.begin();
        // A rate over a counter needs its zero.
        for cause in Cause::ALL {
            metrics.nomad().reread(cause.as_str(), 0);
        }
        let haproxy = Err("not tried yet".to_owned());
        let nomad = "not read yet".to_owned();
        Self {
            metrics,
            status,
            haproxy,
            asked_at: route.endpoint().0.to_string(),
            route,
            following: Following::new(namespaces, now()),
            nomad,
            is_refused: false,
            snapshot: None,
            catalog_at: None,
            event_lag: Duration::ZERO,
            show,
            drawing: Drawing::default(),
        }
    }

    pub(super) fn starting(config: &Config) {
        info!(
            version = env!("CARGO_PKG_VERSION"),
            haproxy_socket = %config.haproxy.socket.display(),
            nomad = %config.nomad.endpoints,
            namespaces = config.nomad.namespaces.join(","),
            own_namespace = config.own_namespace,
            observe = config.observe,
            "starting"
        );
    }

    /// Whether this sidecar acts.
    pub(super) fn standing(&self, standing: Standing) {
        self.status.send_modify(|status| {
            status.in_charge = standing == Standing::InCharge;
            status.standby = match standing {
                Standing::InCharge => None,
                Standing::Standby(reason) => Some(reason),
            };
        });
    }

    // === HAProxy ===

    pub(super) fn connected(&mut self, info: &ProcessInfo) {
        self.haproxy = Ok(());
        info!(
            version = info.version_text,
            pid = info.pid,
            "connected to HAProxy"
        );
        if !info.version.can(Capability::DynamicServers) {
            warn!(
                version = info.version_text,
                "this HAProxy cannot add servers: only backends with server-template slots are served"
            );
        }
    }

    pub(super) fn lost(&mut self, error: &SessionError) {
        self.haproxy = Err(error.to_string());
        self.metrics.sync_failed(SyncFailure::Haproxy);
        match error {
            SessionError::Stopping | SessionError::Replaced | SessionError::Closed => {
                info!(reason = %error, "the session with HAProxy ended; connecting again");
            }
            SessionError::Silent(_)
            | SessionError::StoodStill(_)
            | SessionError::UnknownReply(_)
            | SessionError::TooLong(_)
            | SessionError::Unasked(_)
            | SessionError::Io(_)
            | SessionError::NotConnected
            | SessionError::Abandoned => {
                warn!(reason = %Chain(error), "the session with HAProxy broke; connecting again");
            }
        }
    }

    pub(super) fn unavailable(&mut self, error: &ConnectError) {
        self.haproxy = Err(error.to_string());
        self.metrics.sync_failed(SyncFailure::Haproxy);
        warn!(reason = %Chain(error), "HAProxy cannot be used; trying again for ever");
    }

    /// Counts the commands of a batch by HAProxy's answers.
    pub(super) fn answered(&self, id: BatchId, requests: &[Request], responses: &[Response]) {
        self.show.audit.answered(id, requests, responses);
        for (i, request) in requests.iter().enumerate() {
            match (request, responses.get(i)) {
                (Request::Change(command), Some(Response::Changed(outcome))) => {
                    self.metrics.haproxy().answered(command, outcome);
                }
                (Request::Change(command), _) => self.metrics.haproxy().unanswered(command),
                (Request::ChangeMap(change), answer) => {
                    routes::answered(&self.metrics, change, answer);
                }
                (_, _) => {}
            }
        }
    }

    pub(super) fn batch_took(&self, took: Duration) {
        self.metrics.haproxy().batch(took.as_secs_f64());
    }

    // === Nomad ===

    pub(super) fn catalog(&mut self, event: &Event) {
        self.following.heard(now(), event);
        match event {
            Event::Synced(synced) => {
                self.show.audit.heard(synced.index);
                self.catalog_at = Some(now());
                if let Some(snapshot) = self.snapshot.take() {
                    let after = Rounded(snapshot.read_at.elapsed());
                    info!(
                        ?after,
                        index = synced.index,
                        "Nomad is back: its catalog replaces the snapshot"
                    );
                }
                let unproven: Vec<_> = synced.unproven.iter().map(ToString::to_string).collect();
                if unproven.is_empty() {
                    debug!(
                        index = synced.index,
                        services = synced.services.len(),
                        "the catalog was read"
                    );
                } else {
                    warn!(
                        index = synced.index,
                        services = synced.services.len(),
                        unread = unproven.join(", "),
                        "the catalog was read in parts: what is unread stays as it is"
                    );
                }
            }
            Event::Current { at, .. } => self.catalog_at = Some(*at),
            Event::Rereads {
                namespace,
                cause,
                services,
            } => {
                self.metrics.nomad().reread(cause.as_str(), *services);
                debug!(%namespace, cause = cause.as_str(), services, "services are read again");
            }
            Event::Changed {
                key,
                registrations,
                index,
                ..
            } => {
                self.show.audit.heard(*index);
                debug!(service = %key, registrations = registrations.len(), index, "a service changed");
            }
            Event::Following { text, .. } => debug!("{text}"),
            Event::StreamLost { namespace, text } => {
                self.metrics.nomad().stream_cut(namespace);
                debug!(%namespace, reason = text, "an event stream ended");
            }
            Event::IndexWentBack {
                namespace,
                from,
                to,
            } => {
                self.metrics.nomad().index_went_back(namespace);
                warn!(%namespace, from, to, "Nomad's index went back: it was restored; reading again, and removing nothing before everything was read");
            }
            Event::Trouble { scope, kind, text } => {
                self.nomad.clone_from(text);
                if let Scope::Namespace(_) = scope {
                    self.is_refused = matches!(kind, FailureKind::Denied | FailureKind::BadToken);
                }
                self.metrics.sync_failed(SyncFailure::Nomad);
                debug!(%scope, %kind, "{text}");
            }
            Event::Recovered { scope } => debug!(%scope, "read again"),
        }
    }

    /// Says what has lasted, and counts what was asked.
    fn follow(&mut self) {
        for said in self.following.poll(now()) {
            match said {
                Said::Followed { by, text, after } => {
                    let after = after.map(|after| tracing::field::debug(Rounded(after)));
                    match by {
                        Followed::Stream => info!(after, "{text}"),
                        Followed::Blocking | Followed::Nothing => warn!(after, "{text}"),
                    }
                }
                Said::Cut {
                    namespace,
                    times,
                    reason,
                } => info!(%namespace, times, reason, "the event stream ended; reading again"),
                Said::Trouble { scope, kind, text } => {
                    warn!(%scope, %kind, "{text}; HAProxy stays as it is");
                }
                Said::Recovered { scope, after } => {
                    info!(%scope, "Nomad can be read again after {} s", after.as_secs());
                }
            }
        }
        let (endpoint, reason) = self.route.endpoint();
        let endpoint = endpoint.to_string();
        if endpoint != self.asked_at {
            info!(
                nomad = endpoint,
                reason, "another address of Nomad is asked from now on"
            );
            self.asked_at = endpoint;
        }
        let traffic = self.route.traffic();
        for kind in Kind::ALL {
            for outcome in Outcome::ALL {
                let total = traffic.requests(kind, outcome);
                let nomad = self.metrics.nomad();
                nomad.requests(kind.name(), outcome.name(), total);
            }
            let bytes = traffic.received_bytes(kind);
            self.metrics.nomad().received_bytes(kind.name(), bytes);
        }
    }

    pub(super) fn changed_at(&mut self, at: Instant) {
        self.event_lag = now().saturating_duration_since(at);
    }

    // === The core ===

    pub(super) fn fact(&mut self, fact: Fact) {
        match fact {
            Fact::Found(found) => words::found(&found),
            Fact::Restarted { before, now } => self.restarted(&before, &now),
            Fact::Applied {
                backend,
                commands,
                took,
                by_event,
            } => self.applied(&backend, &commands, took, by_event),
            Fact::Sent(step) => {
                if let Some(end) = words::end_of_drain(&step) {
                    self.metrics.backends().drain_ended(end);
                }
                self.show.audit.sent(&step, system_time());
                debug!(command = print(&Request::Change(step.command)).trim_end(), why = %step.why, "sending");
            }
            Fact::WouldSend {
                backend,
                steps,
                new,
            } => self.would_send(&backend, steps, &new),
            Fact::Routes(fact) => {
                if let RouteFact::Sent(change) = &fact {
                    self.show.audit.sent_to_map(change, system_time());
                }
                routes::fact(&self.metrics, fact);
            }
            Fact::Noticed(backend, text) => debug!(%backend, text, "HAProxy has a remark"),
            Fact::Failed {
                backend,
                problem,
                again_in,
            } => self.failed(backend.as_ref(), &problem, again_in),
            Fact::Hindered(backend, hindrance) => {
                warn!(%backend, registration = &*hindrance.registration, "blocked: {}", hindrance.obstacle);
            }
            Fact::Unhindered(backend, hindrance) => {
                info!(%backend, registration = &*hindrance.registration, "no longer blocked: {}", hindrance.obstacle);
            }
            Fact::ByHand(backend, left) => {
                warn!(%backend, registration = &*left.registration, "by hand: {}", left.describe(&backend));
            }
            Fact::NoLongerByHand(backend, left) => {
                info!(%backend, registration = &*left.registration, "no longer by hand: {}", left.server);
            }
            Fact::Held(backend, hold) => held(&backend, &hold),
            Fact::HoldEnded(backend, hold) => self.hold_ended(&backend, &hold),
            Fact::MassBegan(extent) => self.mass_began(&extent),
            Fact::MassEnded { lasted, gone } => words::mass_ended(lasted, gone),
            Fact::SecondOpinion(answer) => self.metrics.guards().second_opinion(&answer),
            Fact::Frozen { lasts, waiting } => words::frozen(lasts, waiting),
            Fact::Thawed { lasted, waiting } => {
                info!(waiting, lasted = ?Rounded(lasted), "removals go on");
            }
            Fact::Limited { waiting } => words::limited(waiting),
            Fact::Waits(backend, server, removals) => {
                debug!(%backend, %server, ?removals, "a removal waits");
            }
            Fact::Rejected(service, rejection) if rejection.reason.costs_a_route() => {
                routes::rejected(&service, &rejection);
            }
            Fact::Rejected(service, rejection) => words::rejected(&service, &rejection),
            Fact::Unrejected(service, rejection) => {
                debug!(%service, registration = &*rejection.registration, "no longer so: {}", rejection.reason);
            }
            Fact::FirstSync {
                took,
                services,
                servers,
            } => self.first_sync(took, services, servers),
            Fact::InSync { took, blocked } => {
                self.metrics.synced();
                words::in_sync(took, blocked);
            }
            Fact::Arrived(
                backend,
                Arrival {
                    registration,
                    server,
                    took,
                },
            ) => {
                let took = took + self.event_lag;
                self.metrics.backends().arrived(took.as_secs_f64());
                debug!(%backend, %server, registration = &*registration, took = ?Rounded(took), "in rotation");
            }
            Fact::Turned(backend, turn) => {
                let at = system_time() - turn.ago;
                self.show.audit.turned(&backend, &turn, at);
                debug!(%backend, server = %turn.server, "{}", turn.to);
            }
            Fact::Restoring(what) => restoring(&what),
            Fact::SnapshotApplied { took } => snapshot::applied(took),
            Fact::Admitted { waited } => {
                info!(waited = ?Rounded(waited), "HAProxy's checks have admitted it: ready");
            }
            Fact::SyncFailed { missing, wanted } => self.sync_failed(missing, wanted),
        }
    }

    fn restarted(&self, before: &ProcessInfo, now: &ProcessInfo) {
        self.metrics.haproxy().restarted();
        info!(
            before = before.pid,
            now = now.pid,
            "HAProxy was restarted or reloaded; putting everything back"
        );
    }

    fn failed(&self, backend: Option<&BackendName>, problem: &str, again_in: Duration) {
        self.metrics.sync_failed(SyncFailure::Backend);
        let backend = backend.map_or_else(|| "(all)".to_owned(), ToString::to_string);
        warn!(backend, problem, ?again_in, "a batch failed; trying again");
    }

    fn first_sync(&self, took: Duration, services: usize, servers: usize) {
        self.metrics.first_sync(took, services);
        info!(services, servers, took = ?Rounded(took), "the first sync is applied");
    }

    fn would_send(&self, backend: &BackendName, steps: Vec<Step>, new: &[Command]) {
        for command in new {
            self.metrics.operators().observed(command);
        }
        info!(%backend, commands = steps.len(), "observing only: this would have been sent");
        for step in steps {
            info!(command = print(&Request::Change(step.command)).trim_end(), why = %step.why, "would send");
        }
    }

    fn sync_failed(&self, missing: usize, wanted: usize) {
        self.metrics.sync_failed(SyncFailure::Backend);
        warn!(
            missing,
            wanted, "registrations are not in rotation 30 s after a sync began"
        );
    }

    fn mass_began(&self, extent: &Extent) {
        self.metrics.guards().mass_deregistration();
        warn!(
            gone = extent.gone,
            of = extent.of,
            jobs = extent.jobs,
            held_for = ?extent.hold,
            "so much was deregistered at once that it looks like a mistake of Nomad's: servers that pass their checks stay in \
             rotation for that time; see whether the instances run (nomad node status), and to keep them for longer, set \
             --freeze or make the freeze file"
        );
    }

    fn hold_ended(&self, backend: &BackendName, hold: &HoldEnded) {
        self.metrics.hold_ended(hold.end.as_str());
        if matches!(hold.guard, Some(Guard::Mass | Guard::Frozen)) {
            // There are many, and it was said of all.
            debug!(%backend, registration = &*hold.registration, "no longer held: {}", hold.end);
            return;
        }
        info!(
            %backend,
            address = %hold.address,
            registration = &*hold.registration,
            lasted = ?Rounded(hold.lasted),
            "no longer held: {}",
            hold.end
        );
    }

    fn applied(
        &self,
        backend: &BackendName,
        commands: &[(Why, u32)],
        took: Duration,
        by_event: bool,
    ) {
        let total: u32 = commands.iter().map(|(_, count)| count).sum();
        let reasons: Vec<_> = commands.iter().map(|(why, _)| why.to_string()).collect();
        let lag = if by_event {
            self.event_lag
        } else {
            Duration::ZERO
        };
        let took = took + lag;
        if by_event {
            self.metrics.applied(took);
        }
        info!(%backend, commands = total, why = reasons.join("; "), took = ?Rounded(took), "applied");
    }

    /// Publishes where things stand, `at` on the core's clock.
    pub(super) fn tick(&mut self, overview: &Overview, at: Duration) {
        self.follow();
        self.metrics.backends_blocked(overview.blocked);
        self.metrics.registrations_rejected(overview.rejected);
        self.metrics.servers_held(overview.held);
        let made = overview.made;
        self.metrics
            .backends_made(made.published, made.unpublished, made.lingering);
        let state_file = self.metrics.state_file();
        state_file.backends_not_in(overview.unrestorable);
        routes::tick(&self.metrics, overview);
        let guards = self.metrics.guards();
        guards.removals(overview.waiting, overview.frozen);
        for guard in Guard::ALL {
            guards.servers_guarded(guard.as_str(), kept(overview, guard));
        }
        self.metrics.servers_owned(overview.owned.into());
        self.metrics.haproxy().connected(self.haproxy.is_ok());
        let backends = self.metrics.backends();
        backends.blocked(&overview.obstacles);
        let admissions = overview.admissions;
        backends.admissions(admissions.waiting, admissions.passed, admissions.left);
        backends.backends(&words::counts(&overview.tallies));
        let (by_hand, would) = (overview.by_hand, overview.would);
        let operators = self.metrics.operators();
        operators.servers_by_hand(by_hand.maintenance, by_hand.drain, by_hand.weight);
        operators.pending(would.backends, would.commands);
        let mut missing = Vec::new();
        if let Err(reason) = &self.haproxy {
            missing.push(Missing::Haproxy {
                reason: reason.clone(),
            });
        }
        // From a snapshot a new version of a job would look healthy although its token is wrong.
        if !overview.catalog_known || (overview.from_snapshot && self.is_refused) {
            missing.push(Missing::Catalog {
                reason: self.nomad.clone(),
            });
        }
        if overview.catalog_known && !overview.from_snapshot {
            missing.extend(self.following.unread());
        }
        if missing.is_empty() && !overview.in_sync && overview.unsettled.is_empty() {
            missing.push(Missing::Routes);
        } else if missing.is_empty() && !overview.in_sync {
            let (pending, total) = (overview.unsettled.clone(), overview.backends);
            missing.push(Missing::Backends { pending, total });
        } else if let (true, Some(pending)) = (missing.is_empty(), &overview.admitting) {
            let (pending, total) = (pending.clone(), overview.backends);
            missing.push(Missing::Checks { pending, total });
        }
        self.status.send_modify(|status| {
            status.alive_at = now();
            status.catalog_at = self.catalog_at;
            status.snapshot.clone_from(&self.snapshot);
            status.missing = missing;
            status.guards = guard_lines(overview);
            status.staying = staying_lines(&overview.staying, at);
            status.guards.extend(routes::lines(overview));
            status.nomad.clone_from(&self.asked_at);
            status.namespaces = self.following.namespaces();
        });
    }
}

/// A time as people read it.
struct Rounded(Duration);

impl std::fmt::Debug for Rounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1?}", self.0)
    }
}

/// An error with what caused it.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut causes = std::iter::successors(self.0.source(), |&cause| cause.source());
        causes.try_for_each(|cause| write!(f, ": {cause}"))
    }
}
