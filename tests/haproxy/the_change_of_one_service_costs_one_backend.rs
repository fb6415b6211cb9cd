//! Work is proportional to what changed: the lines that one event causes, counted.

use crate::support::{
    tap::is_changing,
    toy::Toy,
    world::{DEFAULTS, World, on_every_line, section, slots},
};

const BACKENDS: usize = 50;

#[test]
fn one_event_among_fifty_services_reads_and_writes_one_backend() {
    on_every_line(|bin| {
        let mut config = DEFAULTS.to_owned();
        for number in 0..BACKENDS {
            // Every other one has slots.
            let servers = if number % 2 == 0 {
                slots(4)
            } else {
                String::new()
            };
            config.push_str(&section(&format!("b{number}"), &servers));
        }
        let world = World::start_with(bin, &config);
        let toy = Toy::start("everywhere");
        for number in 0..BACKENDS {
            world.register(&format!("b{number}"), &toy);
        }
        let sidecar = world.sidecar();
        sidecar.until_ready();
        for number in 0..BACKENDS {
            world.server_of(&format!("b{number}"), &toy);
        }

        let mut joined = Vec::new();
        for backend in ["b6", "b7"] {
            // Right after a reading of everything none is due for 5 s.
            world.until_read_again(1);
            world.tap.forget();
            let joins = Toy::start("joins");
            world.register(backend, &joins);
            world.until_served_by(backend, &[&toy, &joins]);
            sidecar.logged(&["applied", &format!("backend={backend}")]);
            let lines = world.tap.lines();

            let (infos, lines): (Vec<_>, Vec<_>) =
                lines.into_iter().partition(|line| line == "show info");
            let (changes, dumps): (Vec<_>, Vec<_>) =
                lines.iter().partition(|line| is_changing(line));
            eprintln!(
                "{}: {backend}: {} commands, {} dumps, {} show info: {lines:#?}",
                world.version(),
                changes.len(),
                dumps.len(),
                infos.len()
            );
            let mut changes: Vec<_> = changes.into_iter().cloned().collect();
            // On a busy machine an address that is not read back within 100 ms is sent twice.
            changes.dedup();
            assert_eq!(changes, expected(&world, backend, &joins));
            let id = world.id_of(backend);
            let own = [
                format!("show servers state {backend}"),
                format!("show stat {id} 6 -1"),
                // HAProxy's words for that it came UP.
                format!("show stat {id} 4 -1"),
            ];
            for line in &dumps {
                assert!(
                    own.contains(line)
                        || ["show servers state", "show backend"].contains(&&***line),
                    "{line} is no reading of {backend}: {dumps:#?}"
                );
            }
            let whole = dumps.iter().filter(|line| ***line == "show servers state");
            assert!(whole.count() <= 1, "{dumps:#?}");
            // Before the plan, after each step, and four times a second until HAProxy has admitted it.
            assert!(dumps.len() <= 24, "{dumps:#?}");
            joined.push(joins);
        }
    });
}

/// What brings this instance in, by the kind of its backend and by what its HAProxy can.
fn expected(world: &World, backend: &str, joins: &Toy) -> Vec<String> {
    let server = format!("{backend}/{}", world.server_of(backend, joins));
    let (address, port) = (joins.address(), joins.address().port());
    let set = |what: &str| format!("set server {server} {what}");
    if server.ends_with("/nomad2") {
        return vec![
            set("weight 0"),
            set(&format!("addr 127.0.0.1 port {port}")),
            set("state drain"),
            set("health down"),
            set("state ready"),
            set("weight 1"),
        ];
    }
    let check = "check inter 2000ms fastinter 250ms downinter 250ms rise 2 fall 3";
    let line = world.haproxy.bin().line();
    if ["3.2", "3.4"].contains(&line) {
        return vec![
            format!("add server {server} {address} weight 1 {check} init-state fully-down"),
            set("state ready"),
            format!("enable health {server}"),
        ];
    }
    // Its dynamic servers keep no idle connections for later requests unless they are told to.
    let reuse = if line == "2.6" {
        "pool-purge-delay 5s pool-max-conn -1 "
    } else {
        ""
    };
    vec![
        format!("add server {server} {address} weight 1 {reuse}{check}"),
        set("state drain"),
        set("health down"),
        set("state ready"),
        format!("enable health {server}"),
    ]
}
