//! Clients that send half a request and wait, as scanners and broken monitors do, keep nobody else from an answer.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::support::{
    haproxy::{binaries, now},
    world::World,
};

/// Three times as many as there are places.
const SLOW: usize = 200;
/// Of a slow client that was cut, until it is there again.
const AGAIN: Duration = Duration::from_millis(20);
const ROUNDS: usize = 40;
const EACH: Duration = Duration::from_millis(50);
/// A listener that waits for slow clients does so for five seconds.
const NOTICEABLE: Duration = Duration::from_secs(2);
/// Each place has a buffer of 8 KiB, and each thread of the test's its own.
const MORE_MEMORY: u64 = 8 << 10;

#[test]
fn half_a_request_keeps_nobody_waiting() {
    let bins = binaries();
    let world = World::start(bins.last().expect("there is one"));
    let _toys = world.serve("dynamic", 1);
    let sidecar = world.sidecar();
    sidecar.until_ready();
    let addr = sidecar.admin();
    let alone = worst(addr);
    let memory = resident(sidecar.pid());
    let over = AtomicBool::new(false);
    let among_slow = thread::scope(|scope| {
        for _ in 0..SLOW {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // Whatever becomes of it, it comes again.
                    let _ = half_a_request(addr, &over);
                    thread::sleep(AGAIN);
                }
            });
        }
        let _end = End(&over);
        worst(addr)
    });
    let more = resident(sidecar.pid()).saturating_sub(memory);
    eprintln!(
        "an answer took {alone:.0?} at most, among slow clients {among_slow:.0?}; {more} KiB more"
    );
    assert!(among_slow < NOTICEABLE + alone, "{among_slow:?}");
    assert!(more < MORE_MEMORY, "{more} KiB more");
}

/// They end with this, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks as a monitor does, and gets every answer: the longest time that one took.
fn worst(addr: SocketAddr) -> Duration {
    let mut worst = Duration::ZERO;
    for _ in 0..ROUNDS {
        for (path, part) in [
            ("/ready", "ready"),
            ("/metrics", "haproxy_nomad_sidecar_ready 1"),
        ] {
            let began = now();
            let answer = ask(addr, path).unwrap_or_else(|error| panic!("{path}: {error}"));
            worst = worst.max(began.elapsed());
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n"),
                "{path}: {answer:?}"
            );
            assert!(answer.contains(part), "{path}: {answer:?}");
        }
        thread::sleep(EACH);
    }
    worst
}

fn ask(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: sidecar\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sends one and waits for an answer, or to be cut.
fn half_a_request(addr: SocketAddr, over: &AtomicBool) -> io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(b"GET / HT")?;
    while !over.load(Ordering::Relaxed) {
        match stream.read(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            answered => return answered.map(drop),
        }
    }
    Ok(())
}

/// `VmRSS` of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.expect("a process has a size")
}
