//! A real HAProxy, a tap on its socket, a fake Nomad, and sidecars between them.
//!
//! HAProxy has two backends to follow: `slots` with server-template slots, and `dynamic` without servers. Each has a
//! frontend on a Unix socket. A service is followed because it has the name of a backend.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::SocketAddr,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::runtime::{self, Runtime};

use super::{
    fake_nomad::{Deletion, FakeNomad, Key, ServiceRegistration},
    haproxy::{Haproxy, HaproxyBin, binaries},
    http,
    sidecar::{Sidecar, soon, within},
    tap::Tap,
    toy::Toy,
};

/// A backend of slots, and one of dynamic servers.
pub(crate) const BOTH: [&str; 2] = ["slots", "dynamic"];

/// What a registration needs to be followed.
pub(crate) const ENABLED: &str = "haproxy.enable=true";

pub(crate) const DEFAULTS: &str = "
defaults
  mode http
  timeout connect 1s
  timeout client 5s
  timeout server 5s
  timeout check 1s
  retries 0
  option httpchk GET /health
";

/// Runs a test with every HAProxy there is, all at the same time.
pub(crate) fn on_every_line(test: impl Fn(&HaproxyBin) + Sync) {
    let bins = binaries();
    thread::scope(|scope| {
        let threads: Vec<_> = bins
            .iter()
            .map(|bin| (bin, scope.spawn(|| test(bin))))
            .collect();
        let mut failed = None;
        for (bin, thread) in threads {
            if let Err(panic) = thread.join() {
                eprintln!("failed with HAProxy {}", bin.version);
                failed = Some(panic);
            }
        }
        if let Some(panic) = failed {
            resume_unwind(panic);
        }
    });
}

/// A frontend and a backend of this name; `servers` are the lines of the backend.
pub(crate) fn section(name: &str, servers: &str) -> String {
    format!(
        "\nfrontend {name}-in\n  bind @DIR@/{name}.http mode 600\n  default_backend {name}\n\
         backend {name}\n  balance roundrobin\n{servers}"
    )
}

/// A template of `count` slots, checked often.
pub(crate) fn slots(count: u32) -> String {
    format!(
        "  server-template nomad 1-{count} slot.invalid:1 disabled init-addr last,127.0.0.1 check inter 100ms rise 2 fall 2\n"
    )
}

/// The configuration of [`World::start`].
pub(crate) fn config() -> String {
    [
        DEFAULTS,
        &section("slots", &slots(8)),
        &section("dynamic", ""),
    ]
    .concat()
}

/// A fake Nomad for tests that wait by blocking.
pub(crate) struct Nomad {
    fake: FakeNomad,
    runtime: Runtime,
}

impl Nomad {
    pub(crate) fn start() -> Self {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads can be had");
        Self {
            fake: runtime.block_on(FakeNomad::start()),
            runtime,
        }
    }

    /// The agent is gone: connections are refused.
    pub(crate) fn stop(&self) {
        self.runtime.block_on(self.fake.stop());
    }

    /// It listens again.
    pub(crate) fn resume(&self) {
        self.runtime.block_on(self.fake.resume());
    }
}

impl Deref for Nomad {
    type Target = FakeNomad;

    fn deref(&self) -> &FakeNomad {
        &self.fake
    }
}

/// A row of `show servers state`, without what moves by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// `127.0.0.1:8080`
    pub(crate) address: String,
    /// 0 stopped, 1 starting, 2 running, 3 stopping.
    pub(crate) operational: u8,
    /// The bits of `srv_admin_state`.
    pub(crate) admin: u8,
    pub(crate) weight: u16,
}

impl Server {
    /// READY and UP.
    pub(crate) fn is_in_rotation(&self) -> bool {
        self.operational == 2 && self.admin & 0b11_1011 == 0
    }
}

/// Everything but the sidecar. It is torn down when dropped.
pub(crate) struct World {
    pub(crate) tap: Tap,
    pub(crate) haproxy: Haproxy,
    pub(crate) nomad: Nomad,
}

impl World {
    /// With the backends `slots` and `dynamic`.
    pub(crate) fn start(bin: &HaproxyBin) -> Self {
        Self::start_with(bin, &config())
    }

