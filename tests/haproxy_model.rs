//! What the simulations believe of HAProxy, held against every real HAProxy there is: the same commands to the model
//! and to the process, and the same words, columns and states back.

#[path = "support/haproxy.rs"]
mod haproxy;
#[path = "sim/haproxy_model/mod.rs"]
mod haproxy_model;
#[path = "support/toy.rs"]
mod toy;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    rc::Rc,
    time::Duration,
};

use haproxy::{Haproxy, HaproxyBin, Prompt, binaries, free_port, now, wait_for};
use haproxy_model::{Backend, Check, Conduct, Config, Model, ServerLine};
use toy::Toy;

const DEFAULTS: &str = "defaults\n  mode http\n  timeout connect 1s\n  timeout client 60s\n  timeout server 60s\n";
const STEP: Duration = Duration::from_millis(10);
const NEVER: Duration = Duration::from_secs(100_000);

/// The columns of `show stat` that the model fills.
const STAT_COLUMNS: [&str; 18] = [
    "pxname",
    "svname",
    "qcur",
    "scur",
    "slim",
    "status",
    "act",
    "bck",
    "iid",
    "sid",
    "type",
    "mode",
    "check_status",
    "check_rise",
    "check_fall",
    "check_health",
    "addr",
    "uweight",
];

/// A real HAProxy and its model, given the same commands.
struct Pair {
    real: Haproxy,
    prompt: Prompt,
    model: Model,
    time: Duration,
}

impl Pair {
    fn start(bin: &HaproxyBin, config: &Config) -> Self {
        Self::start_with(bin, config, "", |_, _| Conduct::Refuses)
    }

    fn start_with(
        bin: &HaproxyBin,
        config: &Config,
        more: &str,
        world: impl Fn(SocketAddr, Duration) -> Conduct + 'static,
    ) -> Self {
        let real = Haproxy::start(bin, &format!("{DEFAULTS}{}{more}", config.text()));
        Self {
            prompt: real.prompt(),
            model: Model::new(
                &real.bin().version,
                config.clone(),
                Rc::new(world),
                1,
                Duration::ZERO,
            ),
            time: Duration::ZERO,
            real,
        }
    }

    /// Writes the lines in one piece, compares each answer, then the state of every server.
    fn agree_on(&mut self, lines: &[&str]) {
        let version = self.real.bin().version.clone();
        let answers = self.prompt.send(lines);
        for (line, real) in lines.iter().zip(&answers) {
            let model = self.model.execute(self.time, line);
            if real.starts_with("Unknown command") {
                // The commands that follow are of no interest.
                assert_eq!(
                    real.lines().next(),
                    model.lines().next(),
                    "{version}: {line}"
                );
            } else {
                assert_eq!(real, &model, "{version}: {line}");
            }
        }
        self.time += STEP;
        self.model.advance(self.time);
        self.agree_on_state(&format!("{version}: after {lines:?}"));
    }

    /// Waits until the real one says the same of its servers: changes of addresses are late, connections close late.
    fn agree_on_state(&mut self, context: &str) {
        let ours = state_rows(&self.model.execute(self.time, "show servers state"));
        let deadline = now() + Duration::from_secs(10);
        let theirs = loop {
            let theirs = state_rows(&self.prompt.send(&["show servers state"])[0]);
            if theirs == ours || now() > deadline {
                break theirs;
            }
        };
        agree_row_by_row(&theirs, &ours, context);
        let backends: Vec<String> = self.prompt.send(&["show backend"])[0]
            .lines()
            .skip(1)
            .map(str::to_owned)
            .collect();
        for backend in backends {
            let line = format!("show stat {backend} 4 -1");
            let theirs = stat_cells(&self.prompt.send(&[&line])[0]);
            let ours = stat_cells(&self.model.execute(self.time, &line));
            agree_row_by_row(&theirs, &ours, context);
        }
    }
}

