//! How fast the sidecar is, against the floor of the same run: the same reads from the fake Nomad and the same lines to
//! HAProxy, raw, through one pipelined connection. Every HAProxy of `HAPROXY_BINS`, release build, health checks on.
//!
//! `cargo bench --bench sync` prints a table; ratios count, absolute times are those of the machine.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

#[path = "../tests/support/fake_nomad/mod.rs"]
#[expect(dead_code, reason = "this program uses a part of the fake")]
mod fake_nomad;
#[path = "../tests/support/haproxy.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod haproxy;
#[path = "../tests/support/tap.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
mod tap;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use fake_nomad::{FakeNomad, ServiceRegistration};
use haproxy::{Haproxy, HaproxyBin, binaries, free_port, now, wait_for};
use tap::Tap;

const SERVICES: u16 = 100;
const INSTANCES: u16 = 100;
const ROUNDS: usize = 9;
const EVENTS: u16 = 20;
/// What the session leaves unanswered at most.
const WINDOW: usize = 8192;

fn main() {
    // `cargo test --benches` must not run this.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let instances = listen_on_every_loopback_address();
    for bin in binaries() {
        for kind in [Kind::Slots, Kind::Dynamic] {
            initial_sync(&bin, kind, instances);
            one_event(&bin, kind, instances);
            restart(&bin, kind, instances);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Slots,
    Dynamic,
}

// === The three measurements ===

fn initial_sync(bin: &HaproxyBin, kind: Kind, port: u16) {
    let nomad = Nomad::with(SERVICES, INSTANCES, port);
    let config = config(kind, SERVICES, INSTANCES);
    let lines = {
        let haproxy = Haproxy::start_single(bin, &config);
        let tap = Tap::before(&haproxy.socket());
        let sidecar = Sidecar::start(&tap.socket(), &nomad);
        sidecar.wait_until_ready();
        assert_applied(&haproxy, usize::from(SERVICES * INSTANCES));
        tap.lines()
    };
    let lines: Vec<_> = lines
        .into_iter()
        .filter(|line| is_of_the_sync(line))
        .collect();
    let changes = lines
        .iter()
        .filter(|line| !line.starts_with("show ") && !line.starts_with("dump "))
        .count();
    let (mut floors, mut times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let haproxy = Haproxy::start_single(bin, &config);
        let start = now();
        nomad.read_everything();
        replay(&haproxy.socket(), &lines);
        floors.push(start.elapsed());
        drop(haproxy);

        let haproxy = Haproxy::start_single(bin, &config);
        let sidecar = Sidecar::start(&haproxy.socket(), &nomad);
        sidecar.wait_until_ready();
        times.push(Duration::from_secs_f64(
            sidecar.metric("initial_sync_duration_seconds"),
        ));
    }
    let ratios = floors
        .iter()
        .zip(&times)
        .map(|(floor, time)| time.as_secs_f64() / floor.as_secs_f64());
    println!(
        "{} {kind:?}: initial sync of {} registrations in {SERVICES} services: {:.2?}, floor {:.2?}, ratio {:.2} (goal 1.25); {changes} \
         changing commands, {} dumps",
        bin.line(),
        SERVICES * INSTANCES,
        median(times.clone()),
        median(floors.clone()),
        median(ratios.collect()),
        lines.len() - changes,
    );
}

fn one_event(bin: &HaproxyBin, kind: Kind, port: u16) {
    const MANY: u16 = 1_000;
    let nomad = Nomad::with(MANY, 1, port);
    let haproxy = Haproxy::start_single(bin, &config(kind, MANY, 3));
    let tap = Tap::before(&haproxy.socket());
    let counted = {
        let sidecar = Sidecar::start(&tap.socket(), &nomad);
        sidecar.wait_until_ready();
        tap.forget();
        nomad.register(500, 100, port);
        wait_for("the event to be applied", || {
            (sidecar.metric("event_to_applied_seconds_count") > 0.5).then_some(())
        });
        tap.lines()
            .into_iter()
            .filter(|line| line.contains("s500"))
            .collect::<Vec<_>>()
    };
    let sidecar = Sidecar::start(&haproxy.socket(), &nomad);
    sidecar.wait_until_ready();
    for event in 1..=EVENTS {
        nomad.register(event, 100, port);
        wait_for("the event to be applied", || {
            (sidecar.metric("event_to_applied_seconds_count") > f64::from(event) - 0.5)
                .then_some(())
        });
    }
    let mean = sidecar.metric("event_to_applied_seconds_sum") / f64::from(EVENTS);
    drop(sidecar);
    // The same lines for another backend. Raw, they do not wait for what the readings say.
    let floors = (1..=EVENTS).map(|event| {
        let backend = format!("s{:03}", 600 + event);
        let lines: Vec<_> = counted
            .iter()
            .map(|line| line.replace("s500", &backend))
            .collect();
        let start = now();
        replay(&haproxy.socket(), &lines);
        start.elapsed()
    });
    let floor = median(floors.collect());
    let dumps = counted
        .iter()
        .filter(|line| line.starts_with("show "))
        .count();
    println!(
        "{} {kind:?}: one event beside {MANY} services: {} commands, {dumps} dumps of its backend, byte to applied {:.2} ms, the same raw \
         {:.2} ms",
        bin.line(),
        counted.len() - dumps,
        mean * 1e3,
        floor.as_secs_f64() * 1e3,
    );
}

fn restart(bin: &HaproxyBin, kind: Kind, port: u16) {
    let nomad = Nomad::with(SERVICES, 10, port);
    let mut haproxy = Haproxy::start_single(bin, &config(kind, SERVICES, 10));
    let sidecar = Sidecar::start(&haproxy.socket(), &nomad);
    sidecar.wait_until_ready();
    let wanted = usize::from(SERVICES) * 10;
    let times = (0..3).map(|_| {
        // What the sidecar has not seen in rotation is not put back, but admitted by its checks.
        wait_for("the sidecar to see all servers up", || {
            let seen = sidecar.metric("servers_owned{state=\"in_rotation\"}");
            (format!("{seen:.0}") == wanted.to_string()).then_some(())
        });
        haproxy.kill9();
        haproxy.restart();
        let answers = now();
        wait_for("all servers to be back", || {
            (in_rotation(&haproxy) == wanted).then_some(())
        });
        answers.elapsed()
    });
    println!(
        "{} {kind:?}: HAProxy killed and started: {wanted} servers back in rotation {:.2?} after it answered (goal 1 s)",
        bin.line(),
        median(times.collect()),
    );
}

// === What is measured ===

struct Sidecar {
    child: Child,
    admin: SocketAddr,
}

impl Sidecar {
    fn start(socket: &Path, nomad: &Nomad) -> Self {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let child = Command::new(env!("CARGO_BIN_EXE_haproxy-nomad-sidecar"))
            .env_clear()
            .arg("--haproxy-socket")
            .arg(socket)
            .args([
                "--nomad-addr",
                &nomad.fake.url(),
                "--admin-listen",
                &admin.to_string(),
                "--log-level",
                "warn",
            ])
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the sidecar starts");
        Self { child, admin }
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.admin).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn wait_until_ready(&self) {
        wait_for("the sidecar to be ready", || {
            self.get("/ready")
                .filter(|answer| answer.starts_with("HTTP/1.1 200"))
                .map(drop)
        });
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").unwrap_or_default();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(&format!("haproxy_nomad_sidecar_{name} ")));
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_default()
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// The fake Nomad on a thread of its own.
struct Nomad {
    fake: FakeNomad,
    _runtime: tokio::runtime::Runtime,
}

impl Nomad {
    fn with(services: u16, instances: u16, port: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let fake = runtime.block_on(FakeNomad::start());
        let nomad = Self {
            fake,
            _runtime: runtime,
        };
        let all = (0..services)
            .flat_map(|service| (0..instances).map(move |instance| (service, instance)));
        // As clients do: the stream begins with the last hundred Raft entries.
        nomad
            .fake
            .register_all(all.map(|(service, instance)| registration(service, instance, port)));
        nomad
    }

    fn register(&self, service: u16, instance: u16, port: u16) {
        self.fake.register(registration(service, instance, port));
    }

    /// The list and all services, eight at a time, as a client must read them at least.
    fn read_everything(&self) {
        let addr = self.fake.addr();
        get(
            &mut TcpStream::connect(addr).expect("the fake listens"),
            "/v1/services?namespace=default",
        );
        thread::scope(|scope| {
            for worker in 0..8 {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(addr).expect("the fake listens");
                    for service in (worker..SERVICES).step_by(8) {
                        get(
                            &mut stream,
                            &format!("/v1/service/s{service:03}?namespace=default"),
                        );
                    }
                });
            }
        });
    }
}

/// One answer, by its length or its chunks; thrown away.
fn get(stream: &mut TcpStream, path: &str) {
    // In one piece: the second of two small ones would wait for the acknowledgement of the first.
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("the fake listens");
    let mut answer = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = stream.read(&mut buffer).expect("the fake answers");
        assert!(count > 0, "the fake closed");
        answer.extend_from_slice(&buffer[..count]);
        let Some(head) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&answer[..head]).to_lowercase();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let is_complete = match length {
            Some(length) => answer.len() >= head + 4 + length,
            None => answer.ends_with(b"\r\n0\r\n\r\n"),
        };
        if is_complete {
            return;
        }
    }
}

