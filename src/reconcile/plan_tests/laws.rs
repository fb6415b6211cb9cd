//! The laws, over random backends.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{agents::template_with_agents, *};
use crate::reconcile::plan::{Kind, kind};

fn desired_strategy() -> impl Strategy<Value = Vec<DesiredServer>> {
    let tags = prop_oneof![
        Just(vec![]),
        Just(vec!["haproxy.weight=5"]),
        Just(vec!["haproxy.check.disabled"]),
        Just(vec!["haproxy.backup", "haproxy.check.port=81"])
    ];
    proptest::collection::btree_map(1..12_u8, tags, 0..8).prop_map(|instances| {
        instances
            .into_iter()
            .map(|(number, tags)| instance(number, &tags))
            .collect()
    })
}

fn essence(observed: &ObservedBackend) -> BTreeSet<(String, String, u8, u16, bool)> {
    let is_slot = kind(&observed.servers, &Policy::default()) == Kind::Slots;
    let essence = observed.servers.iter().map(|server| {
        let name = if is_slot {
            String::new()
        } else {
            server.name.as_ref().unwrap().to_string()
        };
        (
            name,
            format!("{:?}:{}", server.ip, server.port),
            server.admin.0,
            server.weight,
            server.agent.is_enabled(),
        )
    });
    // Which slot has which instance, and how free a free one looks, is nobody's business.
    essence.filter(|(_, _, admin, ..)| admin & 1 == 0).collect()
}

proptest! {
    /// Invariant 4.
    #[test]
    fn after_a_plan_was_applied_there_is_nothing_left_to_do(
        before in desired_strategy(), after in desired_strategy(), slots in 0..14_u8, agents: bool,
        version in prop_oneof![Just(V26), Just(V30), Just(V34)],
    ) {
        let template = if agents { template_with_agents } else { template };
        let mut world = World::new(template(slots), version);
        world.settle(&before);
        world.settle(&after);
        world.stat(&[]);
        let plan = world.plan(&after);
        prop_assert!(plan.steps.is_empty(), "{:?}", words(&plan.steps));
        let room = if slots == 0 { after.len() } else { after.len().min(slots.into()) };
        let ready = world.observed.servers.iter().filter(|server| server.admin.is_ready()).count();
        prop_assert_eq!(ready, room);
        // A successor without any memory finds nothing to do either.
        let successor = World::new(world.observed.clone(), version);
        prop_assert!(successor.plan(&after).steps.is_empty());
    }

    /// Invariant 5, for the sidecar: killed after any command, and the catalog may have changed meanwhile.
    #[test]
    fn a_sidecar_that_died_between_two_commands_is_continued(
        before in desired_strategy(), after in desired_strategy(), slots in 12..14_u8, dynamic: bool, cut: prop::sample::Index,
        back: bool, agents: bool, version in prop_oneof![Just(V26), Just(V30), Just(V34)],
    ) {
        let template = if agents { template_with_agents } else { template };
        let mut world = World::new(template(if dynamic { 0 } else { slots }), version);
        world.settle(&before);
        let (mut undisturbed, mut interrupted) = (world.observed.clone(), world.observed.clone());
        let steps = until_settled(&after.iter().collect::<Vec<_>>(), &world.situation(&web()));
        let wanted = if back { &before } else { &after };
        for step in &steps[..cut.index(steps.len() + 1)] {
            apply(&mut interrupted, &step.command);
        }
        let mut successor = World::new(interrupted, version);
        successor.settle(wanted);
        if !back {
            for step in &steps {
                apply(&mut undisturbed, &step.command);
            }
        }
        successor.stat(&[]);
        let plan = successor.plan(wanted);
        prop_assert!(plan.hindrances.is_empty(), "{:?}", plan.hindrances);
        // A weight whose tag changed while nobody looked could be an operator's: it stays and is shown.
        for (server, hand, _) in by_hand(&plan) {
            let state = successor.observed.servers.iter_mut().find(|state| state.name.as_ref() == Some(&server)).unwrap();
            let weight_in = |of: &[DesiredServer]| {
                of.iter().find(|one| state.address() == Some(one.address)).map(|one| one.weight)
            };
            prop_assert!(weight_in(&before) != weight_in(&after), "{server} {hand:?}");
            let Hand::Weight { asked, .. } = hand else { panic!("{server} {hand:?}") };
            state.weight = asked;
        }
        prop_assert_eq!(essence(&successor.observed), essence(&undisturbed));
    }
}
