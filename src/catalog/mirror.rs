//! The mirror as a whole: the followed namespaces, and the limit on parallel reads that they share.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{
    catalog::{
        Ask, Heard, Synced, Tell, Ticket, Wanted,
        follower::{Follower, Outbox},
    },
    model::{ServiceKey, SplitMix64},
};

/// The mirror. Tell it what is heard and what time it is, then take what it asks ([`Mirror::poll_ask`]) and tells
/// ([`Mirror::poll_tell`]) until there is nothing more, and come back at [`Mirror::next_deadline`] or earlier.
#[derive(Clone, Debug)]
pub struct Mirror {
    followers: BTreeMap<Arc<str>, Follower>,
    /// Whose question it was. A stream's ticket stays until the stream has ended or was closed.
    tickets: BTreeMap<Ticket, Arc<str>>,
    reads_in_flight: usize,
    out: Outbox,
}

impl Mirror {
    /// So many reads are under way at the same time.
    pub const PARALLEL_READS: usize = 8;

    /// Follows `namespaces`; one that is `*` stands for all. `now` is any monotonic time, the same clock in every call.
    /// `seed` is for the jitter.
    #[must_use]
    pub fn new(namespaces: &[String], wanted: &Wanted, seed: u64, now: Duration) -> Self {
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
            tickets: BTreeMap::new(),
            reads_in_flight: 0,
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

    /// Takes what was heard. An answer to something that is no longer asked has no effect.
    pub fn handle(&mut self, now: Duration, heard: Heard) {
        let whose = match &heard {
            Heard::StreamOpened { ticket } | Heard::StreamLine { ticket, .. } => {
                self.tickets.get(ticket).cloned()
            }
            Heard::StreamEnded { ticket, .. } | Heard::Listed { ticket, .. } => {
                self.tickets.remove(ticket)
            }
            Heard::Read { ticket, .. } => {
                let namespace = self.tickets.remove(ticket);
                self.reads_in_flight -= usize::from(namespace.is_some());
                namespace
            }
        };
        let out = &mut self.out;
        if let Some(follower) = whose.and_then(|namespace| self.followers.get_mut(&namespace)) {
            match heard {
                Heard::StreamOpened { ticket } => {
                    out.tells.extend(follower.stream_opened(now, ticket));
                }
                Heard::StreamLine { ticket, line } => follower.stream_line(ticket, line, out),
                Heard::StreamEnded { ticket, end } => follower.stream_ended(now, ticket, end, out),
                Heard::Listed { ticket, result } => follower.listed(now, ticket, result, out),
                Heard::Read { ticket, result } => follower.read(now, ticket, result, out),
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
        for (namespace, follower) in &mut self.followers {
            while self.reads_in_flight < Self::PARALLEL_READS
                && let Some(ticket) = follower.next_read(&mut self.out)
            {
                self.tickets.insert(ticket, Arc::clone(namespace));
                self.reads_in_flight += 1;
            }
        }
    }

    /// Opens the streams anew and reads everything again: something outside changed, such as the token.
    pub fn resync(&mut self, now: Duration) {
        for follower in self.followers.values_mut() {
            follower.resync(now, &mut self.out);
        }
        self.tick(now);
    }

    /// Whether registrations of this service are known.
    #[must_use]
    pub fn has(&self, key: &ServiceKey) -> bool {
        self.followers.values().any(|follower| follower.has(key))
    }

    /// The next thing to ask, until there is none.
    pub fn poll_ask(&mut self) -> Option<Ask> {
        let ask = self.out.asks.pop_front()?;
        match &ask {
            Ask::OpenStream { ticket, namespace } | Ask::List { ticket, namespace } => {
                self.tickets.insert(*ticket, Arc::clone(namespace));
            }
            Ask::CloseStream { ticket } => {
                self.tickets.remove(ticket);
            }
            Ask::Read { .. } => {}
        }
        Some(ask)
    }

    /// The next thing that became known, until there is none.
    pub fn poll_tell(&mut self) -> Option<Tell> {
        self.out.tells.pop_front()
    }

    /// When [`Self::tick`] is due, if nothing is heard before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        self.followers
            .values()
            .filter_map(Follower::next_deadline)
            .min()
    }

    fn tell_synced(&mut self) {
        let Some(index) = self.out.synced.take() else {
            return;
        };
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
