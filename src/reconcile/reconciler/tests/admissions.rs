//! Whoever follows `/ready` is told of no HAProxy whose servers have not been checked yet.

use super::*;

/// A core whose first sync is applied, to servers whose checks have not passed.
fn applied() -> World {
    let mut world = World::new(&["web", "api"]);
    world.checks_fail = true;
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(catalog(&[("web", 1..4), ("api", 5..6)])));
    world.wait(SECOND);
    assert!(world.core.overview().in_sync);
    world
}

fn waits_for(world: &World) -> Option<Vec<String>> {
    let backends = world.core.overview().admitting?;
    Some(backends.iter().map(ToString::to_string).collect())
}

fn up(world: &mut World, backend: &str, count: usize) {
    let name = BackendName::new(backend).unwrap();
    let servers = &mut world.haproxy.get_mut(&name).unwrap().servers;
    for server in &mut servers[..count] {
        server.oper = crate::model::OperState::Running;
    }
}

fn told(world: &World) -> bool {
    let mut facts = world.facts.iter();
    facts.any(|fact| matches!(fact, Fact::Admitted { .. }))
}

#[test]
fn what_was_brought_in_is_waited_for_until_it_is_up() {
    let mut world = applied();
    assert_eq!(waits_for(&world).unwrap(), ["api", "web"]);
    up(&mut world, "api", 1);
    up(&mut world, "web", 2);
    world.wait(SECOND);
    assert_eq!(waits_for(&world).unwrap(), ["web"]);
    up(&mut world, "web", 3);
    assert!(!told(&world));
    world.wait(SECOND);
    assert_eq!(waits_for(&world), None);
    assert!(told(&world));
}

#[test]
fn what_became_of_those_that_were_made_ready_is_counted() {
    let mut world = applied();
    let counted = |world: &World| {
        let admissions = world.core.overview().admissions;
        (admissions.waiting, admissions.passed, admissions.left)
    };
    assert_eq!(counted(&world), (4, 0, 0));
    up(&mut world, "web", 2);
    world.wait(SECOND);
    assert_eq!(counted(&world), (2, 2, 0));
    // The one that is left of web goes before its check has passed.
    world.input(synced(catalog(&[("web", 1..3), ("api", 5..6)])));
    world.wait(30 * SECOND);
    assert_eq!(counted(&world).2, 1);
}

#[test]
fn a_server_that_is_ill_is_waited_for_5_s_and_a_service_30_s() {
    for (up_of_web, until) in [(1, 5), (0, 30)] {
        let mut world = applied();
        up(&mut world, "api", 1);
        up(&mut world, "web", up_of_web);
        world.wait((until - 2) * SECOND);
        assert_eq!(waits_for(&world).unwrap(), ["web"]);
        world.wait(2 * SECOND);
        assert_eq!(waits_for(&world), None, "after {until} s");
    }
}

#[test]
fn while_haproxy_is_away_nobody_is_asked_for_the_time() {
    let mut world = applied();
    world.wait(SECOND);
    world.input(Input::Disconnected);
    assert_eq!(world.core.next_timeout(), None);
    world.input(Input::Connected(world.info.clone()));
    world.wait(SECOND);
    assert!(world.core.next_timeout() > Some(world.now));
    assert_eq!(waits_for(&world).unwrap(), ["api", "web"]);
}

#[test]
fn once_admitted_it_stays_so_whatever_goes_down() {
    let mut world = applied();
    world.up();
    world.wait(SECOND);
    let later = synced(catalog(&[("web", 1..9), ("api", 5..6)]));
    world.input(later);
    world.input(Input::Disconnected);
    world.input(Input::Connected(world.info.clone()));
    assert!(world.ready("web") > 3);
    assert_eq!(waits_for(&world), None);
}

#[test]
fn a_sidecar_that_finds_everything_as_it_should_be_waits_for_nobody() {
    let before = applied();
    let mut world = World::new(&[]);
    world.haproxy = before.haproxy;
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(catalog(&[("web", 1..4), ("api", 5..6)])));
    assert!(world.changes().is_empty());
    assert_eq!(waits_for(&world), None);
}

#[test]
fn a_haproxy_that_was_away_for_long_is_waited_for_again() {
    for (away, waits) in [(SECOND, false), (31 * SECOND, true)] {
        let mut world = applied();
        world.up();
        world.wait(6 * SECOND);
        world.input(Input::Disconnected);
        world.wait(away);
        for observed in world.haproxy.values_mut() {
            observed.servers.clear();
        }
        world.info.pid += 1;
        world.input(Input::Connected(world.info.clone()));
        assert_eq!(world.ready("web"), 3);
        assert_eq!(waits_for(&world).is_some(), waits, "after {away:?}");
    }
}
