//! What was changed in HAProxy, why, and what became of it, and whom HAProxy's checks found DOWN or UP: the last thousand of
//! each, for the picture, and with `--audit-log` each one as a line of a file.

mod file;
mod verdicts;

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::mpsc;

pub(super) use file::{Lines, write};

use crate::{
    admin::Pictures,
    haproxy::command::print,
    model::{self, BackendName, Batch, BatchId, MapChange, Request, Response, ServerName},
    picture::{Change, Outcome},
    reconcile::{Turn, plan::Step},
};
use verdicts::{Verdicts, words};

/// So many are remembered.
const REMEMBERED: usize = 1_000;
/// So many lines wait for the file; more are lost, and counted.
const QUEUE: usize = 10_000;

/// The changes. They outlive the core.
#[derive(Clone, Debug, Default)]
pub(super) struct Audit(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    changes: VecDeque<Change>,
    verdicts: Verdicts,
    next: u64,
    /// Those that are told already, and whose batch comes next.
    told: Vec<Change>,
    under_way: BTreeMap<BatchId, Vec<Change>>,
    /// Verdicts that HAProxy is asked about, by backend.
    wordless: BTreeMap<BackendName, Vec<Change>>,
    index: Option<u64>,
    file: Option<(mpsc::Sender<Change>, Arc<AtomicU64>)>,
    listeners: Option<Arc<Pictures>>,
}

impl Audit {
    /// Changes, of which those who listen there are told when HAProxy has answered.
    pub(super) fn told_to(pictures: &Arc<Pictures>) -> Self {
        let audit = Self::default();
        audit.with(|ring| ring.listeners = Some(Arc::clone(pictures)));
        audit
    }

