//! What the benches share: the sidecar as a process, the fake Nomad on a thread of its own, and the raw floor: the same
//! reads and the same lines, through plain sockets.

#[path = "../../tests/support/fake_nomad/mod.rs"]
#[expect(dead_code, reason = "the benches use a part of the fake")]
pub(crate) mod fake_nomad;
#[path = "../../tests/support/haproxy.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
pub(crate) mod haproxy;
#[path = "../../tests/support/promtool.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
pub(crate) mod promtool;
#[path = "../../tests/support/tap.rs"]
#[expect(dead_code, reason = "the tests use more of it")]
pub(crate) mod tap;

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use fake_nomad::{FakeNomad, ServiceRegistration};
use haproxy::{free_port, wait_for};

/// What the session leaves unanswered at most.
const WINDOW: usize = 8192;

pub(crate) struct Sidecar {
    child: Child,
    admin: SocketAddr,
}

impl Sidecar {
    pub(crate) fn start(socket: &Path, nomad: &Nomad) -> Self {
        Self::start_behind(&[], socket, nomad)
    }

    /// Behind a program that becomes it, such as `prlimit`.
    pub(crate) fn start_behind(words: &[&str], socket: &Path, nomad: &Nomad) -> Self {
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let all = [words, &[env!("CARGO_BIN_EXE_haproxy-nomad-sidecar")]].concat();
        let child = Command::new(all[0])
            .args(&all[1..])
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

    pub(crate) fn get(&self, path: &str) -> Option<String> {
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

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn wait_until_ready(&self) {
        wait_for("the sidecar to be ready", || {
            self.get("/ready")
                .filter(|answer| answer.starts_with("HTTP/1.1 200"))
                .map(drop)
        });
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
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
pub(crate) struct Nomad {
    fake: FakeNomad,
    _runtime: tokio::runtime::Runtime,
}

impl Nomad {
    pub(crate) fn with(services: u16, instances: u16, port: u16) -> Self {
        Self::of(instances_of(services, instances, port))
    }

    /// With all of `registrations`.
    pub(crate) fn of(registrations: impl Iterator<Item = ServiceRegistration>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let fake = runtime.block_on(FakeNomad::start());
        // As clients do: the stream begins with the last hundred Raft entries.
        fake.register_all(registrations);
        Self {
            fake,
            _runtime: runtime,
        }
    }

    pub(crate) fn register(&self, service: u16, instance: u16, port: u16) {
        self.fake.register(registration(service, instance, port));
    }

    /// The list and all `services`, eight at a time, as a client must read them at least.
    pub(crate) fn read_everything(&self, services: u16) {
        let addr = self.fake.addr();
        get(
            &mut TcpStream::connect(addr).expect("the fake listens"),
            "/v1/services?namespace=default",
        );
        thread::scope(|scope| {
            for worker in 0..8 {
                scope.spawn(move || {
                    let mut stream = TcpStream::connect(addr).expect("the fake listens");
                    for service in (worker..services).step_by(8) {
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
pub(crate) fn replay<'a>(socket: &Path, lines: impl IntoIterator<Item = &'a String>) {
    let lines: Vec<_> = lines.into_iter().collect();

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

/// So many instances of so many services.
pub(crate) fn instances_of(
    services: u16,
    instances: u16,
    port: u16,
) -> impl Iterator<Item = ServiceRegistration> {
    let all = (0..services).flat_map(move |service| (0..instances).map(move |one| (service, one)));
    all.map(move |(service, instance)| registration(service, instance, port))
}

fn registration(service: u16, instance: u16, port: u16) -> ServiceRegistration {
    let alloc = (u32::from(service) << 16) + u32::from(instance);
    let mut registration = ServiceRegistration::new(&format!("s{service:03}"), alloc, port.into());
    let [high, low] = service.to_be_bytes();
    registration.address = format!("127.{}.{low}.{}", 1 + high, 1 + instance);
    registration.tags = Some(vec!["haproxy.enable=true".to_owned()]);
    registration
}

/// Every address of 127.0.0.0/8 accepts connections on this port: HAProxy's checks pass.
pub(crate) fn listen_on_every_loopback_address() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || listener.incoming().for_each(drop));
    port
}

pub(crate) fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("no NaN"));
    values[values.len() / 2]
}
