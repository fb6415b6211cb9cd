//! What the machine says of itself, in numbers.

use super::*;
use crate::reconcile::Turned;

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

#[test]
fn a_verdict_that_turns_is_told_and_that_of_another_process_is_no_turn() {
    let mut world = World::started(&["web"]);
    world.checks_fail = true;
    world.input(synced(
        [(service("web"), registrations("web", 1..2))].into(),
    ));
    // Its seconds do not pass, as if each were of a verdict of its own.
    let turned = |world: &mut World| -> Vec<Turned> {
        let turned = world.facts.drain(..).filter_map(|fact| {
            let Fact::Turned(_, turn) = fact else {
                return None;
            };
            Some(turn.to)
        });
        let is_of_a_moment =
            |to: &Turned| matches!(to, Turned::DownForAMoment | Turned::UpForAMoment);
        turned.filter(|to| !is_of_a_moment(to)).collect()
    };
    assert_eq!(turned(&mut world), []);
    world.up();
    world.wait(6 * SECOND);
    assert_eq!(turned(&mut world), [Turned::Admitted]);
    world.down();
    world.wait(6 * SECOND);
    world.up();
    world.wait(6 * SECOND);
    assert_eq!(turned(&mut world), [Turned::Down, Turned::Up]);
    world.input(Input::Disconnected);
    world.info.pid += 1;
    world.down();
    world.connect();
    assert_eq!(turned(&mut world), []);
    world.up();
    world.wait(6 * SECOND);
    assert_eq!(turned(&mut world).len(), 1);
}

#[test]
fn haproxy_is_asked_for_its_words_where_they_are_few() {
    let mut world = World::started(&["web"]);
    world.input(synced(
        [(service("web"), registrations("web", 1..2))].into(),
    ));
    let web = BackendName::new("web").unwrap();
    assert!(world.core.ask_for_words(&web).is_some());
    let others = (0..1_000).map(|_| restarts::slot(1, "127.0.0.1:80", 0));
    world.haproxy.get_mut(&web).unwrap().servers.extend(others);
    world.wait(31 * SECOND);
    assert!(world.core.ask_for_words(&web).is_none());
    assert!(world.core.ask_for_verdicts("web").is_some());
}
