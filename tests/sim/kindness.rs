//! A thousand sidecars that do the same at the same moment, and what that is for the one server that they ask: real
//! mirrors against a server that answers one question after the other.
//!
//! A read takes the server 0.2 ms (p50 of Nomad 2.0.5 over TCP on two cores), so it can do 5,000 a second.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use haproxy_nomad_sidecar::{
    catalog::{
        Ask, Failure, FailureKind, Heard, Line, ListedService, Listing, Mirror, Reading, StreamEnd,
        Tell, Ticket, Wanted,
    },
    model::{Registration, ServiceKey},
};

use crate::variable;

const SIDECARS: usize = 1_000;
/// Fewer in the ordinary run of the tests, which is no release.
const SERVICES: [usize; 2] = [8, 40];
const INSTANCES: usize = 3;
const SERVED_IN: Duration = Duration::from_micros(200);
const MOST_IN_A_SECOND: usize = 5_000;
const SYNCED_BY: Duration = Duration::from_secs(30);
/// One way.
const LATENCY: Duration = Duration::from_micros(300);
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Of an answer, beside its body, and of a question.
const HEAD: usize = 200;
/// A registration in the body of a read.
const REGISTRATION: usize = 380;
/// Through the Task API.
const HELD_READS: usize = 64;

enum Event {
    Tick,
    Asked(Ticket, Ask),
    Heard(Ticket, Heard),
    Heartbeat(Ticket),
}

struct Sidecar {
    mirror: Mirror,
    tick_at: Option<Duration>,
    /// Questions without an answer.
    awaited: BTreeSet<Ticket>,
    streams: BTreeSet<Ticket>,
    synced_at: Option<Duration>,
}

/// What was asked of the server.
#[derive(Default)]
struct Load {
    asked_at: Vec<(Duration, Sort)>,
    bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sort {
    Stream,
    List,
    Read,
}

impl Load {
    /// The most in any window of a second: all, and of each sort.
    fn busiest_second(&self) -> (usize, String) {
        let mut busiest = 0..0;
        let mut first = 0;
        for (last, (at, _)) in self.asked_at.iter().enumerate() {
            while self.asked_at[first].0 + Duration::from_secs(1) <= *at {
                first += 1;
            }
            if last + 1 - first > busiest.len() {
                busiest = first..last + 1;
            }
        }
        let within = &self.asked_at[busiest.clone()];
        let of = |sort: Sort| within.iter().filter(|(_, one)| *one == sort).count();
        let sorts =
            [Sort::Stream, Sort::List, Sort::Read].map(|sort| format!("{sort:?} {}", of(sort)));
        (busiest.len(), sorts.join(", "))
    }
}

struct Fleet {
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    sidecars: Vec<Sidecar>,
    listing: Listing,
    list_bytes: usize,
    readings: BTreeMap<ServiceKey, Reading>,
    /// The server is busy until then.
    busy: Duration,
    /// It is not there until then.
    away: Duration,
    streams: bool,
    load: Load,
}

impl Fleet {
    fn new(sidecars: usize, streams: bool) -> Self {
        let services = services();
        let readings: BTreeMap<ServiceKey, Reading> = (0..services).map(reading).collect();
        let listing = Listing {
            index: 100,
            services: readings
                .iter()
                .map(|(key, reading)| ListedService {
                    key: key.clone(),
                    tags: reading.registrations[0].tags.clone(),
                })
                .collect(),
        };
        let mut fleet = Self {
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            sidecars: Vec::new(),
            list_bytes: services
                * r#"{"ServiceName":"service-00","Tags":["haproxy.enable=true"]},"#.len(),
            listing,
            readings,
            busy: Duration::ZERO,
            away: Duration::ZERO,
            streams,
            load: Load::default(),
        };
        let wanted = Wanted::new("haproxy", false);
        for number in 0..sidecars {
            let namespaces = ["default".to_owned()];
            fleet.sidecars.push(Sidecar {
                mirror: Mirror::new(
                    &namespaces,
                    &wanted,
                    HELD_READS,
                    number as u64,
                    Duration::ZERO,
                ),
                tick_at: None,
                awaited: BTreeSet::new(),
                streams: BTreeSet::new(),
                synced_at: None,
            });
            fleet.drain(number);
        }
        fleet
    }

