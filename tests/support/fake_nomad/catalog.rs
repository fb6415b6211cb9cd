//! The state behind the fake: registrations, Raft indexes and the ring of event batches, by the rules of
//! `nomad/state/state_store_service_registration.go`, `events.go` and `stream/event_buffer.go`. No sockets here.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use serde::Deserialize as _;

use super::records::{Batch, Deletion, Event, Key, ServiceRegistration, json};

/// How many batches a server keeps (`event_buffer_size`).
const RING: usize = 100;

/// What a blocking query waits for.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    All,
    Namespace(String),
    Service(String, String),
}

/// The catalog of one region.
#[derive(Clone, Debug, Default)]
pub(crate) struct Catalog {
    raft: u64,
    table: u64,
    namespaces: BTreeSet<String>,
    rows: BTreeMap<Key, ServiceRegistration>,
    services: BTreeMap<(String, String), Service>,
    ring: VecDeque<Arc<Batch>>,
    /// Every batch since the last Raft snapshot: what a restarted server publishes again.
    history: Vec<Arc<Batch>>,
}

#[derive(Clone, Debug, Default)]
struct Service {
    ids: BTreeSet<String>,
    /// The index of the last change, deletions included.
    changed: u64,
    /// Made once per change, when first asked for.
    answer: Option<Answer>,
}

/// What of a service goes into answers.
#[derive(Clone, Debug)]
struct Answer {
    /// The union of the tags of all instances, each as JSON.
    tags: BTreeSet<String>,
    /// The body of a read.
    body: Arc<str>,
}

impl Catalog {
    pub(crate) fn new() -> Self {
        Self {
            raft: 10,
            namespaces: BTreeSet::from(["default".into()]),
            ..Self::default()
        }
    }

    /// The value of `X-Nomad-Index`: the index of the whole table, at least 1.
    pub(crate) fn index(&self) -> u64 {
        self.table.max(1)
    }

    pub(crate) fn namespaces(&self) -> &BTreeSet<String> {
        &self.namespaces
    }

    pub(crate) fn rows(&self) -> &BTreeMap<Key, ServiceRegistration> {
        &self.rows
    }

    pub(crate) fn create_namespace(&mut self, name: &str) {
        self.raft += 1;
        self.namespaces.insert(name.into());
    }

    /// Deletes a namespace, which has to be empty.
    pub(crate) fn delete_namespace(&mut self, name: &str) {
        assert!(self.rows.keys().all(|(namespace, _)| namespace != name));
        self.raft += 1;
        self.namespaces.remove(name);
    }

    /// Raft entries that have nothing to do with services: indexes move, the table's does not.
    pub(crate) fn other_entries(&mut self, count: u64) {
        for _ in 0..count {
            self.raft += 1;
            self.publish(Vec::new());
        }
    }

    /// One Raft entry that makes or changes `registrations`. Equal ones change nothing at all.
    pub(crate) fn register(
        &mut self,
        registrations: Vec<ServiceRegistration>,
    ) -> Option<Arc<Batch>> {
        let index = self.raft + 1;
        let mut events = Vec::new();
        for mut registration in registrations {
            let before = self.rows.get(&registration.key());
            if before.is_some_and(|before| before.equal(&registration)) {
                continue;
            }
            registration.create_index = before.map_or(index, |before| before.create_index);
            registration.modify_index = index;
            events.push(Event::new("ServiceRegistration", index, &registration));
            self.put(registration, index);
        }
        (!events.is_empty()).then(|| self.publish_at(index, events))
    }

    /// One Raft entry that deletes `keys`; a key that is not there is passed over.
    pub(crate) fn deregister(&mut self, keys: &[Key], kind: Deletion) -> Option<Arc<Batch>> {
        let index = self.raft + 1;
        let events: Vec<Event> = keys
            .iter()
            .filter_map(|key| self.take(key, index))
            .map(|before| Event::new(&format!("{kind:?}"), index, &before))
            .collect();
        (!events.is_empty()).then(|| self.publish_at(index, events))
    }

    /// What garbage collection does: the table's index moves and no event is published.
    pub(crate) fn delete_silently(&mut self, keys: &[Key]) {
        self.raft += 1;
        for key in keys {
            self.take(key, self.raft);
        }
    }

    /// Takes over one line of a recorded stream, with the indexes it has. A line older than the present is only told.
    pub(crate) fn replay(&mut self, line: &str) -> Arc<Batch> {
        let recorded: serde_json::Value =
            serde_json::from_str(line).expect("a recorded line is JSON");
        let index = recorded["Index"].as_u64().expect("a batch has an index");
        let mut events = Vec::new();
        for event in recorded["Events"].as_array().expect("a batch has events") {
            let registration = ServiceRegistration::deserialize(&event["Payload"]["Service"])
                .expect("of services");
            let kind = event["Type"].as_str().expect("an event has a type");
            events.push(Event::new(kind, index, &registration));
            if index <= self.raft {
                continue;
            }
            if kind == "ServiceRegistration" {
                self.put(registration, index);
            } else {
                self.take(&registration.key(), index);
            }
        }
        if index > self.raft {
            // Also when it deletes what was registered before the recording began.
            self.table = index;
            return self.publish_at(index, events);
        }
        Arc::new(Batch { index, events })
    }

    /// A restarted server: nothing in the ring until [`Self::replay_past`].
    pub(crate) fn forget_ring(&mut self) {
        self.ring.clear();
    }

