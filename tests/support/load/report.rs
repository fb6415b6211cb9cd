//! What came of a load.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::ErrorKind,
    time::Duration,
};

use tokio::time::Instant;

/// So much of what was asked for has to be sent in time.
const LEAST: f64 = 0.95;
/// What [`Report::fault`] says at its end.
pub(crate) const MEANS_NOTHING: &str = "what it found means nothing";

/// A request that was sent later than this after it was due was not sent in time: a pause of the generator is no rate.
const IN_TIME: Duration = Duration::from_secs(1);

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// By an application, whatever its status.
    Answered {
        status: u16,
        by: String,
    },
    /// By HAProxy itself.
    HaproxyAnswered {
        status: u16,
    },
    NotConnected(ErrorKind),
    Reset,
    /// The connection ended before a byte came.
    ClosedWithoutAnswer,
    /// The connection ended within the answer.
    Cut,
    TimedOut,
    /// It is no answer.
    Garbled,
}

impl Outcome {
    pub(crate) fn has_failed(&self) -> bool {
        !matches!(self, Self::Answered { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered { status, by } => write!(f, "{status} by {by}"),
            Self::HaproxyAnswered { status } => write!(f, "{status} by HAProxy"),
            Self::NotConnected(kind) => write!(f, "no connection: {kind}"),
            Self::Reset => f.write_str("reset"),
            Self::ClosedWithoutAnswer => f.write_str("closed without an answer"),
            Self::Cut => f.write_str("cut within the answer"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Garbled => f.write_str("no answer of HTTP"),
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// When it was to be sent.
    pub(crate) due: Instant,
    /// How much later it was sent.
    pub(crate) late: Duration,
    /// How long it asked to last.
    pub(crate) lasts: Duration,
    /// From when it was due to its end.
    pub(crate) took: Duration,
    /// On a second connection, since the kept one was closed before a byte came.
    pub(crate) retried: bool,
    pub(crate) outcome: Outcome,
}

impl Record {
    /// When it ended.
    pub(crate) fn ended(&self) -> Instant {
        self.due + self.took
    }

    /// What it took beyond what it asked for.
    pub(crate) fn latency(&self) -> Duration {
        self.took.saturating_sub(self.lasts)
    }
}

/// All requests of a load, in the order in which they were due.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) rate: u32,
    pub(crate) began: Instant,
    pub(crate) lasted: Duration,
    pub(crate) records: Vec<Record>,
}

impl Report {
    /// Those that failed.
    pub(crate) fn failed(&self) -> impl Iterator<Item = &Record> {
        let records = self.records.iter();
        records.filter(|record| record.outcome.has_failed())
    }

    /// How many failed in which way.
    pub(crate) fn failures(&self) -> BTreeMap<String, usize> {
        let mut failures = BTreeMap::new();
        for record in self.failed() {
            *failures.entry(record.outcome.to_string()).or_default() += 1;
        }
        failures
    }

    /// How many requests each instance has answered.
    pub(crate) fn answered(&self) -> BTreeMap<&str, usize> {
        let mut answered = BTreeMap::new();
        for record in &self.records {
            if let Outcome::Answered { by, .. } = &record.outcome {
                *answered.entry(&**by).or_default() += 1;
            }
        }
        answered
    }

    /// The instances that have answered.
    pub(crate) fn instances(&self) -> BTreeSet<&str> {
        self.answered().into_keys().collect()
    }

    /// How many were sent on a second connection.
    pub(crate) fn retried(&self) -> usize {
        self.records.iter().filter(|record| record.retried).count()
    }

    /// Requests in a second that were sent in time.
    #[expect(
        clippy::cast_precision_loss,
        reason = "there are less than 2^52 requests"
    )]
    pub(crate) fn achieved(&self) -> f64 {
        let records = self.records.iter();
        let in_time = records.filter(|record| record.late <= IN_TIME).count();
        // The first is sent at the very beginning.
        in_time.saturating_sub(1) as f64 / self.lasted.as_secs_f64()
    }

    /// Why the load is none, if the generator did not do what it was asked for. What was due within the last second may
    /// still have been sent in time when the load was stopped.
    #[expect(
        clippy::cast_precision_loss,
        reason = "there are less than 2^52 requests"
    )]
    pub(crate) fn fault(&self) -> Option<String> {
        let judged = self.lasted.saturating_sub(IN_TIME);
        let asked = (judged.as_secs_f64() * f64::from(self.rate)).floor();
        let records = self.records.iter();
        let in_time = records
            .filter(|record| record.due - self.began <= judged && record.late <= IN_TIME)
            .count() as f64;
        (in_time < LEAST * asked).then(|| {
            let [_, _, late] = self.percentiles(|record| record.late);
            format!(
                "the generator sent {in_time} of {asked} requests in time, at worst {late:?} too late: \
                 {MEANS_NOTHING}"
            )
        })
    }

    /// The median, the 99th of 100, and the worst.
    pub(crate) fn percentiles(&self, of: impl Fn(&Record) -> Duration) -> [Duration; 3] {
        let mut all: Vec<_> = self.records.iter().map(of).collect();
        all.sort();
        let at = |percent: usize| {
            let last = all.len().saturating_sub(1);
            all.get(last * percent / 100).copied().unwrap_or_default()
        };
        [at(50), at(99), at(100)]
    }
}
