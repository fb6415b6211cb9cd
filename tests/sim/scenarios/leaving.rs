//! Servers leave, with clients on them.

use super::*;
use crate::clients::Habit;
use haproxy_nomad_sidecar::model::Registration;

fn registration(world: &World, id: &str) -> Registration {
    let mut all = world.nomad.table().values();
    all.find(|one| &*one.id == id).unwrap().clone()
}

#[test]
fn what_a_new_sidecar_held_is_held_again_after_its_registration_was_there_once_more() {
    for version in VERSIONS {
        for (name, backend) in [("api", "api"), ("photo-books", "photo_books")] {
            let mut world = settled(version);
            let service = ("default", name, [].as_slice());
            let serve = [address(70), address(71)].map(|address| (address, Conduct::Serves));
            world.conducts.borrow_mut().extend(serve);
            world.register(service, "stable", address(70), &[]);
            // Without it nothing would tell a new sidecar that the backend is its.
            world.register(service, "canary", address(71), &["haproxy.canary=true"]);
            world.run_for(5 * SECOND);
            let one = registration(&world, "stable");
            let gone = [one.clone()];
            world.deregister(&gone);
            world.run_for(SECOND);
            // The next one only finds a server in rotation that nobody wants.
            world.kill_sidecar(SECOND);
            world.run_for(5 * SECOND);
            assert_eq!(in_rotation(&world, backend).len(), 2, "{}", world.report());
            world.returns(one);
            world.run_for(5 * SECOND);
            world.deregister(&gone);
            world.run_for(5 * SECOND);
            assert_eq!(in_rotation(&world, backend).len(), 2, "{}", world.report());
            expect_recovery(&mut world);
        }
    }
}

#[test]
fn every_instance_is_replaced_under_clients_of_every_habit_and_none_of_them_fails() {
    for version in VERSIONS {
        let mut world = settled(version);
        // The operator's own servers serve, too.
        for view in world.servers() {
            let mut conducts = world.conducts.borrow_mut();
            if view.address.port() != 1 {
                conducts.insert(view.address, Conduct::Serves);
            }
        }
        world.run_for(5 * SECOND);
        for backend in ["web", "shop", "cache"] {
            for habit in [
                Habit::Plain,
                Habit::KeepAlive,
                Habit::Cookie,
                Habit::Cookie,
                Habit::Long,
            ] {
                world.client_comes(backend, habit);
            }
        }
        world.run_for(5 * SECOND);
        let elders: Vec<Registration> = world.nomad.table().values().cloned().collect();
        for (host, elder) in (100..).zip(elders) {
            // It is registered before it listens; the elder goes after its replacement is registered, and serves on.
            let id = format!("{}-new", elder.id);
            let name = elder.service.name.to_string();
            let service = ("default", name.as_str(), [].as_slice());
            let refuses = [(address(host), Conduct::Refuses)];
            world.conducts.borrow_mut().extend(refuses);
            world.register(service, &id, address(host), &[]);
            world.after(5 * SECOND, Event::Conduct(address(host), Conduct::Serves));
            world.run_for(3 * SECOND);
            world.deregister(&[elder]);
            // Its slot is free again, too, where no session lasts.
            world.run_for(13 * SECOND);
        }
        world.run_for(20 * SECOND);
        expect_right(&world);
        let tally = world.clients.tally;
        assert!(tally.served > 500 && tally.kept > 0, "{tally:?}");
        let failed = tally.unserved + tally.refused + tally.lost + tally.cut;
        assert_eq!(failed, 0, "{tally:?}: {}", world.report());
        world.clients_hurry();
        expect_recovery(&mut world);
    }
}
