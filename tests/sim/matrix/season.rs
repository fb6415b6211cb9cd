//! Many seeds on both cores, and what they were.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Display, Formatter},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Fault, Place};
use crate::{clients::Tally, play_matrix, variable, world::World};

/// Played in the ordinary run of the tests: each version with each kind of servers, and the beginning of it.
const SEEDS: u64 = 15;
const FEW_EPISODES: usize = 8;
const THREADS: usize = 2;
const MOST_FAILURES: usize = 20;

/// Seeds, played until there were enough faults.
pub(super) struct Season {
    wanted: Option<u64>,
    next: AtomicU64,
    totals: Mutex<Totals>,
}

/// What was played.
#[derive(Default)]
pub(super) struct Totals {
    took: Duration,
    seeds: u64,
    injected: BTreeMap<Fault, u64>,
    places: BTreeMap<(Place, &'static str), u64>,
    pairs: BTreeSet<(Fault, Fault)>,
    simulated: Duration,
    steps: u64,
    tally: Tally,
    failures: BTreeMap<u64, String>,
}

impl Totals {
    fn faults(&self) -> u64 {
        self.injected.values().sum()
    }

    fn add(&mut self, seed: u64, world: &World, violation: Option<String>) {
        self.seeds += 1;
        let matrix = &world.matrix;
        for (fault, count) in &matrix.injected {
            *self.injected.entry(*fault).or_default() += count;
        }
        let place = matrix.place.unwrap();
        *self.places.entry((place, world.version)).or_default() +=
            matrix.injected.values().sum::<u64>();
        self.pairs.extend(&matrix.pairs);
        self.simulated += world.now;
        self.steps += world.steps;
        self.tally.add(&world.clients.tally);
        if let Some(violation) = violation {
            self.failures.insert(seed, violation);
        }
    }
}

impl Season {
    pub(super) fn new(wanted: Option<u64>) -> Self {
        Self {
            wanted,
            next: AtomicU64::new(variable("SIM_FIRST").unwrap_or(1)),
            totals: Mutex::default(),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "how long it takes is of interest"
    )]
    pub(super) fn play(self) -> Totals {
        let begun = Instant::now();
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| self.play_seeds());
            }
        });
        let mut totals = self.totals.into_inner().unwrap();
        totals.took = begun.elapsed();
        totals
    }

    fn play_seeds(&self) {
        while self.goes_on() {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            let mut world = World::of_matrix(seed).muted();
            if self.wanted.is_none() {
                world.matrix.episodes = FEW_EPISODES;
            }
            let violation = play_matrix(&mut world)
                .err()
                .map(|_| world.violation.clone().unwrap_or_default());
            self.totals.lock().unwrap().add(seed, &world, violation);
        }
    }

    fn goes_on(&self) -> bool {
        let totals = self.totals.lock().unwrap();
        let is_enough = match self.wanted {
            Some(wanted) => totals.faults() >= wanted,
            None => totals.seeds >= SEEDS,
        };
        !is_enough && totals.failures.len() < MOST_FAILURES
    }
}

impl Totals {
    pub(super) fn expect_lawful(&self) {
        assert!(self.failures.is_empty(), "{} seeds", self.failures.len());
    }

    pub(super) fn expect_all_pairs(&self) {
        let all = || Fault::ALL.iter().copied();
        let pairs = all().flat_map(|one| all().map(move |two| (one, two)));
        let can_be = pairs.filter(|(one, two)| one != two || !one.is_once());
        let missed: Vec<_> = can_be
            .filter(|(one, two)| {
                !self.pairs.contains(&(*one, *two)) && !self.pairs.contains(&(*two, *one))
            })
            .collect();
        assert!(missed.is_empty(), "{missed:?} were not injected");
    }
}

impl Display for Totals {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} seeds, {} faults of {} kinds, {} of their pairs within a second, in {:.1} days of simulated time and {:.1} s; {} steps",
            self.seeds,
            self.faults(),
            Fault::ALL.len(),
            self.pairs.len(),
            self.simulated.as_secs_f64() / 86_400.0,
            self.took.as_secs_f64(),
            self.steps,
        )?;
        writeln!(f, "{:?}", self.tally)?;
        for (fault, count) in &self.injected {
            writeln!(f, "{count:>8}  {}", fault.what())?;
        }
        for ((place, version), count) in &self.places {
            writeln!(f, "{count:>8}  {place:?}, HAProxy {version}")?;
        }
        for (seed, violation) in &self.failures {
            writeln!(f, "seed {seed}: {violation}")?;
            writeln!(
                f,
                "again: SEED={seed} cargo test --test sim one_matrix -- --nocapture"
            )?;
        }
        Ok(())
    }
}