    /// With this configuration of HAProxy.
    pub(crate) fn start_with(bin: &HaproxyBin, config: &str) -> Self {
        let haproxy = Haproxy::start(bin, config);
        Self {
            tap: Tap::before(&haproxy.socket()),
            haproxy,
            nomad: Nomad::start(),
        }
    }

    /// `2.6.12`, for what a test prints.
    pub(crate) fn version(&self) -> &str {
        &self.haproxy.bin().version
    }

    // === the sidecar ===

    /// A sidecar between the fake and the tap.
    pub(crate) fn sidecar(&self) -> Sidecar {
        self.sidecar_with(&[])
    }

    /// The same, with more environment variables.
    pub(crate) fn sidecar_with(&self, more: &[(&str, &str)]) -> Sidecar {
        self.with_settings(more, Sidecar::start)
    }

    /// What a sidecar between the fake and the tap needs, and `more`.
    pub(crate) fn with_settings<T>(
        &self,
        more: &[(&str, &str)],
        then: impl FnOnce(&[(&str, &str)]) -> T,
    ) -> T {
        let (socket, url) = (self.tap.socket(), self.nomad.url());
        let socket = socket.to_str().expect("a path of ours is text");
        let mut settings = vec![
            ("HAPROXY_SOCKET", socket),
            ("NOMAD_ADDR", &url),
            // An instance that leaves a test must not keep it waiting.
            ("SIDECAR_DRAIN_TIMEOUT", "1s"),
        ];
        settings.extend(more);
        then(&settings)
    }

    // === the catalog ===

    /// Registers a web server as an instance of this service.
    pub(crate) fn register(&self, service: &str, toy: &Toy) -> Key {
        let registration = instance(service, toy.address());
        let key = registration.key();
        self.nomad.register(registration);
        key
    }

    /// Starts so many web servers and registers them as instances of this service.
    pub(crate) fn serve(&self, service: &str, count: usize) -> Vec<Toy> {
        let toys: Vec<_> = (1..=count)
            .map(|number| Toy::start(&format!("{service}-{number}")))
            .collect();
        for toy in &toys {
            self.register(service, toy);
        }
        toys
    }

    /// Deletes a registration, with its event.
    pub(crate) fn deregister(&self, key: &Key) {
        self.nomad
            .deregister(std::slice::from_ref(key), Deletion::ServiceDeregistration);
    }

    // === HAProxy ===

    /// One request to the frontend of `backend`: the body, or what went wrong.
    pub(crate) fn request(&self, backend: &str) -> Result<String, String> {
        self.request_with(backend, "")
    }

