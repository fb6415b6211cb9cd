//! How fast the sidecar is, against the floor of the same run: the same reads from the fake Nomad and the same lines to
//! HAProxy, raw, through one pipelined connection. Every HAProxy of `HAPROXY_BINS`, release build, health checks on.
//!
//! `cargo bench --bench sync` prints a table; ratios count, absolute times are those of the machine.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

use std::time::Duration;

use support::{
    Nomad, Sidecar,
    haproxy::{Haproxy, HaproxyBin, binaries, now, wait_for},
    listen_on_every_loopback_address, median, replay,
    tap::Tap,
};

const SERVICES: u16 = 100;
const INSTANCES: u16 = 100;
const ROUNDS: usize = 9;
const EVENTS: u16 = 20;

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
        nomad.read_everything(SERVICES);
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

// === What it is measured on ===

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
