//! The two ways to see what the sidecar would do: `plan` once, `run --observe` for as long as trust takes.

use std::process::Output;

use crate::support::{
    fake_nomad::{Mode, Recorded, Which},
    sidecar::{self, soon},
    toy::Toy,
    world::{BOTH, World, config, on_every_line},
};

#[test]
fn plan_prints_the_commands_with_their_reasons_and_exits_with_2_or_0() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let servers = BOTH.map(|backend| world.servers(backend));

        let (code, text) = read(&plan(&world));
        eprintln!("{}:\n{text}", bin.version);
        assert_eq!(code, 2, "{text}");
        let [slot, dynamic] = toys.each_ref().map(|toys| toys[0].address());
        let command = |parts: &[&str]| {
            let has = |line: &&str| parts.iter().all(|part| line.contains(part));
            assert!(
                text.lines().any(|line| has(&line)),
                "no {parts:?} in {text}"
            );
        };
        let why = "# registered in Nomad, not in HAProxy";
        command(&[
            "set server slots/nomad1 addr 127.0.0.1 port",
            &slot.port().to_string(),
            why,
        ]);
        command(&["set server slots/nomad1 state ready", why]);
        command(&["add server dynamic/nomad-", &dynamic.to_string(), why]);
        command(&["commands in 2 backends; nothing was written"]);
        assert_eq!(world.tap.changes(), [""; 0]);
        assert_eq!(BOTH.map(|backend| world.servers(backend)), servers);

        // By server it is a line for each.
        let (code, by_server) = read(&world.with_settings(&[], sidecar::plan));
        let added = format!("  + nomad1 at {slot} ");
        assert!(code == 2 && by_server.contains(&added), "{by_server}");
        assert!(
            by_server.contains("\n2 to add, 0 to change, 0 to remove: "),
            "{by_server}"
        );

        // What a sidecar does is what was printed, in this order.
        let planned = commands(&text);
        let mut sidecar = world.sidecar();
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0]]);
        }
        sidecar.kill9();
        for backend in BOTH {
            let of = |commands: &[String]| -> Vec<String> {
                let here = commands
                    .iter()
                    .filter(|line| line.contains(&format!(" {backend}/")));
                here.cloned().collect()
            };
            let mut sent = of(&world.tap.changes());
            // An address that is slow to be shown is sent again.
            sent.dedup();
            assert_eq!(sent, of(&planned), "{backend}");
        }

        world.tap.forget();
        let (code, text) = read(&plan(&world));
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("nothing to do"), "{text}");
        assert_eq!(world.tap.changes(), [""; 0]);
    });
}

#[test]
fn plan_that_cannot_read_both_sides_exits_with_1_and_says_why() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        world.nomad.stop();
        let output = plan(&world);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("is the agent running? set NOMAD_ADDR"),
            "{said}"
        );
        world.nomad.resume();
        world.haproxy.kill9();
        let socket = world.haproxy.socket();
        let socket = socket.to_str().expect("a path of ours is text");
        let output = world.with_settings(&[("HAPROXY_SOCKET", socket)], sidecar::plan);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("error: nobody listens on"), "{said}");
    });
}

/// A whole service is deregistered while no sidecar runs. Two of its servers are in rotation, the third is DOWN.
fn left_by_a_sidecar(world: &World) -> [Toy; 3] {
    let toys = ["first", "second", "ill"].map(Toy::start);
    let keys = toys.each_ref().map(|toy| world.register("dynamic", toy));
    let mut sidecar = world.sidecar();
    world.until_served_by("dynamic", &toys.each_ref());
    sidecar.kill9();
    toys[2].fail();
    soon("one is DOWN", || {
        let servers = world.servers("dynamic");
        let up = servers.values().filter(|one| one.is_in_rotation()).count();
        (up == 2).then_some(())
    });
    for key in &keys {
        world.deregister(key);
    }
    toys
}

