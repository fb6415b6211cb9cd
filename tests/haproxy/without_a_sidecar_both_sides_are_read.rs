//! `status` and `explain` where no sidecar answers: they read both sides, and show what they could read.

use std::process::Output;

use crate::support::{
    fake_nomad::{Mode, Recorded, Which},
    haproxy::HaproxyBin,
    sidecar::{command_with, soon},
    toy::Toy,
    world::{BOTH, World, config, instance, on_every_line},
};

const NOBODY: [(&str, &str); 1] = [("SIDECAR_ADMIN_LISTEN", "127.0.0.1:1")];

fn command(world: &World, arguments: &[&str]) -> Output {
    world.with_settings(&NOBODY, |all| command_with(all, arguments))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What `explain` says of `what`, and its exit code.
fn explain(world: &World, what: &str) -> (Option<i32>, String) {
    let output = command(world, &["explain", what]);
    (output.status.code(), text(&output))
}

/// The document of `status`, its screen, and its exit code.
fn status(world: &World) -> (serde_json::Value, String, Option<i32>) {
    let json = command(world, &["status", "--json"]);
    let document = serde_json::from_slice(&json.stdout).expect("it is JSON");
    let output = command(world, &["status"]);
    let screen = text(&output);
    eprintln!("{}:\n{screen}", world.version());
    (document, screen, output.status.code())
}

/// Stage, UP and what it was told to do, of the servers of this backend in that document.
fn servers_of(document: &serde_json::Value, backend: &str) -> Vec<String> {
    let backends = document["backends"].as_array().into_iter().flatten();
    let mut its = backends.filter(|one| one["name"] == backend);
    let servers = its.next().and_then(|one| one["servers"].as_array());
    let shown = |one: &serde_json::Value| {
        format!("{} {} {}", one["stage"], one["up"], one["admin"]).replace('"', "")
    };
    let mut shown: Vec<_> = servers.into_iter().flatten().map(shown).collect();
    shown.sort();
    shown
}

#[test]
fn what_is_left_of_a_service_that_is_gone_is_found_without_a_sidecar() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toy = Toy::start("left");
        let key = world.register("dynamic", &toy);
        let mut sidecar = world.sidecar();
        world.until_served_by("dynamic", &[&toy]);
        sidecar.kill9();
        world.deregister(&key);
        let server = world.server_of("dynamic", &toy);
        let address = toy.address().to_string();
        let qualified = format!("dynamic/{server}");
        for what in ["dynamic", &address, &server, &qualified] {
            let (code, text) = explain(&world, what);
            assert!(
                code == Some(0)
                    && text.contains(" gets traffic although its registration is gone: it is held"),
                "{what}: {text}"
            );
        }
        let screen = text(&command(&world, &["status"]));
        let row = screen.lines().find(|line| line.starts_with("dynamic "));
        assert!(row.is_some_and(|row| row.ends_with("1 held")), "{screen}");
        toy.fail();
        soon("it is DOWN", || {
            let servers = world.servers("dynamic");
            (!servers[&server].is_in_rotation()).then_some(())
        });
        let (code, text) = explain(&world, "dynamic");
        let part =
            "does not get traffic: no registration asks for it, and no sidecar that runs was found";
        assert!(code == Some(2) && text.contains(part), "{text}");
    });
}

#[test]
fn one_service_that_cannot_be_read_hides_nothing_else() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let mut sidecar = world.sidecar();
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0]]);
        }
        sidecar.kill9();
        for (unread, other) in [("dynamic", "slots"), ("slots", "dynamic")] {
            world.nomad.mode(Which::Every, Mode::Normal);
            let which = Which::Service(unread.to_owned());
            world.nomad.mode(which, Mode::Answer(Recorded::NoServers));
            let (document, _, code) = status(&world);
            assert_eq!(code, Some(0));
            assert_eq!(document["nomad"]["known"], true);
            let name = format!("service default/{unread}");
            assert_eq!(document["nomad"]["unread"], serde_json::json!([name]));
            for backend in [unread, other] {
                let servers = servers_of(&document, backend);
                assert_eq!(servers, ["in_rotation true ready"], "{backend}");
            }
            let (code, text) = explain(&world, other);
            assert!(
                code == Some(0) && text.contains(" gets traffic\n"),
                "{text}"
            );
            let (code, text) = explain(&world, unread);
            let why = format!("cannot be read: {name} cannot be read: nomad at ");
            assert!(code == Some(0) && text.contains(&why), "{text}");
        }
    });
}

