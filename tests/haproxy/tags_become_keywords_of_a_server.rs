//! What a tag asks of a dynamic server is what HAProxy says of it, on each line as far as that line can; what it cannot is
//! reported, and the instance served all the same.

use std::{
    collections::BTreeMap,
    io::Write as _,
    net::TcpListener,
    sync::{Arc, Mutex},
    thread,
};

use crate::support::{
    haproxy::HaproxyBin,
    http,
    sidecar::soon,
    toy::Toy,
    world::{DEFAULTS, ENABLED, World, instance, on_every_line, section, slots},
};

const COOKIE: &str = "  cookie SRV insert indirect nocache\n";

/// An agent that says a word to whoever connects.
struct Agent {
    port: u16,
    word: Arc<Mutex<&'static str>>,
}

impl Agent {
    fn start(word: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let word = Arc::new(Mutex::new(word));
        let says = Arc::clone(&word);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let word = *says.lock().expect("nobody panics with it");
                // Whoever asked may be gone.
                drop(connection.and_then(|mut to| writeln!(to, "{word}")));
            }
        });
        Self { port, word }
    }

    fn say(&self, word: &'static str) {
        *self.word.lock().expect("nobody panics with it") = word;
    }
}

/// The cells of a server's row of `show stat`.
fn stat(world: &World, backend: &str, server: &str) -> BTreeMap<String, String> {
    let text = world.haproxy.ask("show stat");
    let mut lines = text.lines();
    let header = lines.next().expect("there is a header");
    let columns = header.trim_start_matches("# ").split(',');
    let row = lines
        .map(|line| line.split(',').collect::<Vec<_>>())
        .find(|row| row[..2] == [backend, server])
        .expect("the server has a row");
    let cells = row.into_iter().map(str::to_owned);
    columns.map(str::to_owned).zip(cells).collect()
}

fn line_of(bin: &HaproxyBin) -> (u32, u32) {
    let mut numbers = bin.version.split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().expect("a version has two numbers");
    (next(), next())
}

#[test]
fn a_server_is_what_its_tags_ask_for() {
    on_every_line(|bin| {
        let line = line_of(bin);
        let healthchecks = if line >= (3, 4) {
            "healthcheck deep\n  type httpchk GET /deep\n"
        } else {
            ""
        };
        let config = [DEFAULTS, healthchecks, &section("dynamic", COOKIE)].concat();
        let world = World::start_with(bin, &config);
        let toy = Toy::start("asks");
        let agent = Agent::start("up");
        let agent_port = format!("haproxy.agent.port={}", agent.port);
        world
            .nomad
            .register(instance("dynamic", toy.address()).tags(&[
                ENABLED,
                "haproxy.maxconn=30",
                "haproxy.maxqueue=7",
                "haproxy.slowstart=20s",
                "haproxy.cookie=auto",
                "haproxy.proto=h1",
                "haproxy.check.profile=deep",
                &agent_port,
                "haproxy.agent.interval=100ms",
            ]));
        let sidecar = world.sidecar_with(&[]);
        let name = soon("it is UP, and starts slowly", || {
            let (name, server) = world.servers("dynamic").pop_first()?;
            (server.operational == 1).then_some(name)
        });
        let cells = stat(&world, "dynamic", &name);
        assert_eq!(
            (&*cells["slim"], &*cells["qlimit"]),
            ("30", "7"),
            "{}",
            bin.version
        );
        soon("the agent is asked", || {
            let said = stat(&world, "dynamic", &name)["agent_status"].clone();
            (said == "L7OK").then_some(())
        });
        if line >= (2, 8) {
            let cookie = cells["cookie"].clone();
            assert!(cookie.len() == 16 && cookie.bytes().all(|byte| byte.is_ascii_hexdigit()));
            // With other tags it is another server, and its clients' cookie is the same.
            world.nomad.register(
                instance("dynamic", toy.address()).tags(&[ENABLED, "haproxy.cookie=auto"]),
            );
            let successor = soon("its successor serves alone", || {
                let servers = world.servers("dynamic");
                let (other, server) = servers.first_key_value()?;
                let is_alone = servers.len() == 1 && *other != name;
                (is_alone && server.is_in_rotation()).then(|| other.clone())
            });
            assert_eq!(stat(&world, "dynamic", &successor)["cookie"], cookie);
            let socket = world.frontend("dynamic");
            let header = format!("Cookie: SRV={cookie}\r\n");
            let answer = http::get_with(&socket, "/", &header).expect("it answers");
            assert_eq!(answer, (200, "asks".to_owned()));
        } else {
            sidecar.logged(&[
                "tag cookie has no effect: HAProxy can do that for servers added at runtime from 2.8 on",
            ]);
        }
        if line < (3, 4) {
            sidecar.logged(&[
                "tag check.profile has no effect: HAProxy can do that for servers added at runtime from 3.4 on",
            ]);
        }
    });
}

