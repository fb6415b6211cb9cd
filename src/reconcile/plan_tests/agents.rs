//! Agents of slots: on while a slot is in service, off on the way in and on the way out, where their word could end either.

use super::*;

/// A template whose slots have an agent.
pub(super) fn template_with_agents(slots: u8) -> ObservedBackend {
    let mut observed = template(slots);
    for server in &mut observed.servers {
        server.agent = CheckState(22);
    }
    observed
}

#[test]
fn an_agent_is_off_until_its_slot_is_in_and_from_when_it_leaves() {
    let mut world = World::new(template_with_agents(1), V30);
    let desired = [instance(1, &[])];
    let first = world.plan(&desired).steps;
    assert_eq!(
        words(&first),
        [
            "nomad1 no agent",
            "nomad1 weight 0",
            "nomad1 addr 10.0.0.1:80"
        ]
    );
    world.carry_out(&first);
    let second = world.plan(&desired).steps;
    assert_eq!(
        words(&second),
        [
            "nomad1 drain",
            "nomad1 down",
            "nomad1 ready",
            "nomad1 weight 1",
            "nomad1 agent"
        ]
    );
    world.carry_out(&second);
    (
        world.observed.servers[0].oper,
        world.observed.servers[0].check_health,
    ) = (OperState::Running, 4);
    world.look();
    assert_eq!(words(&world.plan(&desired).steps), [""; 0]);

    let leaves = world.plan(&[]).steps;
    assert_eq!(
        words(&leaves),
        ["nomad1 no agent", "nomad1 weight 0", "nomad1 drain"]
    );
    world.carry_out(&leaves);
    let returns = world.plan(&desired).steps;
    assert_eq!(
        words(&returns),
        ["nomad1 ready", "nomad1 weight 1", "nomad1 agent"]
    );
}

#[test]
fn the_weight_that_an_agent_gives_is_nobodys_hand_and_stays() {
    let mut world = World::new(template_with_agents(1), V30);
    let desired = [instance(1, &["haproxy.weight=10"])];
    world.settle(&desired);
    world.observed.servers[0].weight = 5;
    world.look();
    let plan = world.plan(&desired);
    assert_eq!(words(&plan.steps), [""; 0]);
    assert_eq!(by_hand(&plan), []);
    // What it said last is in force until its slot is free, and then no longer.
    world.settle(&[]);
    world.settle(&desired);
    assert_eq!(world.observed.servers[0].weight, 10);
}
