//! A job as Nomad runs it, in the order and with the pauses that were seen on real agents (`docs/verified`): an
//! allocation is registered before its task listens; when it stops it is deregistered first, then `shutdown_delay`
//! passes, then its task gets SIGTERM, and what replaces it is placed only after that task has ended.
//!
//! Each allocation registers two services at the same port, one of HTTP and one of TCP.

use std::{
    collections::BTreeSet,
    fmt::Display,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use haproxy_nomad_sidecar::model::SplitMix64;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    day::Setup,
    support::{
        app::{App, loopback},
        fake_nomad::{Deletion, ServiceRegistration},
        haproxy::now,
        world::{ENABLED, Server, World},
    },
};

/// The `update` block's, short: Nomad waits so long after a check has passed.
const MIN_HEALTHY_TIME: Duration = Duration::from_millis(300);
/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// One job with one group, and what it has gone through.
pub(crate) struct Job<'a> {
    world: &'a World,
    runtime: &'a Handle,
    service: String,
    setup: Setup,
    random: Mutex<SplitMix64>,
    placed: AtomicU32,
    began: Instant,
    story: Mutex<Vec<String>>,
}

/// One allocation.
pub(crate) struct Alloc {
    pub(crate) app: App,
    rows: [ServiceRegistration; 2],
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        world: &'a World,
        runtime: &'a Handle,
        service: &str,
        seed: u64,
        setup: Setup,
    ) -> Self {
        let of_name = service.bytes().fold(seed, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        Self {
            world,
            runtime,
            service: service.to_owned(),
            setup,
            random: Mutex::new(SplitMix64::new(of_name)),
            placed: AtomicU32::new(0),
            began: Instant::now(),
            story: Mutex::default(),
        }
    }

    /// The services, which are also the names of their backends.
    pub(crate) fn services(&self) -> [String; 2] {
        [self.service.clone(), format!("{}-tcp", self.service)]
    }

    // === what Nomad does ===

    /// Places an allocation whose task boots for 0.3 to 3 seconds.
    pub(crate) fn place(&self, tags: &[&str]) -> Alloc {
        let boots = self.millis(300, 3000);
        self.place_booting(tags, boots)
    }

    /// The same, with a task that boots for so long.
    pub(crate) fn place_booting(&self, tags: &[&str], boots: Duration) -> Alloc {
        let number = 1 + self.placed.fetch_add(1, Ordering::SeqCst);
        let name = format!("{}#{number}", self.service);
        let address = SocketAddr::from((loopback(), 0));
        let app = App::boot(self.runtime, &name, address, boots).expect("a port can be had");
        let port = i64::from(app.address().port());
        let rows = self.services().map(|service| {
            ServiceRegistration::new(&service, number, port)
                .address(&app.address().ip().to_string())
                .tags(&[&[ENABLED], self.setup.tags, tags].concat())
        });
        let alloc = Alloc { app, rows };
        self.register(&alloc);
        self.tell(format!(
            "{name} at {} is placed, boots for {boots:?}",
            alloc.app.address()
        ));
        alloc
    }

    /// Its services, one after the other.
    pub(crate) fn register(&self, alloc: &Alloc) {
        for row in &alloc.rows {
            self.world.nomad.register(row.clone());
            thread::sleep(self.setup.between_services);
        }
    }

    /// Its services, one after the other.
    pub(crate) fn deregister(&self, alloc: &Alloc) {
        for row in &alloc.rows {
            let kind = Deletion::ServiceDeregistration;
            self.world.nomad.deregister(&[row.key()], kind);
            thread::sleep(self.setup.between_services);
        }
        self.tell(format!("{} is deregistered", alloc.app.name()));
    }

    /// The same ID with other tags: an update in place, or the promotion of a canary.
    pub(crate) fn retag(&self, alloc: &mut Alloc, tags: &[&str]) {
        for row in &mut alloc.rows {
            *row = row
                .clone()
                .tags(&[&[ENABLED], self.setup.tags, tags].concat());
        }
        self.register(alloc);
        self.tell(format!("{} has the tags {tags:?}", alloc.app.name()));
    }

    /// Waits until the task listens and its check has passed for `min_healthy_time`.
    pub(crate) fn until_healthy(&self, alloc: &Alloc) {
        self.until(&format!("{} listens", alloc.app.name()), || {
            alloc.app.listens()
        });
        thread::sleep(MIN_HEALTHY_TIME);
        self.tell(format!("{} is healthy", alloc.app.name()));
    }

    /// Stops an allocation: returns when its task has ended.
    pub(crate) fn stop(&self, alloc: &Alloc) -> Instant {
        self.deregister(alloc);
        thread::sleep(self.setup.shutdown_delay);
        let told = Instant::now();
        alloc.app.terminate();
        self.tell(format!("{} gets SIGTERM", alloc.app.name()));
        self.until(&format!("{} has ended", alloc.app.name()), || {
            alloc.app.has_ended()
        });
        self.tell(format!("{} has ended", alloc.app.name()));
        told
    }

    /// Stops all of them at the same time, as a smaller `count` does.
    pub(crate) fn stop_together(&self, allocs: &[Alloc]) {
        thread::scope(|scope| {
            for alloc in allocs {
                scope.spawn(|| self.stop(alloc));
            }
        });
    }

    // === what is waited for ===

    /// Waits until exactly these are in rotation in both backends.
    pub(crate) fn until_served_by<'b>(&self, allocs: impl IntoIterator<Item = &'b Alloc>) {
        let expected: BTreeSet<_> = allocs
            .into_iter()
            .map(|alloc| alloc.app.address().to_string())
            .collect();
        self.until(&format!("{expected:?} are in rotation"), || {
            self.services().iter().all(|service| {
                let servers = self.world.servers(service).into_values();
                let in_rotation = servers.filter(Server::is_in_rotation);
                in_rotation
                    .map(|server| server.address)
                    .collect::<BTreeSet<_>>()
                    == expected
            })
        });
        self.tell(format!("{} are in rotation", expected.len()));
    }

    /// The names of the servers in rotation of both backends.
    pub(crate) fn servers_in_rotation(&self) -> BTreeSet<String> {
        let services = self.services();
        let servers = services.iter().flat_map(|service| {
            let servers = self.world.servers(service).into_iter();
            let in_rotation = servers.filter(|(_, server)| server.is_in_rotation());
            in_rotation.map(move |(name, _)| format!("{service}/{name}"))
        });
        servers.collect()
    }

    /// Asks twenty times a second: HAProxy's socket has other clients.
    pub(crate) fn until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = now() + PATIENCE;
        while !condition() {
            assert!(
                now() < deadline,
                "{}: waited {PATIENCE:?} until {what}; so far:\n{}",
                self.service,
                self.story()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    // === chance, and the story ===

    pub(crate) fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.random() % (most - least + 1))
    }

    pub(crate) fn random(&self) -> u64 {
        self.random.lock().expect("no thread panics here").next()
    }

    pub(crate) fn tell(&self, what: impl Display) {
        let at = self.began.elapsed().as_secs_f64();
        let mut story = self.story.lock().expect("no thread panics here");
        story.push(format!("  {at:7.3} {what}"));
    }

    /// What happened so far, by seconds since the beginning.
    pub(crate) fn story(&self) -> String {
        self.story.lock().expect("no thread panics here").join("\n")
    }

    pub(crate) fn began(&self) -> Instant {
        self.began
    }
}
