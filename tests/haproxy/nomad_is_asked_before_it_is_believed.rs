//! Where the token may read allocations: an instance that runs is served although its registration has vanished, and one that
//! has ended is not, although it is registered.

use crate::support::{
    fake_nomad::{Key, Mode, Seen, Token, Which},
    sidecar::soon,
    toy::Toy,
    world::{BOTH, Nomad, World, instance, on_every_line},
};

/// The ID of the allocation, from that of the registration.
fn allocation((_, id): &Key) -> String {
    id["_nomad-task-".len()..][..36].to_owned()
}

/// Of two instances in service the registration of the first vanishes. Its allocation runs, and Nomad wants that it does so.
fn the_first_vanishes(world: &World, service: &str, wanted: &str) -> (Toy, Toy) {
    let (first, second) = (Toy::start("first"), Toy::start("second"));
    let key = instance(service, first.address()).key();
    world
        .nomad
        .describe_allocation(&allocation(&key), wanted, "running");
    world.register(service, &first);
    world.register(service, &second);
    world.until_served_by(service, &[&first, &second]);
    world.deregister(&key);
    (first, second)
}

fn until_gone(world: &World, service: &str, toy: &Toy) {
    soon("the server is gone or free", || {
        let address = toy.address().to_string();
        let servers = world.servers(service);
        servers
            .values()
            .all(|server| server.address != address)
            .then_some(())
    });
}

#[test]
fn an_instance_that_vanishes_from_the_catalog_and_runs_is_served_on() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let sidecar = world.sidecar();
        sidecar.until_ready();
        for service in BOTH {
            let (first, second) = the_first_vanishes(&world, service, "run");
            sidecar.logged(&[
                "WARN",
                &format!("backend={service}"),
                "its registration is gone, but its allocation runs and passes HAProxy's check",
            ]);
            world.until_served_by(service, &[&first, &second]);
            // Nobody asks again before it changes, and HAProxy's check has the last word.
            first.fail();
            world.until_served_by(service, &[&second]);
            until_gone(&world, service, &first);
        }
        soon("both are counted", || {
            let answers = sidecar.metric("second_opinions_total{answer=\"running\"}")?;
            (answers >= 2.0).then_some(())
        });
    });
}

#[test]
fn an_instance_that_was_told_to_stop_leaves_as_ever() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let sidecar = world.sidecar();
        sidecar.until_ready();
        for service in BOTH {
            let (first, second) = the_first_vanishes(&world, service, "stop");
            world.until_served_by(service, &[&second]);
            until_gone(&world, service, &first);
        }
        assert_eq!(sidecar.count("held in rotation"), 0);
    });
}

#[test]
fn a_registration_of_an_allocation_that_has_ended_is_not_served_and_named() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let sidecar = world.sidecar();
        sidecar.until_ready();
        for service in BOTH {
            let (living, ghost) = (Toy::start("living"), Toy::start("ghost"));
            ghost.fail();
            world.register(service, &living);
            let registration = instance(service, ghost.address());
            let id = allocation(&registration.key());
            world.nomad.describe_allocation(&id, "stop", "failed");
            world.register(service, &ghost);
            sidecar.logged(&[
                "WARN",
                &id,
                "not served: its allocation has ended (ClientStatus \"failed\")",
            ]);
            until_gone(&world, service, &ghost);
            world.until_served_by(service, &[&living]);
        }
        sidecar.until_metric("registrations_rejected", 2);
    });
}

/// Nomad hides an allocation from who may not read it by a status 500.
#[test]
fn who_may_not_read_allocations_is_told_so_once_and_asks_no_more() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let identity = "aaaaaaaa-1111-2222-3333-444444444444";
        world.nomad.issue(identity, Token::Workload(Vec::new()));
        let toys = ["first", "second", "third"].map(Toy::start);
        let keys = toys.each_ref().map(|toy| {
            let key = instance("dynamic", toy.address()).key();
            world
                .nomad
                .describe_allocation(&allocation(&key), "run", "running");
            world.register("dynamic", toy)
        });
        let sidecar = world.sidecar_with(&[("NOMAD_TOKEN", identity)]);
        sidecar.until_ready();
        world.until_served_by("dynamic", &toys.each_ref());
        let said = "allocations may not be read (capability read-job)";
        world.deregister(&keys[0]);
        sidecar.logged(&[said, "namespace=default"]);
        let asked = |nomad: &Nomad| {
            let is_asked = |seen: &&Seen| seen.request.path().starts_with("/v1/allocation/");
            nomad.seen().iter().filter(is_asked).count()
        };
        let before = asked(&world.nomad);
        world.deregister(&keys[1]);
        soon("both are deleted", || {
            (world.servers("dynamic").len() == 1).then_some(())
        });
        world.until_served_by("dynamic", &[&toys[2]]);
        assert_eq!((asked(&world.nomad), sidecar.count(said)), (before, 1));
    });
}

#[test]
fn without_an_answer_nothing_is_delayed() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let sidecar = world.sidecar();
        sidecar.until_ready();
        let (first, second, third) = (
            Toy::start("first"),
            Toy::start("second"),
            Toy::start("third"),
        );
        let keys = [&first, &second].map(|toy| world.register("dynamic", toy));
        world.until_served_by("dynamic", &[&first, &second]);
        world.nomad.mode(Which::Others, Mode::Hang);
        world.register("dynamic", &third);
        world.until_served_by("dynamic", &[&first, &second, &third]);
        let asked = crate::support::haproxy::now();
        world.deregister(&keys[0]);
        world.until_served_by("dynamic", &[&second, &third]);
        eprintln!(
            "{}: out of rotation {:.0?} after the event",
            bin.version,
            asked.elapsed()
        );
        soon("it is deleted", || {
            (world.servers("dynamic").len() == 2).then_some(())
        });
    });
}