/// Sends `lines` as fast as one connection takes them with a window, and waits for the last answer.
fn replay(socket: &Path, lines: &[String]) {
    let mut stream = UnixStream::connect(socket).expect("HAProxy listens");
    stream.write_all(b"prompt\n").expect("HAProxy reads");
    let mut buffer = vec![0; 1 << 16];
    let (mut prompts, mut tail) = (0, Vec::new());
    let mut read = |stream: &mut UnixStream, prompts: &mut usize| {
        let count = stream.read(&mut buffer).expect("HAProxy answers");
        assert!(count > 0, "HAProxy closed");
        tail.extend_from_slice(&buffer[..count]);
        *prompts += tail.windows(3).filter(|bytes| bytes == b"\n> ").count();
        let keep = tail.len().min(2);
        tail.drain(..tail.len() - keep);
    };
    while prompts < 1 {
        read(&mut stream, &mut prompts);
    }
    let (mut answered, mut sent, mut open) = (0, 0, 0);
    while answered < lines.len() {
        let mut write = Vec::new();
        while sent < lines.len() && (open == 0 || open + lines[sent].len() < WINDOW) {
            open += lines[sent].len() + 1;
            write.extend_from_slice(lines[sent].as_bytes());
            write.push(b'\n');
            sent += 1;
        }
        stream.write_all(&write).expect("HAProxy reads");
        read(&mut stream, &mut prompts);
        while answered < prompts - 1 {
            open -= lines[answered].len() + 1;
            answered += 1;
        }
    }
}

