//! `make demo`: the story of the README on a real HAProxy, each step with the time that it took.
//!
//! Between the sidecar and HAProxy's socket is a tap that sees every command, between the sidecar and Nomad a gate that can
//! be closed. With `--once` it ends with 0, or with 1 when a step failed; otherwise it stays up until Ctrl-C.

#![expect(clippy::print_stdout, reason = "a demo speaks to people")]

mod gate;
#[path = "../haproxy.rs"]
#[expect(dead_code, reason = "this program uses a part of it")]
mod haproxy;
mod nomad;
mod process;
#[path = "../tap.rs"]
#[expect(dead_code, reason = "this program uses a part of it")]
mod tap;
mod web;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    error::Error,
    fmt::Display,
    fs,
    net::{Ipv4Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Parser;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::TempDir;

use gate::Gate;
use haproxy::{Haproxy, HaproxyBin, free_port, now};
use nomad::{Nomad, Service};
use process::Process;
use tap::Tap;
use web::Visitor;

/// The third has no backend of its own name.
const WEB: Service = ("web", &[]);
const API: Service = ("api", &[]);
const PHOTOBOOKS: Service = ("photobooks", &["haproxy.backend.name=web"]);

/// For a step of the sidecar and HAProxy alone.
const SOON: Duration = Duration::from_secs(10);
/// For one that a real Nomad has to schedule.
const SCHEDULED: Duration = Duration::from_secs(20);
/// For an agent to start.
const STARTED: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(10);

/// What commands begin with that change nothing but their own connection.
const READS: [&str; 5] = [
    "show ",
    "dump ",
    "prompt",
    "set timeout cli ",
    "set severity-output ",
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Plays the story of the README on a real HAProxy.
#[derive(Parser)]
struct Flags {
    /// End after the last step.
    #[arg(long)]
    once: bool,
    /// Slots instead of dynamic servers.
    #[arg(long)]
    slots: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&stop)).expect("they can be caught");
    }
    // What is being tried may panic in the supporting code of the tests. Everything that was started ends all the same.
    let played = catch_unwind(AssertUnwindSafe(|| play(&flags, &stop)));
    match played {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) | Err(_) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            println!("FAILED  {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every step went well.
fn play(flags: &Flags, stop: &AtomicBool) -> Result<bool> {
    let config = if flags.slots {
        "nomad-jobs/haproxy-slots.cfg"
    } else {
        "nomad-jobs/haproxy-dynamic.cfg"
    };
    let mut stage = Stage::set(config, stop)?;
    stage.keeps_state_file = flags.slots;
    stage.story();
    let went_well = stage.failures == 0 && !stop.load(Ordering::SeqCst);
    println!(
        "\n{}",
        match stage.failures {
            _ if stop.load(Ordering::SeqCst) => "interrupted".to_owned(),
            0 => "every step went well".to_owned(),
            failures => format!(
                "FAILED steps: {failures}; the end of the sidecar's log:\n{}",
                stage.last_words()
            ),
        }
    );
    if !flags.once && !stop.load(Ordering::SeqCst) {
        stage.invite();
        while !stop.load(Ordering::SeqCst) {
            thread::sleep(PAUSE);
        }
        println!("\nstopping everything");
    }
    Ok(went_well)
}

/// Everything that takes part.
struct Stage<'a> {
    stop: &'a AtomicBool,
    failures: u32,
    /// HAProxy reads one.
    keeps_state_file: bool,
    // Dropped in this order.
    visitor: Option<Visitor>,
    sidecar: Option<Process>,
    tap: Tap,
    haproxy: Haproxy,
    gate: Gate,
    nomad: Nomad,
    web: SocketAddr,
    stats: SocketAddr,
    admin: SocketAddr,
    /// How many instances should be served.
    wanted: BTreeMap<&'static str, usize>,
    directory: TempDir,
}

impl<'a> Stage<'a> {
    fn set(config: &str, stop: &'a AtomicBool) -> Result<Self> {
        let directory = TempDir::with_prefix_in("demo", "/tmp")?;
        let localhost = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let [web, stats, admin] = [(); 3].map(|()| localhost(free_port()));

        let bins = env::var("HAPROXY_BINS").unwrap_or_default();
        let newest = bins.rsplit(':').find(|path| !path.is_empty());
        let bin = HaproxyBin::at(newest.unwrap_or("haproxy"));
        println!("HAProxy {} with {config}", bin.version);
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(config);
        // The shipped file has no page to look at.
        let page = format!(
            "listen stats\n  bind {stats}\n  stats enable\n  stats uri /\n  stats refresh 1s\n"
        );
        let haproxy = Haproxy::start_shipped(&bin, &config, web.port(), &page);

        let nomad = Nomad::start(directory.path())?;
        println!("Nomad: {}", nomad.title());
        let stage = Self {
            stop,
            failures: 0,
            keeps_state_file: false,
            visitor: None,
            sidecar: None,
            tap: Tap::before(&haproxy.socket()),
            haproxy,
            gate: Gate::before(nomad.addr())?,
            nomad,
            web,
            stats,
            admin,
            wanted: BTreeMap::new(),
            directory,
        };
        stage
            .until(STARTED, || stage.nomad.is_ready())
            .map_err(|error| format!("Nomad: {error}\n{}", stage.nomad.last_words()))?;
        Ok(stage)
    }

