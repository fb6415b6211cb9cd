//! The mirror as a whole: the followed namespaces, and the limits on reads and blocking queries that they share.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    catalog::{
        Ask, FailureKind, Heard, StreamEnd, Synced, Tell, Ticket, Wanted,
        follower::{Follower, Outbox},
        pace::{self, Pace},
    },
    model::{ServiceKey, SplitMix64},
};

/// The mirror. Tell it what is heard and what time it is, then take what it asks ([`Mirror::poll_ask`]) and tells
/// ([`Mirror::poll_tell`]) until there is nothing more, and come back at [`Mirror::next_deadline`] or earlier.
#[derive(Clone, Debug)]
pub struct Mirror {
    followers: BTreeMap<Arc<str>, Follower>,
    /// What was asked. A stream's ticket stays until the stream has ended or was closed.
    asked: BTreeMap<Ticket, Asked>,
    reads_in_flight: usize,
    held_reads: usize,
    most_held_reads: usize,
    pace: Pace,
    /// How many services are to be asked for and were not yet.
    waiting: usize,
    has_synced: bool,
    out: Outbox,
}

#[derive(Clone, Debug)]
struct Asked {
    namespace: Arc<str>,
    what: What,
    at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Stream,
    List,
    HeldList,
    Read,
    HeldRead,
}

impl Mirror {
    /// So many reads are under way at the same time.
    pub const PARALLEL_READS: usize = pace::MOST;

    /// Follows `namespaces`; one that is `*` stands for all. Without a stream, at most `held_reads` services have a
    /// blocking query of their own. `now` is any monotonic time, the same clock in every call. `seed` is for the jitter.
    #[must_use]
    pub fn new(
        namespaces: &[String],
        wanted: &Wanted,
        held_reads: usize,
        seed: u64,
        now: Duration,
    ) -> Self {
        let star = namespaces.iter().any(|namespace| namespace == "*");
        let followers = namespaces
            .iter()
            .filter(|namespace| !star || *namespace == "*")
            .map(|namespace| {
                let namespace: Arc<str> = namespace.as_str().into();
                let follower = Follower::new(Arc::clone(&namespace), wanted.clone(), now);
                (namespace, follower)
            })
            .collect();
        let mut mirror = Self {
            followers,
            asked: BTreeMap::new(),
            reads_in_flight: 0,
            held_reads: 0,
            most_held_reads: held_reads,
            pace: Pace::new(),
            waiting: 0,
            has_synced: false,
            out: Outbox {
                asks: VecDeque::new(),
                tells: VecDeque::new(),
                synced: None,
                random: SplitMix64::new(seed),
                tickets: 0,
            },
        };
        mirror.tick(now);
        mirror
    }

    /// Bounds what is known, in bytes of memory. A service that has no room stays as it is known, and is said.
    #[must_use]
    pub fn limited(mut self, most: usize) -> Self {
        let share = most / self.followers.len().max(1);
        for follower in self.followers.values_mut() {
            follower.limit(share);
        }
        self
    }

    /// Takes what was heard. An answer to something that is no longer asked has no effect.
    pub fn handle(&mut self, now: Duration, heard: Heard) {
        let asked = match &heard {
            Heard::StreamOpened { ticket } | Heard::StreamLine { ticket, .. } => {
                self.asked.get(ticket).cloned()
            }
            Heard::StreamEnded { ticket, .. }
            | Heard::Listed { ticket, .. }
            | Heard::Read { ticket, .. } => self.forget(*ticket),
        };
        if let Some(asked) = asked {
            self.pace_by(now, &asked, &heard);
            if let Some(follower) = self.followers.get_mut(&asked.namespace) {
                let out = &mut self.out;
                match heard {
                    Heard::StreamOpened { ticket } => follower.stream_opened(now, ticket, out),
                    Heard::StreamLine { ticket, line } => follower.stream_line(ticket, line, out),
                    Heard::StreamEnded { ticket, end } => {
                        follower.stream_ended(now, ticket, end, out);
                    }
                    Heard::Listed { ticket, result } => follower.listed(now, ticket, result, out),
                    Heard::Read { ticket, result } => follower.read(now, ticket, result, out),
                }
            }
        }
        self.tick(now);
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) {
        for follower in self.followers.values_mut() {
            follower.tick(now, &mut self.out);
        }
        self.tell_synced();
        self.waiting = self.followers.values().map(Follower::waiting_reads).sum();
        let without_query = self.followers.values().map(|one| one.wanted_queries(now));
        let room = self.most_held_reads.saturating_sub(self.held_reads);
        self.waiting += room.min(without_query.sum());
        for (namespace, follower) in &mut self.followers {
            loop {
                let (what, ticket) = if !self.pace.allows(self.reads_in_flight, now) {
                    break;
                } else if let Some(ticket) = follower.next_read(&mut self.out) {
                    self.reads_in_flight += 1;
                    (What::Read, ticket)
                } else if self.held_reads < self.most_held_reads
                    && let Some(ticket) = follower.next_held(now, &mut self.out)
                {
                    self.held_reads += 1;
                    (What::HeldRead, ticket)
                } else {
                    break;
                };
                let (namespace, at) = (Arc::clone(namespace), now);
                self.asked.insert(
                    ticket,
                    Asked {
                        namespace,
                        what,
                        at,
                    },
                );
                self.pace.asked(now, self.waiting, &mut self.out.random);
                self.waiting = self.waiting.saturating_sub(1);
            }
        }
        self.note_asks(now);
    }

