//! `explain` says of each thing that gets no traffic why, by the sidecar that runs, and without one.

use std::{fs, process::Output, thread};

use crate::support::{
    fake_nomad::Deletion,
    http,
    sidecar::{Sidecar, command_with, soon},
    toy::Toy,
    world::{BOTH, DEFAULTS, ENABLED, World, config, instance, on_every_line, section, slots},
};

/// What `explain` says of `what`, and whether everything of it gets traffic.
fn explain(world: &World, sidecar: &Sidecar, what: &str) -> (bool, String) {
    let admin = sidecar.admin().to_string();
    let settings = [("SIDECAR_ADMIN_LISTEN", admin.as_str())];
    read(&world.with_settings(&settings, |all| command_with(all, &["explain", what])))
}

fn read(output: &Output) -> (bool, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => (true, text),
        Some(2) => (false, text),
        Some(1) if text.contains("may get traffic or not: ") => (false, text),
        code => panic!("exit code {code:?}: {text}{errors}"),
    }
}

/// Waits until it gets traffic, or does not, for all these reasons; the whole text.
fn says(world: &World, sidecar: &Sidecar, what: &str, expected: bool, parts: &[&str]) -> String {
    let mut last = String::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        soon(&format!("explain {what} says {parts:?}"), || {
            let (gets_traffic, text) = explain(world, sidecar, what);
            let is_it = gets_traffic == expected && parts.iter().all(|part| text.contains(part));
            last.clone_from(&text);
            is_it.then_some(text)
        })
    }));
    let Ok(text) = found else {
        panic!("explain {what} does not say {parts:?}, but\n{last}");
    };
    eprintln!("{}: explain {what}\n{text}", world.version());
    text
}

#[test]
fn a_host_that_another_service_has() {
    on_every_line(|bin| {
        let folder = tempfile::tempdir().expect("the temporary directory is writable");
        let map = folder.path().join("hosts.map");
        fs::write(&map, "mine.example nobody\n").expect("the folder is ours");
        let map = map.to_str().expect("a path of ours is text");
        let config = format!(
            "{DEFAULTS}\nfrontend www\n  bind @DIR@/www.http mode 600\n  \
             use_backend %[req.hdr(host),lower,map_str({map})]\n{}{}\nbackend nobody\n",
            section("slots", &slots(4)),
            section("dynamic", "")
        );
        let world = World::start_with(bin, &config);
        let [first, second] = ["first", "second"].map(Toy::start);
        let register = |service: &str, toy: &Toy, hosts: &str| {
            let tags = [ENABLED, &format!("haproxy.domain={hosts}")];
            world
                .nomad
                .register(instance(service, toy.address()).tags(&tags));
        };
        register("slots", &first, "photos.example,mine.example");
        let sidecar = world.sidecar_with(&[("SIDECAR_HOST_MAP", map)]);
        world.until_served_by("slots", &[&first]);
        let active = format!("route    host photos.example in {map} to slots: active");
        let blocked = "gets traffic, but not by host mine.example: host mine.example is not routed to slots: an entry that is \
                       not the sidecar's leads to nobody; delete it (del map) or take the tag away";
        says(&world, &sidecar, "slots", true, &[&active, blocked]);

        register("dynamic", &second, "photos.example");
        world.until_served_by("dynamic", &[&second]);
        let taken = "is in rotation, but no route leads to it: host photos.example belongs to the service default/slots, which \
                     has the first claim: take the tag away from one of them";
        says(
            &world,
            &sidecar,
            "dynamic",
            false,
            &[taken, "to dynamic: taken: "],
        );
        // Who has it, and who wants it.
        let all = ["slots", taken];
        says(&world, &sidecar, "photos.example", false, &all);
        let screen = screen(&world, &sidecar);
        for part in [
            "ROUTES   1 active, 1 blocked, 1 taken",
            "default/dynamic: host photos.example taken: ",
        ] {
            assert!(screen.contains(part), "{part}: {screen}");
        }
    });
}

