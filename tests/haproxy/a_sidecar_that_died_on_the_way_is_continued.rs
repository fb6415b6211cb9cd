//! kill -9 after any number of commands: the next sidecar has no memory, finds what its predecessor left half done, and
//! finishes it.

use crate::support::{
    sidecar::soon,
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

/// Bringing one server in and one out takes 9 to 13 commands in each backend.
const CUTS: [usize; 10] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 15];

#[test]
fn a_sync_that_was_cut_after_any_command_is_finished_by_the_next_sidecar() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let mut toys = BOTH.map(|service| world.serve(service, 2));
        let mut sidecar = world.sidecar();
        for cut in CUTS {
            until_exactly(&world, &toys);
            sidecar.kill9();
            for (service, toys) in BOTH.iter().zip(&mut toys) {
                let left = toys.remove(0);
                let mut keys = world.nomad.rows().into_keys();
                let number = format!("{:08x}", left.address().port());
                let key = keys
                    .find(|(_, id)| id.contains(&number) && id.contains(service))
                    .expect("it is registered");
                world.deregister(&key);
                let joined = Toy::start(&format!("{service}-after-{cut}"));
                world.register(service, &joined);
                toys.push(joined);
            }

            world.tap.allow(Some(cut));
            let mut dying = world.sidecar();
            soon("its commands stop", || world.tap.is_closed().then_some(()));
            dying.kill9();
            world.tap.allow(None);
            sidecar = world.sidecar();
        }
        until_exactly(&world, &toys);
    });
}

/// Nobody else is served, and nothing is left over.
fn until_exactly(world: &World, toys: &[Vec<Toy>; 2]) {
    for (service, toys) in BOTH.iter().zip(toys) {
        world.until_served_by(service, &toys.iter().collect::<Vec<_>>());
        soon(&format!("nothing else is in {service}"), || {
            let servers = world.servers(service);
            let in_rotation = servers
                .values()
                .filter(|server| server.is_in_rotation())
                .count();
            let rest_is_free = servers.values().all(|server| {
                server.is_in_rotation()
                    || (*service == "slots"
                        && server.admin & 1 == 1
                        && ["127.0.0.1:1", "127.0.0.1:0"].contains(&&*server.address))
            });
            (in_rotation == toys.len() && rest_is_free).then_some(())
        });
    }
}
