//! Group services are registered before their tasks listen. HAProxy's own check decides when an instance gets its first
//! request: under load nobody notices one that is not ready.

use crate::support::{
    sidecar::soon,
    toy::Toy,
    world::{BOTH, World, on_every_line, under_load},
};

#[test]
fn an_instance_that_is_not_ready_gets_no_request_until_its_check_has_passed() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let good = BOTH.map(|service| world.serve(service, 1));
        let sidecar = world.sidecar();
        for (service, toys) in BOTH.iter().zip(&good) {
            world.until_served_by(service, &[&toys[0]]);
        }
        for service in BOTH {
            let (refuses, fails) = (Toy::start("refuses"), Toy::start("fails"));
            refuses.refuse();
            fails.fail();
            let two = [(); 2];
            let answers = under_load(
                &two,
                |()| world.request(service),
                || {
                    world.register(service, &refuses);
                    world.register(service, &fails);
                    soon("HAProxy has checked it", || {
                        (fails.checks() >= 5).then_some(())
                    });
                    let addresses = [&refuses, &fails].map(|toy| toy.address().to_string());
                    let down = world.servers(service).into_values();
                    let down = down.filter(|server| {
                        addresses.contains(&server.address)
                            && server.operational == 0
                            && server.admin & 1 == 0
                    });
                    assert_eq!(down.count(), 2, "ready, and down");
                    assert_eq!((refuses.requests(), fails.requests()), (0, 0));
                    refuses.serve();
                    fails.serve();
                    soon("both get requests", || {
                        (refuses.requests() > 5 && fails.requests() > 5).then_some(())
                    });
                },
            );
            eprintln!("{}: {service}: {answers:?}", bin.version);
            let failed: Vec<_> = answers.keys().filter(|answer| answer.is_err()).collect();
            assert!(failed.is_empty(), "{service}: {answers:?}");
        }
        drop(sidecar);
    });
}
