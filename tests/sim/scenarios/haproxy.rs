//! What HAProxy, its operator and the connection to it can do.

use super::*;
use crate::laws::Deed;

#[test]
fn a_reload_loses_everything_and_all_of_it_is_back_at_once() {
    for version in VERSIONS {
        let mut world = settled(version);
        world.reload_haproxy();
        assert!(in_rotation(&world, "web").len() < 3);
        // The next look at the process, and one round; what was in rotation is put back without waiting for its checks.
        world.run_for(Duration::from_millis(350));
        assert!(in_rotation(&world, "shop").len() >= 3, "{}", world.report());
        world.run_for(SECOND);
        expect_right(&world);
        expect_recovery(&mut world);
    }
}

#[test]
fn with_a_state_file_a_reload_leaves_slots_in_rotation_and_nothing_to_do_for_them() {
    for version in VERSIONS {
        let mut world = before_start(version);
        world.keeps_state_file = true;
        world.start_sidecar();
        world.run_for(10 * SECOND);
        expect_right(&world);
        let before = in_rotation(&world, "web");
        world.reload_haproxy();
        let after = in_rotation(&world, "web");
        let names = |views: &[View]| -> Vec<_> {
            let slots = views.iter().filter(|view| view.admin == 4);
            slots
                .map(|view| (view.name.clone(), view.address))
                .collect()
        };
        assert_eq!(names(&before), names(&after), "{version}");
        world.run_for(SECOND);
        assert_eq!(names(&in_rotation(&world, "web")), names(&before));
        expect_recovery(&mut world);
    }
}

#[test]
fn a_state_file_is_gone_before_its_addresses_are_others() {
    for version in VERSIONS {
        let mut world = before_start(version);
        world.keeps_state_file = true;
        world.start_sidecar();
        world.run_for(10 * SECOND);
        assert!(world.state_file.is_some());
        world.kill_haproxy(20 * SECOND);
        world.run_for(11 * SECOND);
        assert_eq!(world.state_file, None);
        world.run_for(20 * SECOND);
        expect_right(&world);
        expect_recovery(&mut world);
    }
}

#[test]
fn a_connection_that_breaks_after_any_line_of_the_first_sync_costs_nothing_but_time() {
    for version in ["2.6.12", "3.4.7"] {
        for line in 1..=lines_of_first_sync(version) {
            let mut world = before_start(version);
            world.cut_after_changes = Some(line);
            world.start_sidecar();
            world.run_for(20 * SECOND);
            expect_right(&world);
        }
    }
}

pub(super) fn lines_of_first_sync(version: &'static str) -> u64 {
    let world = settled(version);
    assert!(world.changes > 20, "{}", world.changes);
    world.changes
}

#[test]
fn what_an_operator_did_outlives_the_sidecar() {
    for version in VERSIONS {
        for (deed, backend) in [
            (Deed::Maintenance, "web"),
            (Deed::Maintenance, "shop"),
            (Deed::Maintenance, "cache"),
            (Deed::Drain, "web"),
            (Deed::Drain, "shop"),
            (Deed::Drain, "cache"),
            (Deed::Weight, "web"),
            (Deed::Weight, "shop"),
            (Deed::WeightZero, "web"),
            (Deed::WeightZero, "shop"),
        ] {
            let mut world = settled(version);
            let view = in_rotation(&world, backend)
                .into_iter()
                .find(|view| view.name.starts_with("nomad"))
                .unwrap();
            let left = |world: &World| {
                let mut servers = world.servers().into_iter();
                let it = servers.find(|one| one.backend == backend && one.name == view.name);
                it.map(|one| (one.admin, one.weight)).unwrap()
            };
            world.hold(&view, deed);
            let by_hand = left(&world);
            world.run_for(7 * SECOND);
            world.kill_sidecar(SECOND);
            world.run_for(20 * SECOND);
            expect_right(&world);
            assert_eq!(left(&world), by_hand, "{version}: {deed:?} in {backend}");
            assert_ne!(by_hand, (view.admin, view.weight));
            let key = (view.backend.clone(), view.name.clone());
            world.release(&key);
            world.run_for(7 * SECOND);
            expect_right(&world);
            assert_eq!(left(&world), (view.admin, view.weight));
        }
    }
}

#[test]
fn what_an_operator_does_while_nothing_was_seen_yet_stays_too() {
    let mut world = settled("3.4.7");
    let view = in_rotation(&world, "web")
        .into_iter()
        .find(|view| view.name.starts_with("nomad"))
        .unwrap();
    world.kill_sidecar(5 * SECOND);
    world.hold(&view, Deed::Maintenance);
    world.run_for(20 * SECOND);
    expect_right(&world);
}

#[test]
fn two_registrations_with_one_address_are_one_server() {
    for version in VERSIONS {
        let mut world = settled(version);
        for service in ["web", "shop"] {
            let taken = in_rotation(&world, service)
                .iter()
                .find(|view| view.name.starts_with("nomad"))
                .unwrap()
                .address;
            let before = in_rotation(&world, service).len();
            world.register(("default", service, &[]), "twin", taken, &[]);
            world.run_for(10 * SECOND);
            expect_right(&world);
            assert_eq!(
                in_rotation(&world, service).len(),
                before,
                "{}",
                world.report()
            );
        }
        expect_recovery(&mut world);
    }
}

#[test]
fn a_server_that_never_passes_its_check_gets_no_traffic() {
    for version in VERSIONS {
        let mut world = settled(version);
        world
            .conducts
            .borrow_mut()
            .insert(address(90), Conduct::Refuses);
        for service in ["web", "shop", "cache"] {
            world.register(("default", service, &[]), "dead", address(90), &[]);
        }
        world.run_for(30 * SECOND);
        expect_right(&world);
        assert!(
            world
                .servers()
                .iter()
                .all(|view| view.address != address(90) || !view.in_rotation)
        );
        world.at(world.now, Event::Conduct(address(90), Conduct::Serves));
        world.run_for(10 * SECOND);
        expect_right(&world);
        expect_recovery(&mut world);
    }
}
