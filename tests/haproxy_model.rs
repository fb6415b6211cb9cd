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
                assert_eq!(
                    real.lines().next(),
                    model.lines().next(),
                    "{version}: {line}"
                );
            } else if line.starts_with("set server") && real.starts_with("usage:") {
                assert_eq!(real, &model, "{version}: {line}");
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
        assert_eq!(theirs, ours, "{context}\n(left: HAProxy, right: the model)");
        let backends: Vec<String> = self.prompt.send(&["show backend"])[0]
            .lines()
            .skip(1)
            .map(str::to_owned)
            .collect();
        for backend in backends {
            let line = format!("show stat {backend} 4 -1");
            let theirs = stat_cells(&self.prompt.send(&[&line])[0]);
            let ours = stat_cells(&self.model.execute(self.time, &line));
            assert_eq!(theirs, ours, "{context}\n(left: HAProxy, right: the model)");
        }
    }
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
        let add = format!("add server dyn/a {}", toy.address());
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

/// Runs `lines` in one write and follows `server` for a while: HAProxy may be seen only in stages that the model
/// goes through, in its order, and ends in its last one.
fn agree_on_the_way(config: &Config, conduct: Conduct, lines: &[&str], server: &str) {
    let window = Duration::from_millis(900);
    let toy = Toy::start("toy");
    match conduct {
        Conduct::Serves => toy.serve(),
        Conduct::Fails => toy.fail(),
        Conduct::Refuses => toy.refuse(),
    }
    let lines: Vec<String> = lines
        .iter()
        .map(|line| line.replace("@TOY@", &toy.address().to_string()))
        .map(|line| line.replace("@PORT@", &toy.address().port().to_string()))
        .collect();
    for bin in binaries() {
        let mut pair = Pair::start_with(&bin, config, "", move |_, _| conduct);
        for line in &lines {
            // Addresses come late, so the line after one waits for it.
            if line.contains(" addr ") {
                pair.agree_on(&[line]);
            }
        }
        let rest: Vec<&String> = lines.iter().filter(|line| !line.contains(" addr ")).collect();
        let real_answers = pair.prompt.send(&rest);
        let model_answers: Vec<String> = rest
            .iter()
            .map(|line| pair.model.execute(pair.time, line))
            .collect();
        assert_eq!(real_answers, model_answers, "{}", bin.version);
        let mut way = Vec::new();
        let end = pair.time + window;
        while pair.time <= end {
            let rows = state_rows(&pair.model.execute(pair.time, "show servers state"));
            way.push(stage(&rows, server));
            pair.time += Duration::from_millis(1);
        }
        way.dedup();
        let mut remaining = way.as_slice();
        let started = now();
        loop {
            let rows = state_rows(&pair.prompt.send(&["show servers state"])[0]);
            let seen = stage(&rows, server);
            let Some(at) = remaining.iter().position(|stage| *stage == seen) else {
                panic!("{}: HAProxy is in {seen:?} of {way:?}", bin.version);
            };
            remaining = &remaining[at..];
            if started.elapsed() > window && remaining.len() == 1 {
                break;
            }
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "{}: HAProxy stays in {seen:?} of {way:?}",
                bin.version
            );
        }
    }
}

fn lively_config() -> Config {
    let check = Some(Check::every(Duration::from_millis(100)));
    Config {
        backends: vec![
            Backend::new("dyn"),
            Backend::new("slots").template("n", 1, placeholder(), check),
        ],
    }
}

const CHECK: &str = "check inter 100ms rise 2 fall 3";

#[test]
fn the_way_of_a_dynamic_server_agrees() {
    let add = format!("add server dyn/a @TOY@ {CHECK}");
    let [drain, enable, down, ready] = [
        "set server dyn/a state drain",
        "enable health dyn/a",
        "set server dyn/a health down",
        "set server dyn/a state ready",
    ];
    for conduct in [Conduct::Serves, Conduct::Fails, Conduct::Refuses] {
        for recipe in [
            vec![add.as_str(), drain, enable, down, ready],
            vec![&add, enable, drain, down, ready],
            vec![&add, drain, enable, ready],
            vec![&add, drain, enable],
            vec![&add, enable, ready],
            vec![&add, enable],
        ] {
            agree_on_the_way(&lively_config(), conduct, &recipe, "dyn/a");
        }
    }
}