fn agree_row_by_row(theirs: &[Vec<String>], ours: &[Vec<String>], context: &str) {
    for (theirs, ours) in theirs.iter().zip(ours) {
        assert_eq!(
            theirs.join(" "),
            ours.join(" "),
            "{context}\n(left: HAProxy, right: the model)"
        );
    }
    assert_eq!(theirs.len(), ours.len(), "{context}: rows");
}

/// `show servers state` without the seconds since the last change.
fn state_rows(text: &str) -> Vec<Vec<String>> {
    let rows = text.lines().map(|line| {
        let mut cells: Vec<String> = line.split(' ').map(str::to_owned).collect();
        if cells.len() == 25 {
            cells.remove(9);
        }
        cells
    });
    rows.collect()
}

/// What the model fills of `show stat`, and its header.
fn stat_cells(text: &str) -> Vec<Vec<String>> {
    let mut lines = text.lines();
    let header: Vec<&str> = lines
        .next()
        .unwrap_or_default()
        .trim_start_matches("# ")
        .split(',')
        .collect();
    let mut rows = vec![header.iter().map(|&cell| cell.to_owned()).collect()];
    for line in lines {
        let cells: BTreeMap<&str, &str> = header.iter().copied().zip(line.split(',')).collect();
        let kept = STAT_COLUMNS
            .iter()
            .map(|column| cells.get(column).copied().unwrap_or_default().to_owned());
        rows.push(kept.collect());
    }
    rows
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn placeholder() -> SocketAddr {
    address("127.0.0.1:1")
}

/// Backends of every kind, with checks that do not run during a test.
fn still_config() -> Config {
    let check = Some(Check::every(NEVER));
    let weighted = ServerLine {
        weight: 7,
        maxconn: 5,
        backup: true,
        ..ServerLine::new("own", address("127.0.0.1:2"))
    };
    let referenced = ServerLine {
        is_referenced: true,
        ..ServerLine::new("named", address("127.0.0.1:3"))
    };
    let mut fixed = Backend::new("fixed").template("n", 1, placeholder(), check);
    fixed.is_static = true;
    let mut tcp = Backend::new("tcp").template("n", 2, placeholder(), check);
    tcp.httpchk = false;
    Config {
        backends: vec![
            Backend::new("dyn"),
            Backend::new("slots")
                .template("n", 3, placeholder(), check)
                .server(weighted)
                .server(referenced),
            Backend::new("plain").template("n", 2, placeholder(), None),
            fixed,
            tcp,
        ],
    }
}

fn agree_line_by_line(config: &Config, lines: &[&str]) {
    for bin in binaries() {
        let mut pair = Pair::start(&bin, config);
        pair.agree_on_state("at the start");
        for line in lines {
            pair.agree_on(&[line]);
        }
    }
}

#[test]
fn reading_agrees() {
    agree_line_by_line(
        &still_config(),
        &[
            "set timeout cli 1h",
            "show cli level",
            "show backend",
            "show servers state nope",
            "show stat nope 4 -1",
            "bogus",
        ],
    );
}

#[test]
fn show_info_has_the_lines_of_the_real_one() {
    for bin in binaries() {
        let mut pair = Pair::start(&bin, &Config::default());
        let model = pair.model.execute(Duration::ZERO, "show info");
        let real = pair.prompt.send(&["show info"]).remove(0);
        let keys = |text: &str| -> Vec<String> {
            text.lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(key, _)| key.to_owned())
                .collect()
        };
        let ours = keys(&model);
        let theirs: Vec<String> = keys(&real)
            .into_iter()
            .filter(|key| ours.contains(key))
            .collect();
        assert_eq!(theirs, ours, "{}", bin.version);
        let version = format!("Version: {}\n", bin.version);
        assert!(real.contains(&version) && model.contains(&version));
    }
}

#[test]
fn wrong_names_agree() {
    agree_line_by_line(
        &still_config(),
        &[
            "set server dyn/x state ready",
            "set server nope/x state ready",
            "set server nope state ready",
            "set server",
            "enable health dyn/x",
            "enable health nope/x",
            "enable health nope",
            "enable health",
            "set maxconn server dyn/x 10",
            "set maxconn server nope/x 10",
            "set maxconn server nope 10",
            "set maxconn server",
            "del server dyn/x",
            "del server nope/x",
            "del server nope",
            "del server",
            "add server",
            "add server nope",
            "add server nope/x 127.0.0.1:80",
            "add server dyn/x",
        ],
    );
}

