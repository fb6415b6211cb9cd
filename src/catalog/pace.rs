//! How fast Nomad is read: faster while it answers quickly, one at a time and with pauses when it does not, so that a
//! thousand sidecars that come back together do not bury a server that is itself just coming back.

use std::time::Duration;

use crate::model::SplitMix64;

/// Reads under way at the same time, at most.
pub(super) const MOST: usize = 8;
/// An answer that takes longer says that others are waiting, too; so much for each read of our own.
const SLOW: Duration = Duration::from_millis(60);
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
            at_a_time: 1,
            not_before: Duration::ZERO,
        }
    }

    /// Whether one more read may be asked beside so many.
    pub(super) fn allows(&self, under_way: usize, now: Duration) -> bool {
        under_way < self.at_a_time && now >= self.not_before
    }

    /// When it allows a read again, if that is only a matter of time.
    pub(super) fn next_read(&self, under_way: usize) -> Option<Duration> {
        (under_way < self.at_a_time).then_some(self.not_before)
    }

    /// Nothing that is put off for Nomad's sake should be asked before.
    pub(super) const fn not_before(&self) -> Duration {
        self.not_before
    }

    /// Nomad failed: whoever else it failed comes back now, too.
    pub(super) const fn failed(&mut self) {
        self.at_a_time = 1;
    }

    /// An answer came after this time, beside so many reads, and so many wait.
    pub(super) fn answered(
        &mut self,
        now: Duration,
        took: Duration,
        (under_way, waiting): (usize, usize),
        random: &mut SplitMix64,
    ) {
        let count = |reads: usize| u32::try_from(reads).unwrap_or(u32::MAX).max(1);
        if took < SLOW.saturating_mul(count(under_way)) {
            self.at_a_time = (self.at_a_time + 1).min(MOST);
            return;
        }
        self.at_a_time = 1;
        let pause = (ALL_PAUSES / count(waiting)).min(PAUSE);
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
            pace.answered(now, Duration::from_millis(3), (1, 50), &mut random);
        }
        assert!(pace.allows(MOST - 1, now) && !pace.allows(MOST, now));
        pace.answered(now, 4 * SLOW, (8, 50), &mut random);
        assert!(pace.allows(MOST - 1, now), "its own doing");
        pace.answered(now, SLOW, (1, 20), &mut random);
        let pause = pace.not_before().saturating_sub(now);
        assert!(pause >= PAUSE / 2 && pause <= PAUSE * 3 / 2, "{pause:?}");
        assert!(
            !pace.allows(0, now) && pace.allows(0, now + pause) && !pace.allows(1, now + pause)
        );
        pace.answered(now, SLOW, (1, 10_000), &mut random);
        assert!(pace.not_before() < now + Duration::from_millis(3));
    }
}
