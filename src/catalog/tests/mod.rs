//! The mirror's tables and its law. [`Rig`] answers by hand what the mirror asks.

#![expect(
    clippy::wildcard_enum_match_arm,
    clippy::unnecessary_wraps,
    reason = "a test looks at the one variant that it expects, and answers are built as they are heard"
)]

mod blocking;
mod law;
mod reading;
mod room;
mod streaming;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::*;
use crate::model::{NomadEvent, Registration, ServiceKey};

const ENABLE: &str = "haproxy.enable=true";

/// A registration of `web` in `default` that is wanted.
fn web(id: &str, index: u64) -> Registration {
    registration("web", id, index, &[ENABLE])
}

fn registration(service: &str, id: &str, index: u64, tags: &[&str]) -> Registration {
    Registration {
        id: id.into(),
        service: ServiceKey::new("default", service),
        alloc_id: id.into(),
        job_id: "job".into(),
        tags: tags.iter().map(ToString::to_string).collect(),
        address: "192.0.2.1".to_owned(),
        port: 80,
        create_index: index,
        modify_index: index,
    }
}

fn listing(index: u64, services: &[&str]) -> Result<Listing, Failure> {
    let services = services.iter().map(|name| ListedService {
        key: ServiceKey::new("default", name),
        tags: vec![ENABLE.to_owned()],
    });
    Ok(Listing {
        index,
        services: services.collect(),
    })
}

fn reading(index: u64, registrations: &[Registration]) -> Result<Reading, Failure> {
    Ok(Reading {
        index,
        registrations: registrations.to_vec(),
    })
}

fn failure<T>(kind: FailureKind) -> Result<T, Failure> {
    Err(Failure {
        kind,
        text: kind.to_string(),
    })
}

fn registered(index: u64, registration: Registration) -> Line {
    Line {
        index,
        events: vec![NomadEvent::Registered(registration)],
    }
}

fn deregistered(index: u64, registration: Registration) -> Line {
    Line {
        index,
        events: vec![NomadEvent::Deregistered(registration)],
    }
}

/// A mirror, what it asked and has not been answered, and what its listener knows.
struct Rig {
    mirror: Mirror,
    now: Duration,
    streams: BTreeMap<Arc<str>, Ticket>,
    lists: BTreeMap<Arc<str>, Ticket>,
    /// Those of them that are blocking queries, and those that are to be answered at once.
    held: BTreeMap<Ticket, u64>,
    asked_at: BTreeMap<Ticket, Duration>,
    reads: BTreeMap<ServiceKey, Ticket>,
    /// Everything told and not yet looked at, but [`Tell::Current`] and [`Tell::Rereads`].
    tells: Vec<Tell>,
    known: BTreeMap<ServiceKey, Vec<Registration>>,
}

impl Rig {
    fn new() -> Self {
        Self::following(&["default"], &Wanted::new("haproxy", false))
    }

    fn following(namespaces: &[&str], wanted: &Wanted) -> Self {
        let namespaces: Vec<String> = namespaces.iter().map(ToString::to_string).collect();
        let mut rig = Self {
            mirror: Mirror::new(&namespaces, wanted, 2, 7, Duration::ZERO),
            now: Duration::ZERO,
            streams: BTreeMap::new(),
            lists: BTreeMap::new(),
            held: BTreeMap::new(),
            asked_at: BTreeMap::new(),
            reads: BTreeMap::new(),
            tells: Vec::new(),
            known: BTreeMap::new(),
        };
        rig.drain();
        rig
    }

    /// A rig with an open stream that knows this registration, told at index 100.
    fn synced_with(registrations: &[Registration]) -> Self {
        let mut rig = Self::new();
        rig.open_stream();
        rig.list(listing(100, &["web"]));
        rig.read("web", reading(100, registrations));
        rig.told();
        rig
    }

