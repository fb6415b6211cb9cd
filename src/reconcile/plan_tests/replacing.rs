//! One server in the place of another: changed tags, other registrations, slots that are used again.

use super::*;
use crate::reconcile::plan::{Kind, Tenant};

fn tenant(server: &DesiredServer) -> Tenant {
    Tenant {
        server: server.name.clone(),
        address: server.address,
    }
}

#[test]
fn changed_tags_replace_a_tenth_of_the_servers_at_a_time() {
    let former: Vec<_> = (1..=20).map(|number| instance(number, &[])).collect();
    let changed: Vec<_> = (1..=20)
        .map(|number| instance(number, &["haproxy.check.fall=5"]))
        .collect();
    let mut world = World::new(ObservedBackend::default(), V30);
    world.settle(&former);
    for server in &mut world.observed.servers {
        server.oper = OperState::Running;
    }
    let added = |plan: &Plan| {
        let adds = plan.steps.iter();
        adds.filter(|step| matches!(step.command, Command::AddServer(..)))
            .count()
    };
    let first = world.plan(&changed);
    assert_eq!(added(&first), 2);
    assert!(first.steps.iter().all(|step| {
        !matches!(step.command, Command::Drain(_))
            || changed
                .iter()
                .any(|server| server.name == step.command.server().unwrap().server)
    }));

    // They are there and not UP yet: nothing else happens, and after a while it is said why.
    for step in &first.steps {
        apply(&mut world.observed, &step.command);
    }
    let is_new = |name: &ServerName| changed.iter().any(|server| server.name == *name);
    for server in &mut world.observed.servers {
        if is_new(server.name.as_ref().unwrap()) {
            server.oper = OperState::Stopped;
        }
    }
    world.memory.changed_at = Some(world.now);
    world.look();
    let waiting = world.plan(&changed);
    assert_eq!((waiting.steps.len(), waiting.hindrances.len()), (0, 0));
    world.now += Duration::from_secs(10);
    let stuck = world.plan(&changed);
    let obstacles: Vec<_> = stuck
        .hindrances
        .iter()
        .map(|hindrance| hindrance.obstacle.to_string())
        .collect();
    assert_eq!(obstacles.len(), 2);
    assert!(
        obstacles[0].ends_with(
            "with its changed tags, does not pass its check; the former one goes on serving, and 18 other instances keep \
             their former tags until then"
        ),
        "{obstacles:?}"
    );

    // One is UP: its elder drains, and the next comes.
    let up = world
        .observed
        .servers
        .iter_mut()
        .find(|server| is_new(server.name.as_ref().unwrap()))
        .unwrap();
    up.oper = OperState::Running;
    let next = world.plan(&changed);
    let drained: Vec<_> = next
        .steps
        .iter()
        .filter(|step| matches!(step.command, Command::Drain(_)) && step.why == Why::Deregistered)
        .map(|step| step.command.server().unwrap().server.clone())
        .collect();
    assert_eq!((added(&next), drained.len()), (1, 1));
    assert!(former.iter().any(|server| server.name == drained[0]));
}

#[test]
fn another_registration_at_an_address_is_admitted_anew_and_the_former_server_drains_at_once() {
    let former = instance(1, &[]);
    let mut next = instance(2, &[]);
    next.address = former.address;
    let mut world = World::new(ObservedBackend::default(), V30);
    world.settle(std::slice::from_ref(&former));
    let steps = words(&world.plan(std::slice::from_ref(&next)).steps);
    assert!(
        steps.contains(&format!("{} drain", former.name)),
        "{steps:?}"
    );
    assert!(steps.contains(&format!("{} down", next.name)), "{steps:?}");

    let mut world = World::new(template(1), V30);
    world.settle(std::slice::from_ref(&former));
    world.memory.tenants.insert(name("nomad1"), tenant(&former));
    assert!(world.plan(std::slice::from_ref(&former)).steps.is_empty());
    let steps = world.plan(std::slice::from_ref(&next)).steps;
    assert_eq!(
        words(&steps),
        [
            "nomad1 weight 0",
            "nomad1 drain",
            "nomad1 down",
            "nomad1 ready",
            "nomad1 weight 1"
        ]
    );
    assert!(steps.iter().all(|step| step.why == Why::OtherRegistration));
    // In drain it is the same, and not a return.
    apply(
        &mut world.observed,
        &Command::Drain(steps[0].command.server().unwrap().clone()),
    );
    world.look();
    assert_eq!(
        words(&world.plan(std::slice::from_ref(&next)).steps)[2],
        "nomad1 down"
    );
}

