//! What the machine says of itself, in numbers.

use super::*;

#[test]
fn the_overview_counts_what_is_wanted_and_what_is_in_rotation() {
    let mut world = World::started(&["web"]);
    let mut two = registrations("web", 1..3);
    two[1].port = 0;
    world.input(synced([(service("web"), two)].into()));
    world.up();
    world.wait(6 * SECOND);
    let expected = Overview {
        catalog_known: true,
        haproxy_read: true,
        in_sync: true,
        backends: 1,
        services: 1,
        wanted: 1,
        rejected: 1,
        owned: crate::reconcile::Owned {
            in_rotation: 1,
            ..crate::reconcile::Owned::default()
        },
        admissions: Admissions {
            passed: 1,
            ..Admissions::default()
        },
        tallies: vec![crate::reconcile::Tally {
            backend: BackendName::new("web").unwrap(),
            wanted: 1,
            in_rotation: 1,
            slots: 0,
            slots_used: 0,
        }],
        obstacles: [("no_address", 1)].into(),
        ..Overview::default()
    };
    assert_eq!(world.core.overview(), expected);
}

/// How long those who have arrived were under way.
fn arrivals(world: &World) -> Vec<Duration> {
    let took = |fact: &Fact| {
        let Fact::Arrived(_, arrival) = fact else {
            return None;
        };
        Some(arrival.took)
    };
    world.facts.iter().filter_map(took).collect()
}

#[test]
fn a_registration_that_an_event_brings_arrives_when_its_check_has_passed() {
    let mut world = World::started(&["web"]);
    world.input(synced(
        [(service("web"), registrations("web", 1..2))].into(),
    ));
    world.up();
    world.wait(2 * SECOND);
    assert!(arrivals(&world).is_empty(), "what was there is no arrival");
    world.checks_fail = true;
    world.input(Input::Changed(service("web"), registrations("web", 1..3)));
    world.wait(3 * SECOND);
    assert!(arrivals(&world).is_empty(), "its check has not passed");
    world.up();
    world.wait(2 * SECOND);
    let [took] = arrivals(&world)[..] else {
        panic!("one has arrived: {:?}", world.facts);
    };
    assert!((3 * SECOND..=4 * SECOND).contains(&took), "{took:?}");
}