#[test]
fn the_states_of_slots_agree() {
    agree_line_by_line(
        &still_config(),
        &[
            "set server slots/n1 state ready",
            "set server slots/n1 state maint",
            "set server slots/n1 state drain",
            "set server slots/n1 health down",
            "set server slots/n1 state ready",
            "set server slots/n1 health up",
            "set server slots/n1 state drain",
            "set server slots/n1 state drain",
            "set server slots/n1 state ready",
            "set server slots/n1 state ready",
            "set server slots/n1 health down",
            "set server slots/n1 state maint",
            "set server slots/n1 state maint",
            "set server slots/n1 state ready",
            "set server slots/n1 state",
            "set server slots/n1 state up",
            "set server slots/n1 health",
            "set server slots/n1 health bad",
            "set server slots/n1 colour red",
            "set server slots/n2 state drain",
            "set server slots/n2 state maint",
            "set server plain/n1 state ready",
            "set server plain/n1 health down",
            "set server plain/n1 state drain",
            "set server plain/n1 state maint",
            "set server plain/n1 state ready",
            "enable health plain/n1",
            "enable health slots/n1",
            "set server slots/own state maint",
            "set server slots/own state ready",
            "set server slots/own state drain",
        ],
    );
}

#[test]
fn the_addresses_of_slots_agree() {
    agree_line_by_line(
        &still_config(),
        &[
            "set server slots/n1 addr 127.0.0.2 port 80",
            "set server slots/n1 addr 127.0.0.2 port 81",
            "set server slots/n1 addr 127.0.0.3 port 81",
            "set server slots/n1 addr 127.0.0.3 port 81",
            "set server slots/n1 addr 127.0.0.3",
            "set server slots/n1 addr 127.0.0.4",
            "set server slots/n1 addr ::1 port 80",
            "set server slots/n1 addr [::1] port 80",
            "set server slots/n1 addr [::2] port 82",
            "set server slots/n1 addr nowhere",
            "set server slots/n1 addr nowhere port 80",
            "set server slots/n1 addr 127.0.0.5 port abc",
            "set server slots/n1 addr 127.0.0.5 port abc",
            "set server slots/n1 addr 127.0.0.5 port",
            "set server slots/n1 addr",
            "set server slots/n1 addr 127.0.0.1 port 1",
            "set server slots/n1 state ready",
            "set server slots/n1 addr 127.0.0.9 port 99",
        ],
    );
}

#[test]
fn an_address_changed_and_changed_back_in_one_write_agrees() {
    for bin in binaries() {
        let mut pair = Pair::start_with(
            &bin,
            &still_config(),
            "global\n  nbthread 1\n",
            |_, _| Conduct::Refuses,
        );
        pair.agree_on(&[
            "set server slots/n1 addr 127.0.0.2 port 80",
            "set server slots/n1 addr 127.0.0.1 port 1",
        ]);
        pair.agree_on(&[
            "set server plain/n1 addr 127.0.0.2 port 80",
            "show servers state nope",
        ]);
    }
}

