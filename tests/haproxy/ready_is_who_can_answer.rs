//! Whoever follows `/ready`, as Nomad's deployments and balancers in front do, meets no HAProxy whose servers are not
//! checked yet: it has them, and answers 503.

use crate::support::{
    sidecar::soon,
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

#[test]
fn a_haproxy_that_was_empty_is_ready_when_its_checks_have_passed() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1).remove(0));
        toys.iter().for_each(Toy::fail);
        let sidecar = world.sidecar();
        soon("/ready names what is not checked", || {
            let (status, body) = sidecar.get("/ready");
            let says_it = body.starts_with("2 of 2 backends are not checked by HAProxy yet: ");
            (status == 503 && says_it).then_some(())
        });
        toys.iter().for_each(Toy::serve);
        sidecar.until_ready();
        for (service, toy) in BOTH.iter().zip(&toys) {
            assert!(world.request(service).is_ok(), "{service}");
            assert!(toy.requests() > 0, "{service}");
        }
    });
}
