//! Guards against a catalog that says that too much is gone, by what the machine sends and tells.

use super::*;
use crate::reconcile::{Guard, HoldEnd};

const MILLI: Duration = Duration::from_millis(1);
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// Eight services with two instances each, all of them UP; every service is a job.
fn eight_services(policy: Policy) -> World {
    let mut world = World::new(&NAMES);
    world.core = Reconciler::new(policy, Mode::Act, 1);
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(full()));
    world.up();
    world.wait(20 * SECOND);
    world.forget();
    world
}

fn full() -> BTreeMap<ServiceKey, Vec<Registration>> {
    NAMES
        .iter()
        .zip(0..)
        .map(|(name, number)| (service(name), of(name, number, 2)))
        .collect()
}

/// The first registration of each service.
fn half() -> BTreeMap<ServiceKey, Vec<Registration>> {
    let mut half = full();
    for registrations in half.values_mut() {
        registrations.truncate(1);
    }
    half
}

fn of(name: &str, number: u8, count: u8) -> Vec<Registration> {
    registrations(name, number * 2 + 1..number * 2 + 1 + count)
}

fn eager() -> Policy {
    Policy {
        max_removals_per_second: 1_000.try_into().unwrap(),
        ..Policy::default()
    }
}

impl World {
    /// So many instances of each of the first services are left.
    fn lose(&mut self, services: usize, left: u8) {
        for (name, number) in NAMES.iter().take(services).zip(0..) {
            self.input(Input::Changed(service(name), of(name, number, left)));
        }
    }

    fn drained(&self) -> usize {
        let drains = self.changes().into_iter();
        drains
            .filter(|command| matches!(command, Command::Drain(_)))
            .count()
    }

    fn all_ready(&self) -> usize {
        NAMES.iter().map(|name| self.ready(name)).sum()
    }

    fn guarded(&self, guard: Guard) -> usize {
        let overview = self.core.overview();
        overview.guarded.get(&guard).copied().unwrap_or_default()
    }

    fn answer_all(&mut self, answer: &Allocation) {
        for question in mem::take(&mut self.asked) {
            self.input(Input::Told(question.allocation, answer.clone()));
        }
    }

    fn tells(&self, is_it: impl Fn(&Fact) -> bool) -> usize {
        self.facts.iter().filter(|fact| is_it(fact)).count()
    }
}

// === Mass deregistration ===

#[test]
fn after_a_mass_deregistration_servers_that_are_up_serve_on_for_the_hold() {
    let mut world = eight_services(Policy::default());
    world.input(synced(half()));
    assert_eq!(world.tells(|fact| matches!(fact, Fact::MassBegan(extent) if (extent.gone, extent.of, extent.jobs) == (8, 16, 8))), 1);
    assert_eq!((world.drained(), world.guarded(Guard::Mass)), (0, 8));
    world.wait(29 * SECOND);
    assert_eq!((world.drained(), world.all_ready()), (0, 16));
    world.wait(10 * SECOND);
    assert_eq!((world.drained(), world.all_ready()), (8, 8));
    assert_eq!(
        world.tells(|fact| matches!(fact, Fact::MassEnded { gone: 8, .. })),
        1
    );
    assert!(!world.core.overview().mass);
}

#[test]
fn what_was_drained_before_so_much_was_gone_is_called_back() {
    let mut world = eight_services(eager());
    world.lose(8, 1);
    assert!(world.drained() > 0 && world.guarded(Guard::Mass) > 0);
    world.wait(SECOND);
    // What was idle is deleted at once, and nobody calls that back.
    let gone = 16
        - world
            .haproxy
            .values()
            .map(|backend| backend.servers.len())
            .sum::<usize>();
    assert_eq!(world.all_ready(), 16 - gone);
    assert!(gone < 8, "{gone}");
}

#[test]
fn the_limit_lets_little_go_before_so_much_is_gone() {
    let mut world = eight_services(Policy::default());
    world.lose(8, 1);
    world.wait(SECOND);
    assert_eq!((world.drained(), world.all_ready()), (1, 15));
}

