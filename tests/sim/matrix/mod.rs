//! The matrix of faults: HAProxy reloaded, killed, stopped; the sidecar killed, ended, stopped; Nomad away, denying, wrong,
//! restored, restarted; two sidecars; and all pairs of these within a second, over slots and dynamic servers
//! and every version, while instances come and go. After each everything must become right again, and no law may break.
//!
//! `SEED=7 cargo test --test sim one_matrix -- --nocapture` plays one seed and shows the end of it; all of it with `WHOLE=1`.

mod fault;
mod place;
mod season;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

pub(crate) use self::fault::{Ending, Fault};
pub(crate) use self::place::{Place, address_of, is_ghost};
use self::season::Season;
use crate::{
    guards::Ear,
    invariants::{OTHERS_GO_ON, RIGHT_AGAIN},
    play_matrix,
    sabotage::Sabotage,
    variable,
    world::World,
};

/// Of one world; then there is another.
const EPISODES: usize = 40;
/// When all faults are over, everything is right again within this.
const RIGHT_WITHIN: Duration = Duration::from_secs(45);
/// What a restored Nomad had never heard of is known to be gone within this at the latest, and right a moment later.
const READ_WITHIN: Duration = Duration::from_mins(11);
/// An instance is served so long after the sidecar knows of it.
const SERVED_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks at whether it is.
const LOOK: Duration = Duration::from_millis(250);
/// One look of so many is longer: nothing is written any more.
const REST: u64 = 32;

/// What is going on in a world of faults.
pub(crate) struct Matrix {
    pub(crate) place: Option<Place>,
    pub(crate) episodes: usize,
    /// Faults that are not over: until when, and how they end.
    endings: Vec<(Duration, Ending)>,
    /// How often each was injected.
    pub(crate) injected: BTreeMap<Fault, u64>,
    /// The pairs that were injected within a second.
    pub(crate) pairs: BTreeSet<(Fault, Fault)>,
    /// Counts instances, and attacks.
    pub(crate) instances: u32,
    /// Where an instance ends, or has.
    leaving: BTreeSet<SocketAddr>,
    /// Where the instance of an allocation is.
    allocations: BTreeMap<Arc<str>, SocketAddr>,
    /// Those that are there for long.
    elders: BTreeSet<Arc<str>>,
    /// HAProxy was whole when everything was right last, and Nomad has said nothing wrong: every service has somebody.
    pub(crate) is_whole: bool,
    /// Nomad was restored since everything was right.
    is_restored: bool,
    /// There is one fault at a time.
    pub(crate) is_alone: bool,
}

impl Default for Matrix {
    fn default() -> Self {
        Self {
            place: None,
            episodes: EPISODES,
            endings: Vec::new(),
            injected: BTreeMap::new(),
            pairs: BTreeSet::new(),
            instances: 0,
            leaving: BTreeSet::new(),
            allocations: BTreeMap::new(),
            elders: BTreeSet::new(),
            is_whole: false,
            is_restored: false,
            is_alone: false,
        }
    }
}

impl Matrix {
    /// An operator undoes then what he did to this server.
    pub(crate) fn undo_at(&mut self, at: Duration, server: (String, String)) {
        self.endings.push((at, Ending::ByHand(server)));
    }
}

impl World {
    /// All of a seed.
    pub(crate) fn play_matrix(&mut self) {
        self.run_for(Duration::from_secs(4));
        self.expect_right();
        for _ in 0..self.matrix.episodes {
            if self.violation.is_some() {
                return;
            }
            self.episode();
        }
    }

    /// One fault, or pairs of them, and the way back.
    fn episode(&mut self) {
        self.note_elders();
        let mut pairs = [0, 1, 2, 5, 7][self.random.below(5)];
        if self.sabotage == Some(Sabotage::OneHoldsUpAll) {
            // Any other fault would be an excuse.
            pairs = 0;
        }
        self.matrix.is_alone = pairs == 0;
        if pairs == 0 {
            self.inject_any();
        }
        for _ in 0..pairs {
            let first = self.inject_any();
            let within = self.random.millis(0, 1_000);
            self.run_through(within);
            let second = self.inject_any();
            self.matrix.pairs.extend(first.zip(second));
            self.population_changes();
            self.run_through(Duration::from_secs(1).saturating_sub(within));
        }
        self.population_changes();
        while let Some(last) = self.matrix.endings.iter().map(|(at, _)| *at).max() {
            self.run_through(last.saturating_sub(self.now));
            if self.violation.is_some() {
                return;
            }
        }
        self.faults = crate::chaos::Faults::default();
        self.kill_after_changes = None;
        self.tidy_up();
        self.expect_right();
        let rests = self.random.next().is_multiple_of(REST);
        if rests || self.sabotage == Some(Sabotage::NeverDone) {
            self.expect_nothing_to_do();
        }
    }