#[test]
fn weights_and_maxconn_agree() {
    let mut lines = Vec::new();
    for server in ["slots/n1", "slots/own", "plain/n1", "fixed/n1", "tcp/n1"] {
        for weight in [
            "0", "1", "5", "7", "256", "257", "-1", "0%", "50%", "100%", "101%", "abc", "3x", "x%",
            "",
        ] {
            lines.push(format!("set server {server} weight {weight}"));
        }
        lines.push(format!("set server {server} state drain"));
        lines.push(format!("set server {server} weight 0"));
        lines.push(format!("set server {server} state ready"));
        lines.push(format!("set server {server} weight 1"));
    }
    for maxconn in ["10", "0", "abc", ""] {
        lines.push(format!("set maxconn server slots/n1 {maxconn}"));
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    agree_line_by_line(&still_config(), &lines);
}

#[test]
fn adding_and_deleting_servers_agrees() {
    agree_line_by_line(
        &still_config(),
        &[
            "add server dyn/a 127.0.0.1:80",
            "add server dyn/a 127.0.0.1:80",
            "add server dyn/b 127.0.0.1:81 check inter 1000s fastinter 500ms downinter 1000s rise 1 fall 5 port 82",
            "add server dyn/c 127.0.0.1:82 weight 9 maxconn 7 backup pool-purge-delay 5s pool-max-conn -1",
            "add server dyn/d [::1]:83 check inter 1000s",
            "add server dyn/e 127.0.0.1:84 init-state fully-down check inter 1000s",
            "add server dyn/f 127.0.0.1:84 init-state bogus",
            "add server dyn/f 127.0.0.1:84 bogus",
            "add server dyn/f 127.0.0.1:84 weight 300",
            "add server dyn/f 127.0.0.1:84 check rise 0",
            "add server dyn/f 127.0.0.1:84 check fall 0",
            "add server dyn/f 127.0.0.1:99999",
            "add server dyn/f/g 127.0.0.1:84",
            "add server fixed/f 127.0.0.1:84",
            "add server slots/f 127.0.0.1:84 check inter 1000s",
            "enable health dyn/a",
            "enable health dyn/b",
            "set server dyn/b state ready",
            "set server dyn/b state drain",
            "del server dyn/b",
            "set server dyn/b state maint",
            "del server dyn/b",
            "del server dyn/b",
            "add server dyn/g 127.0.0.1:85",
            "set server dyn/a health down",
            "set server dyn/a state ready",
            "set server dyn/a health down",
            "set server dyn/a health up",
            "set server dyn/a weight 20",
            "set server dyn/a addr 127.0.0.7 port 77",
            "set maxconn server dyn/c 99",
            "del server slots/n2",
            "del server slots/own",
            "set server slots/named state maint",
            "del server slots/named",
            "set server slots/own state maint",
            "del server slots/own",
            "add server slots/own 127.0.0.1:86",
        ],
    );
}

/// The recipes in every intermediate state, with checks that do not run.
#[test]
fn the_steps_of_each_admission_agree() {
    agree_line_by_line(
        &still_config(),
        &[
            // Below 3.2.
            "add server dyn/a 127.0.0.1:80 check inter 1000s rise 2 fall 3",
            "set server dyn/a state drain",
            "enable health dyn/a",
            "set server dyn/a health down",
            "set server dyn/a state ready",
            // The check first.
            "add server dyn/b 127.0.0.1:80 check inter 1000s rise 2 fall 3",
            "enable health dyn/b",
            "set server dyn/b state drain",
            "set server dyn/b health down",
            "set server dyn/b state ready",
            // From 3.2 on; before that the keyword is refused, and the rest finds no server.
            "add server dyn/c 127.0.0.1:80 init-state fully-down check inter 1000s rise 2 fall 3",
            "set server dyn/c state ready",
            "enable health dyn/c",
            "set server dyn/c state drain",
            "set server dyn/c state maint",
            "set server dyn/c state ready",
            // Put back at once.
            "add server dyn/d 127.0.0.1:80 check inter 1000s rise 2 fall 3",
            "set server dyn/d state drain",
            "enable health dyn/d",
            "set server dyn/d state ready",
            "set server slots/n1 state drain",
            "set server slots/n1 weight 4",
            "set server slots/n1 state ready",
            // A slot.
            "set server slots/n2 weight 0",
            "set server slots/n2 addr 127.0.0.1 port 80",
            "set server slots/n2 state drain",
            "set server slots/n2 health down",
            "set server slots/n2 weight 3",
            "set server slots/n2 state ready",
        ],
    );
}

#[test]
fn a_process_that_was_replaced_agrees() {
    for bin in binaries() {
        let mut pair = Pair::start(&bin, &still_config());
        pair.agree_on(&["add server dyn/a 127.0.0.1:80 check inter 1000s"]);
        pair.agree_on(&["set server slots/n1 addr 127.0.0.2 port 80"]);
        pair.agree_on(&["set server slots/n1 state ready"]);
        let mut old = Pair {
            prompt: pair.prompt,
            model: pair.model.reload(pair.time, 2),
            time: pair.time,
            real: pair.real,
        };
        old.real.reload();
        for line in [
            "set server slots/n1 state maint",
            "set server slots/n1 addr 127.0.0.3 port 80",
            "set server slots/n1 weight 3",
            "set server slots/n1 health down",
            "set maxconn server slots/n1 5",
            "enable health slots/n1",
            "set server slots/none state maint",
            "add server dyn/b 127.0.0.1:80",
            "del server dyn/a",
            "show backend",
        ] {
            old.agree_on(&[line]);
        }
        let stopping = "Stopping: 1\n";
        assert!(old.prompt.send(&["show info"])[0].contains(stopping));
        assert!(old.model.execute(old.time, "show info").contains(stopping));
        let mut new = Pair {
            prompt: old.real.prompt(),
            model: pair.model,
            time: old.time,
            real: old.real,
        };
        new.agree_on_state("in the new process");
        new.agree_on(&["add server dyn/a 127.0.0.1:80"]);
    }
}

#[test]
fn deleting_under_a_request_agrees() {
    let toy = Toy::start("toy");
    for bin in binaries() {
        let port = free_port();
        let config = Config {
            backends: vec![Backend::new("dyn")],
        };
        let frontend = format!("frontend in\n  bind 127.0.0.1:{port}\n  default_backend dyn\n");
        let mut pair = Pair::start_with(&bin, &config, &frontend, |_, _| Conduct::Serves);
        let add = format!(
            "add server dyn/a {} pool-purge-delay 5s pool-max-conn -1",
            toy.address()
        );
        pair.agree_on(&[&add]);
        pair.agree_on(&["set server dyn/a state ready"]);
        let before = toy.requests();
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client
            .write_all(b"GET /sleep/700 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .unwrap();
        wait_for("the request", || (toy.requests() > before).then_some(()));
        pair.model.set_traffic("dyn", "a", 1, 0, 0);
        pair.agree_on(&["set server dyn/a state maint"]);
        pair.agree_on(&["del server dyn/a"]);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // Before 3.0 the connection stays with the server until its address changes.
        let idle = u64::from(["2.6", "2.8"].contains(&bin.line()));
        pair.model.set_traffic("dyn", "a", 0, 0, idle);
        let sessions = |pair: &mut Pair| {
            let stat = pair.prompt.send(&["show stat dyn 4 -1"]).remove(0);
            stat_cells(&stat)[1][3].clone()
        };
        wait_for("the session to end", || {
            (sessions(&mut pair) == "0").then_some(())
        });
        if idle == 1 {
            pair.agree_on(&["del server dyn/a"]);
            pair.agree_on(&["set server dyn/a addr 127.0.0.1 port 1"]);
        }
        // The end of a session and its last traces are not one step.
        wait_for("HAProxy to let go", || {
            let answer = pair.prompt.send(&["del server dyn/a"]).remove(0);
            (!answer.starts_with("Server still has")).then_some(())
        });
        pair.model.execute(pair.time, "del server dyn/a");
        pair.agree_on_state("after the deletion");
    }
}

/// Op state, admin state, health, check state without its "running" bit.
type Stage = [String; 4];

fn stage(rows: &[Vec<String>], server: &str) -> Stage {
    let row = rows
        .iter()
        .find(|row| row.len() == 24 && format!("{}/{}", row[1], row[3]) == server)
        .unwrap_or_else(|| panic!("{server} is not in {rows:?}"));
    let check_state: u8 = row[12].parse().unwrap();
    [
        row[5].clone(),
        row[6].clone(),
        row[11].clone(),
        (check_state & !1).to_string(),
    ]
}

/// HAProxy changes the health a moment before the operational state, and another thread can read that.
fn is_between(way: &[Stage], seen: &Stage) -> bool {
    way.windows(2).any(|step| {
        let cells = step[0].iter().zip(&step[1]).zip(seen);
        cells.into_iter().all(|((a, b), seen)| seen == a || seen == b)
    })
}

/// What to do with one server, and what its address does meanwhile.
struct Way {
    server: &'static str,
    conduct: Conduct,
    /// `@` is the server's name, `@@` the toy's address.
    lines: &'static [&'static str],
}

/// Writes the lines of all ways at once and follows their servers: HAProxy may be seen only in stages that the model
/// goes through, in its order, and ends in its last one.
fn agree_on_the_way(bin: &HaproxyBin, config: &Config, ways: &[Way]) {
    const WINDOW: Duration = Duration::from_millis(900);
    let toys = [Toy::start("serves"), Toy::start("fails"), Toy::start("refuses")];
    toys[1].fail();
    toys[2].refuse();
    let [serving, failing, _] = toys.each_ref().map(Toy::address);
    let mut pair = Pair::start_with(bin, config, "", move |address, _| match address {
        _ if address == serving => Conduct::Serves,
        _ if address == failing => Conduct::Fails,
        _ => Conduct::Refuses,
    });
    let mut together = Vec::new();
    for way in ways {
        let toy = match way.conduct {
            Conduct::Serves => &toys[0],
            Conduct::Fails => &toys[1],
            Conduct::Refuses => &toys[2],
        };
        let port = toy.address().port();
        for line in way.lines {
            let line = line
                .replace("@@", &toy.address().to_string())
                .replace('@', way.server);
            if line.ends_with(" addr") {
                // Changes of addresses are late: what follows waits for them.
                pair.agree_on(&[&format!("{line} 127.0.0.1 port {port}")]);
            } else {
                together.push(line);
            }
        }
    }
    let real_answers = pair.prompt.send(&together);
    for (line, answer) in together.iter().zip(&real_answers) {
        assert_eq!(
            answer,
            &pair.model.execute(pair.time, line),
            "{}: {line}",
            bin.version
        );
    }
    let end = pair.time + WINDOW;
    let mut stages: Vec<Vec<Stage>> = vec![Vec::new(); ways.len()];
    while pair.time <= end {
        let rows = state_rows(&pair.model.execute(pair.time, "show servers state"));
        for (way, stages) in ways.iter().zip(&mut stages) {
            stages.push(stage(&rows, way.server));
        }
        pair.time += Duration::from_millis(1);
    }
    stages.iter_mut().for_each(Vec::dedup);
    let mut remaining: Vec<&[Stage]> = stages.iter().map(Vec::as_slice).collect();
    let started = now();
    while started.elapsed() < WINDOW || remaining.iter().any(|stages| stages.len() > 1) {
        let rows = state_rows(&pair.prompt.send(&["show servers state"])[0]);
        for (way, remaining) in ways.iter().zip(&mut remaining) {
            let seen = stage(&rows, way.server);
            if let Some(at) = remaining.iter().position(|stage| *stage == seen) {
                *remaining = &remaining[at..];
                continue;
            }
            assert!(
                is_between(remaining, &seen),
                "{}: {} of {:?} is in {seen:?}, and {remaining:?} was to come after {:?}",
                bin.version,
                way.server,
                way.conduct,
                way.lines
            );
        }
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{}: {remaining:?} was to come",
            bin.version
        );
    }
}

