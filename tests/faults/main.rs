//! The fault matrix: {HAProxy reloaded, killed, stopped for long · sidecar killed, ended, frozen · two sidecars · Nomad away,
//! denied, falsely empty, restored to an older index, restarted · any two of these within a second} × {slots with a state
//! file, slots without, dynamic servers, slots that a route leads to; from 3.4 on backends that are made at runtime and found
//! by routes, in a HAProxy whose configuration has none} × every HAProxy of `HAPROXY_BINS`, under a constant load, while an
//! instance joins and another leaves.
//!
//! What is asked each time: HAProxy equals the catalog again within [`cell::CONVERGED_WITHIN`]; nobody is taken out of
//! rotation who is registered; foreign servers and entries of maps are as they were, byte for byte; and no request fails but
//! those that `physics` allows. One HAProxy has a backend of each kind, so a fault meets them all at once.
//!
//! `cargo test --test faults` plays every fault on every line, and every pair on one line that the seed chooses; those with made
//! backends alone. A failure prints what replays it. `SEED=…` chooses other lines and moments; `FAULT=kill-haproxy+nomad-away`,
//! `KIND=dynamic` and `LINE=3.2` play these only (`FAULT=kill-haproxy` its pairs, too; `KIND=made` all that are made, with pairs);
//! `FAULTS_FULL=1` plays all pairs on all lines, and faults last as long as they do in life; `FAULTS_AT_ONCE=…` says how many
//! HAProxies there are at a time.

#[expect(dead_code, reason = "each test program uses a part of the support")]
#[path = "../support"]
mod support {
    pub(crate) mod app;
    pub(crate) mod fake_nomad;
    pub(crate) mod haproxy;
    pub(crate) mod http;
    pub(crate) mod load;
    pub(crate) mod sidecar;
    pub(crate) mod tap;
    pub(crate) mod toy;
    pub(crate) mod world;
}

mod cell;
mod crew;
mod fault;
mod kind;
mod physics;
mod site;
mod story;
mod verdict;
mod watch;
mod what_no_fault_excuses_is_caught;

use std::{
    collections::BTreeSet,
    env, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
};

use haproxy_nomad_sidecar::model::SplitMix64;
use tokio::runtime::{self, Runtime};

use cell::Cell;
use fault::{ALL, Fault, IN_CI, IN_LIFE};
use kind::{DECLARED, Kind, MADE};
use support::haproxy::{HaproxyBin, binaries};

/// Each of them has a HAProxy, a Nomad and a sidecar that mostly wait. More would measure the machine.
const AT_ONCE: usize = 8;

