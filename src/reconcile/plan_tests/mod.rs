//! The planner's tables and laws: after a plan was applied there is nothing left to do; a sidecar that dies between any
//! two commands is continued by its successor; what is somebody else's is not touched.

mod agents;
mod hands;
mod laws;
mod replacing;

use std::time::Duration;

use super::{
    Policy, Removals,
    desired::{DesiredServer, contribution},
    hands::Hand,
    plan::{Memory, ObservedBackend, Obstacle, Plan, Situation, Step, Why, plan},
    predict::{all_quiet, apply, until_settled},
};
use crate::model::{
    AdminState, BackendName, BackendStat, CheckState, Command, OperState, Registration, ServerName,
    ServerState, ServiceKey, StatRow, Version,
};

const V26: Version = Version::new(2, 6, 12);
const V30: Version = Version::new(3, 0, 11);
const V34: Version = Version::new(3, 4, 7);

fn web() -> BackendName {
    BackendName::new("web").unwrap()
}

fn name(name: &str) -> ServerName {
    ServerName::new(name).unwrap()
}

/// Instance `number` of the service `web`, at 10.0.0.<number>:80.
pub(super) fn instance(number: u8, tags: &[&str]) -> DesiredServer {
    let registration = Registration {
        id: format!("_nomad-task-{number:08x}-group-web-web-http").into(),
        service: ServiceKey::new("default", "web"),
        alloc_id: format!("{number:08x}-0000-0000-0000-000000000000").into(),
        job_id: "web".into(),
        tags: [&["haproxy.enable=true"], tags]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        address: format!("10.0.0.{number}"),
        port: 80,
        create_index: u64::from(number),
        modify_index: u64::from(number),
    };
    let service = registration.service.clone();
    let found = contribution(
        &service,
        &[registration],
        &std::collections::BTreeSet::from([web()]).into(),
        &Policy::default(),
    );
    found.servers.into_values().flatten().next().unwrap()
}

fn state(server: &str, address: &str, admin: u8, weight: u16, check: u8) -> ServerState {
    let (ip, port) = address.rsplit_once(':').unwrap();
    ServerState {
        name: Some(name(server)),
        ip: Some(ip.parse().unwrap()),
        port: port.parse().unwrap(),
        oper: if admin & 1 == 0 {
            OperState::Running
        } else {
            OperState::Stopped
        },
        admin: AdminState(admin),
        weight,
        initial_weight: 1,
        since_change: 0,
        check_health: 4,
        check: CheckState(check),
        agent: CheckState(0),
        line: None,
    }
}

pub(super) fn template(slots: u8) -> ObservedBackend {
    let servers = (1..=slots)
        .map(|number| state(&format!("nomad{number}"), "127.0.0.1:1", 5, 1, 14))
        .collect();
    ObservedBackend {
        id: Some(3),
        servers,
        ..ObservedBackend::default()
    }
}

struct World {
    observed: ObservedBackend,
    memory: Memory,
    version: Version,
    policy: Policy,
    now: Duration,
}

impl World {
    fn new(observed: ObservedBackend, version: Version) -> Self {
        let mut world = Self {
            observed,
            memory: Memory::default(),
            version,
            policy: Policy::default(),
            now: Duration::ZERO,
        };
        world.look();
        world
    }

    fn look(&mut self) {
        self.memory.observe(self.now, &self.observed);
    }

    /// HAProxy tells the session counters: these, and for all other servers that they are quiet.
    fn stat(&mut self, rows: &[(&str, u64)]) {
        let mut stat = all_quiet(&self.observed);
        for &(server, sessions) in rows {
            let row = StatRow {
                sessions,
                total_sessions: sessions,
                ..StatRow::default()
            };
            stat.servers.insert(name(server), row);
        }
        self.observed.stat = Some(stat);
    }

    fn plan(&self, desired: &[DesiredServer]) -> Plan {
        plan(&desired.iter().collect::<Vec<_>>(), &self.situation(&web()))
    }

