//! A template without a free slot, a balance method that takes no servers: each is shown and retried, and everything else
//! is served.

use std::time::Duration;

use crate::support::{
    sidecar::within,
    toy::Toy,
    world::{BOTH, DEFAULTS, World, on_every_line, section, slots},
};

#[test]
fn an_exhausted_template_and_a_static_balance_are_reported_and_the_rest_is_served() {
    on_every_line(|bin| {
        let static_balance = section("static", "").replace("roundrobin", "static-rr");
        let config = [
            DEFAULTS,
            &section("slots", &slots(4)),
            &section("dynamic", ""),
            &section("full", &slots(1)),
            &static_balance,
        ]
        .concat();
        let world = World::start_with(bin, &config);
        let (first, second) = (Toy::start("first"), Toy::start("second"));
        let keys = [&first, &second].map(|toy| world.register("full", toy));
        world.register("static", &first);
        let toys = BOTH.map(|service| world.serve(service, 2));
        let sidecar = world.sidecar_with(&[("SIDECAR_HOLD", "1s")]);

        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &toys.iter().collect::<Vec<_>>());
        }
        let line = sidecar.logged(&[
            "blocked: no free slot: raise the number in the backend's server-template line",
            "backend=full",
        ]);
        eprintln!("{}: {line}", bin.version);
        // 2.6 to 3.2 say "must use a dynamic load balancing", 3.4 "uses a non dynamic load balancing method".
        let line = sidecar.logged(&[
            "blocked: HAProxy refused a change of nomad-",
            "dynamic load balancing",
            "backend=static",
        ]);
        eprintln!("{}: {line}", bin.version);
        within(
            Duration::from_secs(20),
            "the refused server is tried again",
            || {
                let lines = world.tap.lines();
                let tries = lines
                    .iter()
                    .filter(|line| line.starts_with("add server static/"));
                (tries.count() >= 2).then_some(())
            },
        );
        sidecar.until_metric("backends_blocked", 2);
        assert_eq!(
            sidecar.count("blocked: HAProxy refused"),
            1,
            "not with every try"
        );
        let applied = sidecar.log();
        let mut applied = applied.lines().filter(|line| line.contains(" applied "));
        assert!(applied.all(|line| !line.contains("backend=static")));

        let [held, waiting] = if world.request("full") == Ok("first".to_owned()) {
            [0, 1]
        } else {
            [1, 0]
        };
        let toys = [&first, &second];
        world.until_served_by("full", &[toys[held]]);
        world.deregister(&keys[held]);
        world.until_served_by("full", &[toys[waiting]]);
        sidecar.logged(&["no longer blocked: no free slot", "backend=full"]);
    });
}
