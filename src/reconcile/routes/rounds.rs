//! Whether what is asked of maps takes: HAProxy acknowledges it, and shows it then.

use std::collections::BTreeSet;

use crate::model::MapChange;

/// So many batches in a row that ask for the same again mean that something does not take.
const MOST: u32 = 20;

/// What was sent last, and how often some of it in a row.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    sent: BTreeSet<MapChange>,
    count: u32,
}

impl Rounds {
    /// Takes in the next changes. Others than the last ones may follow without an end: while many services come, each of
    /// their routes comes when its backend has a server in rotation.
    pub(super) fn changes(&mut self, changes: impl Iterator<Item = MapChange>) {
        let next: BTreeSet<_> = changes.collect();
        let is_again = !next.is_disjoint(&self.sent);
        self.next(next, is_again);
    }

    /// The same for all entries of a map that is written anew.
    pub(super) fn whole(&mut self, entries: impl Iterator<Item = MapChange>) {
        let next = entries.collect();
        let is_again = next == self.sent;
        self.next(next, is_again);
    }

    fn next(&mut self, next: BTreeSet<MapChange>, is_again: bool) {
        self.count = if is_again { self.count + 1 } else { 1 };
        self.sent = next;
    }

    /// Whether it is time to wait.
    pub(super) fn are_too_many(&self) -> bool {
        self.count >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MapName, MapWord};

    fn add(number: u32) -> MapChange {
        let word = |text: &str| MapWord::new(text).unwrap();
        let map = MapName::new("virt@hosts").unwrap();
        MapChange::Add(map, word(&format!("{number}.example")), word("web"))
    }

    #[test]
    fn what_is_asked_for_again_and_again_does_not_take() {
        let mut rounds = Rounds::default();
        for round in 1..=MOST {
            assert!(!rounds.are_too_many());
            // Beside it others come, and take.
            rounds.changes([add(0), add(round)].into_iter());
        }
        assert!(rounds.are_too_many());
    }

    #[test]
    fn routes_that_come_one_after_the_other_take() {
        let mut rounds = Rounds::default();
        for round in 0..3 * MOST {
            rounds.changes([add(round)].into_iter());
            assert!(!rounds.are_too_many());
        }
        // A map that grows and is written anew each time.
        for round in 0..3 * MOST {
            rounds.whole((0..round).map(add));
            assert!(!rounds.are_too_many());
        }
        for _ in 0..MOST {
            rounds.whole([add(0)].into_iter());
        }
        assert!(rounds.are_too_many());
    }
}
