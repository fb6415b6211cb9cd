//! A mirror and a Nomad with weather in between: one queue of what happens, by time and then by age.
//!
//! Nothing but the plan and hashes of its seed decides. A world can be cloned at any moment, and then both go the same way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use haproxy_nomad_sidecar::{
    catalog::{Ask, Heard, Mirror, StreamEnd, Ticket, Wanted},
    model::{Registration, ServiceKey},
    nomad::types::parse_line,
};

use crate::{
    nomad_model::{Batch, Nomad},
    weather::{
        air::Air,
        book::Book,
        held::Held,
        kind::{Kind, Moment},
        plan::{Fault, Plan, SERVICES, Step, WEATHER},
        trace::Trace,
        wire,
    },
};

/// The client gives a stream up that has said nothing for so long.
const SILENCE: Duration = Duration::from_secs(40);
/// Nothing that was asked is answered later.
const ON_ITS_WAY: Duration = Duration::from_secs(100);
/// No more than this happens in a second.
const BUSY: usize = 5_000;

/// What happens at its time.
#[derive(Clone)]
pub(crate) enum Happening {
    /// The plan has it so.
    Step(usize),
    /// The mirror wanted to be called.
    Tick,
    /// A question, the first, second, …, reaches Nomad.
    Arrive(u64, Ask),
    /// An answer reaches the client.
    Answer(Ticket, Heard),
    Opened(Ticket),
    Line(Ticket, Arc<str>),
    Heartbeat(Ticket),
    /// The client looks whether lines still come.
    Watch(Ticket),
    Ended(Ticket, StreamEnd),
    /// A blocking query is held no longer.
    Released(Ticket),
    StruckWhileHeld(Ticket, Fault),
    /// A ghost is deregistered.
    GhostGone(Registration),
    /// From now on there are no faults.
    Heal,
    /// What was on its way when a namespace was forbidden has arrived.
    Remember(&'static str),
}

/// Whether a fault strikes when it could.
#[derive(Clone, Copy)]
pub(crate) enum Luck {
    /// There is none.
    Fair,
    Struck(Fault),
    /// There is one, but not in this world.
    Spared(Fault),
}

impl Luck {
    pub(crate) fn struck(self) -> Option<Fault> {
        match self {
            Self::Struck(fault) => Some(fault),
            Self::Fair | Self::Spared(_) => None,
        }
    }
}

/// A stream that a server thinks is open.
#[derive(Clone)]
pub(crate) struct Stream {
    pub(crate) namespace: Arc<str>,
    /// The namespaces that there were when it was opened.
    pub(crate) delivers: BTreeSet<Arc<str>>,
    /// Nothing is sent on it any more.
    pub(crate) silent: bool,
    /// When the last line arrives: lines keep their order.
    pub(crate) last_line: Duration,
    pub(crate) heard_at: Duration,
}

#[derive(Clone)]
pub(crate) struct Weather {
    pub(crate) now: Duration,
    pub(crate) plan: Arc<Plan>,
    pub(crate) queue: BTreeMap<(Duration, u64), Happening>,
    sequence: u64,
    /// Counts questions.
    asked: u64,
    pub(crate) mirror: Mirror,
    pub(crate) nomad: Nomad,
    /// Raft's index is at least this much after each step, so that a fault that is left out shifts no index.
    pub(crate) floor: u64,
    pub(crate) namespaces: BTreeSet<Arc<str>>,
    pub(crate) air: Air,
    pub(crate) streams: BTreeMap<Ticket, Stream>,
    /// What the client waits for, and the streams that it reads.
    awaited: BTreeSet<Ticket>,
    /// The queries that Nomad holds.
    pub(crate) held: BTreeMap<Ticket, Held>,
    pub(crate) trace: Trace,
    /// None in a fork: it is not on trial.
    pub(crate) book: Option<Book>,
    second: (u64, usize),
}

impl Weather {
    pub(crate) fn new(plan: Arc<Plan>) -> Self {
        let namespaces: Vec<String> = plan
            .way
            .namespaces
            .iter()
            .map(ToString::to_string)
            .collect();
        let wanted = Wanted::new("haproxy", false);
        let held = plan.way.held_reads;
        let mirror = Mirror::new(&namespaces, &wanted, held, plan.seed, Duration::ZERO);
        let nomad = Nomad::new();
        let mut world = Self {
            now: Duration::ZERO,
            plan,
            queue: BTreeMap::new(),
            sequence: 0,
            asked: 0,
            mirror,
            floor: nomad.index(),
            nomad,
            namespaces: SERVICES
                .iter()
                .map(|(namespace, _)| Arc::from(*namespace))
                .collect(),
            air: Air::default(),
            streams: BTreeMap::new(),
            awaited: BTreeSet::new(),
            held: BTreeMap::new(),
            trace: Trace::default(),
            book: Some(Book::default()),
            second: (0, 0),
        };
        world.at(WEATHER, Happening::Heal);
        world.await_step(0);
        world.drain();
        world
    }

