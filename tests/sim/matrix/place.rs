//! Where the faults strike: a small HAProxy of one kind, and a few instances that come and go.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use haproxy_nomad_sidecar::model::{Allocation, Registration};

use crate::{
    chaos::VERSIONS,
    clients::Habit,
    haproxy_model::{Backend, Check, Conduct, Config, ServerLine},
    nomad_model::DELETION,
    world::{Event, World},
};

/// The kinds of servers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    Slots,
    /// HAProxy starts with what they were.
    SlotsWithStateFile,
    Dynamic,
}

impl Place {
    pub(crate) const ALL: [Self; 3] = [Self::Slots, Self::SlotsWithStateFile, Self::Dynamic];
}

const SERVICES: [&str; 2] = ["web", "api"];
/// Of each service.
const FEW: usize = 2;
const MANY: usize = 4;
const MOST: usize = 6;
/// What an instance does not know of when it is deregistered.
const SHUTDOWN_DELAY: Duration = Duration::from_secs(5);

const CLIENTS: [(&str, Habit); 6] = [
    ("web", Habit::Plain),
    ("web", Habit::KeepAlive),
    ("web", Habit::Cookie),
    ("api", Habit::KeepAlive),
    ("api", Habit::Plain),
    ("api", Habit::Long),
];

fn config(place: Place) -> Config {
    let placeholder: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let check = Check::every(Duration::from_millis(500));
    let operators = |name: &str| ServerLine {
        check: Some(Check::DEFAULT),
        ..ServerLine::new(name, SocketAddr::from(([192, 0, 2, 1], 81)))
    };
    let disabled = ServerLine {
        disabled: true,
        ..operators("old1")
    };
    let (web, api) = (Backend::new("web"), Backend::new("api"));
    let backends = match place {
        Place::Slots | Place::SlotsWithStateFile => {
            let slots = |backend: Backend| {
                let backend = backend.template("nomad", 9, placeholder, Some(check));
                match place {
                    Place::SlotsWithStateFile => backend.named(),
                    Place::Slots | Place::Dynamic => backend,
                }
            };
            vec![
                slots(web).sticky().server(disabled),
                slots(api).server(operators("static1")),
            ]
        }
        Place::Dynamic => vec![web.server(disabled), api.server(operators("static1"))],
    };
    Config { backends }
}

impl World {
    /// The world of a seed of the matrix.
    pub(crate) fn of_matrix(seed: u64) -> Self {
        let at = |number: u64, of: usize| usize::try_from(number).unwrap() % of;
        let version = VERSIONS[at(seed, VERSIONS.len())];
        let place = Place::ALL[at(seed / 5, Place::ALL.len())];
        let mut world = Self::new(seed, version, config(place), false);
        world.matrix.place = Some(place);
        world.keeps_state_file = place == Place::SlotsWithStateFile;
        world.clients.longest = Duration::from_secs(6);
        // Most of the time nobody waits so long, or there would be fewer faults.
        if !seed.is_multiple_of(4) {
            world.be_quick();
        }
        // A token that may read allocations.
        world.policy.second_opinion = !seed.is_multiple_of(3);
        let foreign = SocketAddr::from(([192, 0, 2, 1], 81));
        // It would hide that nobody else is there.
        let refuses = Conduct::Refuses;
        world.conducts.borrow_mut().insert(foreign, refuses);
        for service in SERVICES {
            for _ in 0..=FEW {
                world.one_joins(service);
            }
        }
        world.start_sidecar();
        for (backend, habit) in CLIENTS {
            world.client_comes(backend, habit);
        }
        world
    }

    /// Instances come, and go.
    pub(crate) fn population_changes(&mut self) {
        for service in SERVICES {
            if !self.random.chance(60) {
                continue;
            }
            let here = self.registered(service);
            let at = self.random.below(here.len().max(1));
            let leaves = here.len() >= MANY || self.random.chance(50);
            match here.get(at) {
                Some(one) if leaves && self.others_stay(service, one) => self.one_leaves(one),
                _ if here.len() < MOST => self.one_joins(service),
                _ => {}
            }
        }
    }

