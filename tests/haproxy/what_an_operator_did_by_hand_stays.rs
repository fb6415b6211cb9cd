//! Maintenance, a drain and a weight that an operator set by hand on a server of ours stay, whatever else happens in the
//! backend and also when the sidecar is killed, until he undoes them; and each is shown with the command for that.

use std::{fs, process::Output};

use crate::support::{
    sidecar::{self, Sidecar, soon},
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

struct Deed {
    command: &'static str,
    said: &'static str,
    undo: &'static str,
    what: &'static str,
    /// Bits of the administrative state, and the weight.
    leaves: (u8, u16),
}

const DEEDS: [Deed; 4] = [
    Deed {
        command: "state maint",
        said: "was put into maintenance and stays there",
        undo: "state ready",
        what: "maintenance",
        leaves: (1, 1),
    },
    Deed {
        command: "state drain",
        said: "was set to drain and goes on draining",
        undo: "state ready",
        what: "drain",
        leaves: (8, 1),
    },
    Deed {
        command: "weight 2",
        said: "was given weight 2 and keeps it, instead of 1",
        undo: "weight 1",
        what: "weight",
        leaves: (0, 2),
    },
    Deed {
        command: "weight 0",
        said: "was given weight 0 and keeps it, instead of 1",
        undo: "weight 1",
        what: "weight",
        leaves: (0, 0),
    },
];

#[test]
fn what_an_operator_did_by_hand_stays_until_he_undoes_it_and_is_shown() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 2));
        let directory = tempfile::tempdir().expect("the temporary directory is writable");
        let snapshot = directory.path().join("snapshot");
        let file = directory.path().join("snapshot.hands");
        let settings = [(
            "SIDECAR_SNAPSHOT_FILE",
            snapshot.to_str().expect("it is ASCII"),
        )];
        let mut sidecar = world.sidecar_with(&settings);
        sidecar.until_ready();
        for deed in &DEEDS {
            let held = BOTH.map(|backend| {
                let toy = &toys[usize::from(backend == "dynamic")][0];
                (backend, world.server_of(backend, toy))
            });
            for (backend, server) in &held {
                let command = deed.command;
                world
                    .haproxy
                    .ask(&format!("set server {backend}/{server} {command}"));
            }
            world.tap.forget();
            soon("it is kept for the next one", || {
                let kept = fs::read_to_string(&file).unwrap_or_default();
                let mut servers = held.iter();
                servers
                    .all(|(_, server)| kept.contains(server))
                    .then_some(())
            });
            expect_shown(&world, &settings, &sidecar, deed, &held);
            others_come_and_go(&world, &toys, deed);
            sidecar.kill9();
            expect_known_without_a_sidecar(&world, &settings, &held);
            sidecar = world.sidecar_with(&settings);
            sidecar.until_ready();
            expect_shown(&world, &settings, &sidecar, deed, &held);
            others_come_and_go(&world, &toys, deed);
            for line in world.tap.changes() {
                let touches = |(backend, server): &(&str, String)| {
                    let server = format!("{backend}/{server}");
                    line.split(' ').any(|word| word == server)
                };
                assert!(!held.iter().any(touches), "{line}");
            }
            for ((backend, server), toys) in held.iter().zip(&toys) {
                let left = &world.servers(backend)[server];
                assert_eq!((left.admin & 0b1001, left.weight), deed.leaves);
                let undo = deed.undo;
                world
                    .haproxy
                    .ask(&format!("set server {backend}/{server} {undo}"));
                world.until_served_by(backend, &[&toys[0], &toys[1]]);
            }
            let what = deed.what;
            sidecar.until_metric(&format!("servers_by_hand{{what=\"{what}\"}}"), 0);
            sidecar.logged(&["no longer by hand"]);
            soon("nothing is kept any more", || {
                (!file.exists()).then_some(())
            });
        }
    });
}

#[test]
fn what_was_changed_by_hand_goes_with_its_registration() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let sidecar = world.sidecar();
        sidecar.until_ready();
        for command in ["state maint", "state drain", "weight 0"] {
            for (backend, toys) in BOTH.iter().zip(&toys) {
                let leaves = Toy::start("leaves");
                let key = world.register(backend, &leaves);
                let server = world.server_of(backend, &leaves);
                world
                    .haproxy
                    .ask(&format!("set server {backend}/{server} {command}"));
                sidecar.logged(&["by hand", &format!("set server {backend}/{server} ")]);
                world.deregister(&key);
                soon("it is out", || {
                    let servers = world.servers(backend);
                    let left = servers.get(&server);
                    left.is_none_or(|left| left.admin & 1 == 1).then_some(())
                });
                let joins = Toy::start("joins");
                let key = world.register(backend, &joins);
                world.until_served_by(backend, &[&toys[0], &joins]);
                world.deregister(&key);
                world.until_served_by(backend, &[&toys[0]]);
            }
        }
        sidecar.until_metric("servers_by_hand{what=\"maintenance\"}", 0);
    });
}

fn expect_shown(
    world: &World,
    settings: &[(&str, &str)],
    sidecar: &Sidecar,
    deed: &Deed,
    held: &[(&str, String); 2],
) {
    let plan: Output = world.with_settings(settings, sidecar::plan);
    let plan = String::from_utf8_lossy(&plan.stdout).into_owned();
    for (backend, server) in held {
        let (said, undo) = (deed.said, deed.undo);
        let text =
            format!("server {server} {said}; undo it with `set server {backend}/{server} {undo}`");
        sidecar.logged(&["by hand: ", &text]);
        assert!(plan.contains(&text), "{plan}");
    }
    let what = deed.what;
    sidecar.until_metric(&format!("servers_by_hand{{what=\"{what}\"}}"), 2);
    sidecar.until_metric("backends_blocked", 0);
    let (_, status) = sidecar.get("/status");
    for (backend, server) in held {
        let line = format!("server {backend}/{server}: by hand, ");
        assert!(status.contains(&line), "{status}");
    }
    assert!(
        status.contains("in charge: this sidecar changes HAProxy\n"),
        "{status}"
    );
}

/// `explain` reads both sides and what the last sidecar kept.
fn expect_known_without_a_sidecar(
    world: &World,
    settings: &[(&str, &str)],
    held: &[(&str, String); 2],
) {
    let mut settings = settings.to_vec();
    settings.push(("SIDECAR_ADMIN_LISTEN", "127.0.0.1:1"));
    for (backend, server) in held {
        let what = format!("{backend}/{server}");
        let told = world.with_settings(&settings, |all| {
            sidecar::command_with(all, &["explain", &what])
        });
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        let undo = format!("undo it with `set server {what} ");
        assert!(told.contains(&undo), "{told}");
    }
}

fn others_come_and_go(world: &World, toys: &[Vec<Toy>; 2], deed: &Deed) {
    for (backend, toys) in BOTH.iter().zip(toys) {
        let joins = Toy::start("joins");
        let key = world.register(backend, &joins);
        let mut serving = vec![&toys[1], &joins];
        serving.extend((deed.leaves == (0, 2)).then_some(&toys[0]));
        world.until_served_by(backend, &serving);
        world.deregister(&key);
        serving.remove(1);
        world.until_served_by(backend, &serving);
    }
}
