//! HAProxy forgets what it learned at runtime when it is killed or reloaded; it learns it again at once.

use crate::support::{
    haproxy::now,
    sidecar::Sidecar,
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

#[test]
fn after_kill_9_and_a_restart_everything_is_served_again() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 3));
        let sidecar = world.sidecar();
        until_served(&world, &toys);

        world.haproxy.kill9();
        sidecar.logged(&["the session with HAProxy ended"]);
        world.haproxy.restart();
        until_back(&world, &sidecar, &toys, "kill -9");
    });
}

#[test]
fn after_a_reload_everything_is_served_again() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 3));
        let sidecar = world.sidecar();
        until_served(&world, &toys);

        world.haproxy.reload();
        until_back(&world, &sidecar, &toys, "a reload");
    });
}

#[test]
fn what_left_while_haproxy_was_down_does_not_come_back() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let sidecar = world.sidecar();
        let (stays, leaves) = (Toy::start("stays"), Toy::start("leaves"));
        let keys = BOTH.map(|service| {
            world.register(service, &stays);
            world.register(service, &leaves)
        });
        let toys = BOTH.map(|_| [&stays, &leaves]);
        for (service, toys) in BOTH.iter().zip(toys) {
            world.until_served_by(service, &toys);
        }
        world.haproxy.kill9();
        sidecar.logged(&["the session with HAProxy ended"]);
        for key in &keys {
            world.deregister(key);
        }
        world.haproxy.restart();
        for service in BOTH {
            world.until_served_by(service, &[&stays]);
        }
    });
}

fn until_served(world: &World, toys: &[Vec<Toy>; 2]) {
    for (service, toys) in BOTH.iter().zip(toys) {
        world.until_served_by(service, &toys.iter().collect::<Vec<_>>());
    }
}

/// From the moment that HAProxy answers.
fn until_back(world: &World, sidecar: &Sidecar, toys: &[Vec<Toy>; 2], what: &str) {
    let answered = now();
    for (service, toys) in BOTH.iter().zip(toys) {
        world.until_served_by(service, &toys.iter().collect::<Vec<_>>());
        eprintln!(
            "HAProxy {}: {service} is served again {:.0?} after {what}",
            world.version(),
            answered.elapsed()
        );
    }
    sidecar.logged(&["HAProxy was restarted or reloaded; putting everything back"]);
    sidecar.until_metric("haproxy_restarts_total", 1);
}
