//! Nomad's weather: the real mirror against a Nomad that is late, partial, forbidden, silent or wrong, and then quiet,
//! after which the mirror must be the catalog; never may it have dropped a registration that lived.
//!
//! A seed is minutes of weather in milliseconds, and a world can be forked at each fault, which is how it is found out
//! whether the fault changed anything. With some seeds the reconciler and a HAProxy go along. `SEED=7 cargo test --test sim one_seed_of_weather -- --nocapture` plays one seed and shows the end of it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "there are many kinds of faults, and each place knows a few"
)]

mod air;
mod book;
mod counter;
mod haproxy;
mod held;
mod kind;
mod plan;
mod server;
mod strikes;
mod trace;
mod wire;
mod world;

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use self::{
    counter::{Counter, Totals},
    haproxy::Haproxy,
    kind::Kind,
    plan::{Fault, Plan, Step, WEATHER, Way},
    world::{Luck, Weather},
};
use crate::{chaos::VERSIONS, variable};

/// Played in the ordinary run of the tests.
const SEEDS: u64 = 6;
/// After so many it is time to look at them.
const MOST_FAILURES: usize = 20;
/// One seed of so many has a HAProxy.
const HAPROXY: u64 = 32;
const THREADS: usize = 2;
/// Silent deletions are found within ten minutes; a backoff may stand before that.
const QUIET: Duration = Duration::from_mins(12);

/// Plays a seed to its end, and counts its faults.
fn play(seed: u64, counter: &mut Counter, keeps_text: bool) -> Weather {
    let mut world = Weather::new(Arc::new(Plan::of_seed(seed)));
    if keeps_text {
        world.trace.keep_text();
    }
    let version = VERSIONS[usize::try_from(seed / HAPROXY % 5).unwrap()];
    let has_haproxy = seed % HAPROXY == 4;
    let mut haproxy = has_haproxy.then(|| Haproxy::new(seed, version));
    run(&mut world, &mut haproxy, counter, WEATHER + QUIET);
    world.expect_truth();
    if let (Some(haproxy), Some(book)) = (haproxy, &mut world.book) {
        let (serving, known) = (haproxy.in_rotation(), book.addresses());
        if serving != known {
            book.violated(format!(
                "after quiet {serving:?} are in rotation, not {known:?}"
            ));
        }
    }
    world
}

fn run(world: &mut Weather, haproxy: &mut Option<Haproxy>, counter: &mut Counter, end: Duration) {
    while let Some((happening, fault)) = world.next(end) {
        if counter.is_idle() {
            world.trace.forget_entries();
        }
        match fault {
            None => world.happen(happening, Luck::Fair),
            Some(fault) => {
                let mut without = world.fork();
                without.happen(happening.clone(), Luck::Spared(fault));
                counter.injected(fault.kind, without, world.trace.entries().len());
                world.happen(happening, Luck::Struck(fault));
            }
        }
        counter.follow(world.trace.entries(), end);
        if let Some(book) = &mut world.book {
            match haproxy {
                Some(haproxy) => haproxy.follow(world.now, book),
                None => drop(book.take_said()),
            }
        }
        if world.is_violated() {
            return;
        }
    }
}

impl Weather {
    fn is_violated(&self) -> bool {
        self.book
            .as_ref()
            .is_some_and(|book| book.violation.is_some())
    }

    /// The mirror is the catalog.
    fn expect_truth(&mut self) {
        let namespaces = self.plan.way.namespaces;
        let follows = |of: &str| namespaces.contains(&"*") || namespaces.contains(&of);
        if let Some(book) = &mut self.book {
            book.expect_truth(self.nomad.table(), follows);
        }
    }
}

/// Plays a seed; a panic of the product is a failure like any other.
fn trial(seed: u64, counter: &mut Counter) -> Option<String> {
    let played = catch_unwind(AssertUnwindSafe(|| play(seed, counter, false)));
    match played {
        Ok(world) => world.book.and_then(|book| book.violation),
        Err(_) => Some("a panic, see above".to_owned()),
    }
}

#[test]
fn one_seed_of_weather() {
    let Some(seed) = variable("SEED") else { return };
    let mut counter = Counter::default();
    let world = play(seed, &mut counter, true);
    println!("{}", world.trace.shown());
    let violation = world.book.and_then(|book| book.violation);
    assert_eq!(violation, None, "seed {seed}");
}

#[test]
fn in_all_weather_the_mirror_drops_nothing_that_lives_and_in_the_end_is_the_catalog() {
    if variable("SEED").is_some() {
        return;
    }
    let wanted = variable("SIM_FAULTS");
    let season = Season::new(wanted);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| season.play());
        }
    });
    let totals = season.totals.into_inner().unwrap();
    print!("{totals}");
    let failures = season.failures.into_inner().unwrap();
    for (seed, violation) in &failures {
        println!("seed {seed}: {violation}");
        println!("again: SEED={seed} cargo test --test sim one_seed_of_weather -- --nocapture");
    }
    assert!(failures.is_empty());
    if let Some(wanted) = wanted {
        totals.expect_enough_of_each(wanted);
    }
}

/// Seeds, played until there were enough faults.
struct Season {
    wanted: Option<u64>,
    next: AtomicU64,
    totals: Mutex<Totals>,
    failures: Mutex<BTreeMap<u64, String>>,
}

impl Season {
    fn new(wanted: Option<u64>) -> Self {
        Self {
            wanted,
            next: AtomicU64::new(variable("SIM_FIRST").unwrap_or(1)),
            totals: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    fn play(&self) {
        while self.goes_on() {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let mut counter = Counter::default();
            let played = trial(seed, &mut counter);
            if let Some(violation) = played {
                self.failures.lock().unwrap().insert(seed, violation);
            }
            self.totals.lock().unwrap().add(counter.counts);
        }
    }

    fn goes_on(&self) -> bool {
        let totals = self.totals.lock().unwrap();
        let is_enough = match self.wanted {
            Some(wanted) => totals.counted() >= wanted,
            None => totals.seeds >= SEEDS,
        };
        !is_enough && self.failures.lock().unwrap().len() < MOST_FAILURES
    }
}

/// A counter that counts what does nothing would count nothing.
#[test]
fn a_fault_that_changes_nothing_is_not_counted() {
    let register = Step::Register {
        service: 0,
        instance: 0,
        tagged: true,
    };
    let later = Duration::from_secs(20);
    let fault = |kind| (later, Step::Fault(Fault { kind, dice: 0 }));
    let (with, without) = (true, false);
    let table = [
        // The node has an instance, or nothing that could be lost.
        (
            Kind::NodeLost,
            with,
            vec![(Duration::ZERO, register)],
            (1, 1),
        ),
        (Kind::NodeLost, with, vec![], (1, 0)),
        (Kind::StreamCut, with, vec![], (1, 1)),
        (Kind::StreamCut, without, vec![], (0, 0)),
        (Kind::OneUnreadable, with, vec![], (1, 0)),
    ];
    for (kind, streams, mut steps, expected) in table {
        steps.push(fault(kind));
        let plan = Plan {
            seed: 1,
            way: Way {
                namespaces: &["default"],
                streams,
                old: false,
                held_reads: 2,
                forbidden_for_ever: None,
            },
            steps,
        };
        let mut counter = Counter::default();
        let mut world = Weather::new(Arc::new(plan));
        run(&mut world, &mut None, &mut counter, WEATHER + QUIET);
        let count = counter.counts.get(&kind).copied().unwrap_or_default();
        let steps = &world.plan.steps.len();
        assert_eq!(
            (count.injected, count.counted),
            expected,
            "{kind:?}, {steps}"
        );
    }
}