    fn inject_any(&mut self) -> Option<Fault> {
        let any = Fault::ALL[self.random.below(Fault::ALL.len())];
        let shows = self.sabotage.and_then(Sabotage::shown_by);
        let fault = shows.filter(|_| self.random.chance(50)).unwrap_or(any);
        let (time, ending) = self.inject(fault)?;
        self.matrix.is_whole &= !fault.empties();
        self.matrix.is_restored |= fault == Fault::NomadRestored;
        *self.matrix.injected.entry(fault).or_default() += 1;
        self.matrix.endings.push((self.now + time, ending));
        Some(fault)
    }

    /// Time passes, and faults end in it.
    fn run_through(&mut self, time: Duration) {
        let end = self.now + time;
        while self.violation.is_none() {
            let endings = &self.matrix.endings;
            let next = (0..endings.len()).min_by_key(|at| endings[*at].0);
            let Some(next) = next.filter(|at| endings[*at].0 <= end) else {
                break;
            };
            let (at, ending) = self.matrix.endings.remove(next);
            self.run_until(at);
            self.end(ending);
        }
        self.run_until(end);
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Itself => {}
            Ending::Nomad => {
                let others = self.matrix.endings.iter();
                if !others.clone().any(|(_, other)| *other == Ending::Nomad) {
                    self.trace(|| "nomad is well".to_owned());
                    self.link.health = None;
                }
            }
            Ending::Second => {
                let the_other = self.random.chance(40);
                self.end_one(the_other);
            }
            Ending::Hostile => self.take_back_attacks(),
            Ending::ByHand(server) if self.current_pid.is_some() => self.release(&server),
            // Not before it is there again.
            Ending::ByHand(server) => {
                let later = self.now + Duration::from_secs(1);
                self.matrix.undo_at(later, server);
            }
            Ending::Frozen => self.freeze(false),
            Ending::Vanished(one) => self.one_appears_or_ends(one),
            Ending::Ghost => self.take_back_ghosts(),
            Ending::Opinion => {
                let mut others = self.matrix.endings.iter();
                if !others.any(|(_, other)| *other == Ending::Opinion) {
                    self.guards.ear = Ear::Open;
                }
            }
            Ending::Refusing => {
                let backend = self.faults.refusing.take().unwrap_or_default();
                // Nomad may have been away a moment before, and is asked again later and later then.
                let all = self.nomad.table().values();
                let is_known = self
                    .ledger
                    .knows(all, self.now.saturating_sub(SERVED_WITHIN));
                if self.matrix.is_alone
                    && is_known
                    && let Some(missing) = self.unserved_beside(&backend)
                {
                    self.violated(OTHERS_GO_ON, &missing);
                }
            }
        }
    }

    /// Everything becomes right.
    fn expect_right(&mut self) {
        let (since, mut known) = (self.now, self.now);
        while self.violation.is_none() {
            let Some(missing) = self.missing() else { break };
            // Nobody tells a held query of an index that went back.
            if self.matrix.is_restored && self.is_outdated() && self.now <= since + READ_WITHIN {
                known = self.now;
            }
            if self.now > known + RIGHT_WITHIN {
                return self.violated(RIGHT_AGAIN, &missing);
            }
            self.run_for(LOOK);
        }
        self.matrix.is_restored = false;
    }

    fn is_outdated(&self) -> bool {
        self.ledger.outdated(self.nomad.table()).is_some()
    }

    /// And then nothing is written.
    fn expect_nothing_to_do(&mut self) {
        // What drains is taken out, and every backoff is over by then.
        self.run_for(Duration::from_mins(1));
        self.trace(|| "=== quiet from now on".to_owned());
        self.quiet = true;
        self.run_for(Duration::from_secs(6));
        self.kill_sidecar(Duration::from_millis(100));
        self.run_for(Duration::from_secs(8));
        self.quiet = false;
        if let Some(missing) = self.missing().filter(|_| self.violation.is_none()) {
            self.violated(RIGHT_AGAIN, &missing);
        }
    }
}

#[test]
fn one_matrix() {
    let Some(seed) = variable("SEED") else { return };
    let mut world = World::of_matrix(seed);
    if let Some(invariant) = variable("SABOTAGE") {
        world = world.sabotaged(Sabotage::of(invariant));
    }
    if variable("WHOLE").is_some() {
        world.trace_everything();
    }
    let result = play_matrix(&mut world);
    println!("{}", world.report());
    assert!(result.is_ok());
}

#[test]
fn after_every_pair_of_faults_within_a_second_everything_becomes_right_again() {
    if variable("SEED").is_some() {
        return;
    }
    let wanted = variable("SIM_MATRIX");
    let totals = Season::new(wanted).play();
    print!("{totals}");
    totals.expect_lawful();
    if wanted.is_some() {
        totals.expect_all_pairs();
    }
}

#[test]
fn the_same_seed_is_the_same_story() {
    let story = || {
        let mut world = World::of_matrix(3).muted();
        world.matrix.episodes = 3;
        let lawful = play_matrix(&mut world).is_ok();
        (
            lawful,
            world.now,
            world.steps,
            world.changes,
            world.random.next(),
        )
    };
    assert_eq!(story(), story());
}
