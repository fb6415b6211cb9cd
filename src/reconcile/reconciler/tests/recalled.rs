//! What an operator did by hand, for a successor that could not tell it from what its predecessor left half done.

use super::*;
use crate::{
    model::AdminState,
    reconcile::{Hand, HandsCount},
};

/// What is done to the server of `web`, its weight tag, and what a successor knows of it.
const DEEDS: [(u8, u16, &str, Hand); 4] = [
    (0, 0, "7", Hand::Weight { has: 0, asked: 7 }),
    (8, 0, "7", Hand::Drain),
    (8, 0, "0", Hand::Drain),
    (1, 0, "0", Hand::Maintenance),
];

fn web() -> BackendName {
    BackendName::new("web").unwrap()
}

/// One server in service, of a registration with this weight.
fn served(is_slot: bool, weight: &str) -> World {
    let mut world = World::new(&["web"]);
    if is_slot {
        world.slots(vec![restarts::slot(1, "127.0.0.1:1", 5)]);
    }
    world.input(Input::Connected(world.info.clone()));
    let mut registered = registrations("web", 1..2);
    registered[0].tags.push(format!("haproxy.weight={weight}"));
    world.input(synced([(service("web"), registered)].into()));
    world.up();
    world.wait(10 * SECOND);
    assert_eq!(world.ready("web"), 1);
    world
}

fn left(world: &mut World) -> &mut ServerState {
    &mut world.haproxy.get_mut(&web()).unwrap().servers[0]
}

/// The operator does it, this world's sidecar sees it, and dies.
fn done_by_hand(is_slot: bool, (admin, weight, tag, _): (u8, u16, &str, Hand)) -> (World, Hands) {
    let mut world = served(is_slot, tag);
    let server = left(&mut world);
    server.admin = AdminState(server.admin.0 | admin);
    server.weight = weight;
    server.check_health = 4;
    world.forget();
    world.wait(10 * SECOND);
    assert_eq!(world.changes().len(), 0);
    let hands = world.hands.pop().unwrap();
    assert_eq!(hands.servers[&web()].len(), 1);
    (world, hands)
}

/// A sidecar that starts with `hands`: what it says is by hand.
fn successor(before: &World, hands: Hands) -> (World, Vec<Hand>) {
    let mut world = World::new(&["web"]);
    world.haproxy.clone_from(&before.haproxy);
    world.info.clone_from(&before.info);
    world.input(Input::Recalled(hands));
    world.input(Input::Connected(world.info.clone()));
    let services = before.core.remember(before.now).unwrap().services;
    world.input(synced(services));
    world.wait(10 * SECOND);
    let by_hand = world.facts.iter().filter_map(|fact| {
        let Fact::ByHand(_, left) = fact else {
            return None;
        };
        Some(left.hand)
    });
    let by_hand = by_hand.collect();
    (world, by_hand)
}

#[test]
fn what_a_predecessor_knew_to_be_by_hand_stays_as_it_is() {
    for is_slot in [true, false] {
        for deed in DEEDS {
            let (before, hands) = done_by_hand(is_slot, deed);
            let (world, by_hand) = successor(&before, hands.clone());
            assert_eq!(by_hand, [deed.3], "{is_slot} {deed:?}");
            assert_eq!(world.changes(), Vec::<&Command>::new());
            // And so for the next one.
            assert_eq!(world.hands.last(), Some(&hands));

            let (mut world, _) = successor(&before, hands);
            let tag = deed.2.parse().unwrap();
            let server = left(&mut world);
            server.admin = AdminState(server.admin.0 & !9);
            server.weight = tag;
            world.wait(10 * SECOND);
            assert!(world.hands.pop().unwrap().servers.is_empty());
            assert_eq!(world.core.overview().by_hand, HandsCount::default());
        }
    }
}

#[test]
fn it_is_believed_of_a_server_that_is_as_it_was_left_in_the_same_process() {
    for is_slot in [true, false] {
        let (before, hands) = done_by_hand(is_slot, DEEDS[0]);
        let resumed = |before: &World, hands: Hands| {
            let (world, by_hand) = successor(before, hands);
            assert_eq!(by_hand, []);
            let set = |command: &&&Command| matches!(command, Command::SetWeight(_, 7));
            assert_eq!(world.changes().iter().filter(set).count(), 1);
            assert!(world.hands.last().unwrap().servers.is_empty());
        };
        resumed(&before, Hands::default());
        for (pid, start_time) in [(2, 1), (1, 2)] {
            let other = Hands {
                pid,
                start_time,
                ..hands.clone()
            };
            resumed(&before, other);
        }
        let with = |change: fn(&mut LeftServer)| {
            let mut server = hands.servers[&web()].first().unwrap().clone();
            change(&mut server);
            Hands {
                servers: [(web(), [server].into())].into(),
                ..hands.clone()
            }
        };
        resumed(
            &before,
            with(|server| server.address.port = 81.try_into().unwrap()),
        );
        resumed(&before, with(|server| server.admin = AdminState(8)));
        resumed(&before, with(|server| server.weight = 3));
    }
}

#[test]
fn a_sidecar_that_is_not_in_charge_says_nothing_of_hands() {
    let (before, hands) = done_by_hand(true, DEEDS[0]);
    let mut world = before;
    world.hands.clear();
    world.input(Input::Turned(Mode::Standby));
    // The other one takes it out: that is no hand's work.
    let server = left(&mut world);
    server.admin = AdminState(server.admin.0 | 8);
    world.wait(10 * SECOND);
    assert!(world.hands.is_empty());
    world.input(Input::Turned(Mode::Act));
    world.wait(10 * SECOND);
    assert_eq!(left(&mut world).weight, 7);
    assert_ne!(world.hands, [hands]);
}