    /// The server applies its log since its last snapshot and publishes all of it again.
    pub(crate) fn replay_past(&mut self) -> Vec<Arc<Batch>> {
        self.ring = self
            .history
            .iter()
            .rev()
            .take(RING)
            .rev()
            .cloned()
            .collect();
        self.history.clone()
    }

    /// The state of `snapshot` again. Only the Raft log goes on where it was.
    pub(crate) fn restore(&mut self, snapshot: Self) {
        let raft = self.raft + 1;
        *self = snapshot;
        self.raft = raft;
        self.forget_ring();
        self.history.clear();
    }

    /// Where a stream begins that asks for `index` (`StartAtClosest`).
    pub(crate) fn batches_from(&self, index: u64) -> Vec<Arc<Batch>> {
        let newer = self.ring.iter().position(|batch| batch.index >= index);
        let start = newer.unwrap_or(self.ring.len().saturating_sub(1));
        self.ring.iter().skip(start).cloned().collect()
    }

    /// The index at which something in `scope` last changed.
    pub(crate) fn changed(&self, scope: &Scope) -> u64 {
        let within = |key: &(String, String)| match scope {
            Scope::All => true,
            Scope::Namespace(namespace) => key.0 == *namespace,
            Scope::Service(namespace, name) => key.0 == *namespace && key.1 == *name,
        };
        let services = self.services.iter().filter(|(key, _)| within(key));
        services
            .map(|(_, service)| service.changed)
            .max()
            .unwrap_or(0)
    }

    /// The answer to a list, in an order that `shuffle` decides as Go's maps do.
    pub(crate) fn list(
        &mut self,
        readable: impl Fn(&str) -> bool,
        shuffle: &mut Shuffle,
    ) -> String {
        let mut namespaces: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for ((namespace, name), service) in &mut self.services {
            if service.ids.is_empty() || !readable(namespace) {
                continue;
            }
            let answer = service.answer(namespace, &self.rows);
            let mut tags: Vec<&str> = answer.tags.iter().map(String::as_str).collect();
            shuffle.apply(&mut tags);
            namespaces.entry(namespace).or_default().push(format!(
                r#"{{"ServiceName":{},"Tags":[{}]}}"#,
                json(name),
                tags.join(",")
            ));
        }
        let mut parts = Vec::new();
        for (namespace, mut services) in namespaces {
            shuffle.apply(&mut services);
            parts.push(format!(
                r#"{{"Namespace":{},"Services":[{}]}}"#,
                json(namespace),
                services.join(",")
            ));
        }
        shuffle.apply(&mut parts);
        format!("[{}]", parts.join(","))
    }

    /// The answer to a read: in the order of namespace and ID.
    pub(crate) fn read(&mut self, namespace: &str, name: &str) -> Arc<str> {
        let key = (namespace.into(), name.into());
        let Some(service) = self.services.get_mut(&key) else {
            return "[]".into();
        };
        Arc::clone(&service.answer(namespace, &self.rows).body)
    }

    fn put(&mut self, registration: ServiceRegistration, index: u64) {
        let key = registration.key();
        let name = registration.service_name.clone();
        self.namespaces.insert(key.0.clone());
        if self
            .rows
            .get(&key)
            .is_some_and(|before| before.service_name != name)
        {
            self.take(&key, index);
        }
        let service = self.services.entry((key.0.clone(), name)).or_default();
        service.ids.insert(key.1.clone());
        let service = (key.0.clone(), registration.service_name.clone());
        self.rows.insert(key, registration);
        self.service_changed(service, index);
    }

    fn take(&mut self, key: &Key, index: u64) -> Option<ServiceRegistration> {
        let row = self.rows.remove(key)?;
        let service = (key.0.clone(), row.service_name.clone());
        self.services
            .entry(service.clone())
            .or_default()
            .ids
            .remove(&key.1);
        self.service_changed(service, index);
        Some(row)
    }

    fn service_changed(&mut self, key: (String, String), index: u64) {
        self.table = index;
        let service = self.services.entry(key).or_default();
        service.changed = index;
        service.answer = None;
    }

    fn publish_at(&mut self, index: u64, events: Vec<Event>) -> Arc<Batch> {
        self.raft = index;
        self.publish(events)
    }

    fn publish(&mut self, events: Vec<Event>) -> Arc<Batch> {
        let batch = Arc::new(Batch {
            index: self.raft,
            events,
        });
        self.history.push(Arc::clone(&batch));
        self.ring.push_back(Arc::clone(&batch));
        if self.ring.len() > RING {
            self.ring.pop_front();
        }
        batch
    }
}

impl Service {
    fn answer(&mut self, namespace: &str, rows: &BTreeMap<Key, ServiceRegistration>) -> &Answer {
        let ids = &self.ids;
        self.answer.get_or_insert_with(|| {
            let own = || {
                ids.iter()
                    .map(|id| &rows[&(namespace.to_owned(), id.clone())])
            };
            let bodies: Vec<String> = own().map(json).collect();
            Answer {
                tags: own()
                    .flat_map(|row| row.tags.iter().flatten().map(json))
                    .collect(),
                body: format!("[{}]", bodies.join(",")).into(),
            }
        })
    }
}

/// Orders things at random, the same way for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Shuffle(pub(crate) u64);

impl Shuffle {
    /// The next number below `bound` (xorshift64).
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound.max(1)
    }

    fn apply<T>(&mut self, items: &mut [T]) {
        for end in (1..items.len()).rev() {
            let other = usize::try_from(self.below(end as u64 + 1)).expect("an index of a slice");
            items.swap(end, other);
        }
    }
}
