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
            joined.push(joins);

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
            for line in &changes {
                assert!(line.contains(&format!(" {backend}/")), "{line}");
            }
            assert!(changes.len() <= 6, "{changes:#?}");
            let (state, stat) = (
                format!("show servers state {backend}"),
                format!("show stat {} 6 -1", world.id_of(backend)),
            );
            for line in &dumps {
                assert!(
                    [&*state, &stat, "show servers state", "show backend"].contains(&&***line),
                    "{line} is no reading of {backend}: {dumps:#?}"
                );
            }
            let whole = dumps.iter().filter(|line| ***line == "show servers state");
            assert!(whole.count() <= 1, "{dumps:#?}");
            // Before the plan, after each step, and four times a second until HAProxy has admitted it.
            assert!(dumps.len() <= 24, "{dumps:#?}");
        }
    });
}
