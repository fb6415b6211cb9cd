//! `status` and `explain` where no sidecar answers: they read both sides, and show what they could read.

use std::process::Output;

use crate::support::{
    fake_nomad::{Mode, Recorded, Which},
    sidecar::{command_with, soon},
    toy::Toy,
    world::{BOTH, World, on_every_line},
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
