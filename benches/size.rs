//! How the sidecar does with 1,000 services of 10 instances, each with a route: how long it takes to build their backends from
//! HAProxy 3.4 on, against the floor of the same run, and what it costs to be looked at.
//!
//! `cargo bench --bench size` prints a table; ratios count, absolute times are those of the machine.

#![expect(clippy::print_stdout, reason = "the table is what it is for")]

#[expect(dead_code, reason = "each bench uses a part of it")]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use support::{
    Nomad, Sidecar,
    haproxy::{Haproxy, HaproxyBin, Prompt, binaries, now},
    instances_of, listen_on_every_loopback_address, median, promtool, replay,
    tap::{Tap, is_changing},
};

const SERVICES: u16 = 1_000;
const INSTANCES: u16 = 10;
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_mins(2);

/// No backend: they are all made.
const CONFIG: &str = "
defaults nomad
  mode http
  balance roundrobin
  timeout connect 1s
  timeout client 5s
  timeout server 5s
frontend in from nomad
  bind @DIR@/http mode 600
  use_backend %[req.hdr(host),map_str(virt@hosts)]
";

fn main() {
    // `cargo test --benches` must not run this.
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    let port = listen_on_every_loopback_address();
    let registrations = instances_of(SERVICES, INSTANCES, port).map(|mut one| {
        let host = format!("haproxy.domain={}.example", one.service_name);
        one.tags.get_or_insert_default().push(host);
        one
    });
    let nomad = Nomad::of(registrations);
    for bin in binaries().iter().filter(|bin| can_make_backends(bin)) {
        built(bin, &nomad);
        looked_at(bin, &nomad);
    }
}

fn can_make_backends(bin: &HaproxyBin) -> bool {
    let mut numbers = bin.line().split('.').map(str::parse::<u16>);
    let line = (numbers.next(), numbers.next());
    matches!(line, (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (3, 4))
}

/// From nothing until every backend is there, with its servers enabled, published, and with its entry in the map.
fn built(bin: &HaproxyBin, nomad: &Nomad) {
    let lines = {
        let haproxy = Haproxy::start_single(bin, CONFIG);
        let tap = Tap::before(&haproxy.socket());
        let _sidecar = Sidecar::start(&tap.socket(), nomad);
        until_built(&haproxy);
        tap.lines()
    };
    let readings = lines.iter().filter(|line| !is_changing(line)).count();
    let changes: Vec<_> = lines.into_iter().filter(|line| is_changing(line)).collect();
    let (mut floors, mut times, mut work) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let haproxy = Haproxy::start_single(bin, CONFIG);
        let start = now();
        nomad.read_everything(SERVICES);
        build(&haproxy, &changes);
        until_built(&haproxy);
        floors.push(start.elapsed());
        drop(haproxy);

        let haproxy = Haproxy::start_single(bin, CONFIG);
        let start = now();
        let sidecar = Sidecar::start(&haproxy.socket(), nomad);
        until_built(&haproxy);
        times.push(start.elapsed());
        work.push(processor_time(&sidecar));
    }
    let ratios = floors
        .iter()
        .zip(&times)
        .map(|(floor, time)| time.as_secs_f64() / floor.as_secs_f64());
    println!(
        "{}: {SERVICES} backends of {INSTANCES} servers with a route each, made, published and routed: {:.2?}, floor {:.2?}, ratio {:.2} \
         (goal 1.5); {:.2?} of a processor, {} changing commands, {readings} readings",
        bin.line(),
        median(times.clone()),
        median(floors.clone()),
        median(ratios.collect()),
        median(work),
        changes.len(),
    );
}

/// The least that whoever builds them has to do: send what changes them as fast as one connection takes it, and publish each backend,
/// with its route, when HAProxy's check has admitted a server of it.
fn build(haproxy: &Haproxy, changes: &[String]) {
    let is_late = |line: &&String| line.starts_with("publish ") || line.starts_with("add map ");
    let (late, early): (Vec<_>, Vec<_>) = changes.iter().partition(is_late);
    replay(&haproxy.socket(), early);
    let mut late: BTreeMap<&str, Vec<&String>> =
        late.into_iter().fold(BTreeMap::new(), |mut all, line| {
            let backend = line.rsplit(' ').next().unwrap_or_default();
            all.entry(backend).or_default().push(line);
            all
        });
    let mut prompt = haproxy.prompt();
    while !late.is_empty() {
        let rows = prompt.send(&["show servers state"]).remove(0);
        let is_up = |row: &&str| row.split(' ').nth(5) == Some("2");
        let admitted: BTreeSet<_> = rows
            .lines()
            .filter(is_up)
            .filter_map(|row| row.split(' ').nth(1))
            .collect();
        let lines = admitted
            .into_iter()
            .filter_map(|backend| late.remove(backend));
        let lines: Vec<_> = lines.flatten().collect();
        replay(&haproxy.socket(), lines);
    }
}