fn register_what_cannot_be_served(world: &World, more: &[Toy; 4]) {
    world.register("full", &more[0]);
    world.register("full", &more[1]);
    world.register("static", &more[0]);
    // From 3.4 on it would be made otherwise.
    let tags = [ENABLED, "haproxy.backend=custom"];
    world
        .nomad
        .register(instance("nowhere", more[2].address()).tags(&tags));
    let address = more[3].address();
    world.nomad.create_namespace("shop");
    world
        .nomad
        .register(instance("till", address).namespace("shop"));
    world
        .nomad
        .register(instance("plain", address).tags(&["urlprefix-/"]));
    let tags = [ENABLED, "haproxy.weight=lots", "haproxy.wieght=3"];
    world.nomad.register(instance("heavy", address).tags(&tags));
}

#[test]
fn what_nomad_or_the_configuration_of_haproxy_is_the_reason_for() {
    on_every_line(|bin| {
        let config = [
            DEFAULTS,
            &section("slots", &slots(8)),
            &section("dynamic", ""),
            &section("full", &slots(1)),
            &section("static", "").replace("roundrobin", "static-rr"),
        ]
        .concat();
        let world = World::start_with(bin, &config);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let more = ["a", "b", "c", "d"].map(Toy::start);
        register_what_cannot_be_served(&world, &more);
        let sidecar = world.sidecar();
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0]]);
        }

        let read = ["gets traffic\n", "READY and UP for "];
        let text = says(&world, &sidecar, "dynamic", true, &read);
        for part in [
            "registration _nomad-task-",
            "of default/dynamic, allocation ",
            "tags     \"haproxy.enable=true\"; accepted",
            "dynamic: servers are added to it; 1 of 1 instances are in rotation; it has the service's name",
            "READY and UP for ",
            "; the last one: L7OK, code 200",
            "change   ",
            "(registered in Nomad, not in HAProxy, index ",
            ": done",
            "charge   this sidecar is in charge; HAProxy ",
            "next     nothing: everything is as it should be",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let server = world.server_of("dynamic", &toys[1][0]);
        let slot = format!("slots/{}", world.server_of("slots", &toys[0][0]));
        let address = toys[1][0].address().to_string();
        for what in ["default/dynamic", &server, &slot, &address] {
            says(&world, &sidecar, what, true, &[" gets traffic\n"]);
        }
        for (what, parts) in [
            (
                "plain",
                &[
                    "it has no tag \"haproxy.enable=true\", so it is not followed: add it to the service in the job",
                ][..],
            ),
            (
                "till",
                &["its namespace shop is not followed, only default: add it to --namespaces"],
            ),
            (
                "heavy",
                &[
                    "does not get traffic: tag \"haproxy.weight=lots\": expected a whole number from 0 to 256\n",
                ],
            ),
            (
                "nowhere",
                &[
                    "HAProxy has no backend named nowhere: add one to haproxy.cfg, or name another with the tag backend.name",
                ],
            ),
            (
                "full",
                &[
                    "does not get traffic: backend full is in the way: no free slot: raise the number in the backend's server-template line, and reload HAProxy",
                    "1 of 1 slots are taken",
                ],
            ),
            (
                "static",
                &[
                    "HAProxy refused a change of nomad-",
                    "dynamic load balancing",
                    "it is tried again in ",
                ],
            ),
            (
                "nothing",
                &[
                    "nothing does not get traffic: there is no such service, allocation, address, registration or server in default",
                ],
            ),
            ("dynamc", &["did you mean dynamic?"]),
            ("shop/dynamic", &["did you mean default/dynamic?"]),
            (
                "slots/nomad8",
                &[
                    "it is a free slot, MAINT in HAProxy: no registration has it; 7 of 8 slots of backend slots are free",
                ],
            ),
        ] {
            says(&world, &sidecar, what, false, parts);
        }
        sidecar.logged(&["everything that is registered, but what is blocked"]);
        the_status_says_the_same(&world, &sidecar);
    });
}

