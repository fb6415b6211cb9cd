//! A HAProxy without its sockets and its clock: the runtime API as text in, text out, for simulations.
//!
//! One [`Model`] is one process. It answers with the very words of its version and moves its servers through
//! maintenance, drain, health checks and late address changes as that version does; `tests/haproxy_model.rs` holds
//! it against the real ones. It gives requests to its servers, says which would be given some, and keeps a list of those
//! that were before their check had passed. It does not do queues, framing (prompts, sessions: the caller's), TLS, agents, tracking, DNS.
//! A command that it does not know is a panic, so that a simulation cannot rest on a guess.
//!
//! Source: the management guide ("Unix Socket commands") and runs of 2.6.12, 2.8.25, 3.0.11, 3.2.26, 3.4.7.

mod commands;
mod config;
mod made;
mod maps;
mod server;
mod show;
mod state_file;
#[cfg(test)]
mod tests;
mod traffic;

use std::{collections::BTreeMap, net::SocketAddr, rc::Rc, time::Duration};

pub(crate) use config::{Backend, Check, Config, ServerLine};
pub(crate) use server::Rotation;
use server::Server;
use show::StatLayout;
pub(crate) use traffic::{Cut, Dispatch, Wish};

/// What is behind an address, as HAProxy's check sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Accepts connections and answers 200.
    Serves,
    /// Accepts connections and answers 503.
    Fails,
    /// Accepts no connections.
    Refuses,
}

/// How addresses behave over time.
pub(crate) type World = Rc<dyn Fn(SocketAddr, Duration) -> Conduct>;

/// `major.minor`; what differs between patches of one line is not modelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line(u16, u16);

/// A server was given traffic though no check had passed at its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leak {
    /// When it began.
    pub(crate) at: Duration,
    /// `backend/server`.
    pub(crate) server: String,
    /// Where the traffic would have gone.
    pub(crate) address: SocketAddr,
    /// Only clients that have this cookie were sent there.
    pub(crate) cookie: Option<String>,
}

/// One server, for assertions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(crate) struct View {
    /// Its backend.
    pub(crate) backend: String,
    /// Its name.
    pub(crate) name: String,
    /// Where traffic goes at this moment.
    pub(crate) address: SocketAddr,
    /// `srv_op_state`.
    pub(crate) oper: u8,
    /// `srv_admin_state`.
    pub(crate) admin: u8,
    /// `srv_uweight`.
    pub(crate) weight: u16,
    /// `slim`.
    pub(crate) maxconn: u32,
    /// `srv_check_health`.
    pub(crate) health: u16,
    /// `scur`.
    pub(crate) sessions: usize,
    /// When the oldest of them began.
    pub(crate) oldest_session: Option<Duration>,
    /// Idle connections.
    pub(crate) idle: usize,
    /// When it was ready last, if it is not.
    pub(crate) left_ready: Duration,
    /// An address that was asked for is not in force yet.
    pub(crate) is_moving: bool,
    /// Made by `add server`.
    pub(crate) dynamic: bool,
    /// It would be given new requests.
    pub(crate) in_rotation: bool,
    /// Its check has passed since it was added, or since it has this address.
    pub(crate) has_passed: bool,
    /// Its check is more than just good enough for UP: it has passed since the server left maintenance.
    pub(crate) is_sound: bool,
    /// Its check found it DOWN, and has not found it UP since.
    pub(crate) found_down: bool,
    /// Since when.
    pub(crate) rotation: Rotation,
}

/// One HAProxy process. It dies by being dropped.
#[derive(Clone)]
pub(crate) struct Model {
    version: String,
    line: Line,
    stat_layout: Rc<StatLayout>,
    config: Config,
    world: World,
    pid: u32,
    started: Duration,
    now: Duration,
    connections: u64,
    stopping: bool,
    /// How long after its answer `set server addr` is in force, where it is late (2.9 and later).
    address_lag: Duration,
    /// In the order of the configuration, each with its servers in the order of `show servers state`.
    backends: Vec<(Backend, Vec<Server>)>,
    /// By name.
    maps: BTreeMap<String, maps::Map>,
    leaks: Vec<Leak>,
    cuts: Vec<Cut>,
    /// Nothing changes by itself before that; none if that has to be looked for.
    quiet_until: Option<Duration>,
}

