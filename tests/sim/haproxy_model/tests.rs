//! What no real HAProxy can be asked: who would be given traffic, who leaked, what comes next.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// 127.0.0.1:80 serves from 10 s on, 127.0.0.1:90 fails its check, nothing else listens.
fn model(version: &str) -> Model {
    let check = Some(Check::every(SECOND));
    let config = Config {
        backends: vec![
            Backend::new("dyn"),
            Backend::new("slots").template("n", 2, at("127.0.0.1:1"), check),
            Backend::new("own").server(ServerLine {
                check,
                ..ServerLine::new("a", at("127.0.0.1:80"))
            }),
        ],
    };
    let world = |address: SocketAddr, time| match address.port() {
        80 if time >= 10 * SECOND => Conduct::Serves,
        90 => Conduct::Fails,
        _ => Conduct::Refuses,
    };
    Model::new(version, config, Rc::new(world), 7, Duration::ZERO)
}

fn run(model: &mut Model, now: Duration, lines: &[&str]) {
    for line in lines {
        let answer = model.execute(now, line);
        assert!(
            ["", "New server registered.\n"].contains(&answer.as_str()),
            "{line}: {answer}"
        );
    }
}

fn rotation(model: &Model) -> Vec<String> {
    let servers = model.servers().into_iter();
    servers
        .filter(|server| server.in_rotation)
        .map(|server| format!("{}/{}", server.backend, server.name))
        .collect()
}

#[test]
fn a_server_admitted_by_the_recipe_is_in_rotation_after_its_checks_and_does_not_leak() {
    for (version, recipe) in [
        (
            "2.8.25",
            [
                "add server dyn/a 127.0.0.1:80 check inter 2s downinter 250ms rise 2 fall 3",
                "set server dyn/a state drain",
                "enable health dyn/a",
                "set server dyn/a health down",
                "set server dyn/a state ready",
            ]
            .as_slice(),
        ),
        (
            "3.4.7-1",
            &[
                "add server dyn/a 127.0.0.1:80 init-state fully-down check inter 2s downinter 250ms rise 2 fall 3",
                "set server dyn/a state ready",
                "enable health dyn/a",
            ],
        ),
    ] {
        let mut model = model(version);
        run(&mut model, SECOND, recipe);
        model.advance(Duration::from_millis(9_999));
        assert!(!rotation(&model).contains(&"dyn/a".to_owned()), "{version}");
        // The second pass comes one `fastinter`, so one `inter`, after the first.
        model.advance(12 * SECOND + Duration::from_millis(250));
        assert!(rotation(&model).contains(&"dyn/a".to_owned()), "{version}");
        assert_eq!(model.leaks(), [], "{version}");
    }
}

#[test]
fn a_server_made_ready_at_once_leaks_even_for_no_time() {
    let mut model = model("3.0.11");
    run(
        &mut model,
        SECOND,
        &[
            "add server dyn/a 127.0.0.1:90 check",
            "enable health dyn/a",
            "set server dyn/a state ready",
            "set server dyn/a health down",
        ],
    );
    let leak = Leak {
        at: SECOND,
        server: "dyn/a".to_owned(),
        address: at("127.0.0.1:90"),
        cookie: None,
    };
    assert_eq!(model.leaks(), [leak]);
}

#[test]
fn a_slot_made_ready_before_its_late_address_leaks() {
    let mut model = model("3.2.26");
    model.set_address_lag(Duration::from_millis(20));
    let now = 11 * SECOND;
    let answer = model.execute(now, "set server slots/n1 addr 127.0.0.1 port 90");
    assert_eq!(
        answer,
        "port changed from '1' to '90' by 'stats socket command'\n"
    );
    let first_read = model.execute(now, "show servers state slots");
    assert!(first_read.contains(" - 1 - 0 0 "), "{first_read}");
    assert_eq!(model.next_change(), Some(now + Duration::from_millis(20)));
    model.advance(now + Duration::from_millis(20));
    let second_read = model.execute(now + Duration::from_millis(20), "show servers state slots");
    assert!(second_read.contains(" - 90 - 0 0 "), "{second_read}");
    assert_eq!(model.leaks(), []);
    run(
        &mut model,
        now + Duration::from_millis(20),
        &["set server slots/n1 state ready"],
    );
    assert_eq!(model.leaks().len(), 1);
}

#[test]
fn servers_of_the_file_and_servers_without_a_check_never_count_as_leaks() {
    let mut model = model("2.6.12");
    run(
        &mut model,
        SECOND,
        &[
            "add server dyn/a 127.0.0.1:90",
            "set server dyn/a state ready",
        ],
    );
    model.advance(20 * SECOND);
    assert_eq!(rotation(&model), ["dyn/a", "own/a"]);
    assert_eq!(model.leaks(), []);
}

#[test]
fn a_reload_gives_a_new_process_and_leaves_the_old_one_deaf() {
    let mut model = model("2.8.25");
    model.count_connection();
    run(&mut model, SECOND, &["add server dyn/a 127.0.0.1:90 check"]);
    let mut old = model.reload(2 * SECOND, 8);
    let info = model.execute(3 * SECOND, "show info");
    assert!(
        info.contains("\nPid: 8\nUptime_sec: 1\nCumConns: 0\nStopping: 0\n"),
        "{info}"
    );
    let info = old.execute(3 * SECOND, "show info");
    assert!(
        info.contains("\nPid: 7\nUptime_sec: 3\nCumConns: 1\nStopping: 1\n"),
        "{info}"
    );
    assert_eq!(
        old.execute(3 * SECOND, "set server dyn/a state ready"),
        "Proxy is disabled.\n"
    );
    assert!(model.servers().iter().all(|server| !server.dynamic));
}

#[test]
fn backups_are_given_requests_only_when_nobody_else_is_there() {
    let backup = ServerLine {
        backup: true,
        ..ServerLine::new("b", at("127.0.0.1:81"))
    };
    let config = Config {
        backends: vec![
            Backend::new("web")
                .server(ServerLine::new("a", at("127.0.0.1:80")))
                .server(backup),
        ],
    };
    let world = |_: SocketAddr, _| Conduct::Serves;
    let mut model = Model::new("3.4.7", config, Rc::new(world), 7, Duration::ZERO);
    let wish = |id: u64| Wish {
        id,
        backend: "web",
        cookie: None,
        keeps_connection: false,
        reuses: false,
        turn: usize::try_from(id).unwrap(),
    };
    for id in 0..4 {
        assert_eq!(model.open(SECOND, &wish(id)).unwrap().server, "a");
    }
    run(&mut model, SECOND, &["set server web/a state drain"]);
    assert_eq!(model.open(SECOND, &wish(4)).unwrap().server, "b");
    let sessions = ["a", "b"].map(|name| model.server("web", name).unwrap().sessions);
    assert_eq!(sessions, [4, 1]);
}

#[test]
fn a_session_that_came_and_went_shows_in_the_total_alone() {
    let mut model = model("2.6.12");
    let cells = |model: &mut Model| -> Vec<String> {
        let text = model.execute(SECOND, "show stat own 6 -1");
        let columns: Vec<&str> = text.lines().next().unwrap().split(',').collect();
        let row: Vec<&str> = text.lines().nth(1).unwrap().split(',').collect();
        let of = |column| columns.iter().position(|one| *one == column).unwrap();
        ["scur", "stot"]
            .map(|column| row[of(column)].to_owned())
            .to_vec()
    };
    model.count_session("own", "a");
    assert_eq!(cells(&mut model), ["0", "1"]);
}
