//! The shell: passes what happens to the core and what the core wants to the sessions, by messages. It decides nothing.
//!
//! It ends only by a signal. A panic of any part is logged and everything but the admin listener is started afresh: in a
//! task group a task that fails for good takes its siblings down, HAProxy included.

mod audit;
mod charge;
mod following;
mod freeze;
mod jobs;
mod keep;
mod lint;
mod memory;
mod observer;
mod plan;
mod questions;
mod report;
mod show;
mod snapshot;
mod state_file;
mod stop;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinSet, yield_now},
    time::{interval, sleep_until},
};
use tokio_stream::StreamExt as _;
use tracing::{info, warn};

pub use lint::{LintError, LintVerdict, lint};
pub use plan::{PlanForm, PlanVerdict, plan};
pub use show::{Served, StatusForm, explain, status};

use crate::{
    admin::{Metrics, Status},
    config::{Config, OnStop},
    haproxy::session,
    model::{Batch, BatchId, Request},
    nomad::{route::Route, settings::Settings, traffic::Traffic, watch as catalog},
    reconcile::{Fact, Failure, Input, Mode, Output, Policy, Question, Reconciler},
    snapshot::{Refusal, Usable},
};
use charge::{Charge, Standing, Standings};
use freeze::Freeze;
use keep::{Failures, Part};
use report::{Report, Show};
use show::{Drawing, Verdicts, audit_log, end_log, listener};
use snapshot::{Keeper, hands};
use stop::Stop;

