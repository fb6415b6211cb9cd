//! A scenario of chance: what happens to Nomad, HAProxy, the sidecar, the instances and by an operator's hand, and then
//! the rest in which everything must be right again.

use std::{net::SocketAddr, time::Duration};

use haproxy_nomad_sidecar::{
    catalog::FailureKind,
    model::{Registration, ServiceKey},
};

use crate::{
    haproxy_model::{Backend, Check, Conduct, Config, ServerLine},
    invariants::RIGHT_AGAIN,
    laws::Deed,
    link::Health,
    nomad_model::DELETION,
    routes::tags_of,
    world::{Event, World},
};

/// What may go wrong on the session, each in percent.
#[derive(Default)]
pub(crate) struct Faults {
    pub(crate) connect_fails: u64,
    pub(crate) cut_after_line: u64,
    pub(crate) answer_lost: u64,
    pub(crate) nonsense: u64,
    /// So many of the next answers come garbled.
    pub(crate) garbled: u64,
    /// Changes in this backend are answered in unknown words.
    pub(crate) refusing: Option<String>,
}

pub(crate) const VERSIONS: [&str; 5] = [
    "2.6.12-1+deb12u3",
    "2.8.25",
    "3.0.11-1+deb13u4",
    "3.2.26",
    "3.4.7",
];

/// The services, and the backend of each.
const SERVICES: [(&str, &str, &[&str]); 8] = [
    ("default", "web", &[]),
    ("default", "api", &[]),
    ("default", "shop", &[]),
    ("default", "shop-b", &["haproxy.backend.name=shop"]),
    ("default", "photo-books", &[]),
    ("default", "cache", &[]),
    ("default", "nowhere", &[]),
    ("team", "web", &[]),
];

const TAGS: [&[&str]; 14] = [
    &[],
    &[],
    &[],
    &["haproxy.weight=7"],
    &["haproxy.weight=0"],
    &["haproxy.check.disabled"],
    &["haproxy.maxconn=50"],
    &["haproxy.check.rise=3", "haproxy.weight=20"],
    &["haproxy.weight=banana"],
    &["haproxy.canary=true"],
    &["haproxy.hold=3s"],
    &["haproxy.min-ready=2"],
    &["haproxy.drain.timeout=2s"],
    &["haproxy.drain.timeout=1s", "haproxy.drain.sessions=close"],
];

/// How long things go wrong.
const CHAOS: Duration = Duration::from_mins(1);
/// How long it may take afterwards until everything is right: ten minutes for what was deleted without an event.
const RECOVERY: Duration = Duration::from_mins(11);

/// One backend of each kind, with an operator's servers among them.
pub(crate) fn config() -> Config {
    let placeholder: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let fast = Check::every(Duration::from_millis(500));
    let operators =
        |name: &str, port: u16| ServerLine::new(name, SocketAddr::from(([192, 0, 2, 1], port)));
    let disabled = |line: ServerLine| ServerLine {
        disabled: true,
        ..line
    };
    let checked = |line: ServerLine| ServerLine {
        check: Some(Check::DEFAULT),
        ..line
    };
    let mut cache = Backend::new("cache").template("nomad", 6, placeholder, Some(fast));
    cache.is_static = true;
    Config {
        backends: vec![
            Backend::new("web")
                .template("nomad", 4, placeholder, Some(fast))
                .named()
                .sticky()
                .server(checked(operators("static1", 81)))
                .server(operators("nomad99", 82)),
            Backend::new("api")
                .template("nomad", 20, placeholder, None)
                .named(),
            Backend::new("shop")
                .server(operators("old1", 83))
                .server(disabled(operators("nomad-00000000-00000000", 84))),
            Backend::new("photo_books"),
            cache,
            Backend::new("team.web").template("srv", 3, placeholder, Some(fast)),
            Backend::new("nomad")
                .server(operators("nomad1", 85))
                .server(disabled(operators("nomad2", 86))),
            Backend::new("operators").template("nomad", 3, placeholder, Some(fast)),
        ],
    }
}