    fn situation<'a>(&'a self, backend: &'a BackendName) -> Situation<'a> {
        Situation {
            backend,
            observed: &self.observed,
            memory: &self.memory,
            version: self.version,
            policy: &self.policy,
            now: self.now,
            removals: Removals::Allowed,
        }
    }

    fn settle(&mut self, desired: &[DesiredServer]) -> Vec<Step> {
        let desired: Vec<_> = desired.iter().collect();
        let steps = until_settled(&desired, &self.situation(&web()));
        self.carry_out(&steps);
        steps
    }

    /// The steps are sent and carried out, and what follows is read.
    fn carry_out(&mut self, steps: &[Step]) {
        for step in steps {
            self.memory.send(self.now, &step.command);
            apply(&mut self.observed, &step.command);
        }
        self.memory.sent.clear();
        self.observed.stat = None;
        self.look();
    }
}

fn words(steps: &[Step]) -> Vec<String> {
    let word = |step: &Step| {
        let server = step.command.server().map_or("", |to| to.server.as_str());
        match &step.command {
            Command::SetAddress(_, address) => format!("{server} addr {address}"),
            Command::Ready(_) => format!("{server} ready"),
            Command::Drain(_) => format!("{server} drain"),
            Command::Maintenance(_) => format!("{server} maint"),
            Command::HealthDown(_) => format!("{server} down"),
            Command::EnableHealth(_) => format!("{server} check"),
            Command::EnableAgent(_) => format!("{server} agent"),
            Command::DisableAgent(_) => format!("{server} no agent"),
            Command::SetWeight(_, weight) => format!("{server} weight {weight}"),
            Command::SetMaxconn(_, maxconn) => format!("{server} maxconn {maxconn}"),
            Command::AddServer(_, address, _) => format!("{server} add {address}"),
            Command::DeleteServer(_) => format!("{server} del"),
            Command::ShutdownSessions(_) => format!("{server} shutdown"),
            Command::AddBackend(_, profile) => format!("make from {profile}"),
            Command::PublishBackend(_) => "publish".to_owned(),
            Command::UnpublishBackend(_) => "unpublish".to_owned(),
            Command::DeleteBackend(_) => "remove".to_owned(),
        }
    };
    steps.iter().map(word).collect()
}

fn by_hand(plan: &Plan) -> Vec<(ServerName, Hand, bool)> {
    let left = plan.by_hand.iter();
    left.map(|left| (left.server.clone(), left.hand, left.is_outdated))
        .collect()
}

/// The address that it shows may be the last but one.
#[test]
fn a_slot_whose_address_was_sent_when_the_connection_broke_is_waited_for() {
    let mut world = World::new(template(2), V34);
    let desired = [instance(1, &[]), instance(2, &[])];
    let steps = world.plan(&desired).steps;
    for step in &steps {
        world.memory.send(world.now, &step.command);
    }
    let first = steps.iter().filter(|step| match step.command.server() {
        Some(server) => server.server == name("nomad1"),
        None => false,
    });
    first.for_each(|step| apply(&mut world.observed, &step.command));
    world.memory.disconnect(world.now);
    world.look();
    let waiting = world.plan(&desired);
    assert_eq!(words(&waiting.steps), [""; 0]);
    assert!(waiting.look_again <= Some(Duration::from_millis(50)));
    world.now += Duration::from_millis(201);
    world.look();
    assert_eq!(
        words(&world.plan(&desired).steps)[..2],
        ["nomad1 drain", "nomad1 down"]
    );
}

#[test]
fn a_slot_gets_its_address_first_and_the_rest_after_it_was_read_back() {
    let mut world = World::new(template(2), V34);
    let desired = [instance(1, &["haproxy.weight=7"])];
    let first = world.plan(&desired);
    assert_eq!(
        words(&first.steps),
        ["nomad1 weight 0", "nomad1 addr 10.0.0.1:80"]
    );

    // Acknowledged, but not to be seen yet: nothing more is sent, it is read again at once.
    world
        .memory
        .sent
        .insert(name("nomad1"), (desired[0].address, Duration::ZERO));
    apply(&mut world.observed, &first.steps[0].command);
    let waiting = world.plan(&desired);
    assert_eq!(
        (waiting.steps.len(), waiting.look_again),
        (0, Some(Duration::ZERO))
    );
    world.now = Duration::from_millis(150);
    assert_eq!(
        words(&world.plan(&desired).steps),
        ["nomad1 addr 10.0.0.1:80"]
    );

    apply(&mut world.observed, &first.steps[1].command);
    world.look();
    let second = world.plan(&desired);
    assert_eq!(
        words(&second.steps),
        [
            "nomad1 drain",
            "nomad1 down",
            "nomad1 ready",
            "nomad1 weight 7"
        ]
    );
}