#[test]
fn a_mass_hold_ends_with_the_return_the_check_or_the_address() {
    let mut world = eight_services(Policy::default());
    world.input(synced(half()));
    assert_eq!(world.guarded(Guard::Mass), 8);
    world.input(Input::Changed(service("a"), of("a", 0, 2)));
    let mut others = of("b", 1, 1);
    others.extend(registrations("b", 200..201));
    others[1].address = of("b", 1, 2)[1].address.clone();
    world.input(Input::Changed(service("b"), others));
    for server in &mut world
        .haproxy
        .get_mut(&BackendName::new("c").unwrap())
        .unwrap()
        .servers
    {
        server.oper = crate::model::OperState::Stopped;
    }
    world.wait(SECOND);
    assert_eq!(world.guarded(Guard::Mass), 5);
    let ends: BTreeSet<_> = world
        .facts
        .iter()
        .filter_map(|fact| {
            let Fact::HoldEnded(_, hold) = fact else {
                return None;
            };
            Some(hold.end.as_str())
        })
        .collect();
    assert_eq!(
        ends,
        BTreeSet::from(["claimed", "out_of_rotation", "returned"])
    );
}

#[test]
fn an_operator_who_drains_a_server_of_a_mass_deregistration_is_not_contradicted() {
    let mut world = eight_services(Policy::default());
    world.input(synced(half()));
    world.forget();
    let victim = &mut world
        .haproxy
        .get_mut(&BackendName::new("a").unwrap())
        .unwrap()
        .servers[1];
    victim.admin.0 |= 8;
    world.wait(10 * SECOND);
    let readied = |command: &&Command| matches!(command, Command::Ready(_));
    assert_eq!(world.changes().into_iter().filter(readied).count(), 0);
    assert_eq!(world.guarded(Guard::Mass), 7);
}

// === Limit ===

#[test]
fn servers_leave_a_few_a_second_and_those_of_one_backend_together() {
    let mut world = eight_services(Policy {
        max_removals_per_second: 2.try_into().unwrap(),
        ..Policy::default()
    });
    let told = |world: &World| {
        let limited = |fact: &Fact| matches!(fact, Fact::Limited { .. });
        world.tells(limited)
    };
    // Two services with all but one, of eight.
    world.lose(2, 1);
    assert_eq!(world.drained(), 1);
    assert_eq!(world.core.overview().waiting, 1);
    world.wait(499 * MILLI);
    assert_eq!(world.drained(), 1);
    world.wait(SECOND);
    assert_eq!((world.drained(), world.core.overview().waiting), (2, 0));
    assert_eq!(told(&world), 0, "what passes sooner is not said");

    let mut world = eight_services(Policy {
        max_removals_per_second: 1.try_into().unwrap(),
        ..Policy::default()
    });
    world.lose(5, 1);
    world.wait(2 * SECOND);
    assert!(world.drained() < 5);
    assert_eq!(told(&world), 1);
    world.wait(5 * SECOND);
    assert_eq!((world.drained(), told(&world)), (5, 2));
}

#[test]
fn a_whole_service_leaves_at_once_and_what_is_down_does_not_wait() {
    let mut world = World::new(&["web", "api"]);
    let policy = Policy {
        max_removals_per_second: 1.try_into().unwrap(),
        ..Policy::default()
    };
    world.core = Reconciler::new(policy, Mode::Act, 1);
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(catalog(&[("web", 1..11), ("api", 21..24)])));
    world.up();
    world.wait(20 * SECOND);
    world.forget();
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    assert_eq!(world.drained(), 9);
    for server in &mut world
        .haproxy
        .get_mut(&BackendName::new("api").unwrap())
        .unwrap()
        .servers
    {
        server.oper = crate::model::OperState::Stopped;
    }
    world.input(Input::Changed(service("api"), registrations("api", 21..22)));
    assert_eq!(world.drained(), 11);
}

// === Freezing ===

