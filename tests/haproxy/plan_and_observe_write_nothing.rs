//! The two ways to see what the sidecar would do: `plan` once, `run --observe` for as long as trust takes.

use std::process::Output;

use crate::support::{
    sidecar,
    toy::Toy,
    world::{BOTH, World, on_every_line},
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