#[test]
fn a_new_dynamic_server_is_down_until_its_own_checks_passed() {
    let server = instance(1, &[]);
    let name = &server.name;
    let mut world = World::new(ObservedBackend::default(), V34);
    assert!(world.plan(std::slice::from_ref(&server)).wants_stat);
    world.stat(&[]);
    let new = world.plan(std::slice::from_ref(&server));
    assert_eq!(
        words(&new.steps),
        [
            format!("{name} add 10.0.0.1:80"),
            format!("{name} ready"),
            format!("{name} check")
        ]
    );
    let old = World::new(ObservedBackend::default(), V30).plan(std::slice::from_ref(&server));
    let verbs: Vec<_> = words(&old.steps)
        .iter()
        .map(|word| word.split(' ').nth(1).unwrap().to_owned())
        .collect();
    assert_eq!(verbs, ["add", "drain", "down", "ready", "check"]);
}

#[test]
fn a_service_without_a_check_is_ready_at_once_and_never_forced_down() {
    let server = instance(1, &["haproxy.check.disabled"]);
    for version in [V26, V34] {
        let steps =
            World::new(ObservedBackend::default(), version).settle(std::slice::from_ref(&server));
        assert!(steps.iter().all(|step| !matches!(
            step.command,
            Command::HealthDown(_) | Command::EnableHealth(_)
        )));
        assert!(matches!(steps.last().unwrap().command, Command::Ready(_)));
    }
}

#[test]
fn what_was_in_rotation_before_a_restart_is_put_back_up_at_once() {
    let server = instance(1, &[]);
    for observed in [ObservedBackend::default(), template(1)] {
        let mut world = World::new(observed, V34);
        world
            .memory
            .put_back
            .insert((server.registration.clone(), server.address));
        let steps = world.settle(std::slice::from_ref(&server));
        assert!(
            steps
                .iter()
                .all(|step| !matches!(step.command, Command::HealthDown(_))),
            "{:?}",
            words(&steps)
        );
        assert!(steps.iter().any(|step| step.why == Why::PutBack));
    }
}

#[test]
fn a_server_that_nobody_wants_drains_and_goes_when_it_is_idle() {
    let server = instance(1, &[]);
    let mut world = World::new(ObservedBackend::default(), V30);
    world.settle(std::slice::from_ref(&server));
    let id = server.name.as_str();

    let drain = world.plan(&[]).steps;
    assert_eq!(
        words(&drain),
        [format!("{id} weight 0"), format!("{id} drain")]
    );
    world.carry_out(&drain);
    assert!(world.plan(&[]).wants_stat);

    world.stat(&[(id, 1)]);
    let busy = world.plan(&[]);
    assert_eq!(
        (busy.steps.len(), busy.look_again),
        (0, Some(Duration::from_millis(100)))
    );

    world.stat(&[(id, 0)]);
    let maintenance = world.plan(&[]);
    assert_eq!(words(&maintenance.steps), [format!("{id} maint")]);
    assert!(maintenance.wants_stat);
    // A client with the server's cookie could have come before the last of these.
    let mut afterwards = World::new(world.observed.clone(), V30);
    for step in &maintenance.steps {
        apply(&mut afterwards.observed, &step.command);
    }
    afterwards.stat(&[(id, 1)]);
    assert_eq!(words(&afterwards.plan(&[]).steps), Vec::<String>::new());
    afterwards.stat(&[(id, 0)]);
    assert_eq!(words(&afterwards.plan(&[]).steps), [format!("{id} del")]);
    afterwards.version = V26;
    assert_eq!(
        words(&afterwards.plan(&[]).steps),
        [format!("{id} addr 127.0.0.1:1"), format!("{id} del")]
    );

    world.stat(&[(id, 1)]);
    world.now = Duration::from_secs(10);
    let over = world.plan(&[]);
    assert_eq!(words(&over.steps), [format!("{id} maint")]);
    assert!(over.steps.iter().all(|step| step.why == Why::Deadline));
}