    /// The same world, to go another way from here.
    pub(crate) fn fork(&mut self) -> Self {
        let book = self.book.take();
        let trace = std::mem::replace(&mut self.trace, Trace::forked());
        let fork = self.clone();
        (self.book, self.trace) = (book, trace);
        fork
    }

    // === Time ===

    pub(crate) fn at(&mut self, at: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue
            .insert((at.max(self.now), self.sequence), happening);
    }

    pub(crate) fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    fn await_step(&mut self, step: usize) {
        if let Some((at, _)) = self.plan.steps.get(step) {
            let at = *at;
            self.at(at, Happening::Step(step));
        }
    }

    /// What happens next, if that is before `end`, and the fault that can strike it. Time is then.
    pub(crate) fn next(&mut self, end: Duration) -> Option<(Happening, Option<Fault>)> {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        let due = self.mirror.next_deadline().map(|due| due.max(self.now));
        let next = queued.into_iter().chain(due).min()?;
        if next > end {
            self.now = end;
            return None;
        }
        self.now = next;
        if self.spins() {
            return None;
        }
        let happening = if queued == Some(next) {
            self.queue.pop_first().unwrap().1
        } else {
            Happening::Tick
        };
        let fault = self.fault_of(&happening);
        Some((happening, fault))
    }

    /// As it goes without anybody looking; false at the end.
    pub(crate) fn go_on(&mut self, end: Duration) -> bool {
        let Some((happening, fault)) = self.next(end) else {
            return false;
        };
        self.happen(happening, fault.map_or(Luck::Fair, Luck::Struck));
        true
    }

    /// Takes the fault that can strike here, so that it cannot strike again.
    fn fault_of(&mut self, happening: &Happening) -> Option<Fault> {
        match happening {
            Happening::Step(step) => match self.plan.steps[*step].1 {
                Step::Fault(fault)
                    if fault.kind.moment() == Moment::Now && self.can_strike(fault.kind) =>
                {
                    Some(fault)
                }
                Step::Fault(_)
                | Step::Register { .. }
                | Step::Deregister { .. }
                | Step::Others(_)
                | Step::Resync => None,
            },
            Happening::Arrive(_, ask)
                if self.awaited.contains(&ticket_of(ask)) && self.is_answered(ask) =>
            {
                self.air.take(Moment::of_question(ask, self.is_held(ask)))
            }
            Happening::Line(ticket, text)
                if self.awaited.contains(ticket) && **text != *wire::HEARTBEAT =>
            {
                self.air.take(&[Moment::Line])
            }
            Happening::StruckWhileHeld(ticket, fault) if self.held.contains_key(ticket) => {
                Some(*fault)
            }
            Happening::Arrive(..)
            | Happening::StruckWhileHeld(..)
            | Happening::Line(..)
            | Happening::Tick
            | Happening::Answer(..)
            | Happening::Opened(_)
            | Happening::Heartbeat(_)
            | Happening::Watch(_)
            | Happening::Ended(..)
            | Happening::Released(_)
            | Happening::GhostGone(_)
            | Happening::Heal
            | Happening::Remember(_) => None,
        }
    }