#[test]
fn plan_takes_out_what_a_whole_service_left_as_a_sidecar_would() {
    on_every_line(|bin| {
        let config = [
            config(),
            "\nbackend others\n  server theirs 127.0.0.1:1\n".to_owned(),
        ]
        .concat();
        let world = World::start_with(bin, &config);
        let toys = left_by_a_sidecar(&world);
        let servers = world.servers("dynamic");
        world.tap.forget();
        let settings = [("SIDECAR_HOLD", "2s")];
        let by_server = |arguments: &[&str], more: &[(&str, &str)]| {
            let all = [&settings, more].concat();
            read(&world.with_settings(&all, |all| sidecar::command_with(all, arguments)))
        };
        let nosuch = [("NOMAD_NAMESPACE", "nosuch")];
        for more in [&[][..], &nosuch] {
            // The name of a backend says nothing of a namespace: it is the sidecar's own.
            let (code, text) = by_server(&["plan"], more);
            eprintln!("{}:\n{text}", bin.version);
            assert_eq!(code, 2, "{text}");
            assert!(
                text.contains(": 3 servers are the sidecar's, 9 are not and stay as they are; "),
                "{text}"
            );
            let held =
                "no longer registered in Nomad; held for 2s at most, until 1 of its service are UP";
            for (toy, why) in toys
                .iter()
                .zip([held, held, "no longer registered in Nomad; then "])
            {
                let (address, sign) = (toy.address().to_string(), "  - nomad-");
                let is_it = |line: &str| {
                    let is_of = servers.iter().any(|(name, server)| {
                        server.address == address && line.starts_with(&format!("  - {name} "))
                    });
                    line.starts_with(sign) && is_of && line.contains(why)
                };
                assert!(text.lines().any(is_it), "{address} {why}: {text}");
            }
            assert!(
                text.contains("\n0 to add, 0 to change, 3 to remove, 2 of them later: "),
                "{text}"
            );
        }
        let (code, text) = by_server(&["plan", "--json"], &[]);
        let json: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        let changes = json["backends"][0]["changes"].as_array();
        let held = changes.into_iter().flatten();
        let held = held.filter(|change| change["held_ms"] == 2_000 && change["what"] == "remove");
        assert_eq!((code, held.count()), (2, 2), "{text}");

        // Nothing is to be done while removals are stopped, but not all is well.
        let frozen = [("SIDECAR_FREEZE", "true")];
        let (code, text) = by_server(&["plan"], &frozen);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.ends_with("\nnothing to do now; 3 held: see above\n"),
            "{text}"
        );
        assert_eq!(world.tap.changes(), [""; 0]);
        assert_eq!(world.servers("dynamic"), servers);

        // As it was said, so it comes.
        let sidecar = world.sidecar_with(&settings);
        sidecar.logged(&[
            "they stay as they are",
            "until Nomad has said that nobody asks for them",
        ]);
        soon("all of it is taken out", || {
            world.servers("dynamic").is_empty().then_some(())
        });
    });
}

#[test]
fn a_service_that_cannot_be_read_takes_nothing_else_from_a_plan() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let mut sidecar = world.sidecar();
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0]]);
        }
        sidecar.kill9();
        let dynamic = Which::Service("dynamic".to_owned());
        world.nomad.mode(dynamic, Mode::Answer(Recorded::NoServers));
        world.tap.forget();
        let plan = || read(&world.with_settings(&[], sidecar::plan));
        let (code, text) = plan();
        eprintln!("{}:\n{text}", bin.version);
        assert_eq!(code, 0, "{text}");
        for part in [
            "not read: default/dynamic: service default/dynamic cannot be read: nomad at ",
            "status 500: no servers",
            "; what HAProxy has of it stays\n",
            ": 9 servers are the sidecar's, 0 are not ",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(
            text.ends_with("\nnothing to do now; 1 not read: see above\n"),
            "{text}"
        );

        let joins = Toy::start("joins");
        world.register("slots", &joins);
        let (code, text) = plan();
        let added = format!(" at {} ", joins.address());
        assert!(code == 2 && text.contains(&added), "{text}");
        let end = "; nothing was written; 1 not read: see above\n";
        assert!(
            text.contains("\n1 to add, 0 to change, 0 to remove: ") && text.ends_with(end),
            "{text}"
        );
        assert_eq!(world.tap.changes(), [""; 0]);

        // Without the list nothing is known.
        world
            .nomad
            .mode(Which::Lists, Mode::Answer(Recorded::NoServers));
        assert_eq!(plan().0, 1);
    });
}

#[test]
fn an_observer_writes_nothing_and_logs_what_it_would_have_sent() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let servers = BOTH.map(|backend| world.servers(backend));
        let observer = world.sidecar_with(&[("SIDECAR_OBSERVE", "true")]);
        for backend in BOTH {
            let backend = format!("backend={backend}");
            observer.logged(&["observing only: this would have been sent", &backend]);
        }
        let port = toys[0][0].address().port();
        let command = format!("set server slots/nomad1 addr 127.0.0.1 port {port}");
        observer.logged(&[
            "would send",
            &command,
            "registered in Nomad, not in HAProxy",
        ]);
        observer.logged(&["would send", &format!("{} weight", toys[1][0].address())]);
        observer.until_metric("observed_backends_pending", 2);
        let joins = Toy::start("joins");
        world.register("dynamic", &joins);
        observer.logged(&["would send", &joins.address().to_string()]);
        world.until_asked_again();
        world.until_read_again(1);
        // Each planned change once, however often it is looked at.
        observer.until_metric("observed_commands_total{kind=\"add_server\"}", 2);
        observer.until_metric("observed_commands_total{kind=\"set_address\"}", 1);
        assert_eq!(world.tap.changes(), [""; 0]);
        assert_eq!(BOTH.map(|backend| world.servers(backend)), servers);
    });
}

fn plan(world: &World) -> Output {
    world.with_settings(&[], |all| {
        sidecar::command_with(all, &["plan", "--commands"])
    })
}

fn read(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().expect("it was not killed"), text)
}

/// The commands of a printed plan.
fn commands(text: &str) -> Vec<String> {
    let indented = text.lines().filter_map(|line| line.strip_prefix("  "));
    indented
        .map(|line| {
            line.split(" # ")
                .next()
                .unwrap_or(line)
                .trim_end()
                .to_owned()
        })
        .collect()
}
