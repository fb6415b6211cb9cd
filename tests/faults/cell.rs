//! One cell of the matrix: a fault, or two within a second, with one HAProxy.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use haproxy_nomad_sidecar::model::SplitMix64;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    fault::{Fault, IN_LIFE, Lengths},
    kind::{Kind, MADE},
    site::{FOREIGN, Site},
    story::Event,
    support::{
        haproxy::HaproxyBin,
        load::{self, Load, Order, Target, report::MEANS_NOTHING},
        world::{Server, servers_in},
    },
    verdict::{LOADS, Loaded},
    watch::Watch,
};

/// From the end of the fault until HAProxy equals the catalog.
pub(crate) const CONVERGED_WITHIN: Duration = Duration::from_secs(30);

/// Half of what a connection may take.
const CALM: Duration = Duration::from_millis(250);
/// Of each kind, to each backend.
const RATE: u32 = 10;
/// Requests of a load after which each of three servers had its turn.
const TURNS: usize = 10;
/// The two faults of a pair begin within this, and the catalog changes within twice that.
const TOGETHER: u64 = 1000;
/// Of the instance that leaves.
const SHUTDOWN_DELAY: Duration = Duration::from_secs(3);
const LOG_TAIL: usize = 120;
const PLACEHOLDER: &str = "127.0.0.1:1";

pub(crate) struct Cell {
    pub(crate) bin: HaproxyBin,
    pub(crate) faults: Vec<Fault>,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) seed: u64,
    pub(crate) lengths: Lengths,
    /// What somebody does meanwhile that no fault excuses.
    pub(crate) sabotage: Option<fn(&Site)>,
}

/// What came of it.
pub(crate) struct Played {
    pub(crate) problems: Vec<String>,
    /// How late requests were sent, at worst.
    late: Duration,
}

impl Played {
    /// Whether what went wrong says nothing of the product: the machine stood still for so long that connections or checks
    /// may have failed.
    pub(crate) fn means_nothing(&self) -> bool {
        let is_late =
            self.late > CALM || self.problems.iter().any(|one| one.contains(MEANS_NOTHING));
        !self.problems.is_empty() && is_late
    }
}

/// When what happens, by chance.
struct Moments {
    /// The second fault after the first one.
    second: Duration,
    /// Whether the first of [`Cell::faults`] is the second.
    is_reversed: bool,
    change: Duration,
    loads: u64,
}

impl Cell {
    pub(crate) fn name(&self) -> String {
        let names: Vec<_> = self.faults.iter().copied().map(Fault::name).collect();
        names.join("+")
    }

    /// How to play it again.
    pub(crate) fn replay(&self) -> String {
        let kind = match self.kinds[..] {
            [only] => format!("KIND={} ", only.name),
            _ if self.kinds == MADE => "KIND=made ".to_owned(),
            _ => String::new(),
        };
        let full = if self.lengths == IN_LIFE {
            "FAULTS_FULL=1 "
        } else {
            ""
        };
        format!(
            "{full}SEED={} LINE={} {kind}FAULT={} cargo test --test faults",
            self.seed,
            self.bin.line(),
            self.name()
        )
    }

    pub(crate) fn length(&self) -> Duration {
        let lengths = self.faults.iter().map(|fault| fault.length(&self.lengths));
        lengths.max().unwrap_or_default()
    }

    pub(crate) fn play(&self, runtime: &Handle) -> Played {
        let moments = self.moments();
        let began = Instant::now();
        let site = Site::start(&self.bin, &self.kinds, runtime);
        let mut problems = Vec::new();
        site.start_sidecar(0);
        until(Duration::from_secs(20), || differs(&site))
            .map_err(|why| format!("at the beginning {why}\n{}", site.logs()))
            .unwrap_or_else(|why| panic!("{why}"));
        let foreign_as_configured = site.foreign_rows();
        site.operator_comes();
        let foreign_before = site.foreign_rows();
        site.remember_catalog();
        let mut random = SplitMix64::new(moments.loads);
        let loads: Vec<_> = (0..)
            .zip(&site.crews)
            .flat_map(|(at, _)| LOADS.map(|kind| (at, kind)))
            .map(|(at, kind)| load(&site, at, kind, runtime, random.next()))
            .collect();
        let watch = Watch::begin(&site);
        wait_for_requests(&loads, 5);

        site.story.is(Event::Begins);
        let begins = Instant::now();
        self.happens(&site, &moments, begins);
        let over = Instant::now();
        site.catalog_is_corrected();
        if let Err(why) = until(CONVERGED_WITHIN, || differs(&site)) {
            problems.push(format!(
                "{CONVERGED_WITHIN:?} after the fault {why}\n{}",
                site.ask("show servers state")
            ));
        }
        let converged = Instant::now();
        site.story.tell("HAProxy is looked at again");
        wait_for_requests(&loads, TURNS);
        let plan = site.plan();
        if !plan.status.success() {
            let text = String::from_utf8_lossy(&plan.stdout).into_owned();
            problems.push(format!(
                "a second look is not content ({}): {text}",
                plan.status
            ));
        }
        let forgot = |(_, event): &(Instant, Event)| {
            [Event::Reloaded, Event::HaproxyAnswers].contains(event)
        };
        let expected = if site.story.events().iter().any(forgot) {
            foreign_as_configured
        } else {
            foreign_before
        };
        let foreign = site.foreign_rows();
        if foreign != expected {
            problems.push(format!(
                "servers and entries of others were {expected:#?} and are {foreign:#?}"
            ));
        }

        let load = Loaded {
            reports: loads
                .into_iter()
                .map(|load| runtime.block_on(load.stop()))
                .collect(),
            seen: watch.end(),
            events: site.story.events(),
            begins,
            converged,
        };
        let verdict = load.judge(&site.crews);
        eprintln!(
            "{:8} {:8} {:38} {:3} failed, converged after {:6.2?}, put back after [{}], machine late by {:.0?}, {:.0?} in all",
            self.bin.version,
            if self.kinds == MADE { "made" } else { "" },
            self.name(),
            verdict.failed,
            converged - over,
            verdict.put_back.join(", "),
            load.late(),
            began.elapsed()
        );
        let late = load.late();
        problems.extend(verdict.problems);
        if !problems.is_empty() {
            problems.push(load.told());
            let logs = site.logs();
            let lines: Vec<_> = logs.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n");
            problems.push(format!("the end of the logs of sidecars:\n{tail}"));
        }
        Played { problems, late }
    }

