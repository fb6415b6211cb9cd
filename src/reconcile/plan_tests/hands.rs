//! What an operator does by hand sticks, also over a restart of the sidecar, until it is undone or the registration ends.

use super::*;
use crate::model::ServerRef;

type Act = fn(ServerRef) -> Command;

const HANDS: [(Act, Hand); 2] = [
    (Command::Maintenance, Hand::Maintenance),
    (Command::Drain, Hand::Drain),
];

/// A backend of each kind, with one instance in service, and the server that it has.
fn served(tags: &[&str]) -> Vec<(World, [DesiredServer; 1], ServerRef)> {
    let backends = [ObservedBackend::default(), template(2)].into_iter();
    let worlds = backends.map(|observed| {
        let desired = [instance(1, tags)];
        let mut world = World::new(observed, V34);
        world.settle(&desired);
        world.observed.servers[0].check_health = 4;
        let target = ServerRef {
            backend: web(),
            server: world.observed.servers[0].name.clone().unwrap(),
        };
        (world, desired, target)
    });
    worlds.collect()
}

fn act(world: &mut World, command: &Command) {
    apply(&mut world.observed, command);
    world.look();
    // It has served.
    let name = command.server().unwrap().server.clone();
    world.stat(&[(name.as_str(), 1)]);
}

#[test]
fn maintenance_and_drain_by_hand_stay_until_they_are_undone_or_the_registration_ends() {
    for tags in [
        &[][..],
        &["haproxy.weight=7"],
        &["haproxy.check.disabled"],
        &["haproxy.weight=0"],
    ] {
        for (command, hand) in HANDS {
            for (mut world, desired, target) in served(tags) {
                act(&mut world, &command(target.clone()));
                let mut successor = World::new(world.observed.clone(), V34);
                // With weight 0 by its tags nothing tells a drained server, or a slot in maintenance, from one on its way in.
                let is_known = tags != ["haproxy.weight=0"]
                    || (hand == Hand::Maintenance && target.server.as_str() != "nomad1");
                let mut worlds = vec![&mut world];
                worlds.extend(is_known.then_some(&mut successor));
                for world in worlds {
                    let plan = world.plan(&desired);
                    assert!(plan.steps.is_empty(), "{:?} {tags:?}", words(&plan.steps));
                    assert_eq!(by_hand(&plan), [(target.server.clone(), hand, false)]);
                    assert!(plan.hindrances.is_empty());

                    let mut ended = World::new(world.observed.clone(), V34);
                    ended.settle(&[]);
                    let left = ended.observed.servers.iter();
                    assert!(left.into_iter().all(|server| server.admin.in_maintenance()));
                    let next = [instance(2, &[])];
                    ended.settle(&next);
                    assert!(ended.plan(&next).by_hand.is_empty());

                    act(world, &Command::Ready(target.clone()));
                    let plan = world.plan(&desired);
                    assert_eq!((plan.steps.len(), plan.by_hand.len()), (0, 0));
                }
            }
        }
    }
}

#[test]
fn a_weight_by_hand_stays_until_it_is_that_of_the_tags_or_of_the_configuration() {
    for (mut world, desired, target) in served(&["haproxy.weight=7"]) {
        for weight in [3, 0] {
            act(&mut world, &Command::SetWeight(target.clone(), weight));
            let left = |asked| {
                let has = weight;
                [(target.server.clone(), Hand::Weight { has, asked }, false)]
            };
            let plan = world.plan(&desired);
            assert!(plan.steps.is_empty(), "{:?}", words(&plan.steps));
            assert_eq!(by_hand(&plan), left(7));
            // Whatever the tags say meanwhile.
            assert_eq!(
                by_hand(&world.plan(&[instance(1, &["haproxy.weight=9"])])),
                left(9)
            );
            let successor = World::new(world.observed.clone(), V34).plan(&desired);
            if weight == 0 {
                // Its predecessor may have died before it gave the weight.
                assert_eq!(
                    words(&successor.steps),
                    [format!("{} weight 7", target.server)]
                );
            } else {
                assert_eq!(by_hand(&successor), left(7));
            }
            for undone in [7, world.observed.servers[0].initial_weight] {
                let mut world = World {
                    observed: world.observed.clone(),
                    memory: world.memory.clone(),
                    policy: world.policy.clone(),
                    ..world
                };
                act(&mut world, &Command::SetWeight(target.clone(), undone));
                let plan = world.plan(&desired);
                assert!(plan.by_hand.is_empty());
                assert_eq!(plan.steps.len(), usize::from(undone != 7));
            }
        }
    }
}