fn screen(world: &World, sidecar: &Sidecar) -> String {
    let admin = sidecar.admin().to_string();
    let settings = [("SIDECAR_ADMIN_LISTEN", admin.as_str())];
    let screen = world.with_settings(&settings, |all| command_with(all, &["status"]));
    let screen = String::from_utf8_lossy(&screen.stdout).into_owned();
    eprintln!("{}:\n{screen}", world.version());
    screen
}

fn the_status_says_the_same(world: &World, sidecar: &Sidecar) {
    let status = sidecar.json("/status");
    assert_eq!(status["version"], 1);
    assert_eq!(status["sidecar"]["charge"], "in_charge");
    let screen = screen(world, sidecar);
    for part in [
        "; this sidecar is in charge; HAProxy ",
        "full: blocked: no free slot: raise the number in the backend's server-template line, and reload HAProxy: 127.0.0.1:",
        "default/nowhere: not served: ",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
}

#[test]
fn what_checks_and_operators_are_the_reason_for() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 2));
        let sidecar = world.sidecar();
        for (backend, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(backend, &[&toys[0], &toys[1]]);
            // A newcomer that is ill from the beginning.
            let ill = Toy::start("ill");
            ill.fail();
            world.register(backend, &ill);
            let address = ill.address().to_string();
            let parts = [
                "it waits for its first passed check",
                "L7STS, code 503",
                "READY and DOWN for",
            ];
            says(&world, &sidecar, &address, false, &parts);
            ill.serve();
            world.until_served_by(backend, &[&toys[0], &toys[1], &ill]);
            let read = [" gets traffic\n", "READY and UP for "];
            says(&world, &sidecar, &address, true, &read);
            ill.fail();
            let parts = [
                "HAProxy has it DOWN for ",
                "its check fails: L7STS, code 503",
            ];
            says(&world, &sidecar, &address, false, &parts);

            let server = world.server_of(backend, &toys[0]);
            let answer = world
                .haproxy
                .ask(&format!("set server {backend}/{server} state maint"));
            assert_eq!(answer.trim(), "");
            // HAProxy's own word counts before the sidecar has read it.
            let (gets_traffic, text) = explain(&world, &sidecar, &toys[0].address().to_string());
            assert!(!gets_traffic, "{text}");
            let undo = format!("undo it with `set server {backend}/{server} state ready`");
            let parts = [
                "does not get traffic: an operator took it out of service: ",
                &undo,
                "nothing, until he undoes that",
            ];
            says(
                &world,
                &sidecar,
                &toys[0].address().to_string(),
                false,
                &parts,
            );
        }
    });
}