#[test]
fn whatever_happens_haproxy_converges_and_no_request_fails_that_need_not() {
    let chosen = Chosen::from_environment();
    let (mut cells, mut at_once) = (chosen.cells(&binaries()), chosen.at_once);
    let mut failed = Vec::new();
    // What a machine that stood still says of nothing is played again, with less to do for it; the third time it counts.
    for is_last in [false, false, true] {
        let (played, again) = play_all(cells, at_once, is_last);
        failed.extend(played);
        (cells, at_once) = (again, 2);
    }
    assert!(
        failed.is_empty(),
        "{} failed, each is told above:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// Which failed, in short, and which are to be played again.
fn play_all(cells: Vec<Cell>, at_once: usize, is_last: bool) -> (Vec<String>, Vec<Cell>) {
    let runtime = runtime();
    let cells = Mutex::new(cells);
    let (failed, again) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    // Not in the head of the loop, where it would be locked for the whole of a play.
    let next = || lock(&cells).pop();
    let work = || {
        while let Some(cell) = next() {
            // It prints what it panics with.
            let played = catch_unwind(AssertUnwindSafe(|| cell.play(runtime.handle())));
            let problems = match played {
                Ok(played) if played.means_nothing() && !is_last => {
                    eprintln!(
                        "TO BE PLAYED AGAIN, the machine was too slow: {}",
                        cell.replay()
                    );
                    lock(&again).push(cell);
                    continue;
                }
                Ok(played) => played.problems,
                Err(_) => vec!["it panicked, see above".to_owned()],
            };
            if !problems.is_empty() {
                let name = cell.replay();
                eprintln!("FAILED: {name}\n{}\n", problems.join("\n"));
                let first = problems.iter().filter_map(|problem| problem.lines().next());
                let short: Vec<_> = first.map(|line| format!("\n  {line}")).collect();
                lock(&failed).push(format!("{name}{}", short.concat()));
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(work);
        }
    });
    let (failed, again) = (
        mem::take(&mut *lock(&failed)),
        mem::take(&mut *lock(&again)),
    );
    (failed, again)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> Runtime {
    runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be had")
}

/// What the environment asks for.
struct Chosen {
    seed: u64,
    is_full: bool,
    at_once: usize,
    faults: Vec<String>,
    /// The one that is asked for by its name.
    kind: Option<String>,
    line: Option<String>,
}

impl Chosen {
    fn from_environment() -> Self {
        let text = |name| env::var(name).ok().filter(|text| !text.is_empty());
        let number = |name| text(name).and_then(|text| text.parse().ok());
        let faults: Vec<_> = text("FAULT")
            .map(|names| names.split('+').map(str::to_owned).collect())
            .unwrap_or_default();
        for name in &faults {
            let names = ALL.map(Fault::name);
            assert!(
                names.contains(&name.as_str()),
                "FAULT={name} is none of {names:?}"
            );
        }
        let kind = text("KIND");
        let names: Vec<_> = DECLARED.iter().chain(&MADE).map(|kind| kind.name).collect();
        assert!(
            kind.as_deref().is_none_or(|kind| names.contains(&kind)),
            "KIND={kind:?} is none of {names:?}"
        );
        Self {
            seed: number("SEED").unwrap_or(1),
            is_full: text("FAULTS_FULL").is_some_and(|text| text == "1"),
            at_once: text("FAULTS_AT_ONCE")
                .and_then(|text| text.parse().ok())
                .unwrap_or(AT_ONCE),
            faults,
            kind,
            line: text("LINE"),
        }
    }

    /// The longest faults last: they are taken from there.
    fn cells(&self, bins: &[HaproxyBin]) -> Vec<Cell> {
        let mut random = SplitMix64::new(self.seed);
        let mut cells = Vec::new();
        let is_line =
            |bin: &&HaproxyBin| self.line.as_deref().is_none_or(|line| line == bin.line());
        let on_all: Vec<_> = bins.iter().filter(is_line).collect();
        let (declared, made) = self.kinds();
        let can_have = |bin: &&&HaproxyBin| !made.is_empty() && bin.makes_backends();
        let with_pairs = self.is_full || self.kind.is_some();
        for fault in ALL {
            let mut play = |bin, kinds: &[Kind]| cells.push(self.cell(bin, kinds, vec![fault]));
            for bin in on_all.iter().filter(|_| !declared.is_empty()) {
                play(bin, &declared);
            }
            for bin in on_all.iter().filter(can_have) {
                play(bin, &made);
            }
        }
        for (at, first) in ALL.into_iter().enumerate() {
            for second in &ALL[at..] {
                // One line, and with `LINE` that one.
                let chosen = random.next() % u64::try_from(on_all.len()).expect("a few lines");
                let mut play =
                    |bin, kinds: &[Kind]| cells.push(self.cell(bin, kinds, vec![first, *second]));
                for (number, bin) in (0..).zip(&on_all) {
                    if !declared.is_empty() && (number == chosen || self.is_full) {
                        play(bin, &declared);
                    }
                }
                for bin in on_all.iter().filter(|bin| with_pairs && can_have(bin)) {
                    play(bin, &made);
                }
            }
        }
        let asked: BTreeSet<&str> = self.faults.iter().map(String::as_str).collect();
        cells.retain(|cell| {
            let names: Vec<_> = cell.faults.iter().copied().map(Fault::name).collect();
            match self.faults.len() {
                0 => true,
                1 => names.contains(&self.faults[0].as_str()),
                _ => names.len() == 2 && names.iter().copied().collect::<BTreeSet<_>>() == asked,
            }
        });
        assert!(!cells.is_empty(), "nothing is chosen");
        cells.sort_by_key(Cell::length);
        cells
    }

    /// Those in HAProxies with backends, and those in HAProxies without.
    fn kinds(&self) -> (Vec<Kind>, Vec<Kind>) {
        let chosen = |kinds: &[Kind]| {
            let kinds = kinds.iter().copied();
            let is_chosen = |kind: &Kind| self.kind.as_deref().is_none_or(|name| name == kind.name);
            kinds.filter(is_chosen).collect()
        };
        match self.kind.as_deref() {
            Some("made") => (Vec::new(), MADE.to_vec()),
            _ => (chosen(&DECLARED), chosen(&MADE)),
        }
    }

    fn cell(&self, bin: &HaproxyBin, kinds: &[Kind], faults: Vec<Fault>) -> Cell {
        Cell {
            bin: bin.clone(),
            faults,
            kinds: kinds.to_vec(),
            seed: self.seed,
            lengths: if self.is_full { IN_LIFE } else { IN_CI },
            sabotage: None,
        }
    }
}
