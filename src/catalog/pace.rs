//! How fast Nomad is asked: several reads at a time while it answers quickly. When it is slow twice in a row, or fails, others
//! are waiting for it as well, perhaps a thousand sidecars that came back together: then one thing at a time, with pauses.

use std::time::Duration;

use crate::model::SplitMix64;

/// Reads under way at the same time, at most.
pub(super) const MOST: usize = 8;
/// An answer is slow that takes longer.
const SLOW: Duration = Duration::from_millis(100);
/// So many slow answers in a row, to one thing at a time, are neither by chance nor our own doing.
const SLOW_IN_A_ROW: u32 = 2;
/// For how long it goes slowly then.
const CAUTIOUS: Duration = Duration::from_secs(30);
/// The longest pause on average, and what all pauses together come to at most, however many things wait.
const PAUSE: Duration = Duration::from_millis(600);
const ALL_PAUSES: Duration = Duration::from_secs(12);

#[derive(Clone, Debug)]
pub(super) struct Pace {
    at_a_time: usize,
    slow_in_a_row: u32,
    cautious_until: Duration,
    /// On average, by the most things that waited at once.
    pause: Duration,
    not_before: Duration,
}

impl Pace {
    pub(super) const fn new() -> Self {
        Self {
            at_a_time: 1,
            slow_in_a_row: 0,
            cautious_until: Duration::ZERO,
            pause: PAUSE,
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

    /// Something is asked, and so many things wait.
    pub(super) fn asked(&mut self, now: Duration, waiting: usize, random: &mut SplitMix64) {
        if now < self.cautious_until {
            self.pause = self.pause.min(ALL_PAUSES / count(waiting));
            self.put_off(now, random);
        }
    }

    /// An answer came after this time, beside so many reads.
    pub(super) fn answered(
        &mut self,
        now: Duration,
        took: Duration,
        under_way: usize,
        random: &mut SplitMix64,
    ) {
        if took >= SLOW {
            self.at_a_time = 1;
            self.slow_in_a_row += u32::from(under_way <= 1);
            if self.slow_in_a_row >= SLOW_IN_A_ROW {
                self.failed(now, random);
            }
            return;
        }
        self.slow_in_a_row = 0;
        if now >= self.cautious_until {
            self.at_a_time = (self.at_a_time + 1).min(MOST);
        }
    }

    /// Nomad failed, and not only here.
    pub(super) fn failed(&mut self, now: Duration, random: &mut SplitMix64) {
        self.at_a_time = 1;
        if now >= self.cautious_until {
            self.pause = PAUSE;
            self.put_off(now, random);
        }
        self.cautious_until = now.saturating_add(CAUTIOUS);
    }

    fn put_off(&mut self, now: Duration, random: &mut SplitMix64) {
        let share = u32::try_from(random.next() % 1_000).unwrap_or_default();
        let pause = self.pause / 2 + self.pause * share / 1_000;
        self.not_before = now.saturating_add(pause);
    }
}

fn count(things: usize) -> u32 {
    u32::try_from(things).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(9);

    #[test]
    fn quick_answers_open_the_way_and_slow_ones_close_it() {
        let mut random = SplitMix64::new(1);
        let mut pace = Pace::new();
        for _ in 0..10 {
            pace.answered(NOW, Duration::from_millis(3), 1, &mut random);
        }
        assert!(pace.allows(MOST - 1, NOW) && !pace.allows(MOST, NOW));
        for _ in 0..8 {
            pace.answered(NOW, 2 * SLOW, 8, &mut random);
        }
        assert!(pace.allows(0, NOW), "its own doing");
        pace.answered(NOW, SLOW, 1, &mut random);
        assert!(
            pace.allows(0, NOW) && !pace.allows(1, NOW),
            "perhaps by chance"
        );
        pace.answered(NOW, SLOW, 1, &mut random);
        assert!(!pace.allows(0, NOW) && pace.allows(0, NOW + PAUSE * 3 / 2));
    }

    #[test]
    fn after_a_failure_everything_is_asked_within_twenty_seconds_one_after_the_other() {
        for things in [1, 40, 5_000_u32] {
            let mut random = SplitMix64::new(1);
            let mut pace = Pace::new();
            pace.failed(NOW, &mut random);
            let mut now = NOW;
            for waiting in (1..=things).rev() {
                assert!(!pace.allows(0, now));
                now = pace.next_read(0).unwrap();
                assert!(!pace.allows(1, now));
                pace.asked(now, usize::try_from(waiting).unwrap(), &mut random);
                pace.answered(now, Duration::ZERO, 1, &mut random);
            }
            let took = now.saturating_sub(NOW);
            assert!(took < Duration::from_secs(20), "{things}: {took:?}");
            let later = now + CAUTIOUS;
            pace.answered(later, Duration::ZERO, 1, &mut random);
            assert!(pace.allows(1, later));
        }
    }
}
