//! A day of one HAProxy: every scenario has a backend of slots and one of dynamic servers, or one that is made at runtime,
//! each for HTTP and TCP, and load on all of them from when its first instances are in rotation until it is over.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use haproxy_nomad_sidecar::model::SplitMix64;
use tokio::runtime::{self, Runtime};

use crate::{
    config::{self, DYNAMIC, MADE, Maps, SLOTS},
    job::Job,
    scenarios::{Scenario, Window},
    support::{
        app::loopback,
        fake_nomad::{Mode, Recorded, Which},
        haproxy::HaproxyBin,
        load::{Kind, Load, Order, Outcome, Record, Report, Target},
        world::World,
    },
};

const KINDS: [Kind; 3] = [Kind::KeepAlive, Kind::Close, Kind::Tcp];
/// On a machine that does nothing else no request is sent later than this after it is due.
const CALM: Duration = Duration::from_millis(100);
/// Of each kind, to judge by.
const ENOUGH: usize = 20;

/// How a day is arranged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// The kinds of servers that scenarios are played with.
    pub(crate) servers: &'static [&'static str],
    /// The sidecar is killed so often, at random moments, and started again at once. Scenarios are played again until then.
    pub(crate) kills: u32,
    /// Its environment.
    pub(crate) sidecar: &'static [(&'static str, &'static str)],
    /// The health check of slots. Dynamic servers have one in any case.
    pub(crate) check: &'static str,
    /// Of every group. It has to cover the way of a deregistration to HAProxy, and, where the last server of a service is
    /// held, the admission of its replacement: for slots one `inter` of their template and two `downinter`.
    pub(crate) shutdown_delay: Duration,
    /// Each service of an allocation is a request of its client to a server.
    pub(crate) between_services: Duration,
    /// Requests in a second, of each kind, to each backend.
    pub(crate) rate: u32,
    /// Tags of every registration.
    pub(crate) tags: &'static [&'static str],
    /// Nomad tells what becomes of an allocation, and the sidecar asks it before it cuts anything.
    pub(crate) tells_of_allocations: bool,
}

/// As the documentation advises.
pub(crate) const ADVISED: Setup = Setup {
    servers: &[SLOTS, DYNAMIC],
    kills: 0,
    // Longer than the longest request.
    sidecar: &[("SIDECAR_DRAIN_TIMEOUT", "5s")],
    check: "check inter 1s fastinter 250ms downinter 250ms",
    shutdown_delay: Duration::from_secs(3),
    between_services: Duration::from_millis(20),
    rate: 10,
    tags: &[],
    tells_of_allocations: true,
};

/// The same with a configuration that has no backend.
pub(crate) const ZERO_TOUCH: Setup = Setup {
    servers: &[MADE],
    sidecar: &[
        ("SIDECAR_DRAIN_TIMEOUT", "5s"),
        ("SIDECAR_BACKEND_PROFILES", "nomad,nomad-tcp"),
        // So short that some of those that come back find their backend, some do not, and some meet its removal.
        ("SIDECAR_BACKEND_LINGER", "3s"),
    ],
    ..ADVISED
};

/// One HAProxy with everything around it.
pub(crate) struct Day<'a> {
    world: World,
    runtime: Runtime,
    seed: u64,
    setup: Setup,
    scenarios: &'a [&'a Scenario],
    /// Where HAProxy listens.
    addr: Ipv4Addr,
    maps: Maps,
}