    fn at(&mut self, at: Duration, number: usize, event: Event) {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, number)));
        self.events.insert(self.sequence, event);
    }

    fn run_until(&mut self, end: Duration) {
        while let Some(Reverse((at, sequence, number))) = self.queue.peek().copied()
            && at <= end
        {
            self.queue.pop();
            self.now = at;
            let event = self.events.remove(&sequence).unwrap();
            match event {
                Event::Tick => {
                    let sidecar = &mut self.sidecars[number];
                    if sidecar.tick_at == Some(at) {
                        sidecar.tick_at = None;
                        sidecar.mirror.tick(at);
                    }
                }
                Event::Asked(ticket, ask) => {
                    if self.sidecars[number].awaited.contains(&ticket) {
                        self.asked(number, ticket, ask);
                    }
                }
                Event::Heard(ticket, heard) => {
                    let sidecar = &mut self.sidecars[number];
                    if sidecar.awaited.remove(&ticket) {
                        if matches!(heard, Heard::StreamOpened { .. }) {
                            sidecar.streams.insert(ticket);
                        }
                        sidecar.mirror.handle(at, heard);
                    }
                }
                Event::Heartbeat(ticket) => self.heartbeat(number, ticket),
            }
            self.drain(number);
        }
        self.now = end;
    }

    /// The one place that knows what a mirror can ask.
    fn drain(&mut self, number: usize) {
        while let Some(ask) = self.sidecars[number].mirror.poll_ask() {
            match ask {
                Ask::Cancel { ticket } => {
                    self.sidecars[number].awaited.remove(&ticket);
                }
                Ask::OpenStream { ticket, .. }
                | Ask::List { ticket, .. }
                | Ask::Read { ticket, .. } => {
                    self.sidecars[number].awaited.insert(ticket);
                    self.at(self.now + LATENCY, number, Event::Asked(ticket, ask));
                }
            }
        }
        let sidecar = &mut self.sidecars[number];
        while let Some(tell) = sidecar.mirror.poll_tell() {
            if matches!(tell, Tell::Synced(_) | Tell::Current { .. }) {
                sidecar.synced_at.get_or_insert(self.now);
            }
        }
        let due = sidecar.mirror.next_deadline().map(|due| due.max(self.now));
        if let Some(at) = due
            && due != sidecar.tick_at
        {
            sidecar.tick_at = due;
            self.at(at, number, Event::Tick);
        }
    }

    fn asked(&mut self, number: usize, ticket: Ticket, ask: Ask) {
        let refused = self.now < self.away;
        if !refused {
            let sort = match &ask {
                Ask::OpenStream { .. } => Sort::Stream,
                Ask::List { .. } => Sort::List,
                Ask::Read { .. } | Ask::Cancel { .. } => Sort::Read,
            };
            self.load.asked_at.push((self.now, sort));
            self.load.bytes += HEAD;
            self.busy = self.busy.max(self.now) + SERVED_IN;
        }
        let mut at = if refused { self.now } else { self.busy } + LATENCY;
        if let Ask::List { after, .. } | Ask::Read { after, .. } = &ask
            && after.is_some_and(|after| after >= self.listing.index)
            && !refused
        {
            // Nothing changes: the wait, and up to a sixteenth more.
            let jitter = (number as u64).wrapping_mul(2_654_435_761) % 3_750;
            at += Duration::from_millis(60_000 + jitter);
        }
        let mut bytes = HEAD;
        let heard = match ask {
            Ask::OpenStream { .. } if refused => {
                let end = StreamEnd::Unreachable("refused".to_owned());
                Heard::StreamEnded { ticket, end }
            }
            Ask::OpenStream { .. } if !self.streams => {
                let end = StreamEnd::Refused("no first line within 5 s".to_owned());
                at += Duration::from_secs(5);
                Heard::StreamEnded { ticket, end }
            }
            Ask::OpenStream { .. } => {
                self.at(at + HEARTBEAT, number, Event::Heartbeat(ticket));
                Heard::StreamOpened { ticket }
            }
            Ask::List { .. } => {
                bytes += self.list_bytes;
                let result = if refused {
                    Err(unreachable())
                } else {
                    Ok(self.listing.clone())
                };
                Heard::Listed { ticket, result }
            }
            Ask::Read { key, .. } => {
                let reading = &self.readings[&key];
                bytes += REGISTRATION * reading.registrations.len();
                let result = if refused {
                    Err(unreachable())
                } else {
                    Ok(reading.clone())
                };
                Heard::Read { ticket, result }
            }
            Ask::Cancel { .. } => return,
        };
        if !refused {
            self.load.bytes += bytes;
        }
        self.at(at, number, Event::Heard(ticket, heard));
    }

    fn heartbeat(&mut self, number: usize, ticket: Ticket) {
        if self.sidecars[number].streams.contains(&ticket) {
            self.load.bytes += 3;
            self.at(self.now + HEARTBEAT, number, Event::Heartbeat(ticket));
            let line = Line::default();
            self.sidecars[number]
                .mirror
                .handle(self.now, Heard::StreamLine { ticket, line });
        }
    }

    /// The server is away for a moment: every stream ends at once.
    fn restart_server(&mut self, away: Duration) {
        self.away = self.now + away;
        self.lose_answers();
        for number in 0..self.sidecars.len() {
            let sidecar = &mut self.sidecars[number];
            sidecar.synced_at = None;
            for ticket in std::mem::take(&mut sidecar.streams) {
                let end = StreamEnd::Lost("end of file".to_owned());
                let heard = Heard::StreamEnded { ticket, end };
                sidecar.mirror.handle(self.now, heard);
            }
            self.drain(number);
        }
    }

    /// Also what is held.
    fn lose_answers(&mut self) {
        for Reverse((due, sequence, number)) in std::mem::take(&mut self.queue) {
            let mut event = self.events.remove(&sequence).unwrap();
            let mut at = due;
            if let Event::Heard(_, heard) = &mut event {
                at = self.now + LATENCY;
                match heard {
                    Heard::Listed { result, .. } => *result = Err(unreachable()),
                    Heard::Read { result, .. } => *result = Err(unreachable()),
                    Heard::StreamOpened { .. }
                    | Heard::StreamLine { .. }
                    | Heard::StreamEnded { .. } => {}
                }
            }
            self.at(at, number, event);
        }
    }

    /// Within so long after `since` everything was known to all.
    fn all_synced_after(&self, since: Duration) -> Option<Duration> {
        let last = self.sidecars.iter().map(|one| one.synced_at);
        let last = last.collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some(last.saturating_sub(since))
    }
}

