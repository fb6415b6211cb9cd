//! A Nomad without its network: the table of service registrations, its index, and the event broker that forgets.
//!
//! It says what a server would; whether anybody hears it is `link`'s. Source: runs of Nomad 1.10 to 2.0.5 and
//! `nomad/stream/event_broker.go` (the buffer of 100 batches of all topics; index 0 replays all of it).

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use haproxy_nomad_sidecar::{
    catalog::{ListedService, Listing, Reading},
    model::{NomadEvent, Registration, ServiceKey},
};

/// `event_buffer_size`
const BUFFER: usize = 100;
/// No snapshot is older than so many changes.
const SNAPSHOTS: usize = 64;

pub(crate) type Table = BTreeMap<(ServiceKey, Arc<str>), Registration>;

/// What one Raft message published: a line of the stream.
pub(crate) struct Batch {
    pub(crate) index: u64,
    /// The `Type` of its events: the name of the message.
    pub(crate) cause: &'static str,
    /// None if it was about something else, or was not said.
    pub(crate) events: Vec<NomadEvent>,
}

pub(crate) const UPSERT: &str = "ServiceRegistration";
pub(crate) const DELETION: &str = "ServiceDeregistration";

/// Cheap to clone: a simulation forks it at each fault.
#[derive(Clone, Default)]
pub(crate) struct Nomad {
    /// Raft's.
    index: u64,
    /// Of the table: its last change.
    table_index: u64,
    table: Arc<Table>,
    /// Former states, by index.
    past: BTreeMap<u64, Arc<Table>>,
    /// What was published, for ever; a restarted server publishes its end again.
    log: Vec<Arc<Batch>>,
    buffer: VecDeque<Arc<Batch>>,
    /// Counts changes of the table, whatever its index says.
    version: u64,
    /// The services that changed since somebody asked: what wakes blocking queries.
    touched: Vec<ServiceKey>,
}

impl Nomad {
    pub(crate) fn new() -> Self {
        let mut nomad = Self {
            index: 10,
            ..Self::default()
        };
        nomad.commit(UPSERT, Vec::new());
        nomad
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    pub(crate) fn table_index(&self) -> u64 {
        self.table_index
    }

    pub(crate) fn take_touched(&mut self) -> Vec<ServiceKey> {
        std::mem::take(&mut self.touched)
    }

    /// Time has passed: Raft's index is at least this.
    pub(crate) fn reach(&mut self, index: u64) {
        self.index = self.index.max(index);
    }

    /// So much of other topics was published that nothing else is in the ring.
    pub(crate) fn overflow(&mut self) {
        self.buffer.clear();
    }

    /// Something else happens in the cluster: the index moves, the buffer forgets.
    pub(crate) fn pass_by(&mut self, batches: usize) {
        for _ in 0..batches {
            self.index += 1;
            self.publish(UPSERT, Vec::new());
        }
    }

    /// Registers or updates; a registration that was not there has a new `CreateIndex`.
    pub(crate) fn register(&mut self, mut registration: Registration) -> Arc<Batch> {
        self.index += 1;
        let key = (registration.service.clone(), registration.id.clone());
        registration.create_index = self
            .table
            .get(&key)
            .map_or(self.index, |before| before.create_index);
        registration.modify_index = self.index;
        self.version += 1;
        self.touched.push(registration.service.clone());
        Arc::make_mut(&mut self.table).insert(key, registration.clone());
        self.commit(UPSERT, vec![NomadEvent::Registered(registration)])
    }

    /// One Raft message, `cause`, deletes them all, as when a node is lost.
    pub(crate) fn deregister(&mut self, cause: &'static str, gone: &[Registration]) -> Arc<Batch> {
        self.index += 1;
        self.remove(gone);
        let events = gone.iter().cloned().map(NomadEvent::Deregistered);
        self.commit(cause, events.collect())
    }

    /// Garbage collection deletes without an event.
    pub(crate) fn collect(&mut self, gone: &Registration) {
        self.index += 1;
        self.remove(std::slice::from_ref(gone));
        self.commit(DELETION, Vec::new());
    }

    fn remove(&mut self, gone: &[Registration]) {
        self.version += 1;
        let table = Arc::make_mut(&mut self.table);
        for one in gone {
            self.touched.push(one.service.clone());
            table.remove(&(one.service.clone(), one.id.clone()));
        }
    }

    /// An operator restores a snapshot of about so many changes ago. The indexes of what was since are used again.
    pub(crate) fn restore(&mut self, changes_ago: usize) {
        let (index, table) = self
            .past
            .iter()
            .rev()
            .nth(changes_ago)
            .or_else(|| self.past.first_key_value())
            .map(|(index, table)| (*index, Arc::clone(table)))
            .unwrap();
        self.past.retain(|at, _| *at <= index);
        self.log.retain(|batch| batch.index <= index);
        self.buffer.clear();
        self.version += 1;
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
    pub(crate) fn buffered(&self) -> Vec<Arc<Batch>> {
        let batches = self.buffer.iter().filter(|batch| !batch.events.is_empty());
        batches.cloned().collect()
    }

    pub(crate) fn list(&self, namespace: &str) -> Listing {
        let mut tags: BTreeMap<ServiceKey, Vec<String>> = BTreeMap::new();
        for ((service, _), registration) in self.table.iter() {
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

    fn commit(&mut self, cause: &'static str, events: Vec<NomadEvent>) -> Arc<Batch> {
        self.table_index = self.index;
        self.past.insert(self.index, Arc::clone(&self.table));
        if self.past.len() > SNAPSHOTS {
            self.past.pop_first();
        }
        self.publish(cause, events)
    }

    fn publish(&mut self, cause: &'static str, events: Vec<NomadEvent>) -> Arc<Batch> {
        let batch = Arc::new(Batch {
            index: self.index,
            cause,
            events,
        });
        self.log.push(Arc::clone(&batch));
        self.buffer.push_back(Arc::clone(&batch));
        if self.buffer.len() > BUFFER {
            self.buffer.pop_front();
        }
        batch
    }
}