impl World {
    /// The world of a seed.
    pub(crate) fn of_seed(seed: u64) -> Self {
        let version = VERSIONS[usize::try_from(seed % 5).unwrap()];
        let mut world = Self::new(seed, version, config(), seed.is_multiple_of(2));
        world.keeps_state_file = seed % 4 < 2;
        for _ in 0..world.random.below(12) {
            world.register_one();
        }
        let start = world.random.millis(0, 3_000);
        world.after(start, Event::StartSidecar);
        world.clients_come();
        world.after(Duration::ZERO, Event::Chaos);
        world
    }

    /// The whole of a scenario of chance.
    pub(crate) fn play(&mut self) {
        self.run_until(CHAOS);
        self.heal();
        self.expect_rest();
    }

    /// No fault from now on.
    pub(crate) fn heal(&mut self) {
        self.trace(|| "=== everything is healed".to_owned());
        self.faults = Faults::default();
        self.kill_after_changes = None;
        self.link.health = None;
        self.unreadable = None;
        self.stalled_until = self.now;
        self.start_haproxy();
        self.start_sidecar();
        self.clients_hurry();
    }

    /// Everything becomes right, and then nothing is written any more, whatever is read or restarted.
    pub(crate) fn expect_rest(&mut self) {
        let deadline = self.now + RECOVERY;
        while self.violation.is_none() {
            self.run_for(Duration::from_secs(1));
            let Some(missing) = self.missing() else { break };
            if self.now > deadline {
                return self.violated(RIGHT_AGAIN, &missing);
            }
        }
        // Every backoff is over by then.
        self.run_for(Duration::from_secs(90));
        self.trace(|| "=== quiet from now on".to_owned());
        self.quiet = true;
        let now = self.now;
        if let Some(sidecar) = &mut self.sidecar {
            sidecar.mirror.resync(now);
        }
        self.drain_mirror();
        self.run_for(Duration::from_secs(10));
        self.kill_sidecar(Duration::from_secs(1));
        self.run_for(Duration::from_secs(15));
        if let Some(missing) = self.missing().filter(|_| self.violation.is_none()) {
            self.violated("what is right stays right", &missing);
        }
        self.quiet = false;
    }

    /// One thing happens, and the next later.
    pub(crate) fn chaos(&mut self) {
        if self.now >= CHAOS {
            return;
        }
        match self.random.below(100) {
            0..30 => self.register_one(),
            30..45 => self.deregister_one(),
            45..52 => self.change_one(),
            52..55 => self.service_goes_and_returns(),
            55..60 => self.trouble_in_nomad(),
            60..64 => self.trouble_on_the_stream(),
            64..66 => self.nomad_restarts(),
            66..69 => self.reload_haproxy(),
            69..71 => {
                let back = self.random.millis(10, 12_000);
                self.kill_haproxy(back);
            }
            71..75 => {
                let back = self.random.millis(10, 8_000);
                self.kill_sidecar(back);
            }
            75..78 => {
                let lines = 1 + self.random.next() % 20;
                self.kill_after_changes = Some(self.changes + lines);
            }
            78..82 => self.trouble_on_the_session(),
            82..86 => self.operator_acts(),
            86..90 => self.one_comes_and_goes(),
            _ => self.conduct_changes(),
        }
        let pause = self.random.millis(5, 1_500);
        self.after(pause, Event::Chaos);
    }

    // === The catalog ===

    fn address(&mut self) -> SocketAddr {
        let host = u8::try_from(1 + self.random.below(24)).unwrap();
        SocketAddr::from(([10, 0, 0, host], 8000))
    }

    pub(crate) fn register_one(&mut self) {
        let service = SERVICES[self.random.below(SERVICES.len())];
        let id = format!("{}-{}", service.1, self.random.below(9));
        let address = self.address();
        let tags = TAGS[self.random.below(TAGS.len())];
        self.register(service, &id, address, tags);
    }