    fn drain(&mut self) {
        while let Some(ask) = self.mirror.poll_ask() {
            match ask {
                Ask::OpenStream { ticket, namespace } => {
                    assert_eq!(
                        self.streams.insert(namespace, ticket),
                        None,
                        "a second stream"
                    );
                }
                Ask::Cancel { ticket } => {
                    self.streams.retain(|_, open| *open != ticket);
                    self.lists.retain(|_, asked| *asked != ticket);
                    self.reads.retain(|_, asked| *asked != ticket);
                }
                Ask::List {
                    ticket,
                    namespace,
                    after,
                } => {
                    assert_eq!(self.lists.insert(namespace, ticket), None, "a second list");
                    self.asked_at.insert(ticket, self.now);
                    self.held.extend(after.map(|after| (ticket, after)));
                }
                Ask::Read { ticket, key, after } => {
                    self.reads.insert(key, ticket);
                    self.asked_at.insert(ticket, self.now);
                    self.held.extend(after.map(|after| (ticket, after)));
                }
            }
        }
        while let Some(tell) = self.mirror.poll_tell() {
            match &tell {
                Tell::Synced(synced) => self.known = synced.services.clone(),
                Tell::Changed {
                    key, registrations, ..
                } if registrations.is_empty() => {
                    self.known.remove(key);
                }
                Tell::Changed {
                    key, registrations, ..
                } => {
                    self.known.insert(key.clone(), registrations.clone());
                }
                Tell::Current { .. } | Tell::Rereads { .. } => continue,
                Tell::Following { .. }
                | Tell::StreamLost { .. }
                | Tell::IndexWentBack { .. }
                | Tell::Trouble { .. }
                | Tell::Recovered { .. } => {}
            }
            self.tells.push(tell);
        }
    }

    fn hear(&mut self, heard: Heard) {
        self.mirror.handle(self.now, heard);
        self.drain();
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.mirror.tick(self.now);
        self.drain();
    }

    /// Waits until the one service is looked at in its turn, after a list.
    fn audit(&mut self, index: u64) {
        self.wait(Duration::from_mins(1));
        self.list(listing(index, &["web"]));
        assert!(self.reads.is_empty());
        self.wait(Duration::from_secs(510));
    }

    /// Waits until something is due that was not when this was called.
    fn wait_for_deadline(&mut self) {
        let due = self.mirror.next_deadline().expect("something is due");
        self.wait(due.saturating_sub(self.now));
    }

    fn stream(&self) -> Ticket {
        self.streams["default"]
    }

    fn open_stream(&mut self) {
        let ticket = self.stream();
        self.hear(Heard::StreamOpened { ticket });
    }

    fn line(&mut self, line: Line) {
        let ticket = self.stream();
        self.hear(Heard::StreamLine { ticket, line });
    }

    fn end_stream(&mut self, end: StreamEnd) {
        let ticket = self
            .streams
            .remove("default")
            .expect("a stream was asked for");
        self.hear(Heard::StreamEnded { ticket, end });
    }

    fn lists(&self) -> bool {
        self.lists.contains_key("default")
    }

    fn list(&mut self, result: Result<Listing, Failure>) {
        let ticket = self.lists.remove("default").expect("a list was asked for");
        self.hear(Heard::Listed { ticket, result });
    }

    /// The names that are being read.
    fn reads(&self) -> Vec<&str> {
        self.reads.keys().map(|key| &*key.name).collect()
    }

    fn read(&mut self, name: &str, result: Result<Reading, Failure>) {
        let key = ServiceKey::new("default", name);
        let ticket = self.reads.remove(&key).expect("a read was asked for");
        self.hear(Heard::Read { ticket, result });
    }

    /// The IDs that are known of `web`.
    fn web(&self) -> Vec<&str> {
        let key = ServiceKey::new("default", "web");
        self.known
            .get(&key)
            .into_iter()
            .flatten()
            .map(|one| &*one.id)
            .collect()
    }

    /// What was told since the last time.
    fn told(&mut self) -> Vec<Tell> {
        std::mem::take(&mut self.tells)
    }
}
