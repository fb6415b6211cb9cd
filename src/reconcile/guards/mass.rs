//! When so much is deregistered at once that it is rather Nomad's mistake than anybody's wish.
//!
//! A server that was frozen for 25 s, or whose leader could not be reached, counts its clients as lost and deletes the
//! registrations of instances that go on serving (hashicorp/nomad#17974). Each of those deletions looks like any other.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::Key;

/// The time in which it happens: a lost node, or all of them, is one or a few Raft messages. Rolling updates and drains
/// take one instance of a group at a time, and pauses of 10 s (`min_healthy_time`) between them.
pub(super) const WINDOW: Duration = Duration::from_secs(5);
/// With fewer, a share says nothing.
const REGISTRATIONS: usize = 6;
/// What is stopped, scaled or updated is a job. However many services it has, that is somebody's wish.
const JOBS: usize = 3;
/// Two fifths of everything: an even third, one node of three being drained, is ordinary; a half is not.
const SHARE: (usize, usize) = (2, 5);

/// Watches for it.
#[derive(Debug, Default)]
pub(super) struct Mass {
    /// What was deregistered within the window.
    recent: VecDeque<(Duration, Key, Arc<str>)>,
    under_way: Option<UnderWay>,
}

/// A mass deregistration.
#[derive(Debug)]
struct UnderWay {
    since: Duration,
    /// When it took the last registration.
    last: Duration,
    of: usize,
}

/// How much is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Registrations that are gone.
    pub gone: usize,
    /// Jobs that they are of.
    pub jobs: usize,
    /// Registrations that there were.
    pub of: usize,
    /// For how long those are held that pass their checks, if their tags do not say otherwise.
    pub hold: Duration,
}

impl Mass {
    /// A registration is gone.
    pub(super) fn lost(&mut self, now: Duration, key: &Key, job: &Arc<str>) {
        self.recent.push_back((now, key.clone(), Arc::clone(job)));
    }

    /// It is back.
    pub(super) fn returned(&mut self, key: &Key) {
        self.recent.retain(|(_, other, _)| other != key);
    }

    /// Judges what has happened, with so many `registered` now: whose removal belongs to a mass deregistration, and how much
    /// that is when it has just begun.
    pub(super) fn judge(
        &mut self,
        now: Duration,
        hold: Duration,
        registered: impl FnOnce() -> usize,
    ) -> (Vec<Key>, Option<Extent>) {
        let is_old = |at: Duration| now.saturating_sub(at) > WINDOW;
        while self.recent.front().is_some_and(|(at, ..)| is_old(*at)) {
            self.recent.pop_front();
        }
        if let Some(under_way) = &mut self.under_way
            && !is_old(under_way.last)
        {
            if !self.recent.is_empty() {
                under_way.last = now;
            }
            let victims = self.recent.drain(..).map(|(_, key, _)| key);
            return (victims.collect(), None);
        }
        let gone = self.recent.len();
        if gone < REGISTRATIONS {
            return (Vec::new(), None);
        }
        let jobs: BTreeSet<_> = self.recent.iter().map(|(.., job)| job).collect();
        let (jobs, of) = (jobs.len(), gone + registered());
        if jobs < JOBS || gone * SHARE.1 < of * SHARE.0 {
            return (Vec::new(), None);
        }
        let is_new = self.under_way.is_none();
        let since = self.under_way.as_ref().map_or(now, |former| former.since);
        self.under_way = Some(UnderWay {
            since,
            last: now,
            of,
        });
        let victims = self.recent.drain(..).map(|(_, key, _)| key).collect();
        let extent = Extent {
            gone,
            jobs,
            of,
            hold,
        };
        (victims, is_new.then_some(extent))
    }

    /// When it is over.
    pub(super) fn over_at(&self, hold: Duration) -> Option<Duration> {
        let under_way = self.under_way.as_ref()?;
        Some(under_way.last + hold.max(WINDOW))
    }

