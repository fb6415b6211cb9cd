//! Counts a fault if it changed anything: the world is forked without it, and both run on in step until what passes
//! between mirror and world differs, in content or in time.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    time::Duration,
};

use crate::weather::{kind::Kind, world::Weather};

/// A fault that has changed nothing until so many entries later, has changed nothing.
const PATIENCE: usize = 120;

#[derive(Clone, Copy, Default)]
pub(crate) struct Count {
    pub(crate) injected: u64,
    pub(crate) counted: u64,
}

#[derive(Default)]
pub(crate) struct Counter {
    without: Vec<Without>,
    pub(crate) counts: BTreeMap<Kind, Count>,
}

/// The world as it would be without a fault.
struct Without {
    kind: Kind,
    world: Weather,
    /// The length of the true world's trace when they parted.
    parted: usize,
    /// So many entries were the same since.
    same: usize,
}

impl Counter {
    /// `kind` strikes; `world` is how it would have been.
    pub(crate) fn injected(&mut self, kind: Kind, world: Weather, parted: usize) {
        self.counts.entry(kind).or_default().injected += 1;
        self.without.push(Without {
            kind,
            world,
            parted,
            same: 0,
        });
    }

    /// The true world has gone on: so do those without.
    pub(crate) fn follow(&mut self, truth: &[u64], end: Duration) {
        let counts = &mut self.counts;
        self.without.retain_mut(|without| {
            let differs = without.differs(truth, end);
            counts.entry(without.kind).or_default().counted += u64::from(differs);
            !differs && without.same < PATIENCE
        });
    }

    /// Nobody remembers the true trace before this length.
    pub(crate) fn is_idle(&self) -> bool {
        self.without.is_empty()
    }
}

impl Without {
    fn differs(&mut self, truth: &[u64], end: Duration) -> bool {
        for entry in &truth[self.parted + self.same..] {
            while self.world.trace.entries().len() <= self.same {
                if !self.world.go_on(end) {
                    // It has come to its end and says no more.
                    return true;
                }
            }
            if self.world.trace.entries()[self.same] != *entry {
                return true;
            }
            self.same += 1;
        }
        false
    }
}

/// The faults of many seeds.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) seeds: u64,
    of_kind: BTreeMap<Kind, Count>,
}

impl Totals {
    pub(crate) fn add(&mut self, counts: BTreeMap<Kind, Count>) {
        self.seeds += 1;
        for (kind, count) in counts {
            let total = self.of_kind.entry(kind).or_default();
            total.injected += count.injected;
            total.counted += count.counted;
        }
    }

    pub(crate) fn counted(&self) -> u64 {
        self.of_kind.values().map(|count| count.counted).sum()
    }

    /// Each kind is one in a hundred at least.
    pub(crate) fn expect_enough_of_each(&self, wanted: u64) {
        let all = self.counted();
        assert!(all >= wanted, "{all} faults");
        for kind in Kind::ALL {
            let count = self.of_kind.get(kind).copied().unwrap_or_default();
            assert!(count.counted * 100 >= all, "too few: {kind:?}");
        }
    }
}

impl Display for Totals {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let all = self.counted();
        writeln!(
            f,
            "{} seeds, {all} faults that changed what happened",
            self.seeds
        )?;
        writeln!(f, "{:>18} injected  counted   share  seen", "kind")?;
        for &kind in Kind::ALL {
            let Count { injected, counted } = self.of_kind.get(&kind).copied().unwrap_or_default();
            let permyriad = counted * 10_000 / all.max(1);
            let (name, seen) = (format!("{kind:?}"), kind.seen());
            let share = format!("{}.{:02}", permyriad / 100, permyriad % 100);
            writeln!(
                f,
                "{name:>18} {injected:>8} {counted:>8} {share:>5} %  {seen}"
            )?;
        }
        Ok(())
    }
}