    /// Who is there before faults begin; and somebody is, of each service, if everybody is served.
    pub(crate) fn note_elders(&mut self) {
        self.ledger.forget_the_gone();
        self.matrix.elders.clear();
        self.matrix.is_whole = true;
        let servers = self.servers();
        let rotating = servers.iter().filter(|view| view.in_rotation);
        let rotating: BTreeSet<_> = rotating.map(|view| view.address).collect();
        for service in SERVICES {
            let mut here = self.registered(service);
            here.retain(|one| {
                let address = address_of(one);
                // One that was on its way out stays on it when Nomad is restored.
                self.conducts.borrow().get(&address) == Some(&Conduct::Serves)
                    && !self.matrix.leaving.contains(&address)
                    && rotating.contains(&address)
            });
            self.matrix.is_whole &= !here.is_empty();
            self.matrix
                .elders
                .extend(here.into_iter().map(|one| one.id));
        }
    }

    /// Whether somebody stays whom HAProxy knows for long: the others it may not have admitted yet.
    fn others_stay(&self, service: &str, one: &Registration) -> bool {
        let here = self.registered(service);
        let mut others = here.iter().filter(|other| other.id != one.id);
        here.len() > FEW && others.any(|other| self.matrix.elders.contains(&other.id))
    }

    fn registered(&self, service: &str) -> Vec<Registration> {
        let all = self.nomad.table().values();
        let here = all.filter(|one| &*one.service.name == service && !one.id.starts_with(ATTACK));
        here.cloned().collect()
    }

    fn one_joins(&mut self, service: &str) {
        self.matrix.instances += 1;
        let number = self.matrix.instances;
        let [_, _, high, low] = number.to_be_bytes();
        let address = SocketAddr::from(([10, 1, high, low], 8000));
        self.conducts.borrow_mut().insert(address, Conduct::Refuses);
        let start = self.random.millis(0, 1_000);
        self.after(start, Event::Conduct(address, Conduct::Serves));
        let id = format!("{service}-{number}");
        self.joins(service, &id, address);
    }

    fn joins(&mut self, service: &str, id: &str, address: SocketAddr) {
        self.register(("default", service, &[]), id, address, &[]);
        let mut all = self.nomad.table().values();
        let alloc_id = all
            .find(|one| &*one.id == id)
            .map(|one| Arc::clone(&one.alloc_id));
        self.matrix.allocations.extend(alloc_id.zip(Some(address)));
    }

    fn one_leaves(&mut self, one: &Registration) {
        self.trace(|| format!("{} leaves", one.id));
        let batch = self.nomad.deregister(DELETION, std::slice::from_ref(one));
        self.published(&batch);
        self.ends_at(address_of(one));
    }

    fn ends_at(&mut self, address: SocketAddr) {
        self.matrix.leaving.insert(address);
        self.after(SHUTDOWN_DELAY, Event::Conduct(address, Conduct::Refuses));
    }

    // === Allocations ===

    /// What Nomad knows of one.
    pub(crate) fn allocation(&self, id: &str) -> Allocation {
        let Some(address) = self.matrix.allocations.get(id) else {
            return Allocation::Unknown;
        };
        let is_over = self.conducts.borrow().get(address) == Some(&Conduct::Refuses);
        match (self.matrix.leaving.contains(address), is_over) {
            (true, true) => Allocation::Ended("complete".into()),
            (true, false) => Allocation::Stopping,
            (false, _) => Allocation::Running,
        }
    }

    /// A registration is lost that nobody took back.
    pub(crate) fn one_vanishes(&mut self) -> Option<Registration> {
        let service = SERVICES[self.random.below(SERVICES.len())];
        let mut here = self.registered(service);
        here.retain(|one| self.others_stay(service, one) && !is_ghost(&one.id));
        let one = self.random.pick(&here)?.clone();
        self.trace(|| format!("{} vanishes", one.id));
        let batch = self.nomad.deregister(DELETION, std::slice::from_ref(&one));
        self.published(&batch);
        Some(one)
    }

    pub(crate) fn one_appears_or_ends(&mut self, one: Registration) {
        if self.matrix.is_alone && self.matrix.elders.contains(&one.id) {
            self.expect_served(&one);
        }
        if self.random.chance(50) {
            return self.returns(one);
        }
        self.trace(|| format!("the allocation of {} ends", one.id));
        self.ends_at(address_of(&one));
    }

