//! Delays between retries, with jitter from a generator whose seed is an input.

use std::time::Duration;

/// The ceiling of the first delay.
const FIRST: Duration = Duration::from_millis(500);
/// No ceiling is above this.
const LONGEST: Duration = Duration::from_secs(30);

/// A small generator of random numbers (Steele, Lea, Flood, "Fast splittable pseudorandom number generators"), good
/// enough for jitter and the same on every run with the same seed.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// Starts from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A duration below `ceiling`, in whole milliseconds.
    fn below(&mut self, ceiling: Duration) -> Duration {
        let millis = u64::try_from(ceiling.as_millis())
            .unwrap_or(u64::MAX)
            .max(1);
        Duration::from_millis(self.next() % millis)
    }
}

/// Full jitter below a ceiling that doubles from 0.5 s to 30 s.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// How long to wait after one more failure.
    pub(super) fn next(&mut self, random: &mut SplitMix64) -> Duration {
        let ceiling = FIRST.saturating_mul(1 << self.failures.min(6)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        random.below(ceiling)
    }

    /// Begins again with the shortest delays.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_thirty_seconds_and_start_over_after_a_success() {
        let mut random = SplitMix64::new(1);
        let mut backoff = Backoff::default();
        assert!(backoff.next(&mut random) < Duration::from_millis(500));
        let later: Vec<Duration> = (0..200).map(|_| backoff.next(&mut random)).collect();
        assert!(later.iter().all(|delay| *delay < LONGEST));
        assert!(later.iter().any(|delay| *delay > LONGEST / 2));
        backoff.reset();
        assert!(backoff.next(&mut random) < Duration::from_millis(500));
    }
}
