//! A Nomad without its network: the table of service registrations, its index, and the event broker that forgets.
//!
//! It says what a server would; whether anybody hears it is `link`'s. Source: runs of Nomad 1.10 to 2.0.5 and
//! `nomad/stream/event_broker.go` (the buffer of 100 batches of all topics; index 0 replays all of it).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use haproxy_nomad_sidecar::{
    catalog::{Line, ListedService, Listing, Reading},
    model::{NomadEvent, Registration, ServiceKey},
};

/// `event_buffer_size`
const BUFFER: usize = 100;

pub(crate) type Table = BTreeMap<(ServiceKey, Arc<str>), Registration>;

#[derive(Default)]
pub(crate) struct Nomad {
    /// Raft's.
    index: u64,
    /// Of the table: its last change.
    table_index: u64,
    table: Table,
    /// All former states, by index.
    past: BTreeMap<u64, Table>,
    /// What was published, for ever; a restarted server publishes its end again.
    log: Vec<Line>,
    buffer: VecDeque<Line>,
}

impl Nomad {
    pub(crate) fn new() -> Self {
        let mut nomad = Self {
            index: 10,
            ..Self::default()
        };
        nomad.commit(None);
        nomad
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// Something else happens in the cluster: the index moves, the buffer forgets.
    pub(crate) fn pass_by(&mut self, batches: usize) {
        for _ in 0..batches {
            self.index += 1;
            self.publish(Line {
                index: self.index,
                events: Vec::new(),
            });
        }
    }

    /// Registers or updates; a registration that was not there has a new `CreateIndex`.
    pub(crate) fn register(&mut self, mut registration: Registration) -> Line {
        self.index += 1;
        let key = (registration.service.clone(), registration.id.clone());
        registration.create_index = self
            .table
            .get(&key)
            .map_or(self.index, |before| before.create_index);
        registration.modify_index = self.index;
        self.table.insert(key, registration.clone());
        self.commit(Some(vec![NomadEvent::Registered(registration)]))
    }

    /// One Raft message deletes them all, as when a node is lost.
    pub(crate) fn deregister(&mut self, gone: &[Registration]) -> Line {
        self.index += 1;
        for one in gone {
            self.table.remove(&(one.service.clone(), one.id.clone()));
        }
        let events = gone.iter().cloned().map(NomadEvent::Deregistered);
        self.commit(Some(events.collect()))
    }

    /// Garbage collection deletes without an event.
    pub(crate) fn collect(&mut self, gone: &Registration) {
        self.index += 1;
        self.table.remove(&(gone.service.clone(), gone.id.clone()));
        self.commit(None);
    }

    /// An operator restores a snapshot of about so many changes ago. The indexes of what was since are used again.
    pub(crate) fn restore(&mut self, changes_ago: usize) {
        let (index, table) = self
            .past
            .iter()
            .rev()
            .nth(changes_ago)
            .or_else(|| self.past.first_key_value())
            .map(|(index, table)| (*index, table.clone()))
            .unwrap();
        self.past.retain(|at, _| *at <= index);
        self.log.retain(|line| line.index <= index);
        self.buffer.clear();
        self.table = table;
        self.index = index;
        self.table_index = index;
    }

    /// The server process restarts: it publishes the logs since its last snapshot once more.
    pub(crate) fn restart(&mut self, logs: usize) {
        self.buffer = self
            .log
            .iter()
            .rev()
            .take(logs.min(BUFFER))
            .rev()
            .cloned()
            .collect();
    }

    /// What a new stream of topic `Service` from index 0 begins with.
    pub(crate) fn buffered(&self) -> Vec<Line> {
        let lines = self.buffer.iter().filter(|line| !line.events.is_empty());
        lines.cloned().collect()
    }

    pub(crate) fn list(&self, namespace: &str) -> Listing {
        let mut tags: BTreeMap<ServiceKey, Vec<String>> = BTreeMap::new();
        for ((service, _), registration) in &self.table {
            if namespace == "*" || *service.namespace == *namespace {
                let union = tags.entry(service.clone()).or_default();
                union.extend(registration.tags.iter().cloned());
            }
        }
        Listing {
            index: self.table_index,
            services: tags
                .into_iter()
                .map(|(key, tags)| ListedService { key, tags })
                .collect(),
        }
    }

    pub(crate) fn read(&self, key: &ServiceKey) -> Reading {
        let rows = self.table.iter().filter(|((service, _), _)| service == key);
        Reading {
            index: self.table_index,
            registrations: rows.map(|(_, registration)| registration.clone()).collect(),
        }
    }

    fn commit(&mut self, events: Option<Vec<NomadEvent>>) -> Line {
        self.table_index = self.index;
        self.past.insert(self.index, self.table.clone());
        let line = Line {
            index: self.index,
            events: events.unwrap_or_default(),
        };
        self.publish(line.clone());
        line
    }

    fn publish(&mut self, line: Line) {
        self.log.push(line.clone());
        self.buffer.push_back(line);
        if self.buffer.len() > BUFFER {
            self.buffer.pop_front();
        }
    }
}
