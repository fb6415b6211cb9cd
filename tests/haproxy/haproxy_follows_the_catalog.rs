//! The outage that the program exists for, and its daily work: what was registered before the sidecar started is
//! served, what registers later joins, what deregisters leaves.

use crate::support::{
    haproxy::now,
    sidecar::soon,
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

#[test]
fn what_was_registered_before_the_start_is_served() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 3));
        let sidecar = world.sidecar();
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &toys.iter().collect::<Vec<_>>());
            eprintln!(
                "{}: {service} served {:.0?} after the start",
                world.version(),
                sidecar.age()
            );
        }
        sidecar.until_ready();
        sidecar.logged(&["the first sync is applied", "services=2", "servers=6"]);
    });
}

#[test]
fn an_instance_that_registers_joins_and_one_that_deregisters_leaves() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let sidecar = world.sidecar();
        sidecar.until_ready();
        for service in BOTH {
            let (first, second) = (Toy::start("first"), Toy::start("second"));
            let key = world.register(service, &first);
            world.until_served_by(service, &[&first]);

            let registered = now();
            world.register(service, &second);
            world.until_served_by(service, &[&first, &second]);
            eprintln!(
                "{}: {service} joined after {:.0?}",
                bin.version,
                registered.elapsed()
            );

            let deregistered = now();
            world.deregister(&key);
            world.until_served_by(service, &[&second]);
            eprintln!(
                "{}: {service} left after {:.0?}",
                bin.version,
                deregistered.elapsed()
            );
            soon("the server is gone or free", || {
                let address = first.address().to_string();
                let servers = world.servers(service);
                servers
                    .values()
                    .all(|server| server.address != address)
                    .then_some(())
            });
        }
    });
}