    pub(crate) fn register(
        &mut self,
        (namespace, name, own): (&str, &str, &[&str]),
        id: &str,
        address: SocketAddr,
        tags: &[&str],
    ) {
        let routes = tags_of(namespace, name);
        let tags = [&["haproxy.enable=true"], own, routes, tags].concat();
        let registration = Registration {
            id: id.into(),
            service: ServiceKey::new(namespace, name),
            alloc_id: self.alloc_id(id).into(),
            job_id: name.into(),
            tags: tags.iter().map(ToString::to_string).collect(),
            address: address.ip().to_string(),
            port: address.port().into(),
            create_index: 0,
            modify_index: 0,
        };
        let known = self.conducts.borrow().contains_key(&address);
        if !known {
            // A group's services are registered before its tasks listen; some never do.
            self.conducts.borrow_mut().insert(address, Conduct::Refuses);
            if !self.random.chance(8) {
                let start = self.random.millis(0, 4_000);
                self.after(start, Event::Conduct(address, Conduct::Serves));
            }
        }
        self.trace(|| format!("register {id} at {address} {tags:?}"));
        let batch = self.nomad.register(registration);
        self.published(&batch);
    }

    /// An allocation has several services, but in the matrix.
    fn alloc_id(&self, id: &str) -> String {
        let of_few = id.len() * 7 + usize::from(id.as_bytes()[id.len() - 1]);
        match self.matrix.place {
            Some(_) => format!("{:08x}", self.matrix.instances),
            None => format!("{of_few:08x}"),
        }
    }

    fn any_registration(&mut self) -> Option<Registration> {
        let all: Vec<_> = self.nomad.table().values().cloned().collect();
        self.random.pick(&all).cloned()
    }

    fn deregister_one(&mut self) {
        let Some(one) = self.any_registration() else {
            return;
        };
        if self.random.chance(15) {
            self.trace(|| format!("collect {} without an event", one.id));
            return self.nomad.collect(&one);
        }
        let mut gone = vec![one];
        if self.random.chance(20) {
            // Its node is lost.
            let all = self.nomad.table().values();
            gone = all
                .filter(|other| other.address == gone[0].address)
                .cloned()
                .collect();
        }
        self.deregister(&gone);
    }

    pub(crate) fn deregister(&mut self, gone: &[Registration]) {
        self.trace(|| {
            format!(
                "deregister {:?}",
                gone.iter().map(|one| &one.id).collect::<Vec<_>>()
            )
        });
        let batch = self.nomad.deregister(DELETION, gone);
        self.published(&batch);
    }

    /// Other tags, another address, or the same address under another ID.
    fn change_one(&mut self) {
        let Some(mut one) = self.any_registration() else {
            return;
        };
        match self.random.below(4) {
            0 => {
                let tags = TAGS[self.random.below(TAGS.len())];
                one.tags.truncate(1);
                one.tags.extend(tags.iter().map(ToString::to_string));
            }
            1 => one.address = self.address().ip().to_string(),
            2 => one.id = format!("{}-again", one.id).into(),
            _ => one.tags = vec!["haproxy.enable=false".to_owned()],
        }
        self.trace(|| format!("change {} at {} {:?}", one.id, one.address, one.tags));
        let batch = self.nomad.register(one);
        self.published(&batch);
    }

    /// The same registration leaves and returns, while its server is drained, say.
    fn one_comes_and_goes(&mut self) {
        let Some(one) = self.any_registration() else {
            return;
        };
        self.deregister(std::slice::from_ref(&one));
        let away = self.random.millis(5, 12_000);
        self.after(away, Event::Return(one));
    }

    /// It registers again, if nothing has taken its place.
    pub(crate) fn returns(&mut self, one: Registration) {
        let key = (one.service.clone(), one.id.clone());
        if !self.nomad.table().contains_key(&key) {
            self.trace(|| format!("return {} at {}", one.id, one.address));
            let batch = self.nomad.register(one);
            self.published(&batch);
        }
    }

    fn service_goes_and_returns(&mut self) {
        let Some(one) = self.any_registration() else {
            return;
        };
        let all = self.nomad.table().values();
        let gone: Vec<_> = all
            .filter(|other| other.service == one.service)
            .cloned()
            .collect();
        self.deregister(&gone);
        if self.random.chance(60) {
            for one in gone {
                self.trace(|| format!("return {}", one.id));
                let batch = self.nomad.register(one);
                self.published(&batch);
            }
        }
    }