    fn with<T>(&self, work: impl FnOnce(&mut Ring) -> T) -> T {
        // Whoever panicked here left a list of texts.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on changes go to this file, too.
    pub(super) fn open(&self) -> Lines {
        let (file, changes) = mpsc::channel(QUEUE);
        let lost = Arc::default();
        self.with(|ring| ring.file = Some((file, Arc::clone(&lost))));
        Lines { changes, lost }
    }

    /// No longer.
    pub(super) fn close(&self) {
        self.with(|ring| ring.file = None);
    }

    /// The catalog is known up to this index.
    pub(super) fn heard(&self, index: u64) {
        self.with(|ring| ring.index = Some(index));
    }

    /// A new core begins: what the former one had under way is nobody's.
    pub(super) fn begin(&self) {
        self.with(|ring| {
            let under_way = mem::take(&mut ring.under_way).into_values().flatten();
            for lost in mem::take(&mut ring.told).into_iter().chain(under_way) {
                ring.end(lost, Outcome::Unknown, None);
            }
            for verdict in mem::take(&mut ring.wordless).into_values().flatten() {
                let outcome = verdict.outcome;
                ring.end(verdict, outcome, None);
            }
        });
    }

    /// This is being sent, with the next batch.
    pub(super) fn sent(&self, step: &Step, at: SystemTime) {
        let server = step.command.server();
        self.tell(Change {
            at: humantime::format_rfc3339_millis(at).to_string().into(),
            why: step.why.to_string().into(),
            backend: step.command.backend().as_str().into(),
            // None when it is about the backend itself.
            server: server.map_or("", |server| server.server.as_str()).into(),
            command: (print(&Request::Change(step.command.clone())).trim_end()).into(),
            ..Change::default()
        });
    }

    /// The same of a change of a map.
    pub(super) fn sent_to_map(&self, change: &MapChange, at: SystemTime) {
        let (why, backend) = match change {
            MapChange::Add(_, _, value) => ("a route that tags ask for", value.as_str()),
            MapChange::Set(_, _, value) => {
                ("a route that leads elsewhere by its tags", value.as_str())
            }
            MapChange::Delete(..) => ("a route that no tag asks for", ""),
            MapChange::AddTo(_, _, _, value) => ("routes in their order", value.as_str()),
            MapChange::Prepare(_) | MapChange::Commit(..) => ("routes in their order", ""),
        };
        self.tell(Change {
            at: humantime::format_rfc3339_millis(at).to_string().into(),
            why: why.into(),
            backend: backend.into(),
            command: (print(&Request::ChangeMap(change.clone())).trim_end()).into(),
            ..Change::default()
        });
    }

    fn tell(&self, change: Change) {
        self.with(|ring| {
            ring.next += 1;
            let change = Change {
                number: ring.next,
                index: ring.index,
                ..change
            };
            ring.told.push(change.clone());
            ring.changes.push_back(change);
            if ring.changes.len() > REMEMBERED {
                ring.changes.pop_front();
            }
        });
    }

    /// HAProxy's verdict on a server of this backend is another one, since `at`. Its words follow by [`Self::worded`].
    pub(super) fn turned(&self, backend: &BackendName, turn: &Turn, at: SystemTime) {
        self.with(|ring| {
            ring.next += 1;
            let verdict = Change {
                number: ring.next,
                at: humantime::format_rfc3339_millis(at).to_string().into(),
                why: turn.to.to_string().into(),
                backend: backend.as_str().into(),
                server: turn.server.as_str().into(),
                outcome: if turn.to.is_up() {
                    Outcome::Up
                } else {
                    Outcome::Down
                },
                ..Change::default()
            };
            ring.verdicts.push(verdict.clone());
            let of_it = ring.wordless.entry(backend.clone()).or_default();
            of_it.push(verdict);
        });
    }

    /// What HAProxy says of the checks of this backend, or that it says nothing.
    pub(super) fn worded(
        &self,
        backend: &BackendName,
        verdicts: Option<&BTreeMap<ServerName, model::Verdict>>,
    ) {
        self.with(|ring| {
            for verdict in ring.wordless.remove(backend).into_iter().flatten() {
                let outcome = verdict.outcome;
                let words = words(outcome == Outcome::Up, &verdict.server, verdicts);
                ring.end(verdict, outcome, words.as_ref());
            }
        });
    }

    /// The batch that has what was told.
    pub(super) fn batch(&self, batch: &Batch) {
        self.with(|ring| {
            if !ring.told.is_empty() && batch.requests.iter().any(is_change) {
                let told = mem::take(&mut ring.told);
                ring.under_way.insert(batch.id, told);
            }
        });
    }

    /// What HAProxy said to it; nothing to those that it did not get to.
    pub(super) fn answered(&self, id: BatchId, requests: &[Request], responses: &[Response]) {
        self.with(|ring| {
            let Some(sent) = ring.under_way.remove(&id) else {
                return;
            };
            let changes = requests
                .iter()
                .enumerate()
                .filter(|(_, one)| is_change(one));
            for (change, (place, _)) in sent.into_iter().zip(changes) {
                let (outcome, reply) = match responses.get(place) {
                    Some(Response::Changed(outcome)) => match outcome {
                        model::Outcome::Done => (Outcome::Done, None),
                        model::Outcome::Notice(text) => (Outcome::Done, Some(text)),
                        model::Outcome::RetryLater(text) => (Outcome::Later, Some(text)),
                        model::Outcome::Refused(text) => (Outcome::Refused, Some(text)),
                    },
                    Some(Response::MapVersion(_)) => (Outcome::Done, None),
                    Some(_) | None => (Outcome::Unknown, None),
                };
                ring.end(change, outcome, reply);
            }
        });
    }

    /// The last ones, the oldest first.
    pub(super) fn changes(&self) -> Vec<Change> {
        self.with(|ring| ring.changes.iter().cloned().collect())
    }

    /// The last turns of HAProxy's verdicts, the oldest first.
    pub(super) fn verdicts(&self) -> Vec<Change> {
        self.with(|ring| ring.verdicts.kept().iter().cloned().collect())
    }
}

fn is_change(request: &Request) -> bool {
    matches!(request, Request::Change(_) | Request::ChangeMap(_))
}

impl Ring {
    fn end(&mut self, mut change: Change, outcome: Outcome, reply: Option<&String>) {
        change.outcome = outcome;
        change.reply = reply.map(|text| text.as_str().into());
        let kept = match outcome {
            Outcome::Up | Outcome::Down => self.verdicts.kept(),
            Outcome::Sent
            | Outcome::Done
            | Outcome::Later
            | Outcome::Refused
            | Outcome::Unknown => &mut self.changes,
        };
        // Of many at once the first ones are no longer there.
        if let Ok(place) = kept.binary_search_by_key(&change.number, |one| one.number) {
            kept[place] = change.clone();
        }
        if let Some(pictures) = &self.listeners {
            pictures.feed.changed(change.clone());
        }
        if let Some((file, lost)) = &self.file
            && file.try_send(change).is_err()
        {
            // It is full, which is the writer's to tell.
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        model::{Command, MapName, MapWord, ServerRef},
        reconcile::{Turned, plan::Why},
    };

    fn step(number: usize) -> Step {
        let server = ServerRef {
            backend: BackendName::new("web").unwrap(),
            server: ServerName::new(&format!("nomad{number}")).unwrap(),
        };
        Step {
            command: Command::Ready(server),
            why: Why::Registered,
        }
    }

    fn batch(id: u64, steps: &[Step]) -> Batch {
        let changes = steps
            .iter()
            .map(|step| Request::Change(step.command.clone()));
        Batch {
            id: BatchId(id),
            requests: changes.chain([Request::Info]).collect(),
            lock_step: false,
        }
    }

    #[test]
    fn each_change_has_its_cause_its_words_and_what_became_of_it() {
        let audit = Audit::default();
        let mut lines = audit.open().changes;
        audit.heard(17);
        let steps: Vec<_> = (1..=3).map(step).collect();
        for step in &steps {
            audit.sent(step, SystemTime::UNIX_EPOCH);
        }
        let batch = batch(0, &steps);
        audit.batch(&batch);
        assert_eq!(audit.changes()[0].outcome, Outcome::Sent);
        assert!(lines.try_recv().is_err());
        let refused = model::Outcome::Refused("No.".to_owned());
        let responses = [model::Outcome::Done, refused].map(Response::Changed);
        audit.answered(batch.id, &batch.requests, &responses);

        let changes = audit.changes();
        let outcomes: Vec<_> = changes.iter().map(|one| one.outcome).collect();
        assert_eq!(
            outcomes,
            [Outcome::Done, Outcome::Refused, Outcome::Unknown]
        );
        assert_eq!(
            serde_json::to_string(&changes[1]).unwrap(),
            "{\"number\":2,\"at\":\"1970-01-01T00:00:00.000Z\",\"why\":\"registered in Nomad, not in HAProxy\",\"index\":17,\
             \"backend\":\"web\",\"server\":\"nomad2\",\"command\":\"set server web/nomad2 state ready\",\
             \"outcome\":\"refused\",\"reply\":\"No.\"}"
        );
        for change in changes {
            assert_eq!(lines.try_recv(), Ok(change));
        }
    }

    #[test]
    fn a_change_of_a_map_is_one_too() {
        let audit = Audit::default();
        let map = MapName::new("virt@hosts").unwrap();
        let [key, value] = ["a.example", "web"].map(|word| MapWord::new(word).unwrap());
        let changes = [
            MapChange::Prepare(map.clone()),
            MapChange::Add(map, key, value),
        ];
        for change in &changes {
            audit.sent_to_map(change, SystemTime::UNIX_EPOCH);
        }
        let batch = Batch {
            id: BatchId(0),
            requests: changes.into_iter().map(Request::ChangeMap).collect(),
            lock_step: false,
        };
        audit.batch(&batch);
        let responses = [
            Response::MapVersion(3),
            Response::Changed(model::Outcome::Done),
        ];
        audit.answered(batch.id, &batch.requests, &responses);
        let told = audit.changes();
        assert!(told.iter().all(|change| change.outcome == Outcome::Done));
        let words = (&*told[1].backend, &*told[1].why, &*told[1].command);
        let command = "add map virt@hosts a.example web";
        assert_eq!(words, ("web", "a route that tags ask for", command));
    }

    #[test]
    fn the_last_thousand_are_remembered_and_a_lost_core_is_no_riddle() {
        let audit = Audit::default();
        let mut lines = audit.open().changes;
        let steps: Vec<_> = (0..1_500).map(step).collect();
        for step in &steps {
            audit.sent(step, SystemTime::UNIX_EPOCH);
        }
        let batch = batch(7, &steps);
        audit.batch(&batch);
        let changes = audit.changes();
        assert_eq!((changes.len(), changes[0].number), (1_000, 501));
        audit.begin();
        assert!(
            audit
                .changes()
                .iter()
                .all(|one| one.outcome == Outcome::Unknown)
        );
        audit.answered(batch.id, &batch.requests, &[]);
        // The file has all of them, once.
        let numbers = std::iter::from_fn(|| lines.try_recv().ok()).map(|change| change.number);
        assert!(numbers.eq(1..=1_500));
    }

    #[test]
    fn a_turn_of_a_verdict_is_told_with_haproxys_words() {
        let audit = Audit::default();
        let mut lines = audit.open().changes;
        audit.heard(17);
        let [web, api] = ["web", "api"].map(|name| BackendName::new(name).unwrap());
        let server = |number: usize| ServerName::new(&format!("nomad{number}")).unwrap();
        for (number, to) in [(1, Turned::Down), (2, Turned::Up)] {
            let turn = Turn {
                server: server(number),
                to,
                ago: Duration::ZERO,
            };
            for backend in [&web, &api] {
                audit.turned(backend, &turn, SystemTime::UNIX_EPOCH);
            }
        }
        audit.sent(&step(3), SystemTime::UNIX_EPOCH);
        assert_eq!(audit.verdicts().len(), 4);
        assert!(lines.try_recv().is_err());
        let verdict = model::Verdict {
            state: "DOWN".to_owned(),
            check_status: "L4CON".to_owned(),
            text: "Connection refused".to_owned(),
            ..model::Verdict::default()
        };
        let verdicts = BTreeMap::from([(server(1), verdict.clone()), (server(2), verdict)]);
        audit.worded(&web, Some(&verdicts));
        let down = lines.try_recv().unwrap();
        assert_eq!(
            serde_json::to_string(&down).unwrap(),
            "{\"number\":1,\"at\":\"1970-01-01T00:00:00.000Z\",\"why\":\"HAProxy's check: DOWN\",\"backend\":\"web\",\
             \"server\":\"nomad1\",\"command\":\"\",\"outcome\":\"down\",\"reply\":\"L4CON: Connection refused\"}"
        );
        assert_eq!(audit.verdicts()[0], down);
        // What is said by now is of another verdict.
        let up = lines.try_recv().unwrap();
        assert_eq!((up.outcome, up.reply), (Outcome::Up, None));
        audit.worded(&web, Some(&verdicts));
        assert!(lines.try_recv().is_err());
        // Nobody asks any more.
        audit.begin();
        let told: Vec<_> = std::iter::from_fn(|| lines.try_recv().ok()).collect();
        assert_eq!(told.len(), 3);
        let outcomes: Vec<_> = audit.verdicts().iter().map(|one| one.outcome).collect();
        let [up, down] = [Outcome::Up, Outcome::Down];
        assert_eq!(outcomes, [down, down, up, up]);
    }
}