/// A world whose sidecar is gone: in both backends one server is in rotation, one is DOWN, and one is in drain by hand.
fn left_behind(bin: &HaproxyBin) -> (World, [Vec<Toy>; 2]) {
    let config = [
        config(),
        "\nbackend others\n  server theirs 127.0.0.1:1\n".to_owned(),
    ]
    .concat();
    let world = World::start_with(bin, &config);
    let toys = BOTH.map(|service| world.serve(service, 3));
    let mut sidecar = world.sidecar();
    for (backend, toys) in BOTH.iter().zip(&toys) {
        world.until_served_by(backend, &toys.iter().collect::<Vec<_>>());
    }
    sidecar.kill9();
    for (backend, toys) in BOTH.iter().zip(&toys) {
        let drained = world.server_of(backend, &toys[2]);
        let drain = format!("set server {backend}/{drained} state drain");
        assert_eq!(world.haproxy.ask(&drain).trim(), "");
        toys[1].fail();
        soon("one is left in rotation", || {
            let servers = world.servers(backend);
            let up = servers.values().filter(|one| one.is_in_rotation());
            (up.count() == 1).then_some(())
        });
    }
    (world, toys)
}

#[test]
fn without_nomad_what_haproxy_has_is_shown() {
    on_every_line(|bin| {
        let (world, _toys) = left_behind(bin);
        for mode in [
            Mode::Answer(Recorded::NoLeader),
            Mode::Answer(Recorded::PermissionDenied),
            Mode::Answer(Recorded::NotFound),
            Mode::Hang,
        ] {
            world.nomad.mode(Which::Every, mode);
            let output = command(&world, &["status", "--json"]);
            assert_eq!(output.status.code(), Some(0), "{mode:?}");
            let document: serde_json::Value =
                serde_json::from_slice(&output.stdout).expect("it is JSON");
            for backend in BOTH {
                assert_eq!(
                    servers_of(&document, backend),
                    [
                        "down false ready",
                        "draining true drain",
                        "in_rotation true ready"
                    ],
                    "{mode:?}: {backend}"
                );
            }
            // Of what is registered nothing is claimed, and what others have is theirs.
            let nomad = &document["nomad"];
            let names: Vec<_> = document["backends"]
                .as_array()
                .into_iter()
                .flatten()
                .collect();
            assert_eq!(
                (&nomad["known"], names.len()),
                (&false.into(), 2),
                "{mode:?}"
            );
            assert_eq!(document["services"], serde_json::json!([]), "{mode:?}");
            let trouble = nomad["namespaces"][0]["trouble"]["text"].as_str();
            assert!(trouble.is_some_and(|text| !text.is_empty()), "{document}");
        }
        let mode = Mode::Answer(Recorded::NoLeader);
        world.nomad.mode(Which::Every, mode);
        for backend in BOTH {
            let (code, text) = explain(&world, backend);
            let count = |part: &str| text.matches(part).count();
            assert_eq!(
                (code, count("\n  charge "), count(" gets traffic")),
                (Some(2), 3, 1),
                "{text}"
            );
        }
    });
}

#[test]
fn without_haproxy_what_is_registered_is_shown() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let toys = world.serve("dynamic", 2);
        let tags = ["haproxy.enable=false"];
        let registration = instance("slots", toys[0].address()).tags(&tags);
        world.nomad.register(registration);
        world.haproxy.kill9();
        let (document, _, code) = status(&world);
        assert_eq!((code, &document["nomad"]["known"]), (Some(0), &true.into()));
        let registrations = document["services"][0]["registrations"].as_array();
        let stages: Vec<_> = registrations
            .into_iter()
            .flatten()
            .map(|one| &one["stage"])
            .collect();
        assert_eq!(stages, ["wanted", "wanted"], "{document}");
        world.nomad.stop();
        let (document, _, code) = status(&world);
        assert_eq!(
            (code, &document["nomad"]["known"]),
            (Some(1), &false.into())
        );
    });
}