#[test]
fn of_the_slots_that_were_used_the_least_recently_used_one_is_taken_first() {
    let mut world = World::new(template(3), V34);
    for (server, since) in world.observed.servers.iter_mut().zip([5, 700, 60]) {
        (server.weight, server.since_change) = (0, since);
    }
    world.stat(&[]);
    assert_eq!(
        words(&world.plan(&[instance(1, &[])]).steps),
        ["nomad2 addr 10.0.0.1:80"]
    );
}

#[test]
fn sessions_that_last_cannot_keep_a_new_instance_out_of_the_slots() {
    let mut world = World::new(template(3), V34);
    for (number, server) in (1..).zip(&mut world.observed.servers) {
        *server = ServerState {
            since_change: i64::from(number) * 100,
            ..state(
                &format!("nomad{number}"),
                &format!("10.0.0.{number}:80"),
                5,
                0,
                14,
            )
        };
    }
    world.look();
    world.stat(&[("nomad1", 4), ("nomad2", 1), ("nomad3", 0)]);
    let desired = [instance(7, &[]), instance(8, &[])];
    assert_eq!(
        words(&world.plan(&desired).steps),
        ["nomad3 addr 10.0.0.7:80"],
        "the others have not had their time yet"
    );
    world.now += Duration::from_secs(10);
    // One slot has nothing left on it; of the others the longest quarantined one is closed.
    let plan = world.plan(&desired);
    assert_eq!(
        words(&plan.steps),
        ["nomad3 addr 10.0.0.7:80", "nomad2 shutdown"]
    );
    assert_eq!(plan.steps[1].why, Why::SlotNeeded);
    let obstacle = &plan.hindrances.first().unwrap().obstacle;
    assert_eq!(
        obstacle.to_string(),
        "no free slot: 2 slots still have sessions of instances that are gone, which are closed one after the other; \
         raise the number in the backend's server-template line, and reload HAProxy"
    );
    // Not the next one at once.
    world.memory.closed_at = Some(world.now);
    assert_eq!(
        words(&world.plan(&desired).steps),
        ["nomad3 addr 10.0.0.7:80"]
    );
    world.now += Duration::from_secs(1);
    assert!(words(&world.plan(&desired).steps).contains(&"nomad2 shutdown".to_owned()));
}

#[test]
fn sessions_are_closed_at_the_deadline_if_the_tags_say_so() {
    for tags in [
        &["haproxy.drain.timeout=2s"][..],
        &["haproxy.drain.timeout=2s", "haproxy.drain.sessions=close"],
    ] {
        let server = instance(1, tags);
        let mut world = World::new(ObservedBackend::default(), V30);
        world.settle(std::slice::from_ref(&server));
        let id = server.name.as_str();
        let drain = world.plan(&[]).steps;
        world.carry_out(&drain);
        world
            .memory
            .departed
            .insert(server.identity(), server.clone());
        world.now += Duration::from_secs(2);
        world.stat(&[(id, 1)]);
        let over = world.plan(&[]);
        assert_eq!(words(&over.steps), [format!("{id} maint")]);
        for step in &over.steps {
            apply(&mut world.observed, &step.command);
        }
        world.look();
        let closes = tags.len() > 1;
        let expected = if closes {
            vec![format!("{id} shutdown")]
        } else {
            vec![]
        };
        assert_eq!(words(&world.plan(&[]).steps), expected);
    }
}

#[test]
fn where_clients_have_cookies_a_slot_is_down_before_it_gets_its_address() {
    let mut world = World::new(template(1), V30);
    world.memory.cookies = true;
    let desired = [instance(1, &[])];
    let first = world.plan(&desired);
    assert_eq!(
        words(&first.steps),
        [
            "nomad1 weight 0",
            "nomad1 drain",
            "nomad1 down",
            "nomad1 ready",
            "nomad1 addr 10.0.0.1:80"
        ]
    );
    for step in &first.steps {
        apply(&mut world.observed, &step.command);
    }
    world.observed.servers[0].oper = OperState::Stopped;
    world.look();
    assert_eq!(words(&world.plan(&desired).steps), ["nomad1 weight 1"]);
}