fn reading(number: usize) -> (ServiceKey, Reading) {
    let name = format!("service-{number}");
    let key = ServiceKey::new("default", &name);
    let registrations = (0..INSTANCES).map(|instance| Registration {
        id: format!("_nomad-task-5935f8ec-8b09-b6a7-13a6-895e0378a68d-group-{name}-{instance}")
            .into(),
        service: key.clone(),
        alloc_id: "5935f8ec-8b09-b6a7-13a6-895e0378a68d".into(),
        job_id: name.as_str().into(),
        tags: vec!["haproxy.enable=true".to_owned()],
        address: "10.0.0.1".to_owned(),
        port: 20_000,
        create_index: 50,
        modify_index: 50,
    });
    let registrations = registrations.collect();
    (
        key,
        Reading {
            index: 100,
            registrations,
        },
    )
}

fn unreachable() -> Failure {
    Failure {
        kind: FailureKind::Unreachable,
        text: "refused".to_owned(),
    }
}

/// Whether there is time for all of it (`make sim`).
fn is_thorough() -> bool {
    variable("SIM_FAULTS").is_some()
}

fn services() -> usize {
    SERVICES[usize::from(is_thorough())]
}

/// The first, if there is no time for all.
fn some_of<T>(all: &[T]) -> &[T] {
    if is_thorough() { all } else { &all[..1] }
}

fn how(streams: bool) -> &'static str {
    if streams {
        "with streams"
    } else {
        "without streams"
    }
}

/// What there is to say, and what is wrong with it.
fn judged(fleet: &Fleet, since: Duration, when: &str) -> (String, bool) {
    let (busiest, sorts) = fleet.load.busiest_second();
    let all = fleet.load.asked_at.len();
    let synced = fleet.all_synced_after(since);
    let said = format!(
        "{when}: {all} requests, {busiest} in the busiest second ({sorts}), all synced after {synced:?}"
    );
    let is_kind = busiest < MOST_IN_A_SECOND && synced.is_some_and(|after| after <= SYNCED_BY);
    (said, is_kind)
}

#[test]
fn a_thousand_sidecars_that_start_together_stay_below_what_one_server_can_do() {
    let mut unkind = Vec::new();
    for streams in some_of(&[true, false]) {
        let mut fleet = Fleet::new(SIDECARS, *streams);
        fleet.run_until(SYNCED_BY + Duration::from_secs(10));
        let when = format!("{SIDECARS} start together, {}", how(*streams));
        let (said, is_kind) = judged(&fleet, Duration::ZERO, &when);
        println!("{said}");
        unkind.extend((!is_kind).then_some(said));
    }
    assert!(unkind.is_empty(), "{unkind:#?}");
}

#[test]
fn a_thousand_sidecars_whose_server_restarts_stay_below_what_it_can_do() {
    let mut unkind = Vec::new();
    for (away, streams) in some_of(&[(3, true), (3, false), (0, true), (20, true)]) {
        let (away, streams) = (Duration::from_secs(*away), *streams);
        let mut fleet = Fleet::new(SIDECARS, streams);
        fleet.run_until(Duration::from_secs(70));
        fleet.load = Load::default();
        fleet.restart_server(away);
        let since = fleet.now + away;
        fleet.run_until(since + SYNCED_BY + Duration::from_secs(10));
        let when = format!("the server is away for {away:?}, {}", how(streams));
        let (said, is_kind) = judged(&fleet, since, &when);
        println!("{said}");
        unkind.extend((!is_kind).then_some(said));
    }
    assert!(unkind.is_empty(), "{unkind:#?}");
}

#[test]
fn a_sidecar_at_rest_asks_little() {
    for streams in [true, false] {
        let mut fleet = Fleet::new(1, streams);
        fleet.run_until(Duration::from_mins(5));
        fleet.load = Load::default();
        let minutes = 20;
        fleet.run_until(fleet.now + Duration::from_mins(20));
        let (requests, bytes) = (fleet.load.asked_at.len(), fleet.load.bytes);
        println!(
            "at rest, {} services of {INSTANCES}, {}: {} requests and {} bytes a minute",
            services(),
            how(streams),
            requests / minutes,
            bytes / minutes,
        );
        assert!(requests <= 2 * 60 * minutes, "{requests}");
    }
}