#[test]
fn a_registration_that_comes_back_during_its_drain_is_ready_again_without_new_checks() {
    for observed in [ObservedBackend::default(), template(1)] {
        let desired = [instance(1, &[])];
        let mut world = World::new(observed, V30);
        world.settle(&desired);
        for server in &mut world.observed.servers {
            (server.oper, server.check_health) = (OperState::Running, 4);
        }
        let drain = world.plan(&[]).steps;
        world.carry_out(&drain);
        // A sidecar that has just started sees by HAProxy's counters that its checks have passed.
        let mut successor = World::new(world.observed.clone(), V30);
        successor.stat(&[]);
        let name = successor.observed.servers[0].name.clone().unwrap();
        let stat = successor.observed.stat.as_mut().unwrap();
        stat.servers.get_mut(&name).unwrap().rise = Some(2);
        for world in [&world, &successor] {
            let back = world.plan(&desired).steps;
            assert_eq!(
                words(&back),
                [format!("{name} ready"), format!("{name} weight 1")]
            );
            assert!(back.iter().all(|step| step.why == Why::Returned));
        }
        successor.observed.servers[0].check_health = 2;
        let unchecked = successor.plan(&desired).steps;
        assert!(
            words(&unchecked).contains(&format!("{name} down")),
            "{:?}",
            words(&unchecked)
        );
    }
}

#[test]
fn a_slot_is_used_again_only_when_its_former_owner_left_nothing_on_it() {
    let mut world = World::new(template(1), V26);
    world.settle(&[instance(1, &[])]);
    world.settle(&[]);
    assert_eq!(world.observed.servers[0].weight, 0);
    assert!(world.plan(&[instance(2, &[])]).wants_stat);

    world.stat(&[]);
    let idle = StatRow {
        idle: 1,
        ..StatRow::default()
    };
    world
        .observed
        .stat
        .as_mut()
        .unwrap()
        .servers
        .insert(name("nomad1"), idle);
    let blocked = world.plan(&[instance(2, &[])]);
    assert!(blocked.steps.is_empty());
    assert_eq!(
        blocked.hindrances.first().unwrap().obstacle.to_string(),
        "no free slot: raise the number in the backend's server-template line, and reload HAProxy"
    );

    world.stat(&[]);
    assert_eq!(
        words(&world.plan(&[instance(2, &[])]).steps),
        ["nomad1 addr 10.0.0.2:80"]
    );
}

#[test]
fn an_operators_maintenance_is_respected_and_ends_with_the_registration() {
    for observed in [ObservedBackend::default(), template(1)] {
        let desired = [instance(1, &[])];
        let mut world = World::new(observed, V34);
        world.settle(&desired);
        let server = world.observed.servers[0].name.clone().unwrap();
        let target = crate::model::ServerRef {
            backend: web(),
            server: server.clone(),
        };
        apply(&mut world.observed, &Command::Maintenance(target));
        let mut successor = World::new(world.observed.clone(), V34);
        for world in [&mut world, &mut successor] {
            let plan = world.plan(&desired);
            assert!(plan.steps.is_empty(), "{:?}", words(&plan.steps));
            assert_eq!(by_hand(&plan), [(server.clone(), Hand::Maintenance, false)]);
        }
        world.settle(&[]);
        assert!(world.plan(&[]).steps.is_empty());
        world.settle(&[instance(2, &[])]);
        assert!(
            world
                .observed
                .servers
                .iter()
                .any(|server| server.admin.is_ready())
        );
    }
}