    fn story(&mut self) {
        println!("\n                ms");
        self.step(
            "three services are registered, and no sidecar runs: HAProxy has no servers",
            |stage| {
                for (service, count) in [(WEB, 2), (API, 1), (PHOTOBOOKS, 1)] {
                    stage.scale(service, count)?;
                }
                stage.until(SCHEDULED, || stage.registered() == 4)?;
                if web::get(stage.web, "/").is_ok() {
                    return Err("who has answered?".into());
                }
                Ok(None)
            },
        );
        self.step("the sidecar starts: all three are served", |stage| {
            let began = now();
            stage.start_sidecar()?;
            stage.until(SOON, || stage.is_served())?;
            let took = began.elapsed();
            stage.until(SOON, || web::get(stage.admin, "/ready").is_ok())?;
            stage.visitor = Some(Visitor::of(stage.web));
            Ok(Some(took))
        });
        self.quiet_step("an instance joins", |stage| {
            stage.scale(WEB, 3)?;
            stage.until(SCHEDULED, || stage.is_served())
        });
        self.quiet_step("an instance leaves", |stage| {
            stage.scale(WEB, 2)?;
            stage.until(SCHEDULED, || stage.is_served())
        });
        self.step(
            "HAProxy is reloaded: from its first answer until everything is back",
            |stage| {
                stage.haproxy.reload();
                let answered = now();
                stage.until(SOON, || stage.is_served())?;
                Ok(Some(answered.elapsed()))
            },
        );
        self.step(
            "HAProxy is killed (-9) and started: from its first answer until everything is back",
            |stage| {
                stage.haproxy.kill9();
                stage.haproxy.restart();
                let answered = now();
                stage.until(SOON, || stage.is_served())?;
                Ok(Some(answered.elapsed()))
            },
        );
        self.quiet_step(
            "Nomad goes away, the sidecar has noticed: HAProxy goes on",
            |stage| {
                let failures = stage.failed_reads();
                stage.gate.close();
                stage.until(SOON, || stage.failed_reads() > failures)?;
                stage.go_on(Duration::from_secs(2))
            },
        );
        self.quiet_step(
            "an instance joins meanwhile, Nomad comes back: it is served",
            |stage| {
                stage.scale(API, 2)?;
                stage.until(SCHEDULED, || stage.registered() == 5)?;
                stage.gate.open()?;
                stage.until(SCHEDULED, || stage.is_served())
            },
        );
        self.quiet_step("the sidecar is killed (-9): HAProxy goes on", |stage| {
            if let Some(sidecar) = stage.sidecar.take() {
                sidecar.kill();
            }
            stage.go_on(Duration::from_secs(1))
        });
        self.quiet_step(
            "it returns and writes nothing, since everything is right",
            |stage| {
                stage.tap.forget();
                stage.start_sidecar()?;
                stage.until(SOON, || web::get(stage.admin, "/ready").is_ok())?;
                // It looks once more a second after it has connected.
                stage.go_on(Duration::from_secs(2))?;
                let lines = stage.tap.lines();
                let asks =
                    |line: &&String| READS.iter().any(|beginning| line.starts_with(beginning));
                let (asked, wrote): (Vec<_>, Vec<_>) = lines.iter().partition(asks);
                match (asked.is_empty(), wrote.first()) {
                    (true, _) => Err("the tap saw nothing at all".into()),
                    (false, Some(first)) => {
                        Err(format!("{} changing commands, first: {first}", wrote.len()).into())
                    }
                    (false, None) => Ok(()),
                }
            },
        );
    }

    // === Steps ===

    /// Plays a step that may measure for itself, and shows how it went.
    fn step(&mut self, title: &str, play: impl FnOnce(&mut Self) -> Result<Option<Duration>>) {
        if self.stop.load(Ordering::SeqCst) {
            return;
        }
        let before = self.visits();
        let began = now();
        let result = catch_unwind(AssertUnwindSafe(|| play(self)))
            .unwrap_or_else(|_| Err("see above".into()));
        let (word, took, problem) = match &result {
            Ok(took) => ("ok", took.unwrap_or_else(|| began.elapsed()), String::new()),
            Err(error) => ("FAILED", began.elapsed(), format!(": {error}")),
        };
        self.failures += u32::from(result.is_err());
        let after = self.visits();
        let (requests, failed) = (after.0 - before.0, after.1 - before.1);
        let visits = if requests == 0 {
            String::new()
        } else {
            format!(" ({failed} of {requests} requests failed)")
        };
        println!("{word:6} {:>11} {title}{problem}{visits}", took.as_millis());
    }