    // === What goes wrong ===

    fn trouble_in_nomad(&mut self) {
        let one = self.any_registration();
        let health = match self.random.below(13) {
            0 => Health::Away,
            1 => Health::Hangs,
            2 => Health::Failing(FailureKind::Denied),
            3 => Health::Failing(FailureKind::BadToken),
            4 => Health::Failing(FailureKind::ServerError),
            5 => Health::Failing(FailureKind::NotBelievable),
            6 => Health::Failing(FailureKind::Limited),
            7 => Health::NoStream,
            8 => Health::ShortLists,
            9 => {
                self.unreadable = one.map(|one| one.service);
                Health::OneUnreadable
            }
            _ => Health::Up,
        };
        self.trace(|| format!("nomad: {health:?}"));
        self.link.health = Some(health);
        if matches!(health, Health::Away | Health::NoStream) {
            self.break_stream();
        }
    }

    fn trouble_on_the_stream(&mut self) {
        match self.random.below(4) {
            0 => self.silence_stream(),
            1 => self.nomad.pass_by(150),
            2 => self.nomad.pass_by(3),
            _ => self.break_stream(),
        }
    }

    fn nomad_restarts(&mut self) {
        if self.random.chance(40) {
            let ago = self.random.below(12);
            return self.restore_nomad(ago);
        }
        self.restart_nomad();
    }

    /// What it publishes again is the past.
    pub(crate) fn restart_nomad(&mut self) {
        self.trace(|| "nomad restarts".to_owned());
        self.break_stream();
        self.lose_answers();
        let logs = self.random.below(60);
        self.nomad.restart(logs);
    }

    pub(crate) fn restore_nomad(&mut self, changes_ago: usize) {
        self.trace(|| format!("nomad is restored to {changes_ago} changes ago"));
        self.break_stream();
        self.lose_answers();
        self.nomad.restore(changes_ago);
        self.both(|world| world.ledger.forget_indexes(false));
    }

    fn trouble_on_the_session(&mut self) {
        match self.random.below(4) {
            0 => self.cut("by chance", None),
            1 => {
                let time = self.random.millis(10, 7_000);
                self.trace(|| format!("haproxy stalls for {time:?}"));
                self.stalled_until = self.now + time;
            }
            2 => {
                self.faults = Faults {
                    connect_fails: 50,
                    cut_after_line: 5,
                    answer_lost: 5,
                    nonsense: 1,
                    ..Faults::default()
                };
            }
            _ => {
                self.faults = Faults::default();
                let lag = self.random.millis(0, 150);
                if let Some((_, process)) = self.current() {
                    process.set_address_lag(lag);
                }
            }
        }
    }

    fn operator_acts(&mut self) {
        let held: Vec<_> = self.operator.held.keys().cloned().collect();
        let undo = self.random.chance(40);
        if undo && let Some(server) = self.random.pick(&held).cloned() {
            return self.release(&server);
        }
        if let Some(view) = self.any_in_service() {
            let deeds = [
                Deed::Maintenance,
                Deed::Drain,
                Deed::Weight,
                Deed::WeightZero,
            ];
            // Where the tags ask for weight 0, or the balance method takes none, less can be told apart.
            let choice = if view.weight == 0 || view.backend == "cache" {
                1
            } else {
                deeds.len()
            };
            let deed = deeds[self.random.below(choice)];
            self.hold(&view, deed);
        }
    }

    fn conduct_changes(&mut self) {
        let addresses: Vec<_> = self.conducts.borrow().keys().copied().collect();
        if let Some(address) = self.random.pick(&addresses).copied() {
            let conduct = match self.random.below(5) {
                0 => Conduct::Refuses,
                1 => Conduct::Fails,
                _ => Conduct::Serves,
            };
            self.conducts.borrow_mut().insert(address, conduct);
        }
    }
}