impl<'a> Day<'a> {
    pub(crate) fn begin(
        bin: &HaproxyBin,
        seed: u64,
        setup: Setup,
        scenarios: &'a [&'a Scenario],
    ) -> Self {
        let addr = loopback();
        let maps = Maps::new(bin);
        let config = config::text(addr, setup, scenarios, &maps);
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let world = World::start_with(bin, &config);
        if !setup.tells_of_allocations {
            let denied = Mode::Answer(Recorded::PermissionDenied);
            world.nomad.mode(Which::Others, denied);
        }
        Self {
            world,
            runtime: runtime.expect("threads can be had"),
            seed,
            setup,
            scenarios,
            addr,
            maps,
        }
    }

    /// What went wrong.
    pub(crate) fn play(&self) -> Vec<String> {
        let problems = Mutex::new(Vec::new());
        // A scenario is played again until then.
        let is_enough = AtomicBool::new(self.setup.kills == 0);
        let is_over = AtomicBool::new(false);
        let log = Mutex::default();
        thread::scope(|scope| {
            let sidecar = scope.spawn(|| self.keep_sidecars(&is_enough, &is_over, &log));
            let mut plays = Vec::new();
            for (number, scenario) in (0u16..).zip(self.scenarios) {
                for servers in scenario.servers(self.setup) {
                    let (problems, is_enough) = (&problems, &is_enough);
                    let play = move || {
                        let ports = config::ports(number, servers);
                        let found = self.play_one(scenario, servers, ports, is_enough);
                        problems
                            .lock()
                            .expect("nobody panics with it")
                            .extend(found);
                    };
                    plays.push(scope.spawn(play));
                }
            }
            let plays: Vec<_> = plays.into_iter().map(ScopedJoinHandle::join).collect();
            is_over.store(true, Ordering::SeqCst);
            let sidecar = sidecar.join();
            for failed in plays.into_iter().chain([sidecar]).filter_map(Result::err) {
                let text = failed.downcast_ref::<String>().cloned();
                let text = text.unwrap_or_else(|| "something panicked, see above".to_owned());
                problems.lock().expect("nobody panics with it").push(text);
            }
        });
        let mut problems = problems.into_inner().expect("nobody panicked with it");
        if !problems.is_empty() {
            let log: String = log.into_inner().expect("nobody panicked with it");
            problems.push(format!("log of the sidecar:\n{log}"));
        }
        problems
    }

    // === the sidecar ===

    /// Kills one after the other at random moments of its life, and starts the next one at once. The last one stays.
    fn keep_sidecars(&self, is_enough: &AtomicBool, is_over: &AtomicBool, log: &Mutex<String>) {
        let mut random = SplitMix64::new(self.seed);
        let settings = [self.setup.sidecar, &self.maps.settings()].concat();
        for kills_left in (0..=self.setup.kills).rev() {
            let mut sidecar = self.world.sidecar_with(&settings);
            if kills_left == self.setup.kills {
                // The first of them brings everything in, so that load can begin.
                sidecar.until_ready();
            }
            if kills_left == 0 {
                is_enough.store(true, Ordering::SeqCst);
                while !is_over.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(50));
                }
            } else {
                thread::sleep(Duration::from_millis(50 + random.next() % 1200));
                sidecar.kill9();
            }
            let mut log = log.lock().expect("nobody panics with it");
            writeln!(log, "{}---", sidecar.log()).expect("a text can be written to");
        }
    }

    // === one scenario with one kind of servers ===

    /// Its problems, and what happened when if there are any.
    fn play_one(
        &self,
        scenario: &Scenario,
        servers: &str,
        ports: [u16; 2],
        is_enough: &AtomicBool,
    ) -> Vec<String> {
        let name = format!("{}-{servers}", scenario.name);
        let runtime = self.runtime.handle();
        let (world, maps) = (&self.world, &self.maps);
        let job = Job::new(world, runtime, maps, &name, ports[1], self.seed, self.setup);
        let allocs: Vec<_> = (0..scenario.count)
            .map(|_| job.place_booting(&[], Duration::ZERO))
            .collect();
        job.until_served_by(&allocs);
        let loads = KINDS.map(|kind| self.load(&job, kind, ports));
        job.tell("load begins");
        let mut left = allocs;
        let mut allowed = Vec::new();
        loop {
            left = (scenario.play)(&job, left, &mut allowed);
            job.until_served_by(&left);
            if is_enough.load(Ordering::SeqCst) {
                break;
            }
        }
        job.until("there were enough requests", || {
            loads.iter().all(|load| load.count() >= ENOUGH)
        });
        job.tell("load ends");
        let mut problems = Vec::new();
        let mut most_late = Duration::ZERO;
        for (kind, load) in KINDS.into_iter().zip(loads) {
            let report = runtime.block_on(load.stop());
            let found = judge(&job, kind, &report, &allowed);
            let [p50, p99, most] = report.percentiles(Record::latency);
            let [_, _, late] = report.percentiles(|record| record.late);
            most_late = most_late.max(late);
            eprintln!(
                "{:8} {name:28} {kind:10?} {:4} requests, {} failed, {} retried, latency {p50:.1?} {p99:.1?} {most:.1?}, \
                 at worst {late:.1?} late, by {} instances",
                self.world.version(),
                report.records.len(),
                report.failed().count(),
                report.retried(),
                report.instances().len(),
            );
            problems.extend(found.map(|found| format!("{name}, {kind:?}: {found}")));
        }
        // A try that failed was one at an instance that is none, even if the next one was lucky. Or the machine stood still
        // for longer than a connection may take, or a check: then it says nothing.
        let retries = self.retries(&job);
        if retries > 0 && allowed.is_empty() && most_late < CALM {
            problems.push(format!("{name}: HAProxy had to try again {retries} times"));
        }
        let too_long = job.too_long().into_iter().filter(|_| most_late < CALM);
        problems.extend(too_long.map(|text| format!("{name}: {text}")));
        if !problems.is_empty() {
            problems.push(job.story());
        }
        problems
    }

    /// How often HAProxy tried once more to reach a server of these backends, the same or another one.
    fn retries(&self, job: &Job) -> u32 {
        let of_backend = |service| {
            let stat = self.world.haproxy.ask(&format!("show stat {service} 2 -1"));
            let mut lines = stat.lines();
            let columns = lines.next().unwrap_or_default().split(',');
            let values = lines.next().unwrap_or_default().split(',');
            let both = columns
                .zip(values)
                .filter(|(column, _)| ["wretr", "wredis"].contains(column))
                .map(|(column, value)| {
                    value
                        .parse()
                        .unwrap_or_else(|_| panic!("no {column}: {stat}"))
                });
            let both: Vec<u32> = both.collect();
            assert_eq!(both.len(), 2, "{stat}");
            both.into_iter().sum::<u32>()
        };
        job.services().into_iter().map(of_backend).sum()
    }

    fn load(&self, job: &Job, kind: Kind, ports: [u16; 2]) -> Load {
        let port = match kind {
            Kind::KeepAlive | Kind::Close => ports[0],
            Kind::Tcp => ports[1],
        };
        let order = Order {
            target: Target::Tcp(SocketAddr::from((self.addr, port))),
            kind,
            host: job.host(),
            rate: self.setup.rate,
            longest: Duration::from_secs(2),
            seed: job.random(),
        };
        Load::start(self.runtime.handle(), order)
    }
}