    /// Opens the streams anew and reads everything again: something outside changed, such as the token.
    pub fn resync(&mut self, now: Duration) {
        for follower in self.followers.values_mut() {
            follower.resync(now, &mut self.out);
        }
        self.tick(now);
    }

    /// Reads services although no list has them, and tells what there is of each. Nothing is told of a service in a
    /// namespace that is not followed.
    pub fn prove(&mut self, now: Duration, services: impl IntoIterator<Item = ServiceKey>) {
        for key in services {
            let all: Arc<str> = "*".into();
            let follower = if self.followers.contains_key(&key.namespace) {
                self.followers.get_mut(&key.namespace)
            } else {
                self.followers.get_mut(&all)
            };
            if let Some(follower) = follower {
                follower.prove(key, &mut self.out);
            }
        }
        self.tick(now);
    }

    /// Nobody waits any longer: what was not read yet is left out, like what failed again and again.
    pub fn give_up(&mut self, now: Duration) {
        for follower in self.followers.values_mut() {
            follower.give_up(now, &mut self.out);
        }
        self.tell_synced();
    }

    /// Whether registrations of this service are known.
    #[must_use]
    pub fn has(&self, key: &ServiceKey) -> bool {
        self.followers.values().any(|follower| follower.has(key))
    }

    /// The next thing to ask, until there is none.
    pub fn poll_ask(&mut self) -> Option<Ask> {
        self.out.asks.pop_front()
    }

    /// The next thing that became known, until there is none.
    pub fn poll_tell(&mut self) -> Option<Tell> {
        self.out.tells.pop_front()
    }

    /// When [`Self::tick`] is due, if nothing is heard before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        let next_read = self
            .pace
            .next_read(self.reads_in_flight)
            .filter(|_| self.waiting > 0);
        self.followers
            .values()
            .filter_map(Follower::next_deadline)
            .chain(next_read)
            .min()
    }

    /// How quickly an answer came, or that none did, says how Nomad is.
    fn pace_by(&mut self, now: Duration, asked: &Asked, heard: &Heard) {
        let random = &mut self.out.random;
        let failure = match heard {
            Heard::StreamLine { .. } => return,
            Heard::StreamOpened { .. } => None,
            Heard::StreamEnded { end, .. } => match end {
                StreamEnd::Refused(_) => return,
                StreamEnd::Unreachable(_) | StreamEnd::Lost(_) => {
                    return self.pace.failed(now, random);
                }
            },
            Heard::Listed { result, .. } => result.as_ref().err(),
            Heard::Read { result, .. } => result.as_ref().err(),
        };
        match failure.map(|failure| failure.kind) {
            // That of a read is about one service.
            Some(FailureKind::ServerError | FailureKind::TooLong | FailureKind::NotBelievable)
                if matches!(heard, Heard::Read { .. }) => {}
            Some(FailureKind::Denied | FailureKind::BadToken | FailureKind::Unreadable) => {}
            Some(
                FailureKind::Unreachable
                | FailureKind::Timeout
                | FailureKind::ServerError
                | FailureKind::TooLong
                | FailureKind::NotBelievable
                | FailureKind::Limited,
            ) => self.pace.failed(now, random),
            None if matches!(asked.what, What::HeldList | What::HeldRead) => {}
            None => {
                // What was just answered is no longer counted.
                let under_way = self.reads_in_flight + usize::from(asked.what == What::Read);
                let took = now.saturating_sub(asked.at);
                self.pace.answered(now, took, under_way, random);
            }
        }
    }

    /// Remembers whose question each is.
    fn note_asks(&mut self, now: Duration) {
        let mut cancelled = Vec::new();
        for ask in &self.out.asks {
            let (ticket, namespace, what) = match ask {
                Ask::OpenStream { ticket, namespace } => (ticket, namespace, What::Stream),
                Ask::List {
                    ticket,
                    namespace,
                    after: None,
                } => (ticket, namespace, What::List),
                Ask::List {
                    ticket, namespace, ..
                } => (ticket, namespace, What::HeldList),
                Ask::Cancel { ticket } => {
                    cancelled.push(*ticket);
                    continue;
                }
                Ask::Read { .. } => continue,
            };
            self.asked.entry(*ticket).or_insert_with(|| Asked {
                namespace: Arc::clone(namespace),
                what,
                at: now,
            });
        }
        for ticket in cancelled {
            self.forget(ticket);
        }
    }

    fn forget(&mut self, ticket: Ticket) -> Option<Asked> {
        let asked = self.asked.remove(&ticket)?;
        match asked.what {
            What::Read => self.reads_in_flight -= 1,
            What::HeldRead => self.held_reads -= 1,
            What::Stream | What::List | What::HeldList => {}
        }
        Some(asked)
    }

    fn tell_synced(&mut self) {
        // Until every namespace was read, or could not be, nothing is complete.
        if !self.has_synced && self.followers.values().any(Follower::begins) {
            return;
        }
        let Some(index) = self.out.synced.take() else {
            return;
        };
        self.has_synced = true;
        let synced = Synced {
            index,
            services: self
                .followers
                .values()
                .flat_map(Follower::services)
                .collect(),
            unproven: self
                .followers
                .values()
                .flat_map(Follower::unproven)
                .collect(),
        };
        self.out.tells.push_back(Tell::Synced(synced));
    }
}
