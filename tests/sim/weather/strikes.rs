//! What the plan has Nomad do: the life of the cluster, and the faults that strike at their time.

use std::{sync::Arc, time::Duration};

use haproxy_nomad_sidecar::{
    catalog::{FailureKind, Ticket},
    model::{Registration, ServiceKey},
};

use crate::{
    nomad_model::{DELETION, Nomad},
    weather::{
        kind::{Kind, Moment},
        plan::{Fault, INSTANCES, SERVICES, Step},
        world::{Happening, Luck, Weather},
    },
};

/// So far Raft's index moves with each step.
const STRIDE: u64 = 8;

impl Weather {
    pub(crate) fn step(&mut self, number: usize, luck: Luck) {
        let plan = Arc::clone(&self.plan);
        self.floor += STRIDE;
        self.nomad.reach(self.floor);
        match plan.steps[number].1 {
            Step::Register {
                service,
                instance,
                tagged,
            } => {
                let new = registration(Self::key(service), instance, number, tagged);
                self.register(new);
            }
            Step::Deregister { service, instance } => {
                let gone = self.find(&Self::key(service), instance);
                self.deregister(DELETION, gone.as_slice());
            }
            Step::Others(batches) => self.nomad.pass_by(batches),
            Step::Resync => {
                self.note(|| "resync".to_owned());
                self.mirror.resync(self.now);
                self.drain();
            }
            Step::Fault(fault) if fault.kind.moment() == Moment::Now => {
                self.strike(number, fault, luck.struck().is_some());
            }
            Step::Fault(fault) => self.air.await_moment(fault),
        }
    }

    fn register(&mut self, new: Registration) {
        self.note(|| format!("register {} :{} {:?}", new.id, new.port, new.tags));
        let batch = self.nomad.register(new);
        self.publish(&batch);
    }

    fn deregister(&mut self, cause: &'static str, gone: &[Registration]) {
        if gone.is_empty() {
            return;
        }
        self.note(|| {
            let ids: Vec<_> = gone.iter().map(|one| &one.id).collect();
            format!("{cause}: deregister {ids:?}")
        });
        let batch = self.nomad.deregister(cause, gone);
        self.publish(&batch);
    }

    fn find(&self, key: &ServiceKey, instance: usize) -> Option<Registration> {
        let id = id(key, instance);
        self.nomad.table().get(&(key.clone(), id)).cloned()
    }

    fn any(&self, dice: u64) -> Option<Registration> {
        let table = self.nomad.table();
        let at = usize::try_from(dice).unwrap() % table.len().max(1);
        table.values().nth(at).cloned()
    }

    fn on_node(&self, node: usize) -> Vec<Registration> {
        let address = address(node);
        let all = self.nomad.table().values();
        all.filter(|one| one.address == address).cloned().collect()
    }

    /// A fault of this moment; if it is spared, what happens in its place.
    fn strike(&mut self, number: usize, fault: Fault, struck: bool) {
        let Fault { kind, dice } = fault;
        self.note(|| format!("{} {kind:?}", if struck { "!!" } else { "spared" }));
        match kind {
            Kind::SilentDeletion => {
                let Some(one) = self.any(dice) else { return };
                if struck {
                    return self.nomad.collect(&one);
                }
                return self.deregister(DELETION, &[one]);
            }
            Kind::NewNamespace => return self.new_namespace(number, dice, struck),
            _ if !struck => return,
            _ => {}
        }
        let node = usize::try_from(dice).unwrap() % INSTANCES;
        let within = |least: u64, most: u64| Duration::from_millis(least + dice % (most - least));
        let until = |least, most| self.now + within(least, most);
        match kind {
            Kind::StreamCut => self.end_streams(Duration::from_millis(1), "end of file"),
            Kind::SilentStream => self.silence_streams(|_| true),
            Kind::NodeLost => self.deregister("PlanResult", &self.on_node(node)),
            Kind::NodeDown => self.deregister("NodeStreamEvent", &self.on_node(node)),
            Kind::AllocTerminal => {
                let one = self.any(dice);
                self.deregister("AllocationUpdated", one.as_slice());
            }
            Kind::Ghost => self.ghosts(number, node, within(20, 300)),
            Kind::Restore => {
                let ago = usize::try_from(dice % 12).unwrap();
                self.another_past(|nomad| nomad.restore(ago));
                self.streams_denied(|_| true);
            }
            Kind::Rebuild => {
                self.lose_held(FailureKind::Unreachable);
                self.another_past(|nomad| *nomad = Nomad::new());
                self.end_streams(Duration::from_millis(1), "end of file");
            }
            Kind::ServerRestart => {
                self.air.serverless = until(2_000, 4_000);
                self.lose_answers(FailureKind::ServerError);
                self.lose_held(FailureKind::ServerError);
                self.end_streams(within(5_000, 14_000), "EOF");
                let kind = Kind::Replay;
                self.air.await_moment(Fault { kind, dice });
            }
            Kind::AgentRestart => {
                self.air.away = until(500, 10_000);
                // Over TCP the last answers are false empties, over the Task API they are cut.
                let last = [FailureKind::NotBelievable, FailureKind::Unreachable];
                let last = last[usize::from(dice % 2 == 0)];
                self.lose_answers(last);
                self.lose_held(last);
                self.end_streams(Duration::from_millis(1), "end of file");
            }
            Kind::Frozen => {
                self.air.frozen = until(2_000, 35_000);
                for ticket in self.open_streams(|_| true) {
                    self.hold(ticket, self.air.frozen);
                }
            }
            Kind::NoLeader => self.air.leaderless = until(3_000, 15_000),
            Kind::NamespaceForbidden => {
                let at = usize::try_from(dice).unwrap() % self.namespaces.len();
                let namespace = self.namespaces.iter().nth(at).unwrap().clone();
                let until = until(1_000, 60_000);
                self.forbid(namespace, until);
            }
            Kind::TokenRevoked => {
                self.air.revoked = until(1_000, 40_000);
                self.streams_denied(|_| true);
            }
            Kind::OneUnreadable => {
                let service = self.any(dice).map(|one| one.service);
                self.air.unreadable = service.map(|service| (service, until(1_000, 60_000)));
            }
            _ => panic!("{kind:?} strikes when something else happens"),
        }
    }