#[test]
fn what_leaves_and_what_is_kept() {
    on_every_line(|bin| {
        let patient = ["client", "server"].iter().fold(config(), |config, side| {
            config.replace(
                &format!("timeout {side} 5s"),
                &format!("timeout {side} 60s"),
            )
        });
        let world = World::start_with(bin, &patient);
        let folder = tempfile::tempdir().expect("the temporary directory is writable");
        let file = folder.path().join("freeze");
        let settings = [
            (
                "SIDECAR_FREEZE_FILE",
                file.to_str().expect("a path of ours is text"),
            ),
            ("SIDECAR_DRAIN_TIMEOUT", "5m"),
        ];
        let sidecar = world.sidecar_with(&settings);
        for backend in BOTH {
            let toys = [Toy::start("stays"), Toy::start("leaves")];
            let keys = [&toys[0], &toys[1]].map(|toy| world.register(backend, toy));
            world.until_served_by(backend, &[&toys[0], &toys[1]]);
            let address = toys[1].address().to_string();
            // Each has a session for as long as the test takes.
            let before = [&toys[0], &toys[1]].map(Toy::requests);
            soon("each has a request", || {
                let socket = world.frontend(backend);
                thread::spawn(move || drop(http::get(&socket, "/sleep/30000")));
                let mut counts = toys.iter().map(Toy::requests).zip(before);
                counts.all(|(now, before)| now > before).then_some(())
            });
            world.deregister(&keys[1]);
            let parts = [
                "its registration is gone, and it is drained for ",
                " sessions are left",
                "it goes into maintenance when it has no session, in ",
                "min at most",
            ];
            says(&world, &sidecar, &address, false, &parts);
            world.deregister(&keys[0]);
            let parts = [
                "gets traffic although its registration is gone: it is held, because too few others of its service are UP",
                "it is drained when 1 of its service are UP, and is held for ",
            ];
            says(
                &world,
                &sidecar,
                &toys[0].address().to_string(),
                true,
                &parts,
            );
            says(&world, &sidecar, backend, false, &["gets traffic although"]);
            fs::write(&file, "").expect("the folder is ours");
            let parts = [
                "it is held, because removals are stopped (--freeze or the freeze file)",
                "guards   removals are stopped",
            ];
            says(
                &world,
                &sidecar,
                &toys[0].address().to_string(),
                true,
                &parts,
            );
            fs::remove_file(&file).expect("it is there");
        }
    });
}

#[test]
fn a_guard_that_holds_something_is_named() {
    on_every_line(|bin| {
        let config = [
            DEFAULTS,
            &section("slots", &slots(9)),
            &section("dynamic", ""),
        ]
        .concat();
        let world = World::start_with(bin, &config);
        let sidecar = world.sidecar();
        sidecar.until_ready();
        // Its allocation runs on.
        let [vanishes, stays] = ["vanishes", "stays"].map(Toy::start);
        let key = instance("dynamic", vanishes.address()).key();
        let allocation = &key.1["_nomad-task-".len()..][..36];
        world
            .nomad
            .describe_allocation(allocation, "run", "running");
        world.register("dynamic", &vanishes);
        world.register("dynamic", &stays);
        world.until_served_by("dynamic", &[&vanishes, &stays]);
        world.deregister(&key);
        let parts = [
            "gets traffic although its registration is gone: it is held, because a guard holds it: Nomad says that its allocation \
             still runs",
            "restart the allocation or change its job to register it again",
        ];
        let address = vanishes.address().to_string();
        says(&world, &sidecar, &address, true, &parts);

        // Two of three instances of three jobs, at once.
        let mut gone = Vec::new();
        let toys = ["a", "b", "c"].map(|service| {
            let toys = [service; 3].map(Toy::start);
            let tags = [ENABLED, "haproxy.backend.name=slots"];
            for (number, toy) in toys.iter().enumerate() {
                let registration = instance(service, toy.address()).tags(&tags);
                gone.extend((number > 0).then(|| registration.key()));
                world.nomad.register(registration);
            }
            toys
        });
        let all: Vec<_> = toys.iter().flatten().collect();
        world.until_served_by("slots", &all);
        world.nomad.deregister(&gone, Deletion::PlanResult);
        let parts = [
            "gets traffic although its registration is gone: it is held, because so much was deregistered at once that a guard \
             holds what passes its checks",
            "guards   a mass deregistration is not believed",
            "s at most; see whether the instances run",
        ];
        // Those of one service may be gone before so much was.
        says(&world, &sidecar, "slots", true, &parts);
        let screen = screen(&world, &sidecar);
        for part in [
            "guard    a mass deregistration is not believed",
            "dynamic: held: its allocation still runs: nomad-",
            "slots: held: a mass deregistration is not believed: nomad",
        ] {
            assert!(screen.contains(part), "{part}: {screen}");
        }
    });
}

