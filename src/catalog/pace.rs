//! How fast Nomad is read: faster while it answers quickly, one at a time and with pauses when it does not, so that a
//! thousand sidecars that come back together do not bury a server that is itself just coming back.

use std::time::Duration;

use crate::model::SplitMix64;

/// Reads under way at the same time, at first and at most.
const FEWEST: usize = 2;
pub(super) const MOST: usize = 8;
/// An answer that takes longer says that others are waiting, too.
const SLOW: Duration = Duration::from_millis(100);
/// After a slow answer, at most.
const PAUSE: Duration = Duration::from_millis(600);
/// However many reads wait, the pauses add up to no more than this.
const ALL_PAUSES: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
pub(super) struct Pace {
    at_a_time: usize,
    not_before: Duration,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self {
            at_a_time: FEWEST,
            not_before: Duration::ZERO,
        }
    }

    /// Whether one more read may be asked beside so many.
    pub(super) fn allows(&self, under_way: usize, now: Duration) -> bool {
        under_way < self.at_a_time && now >= self.not_before
    }

    /// When it allows a read again, if that is only a matter of time.
    pub(super) fn not_before(&self, under_way: usize) -> Option<Duration> {
        (under_way < self.at_a_time).then_some(self.not_before)
    }

    /// An answer came after this time, and so many reads wait.
    pub(super) fn answered(
        &mut self,
        now: Duration,
        took: Duration,
        waiting: usize,
        random: &mut SplitMix64,
    ) {
        if took < SLOW {
            self.at_a_time = (self.at_a_time + 1).min(MOST);
            return;
        }
        self.at_a_time = 1;
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX).max(1);
        let pause = (ALL_PAUSES / waiting).min(PAUSE);
        let share = u32::try_from(random.next() % 1_000).unwrap_or_default();
        self.not_before = now.saturating_add(pause / 2 + pause * share / 1_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_answers_open_the_way_and_slow_ones_close_it() {
        let mut random = SplitMix64::new(1);
        let mut pace = Pace::new();
        let now = Duration::from_secs(9);
        for _ in 0..10 {
            pace.answered(now, Duration::from_millis(3), 50, &mut random);
        }
        assert!(pace.allows(MOST - 1, now) && !pace.allows(MOST, now));
        pace.answered(now, SLOW, 20, &mut random);
        let pause = pace.not_before(0).unwrap().saturating_sub(now);
        assert!(pause >= PAUSE / 2 && pause <= PAUSE * 3 / 2, "{pause:?}");
        assert!(
            !pace.allows(0, now) && pace.allows(0, now + pause) && !pace.allows(1, now + pause)
        );
        pace.answered(now, SLOW, 10_000, &mut random);
        assert!(pace.not_before(0).unwrap() < now + Duration::from_millis(3));
    }
}
