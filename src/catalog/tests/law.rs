//! The law: whatever is cut, delayed, replayed or refused, the mirror removes nothing that exists unless it was told,
//! and once the faults stop it is the catalog.

use std::collections::{BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// The lines that a server keeps for new streams.
const BUFFER: usize = 3;
/// For so long a server holds a query.
const WAIT: Duration = Duration::from_mins(1);
/// A read can miss a write that is as young as this.
const LAG: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
enum Step {
    Register {
        service: usize,
        id: usize,
        tagged: bool,
    },
    /// With an event, or as garbage collection does it.
    Deregister {
        service: usize,
        id: usize,
        event: bool,
    },
    OtherNamespace,
    /// The server answers a question, but the answer is still on its way.
    Serve {
        which: usize,
        lagging: bool,
    },
    Deliver {
        which: usize,
    },
    Lines {
        count: usize,
    },
    OpenStream,
    RefuseStream,
    CutStream,
    /// The next stream replays everything that ever was.
    RestartServer,
    /// The catalog becomes an older one.
    Restore,
    /// Another catalog, with indexes from 1.
    Rebuild,
    Fail {
        which: usize,
        kind: FailureKind,
    },
    Wait {
        millis: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kinds = prop_oneof![
        Just(FailureKind::Denied),
        Just(FailureKind::ServerError),
        Just(FailureKind::Unreachable),
        Just(FailureKind::NotBelievable),
    ];
    let (service, id, which) = (0..3_usize, 0..3_usize, 0..8_usize);
    let step = prop_oneof![
        6 => (service.clone(), id.clone(), prop::bool::weighted(0.8))
            .prop_map(|(service, id, tagged)| Step::Register { service, id, tagged }),
        5 => (service, id, prop::bool::weighted(0.8))
            .prop_map(|(service, id, event)| Step::Deregister { service, id, event }),
        1 => Just(Step::OtherNamespace),
        8 => (which.clone(), any::<bool>())
            .prop_map(|(which, lagging)| Step::Serve { which, lagging }),
        8 => which.clone().prop_map(|which| Step::Deliver { which }),
        6 => (1..4_usize).prop_map(|count| Step::Lines { count }),
        3 => Just(Step::OpenStream),
        1 => Just(Step::RefuseStream),
        2 => Just(Step::CutStream),
        1 => Just(Step::RestartServer),
        1 => Just(Step::Restore),
        1 => Just(Step::Rebuild),
        2 => (which, kinds).prop_map(|(which, kind)| Step::Fail { which, kind }),
        6 => (1..70_000_u64).prop_map(|millis| Step::Wait { millis }),
    ];
    prop::collection::vec(step, 0..120)
}

type Table = BTreeMap<ServiceKey, BTreeMap<Arc<str>, Registration>>;

/// Nomad as the mirror can see it.
struct World {
    rig: Rig,
    table: Table,
    /// The index of the table, and of the log.
    index: u64,
    raft: u64,
    /// The table before the last write, and when that was.
    before: (Table, u64),
    wrote_at: Duration,
    saved: (Table, u64),
    history: Vec<Line>,
    fresh_server: bool,
    /// The lines that the open stream will deliver; none if it is dead.
    sending: Option<VecDeque<Line>>,
    open: bool,
    served: Vec<Heard>,
    /// The ports of registrations that a restore brought back: that they were gone may still be told.
    revived: BTreeSet<i64>,
    /// Gives each registration a port of its own.
    writes: i64,
}

impl World {
    fn new() -> Self {
        Self {
            rig: Rig::new(),
            table: Table::new(),
            index: 1,
            raft: 1,
            before: (Table::new(), 1),
            wrote_at: Duration::ZERO,
            saved: (Table::new(), 1),
            history: Vec::new(),
            fresh_server: false,
            sending: None,
            open: false,
            served: Vec::new(),
            revived: BTreeSet::new(),
            writes: 0,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Register {
                service,
                id,
                tagged,
            } => self.register(service, id, tagged),
            Step::Deregister { service, id, event } => self.deregister(service, id, event),
            Step::OtherNamespace => self.write(None),
            Step::Serve { which, lagging } => self.serve(which, lagging),
            Step::Deliver { which } => {
                if !self.served.is_empty() {
                    let heard = self.served.remove(which % self.served.len());
                    self.hear(heard);
                }
            }
            Step::Lines { count } => self.lines(count),
            Step::OpenStream => self.open_stream(),
            Step::RefuseStream if !self.open => self.end_stream(StreamEnd::Refused(String::new())),
            Step::RefuseStream | Step::CutStream => {
                self.end_stream(StreamEnd::Lost(String::new()));
            }
            Step::RestartServer => {
                self.fresh_server = true;
                self.end_stream(StreamEnd::Lost(String::new()));
            }
            Step::Restore => self.restore(),
            Step::Rebuild => self.rebuild(),
            Step::Fail { which, kind } => self.fail(which, kind),
            Step::Wait { millis } => self.wait(Duration::from_millis(millis)),
        }
    }

    fn register(&mut self, service: usize, id: usize, tagged: bool) {
        let tags: &[&str] = if tagged { &[ENABLE] } else { &["v1"] };
        let index = self.raft + 1;
        let name = ["web", "api", "db"][service];
        let mut new = registration(name, &format!("{name}{id}"), index, tags);
        self.writes += 1;
        new.port = self.writes;
        self.write(Some(NomadEvent::Registered(new)));
    }

    fn deregister(&mut self, service: usize, id: usize, event: bool) {
        let name = ["web", "api", "db"][service];
        let key = ServiceKey::new("default", name);
        let id = format!("{name}{id}");
        let Some(old) = self.table.get(&key).and_then(|all| all.get(&*id)).cloned() else {
            return;
        };
        if event {
            self.write(Some(NomadEvent::Deregistered(old)));
        } else {
            self.write(None);
            self.table.get_mut(&key).unwrap().remove(&*id);
        }
    }

    fn write(&mut self, event: Option<NomadEvent>) {
        self.before = (self.table.clone(), self.index);
        self.wrote_at = self.rig.now;
        self.raft += 1;
        self.index = self.raft;
        let Some(event) = event else {
            return;
        };
        match &event {
            NomadEvent::Registered(new) => {
                let all = self.table.entry(new.service.clone()).or_default();
                all.insert(Arc::clone(&new.id), new.clone());
            }
            NomadEvent::Deregistered(old) => {
                self.table.get_mut(&old.service).unwrap().remove(&old.id);
            }
        }
        let line = Line {
            index: self.index,
            events: vec![event],
        };
        if let Some(sending) = &mut self.sending {
            sending.push_back(line.clone());
        }
        self.history.push(line);
        if self.writes % 5 == 0 {
            self.saved = (self.table.clone(), self.index);
        }
    }

    fn restore(&mut self) {
        let before = std::mem::replace(&mut self.table, self.saved.0.clone());
        self.index = self.saved.1;
        self.before = self.saved.clone();
        for new in self.table.values().flat_map(BTreeMap::values) {
            let old = before.get(&new.service).and_then(|all| all.get(&new.id));
            if old != Some(new) {
                self.revived.insert(new.port);
            }
        }
        self.history.clear();
        self.sending = None;
    }

    /// The connections of the old servers break, and what they had answered is lost.
    fn rebuild(&mut self) {
        (self.table, self.index, self.raft) = (Table::new(), 1, 1);
        self.before = (Table::new(), 1);
        self.saved = (Table::new(), 1);
        self.history.clear();
        for heard in std::mem::take(&mut self.served) {
            self.hear(match heard {
                Heard::Listed { ticket, .. } => Heard::Listed {
                    ticket,
                    result: failure(FailureKind::Unreachable),
                },
                Heard::Read { ticket, .. } => Heard::Read {
                    ticket,
                    result: failure(FailureKind::Unreachable),
                },
                heard => heard,
            });
        }
        self.end_stream(StreamEnd::Lost(String::new()));
    }

    fn serve(&mut self, which: usize, lagging: bool) {
        let young = self.rig.now < self.wrote_at.saturating_add(LAG);
        let (table, index) = if lagging && young {
            self.before.clone()
        } else {
            (self.table.clone(), self.index)
        };
        let (lists, reads) = self.answerable(index);
        if lists.is_empty() && reads.is_empty() {
            return;
        }
        let heard = if which % (lists.len() + reads.len()) < lists.len() {
            let ticket = self.rig.lists.remove(&lists[0]).unwrap();
            let union = |all: &BTreeMap<Arc<str>, Registration>| {
                all.values().flat_map(|one| one.tags.clone()).collect()
            };
            let services = table
                .iter()
                .filter(|(_, all)| !all.is_empty())
                .map(|(key, all)| ListedService {
                    key: key.clone(),
                    tags: union(all),
                })
                .collect();
            Heard::Listed {
                ticket,
                result: Ok(Listing { index, services }),
            }
        } else {
            let key = reads[0].clone();
            let ticket = self.rig.reads.remove(&key).unwrap();
            let registrations = table
                .get(&key)
                .into_iter()
                .flat_map(BTreeMap::values)
                .cloned()
                .collect();
            Heard::Read {
                ticket,
                result: Ok(Reading {
                    index,
                    registrations,
                }),
            }
        };
        self.served.push(heard);
    }

    /// What a server answers now: everything but the queries that it holds, since the table did not move.
    fn answerable(&self, index: u64) -> (Vec<Arc<str>>, Vec<ServiceKey>) {
        let is_due = |ticket: &Ticket| {
            let waited = self.rig.now.saturating_sub(self.rig.asked_at[ticket]);
            let after = self.rig.held.get(ticket);
            waited >= WAIT || after.is_none_or(|after| *after < index)
        };
        let lists = self.rig.lists.iter().filter(|(_, ticket)| is_due(ticket));
        let reads = self.rig.reads.iter().filter(|(_, ticket)| is_due(ticket));
        (
            lists.map(|(namespace, _)| Arc::clone(namespace)).collect(),
            reads.map(|(key, _)| key.clone()).collect(),
        )
    }

    fn is_asked(&self) -> bool {
        let (lists, reads) = self.answerable(self.index);
        !lists.is_empty() || !reads.is_empty()
    }

    fn fail(&mut self, which: usize, kind: FailureKind) {
        if which.is_multiple_of(2)
            && let Some((_, ticket)) = self.rig.lists.pop_first()
        {
            let result = failure(kind);
            self.hear(Heard::Listed { ticket, result });
        } else if let Some((_, ticket)) = self.rig.reads.pop_first() {
            let result = failure(kind);
            self.hear(Heard::Read { ticket, result });
        }
    }

    fn open_stream(&mut self) {
        if !self.open && self.rig.streams.contains_key("default") {
            let replayed = if self.fresh_server {
                self.history.len()
            } else {
                BUFFER
            };
            let start = self.history.len().saturating_sub(replayed);
            self.sending = Some(self.history[start..].iter().cloned().collect());
            self.fresh_server = false;
            self.open = true;
            let ticket = self.rig.stream();
            self.hear(Heard::StreamOpened { ticket });
        }
    }

    fn end_stream(&mut self, end: StreamEnd) {
        if let Some(ticket) = self.rig.streams.remove("default") {
            let opened = std::mem::take(&mut self.open);
            self.sending = None;
            let end = if opened {
                StreamEnd::Lost(String::new())
            } else {
                end
            };
            self.hear(Heard::StreamEnded { ticket, end });
        }
    }

    fn lines(&mut self, count: usize) {
        for _ in 0..count {
            if self.open
                && let Some(line) = self.sending.as_mut().and_then(VecDeque::pop_front)
            {
                let ticket = self.rig.stream();
                self.hear(Heard::StreamLine { ticket, line });
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        self.checked(|rig| rig.wait(time));
    }

    fn hear(&mut self, heard: Heard) {
        self.checked(|rig| rig.hear(heard));
    }

    /// Whatever leaves the mirror must not be in the catalog as it was known.
    fn checked(&mut self, act: impl FnOnce(&mut Rig)) {
        let stream = self.rig.streams.get("default").copied();
        let known = self.rig.known.clone();
        act(&mut self.rig);
        if self.rig.streams.get("default").copied() != stream {
            // Closed by the mirror, and perhaps asked for again.
            (self.open, self.sending) = (false, None);
        }
        for old in known.into_values().flatten() {
            let still = self.rig.known.get(&old.service).into_iter().flatten();
            let exists = self
                .table
                .get(&old.service)
                .and_then(|all| all.get(&old.id));
            assert!(
                still.into_iter().any(|one| one.id == old.id)
                    || exists != Some(&old)
                    || !old.tags.contains(&ENABLE.to_owned())
                    || self.revived.contains(&old.port),
                "removed what exists: {old:?} at {:?}",
                self.rig.now,
            );
        }
    }

    /// No more faults, and ten minutes, in which even a deletion without an event is found.
    fn heal(&mut self, with_stream: bool) {
        if self.open && self.sending.is_none() {
            self.end_stream(StreamEnd::Lost(String::new()));
        }
        self.wait(LAG);
        let end = self.rig.now + Duration::from_mins(10);
        while self.rig.now < end {
            while self.is_asked()
                || !self.served.is_empty()
                || !self.open && self.rig.streams.contains_key("default")
                || self
                    .sending
                    .as_ref()
                    .is_some_and(|sending| !sending.is_empty())
            {
                self.serve(0, false);
                self.take(&Step::Deliver { which: 0 });
                self.lines(usize::from(u8::MAX));
                if with_stream {
                    self.open_stream();
                } else if !self.open {
                    self.end_stream(StreamEnd::Refused(String::new()));
                }
            }
            let due = self.rig.mirror.next_deadline().unwrap_or(end);
            let due = due.min(self.rig.now + WAIT);
            self.wait(
                due.saturating_sub(self.rig.now)
                    .max(Duration::from_millis(1)),
            );
        }
    }
}

fn wanted(registrations: impl Iterator<Item = Registration>) -> Vec<Registration> {
    let mut wanted: Vec<Registration> = registrations
        .filter(|one| one.tags.contains(&ENABLE.to_owned()))
        .collect();
    wanted.sort_by(|a, b| a.id.cmp(&b.id));
    wanted
}

proptest! {
    #[test]
    fn the_mirror_converges_and_removes_nothing_that_exists(
        steps in steps(),
        with_stream in any::<bool>(),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.heal(with_stream);
        let known = wanted(world.rig.known.values().flatten().cloned());
        let exists = wanted(world.table.values().flat_map(BTreeMap::values).cloned());
        prop_assert_eq!(known, exists);
    }
}