    fn moments(&self) -> Moments {
        let of_name = self.name().bytes().fold(self.seed, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        let mut random = SplitMix64::new(of_name);
        let mut millis = |most| Duration::from_millis(random.next() % most);
        let (second, change) = (millis(TOGETHER), millis(2 * TOGETHER));
        Moments {
            second,
            is_reversed: random.next().is_multiple_of(2),
            change,
            loads: random.next(),
        }
    }

    /// The faults, and a change of the catalog. Returns when all of it is over.
    fn happens(&self, site: &Site, moments: &Moments, begins: Instant) {
        let mut faults = self.faults.clone();
        if moments.is_reversed {
            faults.reverse();
        }
        thread::scope(|scope| {
            for (number, fault) in (0..).zip(faults) {
                scope.spawn(move || {
                    sleep_until(begins + number * moments.second);
                    fault.happen(site, &self.lengths);
                });
            }
            if let Some(sabotage) = self.sabotage {
                scope.spawn(move || sabotage(site));
            }
            scope.spawn(|| {
                sleep_until(begins + moments.change);
                site.catalog_changes();
                // It has told Nomad that it leaves, and goes whether somebody listens or not.
                thread::sleep(SHUTDOWN_DELAY);
                site.story.is(Event::InstanceEnds);
                for crew in &site.crews {
                    crew.leaves.app.terminate();
                }
                while !site.crews.iter().all(|crew| crew.leaves.app.has_ended()) {
                    thread::sleep(Duration::from_millis(2));
                }
                site.story.is(Event::InstanceEnded);
            });
        });
    }
}

fn load(site: &Site, at: u16, kind: load::Kind, runtime: &Handle, seed: u64) -> Load {
    let order = Order {
        target: Target::Tcp(SocketAddr::from(site.address(at))),
        kind,
        host: site.crews[usize::from(at)].kind.host().to_owned(),
        rate: RATE,
        longest: Duration::from_secs(1),
        seed,
    };
    Load::start(runtime, order)
}

/// In what way HAProxy is not what the catalog wants, if it is not.
fn differs(site: &Site) -> Option<String> {
    let servers = servers_in(&site.ask("show servers state"));
    for crew in &site.crews {
        let owned = servers
            .iter()
            .filter(|((backend, name), _)| {
                backend == crew.kind.name && !FOREIGN.contains(&name.as_str())
            })
            .map(|(_, server)| server)
            .filter(|server| server.address != PLACEHOLDER);
        let (up, down): (Vec<&Server>, Vec<_>) = owned.partition(|server| server.is_in_rotation());
        let addresses = |servers: &[&Server]| {
            let addresses = servers.iter().map(|server| server.address.clone());
            addresses.collect::<BTreeSet<_>>()
        };
        let healthy: BTreeSet<_> = crew
            .healthy()
            .map(|app| app.address().to_string())
            .collect();
        let sick = BTreeSet::from([crew.sick.app.address().to_string()]);
        let is_ready = |server: &&Server| server.admin & 0b11_1011 == 0;
        if addresses(&up) != healthy
            || up.len() != healthy.len()
            || addresses(&down) != sick
            || !down.iter().all(is_ready)
        {
            return Some(format!(
                "{} has {up:?} in rotation and {down:?} out of it, and not {healthy:?} and {sick:?}",
                crew.kind.name
            ));
        }
    }
    let is_ours = |backend: &str| site.crews.iter().any(|crew| crew.kind.name == backend);
    let mut routes = site.routes();
    routes.retain(|(_, backend)| is_ours(backend));
    let wanted = site.crews.iter().filter_map(|crew| {
        let domain = crew.kind.route?.domain.trim_start_matches('*');
        Some((domain.to_owned(), crew.kind.name.to_owned()))
    });
    let wanted: Vec<_> = wanted.collect();
    (routes != wanted).then(|| format!("{routes:?} are routed, and not {wanted:?}"))
}

/// Waits until each load has had so many more.
fn wait_for_requests(loads: &[Load], more: usize) {
    let before: Vec<_> = loads.iter().map(Load::count).collect();
    until(Duration::from_secs(20), || {
        let all = loads
            .iter()
            .zip(&before)
            .all(|(load, before)| load.count() >= before + more);
        (!all).then(|| format!("no load had {more} requests"))
    })
    .unwrap_or_else(|why| panic!("{why}"));
}

/// Waits until there is no reason left; the last one otherwise.
fn until(limit: Duration, mut reason: impl FnMut() -> Option<String>) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    loop {
        let Some(why) = reason() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(why);
        }
        thread::sleep(Duration::from_millis(25));
    }
}

fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}
