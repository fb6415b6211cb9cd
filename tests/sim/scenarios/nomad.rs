//! What Nomad can do.

use super::*;
use crate::link::Health;

fn registration(world: &World, id: &str) -> haproxy_nomad_sidecar::model::Registration {
    world
        .nomad
        .table()
        .values()
        .find(|one| &*one.id == id)
        .unwrap()
        .clone()
}

#[test]
fn a_nomad_that_is_down_at_start_for_minutes_costs_nothing() {
    let mut world = before_start("3.2.26");
    world.link.health = Some(Health::Away);
    world.start_sidecar();
    world.run_for(180 * SECOND);
    expect_lawful(&world);
    assert_eq!(world.changes, 0);
    expect_recovery(&mut world);
}

#[test]
fn an_outage_of_any_kind_leaves_haproxy_as_it_is() {
    use haproxy_nomad_sidecar::catalog::FailureKind;
    for health in [
        Health::Away,
        Health::Hangs,
        Health::ShortLists,
        Health::NoStream,
        Health::Failing(FailureKind::Denied),
        Health::Failing(FailureKind::ServerError),
        Health::Failing(FailureKind::NotBelievable),
    ] {
        let mut world = settled("3.0.11");
        let changes = world.changes;
        world.link.health = Some(health);
        world.break_stream();
        world.run_for(150 * SECOND);
        expect_right(&world);
        assert_eq!(world.changes, changes, "{health:?}: {}", world.report());
        world.kill_sidecar(SECOND);
        world.run_for(60 * SECOND);
        expect_right(&world);
        assert_eq!(world.changes, changes, "{health:?}: {}", world.report());
    }
}

#[test]
fn a_deletion_without_an_event_is_found_within_ten_minutes() {
    let mut world = settled("3.4.7");
    let gone = registration(&world, "shop-1");
    world.nomad.collect(&gone);
    world.run_for(30 * SECOND);
    assert!(world.missing().is_some(), "nothing tells it so soon");
    world.run_for(570 * SECOND);
    expect_right(&world);
    expect_recovery(&mut world);
}

#[test]
fn a_catalog_restored_to_an_older_index_is_followed_back() {
    for version in VERSIONS {
        let mut world = settled(version);
        world
            .conducts
            .borrow_mut()
            .insert(address(50), Conduct::Serves);
        world.register(("default", "web", &[]), "web-later", address(50), &[]);
        let gone = registration(&world, "shop-2");
        world.deregister(std::slice::from_ref(&gone));
        world.run_for(10 * SECOND);
        expect_right(&world);
        world.restore_nomad(2);
        world.run_for(30 * SECOND);
        expect_right(&world);
        expect_recovery(&mut world);
    }
}

#[test]
fn a_replayed_past_changes_nothing() {
    let mut world = settled("2.8.25");
    let gone = registration(&world, "web-1");
    world.deregister(std::slice::from_ref(&gone));
    world.run_for(5 * SECOND);
    world.register(("default", "web", &[]), "web-1", address(1), &[]);
    world.run_for(20 * SECOND);
    expect_right(&world);
    let changes = world.changes;
    world.break_stream();
    world.nomad.restart(100);
    world.run_for(60 * SECOND);
    expect_right(&world);
    assert_eq!(world.changes, changes, "{}", world.report());
}