impl Model {
    /// The process `pid` of `version` (as in `show info`: packagers' suffixes are welcome), started at `now`.
    pub(crate) fn new(
        version: &str,
        config: Config,
        world: World,
        pid: u32,
        now: Duration,
    ) -> Self {
        let mut numbers = version.split(['.', '-']).map(str::parse);
        let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
            panic!("{version} is not a version");
        };
        let line = Line(major, minor);
        let mut model = Self {
            version: version.to_owned(),
            line,
            stat_layout: Rc::new(StatLayout::new(line)),
            config,
            world,
            pid,
            started: now,
            now,
            connections: 0,
            stopping: false,
            address_lag: if line < Line(2, 9) {
                Duration::ZERO
            } else {
                Duration::from_millis(1)
            },
            backends: Vec::new(),
            maps: BTreeMap::new(),
            leaks: Vec::new(),
            cuts: Vec::new(),
            quiet_until: None,
        };
        model.load();
        model
    }

    /// The worker is replaced by a fresh one: the configuration as in the file, the dynamic servers gone. Returns the
    /// old process, which goes on answering the connections that were open: `Proxy is disabled.`, or a change of
    /// something that nobody uses any more.
    pub(crate) fn reload(&mut self, now: Duration, pid: u32) -> Self {
        self.advance(now);
        let mut old = self.clone();
        old.stopping = true;
        old.quiet_until = None;
        let maps = self.maps.iter();
        *self = Self {
            address_lag: self.address_lag,
            maps: maps
                .map(|(name, map)| (name.clone(), map.of_the_next_process()))
                .collect(),
            ..Self::new(
                &self.version,
                self.config.clone(),
                Rc::clone(&self.world),
                pid,
                now,
            )
        };
        old
    }

    /// How late the changes of addresses are that are asked for from now on. Nothing is late before 2.9.
    pub(crate) fn set_address_lag(&mut self, lag: Duration) {
        if self.line >= Line(2, 9) {
            self.address_lag = lag;
        }
    }

    /// Somebody connected to the socket, or sent a request to a frontend: `CumConns`.
    pub(crate) fn count_connection(&mut self) {
        self.connections += 1;
    }

    /// When something will change by itself, if ever.
    pub(crate) fn next_change(&self) -> Option<Duration> {
        self.servers_in_order()
            .filter_map(|(_, server)| self.next_of(server))
            .min()
    }

    /// Lets everything happen that is due by `now`, each thing at its own time.
    pub(crate) fn advance(&mut self, now: Duration) {
        if self.quiet_until.is_some_and(|until| now < until) {
            self.now = now;
            return;
        }
        while let Some(at) = self.next_change().filter(|at| *at <= now) {
            self.now = at;
            let world = Rc::clone(&self.world);
            let is_stopping = self.stopping;
            for (config, servers) in &mut self.backends {
                for server in servers {
                    while server.pending.first().is_some_and(|(due, _)| *due <= at) {
                        let (_, address) = server.pending.remove(0);
                        server.move_to(address);
                    }
                    if !is_stopping && server.next_check.is_some_and(|due| due <= at) {
                        let oper = server.oper;
                        let conduct = world(server.check_target(), at);
                        server.check_due(at, config.httpchk, conduct);
                        if server.oper != oper {
                            server.changed = at;
                        }
                    }
                }
            }
            self.note_leaks();
        }
        assert!(now >= self.now, "time runs forward");
        self.now = now;
        self.quiet_until = Some(self.next_change().unwrap_or(Duration::MAX));
    }

    /// All servers, as they are.
    pub(crate) fn servers(&self) -> Vec<View> {
        self.servers_in_order()
            .map(|(backend, server)| view(backend, server))
            .collect()
    }

    /// One of them.
    pub(crate) fn server(&self, backend: &str, name: &str) -> Option<View> {
        self.servers_in_order()
            .find(|(config, server)| config.name == backend && server.name == name)
            .map(|(backend, server)| view(backend, server))
    }

    /// Servers with a check that were given traffic at an address before a check had passed there, each once for
    /// each address. A server that was put back at once on purpose is among them.
    pub(crate) fn leaks(&self) -> &[Leak] {
        &self.leaks
    }

    fn load(&mut self) {
        for backend in &self.config.backends {
            let count = u32::try_from(backend.servers.len()).expect("few servers");
            let servers = (0..count)
                .zip(&backend.servers)
                .map(|(position, line)| {
                    let id = position + 1;
                    Server::configured(id, line, self.line, (position, count), self.now)
                })
                .collect();
            self.backends.push((backend.clone(), servers));
        }
    }

    fn servers_in_order(&self) -> impl Iterator<Item = (&Backend, &Server)> {
        self.backends
            .iter()
            .flat_map(|(config, servers)| servers.iter().map(move |server| (config, server)))
    }

    /// A process on its way out checks nobody.
    fn next_of(&self, server: &Server) -> Option<Duration> {
        let pending = server.pending.first().map(|(due, _)| *due);
        let check = server.next_check.filter(|_| !self.stopping);
        [pending, check].into_iter().flatten().min()
    }

    fn note_leaks(&mut self) {
        let now = self.now;
        for (config, servers) in &mut self.backends {
            for server in servers {
                server.rotation = match (server.rotation, server.in_rotation()) {
                    (Rotation::Out { .. }, true) => Rotation::In { since: now },
                    (Rotation::In { .. }, false) => Rotation::Out { since: Some(now) },
                    (rotation, _) => rotation,
                };
                if server.is_operators() || server.check.is_none() || server.has_passed {
                    continue;
                }
                let cookie = (!server.in_rotation() && server.serves_its_cookie())
                    .then(|| server.cookie.clone())
                    .flatten();
                let leaks = server.in_rotation() || cookie.is_some();
                if leaks && !server.leaked.contains(&cookie) {
                    server.leaked.push(cookie.clone());
                    self.leaks.push(Leak {
                        at: now,
                        server: format!("{}/{}", config.name, server.name),
                        address: server.address,
                        cookie,
                    });
                }
            }
        }
    }
}

fn view(backend: &Backend, server: &Server) -> View {
    View {
        backend: backend.name.clone(),
        name: server.name.clone(),
        address: server.address,
        oper: server.oper,
        admin: server.admin,
        weight: server.weight,
        maxconn: server.maxconn,
        health: server.health,
        sessions: server.sessions.len(),
        oldest_session: server.sessions.iter().map(|session| session.since).min(),
        idle: server.idle.len(),
        left_ready: server.left_ready,
        is_moving: server
            .pending
            .iter()
            .any(|(_, address)| *address != server.address),
        dynamic: server.dynamic,
        in_rotation: server.in_rotation(),
        has_passed: server.has_passed,
        is_sound: server.has_passed && server.health > server.rise(),
        found_down: server.found_down,
        rotation: server.rotation,
    }
}
