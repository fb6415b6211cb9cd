//! How fast servers that are UP may be taken out of rotation: a catalog that is wrong must not be obeyed faster than somebody,
//! or the other guards, can notice.

use std::{num::NonZeroU32, time::Duration};

/// What one backend may at most make the others wait. All its servers may leave at once, and a big one must not keep those
/// of others, whose instances are about to stop, in rotation for long.
const LONGEST: Duration = Duration::from_secs(1);

/// Lets so many servers a second go, across all backends. Those of one backend may go together.
#[derive(Debug)]
pub(in crate::reconcile) struct Pace {
    per_second: NonZeroU32,
    /// When the next backend may begin.
    next_at: Duration,
}

impl Pace {
    pub(in crate::reconcile) const fn new(per_second: NonZeroU32) -> Self {
        Self {
            per_second,
            next_at: Duration::ZERO,
        }
    }

    /// How long a backend has to wait before it may take servers out.
    pub(in crate::reconcile) fn wait(&self, now: Duration) -> Option<Duration> {
        self.next_at.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// So many servers of one backend are being taken out.
    pub(in crate::reconcile) fn take(&mut self, now: Duration, servers: u32) {
        let cost = Duration::from_secs(servers.into()) / self.per_second.get();
        self.next_at = self.next_at.max(now) + cost.min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn the_servers_of_one_backend_go_together_and_the_next_waits_for_a_second_at_most() {
        let mut pace = Pace::new(NonZeroU32::new(10).unwrap());
        assert_eq!(pace.wait(Duration::ZERO), None);
        for (servers, pause) in [(1, 100), (5, 500), (1_000, 1_000)] {
            let start = pace.next_at;
            pace.take(start, servers);
            assert_eq!(pace.wait(start), Some(pause * MILLI));
            assert_eq!(pace.wait(start + (pause - 1) * MILLI), Some(MILLI));
            assert_eq!(pace.wait(start + pause * MILLI), None);
        }
    }

    #[test]
    fn time_without_removals_is_not_saved_up() {
        let mut pace = Pace::new(NonZeroU32::new(10).unwrap());
        let later = Duration::from_hours(1);
        pace.take(later, 1);
        assert_eq!(pace.wait(later), Some(100 * MILLI));
    }
}
