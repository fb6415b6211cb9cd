//! Delays between tries: they double, with jitter, up to a bound.

use std::time::Duration;

/// The state of one row of tries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    /// The first delay is about `first`, none is longer than `most`.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            tries: 0,
        }
    }

    /// The delay before the next try: between half of the full delay and all of it, as `random` falls.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let full = self
            .first
            .saturating_mul(1 << self.tries.min(20))
            .min(self.most);
        self.tries = self.tries.saturating_add(1);
        let share = u32::try_from(random % 1_000).unwrap_or_default();
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
    fn delays_double_with_jitter_up_to_the_bound() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(5));
        assert_eq!(backoff.next_delay(0), Duration::from_millis(500));
        assert_eq!(backoff.next_delay(0), Duration::from_secs(1));
        assert!(backoff.next_delay(999) > Duration::from_millis(3_900));
        for _ in 0..100 {
            assert!(backoff.next_delay(u64::MAX) <= Duration::from_secs(5));
        }
        backoff.reset();
        assert!(backoff.next_delay(999) <= Duration::from_secs(1));
    }
}
