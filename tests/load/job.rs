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
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use haproxy_nomad_sidecar::model::SplitMix64;
use tokio::{runtime::Handle, time::Instant};

use crate::{
    config::{MADE, Maps, SLOTS, profile},
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
    maps: &'a Maps,
    service: String,
    /// Begins the names of its instances. That of the service, but for [`Job::sibling`].
    family: String,
    /// By which requests find it, where they have to.
    port: u16,
    setup: Setup,
    random: Mutex<SplitMix64>,
    placed: AtomicU32,
    began: Instant,
    story: Arc<Mutex<Vec<String>>>,
    /// What took too long.
    too_long: Mutex<Vec<String>>,
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
        maps: &'a Maps,
        service: &str,
        port: u16,
        seed: u64,
        setup: Setup,
    ) -> Self {
        let of_name = service.bytes().fold(seed, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(byte.into())
        });
        Self {
            world,
            runtime,
            maps,
            service: service.to_owned(),
            family: service.to_owned(),
            port,
            setup,
            random: Mutex::new(SplitMix64::new(of_name)),
            placed: AtomicU32::new(0),
            began: Instant::now(),
            story: Arc::default(),
            too_long: Mutex::default(),
        }
    }

    /// Another job, which claims the same routes.
    pub(crate) fn sibling(&self) -> Self {
        Self {
            service: format!("{}-next", self.service),
            family: format!("{}#next", self.family),
            random: Mutex::new(SplitMix64::new(self.random())),
            placed: AtomicU32::new(0),
            story: Arc::clone(&self.story),
            too_long: Mutex::default(),
            ..*self
        }
    }

    /// The services, which are also the names of their backends.
    pub(crate) fn services(&self) -> [String; 2] {
        [self.service.clone(), format!("{}-tcp", self.service)]
    }

    /// Whom requests of HTTP ask for.
    pub(crate) fn host(&self) -> String {
        let family = self.family.split('#').next().unwrap_or_default();
        format!("{family}.example")
    }

    fn is_routed(&self) -> bool {
        !self.setup.servers.contains(&SLOTS) || !self.service.ends_with(SLOTS)
    }

    /// The tags of its two services, with their routes or without.
    fn tagged(&self, rows: &mut [ServiceRegistration; 2], tags: &[&str], with_routes: bool) {
        let routes = [
            format!("haproxy.domain={}", self.host()),
            format!("haproxy.port={}", self.port),
        ];
        let profile = format!("haproxy.backend.profile={}", profile("tcp"));
        for (at, row) in rows.iter_mut().enumerate() {
            let mut all = [&[ENABLED], self.setup.tags, tags].concat();
            if with_routes && self.is_routed() {
                all.push(&routes[at]);
            }
            if at == 1 && self.setup.servers.contains(&MADE) {
                all.push(&profile);
            }
            *row = row.clone().tags(&all);
        }
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
        let name = format!("{}#{number}", self.family);
        let address = SocketAddr::from((loopback(), 0));
        let app = App::boot(self.runtime, &name, address, boots).expect("a port can be had");
        let port = i64::from(app.address().port());
        let mut rows = self.services().map(|service| {
            ServiceRegistration::new(&service, number, port)
                .address(&app.address().ip().to_string())
        });
        self.tagged(&mut rows, tags, true);
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
        self.tagged(&mut alloc.rows, tags, true);
        self.register(alloc);
        self.tell(format!("{} has the tags {tags:?}", alloc.app.name()));
    }

    /// The same ID without its routes.
    pub(crate) fn give_up_routes(&self, alloc: &mut Alloc) {
        self.tagged(&mut alloc.rows, &[], false);
        self.register(alloc);
        self.tell(format!("{} claims no route", alloc.app.name()));
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

    /// Waits until exactly these are in rotation in both backends, and found there.
    pub(crate) fn until_served_by<'b>(&self, allocs: impl IntoIterator<Item = &'b Alloc>) {
        self.until_in_rotation(allocs);
        self.until_found();
    }

    /// Waits until its routes lead to its backends.
    pub(crate) fn until_found(&self) {
        if self.is_routed() {
            self.until("its routes lead to it", || self.is_found());
            self.tell(format!("routes lead to {}", self.service));
        }
    }

    pub(crate) fn is_found(&self) -> bool {
        let socket = self.world.haproxy.socket();
        self.maps.lead_to(&socket, &self.services())
    }

    /// Waits until exactly these are in rotation in both backends.
    pub(crate) fn until_in_rotation<'b>(&self, allocs: impl IntoIterator<Item = &'b Alloc>) {
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

    /// Tells, and remembers if it was too long.
    pub(crate) fn has_taken(&self, what: &str, took: Duration, at_most: Duration) {
        let text = format!("it took {took:.2?} {what}");
        self.tell(&text);
        if took > at_most {
            let mut too_long = self.too_long.lock().expect("no thread panics here");
            too_long.push(format!("{text}, and not {at_most:?}"));
        }
    }

    pub(crate) fn too_long(&self) -> Vec<String> {
        let too_long = self.too_long.lock().expect("no thread panics here");
        too_long.clone()
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