#[test]
fn where_clients_have_cookies_a_server_whose_address_is_another_instances_leaves_at_once() {
    let former = instance(1, &[]);
    let mut world = World::new(ObservedBackend::default(), V30);
    world.settle(std::slice::from_ref(&former));
    world.memory.cookies = true;
    world.memory.claimed.insert(former.name.clone());
    assert_eq!(
        words(&world.plan(&[]).steps),
        [
            format!("{} weight 0", former.name),
            format!("{} maint", former.name)
        ]
    );

    // A slot that another instance had is not the way in: the next free one is.
    let mut next = instance(2, &[]);
    next.address = former.address;
    let mut world = World::new(template(2), V30);
    world.settle(std::slice::from_ref(&former));
    world.memory.cookies = true;
    world.memory.tenants.insert(name("nomad1"), tenant(&former));
    world.memory.claimed.insert(name("nomad1"));
    assert_eq!(
        words(&world.plan(std::slice::from_ref(&next)).steps),
        [
            "nomad2 weight 0",
            "nomad2 drain",
            "nomad2 down",
            "nomad2 ready",
            "nomad2 addr 10.0.0.1:80",
            "nomad1 weight 0",
            "nomad1 maint"
        ]
    );
}

#[test]
fn a_slot_that_still_has_an_address_is_freed_before_clients_with_its_cookie_could_come() {
    let mut world = World::new(template(1), V30);
    world.observed.servers[0] = state("nomad1", "10.0.0.9:80", 5, 0, 14);
    world.memory.cookies = true;
    world.stat(&[]);
    let desired = [instance(1, &[])];
    assert_eq!(
        words(&world.plan(&desired).steps),
        ["nomad1 addr 127.0.0.1:1"]
    );
    // Not shown yet: it is waited for, and nothing is blocked.
    let address = crate::reconcile::removal::PLACEHOLDER;
    world
        .memory
        .sent
        .insert(name("nomad1"), (address, world.now));
    let waiting = world.plan(&desired);
    assert_eq!((waiting.steps.len(), waiting.hindrances.len()), (0, 0));
}

#[test]
fn a_registration_that_returns_while_its_server_waits_to_be_deleted_is_not_called_blocked() {
    let server = instance(1, &[]);
    for (text, blocked) in [("", 0), ("Server still has connections", 1)] {
        let mut world = World::new(ObservedBackend::default(), V30);
        let until = (Duration::from_secs(1), text.to_owned());
        world.memory.suspended.insert(server.name.clone(), until);
        let plan = world.plan(std::slice::from_ref(&server));
        assert_eq!((plan.steps.len(), plan.hindrances.len()), (0, blocked));
    }
}

#[test]
fn clients_with_a_cookie_keep_their_server_for_the_whole_drain() {
    let server = instance(1, &[]);
    let mut world = World::new(ObservedBackend::default(), V30);
    world.settle(std::slice::from_ref(&server));
    world.memory.cookies = true;
    let drain = world.plan(&[]).steps;
    world.carry_out(&drain);
    world.stat(&[]);
    assert_eq!(words(&world.plan(&[]).steps), Vec::<String>::new());
    world.now += Duration::from_secs(10);
    assert_eq!(
        words(&world.plan(&[]).steps),
        [format!("{} maint", server.name)]
    );
}

/// A slot keeps its server when tags change that only a dynamic server would have to be replaced for.
#[test]
fn a_slot_leaves_by_the_last_tags_of_its_registration() {
    let versions = [
        instance(1, &["haproxy.check.rise=3"]),
        instance(1, &["haproxy.min-ready=2"]),
    ];
    let slot = name("nomad1");
    for last in &versions {
        let mut memory = Memory::default();
        let departed = versions.iter().map(|one| (one.identity(), one.clone()));
        memory.departed.extend(departed);
        memory.tenants.insert(slot.clone(), tenant(last));
        let found = memory.departed_of(last.address, &slot, Kind::Slots);
        assert_eq!(found, Some(last));
    }
}