#[test]
fn what_an_agent_says_keeps_no_server_from_leaving_and_lets_none_in_unchecked() {
    on_every_line(|bin| {
        let world = World::start_with(bin, &[DEFAULTS, &section("dynamic", "")].concat());
        let agent = Agent::start("ready up 50%");
        let [stays, leaves, fails] = ["stays", "leaves", "fails"].map(Toy::start);
        fails.fail();
        let port = format!("haproxy.agent.port={}", agent.port);
        let tags = [
            ENABLED,
            "haproxy.weight=10",
            &port,
            "haproxy.agent.interval=50ms",
        ];
        for toy in [&stays, &leaves, &fails] {
            world
                .nomad
                .register(instance("dynamic", toy.address()).tags(&tags));
        }
        let sidecar = world.sidecar();
        world.until_served_by("dynamic", &[&stays, &leaves]);
        let name = world.server_of("dynamic", &stays);
        soon("the agent's weight is in force", || {
            (world.servers("dynamic")[&name].weight == 5).then_some(())
        });
        // It is the agent's, and nobody else's business.
        world.until_read_again(1);
        assert_eq!(world.servers("dynamic")[&name].weight, 5);
        assert_eq!(sidecar.count("by hand"), 0);
        assert_eq!((fails.requests(), fails.checks() > 0), (0, true));

        world.deregister(&instance("dynamic", leaves.address()).key());
        soon("the server is gone", || {
            (world.servers("dynamic").len() == 2).then_some(())
        });
        world.until_served_by("dynamic", &[&stays]);

        agent.say("down");
        soon("the agent takes it out", || {
            (!world.servers("dynamic")[&name].is_in_rotation()).then_some(())
        });
        agent.say("up");
        world.until_served_by("dynamic", &[&stays]);
    });
}

#[test]
fn what_the_agent_of_a_template_says_keeps_no_slot_from_leaving_and_lets_none_in_unchecked() {
    on_every_line(|bin| {
        let agent = Agent::start("ready up 50%");
        let template = slots(3).replace(
            " check ",
            &format!(
                " weight 10 agent-check agent-port {} agent-inter 50ms check ",
                agent.port
            ),
        );
        let world = World::start_with(bin, &[DEFAULTS, &section("slots", &template)].concat());
        let [stays, leaves, fails] = ["stays", "leaves", "fails"].map(Toy::start);
        fails.fail();
        for toy in [&stays, &leaves, &fails] {
            world.register("slots", toy);
        }
        let sidecar = world.sidecar();
        world.until_served_by("slots", &[&stays, &leaves]);
        let until_asked = |toy: &Toy| {
            let slot = world.server_of("slots", toy);
            soon("the agent's weight is in force", || {
                (world.servers("slots")[&slot].weight == 5).then_some(())
            });
        };
        until_asked(&stays);
        until_asked(&leaves);
        world.until_read_again(1);
        assert_eq!(sidecar.count("by hand"), 0);
        assert_eq!((fails.requests(), fails.checks() > 0), (0, true));

        world.deregister(&instance("slots", leaves.address()).key());
        let address = leaves.address().to_string();
        soon("the slot is free", || {
            let mut slots = world.servers("slots").into_values();
            (!slots.any(|slot| slot.address == address)).then_some(())
        });
        world.until_served_by("slots", &[&stays]);
        // And the next one in it has its agent again.
        let comes = Toy::start("comes");
        world.register("slots", &comes);
        world.until_served_by("slots", &[&stays, &comes]);
        until_asked(&comes);
    });
}

#[test]
fn a_server_profile_is_in_the_operators_words_and_a_tag_only_names_it() {
    on_every_line(|bin| {
        let world = World::start_with(bin, &[DEFAULTS, &section("dynamic", "")].concat());
        let [plain, secret, missing] = ["plain", "secret", "missing"].map(Toy::start);
        world.register("dynamic", &plain);
        for (toy, profile) in [(&secret, "tls"), (&missing, "lost")] {
            let tag = format!("haproxy.tls.profile={profile}");
            let registration = instance("dynamic", toy.address());
            world.nomad.register(registration.tags(&[ENABLED, &tag]));
        }
        let profiles = "tls=ssl verify none sni str(a.example); lost=ssl ca-file /nowhere/ca.pem";
        let sidecar = world.sidecar_with(&[("SIDECAR_SERVER_PROFILES", profiles)]);
        world.until_served_by("dynamic", &[&plain]);
        let added = soon("it is added", || {
            let mut lines = world.tap.lines().into_iter();
            lines.find(|line| line.contains(&secret.address().to_string()))
        });
        assert!(
            added.contains(" ssl verify none sni str(a.example) "),
            "{added}"
        );
        assert!(added.contains(" check-ssl"), "{added}");
        let state = world.haproxy.ask("show servers state dynamic");
        let row = state
            .lines()
            .find(|line| line.contains(&format!(" {} ", secret.address().port())));
        let use_ssl = row.and_then(|row| row.split(' ').nth(20));
        assert_eq!(use_ssl, Some("1"), "{}: {state}", bin.version);
        sidecar.logged(&["blocked: HAProxy refused", "'ca-file' : unable to load"]);
        // It speaks no TLS, and its check is no other than its clients.
        assert_eq!(secret.requests() + secret.checks(), 0, "{}", bin.version);
    });
}

#[test]
fn in_slots_the_template_decides_and_the_log_says_so() {
    on_every_line(|bin| {
        let world = World::start_with(bin, &[DEFAULTS, &section("slots", &slots(2))].concat());
        let toy = Toy::start("slot");
        world
            .nomad
            .register(instance("slots", toy.address()).tags(&[
                ENABLED,
                "haproxy.maxqueue=7",
                "haproxy.proto=h2",
            ]));
        let sidecar = world.sidecar();
        world.until_served_by("slots", &[&toy]);
        for tag in ["maxqueue", "proto"] {
            let words = format!(
                "tag {tag} has no effect in a backend of server-template slots: the template line decides"
            );
            sidecar.logged(&[&words]);
        }
    });
}