#[test]
fn an_operators_maintenance_of_a_server_without_check_is_told_by_its_sessions() {
    let desired = [instance(1, &["haproxy.check.disabled"])];
    let id = desired[0].name.as_str();
    let mut world = World::new(
        ObservedBackend {
            id: Some(3),
            servers: vec![state(id, "10.0.0.1:80", 1, 1, 0)],
            ..ObservedBackend::default()
        },
        V34,
    );
    assert!(world.plan(&desired).wants_stat);
    world.stat(&[(id, 0)]);
    assert!(!world.plan(&desired).steps.is_empty());
    world.stat(&[(id, 3)]);
    assert_eq!(world.plan(&desired).by_hand.len(), 1);
}

#[test]
fn servers_of_others_are_not_touched() {
    let foreign = vec![
        state("nomad1", "10.0.0.1:80", 0, 1, 6),
        state("web1", "10.0.0.2:80", 0, 1, 6),
        state("old", "10.0.0.3:80", 1, 1, 14),
        state("spare", "10.0.0.4:80", 5, 1, 14),
    ];
    let mut world = World::new(
        ObservedBackend {
            id: Some(3),
            servers: foreign.clone(),
            ..ObservedBackend::default()
        },
        V34,
    );
    world.settle(&[instance(1, &[])]);
    assert_eq!(world.observed.servers[..4], foreign);
    world.settle(&[]);
    assert_eq!(world.observed.servers, foreign);
}

#[test]
fn a_template_that_is_too_small_is_said_and_fills_what_it_can() {
    let world = World::new(template(1), V34);
    let plan = world.plan(&[instance(1, &[]), instance(2, &[])]);
    assert_eq!(plan.steps.len(), 2);
    assert_eq!(
        plan.hindrances.first().unwrap().obstacle,
        Obstacle::NoFreeSlot
    );
}

#[test]
fn nothing_is_added_to_a_disabled_backend_where_that_kills_haproxy() {
    let mut world = World::new(ObservedBackend::default(), V34);
    world.observed.stat = Some(BackendStat::default());
    let plan = world.plan(&[instance(1, &[])]);
    assert!(plan.steps.is_empty());
    assert_eq!(
        plan.hindrances.first().unwrap().obstacle.to_string(),
        "the backend is disabled: take `disabled` out of it in haproxy.cfg"
    );
}

#[test]
fn below_2_6_a_backend_without_slots_is_said_to_need_them() {
    let world = World::new(ObservedBackend::default(), Version::new(2, 4, 30));
    assert_eq!(
        world
            .plan(&[instance(1, &[])])
            .hindrances
            .first()
            .unwrap()
            .obstacle
            .to_string(),
        "HAProxy 2.4.30 cannot add servers: declare slots with `server-template nomad 1-32 slot.invalid:1 disabled \
         init-addr last,127.0.0.1`"
    );
}

#[test]
fn a_weight_is_changed_in_place_but_not_where_the_balance_method_takes_none() {
    let mut world = World::new(template(1), V34);
    world.settle(&[instance(1, &[])]);
    let heavier = [instance(1, &["haproxy.weight=9"])];
    assert_eq!(words(&world.plan(&heavier).steps), ["nomad1 weight 9"]);
    world.memory.static_weights = true;
    let plan = world.plan(&heavier);
    assert!(plan.steps.is_empty());
    assert_eq!(
        plan.notes.first().unwrap().reason.to_string(),
        "tag weight (the balance method takes none) has no effect in a backend of server-template slots: the template \
         line decides"
    );
}

#[test]
fn a_changed_tag_brings_the_successor_in_before_the_elder_drains() {
    let mut world = World::new(ObservedBackend::default(), V34);
    world.settle(&[instance(1, &[])]);
    world.observed.servers[0].oper = OperState::Running;
    let changed = [instance(1, &["haproxy.backup"])];
    let plan = world.plan(&changed);
    assert!(
        plan.steps
            .iter()
            .all(|step| step.command.server().unwrap().server == changed[0].name),
        "{:?}",
        words(&plan.steps)
    );
}
