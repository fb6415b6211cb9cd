//! Delays between tries: they double, with jitter, up to a bound. The randomness is an input, the same on every run with
//! the same seed.

use std::time::Duration;

/// A small generator of random numbers (Steele, Lea, Flood, "Fast splittable pseudorandom number generators"), good
/// enough for jitter.
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
}

/// The state of one row of tries.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    /// The first delay is at most `first`, none is longer than `most`.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            tries: 0,
        }
    }

    /// The delay before the next try: between half of the full delay and all of it.
    pub fn next_delay(&mut self, random: &mut SplitMix64) -> Duration {
        let full = self
            .first
            .saturating_mul(1 << self.tries.min(20))
            .min(self.most);
        self.tries = self.tries.saturating_add(1);
        let share = u32::try_from(random.next() % 1_000).unwrap_or_default();
        full / 2 + full / 2 * share / 1_000
    }

    /// How many tries failed in a row.
    #[must_use]
    pub const fn tries(&self) -> u32 {
        self.tries
    }

    /// A try succeeded.
    pub const fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_with_jitter_up_to_the_bound_and_start_over_after_a_success() {
        let mut random = SplitMix64::new(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        for full in [1, 2, 4, 5, 5, 5] {
            let full = Duration::from_secs(full);
            let delay = backoff.next_delay(&mut random);
            assert!(full / 2 <= delay && delay <= full, "{delay:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay(&mut random) <= Duration::from_secs(1));
    }
}
