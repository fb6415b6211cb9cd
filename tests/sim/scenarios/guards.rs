//! A catalog that says that too much is gone.

use haproxy_nomad_sidecar::model::Registration;

use super::*;

const SERVICES: [&str; 3] = ["web", "shop", "api"];

/// Three services with three instances each, and one of `cache`, all of them in rotation and living.
fn shop(version: &'static str) -> World {
    let mut world = settled(version);
    let mut host = 100;
    for (service, before) in SERVICES.iter().zip([3, 2, 0]) {
        for number in before..3 {
            host += 1;
            let serves = [(address(host), Conduct::Serves)];
            world.conducts.borrow_mut().extend(serves);
            let id = format!("{service}-{}", number + 1);
            world.register(("default", service, &[]), &id, address(host), &[]);
        }
    }
    world.run_for(10 * SECOND);
    expect_right(&world);
    world
}

/// Two of three instances of each.
fn most(world: &World) -> Vec<Registration> {
    let all = world.nomad.table().values();
    all.filter(|one| one.id.ends_with("-2") || one.id.ends_with("-3"))
        .cloned()
        .collect()
}

fn lose(world: &mut World, gone: &[Registration]) {
    let batch = world.nomad.deregister("PlanResult", gone);
    world.published(&batch);
}

/// Instances that are in rotation; the operator's own servers are at other ports.
fn serving(world: &World) -> usize {
    let all = SERVICES.iter().flat_map(|name| in_rotation(world, name));
    all.filter(|view| view.address.port() == 8000).count()
}

#[test]
fn what_lives_is_served_for_the_hold_though_most_of_the_catalog_is_deregistered() {
    for version in VERSIONS {
        let mut world = shop(version);
        let gone = most(&world);
        assert_eq!((gone.len(), serving(&world)), (6, 9), "{}", world.report());
        lose(&mut world, &gone);
        // What was idle and drained before so much was gone may be deleted already: of one service at most.
        world.run_for(SECOND);
        let held = serving(&world);
        assert!(held >= 7, "{held}: {}", world.report());
        for _ in 0..27 {
            world.run_for(SECOND);
            assert_eq!(serving(&world), held, "{}", world.report());
        }
        world.run_for(15 * SECOND);
        assert_eq!(serving(&world), 3, "{}", world.report());
        expect_recovery(&mut world);
    }
}

#[test]
fn what_dies_meanwhile_or_comes_back_is_treated_as_ever() {
    for version in VERSIONS {
        let mut world = shop(version);
        let gone = most(&world);
        lose(&mut world, &gone);
        world.run_for(2 * SECOND);
        for one in &gone {
            if one.id.ends_with("-2") {
                world.returns(one.clone());
            } else {
                let dead = format!("{}:{}", one.address, one.port).parse().unwrap();
                let refuses = [(dead, Conduct::Refuses)];
                world.conducts.borrow_mut().extend(refuses);
            }
        }
        world.run_for(15 * SECOND);
        assert_eq!(serving(&world), 6, "{}", world.report());
        expect_recovery(&mut world);
    }
}