#[test]
fn while_removals_are_frozen_nothing_leaves_and_everything_else_goes_on() {
    let mut world = eight_services(eager());
    world.input(Input::Freeze(true));
    world.forget();
    world.lose(2, 0);
    world.input(Input::Changed(
        service("h"),
        [of("h", 7, 2), registrations("h", 99..100)].concat(),
    ));
    world.wait(61 * SECOND);
    assert_eq!((world.drained(), world.all_ready()), (0, 17));
    assert_eq!(
        world.tells(|fact| matches!(fact, Fact::Frozen { waiting: 4, .. })),
        1
    );
    assert!(world.core.overview().frozen);

    world.input(Input::Freeze(false));
    world.wait(40 * SECOND);
    assert_eq!((world.drained(), world.all_ready()), (4, 13));
    assert_eq!(
        world.tells(|fact| matches!(fact, Fact::Thawed { waiting: 4, .. })),
        1
    );
}

#[test]
fn a_removal_that_was_under_way_stops_where_it_is() {
    let mut world = eight_services(Policy {
        second_opinion: true,
        ..eager()
    });
    world.input(Input::Changed(service("a"), of("a", 0, 1)));
    assert_eq!(world.drained(), 1);
    world.input(Input::Freeze(true));
    world.wait(120 * SECOND);
    let deleted = |command: &&Command| matches!(command, Command::DeleteServer(_));
    assert_eq!(world.changes().into_iter().filter(deleted).count(), 0);
    assert_eq!(world.core.overview().waiting, 1);
    world.input(Input::Freeze(false));
    world.wait(5 * SECOND);
    assert_eq!(world.changes().into_iter().filter(deleted).count(), 1);
}

// === Second opinion ===

fn curious() -> World {
    eight_services(Policy {
        second_opinion: true,
        ..eager()
    })
}

#[test]
fn an_instance_whose_allocation_runs_without_a_registration_is_taken_back_for_five_minutes() {
    let mut world = curious();
    world.input(Input::Changed(service("a"), of("a", 0, 1)));
    // The question delays nothing.
    assert_eq!((world.drained(), world.asked.len()), (1, 1));
    assert!(world.asked[0].urgent);
    world.wait(SECOND);
    world.answer_all(&Allocation::Running);
    assert_eq!((world.ready("a"), world.guarded(Guard::Alive)), (2, 1));
    world.up();
    world.wait(298 * SECOND);
    // As the model has it, the check has to pass again.
    assert_eq!((world.drained(), world.ready("a")), (2, 2));
    world.wait(10 * SECOND);
    assert_eq!((world.drained(), world.ready("a")), (3, 1));
    world.wait(600 * SECOND);
    assert_eq!(world.ready("a"), 1);
}

#[test]
fn what_runs_is_kept_or_called_back_although_it_was_kept_for_another_reason_before() {
    let mut world = eight_services(Policy {
        second_opinion: true,
        max_removals_per_second: 1.try_into().unwrap(),
        ..eager()
    });
    world.input(Input::Freeze(true));
    world.lose(2, 1);
    world.wait(990 * MILLI);
    assert_eq!((world.drained(), world.guarded(Guard::Frozen)), (0, 2));
    // One goes at once, the other has to wait for its turn.
    world.input(Input::Freeze(false));
    assert_eq!((world.drained(), world.guarded(Guard::Frozen)), (1, 0));
    world.wait(10 * MILLI);
    world.answer_all(&Allocation::Running);
    assert_eq!((world.all_ready(), world.guarded(Guard::Alive)), (16, 2));
}

#[test]
fn an_answer_is_waited_for_though_the_drain_is_over() {
    let mut world = eight_services(Policy {
        second_opinion: true,
        drain_timeout: Duration::ZERO,
        ..eager()
    });
    world.input(Input::Changed(service("a"), of("a", 0, 1)));
    world.wait(2 * SECOND);
    world.answer_all(&Allocation::Running);
    assert_eq!((world.ready("a"), world.guarded(Guard::Alive)), (2, 1));
}

#[test]
fn an_answer_counts_although_nobody_answers_another_question() {
    let mut world = curious();
    world.input(Input::Changed(service("a"), of("a", 0, 1)));
    world.wait(SECOND);
    let allocation = world.asked[0].allocation.clone();
    world.answer_all(&Allocation::Running);
    world.input(Input::Told(allocation, Allocation::Unknown));
    world.wait(SECOND);
    assert_eq!((world.ready("a"), world.guarded(Guard::Alive)), (2, 1));
}