    /// The same with more header lines, each with its end.
    pub(crate) fn request_with(&self, backend: &str, headers: &str) -> Result<String, String> {
        match http::get_with(&self.frontend(backend), "/", headers) {
            Ok((200, body)) => Ok(body),
            Ok((status, _)) => Err(status.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The socket of the frontend of `backend`.
    pub(crate) fn frontend(&self, backend: &str) -> PathBuf {
        self.haproxy.directory().join(format!("{backend}.http"))
    }

    /// Waits until requests to `backend` are answered by all of these web servers in turn, and by nobody else.
    pub(crate) fn until_served_by(&self, backend: &str, toys: &[&Toy]) {
        self.until_served_within(Duration::from_secs(10), backend, toys);
    }

    /// The same, with more patience.
    pub(crate) fn until_served_within(&self, limit: Duration, backend: &str, toys: &[&Toy]) {
        let names: BTreeSet<_> = toys.iter().map(|toy| Ok(toy.name().to_owned())).collect();
        let what = format!("{backend} of {} is served by {names:?}", self.version());
        within(limit, &what, || {
            let answers: BTreeSet<_> = iter::repeat_with(|| self.request(backend))
                .take(2 * names.len().max(1))
                .collect();
            (answers == names).then_some(())
        });
    }

    /// The servers of a backend; none if there is no such backend.
    pub(crate) fn servers(&self, backend: &str) -> BTreeMap<String, Server> {
        let state = self.haproxy.ask(&format!("show servers state {backend}"));
        if state.starts_with("Can't find backend") {
            return BTreeMap::new();
        }
        let servers = servers_in(&state).into_iter();
        servers.map(|((_, name), server)| (name, server)).collect()
    }

    /// The number of a backend that has servers.
    pub(crate) fn id_of(&self, backend: &str) -> String {
        let state = self.haproxy.ask(&format!("show servers state {backend}"));
        let row = state.lines().nth(2).expect("it has servers");
        let id = row.split(' ').next().expect("a row has columns");
        id.to_owned()
    }

    /// The name of the server with this address, once it is in rotation.
    pub(crate) fn server_of(&self, backend: &str, toy: &Toy) -> String {
        let address = toy.address().to_string();
        soon(&format!("{address} is in rotation in {backend}"), || {
            self.servers(backend)
                .into_iter()
                .find(|(_, server)| server.address == address && server.is_in_rotation())
                .map(|(name, _)| name)
        })
    }

    /// Forgets what was written so far, and waits until the sidecar has read every server so many times since: it has
    /// then done what it wants to do.
    pub(crate) fn until_read_again(&self, times: usize) {
        self.tap.forget();
        within(Duration::from_secs(20), "everything is read again", || {
            let lines = self.tap.lines();
            let readings = lines.iter().filter(|line| *line == "show servers state");
            // The answer to the last of them may still be on its way.
            (readings.count() > times).then_some(())
        });
    }

    /// Waits for two seconds of the session's life, by its `show info` four times a second: longer than anything that is
    /// due at once takes.
    pub(crate) fn until_asked_again(&self) {
        let asked = || {
            let lines = self.tap.lines();
            lines.iter().filter(|line| *line == "show info").count()
        };
        let before = asked();
        soon("the session goes on", || {
            (asked() >= before + 8).then_some(())
        });
    }
}

/// The rows of an answer to `show servers state`, by backend and name.
pub(crate) fn servers_in(state: &str) -> BTreeMap<(String, String), Server> {
    let mut lines = state.lines().skip(1);
    let header = lines.next().unwrap_or_default().trim_start_matches("# ");
    let columns: Vec<_> = header.split(' ').collect();
    let column = |name: &str| {
        columns
            .iter()
            .position(|column| *column == name)
            .unwrap_or_else(|| panic!("no column {name} in {state}"))
    };
    let at = [
        "be_name",
        "srv_name",
        "srv_addr",
        "srv_port",
        "srv_op_state",
        "srv_admin_state",
        "srv_uweight",
    ]
    .map(column);
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let fields: Vec<_> = line.split(' ').collect();
            let [backend, name, addr, port, operational, admin, weight] = at.map(|at| fields[at]);
            let server = Server {
                address: format!("{addr}:{port}"),
                operational: operational.parse().expect("a number"),
                admin: admin.parse().expect("a number"),
                weight: weight.parse().expect("a number"),
            };
            ((backend.to_owned(), name.to_owned()), server)
        })
        .collect()
}

/// A registration of `service` at this address that is followed.
pub(crate) fn instance(service: &str, address: SocketAddr) -> ServiceRegistration {
    let port = address.port();
    ServiceRegistration::new(service, u32::from(port), i64::from(port)).tags(&[ENABLED])
}

/// Answers of web servers, or what came instead, and how often.
pub(crate) type Answers = BTreeMap<Result<String, String>, usize>;

/// Runs `work` while each of `clients` asks one request after the other, and counts their answers.
pub(crate) fn under_load<C: Sync>(
    clients: &[C],
    ask: impl Fn(&C) -> Result<String, String> + Sync,
    work: impl FnOnce(),
) -> Answers {
    let answers = Mutex::new(BTreeMap::new());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for client in clients {
            let (answers, is_over, ask) = (&answers, &is_over, &ask);
            scope.spawn(move || {
                while !is_over.load(Ordering::SeqCst) {
                    let answer = ask(client);
                    let mut answers = answers.lock().expect("no client panics");
                    *answers.entry(answer).or_default() += 1;
                }
            });
        }
        // The clients must end even when the work fails.
        let done = catch_unwind(AssertUnwindSafe(work));
        is_over.store(true, Ordering::SeqCst);
        if let Err(panic) = done {
            resume_unwind(panic);
        }
    });
    answers.into_inner().expect("no client panicked")
}