const ADD: &str = "add server @ @@ check inter 100ms rise 2 fall 3";
const DRAIN: &str = "set server @ state drain";
const ENABLE: &str = "enable health @";
const DOWN: &str = "set server @ health down";
const READY: &str = "set server @ state ready";
const ADDRESS: &str = "set server @ addr";

fn lively_config() -> Config {
    let check = Some(Check::every(Duration::from_millis(100)));
    Config {
        backends: vec![
            Backend::new("dyn"),
            Backend::new("slots").template("n", 12, placeholder(), check),
        ],
    }
}

macro_rules! ways {
    ($([$serves:literal, $fails:literal, $refuses:literal] $lines:expr;)*) => {
        vec![$(
            Way { server: $serves, conduct: Conduct::Serves, lines: &$lines },
            Way { server: $fails, conduct: Conduct::Fails, lines: &$lines },
            Way { server: $refuses, conduct: Conduct::Refuses, lines: &$lines },
        )*]
    };
}

#[test]
fn the_way_of_a_dynamic_server_agrees() {
    let ways = ways! {
        ["dyn/a1", "dyn/a2", "dyn/a3"] [ADD, DRAIN, ENABLE, DOWN, READY];
        ["dyn/b1", "dyn/b2", "dyn/b3"] [ADD, ENABLE, DRAIN, DOWN, READY];
        ["dyn/c1", "dyn/c2", "dyn/c3"] [ADD, DRAIN, ENABLE, READY];
        ["dyn/d1", "dyn/d2", "dyn/d3"] [ADD, DRAIN, ENABLE];
        ["dyn/e1", "dyn/e2", "dyn/e3"] [ADD, ENABLE, DRAIN];
        ["dyn/f1", "dyn/f2", "dyn/f3"] [ADD, ENABLE, READY];
        ["dyn/g1", "dyn/g2", "dyn/g3"] [ADD, READY, ENABLE];
        ["dyn/h1", "dyn/h2", "dyn/h3"] [ADD, ENABLE];
    };
    for bin in binaries() {
        agree_on_the_way(&bin, &lively_config(), &ways);
    }
}