    /// The same for a step in which no request may fail.
    fn quiet_step(&mut self, title: &str, play: impl FnOnce(&mut Self) -> Result<()>) {
        self.step(title, |stage| {
            let before = stage.visits().1;
            let began = now();
            play(stage)?;
            let took = began.elapsed();
            let failed = stage.visits().1 - before;
            if failed > 0 {
                return Err("requests failed".into());
            }
            Ok(Some(took))
        });
    }

    fn until(&self, patience: Duration, condition: impl Fn() -> bool) -> Result<()> {
        let deadline = now() + patience;
        while !condition() {
            if self.stop.load(Ordering::SeqCst) {
                return Err("interrupted".into());
            }
            if now() > deadline {
                return Err(format!("not within {} s", patience.as_secs()).into());
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Goes on for a while, the visitor with it, and finds everything served at the end.
    fn go_on(&self, duration: Duration) -> Result<()> {
        let end = now() + duration;
        self.until(duration + SOON, || now() >= end)?;
        self.until(SOON, || self.is_served())
    }

    // === What there is ===

    fn scale(&mut self, service: Service, count: usize) -> Result<()> {
        self.wanted.insert(service.0, count);
        Ok(self.nomad.scale(service, count)?)
    }

    fn start_sidecar(&mut self) -> Result<()> {
        let program = sidecar()?;
        let mut command = Command::new(program);
        command
            .env_clear()
            .arg("run")
            .arg("--haproxy-socket")
            .arg(self.tap.socket())
            .args(["--nomad-addr", &format!("http://{}", self.gate.addr())])
            .args(["--admin-listen", &self.admin.to_string()]);
        if self.keeps_state_file {
            let file = self.haproxy.directory().join("haproxy.state");
            command.arg("--state-file").arg(file);
        }
        self.sidecar = Some(Process::start(&mut command, &self.log())?);
        Ok(())
    }

    /// Instances in the catalog.
    fn registered(&self) -> usize {
        let registrations = |service| {
            let target = format!("/v1/service/{service}");
            let rows = web::get(self.nomad.addr(), &target).unwrap_or_default();
            rows.matches(r#""ServiceName":"#).count()
        };
        self.wanted.keys().map(registrations).sum()
    }

    /// Whether HAProxy answers with every instance that is wanted and no other.
    fn is_served(&self) -> bool {
        let served = |target: &str, services: &[Service]| {
            let wanted: BTreeSet<String> = services
                .iter()
                .flat_map(|(service, _)| {
                    let count = self.wanted.get(service).copied().unwrap_or(0);
                    (0..count).map(move |number| format!("{service}-{number}\n"))
                })
                .collect();
            // Two rounds, since the visitor takes turns, too.
            let answers: std::result::Result<BTreeSet<_>, _> = (0..wanted.len() * 2)
                .map(|_| web::get(self.web, target))
                .collect();
            answers.is_ok_and(|answers| answers == wanted)
        };
        served("/", &[WEB, PHOTOBOOKS]) && served("/api/", &[API])
    }

    /// The sidecar's count of them, 0 while it does not answer.
    fn failed_reads(&self) -> u64 {
        let metrics = web::get(self.admin, "/metrics").unwrap_or_default();
        metrics
            .lines()
            .find_map(|line| {
                line.strip_prefix(r#"haproxy_nomad_sidecar_sync_failures_total{kind="nomad"} "#)
            })
            .and_then(|count| count.parse().ok())
            .unwrap_or(0)
    }

    fn visits(&self) -> (u64, u64) {
        self.visitor.as_ref().map_or((0, 0), Visitor::counts)
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("sidecar.log")
    }

    fn last_words(&self) -> String {
        self.sidecar
            .as_ref()
            .map_or_else(String::new, Process::last_words)
    }

    fn invite(&self) {
        let line = |what: &str, place: &dyn Display| println!("  {what:21} {place}");
        println!("\nEverything stays up until Ctrl-C:");
        line("web and photobooks", &format!("http://{}/", self.web));
        line("api", &format!("http://{}/api/", self.web));
        line("HAProxy's statistics", &format!("http://{}/", self.stats));
        line("HAProxy's socket", &self.haproxy.socket().display());
        line("the sidecar's page", &format!("http://{}/", self.admin));
        if let Ok(program) = sidecar() {
            let explain = format!(
                "{} explain web --admin-listen {} --nomad-addr http://{} --haproxy-socket {}",
                program.display(),
                self.admin,
                self.gate.addr(),
                self.haproxy.socket().display()
            );
            line("why, in a terminal", &explain);
        }
        line("the sidecar's log", &self.log().display());
        line("Nomad", &format!("http://{}", self.nomad.addr()));
    }
}

/// The product, which is built beside the examples.
fn sidecar() -> Result<PathBuf> {
    let mut directory = env::current_exe()?;
    directory.pop();
    let path = directory.with_file_name("haproxy-nomad-sidecar");
    match fs::metadata(&path) {
        Ok(_) => Ok(path),
        Err(error) => Err(format!("{}: {error}; use `make demo`", path.display()).into()),
    }
}