/// What is wrong with what came of a load, if anything is.
fn judge(job: &Job, kind: Kind, report: &Report, allowed: &[Window]) -> Option<String> {
    if let Some(fault) = report.fault() {
        return Some(fault);
    }
    let of_this_job = format!("{}#", job.services()[0]);
    if let Some(other) = report
        .instances()
        .into_iter()
        .find(|by| !by.starts_with(&of_this_job))
    {
        return Some(format!("{other} of another service has answered"));
    }
    let failed: Vec<_> = report
        .failed()
        .filter(|record| !allowed.iter().any(|window| allows(window, kind, record)))
        .map(|record| {
            let due = record.due - job.began();
            format!(
                "  {:7.3} {} after {:?}, asked to last {:?}",
                due.as_secs_f64(),
                record.outcome,
                record.took,
                record.lasts
            )
        })
        .collect();
    // Where nothing runs nothing can be served: a load that saw nothing of it has not looked.
    for window in allowed.iter().filter(|window| window.is_empty) {
        if !report.failed().any(|record| allows(window, kind, record)) {
            return Some("nothing failed while nothing ran".to_owned());
        }
    }
    (!failed.is_empty()).then(|| {
        let count = failed.len();
        let first: Vec<_> = failed.into_iter().take(20).collect();
        format!("{count} failed\n{}", first.join("\n"))
    })
}

/// Whether a request failed because nothing ran: it was under way then, and HAProxy said so. HAProxy has no word for it in
/// TCP, so it closes.
fn allows(window: &Window, kind: Kind, record: &Record) -> bool {
    let is_told = match kind {
        Kind::Tcp => matches!(
            record.outcome,
            Outcome::ClosedWithoutAnswer | Outcome::Reset
        ),
        Kind::KeepAlive | Kind::Close => record.outcome == Outcome::HaproxyAnswered { status: 503 },
    };
    is_told && record.ended() >= window.from && record.due <= window.until
}
