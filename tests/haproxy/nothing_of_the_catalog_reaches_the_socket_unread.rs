//! Whoever may register a service may write anything into its name, its tags and its address. None of it is a command.

use std::net::SocketAddr;

use crate::support::{
    fake_nomad::ServiceRegistration,
    toy::Toy,
    world::{BOTH, DEFAULTS, ENABLED, World, on_every_line, section, slots},
};

/// What harms a HAProxy when it is written to it, and what is only odd.
const HOSTILE: [&str; 18] = [
    "x;shutdown frontend victim-in",
    "x\nshutdown frontend victim-in",
    "x\r\nshutdown frontend victim-in\r\n",
    "x 127.0.0.1:9 backup",
    "x\\",
    "x\\\nshutdown frontend victim-in",
    "x <<",
    "x <<\n\nshutdown frontend victim-in\n\n",
    "x\0shutdown frontend victim-in",
    "#1",
    "@1",
    "\u{e9}",
    "a\"b'c",
    "%s%n",
    "BACKEND",
    "FRONTEND",
    "../web",
    "\u{1b}[2J",
];

#[test]
fn hostile_registrations_write_nothing_and_good_ones_are_served() {
    on_every_line(|bin| {
        let config = [
            DEFAULTS,
            &section("victim", ""),
            &section("slots", &slots(4)),
            &section("dynamic", ""),
        ]
        .concat();
        let world = World::start_with(bin, &config);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let hostile = hostile_registrations();
        let expected = hostile.len();
        world.nomad.register_all(hostile);
        let sidecar = world.sidecar_with(&[("SIDECAR_NAMESPACES", "*")]);
        // Some have addresses where nobody listens: what is ready waits for them for a while.
        sidecar.logged(&["the first sync is applied"]);
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0]]);
        }
        world.until_asked_again();
        // Some of them once more, by events.
        let again = hostile_registrations().into_iter().step_by(7);
        world.nomad.register_all(again.map(|mut registration| {
            registration.id.push_str("-again");
            registration
        }));
        let last = Toy::start("last");
        world.register("dynamic", &last);
        world.until_served_by("dynamic", &[&toys[1][0], &last]);

        let served: Vec<_> = toys
            .iter()
            .flatten()
            .chain([&last])
            .map(Toy::address)
            .collect();
        for line in world.tap.lines() {
            assert!(is_of_our_grammar(&line, &served), "written: {line:?}");
        }
        let stat = world.haproxy.ask("show stat -1 1 -1");
        let open = stat.lines().filter(|line| line.contains(",OPEN,")).count();
        assert_eq!(open, 3, "not every frontend is open: {stat}");
        let (_, ready) = sidecar.get("/ready");
        eprintln!("{}: {expected} hostile registrations: {ready}", bin.version);
        assert_eq!(
            sidecar
                .log()
                .lines()
                .filter(|line| line.contains('\u{1b}'))
                .count(),
            0
        );
        sidecar.logged(&[
            "not served: ",
            "is no IP address of a server, and HAProxy resolves no names at runtime",
        ]);
        sidecar.logged(&["not served: tag", "backend.name"]);
        sidecar.logged(&["not served: its service's name cannot name a backend"]);
    });
}

/// Every text in every place where one can be.
fn hostile_registrations() -> Vec<ServiceRegistration> {
    let mut all = Vec::new();
    let address: SocketAddr = ([127, 0, 0, 1], 9).into();
    let mut number = 0;
    let mut next = |service: &str| {
        number += 1;
        ServiceRegistration::new(service, number, i64::from(address.port())).tags(&[ENABLED])
    };
    let long = "x".repeat(20_000);
    for text in HOSTILE.into_iter().chain([&*long]) {
        all.push(next(text));
        // The text of an ID is nobody's fault. Nobody listens at these addresses.
        let mut odd = next("dynamic").address(&format!("127.0.0.{}", all.len() % 250 + 2));
        text.clone_into(&mut odd.id);
        text.clone_into(&mut odd.alloc_id);
        all.push(odd);
        for service in BOTH {
            all.push(next(service).address(text));
            all.push(next(service).address(&format!("127.0.0.1{text}")));
            all.push(next(service).address(&format!("127.0.0.1:80 {text}")));
            for tag in [
                "haproxy.backend.name",
                "haproxy.weight",
                "haproxy.maxconn",
                "haproxy.backup",
                "haproxy.check.interval",
                "haproxy.check.port",
                "haproxy.check.rise",
                "haproxy.check.path",
                "haproxy.enable",
                "haproxy.unheard-of",
            ] {
                let tag = format!("{tag}={text}");
                // Of these two a bad value is no reason to refuse the rest, so an address that is nobody's.
                all.push(next(service).address("").tags(&[ENABLED, &tag]));
                if tag.starts_with("haproxy.backend.name") {
                    all.push(next(service).tags(&[ENABLED, &tag]));
                }
            }
            all.push(next(service).address("").tags(&[ENABLED, text]));
            all.push(next(service).namespace(&format!("ns {text}")));
        }
    }
    all
}

/// What the sidecar may write in this world, word by word.
fn is_of_our_grammar(line: &str, known: &[SocketAddr]) -> bool {
    let server = |word: &str| match word.split_once('/') {
        Some(("slots", name)) => matches!(name, "nomad1" | "nomad2" | "nomad3" | "nomad4"),
        Some(("dynamic", name)) => {
            let parts: Vec<_> = name.split('-').collect();
            matches!(parts[..], ["nomad", alloc, hash]
                if [alloc, hash].iter().all(|part| part.len() == 8 && part.bytes().all(|byte| byte.is_ascii_alphanumeric())))
        }
        _ => false,
    };
    // One that is not there is asked for, and for its `defaults` section, which is not there either.
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    let backend = |word: &str| !word.is_empty() && word.bytes().all(is_name);
    let number = |word: &str| word.parse::<u32>().is_ok();
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        ["prompt"]
        | ["set", "severity-output", "none"]
        | ["set", "timeout", "cli", "60s"]
        | ["show", "cli", "level"]
        | ["show", "info" | "backend"]
        | ["show", "stat", "-1", "2", "-1"]
        | ["dump", "stats-file"]
        | ["show", "servers", "state"] => true,
        ["add", "backend", name, "from", "nomad", "guid", guid] => {
            backend(name) && guid.strip_prefix("nomad:") == Some(name)
        }
        ["show", "servers", "state", name] => backend(name),
        ["show", "stat", name, "4" | "6", "-1"] => backend(name) || number(name),
        ["set", "server", name, "state", "ready" | "drain" | "maint"]
        | ["set", "server", name, "health", "down"]
        | ["enable", "health", name]
        | ["del", "server", name] => server(name),
        ["set", "server", name, "weight", weight] => server(name) && number(weight),
        ["set", "server", name, "addr", ip, "port", port] => {
            server(name)
                && format!("{ip}:{port}").parse().is_ok_and(|address| {
                    known.contains(&address) || (ip, port) == ("127.0.0.1", "1")
                })
        }
        ["add", "server", name, address, ref keywords @ ..] => {
            server(name)
                && address.parse().is_ok_and(|address: SocketAddr| {
                    known.contains(&address) || address.port() == 9
                })
                && keywords
                    .join(" ")
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b" -".contains(&byte))
        }
        _ => false,
    }
}