    pub(crate) fn happen(&mut self, happening: Happening, luck: Luck) {
        match happening {
            Happening::Step(step) => {
                self.step(step, luck);
                self.await_step(step + 1);
            }
            Happening::Tick => {
                self.mirror.tick(self.now);
                self.drain();
            }
            Happening::Arrive(ordinal, ask) => {
                if self.awaited.contains(&ticket_of(&ask)) {
                    self.arrive(ordinal, ask, luck);
                }
            }
            Happening::Answer(ticket, heard) => {
                if self.awaited.remove(&ticket) {
                    self.heard(heard);
                }
            }
            Happening::Opened(ticket) => {
                self.streams_client_hears(ticket, Heard::StreamOpened { ticket });
                self.after(SILENCE, Happening::Watch(ticket));
            }
            Happening::Line(ticket, text) => self.line(ticket, &text, luck),
            Happening::Heartbeat(ticket) => self.heartbeat(ticket),
            Happening::Watch(ticket) => self.watch(ticket),
            Happening::Ended(ticket, end) => self.ended(ticket, end),
            Happening::Released(ticket) => self.wait_is_over(ticket),
            Happening::StruckWhileHeld(ticket, fault) => {
                if luck.struck().is_some() {
                    self.strike_held(ticket, fault);
                }
            }
            Happening::GhostGone(ghost) => self.ghost_gone(&ghost),
            Happening::Heal => {
                self.note(|| "=== quiet from now on".to_owned());
                self.air.clear();
                if let Some(namespace) = self.plan.way.forbidden_for_ever {
                    self.forbid(namespace.into(), Duration::MAX);
                    self.after(ON_ITS_WAY, Happening::Remember(namespace));
                }
            }
            Happening::Remember(namespace) => {
                if let Some(book) = &mut self.book {
                    book.remember(namespace);
                }
            }
        }
        self.wake_queries();
    }

    // === The client ===