#[test]
fn the_way_of_a_server_that_begins_fully_down_agrees() {
    const ADD: &str = "add server @ @@ init-state fully-down check inter 100ms rise 2 fall 3";
    let ways = ways! {
        ["dyn/a1", "dyn/a2", "dyn/a3"] [ADD, READY, ENABLE];
        ["dyn/b1", "dyn/b2", "dyn/b3"] [ADD, ENABLE, READY];
        ["dyn/c1", "dyn/c2", "dyn/c3"] [ADD, DRAIN, ENABLE];
        ["dyn/d1", "dyn/d2", "dyn/d3"] [ADD, DRAIN, ENABLE, READY];
    };
    for bin in binaries() {
        if !["2.6", "2.8", "3.0"].contains(&bin.line()) {
            agree_on_the_way(&bin, &lively_config(), &ways);
        }
    }
}

#[test]
fn the_way_of_a_slot_agrees() {
    let ways = ways! {
        ["slots/n1", "slots/n2", "slots/n3"] [ADDRESS, DRAIN, DOWN, READY];
        ["slots/n4", "slots/n5", "slots/n6"] [ADDRESS, DRAIN, READY];
        ["slots/n7", "slots/n8", "slots/n9"] [ADDRESS, DRAIN];
        ["slots/n10", "slots/n11", "slots/n12"] [ADDRESS, READY, DOWN];
    };
    for bin in binaries() {
        agree_on_the_way(&bin, &lively_config(), &ways);
    }
}

/// An interval of 1000 s is one that would hold the server where it is.
#[test]
fn the_three_intervals_agree() {
    let ways = ways! {
        ["dyn/a1", "dyn/a2", "dyn/a3"] [
            "add server @ @@ check inter 1000s fastinter 50ms downinter 50ms", DRAIN, ENABLE, DOWN, READY,
        ];
        ["dyn/b1", "dyn/b2", "dyn/b3"] [
            "add server @ @@ check inter 50ms fastinter 1000s downinter 50ms", DRAIN, ENABLE, DOWN, READY,
        ];
        ["dyn/c1", "dyn/c2", "dyn/c3"] [
            "add server @ @@ check inter 50ms fastinter 50ms downinter 1000s", DRAIN, ENABLE, DOWN, READY,
        ];
    };
    for bin in binaries() {
        agree_on_the_way(&bin, &lively_config(), &ways);
    }
}