#[test]
fn any_other_answer_or_none_changes_nothing() {
    for answer in [
        None,
        Some(Allocation::Unknown),
        Some(Allocation::Stopping),
        Some(Allocation::Ended("complete".into())),
    ] {
        let mut world = curious();
        world.input(Input::Changed(service("a"), of("a", 0, 1)));
        world.wait(SECOND);
        if let Some(answer) = &answer {
            world.answer_all(answer);
        }
        world.wait(3 * SECOND);
        let deleted = |command: &&Command| matches!(command, Command::DeleteServer(_));
        assert_eq!(
            world.changes().into_iter().filter(deleted).count(),
            1,
            "{answer:?}"
        );
        assert_eq!(world.guarded(Guard::Alive), 0);
    }
}

#[test]
fn an_allocation_that_was_told_to_stop_is_no_victim_of_a_mass_deregistration() {
    for (answer, drained) in [
        (Allocation::Stopping, 8),
        (Allocation::Ended("lost".into()), 0),
    ] {
        let mut world = curious();
        world.input(synced(half()));
        assert_eq!(world.guarded(Guard::Mass), 8);
        world.wait(SECOND);
        world.answer_all(&answer);
        world.wait(SECOND);
        assert_eq!(world.drained(), drained, "{answer:?}");
    }
}

#[test]
fn a_registration_whose_allocation_has_ended_is_not_served_unless_it_is_up() {
    let mut world = curious();
    world.checks_fail = true;
    world.input(Input::Changed(
        service("a"),
        [of("a", 0, 2), registrations("a", 99..100)].concat(),
    ));
    assert_eq!(world.asked.len(), 1);
    world.answer_all(&Allocation::Ended("failed".into()));
    world.wait(5 * SECOND);
    assert_eq!(world.ready("a"), 2);
    let text = world.facts.iter().find_map(|fact| {
        let Fact::Rejected(_, rejection) = fact else {
            return None;
        };
        Some(rejection.reason.to_string())
    });
    assert_eq!(
        text.as_deref(),
        Some(
            "its allocation has ended (ClientStatus \"failed\"), and it is not UP: if the registration stays, delete it with `nomad \
             service delete`"
        )
    );
    assert_eq!(world.core.overview().rejected, 1);
    // It is asked for once.
    world.wait(300 * SECOND);
    assert_eq!(world.asked, []);

    // What passes its checks is served, whatever is said of its allocation.
    let of_b = AllocationId {
        namespace: "default".into(),
        id: of("b", 1, 1)[0].alloc_id.clone(),
    };
    world.input(Input::Told(of_b, Allocation::Ended("failed".into())));
    world.wait(5 * SECOND);
    assert_eq!(world.ready("b"), 2);
}

#[test]
fn after_the_first_sync_only_those_that_stay_down_are_asked_for() {
    let mut world = curious();
    assert_eq!(world.asked, []);
    for server in &mut world
        .haproxy
        .get_mut(&BackendName::new("c").unwrap())
        .unwrap()
        .servers
    {
        server.oper = crate::model::OperState::Stopped;
        server.since_change = 11;
    }
    world.wait(31 * SECOND);
    let ids: Vec<_> = world
        .asked
        .iter()
        .map(|question| &*question.allocation.id)
        .collect();
    assert_eq!(
        ids,
        [
            "00000005-0000-0000-0000-000000000000",
            "00000006-0000-0000-0000-000000000000"
        ]
    );
}

#[test]
fn a_hold_of_a_last_server_is_prolonged_while_its_allocation_runs() {
    let mut world = curious();
    world.input(Input::Changed(service("a"), Vec::new()));
    world.wait(SECOND);
    world.answer_all(&Allocation::Running);
    world.wait(100 * SECOND);
    assert_eq!((world.ready("a"), world.guarded(Guard::Alive)), (2, 2));
    world.input(Input::Changed(service("a"), of("a", 0, 2)));
    world.wait(SECOND);
    let returned =
        |fact: &Fact| matches!(fact, Fact::HoldEnded(_, hold) if hold.end == HoldEnd::Returned);
    assert_eq!((world.drained(), world.tells(returned)), (0, 2));
}