    /// Everything that the mirror wants. The one place that knows what it can ask.
    pub(crate) fn drain(&mut self) {
        while let Some(ask) = self.mirror.poll_ask() {
            self.enter("ask", &ask);
            let ticket = match &ask {
                Ask::Cancel { ticket } => {
                    self.awaited.remove(ticket);
                    self.streams.remove(ticket);
                    self.held.remove(ticket);
                    continue;
                }
                Ask::OpenStream { ticket, .. }
                | Ask::List { ticket, .. }
                | Ask::Read { ticket, .. } => *ticket,
            };
            self.awaited.insert(ticket);
            self.asked += 1;
            let delay = self.latency(1, self.asked);
            self.after(delay, Happening::Arrive(self.asked, ask));
        }
        while let Some(tell) = self.mirror.poll_tell() {
            self.enter("tell", &tell);
            if let Some(book) = &mut self.book {
                book.told(self.now, &tell, self.nomad.table());
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        // Of a line the text was entered.
        if !matches!(heard, Heard::StreamLine { .. }) {
            self.enter("heard", &heard);
        }
        self.mirror.handle(self.now, heard);
        self.drain();
    }

    fn streams_client_hears(&mut self, ticket: Ticket, heard: Heard) {
        if !self.awaited.contains(&ticket) {
            return;
        }
        if let Some(stream) = self.streams.get_mut(&ticket) {
            stream.heard_at = self.now;
        }
        self.heard(heard);
    }

    fn line(&mut self, ticket: Ticket, text: &Arc<str>, luck: Luck) {
        if !self.awaited.contains(&ticket) {
            return;
        }
        let mut text = &**text;
        if let Some(fault) = luck.struck() {
            match fault.kind {
                Kind::CutInMidLine => {
                    text = &text[..text.len() / 2];
                }
                Kind::EndedByText => text = "event dropped from buffer",
                Kind::TokenExpired => return self.silence(ticket),
                Kind::Stall => {
                    let held = Happening::Line(ticket, Arc::from(text));
                    let until = self.now + Duration::from_millis(500 + fault.dice % 8_000);
                    // Before what is on its way already.
                    self.queue.insert((until, 0), held);
                    return self.hold(ticket, until);
                }
                _ => panic!("{fault:?} does not strike lines"),
            }
        }
        match parse_line(text) {
            Ok(line) => {
                self.enter("line", &text);
                self.streams_client_hears(ticket, Heard::StreamLine { ticket, line });
            }
            Err(error) => self.ended(ticket, StreamEnd::Lost(error.to_string())),
        }
    }

    fn watch(&mut self, ticket: Ticket) {
        let Some(stream) = self.streams.get(&ticket) else {
            return;
        };
        let gives_up = stream.heard_at + SILENCE;
        if self.now < gives_up {
            return self.at(gives_up, Happening::Watch(ticket));
        }
        self.ended(ticket, StreamEnd::Lost("no line for 40 s".to_owned()));
    }

    fn ended(&mut self, ticket: Ticket, end: StreamEnd) {
        self.streams.remove(&ticket);
        if self.awaited.remove(&ticket) {
            self.heard(Heard::StreamEnded { ticket, end });
        }
    }

    // === The lines ===

    /// Every stream says what it says of `batch`.
    pub(crate) fn publish(&mut self, batch: &Batch) {
        let open: Vec<Ticket> = self.streams.keys().copied().collect();
        for ticket in open {
            self.say(ticket, batch);
        }
    }

    pub(crate) fn say(&mut self, ticket: Ticket, batch: &Batch) {
        let stream = &self.streams[&ticket];
        let text = wire::line(batch, |namespace| {
            stream.delivers.contains(namespace)
                && (&*stream.namespace == "*" || &*stream.namespace == namespace)
        });
        if let Some(text) = text {
            self.send(ticket, &text, batch.index);
        }
    }

    fn send(&mut self, ticket: Ticket, text: &str, which: u64) {
        let latency = self.latency(3, which);
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&ticket).filter(|one| !one.silent) else {
            return;
        };
        stream.last_line = stream.last_line.max(now + latency);
        let at = stream.last_line;
        self.at(at, Happening::Line(ticket, text.into()));
    }

    fn heartbeat(&mut self, ticket: Ticket) {
        if self.streams.contains_key(&ticket) {
            self.send(ticket, wire::HEARTBEAT, 0);
            self.after(Duration::from_secs(30), Happening::Heartbeat(ticket));
        }
    }

    /// The server has forgotten the stream; the connection stays.
    pub(crate) fn silence(&mut self, ticket: Ticket) {
        if let Some(stream) = self.streams.get_mut(&ticket) {
            stream.silent = true;
        }
        self.queue
            .retain(|_, one| !matches!(one, Happening::Line(of, _) if *of == ticket));
    }

    /// What is on its way on this stream, and what comes, arrives then or later.
    pub(crate) fn hold(&mut self, ticket: Ticket, until: Duration) {
        let early: Vec<(Duration, u64)> = self
            .queue
            .range(..(until, 0))
            .filter(|(_, one)| matches!(one, Happening::Line(of, _) if *of == ticket))
            .map(|(key, _)| *key)
            .collect();
        for key in early {
            let line = self.queue.remove(&key).unwrap();
            self.at(until, line);
        }
        if let Some(stream) = self.streams.get_mut(&ticket) {
            stream.last_line = stream.last_line.max(until);
        }
    }

    pub(crate) fn end_stream(&mut self, ticket: Ticket, delay: Duration, why: &str) {
        let end = StreamEnd::Lost(why.to_owned());
        self.silence_from_now(ticket);
        self.after(delay, Happening::Ended(ticket, end));
    }

    /// What is on its way arrives.
    fn silence_from_now(&mut self, ticket: Ticket) {
        if let Some(stream) = self.streams.get_mut(&ticket) {
            stream.silent = true;
        }
    }

    // === Chance and trace ===

    /// The way of a few bytes.
    pub(crate) fn latency(&self, what: u64, which: u64) -> Duration {
        Duration::from_micros(200 + self.plan.chance(what, which) % 5_000)
    }

    fn enter(&mut self, what: &str, content: &dyn std::fmt::Debug) {
        self.trace.enter(self.now, what, content);
    }

    /// Counts what happens within a second; true if that is more than a mirror can have reason for.
    fn spins(&mut self) -> bool {
        let second = self.now.as_secs();
        if self.second.0 != second {
            self.second = (second, 0);
        }
        self.second.1 += 1;
        let spins = self.second.1 > BUSY;
        if spins && let Some(book) = &mut self.book {
            book.violated(format!("the mirror spins in second {second}"));
        }
        spins
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.note(self.now, text);
    }

    pub(crate) fn key(service: usize) -> ServiceKey {
        let (namespace, name) = SERVICES[service];
        ServiceKey::new(namespace, name)
    }
}

pub(crate) fn ticket_of(ask: &Ask) -> Ticket {
    match ask {
        Ask::OpenStream { ticket, .. }
        | Ask::List { ticket, .. }
        | Ask::Read { ticket, .. }
        | Ask::Cancel { ticket } => *ticket,
    }
}
