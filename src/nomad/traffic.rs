//! Counts what is asked of Nomad, what comes of it, and how much comes. It goes on counting through reconnects; it knows
//! nothing of how the numbers are shown.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A list of services, answered at once.
    List,
    /// One service, answered at once.
    Read,
    /// A list that Nomad holds until something changes.
    BlockingList,
    /// One service, held until it changes.
    BlockingRead,
    /// An event stream.
    Stream,
    /// What a job's author wrote.
    Job,
    /// What becomes of an allocation.
    Allocation,
}

/// What comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// An answer that is believed; of a stream, its first line.
    Ok,
    /// The token may not do this; of a stream, silence too.
    Denied,
    /// No token, or none that Nomad knows.
    BadToken,
    /// No connection, or one that broke.
    Unreachable,
    /// Nothing in time.
    Timeout,
    /// An error of Nomad's, or what is no HTTP.
    ServerError,
    /// An answer that is too long to be read.
    TooLong,
    /// 429.
    Limited,
    /// An answer that proves nothing.
    NotBelievable,
    /// Nobody waits for the answer any more.
    Cancelled,
}

/// Requests by kind and outcome, and the bytes of the bodies that came, since the start of the process.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: [[AtomicU64; Outcome::ALL.len()]; Kind::ALL.len()],
    received: [AtomicU64; Kind::ALL.len()],
}

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 7] = [
        Self::List,
        Self::Read,
        Self::BlockingList,
        Self::BlockingRead,
        Self::Stream,
        Self::Job,
        Self::Allocation,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Read => "read",
            Self::BlockingList => "blocking_list",
            Self::BlockingRead => "blocking_read",
            Self::Stream => "stream",
            Self::Job => "job",
            Self::Allocation => "allocation",
        }
    }
}

impl Outcome {
    /// Each of them.
    pub const ALL: [Self; 10] = [
        Self::Ok,
        Self::Denied,
        Self::BadToken,
        Self::Unreachable,
        Self::Timeout,
        Self::ServerError,
        Self::TooLong,
        Self::Limited,
        Self::NotBelievable,
        Self::Cancelled,
    ];

    /// Its name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Denied => "denied",
            Self::BadToken => "bad_token",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::ServerError => "server_error",
            Self::TooLong => "too_long",
            Self::Limited => "limited",
            Self::NotBelievable => "not_believable",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Traffic {
    /// How many requests of this kind ended so.
    #[must_use]
    pub fn requests(&self, kind: Kind, outcome: Outcome) -> u64 {
        self.requests[kind as usize][outcome as usize].load(Ordering::Relaxed)
    }

    /// How many bytes came in the bodies of answers to this kind, as far as they were read.
    #[must_use]
    pub fn received_bytes(&self, kind: Kind) -> u64 {
        self.received[kind as usize].load(Ordering::Relaxed)
    }

    pub(super) fn received(&self, kind: Kind, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.received[kind as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts a request when it ends, which is at the latest when nobody waits for it any more.
    pub(super) fn asked(self: &Arc<Self>, kind: Kind) -> Asked {
        Asked {
            traffic: Arc::clone(self),
            kind,
            outcome: Outcome::Cancelled,
        }
    }
}

/// A request that is under way.
pub(super) struct Asked {
    traffic: Arc<Traffic>,
    kind: Kind,
    outcome: Outcome,
}

impl Asked {
    /// It ended so.
    pub(super) fn ended(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.traffic.requests[self.kind as usize][self.outcome as usize]
            .fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_and_outcome_has_a_place_of_its_own() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
        for (place, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, place);
        }
    }

    #[test]
    fn a_request_that_nobody_waits_for_any_more_is_counted_too() {
        let traffic = Arc::new(Traffic::default());
        traffic.asked(Kind::Read).ended(Outcome::Ok);
        drop(traffic.asked(Kind::Read));
        assert_eq!(traffic.requests(Kind::Read, Outcome::Ok), 1);
        assert_eq!(traffic.requests(Kind::Read, Outcome::Cancelled), 1);
    }
}