// === What it is measured on ===

fn registration(service: u16, instance: u16, port: u16) -> ServiceRegistration {
    let alloc = (u32::from(service) << 16) + u32::from(instance);
    let mut registration = ServiceRegistration::new(&format!("s{service:03}"), alloc, port.into());
    let [high, low] = service.to_be_bytes();
    registration.address = format!("127.{}.{low}.{}", 1 + high, 1 + instance);
    registration.tags = Some(vec!["haproxy.enable=true".to_owned()]);
    registration
}

fn config(kind: Kind, services: u16, slots: u16) -> String {
    let defaults =
        "defaults\n  mode http\n  timeout connect 1s\n  timeout client 5s\n  timeout server 5s\n";
    let servers = match kind {
        Kind::Slots => {
            format!("  server-template nomad 1-{slots} 127.0.0.1:1 check inter 1s disabled\n")
        }
        Kind::Dynamic => String::new(),
    };
    let backends = (0..services)
        .map(|service| format!("backend s{service:03}\n  balance roundrobin\n{servers}"));
    [defaults.to_owned()].into_iter().chain(backends).collect()
}

/// Every address of 127.0.0.0/8 accepts connections on this port: HAProxy's checks pass.
fn listen_on_every_loopback_address() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || listener.incoming().for_each(drop));
    port
}

fn is_of_the_sync(line: &str) -> bool {
    !["prompt", "show info", "show cli level", "set timeout cli"]
        .iter()
        .any(|other| line.starts_with(other))
}

fn servers_state(haproxy: &Haproxy) -> Vec<Vec<String>> {
    let rows = haproxy.ask("show servers state");
    rows.lines()
        .skip(2)
        .map(|row| row.split(' ').map(str::to_owned).collect())
        .collect()
}

/// READY and UP, with an address of ours.
fn in_rotation(haproxy: &Haproxy) -> usize {
    let up = |row: &&Vec<String>| row.len() > 6 && row[5] == "2" && ["0", "4"].contains(&&*row[6]);
    servers_state(haproxy).iter().filter(up).count()
}

fn assert_applied(haproxy: &Haproxy, wanted: usize) {
    let ready = |row: &&Vec<String>| row.len() > 6 && ["0", "4"].contains(&&*row[6]);
    assert_eq!(
        servers_state(haproxy).iter().filter(ready).count(),
        wanted,
        "the sync said that it is done"
    );
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    values[values.len() / 2]
}