    /// Whether there is anything for a fault to strike. Otherwise all goes its ordinary way.
    pub(crate) fn can_strike(&self, kind: Kind) -> bool {
        let mut open = self.streams.values().filter(|stream| !stream.silent);
        match kind {
            Kind::StreamCut | Kind::SilentStream | Kind::SilentDeletion => open.next().is_some(),
            Kind::NewNamespace => open.any(|stream| &*stream.namespace == "*"),
            _ => true,
        }
    }

    pub(crate) fn forbid(&mut self, namespace: Arc<str>, until: Duration) {
        self.streams_denied(|of| of == "*" || *of == *namespace);
        self.air.forbidden.insert(namespace, until);
    }

    fn open_streams(&self, of: impl Fn(&str) -> bool) -> Vec<Ticket> {
        let streams = self.streams.iter();
        streams
            .filter(|(_, stream)| of(&stream.namespace))
            .map(|(ticket, _)| *ticket)
            .collect()
    }

    fn end_streams(&mut self, delay: Duration, why: &str) {
        for ticket in self.open_streams(|_| true) {
            self.end_stream(ticket, delay, why);
        }
    }

    fn silence_streams(&mut self, of: impl Fn(&str) -> bool) {
        for ticket in self.open_streams(of) {
            self.silence(ticket);
        }
    }

    /// The server closes subscriptions: up to 1.11.1 with a text, since then without a word.
    fn streams_denied(&mut self, of: impl Fn(&str) -> bool) {
        if !self.plan.way.old {
            return self.silence_streams(of);
        }
        for ticket in self.open_streams(of) {
            let text = "subscription closed by server, client should resubscribe";
            self.end_stream(ticket, Duration::from_millis(1), text);
        }
    }

    /// The catalog becomes another one. What the servers were about to say is lost.
    fn another_past(&mut self, change: impl FnOnce(&mut Nomad)) {
        let before = self.nomad.table().clone();
        change(&mut self.nomad);
        self.floor = self.nomad.index();
        if let Some(book) = &mut self.book {
            book.restored(&before, self.nomad.table());
        }
        self.lose_answers(FailureKind::Unreachable);
    }

    /// The node registers what is not there, and takes it back a moment later.
    fn ghosts(&mut self, number: usize, node: usize, after: Duration) {
        for service in 0..SERVICES.len() {
            let key = Self::key(service);
            if self.find(&key, node).is_some() {
                continue;
            }
            let ghost = registration(key.clone(), node, number, true);
            self.register(ghost);
            let ghost = self.find(&key, node).unwrap();
            self.after(after, Happening::GhostGone(ghost));
        }
    }

    pub(crate) fn ghost_gone(&mut self, ghost: &Registration) {
        let key = (ghost.service.clone(), ghost.id.clone());
        if self.nomad.table().get(&key) == Some(ghost) {
            self.deregister(DELETION, std::slice::from_ref(ghost));
        }
    }

    fn new_namespace(&mut self, number: usize, dice: u64, struck: bool) {
        let namespace: Arc<str> = format!("late-{number}").into();
        self.namespaces.insert(Arc::clone(&namespace));
        if !struck {
            for stream in self.streams.values_mut() {
                stream.delivers.insert(Arc::clone(&namespace));
            }
        }
        let key = ServiceKey::new(&namespace, "web");
        let instance = usize::try_from(dice).unwrap() % INSTANCES;
        self.register(registration(key, instance, number, true));
    }
}

fn id(key: &ServiceKey, instance: usize) -> Arc<str> {
    format!("_nomad-task-{}-{}-{instance}", key.namespace, key.name).into()
}

fn address(node: usize) -> String {
    format!("10.0.0.{}", node + 1)
}

/// Written by step `number`: nothing else has its port.
fn registration(key: ServiceKey, instance: usize, number: usize, tagged: bool) -> Registration {
    let service =
        |(namespace, name): &(&str, &str)| (*namespace, *name) == (&key.namespace, &key.name);
    let of = SERVICES.iter().position(service).unwrap_or(SERVICES.len());
    let enabled = ["haproxy.enable=true".to_owned(), "v1".to_owned()];
    Registration {
        id: id(&key, instance),
        service: key,
        alloc_id: format!("alloc-{instance}").into(),
        job_id: "job".into(),
        tags: enabled[usize::from(!tagged)..].to_vec(),
        address: address(instance),
        port: 10_000 + i64::try_from(number * 8 + of).unwrap(),
        create_index: 0,
        modify_index: 0,
    }
}