    pub(crate) fn register_a_ghost(&mut self) {
        self.matrix.instances += 1;
        let number = self.matrix.instances;
        let [_, _, high, low] = number.to_be_bytes();
        let address = SocketAddr::from(([10, 3, high, low], 8000));
        self.conducts.borrow_mut().insert(address, Conduct::Refuses);
        self.matrix.leaving.insert(address);
        let service = SERVICES[self.random.below(SERVICES.len())];
        self.joins(service, &format!("{GHOST}-{number}"), address);
    }

    pub(crate) fn take_back_ghosts(&mut self) {
        if self.matrix.is_alone {
            self.expect_no_ghosts();
        }
        self.take_back(|one| is_ghost(&one.id));
    }

    /// Somebody looks after what a restored Nomad has of the past: nothing is registered whose allocation has ended, and
    /// nothing runs on that is not.
    pub(crate) fn tidy_up(&mut self) {
        self.take_back_ghosts();
        if !self.policy.second_opinion {
            return;
        }
        let leaving = self.matrix.leaving.clone();
        self.take_back(|one| !one.id.starts_with(ATTACK) && leaving.contains(&address_of(one)));
        let all = self.nomad.table().values();
        let all = all.filter(|one| !one.id.starts_with(ATTACK));
        let registered: BTreeSet<_> = all.map(address_of).collect();
        let running = self.matrix.allocations.values();
        let forgotten: Vec<_> = running
            .filter(|at| !leaving.contains(at) && !registered.contains(at))
            .copied()
            .collect();
        for address in forgotten {
            self.ends_at(address);
        }
    }

    // === Attacks ===

    /// A registration whose name, tags or address would do harm if it reached the socket.
    pub(crate) fn register_an_attack(&mut self) {
        let (tag, address, port) = ATTACKS[self.random.below(ATTACKS.len())];
        self.matrix.instances += 1;
        let id = format!("{ATTACK}-{}\n;shutdown frontend fe", self.matrix.instances);
        let service = SERVICES[self.random.below(SERVICES.len())];
        let registration = Registration {
            id: id.into(),
            service: haproxy_nomad_sidecar::model::ServiceKey::new("default", service),
            alloc_id: "x;shutdown frontend fe".into(),
            job_id: service.into(),
            tags: vec!["haproxy.enable=true".to_owned(), tag.to_owned()],
            address: address.to_owned(),
            port,
            create_index: 0,
            modify_index: 0,
        };
        self.trace(|| format!("register an attack: {tag:?} at {address:?}:{port}"));
        let batch = self.nomad.register(registration);
        self.published(&batch);
    }

    pub(crate) fn take_back_attacks(&mut self) {
        self.take_back(|one| one.id.starts_with(ATTACK));
    }

    fn take_back(&mut self, is_gone: impl Fn(&Registration) -> bool) {
        let all = self.nomad.table().values();
        let gone: Vec<_> = all.filter(|one| is_gone(one)).cloned().collect();
        if !gone.is_empty() {
            self.deregister(&gone);
        }
    }
}

pub(crate) fn is_ghost(id: &str) -> bool {
    id.starts_with(GHOST)
}

pub(crate) fn address_of(one: &Registration) -> SocketAddr {
    SocketAddr::new(one.address.parse().unwrap(), one.port.try_into().unwrap())
}

const ATTACK: &str = "attack";
const GHOST: &str = "ghost";

const ATTACKS: [(&str, &str, i64); 8] = [
    ("haproxy.weight=1;shutdown frontend fe", "10.2.0.1", 80),
    (
        "haproxy.backend.name=web\nshutdown frontend fe",
        "10.2.0.2",
        80,
    ),
    (
        "haproxy.backend.name=web/nomad1 state maint",
        "10.2.0.3",
        80,
    ),
    ("haproxy.check.inter=1s <<", "10.2.0.4", 80),
    ("haproxy.enable=true", "10.2.0.5;del server web/nomad1", 80),
    ("haproxy.enable=true", "evil.example", 80),
    ("haproxy.enable=true", "10.2.0.6", 99_999),
    ("haproxy.enable=true", "10.2.0.7\nshow info", 0),
];