#[test]
fn a_weight_that_the_sidecar_has_set_follows_the_tags() {
    for (mut world, _, target) in served(&["haproxy.weight=7"]) {
        let changed = [instance(1, &["haproxy.weight=9"])];
        let steps = world.settle(&changed);
        assert_eq!(words(&steps), [format!("{} weight 9", target.server)]);
        // One that was sent and lost is sent again.
        let again = [instance(1, &["haproxy.weight=4"])];
        for step in world.plan(&again).steps {
            world.memory.send(world.now, &step.command);
        }
        world.look();
        assert_eq!(
            words(&world.plan(&again).steps),
            [format!("{} weight 4", target.server)]
        );
    }
}

#[test]
fn a_weight_that_the_balance_method_refuses_is_nobodys_hand() {
    let mut world = World::new(template(1), V34);
    let desired = [instance(1, &["haproxy.weight=7"])];
    let fill = world.plan(&desired).steps;
    world.carry_out(&fill);
    let mut admit = world.plan(&desired).steps;
    let refused = admit.pop().unwrap();
    assert_eq!(words(std::slice::from_ref(&refused)), ["nomad1 weight 7"]);
    world.memory.send(world.now, &refused.command);
    world.carry_out(&admit);
    world.memory.static_weights = true;
    assert_eq!(words(&world.plan(&desired).steps), ["nomad1 weight 1"]);
}

#[test]
fn the_successor_of_a_server_that_was_changed_by_hand_does_not_come_in() {
    let weight = |server| Command::SetWeight(server, 0);
    let weight_by_hand = Hand::Weight { has: 0, asked: 1 };
    let hands = HANDS.into_iter().chain([(weight as Act, weight_by_hand)]);
    for (command, hand) in hands {
        let (mut world, desired, target) = served(&[]).remove(0);
        act(&mut world, &command(target.clone()));
        let changed = [instance(1, &["haproxy.check.fall=5"])];
        world
            .memory
            .departed
            .insert(desired[0].identity(), desired[0].clone());
        let plan = world.plan(&changed);
        assert!(plan.steps.is_empty(), "{:?}", words(&plan.steps));
        assert_eq!(by_hand(&plan), [(target.server.clone(), hand, true)]);
        let undo = match hand {
            Hand::Weight { .. } => Command::SetWeight(target, 1),
            Hand::Maintenance | Hand::Drain => Command::Ready(target),
        };
        act(&mut world, &undo);
        let plan = world.plan(&changed);
        assert!(matches!(plan.steps[0].command, Command::AddServer(..)));
        assert!(plan.by_hand.is_empty());
    }
}

#[test]
fn what_was_done_by_hand_is_said_with_the_command_that_undoes_it() {
    let (mut world, desired, target) = served(&[]).remove(1);
    let mut said = Vec::new();
    for command in [
        Command::Maintenance(target.clone()),
        Command::Drain(target.clone()),
        Command::Ready(target.clone()),
        Command::SetWeight(target, 5),
    ] {
        act(&mut world, &command);
        let left = world.plan(&desired).by_hand;
        said.extend(left.iter().map(|left| left.describe(&web())));
    }
    assert_eq!(
        said,
        [
            "server nomad1 was put into maintenance and stays there; undo it with `set server web/nomad1 state ready`",
            "server nomad1 was set to drain and goes on draining; undo it with `set server web/nomad1 state ready`",
            "server nomad1 was given weight 5 and keeps it, instead of 1; undo it with `set server web/nomad1 weight 1`",
        ]
    );
}