/// Why the program cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system gives no signals.
    #[error("listen for signals")]
    Signals(#[source] io::Error),
    /// `plan`: HAProxy cannot be asked.
    #[error(transparent)]
    Haproxy(#[from] session::ConnectError),
    /// `plan`: HAProxy stopped answering.
    #[error("HAProxy was lost")]
    HaproxyLost(#[source] session::SessionError),
    /// `plan`: the catalog cannot be read.
    #[error(transparent)]
    Nomad(#[from] catalog::Unread),
    /// `plan`: nobody reads what is written.
    #[error("write the output")]
    Output(#[from] io::Error),
}

/// Serves until SIGTERM or SIGINT. HAProxy is left as it is, or drained first.
///
/// # Errors
///
/// [`Error::Signals`], and no other: what happens outside is retried for ever.
pub async fn run(mut config: Config) -> Result<(), Error> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(Error::Signals)?;
    let metrics = Arc::new(Metrics::new());
    for part in Part::ALL {
        metrics.panics(part.as_str());
    }
    let traffic = Arc::new(Traffic::default());
    let (status, status_seen) = watch::channel(Status::starting(now()));
    let failures = Failures {
        metrics: Arc::clone(&metrics),
        status: status.clone(),
    };
    // Answers until this function returns.
    let show = Show::default();
    let _listener = listener(&config, &failures, &status_seen, &show.pictures);
    let id = seed();
    let (to_stop, stop) = Stop::new();
    loop {
        let mut parts = JoinSet::new();
        let audit_log = audit_log(&config, &show);
        let resync = Arc::new(Notify::new());
        let standing = (!config.observe).then(|| {
            let (standing, seen) = watch::channel(None);
            let config = config.clone();
            parts.spawn(failures.clone().keep(Part::Charge, move || {
                charge::run(Charge::new(&config, id), standing.clone())
            }));
            seen
        });
        let start = {
            let config = config.clone();
            let (traffic, metrics) = (Arc::clone(&traffic), Arc::clone(&metrics));
            let (status, resync, stop) = (status.clone(), Arc::clone(&resync), stop.clone());
            let show = show.clone();
            move || {
                let nomad = Arc::new(nomad_settings(&config));
                let route = Route::new(nomad, Arc::clone(&traffic));
                let report = Report::new(
                    Arc::clone(&metrics),
                    status.clone(),
                    Arc::clone(&route),
                    &config.nomad.namespaces,
                    show.clone(),
                );
                let (standing, resync) = (standing.clone(), Arc::clone(&resync));
                let metrics = Arc::clone(&metrics);
                core(
                    config.clone(),
                    route,
                    report,
                    standing,
                    resync,
                    stop.clone(),
                    metrics,
                )
            }
        };
        parts.spawn(failures.clone().keep(Part::Core, start));
        loop {
            let signal = tokio::select! {
                signal = signals.next() => signal,
                () = stop.drained.notified() => None,
            };
            if signal != Some(SIGHUP) {
                let was_told = to_stop.send_replace(config.on_stop == OnStop::Drain);
                if *to_stop.borrow() && !was_told {
                    info!(
                        at_most = ?config.drain_timeout,
                        "draining every server of ours before stopping; a second signal stops at once"
                    );
                    continue;
                }
                if was_told {
                    info!("stopping");
                } else {
                    info!("stopping; HAProxy goes on serving as it is");
                }
                parts.shutdown().await;
                end_log(audit_log, &show).await;
                charge::leave(&config.haproxy.socket, id);
                return Ok(());
            }
            if *to_stop.borrow() {
                continue;
            }
            if let Some(new) = reread(&config) {
                config = new;
                break;
            }
            // One that waits already will do for this signal, too.
            resync.notify_one();
        }
        parts.shutdown().await;
        end_log(audit_log, &show).await;
    }
}

/// The configuration after SIGHUP, when it is another one. One that cannot be used changes nothing.
fn reread(config: &Config) -> Option<Config> {
    match config.reload() {
        Ok(new)
            if format!("{new:?}") == format!("{config:?}")
                && new.nomad.token == config.nomad.token =>
        {
            info!(
                "SIGHUP: the configuration is the same; the token is read again and everything is synced"
            );
            None
        }
        Ok(new) => {
            info!("SIGHUP: the configuration changed; starting afresh with it");
            Some(new)
        }
        Err(error) => {
            warn!(%error, "SIGHUP: the configuration cannot be used; the former one stays in force");
            None
        }
    }
}

/// The core with its two sessions. Ends by being dropped, or by the panic of a part.
async fn core(
    config: Config,
    route: Arc<Route>,
    report: Report,
    standing: Option<watch::Receiver<Option<Standing>>>,
    resync: Arc<Notify>,
    mut stop: Stop,
    metrics: Arc<Metrics>,
) {
    let mut parts = JoinSet::new();
    let (batches, batches_seen) = mpsc::channel(64);
    let (haproxy_events, mut from_haproxy) = mpsc::channel(64);
    let (control, control_seen) = mpsc::channel(16);
    // Few: one may have all registrations of a large service.
    let (catalog_events, mut from_catalog) = mpsc::channel(4);
    let settings = config.haproxy.clone();
    parts.spawn(session::run(settings, batches_seen, haproxy_events));
    let (services, services_seen) = mpsc::channel(256);
    let (questions, questions_seen) = mpsc::channel(256);
    let (answers, mut from_jobs) = mpsc::channel(256);
    parts.spawn(jobs::run(
        Arc::clone(&route),
        policy(&config),
        jobs::Channels {
            seen: services_seen,
            questions: questions_seen,
            answers,
        },
        Arc::clone(&metrics),
    ));
    parts.spawn(catalog::run(route, control_seen, catalog_events));
    let (state_file, wishes) = watch::channel(state_file::Wish::default());

    // Who does not know yet whether another one acts does not.
    let mode = if config.observe {
        Mode::Observe
    } else {
        Mode::Standby
    };
    let started = now();
    let keeper = Keeper::new(&config, started, Arc::clone(&metrics), &mut parts);
    let hands = hands::Keeper::new(&config, &mut parts);
    let mut core = Reconciler::new(policy(&config), mode, seed());
    if let Some(path) = &config.state_file {
        core = core.with_state_file();
        parts.spawn(state_file::run(path.clone(), wishes, metrics, seed()));
    }
    let mut shell = Shell {
        core,
        started,
        batches,
        control,
        services,
        state_file,
        questions,
        freeze: Freeze::new(&config),
        under_way: BTreeMap::new(),
        verdicts: Verdicts::default(),
        drawing: None,
        report,
        keeper,
        hands,
    };
    Report::starting(&config);
    shell.look_at_freeze().await;
    if config.observe {
        shell.recall().await;
    }
    let mut standing = Standings::new(standing);
    let pictures = Arc::clone(&shell.report.show.pictures);
    let mut ticks = interval(Duration::from_secs(1));
    let mut stopping = false;
    loop {
        let wake = shell.core.next_timeout().map(|at| (started + at).into());
        let due = shell.keeper.due().map(Into::into);
        tokio::select! {
            biased;
            Some(ended) = parts.join_next() => {
                // They end only when this function does, or by a panic, which is this part's too.
                if let Err(panic) = ended {
                    std::panic::resume_unwind(panic.into_panic());
                }
                return;
            }
            new = standing.next() => shell.turned(new).await,
            Some(event) = from_haproxy.recv() => shell.haproxy(event).await,
            Some(event) = from_catalog.recv() => shell.catalog(event).await,
            () = resync.notified() => shell.ask(catalog::Control::Resync).await,
            () = stop.told(), if !stopping => {
                stopping = true;
                shell.input(Input::Drain).await;
            }
            () = sleep_until(wake.unwrap_or_else(|| now().into())), if wake.is_some() => shell.input(Input::Timeout).await,
            () = sleep_until(due.unwrap_or_else(|| now().into())), if due.is_some() => shell.keep(),
            read = shell.keeper.read() => shell.restore(read).await,
            Some((allocation, answer)) = from_jobs.recv() => shell.input(Input::Told(allocation, answer)).await,
            () = pictures.wanted(), if shell.may_draw() => shell.begin_to_draw(),
            question = pictures.asked() => shell.ask_for_verdicts(question).await,
            _ = ticks.tick() => {
                shell.look_at_freeze().await;
                shell.tick();
            }
            () = yield_now(), if shell.drawing.is_some() => shell.draw(),
        }
        if stopping && shell.has_drained() {
            stop.drained.notify_one();
            return std::future::pending().await;
        }
    }
}

struct Shell {
    core: Reconciler,
    started: Instant,
    batches: mpsc::Sender<Batch>,
    control: mpsc::Sender<catalog::Control>,
    services: mpsc::Sender<Vec<jobs::Seen>>,
    state_file: watch::Sender<state_file::Wish>,
    questions: mpsc::Sender<Question>,
    freeze: Freeze,
    /// Batches that the session has, and since when.
    under_way: BTreeMap<BatchId, (Arc<[Request]>, Instant)>,
    verdicts: Verdicts,
    drawing: Option<Drawing>,
    report: Report,
    keeper: Keeper,
    hands: Option<hands::Keeper>,
}

impl Shell {
    fn has_drained(&self) -> bool {
        let at = now().saturating_duration_since(self.started);
        self.core.has_drained(at)
    }

    async fn turned(&mut self, standing: Standing) {
        self.report.looks_otherwise();
        let mode = match standing {
            Standing::InCharge => Mode::Act,
            Standing::Standby(_) => Mode::Standby,
        };
        self.report.standing(standing);
        if mode == Mode::Act {
            self.recall().await;
        }
        self.input(Input::Turned(mode)).await;
        self.tick();
    }

    async fn haproxy(&mut self, event: session::Event) {
        match event {
            session::Event::Connected(info) => {
                self.report.connected(&info);
                self.report.looks_otherwise();
                self.input(Input::Connected(info)).await;
            }
            session::Event::Completed { id, responses } => {
                let audit = &self.report.show.audit;
                let Some(responses) = self.verdicts.take(id, responses, audit) else {
                    return self.ask_for_words().await;
                };
                if let Some((requests, sent_at)) = self.under_way.remove(&id) {
                    self.report.answered(id, &requests, &responses);
                    self.report.batch_took(sent_at.elapsed());
                }
                self.input(Input::Answered(id, responses)).await;
            }
            session::Event::Failed {
                id,
                responses,
                error,
            } => {
                let audit = &self.report.show.audit;
                let Some(responses) = self.verdicts.take(id, responses, audit) else {
                    return self.ask_for_words().await;
                };
                if let Some((requests, _)) = self.under_way.remove(&id) {
                    self.report.answered(id, &requests, &responses);
                }
                let failure = if let session::SessionError::UnknownReply(reply) = &error {
                    Failure::NotUnderstood(reply.to_string())
                } else {
                    Failure::ConnectionLost
                };
                self.input(Input::Failed(id, failure)).await;
            }
            session::Event::Lost(error) => {
                self.report.lost(&error);
                self.report.looks_otherwise();
                self.input(Input::Disconnected).await;
                self.tick();
            }
            session::Event::Unavailable(error) => self.report.unavailable(&error),
        }
    }

    async fn catalog(&mut self, event: catalog::Event) {
        self.report.catalog(&event);
        if !matches!(event, catalog::Event::Current { .. }) {
            self.report.looks_otherwise();
        }
        self.keeper.heard(now(), &event);
        match event {
            catalog::Event::Synced(synced) => {
                let (services, unproven) = (synced.services, synced.unproven);
                let seen = services
                    .iter()
                    .map(|(key, registrations)| jobs::Seen::new(key, registrations));
                self.look_at_jobs(seen.collect());
                self.input(Input::Synced { services, unproven }).await;
            }
            catalog::Event::Changed {
                key,
                registrations,
                received_at,
                ..
            } => {
                self.report.changed_at(received_at);
                self.look_at_jobs(vec![jobs::Seen::new(&key, &registrations)]);
                self.input(Input::Changed(key, registrations)).await;
            }
            catalog::Event::Following { .. }
            | catalog::Event::StreamLost { .. }
            | catalog::Event::IndexWentBack { .. }
            | catalog::Event::Trouble { .. }
            | catalog::Event::Recovered { .. }
            | catalog::Event::Rereads { .. }
            | catalog::Event::Current { .. } => {}
        }
    }

    /// One input, then everything that the core wants.
    async fn input(&mut self, input: Input) {
        let looks = self.core.looks();
        self.core
            .handle(now().saturating_duration_since(self.started), input);
        let mut looks_otherwise = looks != self.core.looks();
        let mut stands_otherwise = false;
        while let Some(output) = self.core.poll() {
            match output {
                Output::Run(batch) => {
                    self.report.show.audit.batch(&batch);
                    self.under_way
                        .insert(batch.id, (Arc::clone(&batch.requests), now()));
                    // The session always takes batches, and fails those that it cannot run.
                    drop(self.batches.send(batch).await);
                }
                Output::Prove(services) => self.ask(catalog::Control::Prove(services)).await,
                Output::StateFile(wanted) => {
                    self.state_file.send_modify(|wish| wish.take(wanted));
                }
                Output::Hands(hands) => {
                    if let Some(keeper) = &self.hands {
                        keeper.keep(hands);
                    }
                }
                // Without an answer it is as if nobody had asked.
                Output::Ask(question) => drop(self.questions.try_send(question)),
                Output::Tell(fact) => {
                    looks_otherwise = true;
                    stands_otherwise |= matches!(
                        fact,
                        Fact::Restarted { .. }
                            | Fact::InSync { .. }
                            | Fact::Admitted { .. }
                            | Fact::SnapshotApplied { .. }
                    );
                    if matches!(fact, Fact::Held(..) | Fact::HoldEnded(..)) {
                        self.keeper.changed();
                    }
                    if let Fact::Turned(backend, _) = &fact {
                        self.verdicts.turned(backend);
                    }
                    self.report.fact(fact);
                }
            }
        }
        self.ask_for_words().await;
        if looks_otherwise {
            self.report.looks_otherwise();
        }
        // Counting everything is not free: only when readiness changes, and every second.
        if stands_otherwise {
            self.tick();
        }
    }

    fn tick(&mut self) {
        let at = now().saturating_duration_since(self.started);
        self.report.tick(&self.core.overview(), at);
    }

    /// What a predecessor knew to be by hand is taken in, before anything is written.
    async fn recall(&mut self) {
        let hands = match &self.hands {
            Some(keeper) => keeper.recall().await,
            None => None,
        };
        if let Some(hands) = hands {
            self.input(Input::Recalled(hands)).await;
        }
    }

    /// Keeps what is known for a successor.
    fn keep(&mut self) {
        let now = now();
        let at = now.saturating_duration_since(self.started);
        self.keeper.act(now, || self.core.remember(at));
    }

    /// Nomad is away: what a predecessor knew is taken in.
    async fn restore(&mut self, read: Result<Usable, Refusal>) {
        match read {
            Ok(snapshot) => {
                self.report.snapshot_used(self.keeper.path(), &snapshot);
                self.input(Input::Restored(snapshot.remembered)).await;
            }
            Err(refusal) => self.report.snapshot_refused(self.keeper.path(), &refusal),
        }
    }

    async fn look_at_freeze(&mut self) {
        if let Some(is_frozen) = self.freeze.changed() {
            self.input(Input::Freeze(is_frozen)).await;
        }
    }

    /// What is lost here only leaves a job unread until the next change or sync.
    fn look_at_jobs(&self, seen: Vec<jobs::Seen>) {
        let _ = self.services.try_send(seen);
    }

    async fn ask(&self, control: catalog::Control) {
        // It is gone only when this shell is about to be, too.
        drop(self.control.send(control).await);
    }
}

fn policy(config: &Config) -> Policy {
    Policy {
        rules: Arc::new(config.rules.clone()),
        server_profiles: config.server_profiles.clone(),
        tag_prefix: config.nomad.tag_prefix.clone(),
        expose_by_default: config.nomad.expose_by_default,
        slot_prefix: config.slot_prefix.clone(),
        hold: config.hold,
        backend_profiles: config.backend_profiles.clone(),
        backend_linger: config.backend_linger,
        drain_timeout: config.drain_timeout,
        max_removals_per_second: config.max_removals_per_second,
        maps: config.maps.clone(),
        second_opinion: true,
    }
}

fn nomad_settings(config: &Config) -> Settings {
    Settings {
        seed: seed(),
        catalog_room: memory::catalog_room(),
        ..config.nomad.clone()
    }
}

/// Randomness of the operating system, for jitter.
fn seed() -> u64 {
    RandomState::new().hash_one(0)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shell is where time comes from"
)]
fn now() -> Instant {
    Instant::now()
}