fn processor_time(sidecar: &Sidecar) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", sidecar.pid())).expect("it runs");
    let (_, cells) = stat.rsplit_once(") ").expect("its name is in parentheses");
    let ticks = cells.split(' ').skip(11).take(2);
    let ticks = ticks.map(|cell| cell.parse::<u64>().expect("it is a number"));
    // A hundredth of a second each, on Linux.
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// Asks until there is an answer: a machine that does other things builds slowly.
fn patiently(what: &str, mut poll: impl FnMut() -> Option<()>) {
    let start = now();
    while poll().is_none() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
    }
}

// === Looked at ===

/// What the README promises to suffice.
const LIMIT: &str = "--data=67108864";
const LOOKS: usize = 11;

/// What scrapes and pictures take, of a sidecar that may have 64 MB.
fn looked_at(bin: &HaproxyBin, nomad: &Nomad) {
    let haproxy = Haproxy::start_single(bin, CONFIG);
    let sidecar = Sidecar::start_behind(&["prlimit", LIMIT], &haproxy.socket(), nomad);
    until_built(&haproxy);
    patiently("all servers to be up", || {
        thread::sleep(Duration::from_millis(500));
        let seen = sidecar.metric("servers_owned{state=\"in_rotation\"}");
        (format!("{seen:.0}") == (SERVICES * INSTANCES).to_string()).then_some(())
    });
    sidecar.wait_until_ready();
    println!(
        "{}: memory with {} registrations: {:.1} MB, {:.1} MB at most (64 MB were allowed)",
        bin.line(),
        SERVICES * INSTANCES,
        memory(&sidecar, "VmRSS"),
        memory(&sidecar, "VmHWM"),
    );
    for (path, goal) in [
        ("/metrics", " (goals 50 ms and 4 MB)"),
        ("/status?changes=1000", ""),
    ] {
        let calm = longest_wait(&sidecar, || thread::sleep(Duration::from_secs(2)));
        let mut looks = Vec::new();
        let mut bytes = 0;
        forget_peak(&sidecar);
        let before = memory(&sidecar, "VmHWM");
        let kept = longest_wait(&sidecar, || {
            for _ in 0..LOOKS {
                let start = now();
                bytes = sidecar.get(path).expect("it answers").len();
                looks.push(start.elapsed());
                // A picture is good for a while.
                thread::sleep(Duration::from_millis(300));
            }
        });
        println!(
            "{}: {path}: {:.1?} (median; at most {:.1?}), {bytes} bytes, {:.1} MB more memory{goal}; nobody else waited longer than \
             {kept:.1?}, without it {calm:.1?}",
            bin.line(),
            median(looks.clone()),
            looks.iter().max().copied().unwrap_or_default(),
            memory(&sidecar, "VmHWM") - before,
        );
    }
    let answer = sidecar.get("/metrics").expect("it answers");
    let (_, text) = answer.split_once("\r\n\r\n").expect("it has a head");
    let complaints = promtool::complaints(text);
    println!("{}: promtool check metrics: {complaints:?}", bin.line());
}

/// How long the loop keeps whoever asks for nothing, at most, during `work`: it has one thread.
fn longest_wait(sidecar: &Sidecar, work: impl FnOnce()) -> Duration {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !is_over.load(Ordering::Relaxed) {
                let start = now();
                sidecar.get("/live").expect("it answers");
                longest = longest.max(start.elapsed());
                thread::sleep(Duration::from_millis(1));
            }
            longest
        });
        work();
        is_over.store(true, Ordering::Relaxed);
        watch.join().expect("it ends")
    })
}

/// A line of `/proc/<pid>/status`, in MB.
fn memory(sidecar: &Sidecar, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.pid()));
    let status = status.expect("it runs");
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| *key == name).expect("Linux has it");
    let kib = value.trim().trim_end_matches(" kB").parse::<f64>();
    kib.expect("it is a number") / 1024.0
}

/// From now on `VmHWM` counts anew.
fn forget_peak(sidecar: &Sidecar) {
    fs::write(format!("/proc/{}/clear_refs", sidecar.pid()), "5").expect("it is ours");
}

/// The entries of the map come last; asked seldom, since HAProxy and the machine have other things to do.
fn until_built(haproxy: &Haproxy) {
    let mut prompt = Prompt::open(&haproxy.socket());
    patiently("every route to be there", || {
        thread::sleep(Duration::from_millis(15));
        let map = &prompt.send(&["show map virt@hosts"])[0];
        (map.lines().count() >= SERVICES.into()).then_some(())
    });
    let rows = haproxy.ask("show servers state");
    let enabled = |row: &&str| {
        let cells: Vec<_> = row.split(' ').collect();
        // In service, and its check is enabled.
        cells.len() > 13 && cells[6] == "0"
    };
    assert_eq!(
        rows.lines().filter(enabled).count(),
        usize::from(SERVICES * INSTANCES),
        "every server is enabled"
    );
}
