//! Everything there is in a simulation, and its one queue of events, by time and then by age.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use haproxy_nomad_sidecar::{
    catalog::{Ask, Heard, Mirror, Reading, Tell, Ticket},
    model::{Allocation, AllocationId, BackendName, BatchId, Registration, Request, ServiceKey},
    reconcile::{
        self, Fact, Hands, Input, Output, Policy, Reconciler, Remembered, StateFile,
        desired::DesiredServer,
    },
};

use crate::{
    chaos::Faults,
    clients::Clients,
    guards::Guards,
    haproxy_model::{Conduct, Config, Model, View},
    invariants::NOTHING_TO_DO,
    laws::{Load, Operator},
    ledger::{Ledger, places},
    link::{Health, Link},
    matrix::Matrix,
    nomad_model::Nomad,
    random::Random,
    routes,
    rules::Book,
    sabotage::Sabotage,
    seats::Seat,
    session::{Sent, Session},
    trace::{Trace, shown},
};

/// What happens at its time. The numbers say which sidecar, or which connection, it belongs to.
pub(crate) enum Event {
    StartSidecar,
    /// Nomad has given no catalog until then.
    Restore(u32),
    StartHaproxy,
    Connect(u32),
    Refused(u32, BatchId),
    Poll(u32),
    Line(u32),
    Answer(u32),
    /// The connection has ended, and the sidecar finds out.
    Lost(u32, &'static str),
    /// A sidecar that is not in charge tries the lock.
    TryLock(u32),
    Asked(u32, Ask),
    Heard(u32, Heard),
    HeardRead(u32, Ticket, ServiceKey, Reading),
    /// Nomad is asked for an allocation; or it is no more.
    Opinion(u32, AllocationId, Option<Allocation>),
    /// The operator stops removals, or allows them.
    Freeze(u32),
    Conduct(SocketAddr, Conduct),
    Return(Registration),
    /// Of a client, by its number.
    Arrive(usize),
    /// The end of that request of it.
    Leave(usize, u64),
    Chaos,
}

/// Of HAProxy's.
pub(crate) const FIRST_PID: u32 = 101;

/// Registrations, with the server that each asks for.
pub(crate) type Resolved = Vec<(Registration, (BackendName, DesiredServer))>;

pub(crate) struct Sidecar {
    pub(crate) core: Reconciler,
    pub(crate) mirror: Mirror,
    /// Since when it takes nothing out.
    pub(crate) frozen_since: Option<Duration>,
    /// When it was told what was by hand, and of which process.
    pub(crate) recalled: Duration,
    pub(crate) met: Option<u32>,
    pub(crate) has_looked: bool,
}

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) queue: BTreeMap<(Duration, u64), Event>,
    sequence: u64,
    pub(crate) random: Random,
    pub(crate) seed: u64,
    pub(crate) trace: Trace,
    pub(crate) violation: Option<String>,

    pub(crate) nomad: Nomad,
    pub(crate) link: Link,
    /// Blocking queries that Nomad holds, by sidecar, and how Nomad was when it was looked last.
    pub(crate) held: Vec<(u32, Ask)>,
    pub(crate) held_at: (u64, Option<Health>),
    pub(crate) unreadable: Option<ServiceKey>,
    pub(crate) star: bool,

    pub(crate) version: &'static str,
    pub(crate) config: Config,
    pub(crate) conducts: Rc<RefCell<BTreeMap<SocketAddr, Conduct>>>,
    pub(crate) processes: BTreeMap<u32, Model>,
    pub(crate) current_pid: Option<u32>,
    pub(crate) last_pid: u32,
    pub(crate) stalled_until: Duration,

    pub(crate) session: Session,
    pub(crate) sidecar: Option<Sidecar>,
    /// What the last one left, and when.
    pub(crate) snapshot: Option<(Duration, Remembered)>,
    pub(crate) hands: Vec<(Duration, Hands)>,
    /// Counts sidecars.
    pub(crate) generation: u32,
    pub(crate) last_generation: u32,
    /// Counts connections.
    pub(crate) last_connection: u32,
    /// It is stopped (SIGSTOP) until then.
    pub(crate) stopped_until: Duration,
    /// What belongs to a second sidecar.
    pub(crate) other: Option<Box<Seat>>,
    /// The sidecar that holds the lock of the socket.
    pub(crate) lock: Option<u32>,
    /// Since when this one has seen what HAProxy has.
    pub(crate) knows_since: Option<Duration>,
    pub(crate) policy: Policy,

    pub(crate) faults: Faults,
    /// The sidecar is killed when so many lines with changes were carried out.
    pub(crate) kill_after_changes: Option<u64>,
    /// The connection breaks then.
    pub(crate) cut_after_changes: Option<u64>,
    pub(crate) changes: u64,

    pub(crate) ledger: Ledger,
    pub(crate) load: Load,
    pub(crate) operator: Operator,
    pub(crate) quiet: bool,

    pub(crate) clients: Clients,
    pub(crate) book: Book,
    pub(crate) sabotage: Option<Sabotage>,
    /// What it shows instead of what HAProxy says.
    pub(crate) old_readings: BTreeMap<String, String>,
    /// By the version of the catalog.
    pub(crate) resolved: RefCell<(u64, Rc<Resolved>)>,
    pub(crate) matrix: Matrix,
    pub(crate) guards: Guards,
    pub(crate) steps: u64,

    /// HAProxy reads a state file at its start, and sidecars keep it.
    pub(crate) keeps_state_file: bool,
    pub(crate) state_file: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, version: &'static str, config: Config, star: bool) -> Self {
        let policy = Policy::default();
        let names = config
            .backends
            .iter()
            .map(|one| BackendName::new(&one.name).unwrap());
        let ledger = Ledger::new(places(names.collect(), version), policy.clone());
        let mut world = Self {
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            sequence: 0,
            random: Random::new(seed),
            seed,
            trace: Trace::default(),
            violation: None,
            nomad: Nomad::new(),
            link: Link::default(),
            held: Vec::new(),
            held_at: (0, None),
            unreadable: None,
            star,
            version,
            config,
            conducts: Rc::default(),
            processes: BTreeMap::new(),
            current_pid: None,
            last_pid: FIRST_PID - 1,
            stalled_until: Duration::ZERO,
            session: Session::default(),
            sidecar: None,
            snapshot: None,
            hands: Vec::new(),
            generation: 0,
            last_generation: 0,
            last_connection: 0,
            stopped_until: Duration::ZERO,
            other: None,
            lock: None,
            knows_since: None,
            policy,
            faults: Faults::default(),
            kill_after_changes: None,
            cut_after_changes: None,
            changes: 0,
            ledger,
            load: Load::default(),
            operator: Operator::default(),
            quiet: false,
            clients: Clients::new(seed),
            book: Book::new(Duration::ZERO),
            sabotage: None,
            old_readings: BTreeMap::new(),
            resolved: RefCell::default(),
            matrix: Matrix::default(),
            guards: Guards::default(),
            steps: 0,
            keeps_state_file: false,
            state_file: None,
        };
        world.start_haproxy();
        world
    }

    // === Time ===

    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), event);
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    /// Runs until `end`, or until a law is broken.
    pub(crate) fn run_until(&mut self, end: Duration) {
        while self.violation.is_none() && self.step(end) {}
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        self.run_until(self.now + time);
    }

    fn step(&mut self, end: Duration) -> bool {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        let (timers, is_others) = self.next_timers();
        let next = [queued, timers.core, timers.mirror]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(end)
            .max(self.now);
        if next > end {
            self.advance(end);
            return false;
        }
        self.advance(next);
        if queued.is_some_and(|at| at <= next) {
            let (_, event) = self.queue.pop_first().unwrap();
            let is_others = self.is_of_the_other(&event);
            self.as_the(is_others, |world| world.happen(event));
        } else {
            let is_core = timers.core.is_some_and(|at| at <= next);
            self.as_the(is_others, |world| world.time_passed(is_core));
        }
        self.steps += 1;
        self.release_held();
        self.check_laws();
        true
    }

    fn advance(&mut self, now: Duration) {
        for process in self.processes.values_mut() {
            process.advance(now);
        }
        self.now = now;
    }

    fn happen(&mut self, event: Event) {
        if self.waits_for_the_process(&event) {
            return self.at(self.stopped_until, event);
        }
        match event {
            Event::StartSidecar => self.start_where_none_is(),
            Event::Restore(of) if self.is_alive(of) => self.restore(),
            Event::StartHaproxy => self.start_haproxy(),
            Event::Connect(of) if self.is_alive(of) => self.connect(),
            Event::Refused(of, id) if self.is_alive(of) => {
                self.input(Input::Failed(id, reconcile::Failure::ConnectionLost));
            }
            Event::Poll(of) if self.is_connected_as(of) => self.poll(),
            Event::Line(of) if self.is_connected_as(of) => self.carry_out(),
            Event::Answer(of) if self.is_connected_as(of) => self.answer(),
            Event::Lost(of, why) if self.is_connected_as(of) => self.cut(why, None),
            Event::TryLock(of) if self.is_alive(of) => self.try_lock(),
            Event::Asked(of, ask) if self.is_alive(of) => self.asked(ask),
            Event::Heard(of, heard) if self.is_alive(of) => self.heard(heard),
            Event::HeardRead(of, ticket, service, reading) if self.is_alive(of) => {
                if !self.link.has_let_go(self.generation, ticket) {
                    self.ledger.heard_read(&service, &reading);
                }
                self.heard(Heard::Read {
                    ticket,
                    result: Ok(reading),
                });
            }
            Event::Opinion(of, allocation, answer) if self.is_alive(of) => {
                self.give_opinion(allocation, answer);
            }
            Event::Freeze(of) if self.is_alive(of) => self.hear_of_freezing(),
            Event::Conduct(address, conduct) => {
                self.conducts.borrow_mut().insert(address, conduct);
            }
            Event::Return(registration) => self.returns(registration),
            Event::Arrive(client) => self.arrive(client),
            Event::Leave(client, id) => self.leave(client, id),
            Event::Chaos => self.chaos(),
            // Of a sidecar or a connection that is no more.
            Event::Restore(_)
            | Event::Connect(_)
            | Event::Refused(..)
            | Event::Poll(_)
            | Event::Line(_)
            | Event::Answer(_)
            | Event::Lost(..)
            | Event::TryLock(_)
            | Event::Asked(..)
            | Event::Heard(..)
            | Event::HeardRead(..)
            | Event::Opinion(..)
            | Event::Freeze(_) => {}
        }
    }

    fn is_alive(&self, generation: u32) -> bool {
        self.sidecar.is_some() && generation == self.generation
    }

    fn is_connected_as(&self, number: u32) -> bool {
        self.session.process.is_some() && self.session.number == number
    }

    // === The sidecar ===

    pub(crate) fn input(&mut self, input: Input) {
        let Some(sidecar) = &mut self.sidecar else {
            return;
        };
        sidecar.core.handle(self.now, input);
        while let Some(output) = self
            .sidecar
            .as_mut()
            .and_then(|sidecar| sidecar.core.poll())
        {
            match output {
                Output::Run(batch) => {
                    self.load.batches += 1;
                    // What goes to a process on its way out takes nothing out.
                    let is_current = self
                        .current_pid
                        .is_some_and(|pid| self.session.is_with(pid));
                    if self.is_in_charge() && is_current {
                        self.judge(&batch);
                    }
                    self.push(batch);
                }
                Output::Prove(services) => {
                    let now = self.now;
                    if let Some(sidecar) = &mut self.sidecar {
                        sidecar.mirror.prove(now, services);
                    }
                    self.ask_all();
                }
                Output::StateFile(StateFile::Write(texts)) => {
                    self.trace(|| "  the state file is written".to_owned());
                    self.state_file = Some(texts.concat());
                }
                Output::StateFile(StateFile::Remove) => self.state_file = None,
                Output::Hands(hands) => self.keep_hands(hands),
                Output::StateFile(StateFile::Keep) => {}
                Output::Ask(question) => self.ask_for(question),
                Output::Tell(fact) => {
                    self.trace(|| format!("  {fact:?}"));
                    if matches!(fact, Fact::Found(_)) {
                        self.met();
                    }
                }
            }
        }
    }

    fn heard(&mut self, heard: Heard) {
        let is_refused = matches!(&heard, Heard::Listed { result: Err(_), .. });
        if is_refused && self.sabotage == Some(Sabotage::FalseEmptyBelieved) {
            self.input(Input::Synced {
                services: BTreeMap::new(),
                unproven: BTreeSet::new(),
            });
        }
        self.ledger.heard(&heard);
        self.trace(|| format!("  heard {}", shown(&heard)));
        let now = self.now;
        if let Some(sidecar) = &mut self.sidecar {
            sidecar.mirror.handle(now, heard);
        }
        self.drain_mirror();
    }

    fn ask_all(&mut self) {
        while let Some(ask) = self
            .sidecar
            .as_mut()
            .and_then(|sidecar| sidecar.mirror.poll_ask())
        {
            self.ask(ask);
        }
    }

    pub(crate) fn drain_mirror(&mut self) {
        self.ask_all();
        while let Some(tell) = self
            .sidecar
            .as_mut()
            .and_then(|sidecar| sidecar.mirror.poll_tell())
        {
            if !matches!(tell, Tell::Current { .. } | Tell::Rereads { .. }) {
                self.trace(|| format!("  mirror: {tell:?}"));
            }
            if let Err(why) = self.ledger.told(&tell, (self.now, self.generation)) {
                self.violated(
                    "a registration leaves the mirror only when that was told",
                    &why,
                );
            }
            match tell {
                Tell::Synced(synced) => {
                    self.input(Input::Synced {
                        services: synced.services,
                        unproven: synced.unproven,
                    });
                }
                Tell::Changed {
                    key, registrations, ..
                } => {
                    if self.faults.refusing.is_some()
                        && self.sabotage == Some(Sabotage::OneHoldsUpAll)
                    {
                        continue;
                    }
                    self.input(Input::Changed(key, registrations));
                }
                Tell::Current { .. }
                | Tell::Following { .. }
                | Tell::StreamLost { .. }
                | Tell::IndexWentBack { .. }
                | Tell::Rereads { .. }
                | Tell::Trouble { .. }
                | Tell::Recovered { .. } => {}
            }
        }
    }

    // === HAProxy ===

    pub(crate) fn start_haproxy(&mut self) {
        if self.current_pid.is_some() {
            return;
        }
        self.last_pid += 1;
        let conducts = Rc::clone(&self.conducts);
        let world = move |address: SocketAddr, _: Duration| {
            conducts
                .borrow()
                .get(&address)
                .copied()
                .unwrap_or(Conduct::Refuses)
        };
        let mut process = Model::new(
            self.version,
            self.config.clone(),
            Rc::new(world),
            self.last_pid,
            self.now,
        );
        routes::declare(&mut process);
        if let Some(file) = &self.state_file {
            process.load_state(file);
        }
        self.by_hand_again(&process);
        self.book.process_is_new(&process, self.now);
        self.processes.insert(self.last_pid, process);
        self.current_pid = Some(self.last_pid);
        self.trace(|| "haproxy starts".to_owned());
    }

    pub(crate) fn kill_haproxy(&mut self, back_after: Duration) {
        let Some(pid) = self.current_pid.take() else {
            return;
        };
        self.trace(|| "haproxy is killed".to_owned());
        self.remember_rotation(pid);
        self.processes.remove(&pid);
        self.both(|world| {
            if world.session.is_with(pid) {
                world.cut("end of file", None);
            }
        });
        self.after(back_after, Event::StartHaproxy);
    }

    /// The session finds out by itself; until then the old process answers it.
    pub(crate) fn reload_haproxy(&mut self) {
        let Some(pid) = self.current_pid else { return };
        self.trace(|| "haproxy is reloaded".to_owned());
        self.remember_rotation(pid);
        let mut process = self.processes.remove(&pid).unwrap();
        self.last_pid += 1;
        let old = process.reload(self.now, self.last_pid);
        if let Some(file) = &self.state_file {
            process.load_state(file);
        }
        if self.is_spoken_to(pid) {
            self.processes.insert(pid, old);
        }
        self.by_hand_again(&process);
        self.book.process_is_new(&process, self.now);
        self.processes.insert(self.last_pid, process);
        self.current_pid = Some(self.last_pid);
    }

    pub(crate) fn current(&mut self) -> Option<(u32, &mut Model)> {
        let pid = self.current_pid?;
        Some((pid, self.processes.get_mut(&pid)?))
    }

    pub(crate) fn servers(&self) -> Vec<View> {
        self.current_pid
            .map(|pid| self.processes[&pid].servers())
            .unwrap_or_default()
    }

    /// Carries out one line of the session.
    pub(crate) fn execute(&mut self, pid: u32, line: &Sent) -> String {
        self.load.lines += 1;
        if let Some(other) = self.unvalidated(line) {
            self.judge_line(&other);
            return String::new();
        }
        self.judge_line(line);
        let text = line.text.trim_end();
        let reply = match &line.request {
            Some(Request::Change(command)) => self.carry_out_change(pid, command, line),
            Some(Request::ChangeMap(change)) => self.carry_out_map(pid, change, line),
            _ => {
                let now = self.now;
                let reply = self.processes.get_mut(&pid).unwrap().execute(now, text);
                return self.twist_reading(pid, text, reply);
            }
        };
        self.trace(|| format!("  {pid}> {text} = {}", reply.trim_end()));
        self.changes += 1;
        // Only a refusal tells that a balance method takes no weights: each sidecar has to ask once.
        if self.quiet && !reply.starts_with("Backend is using a static LB algorithm") {
            self.violated(NOTHING_TO_DO, text);
        }
        if Some(pid) == self.current_pid {
            self.check_foreign();
        }
        self.check_laws();
        if self
            .kill_after_changes
            .is_some_and(|after| self.changes >= after)
        {
            self.kill_after_changes = None;
            self.kill_sidecar(Duration::from_secs(1));
        }
        if self
            .cut_after_changes
            .is_some_and(|after| self.changes >= after)
        {
            self.cut_after_changes = None;
            self.cut("after this line", None);
        }
        reply
    }
}
