//! What the simulations believe of HAProxy, held against every real HAProxy there is: the same commands to the model
//! and to the process, and the same words, columns and states back.

#[path = "../support/haproxy.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod haproxy;
#[path = "../sim/haproxy_model/mod.rs"]
mod haproxy_model;
mod maps;
mod pair;
mod state_file;
#[path = "../support/toy.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod toy;
mod traffic;
mod way;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use haproxy::{binaries, free_port, wait_for};
use haproxy_model::{Backend, Check, Conduct, Config, ServerLine, Wish};
use pair::{Pair, stat_cells};
use toy::Toy;

const NEVER: Duration = Duration::from_secs(100_000);

fn address(text: &str) -> SocketAddr {
    text.parse().expect("the test writes an address")
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
            "shutdown sessions server slots/n1",
            "shutdown sessions server slots/none",
            "show servers state nope",
            "show stat nope 6 -1",
            "bogus",
        ],
    );
}

#[test]
fn backends_that_are_made_at_runtime_agree() {
    agree_line_by_line(
        &still_config(),
        &[
            "add backend made from nomad guid nomad:made",
            "add backend made from nomad guid nomad:made",
            "add backend dyn from nomad guid nomad:dyn",
            "add backend nomad from nomad guid nomad:nomad",
            "add backend other from nope guid nomad:other",
            "add backend other from nomad guid nomad:other",
            "add server made/d1 127.0.0.1:3",
            "set server made/d1 state ready",
            "publish backend made",
            "publish backend made",
            "publish backend nope",
            "del backend made",
            "unpublish backend made",
            "del backend made",
            "set server made/d1 state maint",
            "unpublish backend nope",
            "del backend other",
            "del backend other",
            "add backend third from nomad guid nomad:third",
            "add server third/d1 127.0.0.1:3",
            "del backend nope",
        ],
    );
}

#[test]
fn whose_a_backend_is_and_whether_it_is_published_agrees() {
    for bin in binaries() {
        let mut pair = Pair::start(&bin, &still_config());
        let told = |text: &str| {
            let column = |header: &str, name: &str| {
                let mut columns = header.trim_start_matches("# ").split(',');
                columns.position(|column| column == name)
            };
            let header = text.lines().next().unwrap_or_default();
            let status = column(header, "status");
            let rows = text.lines().skip(1);
            let rows = rows.filter(|row| row.split(',').nth(1) == Some("BACKEND"));
            rows.map(|row| {
                let cells: Vec<_> = row.split(',').collect();
                let is_unpublished = status.is_some_and(|at| cells[at].ends_with(" (UNPUB)"));
                (cells[0].to_owned(), is_unpublished)
            })
            .collect::<Vec<_>>()
        };
        let guids = |text: &str| -> Vec<String> {
            let (_, backends) = text.split_once("#be guid,").unwrap_or_default();
            let rows = backends.split("\n\n").next().unwrap_or_default().lines();
            let rows = rows
                .skip(1)
                .map(|row| row.split(',').next().unwrap_or_default());
            rows.map(str::to_owned).collect()
        };
        for line in [
            "add backend made from nomad guid nomad:made",
            "add backend other from nomad guid other",
            "publish backend made",
            "unpublish backend made",
            "del backend made",
        ] {
            pair.agree_on(&[line]);
            let dump = "show stat -1 2 -1";
            let real = pair.prompt.send(&[dump]).remove(0);
            let model = pair.model.execute(pair.time, dump);
            assert_eq!(told(&real), told(&model), "{}: {line}", bin.version);
            let dump = "dump stats-file";
            let real = pair.prompt.send(&[dump]).remove(0);
            let model = pair.model.execute(pair.time, dump);
            assert_eq!(guids(&real), guids(&model), "{}: {line}", bin.version);
        }
    }
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
            ["global\n  nbthread 1\n", ""],
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
            "add server dyn/h 127.0.0.1:84 maxqueue 5 slowstart 5000ms send-proxy check-send-proxy proto h1",
            "add server dyn/i 127.0.0.1:84 send-proxy-v2 proto h2 agent-check agent-port 79 agent-inter 1000000ms",
            "add server dyn/j 127.0.0.1:84 check inter 1000s port 82 agent-check agent-port 79 agent-inter 1000000ms",
            "enable agent dyn/h",
            "enable agent dyn/i",
            "disable agent dyn/i",
            "disable agent dyn/i",
            "disable agent dyn/h",
            "enable agent dyn/none",
            "enable agent nope/i",
            "disable agent dyn/none",
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
        let mut pair = Pair::start_with(&bin, &config, ["", &frontend], |_, _| Conduct::Serves);
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
        let wish = Wish {
            id: 1,
            backend: "dyn",
            cookie: None,
            keeps_connection: true,
            reuses: false,
            turn: 0,
        };
        let dispatch = pair.model.open(pair.time, &wish);
        assert_eq!(dispatch.map(|one| one.to), Some(toy.address()));
        pair.agree_on(&["set server dyn/a state maint"]);
        pair.agree_on(&["del server dyn/a"]);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(pair.model.close(pair.time, 1));
        let sessions = |pair: &mut Pair| {
            let stat = pair.prompt.send(&["show stat dyn 6 -1"]).remove(0);
            stat_cells(&stat)[1][3].clone()
        };
        wait_for("the session to end", || {
            (sessions(&mut pair) == "0").then_some(())
        });
        // Before 3.0 the connection stays with the server until its address changes.
        if ["2.6", "2.8"].contains(&bin.line()) {
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
