//! Keeps the parts of the process running. A part that panics is started afresh, after a delay that grows while it fails
//! again soon; the other parts go on.

use std::{any::Any, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::error;

use super::{now, seed};
use crate::{
    admin::{Failure, Metrics, Missing, Status},
    model::{Backoff, SplitMix64},
};

/// Between a panic and the new start.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(10);
/// A part that ran for so long has left its former failures behind.
const QUIET: Duration = Duration::from_mins(1);

/// A part of the process that can fail by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// What decides, with the sessions to both sides.
    Core,
    /// The admin listener.
    Admin,
    /// The look at the lock.
    Charge,
}

impl Part {
    pub(super) const ALL: [Self; 3] = [Self::Core, Self::Admin, Self::Charge];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Core => "core",
            Self::Admin => "admin",
            Self::Charge => "charge",
        }
    }
}

/// Where failures are shown.
#[derive(Clone)]
pub(super) struct Failures {
    pub(super) metrics: Arc<Metrics>,
    pub(super) status: watch::Sender<Status>,
}

impl Failures {
    /// Runs what `start` gives, again whenever it panics, until it ends.
    pub(super) async fn keep<F>(self, part: Part, mut start: impl FnMut() -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut delays = Backoff::new(FIRST_DELAY, LAST_DELAY);
        loop {
            let started = Instant::now();
            let mut running = JoinSet::new();
            running.spawn(start());
            let Some(Err(ended)) = running.join_next().await else {
                return;
            };
            let Ok(panic) = ended.try_into_panic() else {
                return;
            };
            if started.elapsed() >= QUIET {
                delays.reset();
            }
            let delay = delays.next_delay(&mut SplitMix64::new(seed()));
            self.tell(part, message(&*panic), delay);
            sleep(delay).await;
        }
    }

    fn tell(&self, part: Part, message: &str, delay: Duration) {
        error!(
            part = part.as_str(),
            panic = message,
            ?delay,
            "a part of the sidecar failed; it starts afresh"
        );
        self.metrics.panicked(part.as_str());
        self.status.send_modify(|status| {
            let times = status.failure.as_ref().map_or(1, |last| last.times + 1);
            status.failure = Some(Failure {
                part: part.as_str(),
                reason: message.to_owned(),
                times,
                at: now(),
            });
            if part == Part::Core {
                let reason = message.to_owned();
                status.missing = vec![Missing::Core { reason }];
            }
        });
    }
}

/// What a panic says.
pub(super) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parts that panic until they have done so `times` in a row, each after `lifetime`; when each was started.
    async fn starts(
        times: usize,
        lifetime: Duration,
        status: watch::Sender<Status>,
    ) -> Vec<Instant> {
        let metrics = Arc::new(Metrics::new());
        let failures = Failures {
            metrics: Arc::clone(&metrics),
            status: status.clone(),
        };
        let mut starts = Vec::new();
        let kept = failures.keep(Part::Core, || {
            starts.push(Instant::now());
            let fails = starts.len() <= times;
            async move {
                sleep(lifetime).await;
                assert!(!fails, "one of the tests");
            }
        });
        kept.await;
        let text = metrics.render(&status.borrow(), now()).unwrap();
        let line = format!("haproxy_nomad_sidecar_panics_total{{part=\"core\"}} {times}");
        assert!(text.lines().any(|each| each == line), "{text}");
        starts
    }

    fn status() -> watch::Sender<Status> {
        watch::channel(Status::starting(now())).0
    }

    fn pauses(starts: &[Instant], lifetime: Duration) -> Vec<Duration> {
        let pairs = starts.windows(2);
        pairs.map(|pair| pair[1] - (pair[0] + lifetime)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panics_is_started_again_with_growing_delays_and_shown() {
        let status = status();
        let starts = starts(9, Duration::ZERO, status.clone()).await;
        let pauses = pauses(&starts, Duration::ZERO);
        assert_eq!(pauses.len(), 9);
        assert!(pauses[0] <= FIRST_DELAY, "{pauses:?}");
        assert!(
            pauses[8] >= LAST_DELAY / 2 && pauses[8] <= LAST_DELAY + FIRST_DELAY,
            "{pauses:?}"
        );
        let status = status.borrow();
        let reason = "one of the tests".to_owned();
        assert_eq!(status.missing, [Missing::Core { reason }]);
        let failure = status.failure.as_ref().unwrap();
        assert_eq!((failure.part, failure.times), ("core", 9));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_quiet_time_the_delay_is_short_again() {
        let starts = starts(9, QUIET, status()).await;
        for pause in pauses(&starts, QUIET) {
            assert!(pause <= FIRST_DELAY + Duration::from_millis(2), "{pause:?}");
        }
    }
}