    /// Ends it when its time has come: how long it lasted, and how many registrations there were.
    pub(super) fn end(&mut self, now: Duration, hold: Duration) -> Option<(Duration, usize)> {
        self.over_at(hold).filter(|at| *at <= now)?;
        let ended = self.under_way.take()?;
        Some((now.saturating_sub(ended.since), ended.of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOLD: Duration = Duration::from_secs(30);

    /// `(second, jobs, instances of each)`, one after the other, of so many registrations.
    fn judged(losses: &[(u64, usize, usize)], mut registered: usize) -> Option<Extent> {
        let mut mass = Mass::default();
        let mut begun = None;
        let mut number = 0;
        for &(second, jobs, instances) in losses {
            let now = SECOND * u32::try_from(second).unwrap();
            for job in 0..jobs {
                for _ in 0..instances {
                    number += 1;
                    registered -= 1;
                    let key = ("default".into(), number.to_string().into());
                    mass.lost(now, &key, &job.to_string().into());
                    begun = begun.or(mass.judge(now, HOLD, || registered).1);
                }
            }
        }
        begun
    }

    #[test]
    fn a_catalog_that_loses_half_of_itself_at_once_is_not_ordinary_life() {
        for (losses, registered) in [
            // Half of ten jobs, in one Raft message and in three seconds.
            (&[(0, 10, 2)][..], 40),
            (&[(0, 3, 2), (1, 4, 2), (3, 3, 2)], 40),
            // All of it.
            (&[(0, 3, 2)], 6),
            // Two nodes of five.
            (&[(0, 20, 2)], 100),
        ] {
            assert!(judged(losses, registered).is_some(), "{losses:?}");
        }
        let extent = judged(&[(0, 10, 2)], 40).unwrap();
        assert_eq!((extent.gone, extent.of), (16, 40));
    }

    #[test]
    fn ordinary_life_is() {
        for (what, losses, registered) in [
            (
                "rolling update of one service",
                &[(0, 1, 1), (12, 1, 1)][..],
                6,
            ),
            ("scale 10 to 1", &[(0, 1, 9)], 12),
            ("job stop, of three jobs", &[(0, 1, 8)], 10),
            ("two jobs are stopped", &[(0, 2, 10)], 24),
            ("drain of one node of three", &[(0, 20, 1)], 60),
            (
                "everything is updated, one instance of three at a time",
                &[(0, 9, 1)],
                27,
            ),
            ("very few instances", &[(0, 5, 1)], 6),
        ] {
            assert_eq!(judged(losses, registered), None, "{what}");
        }
    }

    #[test]
    fn what_goes_while_it_lasts_belongs_to_it_and_afterwards_it_is_over() {
        let mut mass = Mass::default();
        let lose = |mass: &mut Mass, at: u32, numbers: std::ops::Range<u32>| {
            for number in numbers {
                let key = ("default".into(), number.to_string().into());
                mass.lost(at * SECOND, &key, &number.to_string().into());
            }
            mass.judge(at * SECOND, HOLD, || 10)
        };
        let (victims, begun) = lose(&mut mass, 1, 0..8);
        assert_eq!((victims.len(), begun.is_some()), (8, true));
        let (victims, begun) = lose(&mut mass, 4, 8..9);
        assert_eq!((victims.len(), begun.is_some()), (1, false));
        // Later than that it is an ordinary removal.
        let (victims, begun) = lose(&mut mass, 20, 9..10);
        assert_eq!((victims.len(), begun.is_some()), (0, false));
        assert_eq!(mass.end(33 * SECOND, HOLD), None);
        assert_eq!(mass.end(34 * SECOND, HOLD), Some((33 * SECOND, 18)));
        assert_eq!(mass.end(35 * SECOND, HOLD), None);
    }

    #[test]
    fn what_comes_back_is_not_gone() {
        let mut mass = Mass::default();
        for number in 0..8 {
            let key: Key = ("default".into(), number.to_string().into());
            mass.lost(SECOND, &key, &number.to_string().into());
            mass.returned(&key);
            assert_eq!(mass.judge(SECOND, HOLD, || 10), (Vec::new(), None));
        }
    }
}