#[test]
fn who_cannot_act_is_named() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let toys = world.serve("dynamic", 1);
        let mut first = world.sidecar();
        world.until_served_by("dynamic", &[&toys[0]]);
        let second = world.sidecar();
        second.until_ready();
        first.signal("STOP");
        let late = world.serve("slots", 1);
        // The one that stands still is not taken for one that is not there.
        let parts = [
            "does not get traffic: it is not in HAProxy, and the sidecar at 127.0.0.1:",
            " is there and does not answer within 5s: it stands still, see its log",
        ];
        says(&world, &first, "slots", false, &parts);
        let parts = [
            "another sidecar is in charge, and has not brought it in: another sidecar is in charge of ",
        ];
        says(&world, &second, "slots", false, &parts);
        first.signal("CONT");
        world.until_served_by("slots", &[&late[0]]);
        says(
            &world,
            &second,
            "slots",
            true,
            &["charge   this sidecar only observes: another sidecar is in charge of "],
        );
        drop(second);

        world.haproxy.kill9();
        let parts = [
            "does not get traffic: HAProxy cannot be used: ",
            "it is tried again several times a second",
        ];
        says(&world, &first, "slots", false, &parts);
        world.haproxy.restart();
        says(
            &world,
            &first,
            "slots",
            true,
            &["(was in rotation before HAProxy restarted, "],
        );

        // Without a sidecar both sides are read by the command.
        first.kill9();
        let (gets_traffic, text) = alone(&world, "slots");
        assert!(
            gets_traffic
                && text.contains("because no sidecar answered: nobody answers at 127.0.0.1:1"),
            "{text}"
        );
        let (_, text) = alone(&world, "nothing");
        assert!(text.contains("there is no such service"), "{text}");
        world.haproxy.kill9();
        let (_, text) = alone(&world, "slots");
        let parts = [
            "may get traffic or not: no sidecar answered: ",
            "; and HAProxy cannot be used by this command: ",
        ];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        world.nomad.stop();
        let (_, text) = alone(&world, "slots");
        assert!(
            text.contains("may get traffic or not: Nomad cannot be read: "),
            "{text}"
        );
        let nobody = [("SIDECAR_ADMIN_LISTEN", "127.0.0.1:1")];
        let status = world.with_settings(&nobody, |all| command_with(all, &["status"]));
        let screen = String::from_utf8_lossy(&status.stdout);
        assert_eq!(status.status.code(), Some(1), "{screen}");
        let line = "sidecar  none found; both sides were read by this command, because no sidecar answered: nobody answers at 127.0.0.1:1: ";
        assert!(screen.starts_with(line), "{screen}");
    });
}

/// The same where no sidecar answers.
fn alone(world: &World, what: &str) -> (bool, String) {
    let nobody = [("SIDECAR_ADMIN_LISTEN", "127.0.0.1:1")];
    read(&world.with_settings(&nobody, |all| command_with(all, &["explain", what])))
}

#[test]
fn a_socket_without_level_admin_is_named() {
    on_every_line(|bin| {
        let line = "  stats socket @DIR@/other.sock mode 600 level operator\n";
        let world = World::start_with(bin, &(line.to_owned() + &config()));
        world.serve("dynamic", 1);
        let socket = world.haproxy.directory().join("other.sock");
        let socket = socket.to_str().expect("a path of ours is text");
        let sidecar = world.sidecar_with(&[("HAPROXY_SOCKET", socket)]);
        let parts =
            ["answers at level \"operator\": write `level admin` on its `stats socket` line"];
        says(&world, &sidecar, "dynamic", false, &parts);
    });
}

#[test]
fn a_nomad_that_denies_is_named() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let _toys = world.serve("dynamic", 1);
        world.nomad.enable_acl();
        let sidecar =
            world.sidecar_with(&[("NOMAD_TOKEN", "11111111-2222-3333-4444-555555555555")]);
        let parts = [
            "dynamic may get traffic or not: Nomad cannot be read: ",
            "denied (403",
        ];
        says(&world, &sidecar, "dynamic", false, &parts);
    });
}
