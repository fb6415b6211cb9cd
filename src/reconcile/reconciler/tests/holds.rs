//! Make before break, by what the machine sends and tells.

use super::*;
use crate::reconcile::HoldEnd;

impl World {
    /// One instance of `web` is in rotation, and then its registration is gone.
    fn with_a_held_server(tags: &[&str]) -> Self {
        let mut world = Self::started(&["web", "api"]);
        world.input(Input::Changed(service("web"), tagged(1, tags)));
        world.up();
        world.wait(SECOND);
        world.checks_fail = true;
        world.forget();
        world.input(Input::Changed(service("web"), Vec::new()));
        world
    }

    fn ends(&self) -> Vec<HoldEnd> {
        let mut ends = Vec::new();
        for fact in &self.facts {
            if let Fact::HoldEnded(_, hold) = fact {
                ends.push(hold.end.clone());
            }
        }
        ends
    }

    fn drains(&self) -> usize {
        let drains = self.changes().into_iter();
        drains
            .filter(|command| {
                matches!(command, Command::Drain(server) if server.server.as_str().starts_with("nomad-00000001-"))
            })
            .count()
    }
}

fn tagged(number: u8, tags: &[&str]) -> Vec<Registration> {
    let mut registrations = registrations("web", number..number + 1);
    for registration in &mut registrations {
        registration
            .tags
            .extend(tags.iter().map(|&tag| tag.to_owned()));
    }
    registrations
}

#[test]
fn the_last_server_of_a_service_is_held_until_its_replacement_is_up() {
    let mut world = World::with_a_held_server(&[]);
    let Some(Fact::Held(_, hold)) = world
        .facts
        .iter()
        .find(|fact| matches!(fact, Fact::Held(..)))
    else {
        panic!("{:?}", world.facts);
    };
    assert_eq!((hold.up, hold.min_ready, hold.at_most), (0, 1, 30 * SECOND));
    world.wait(5 * SECOND);
    world.input(Input::Changed(service("web"), tagged(2, &[])));
    world.wait(5 * SECOND);
    assert_eq!((world.drains(), world.ready("web")), (0, 2));
    assert_eq!(world.core.overview().held, 1);
    world.checks_fail = false;
    world.up();
    world.wait(SECOND);
    assert_eq!(world.ends(), [HoldEnd::Replaced(1)]);
    assert_eq!((world.drains(), world.ready("web")), (1, 1));
    assert_eq!(world.core.overview().held, 0);
}

#[test]
fn a_hold_ends_when_its_time_is_over_and_does_not_begin_again() {
    for (tags, seconds) in [(&[][..], 30), (&["haproxy.hold=5s"], 5)] {
        let mut world = World::with_a_held_server(tags);
        world.wait((seconds - 1) * SECOND);
        assert_eq!(world.drains(), 0);
        world.wait(60 * SECOND);
        assert_eq!((world.ends(), world.drains()), (vec![HoldEnd::Over], 1));
    }
    assert_eq!(World::with_a_held_server(&["haproxy.hold=0s"]).drains(), 1);
    assert_eq!(
        World::with_a_held_server(&["haproxy.min-ready=0"]).drains(),
        1
    );
}

#[test]
fn the_last_tags_say_how_a_server_leaves_even_if_nothing_followed_from_them() {
    let mut world = World::started(&["web"]);
    let changed = |tags: &[&str]| Input::Changed(service("web"), tagged(1, tags));
    world.input(changed(&["haproxy.hold=5s"]));
    world.up();
    world.wait(SECOND);
    world.checks_fail = true;
    // All of it before an answer comes to what the first one asks for.
    world
        .core
        .handle(world.now, changed(&["haproxy.hold=5s", "haproxy.weight=7"]));
    world.core.handle(world.now, changed(&["haproxy.hold=20s"]));
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(SECOND);
    let held = world.facts.iter().find_map(|fact| {
        let Fact::Held(_, hold) = fact else {
            return None;
        };
        Some(hold.at_most)
    });
    assert_eq!(held, Some(20 * SECOND));
}

#[test]
fn a_held_server_that_goes_down_is_drained() {
    let mut world = World::with_a_held_server(&[]);
    for server in world
        .haproxy
        .values_mut()
        .flat_map(|backend| &mut backend.servers)
    {
        server.oper = crate::model::OperState::Stopped;
    }
    world.wait(SECOND);
    assert_eq!(
        (world.ends(), world.drains()),
        (vec![HoldEnd::OutOfRotation], 1)
    );
}

#[test]
fn a_hold_ends_at_once_when_another_registration_claims_the_address() {
    for (service_name, other) in [
        ("web", "_nomad-task-00000009-group-web"),
        ("api", "_nomad-task-00000009-group-api"),
    ] {
        let mut world = World::with_a_held_server(&[]);
        let mut claiming = registrations(service_name, 9..10);
        claiming[0].address = "10.0.0.1".to_owned();
        world.input(Input::Changed(service(service_name), claiming));
        world.wait(SECOND);
        assert_eq!(
            world.ends(),
            [HoldEnd::Claimed(other.into())],
            "{service_name}"
        );
        assert_eq!(world.drains(), 1);
    }
}

#[test]
fn a_canary_does_not_replace_what_is_stable_until_it_is_promoted() {
    let mut world = World::with_a_held_server(&[]);
    world.checks_fail = false;
    world.input(Input::Changed(
        service("web"),
        tagged(2, &["haproxy.canary=true"]),
    ));
    world.wait(5 * SECOND);
    assert_eq!((world.drains(), world.ready("web")), (0, 2));
    world.forget();
    world.input(Input::Changed(service("web"), tagged(2, &[])));
    world.wait(SECOND);
    assert_eq!(world.ends(), [HoldEnd::Replaced(1)]);
    // The promotion itself changed nothing.
    assert!(world.changes().iter().all(|command| {
        command
            .server()
            .unwrap()
            .server
            .as_str()
            .starts_with("nomad-00000001-")
    }));
}

#[test]
fn as_many_servers_as_the_tags_ask_for_replace_one_that_is_gone() {
    let mut world = World::with_a_held_server(&["haproxy.min-ready=2"]);
    world.checks_fail = false;
    world.input(Input::Changed(service("web"), tagged(2, &[])));
    world.wait(SECOND);
    assert_eq!(world.drains(), 0);
    world.input(Input::Changed(service("web"), registrations("web", 2..4)));
    world.wait(SECOND);
    assert_eq!(
        (world.ends(), world.drains()),
        (vec![HoldEnd::Replaced(2)], 1)
    );
}

#[test]
fn while_others_are_up_a_server_whose_registration_is_gone_drains_at_once() {
    let mut world = World::started(&["web"]);
    world.input(Input::Changed(service("web"), registrations("web", 1..4)));
    world.up();
    world.wait(SECOND);
    world.forget();
    world.input(Input::Changed(service("web"), registrations("web", 2..4)));
    assert_eq!((world.drains(), world.ends().len()), (1, 0));
}

#[test]
fn a_held_server_is_put_back_after_haproxy_was_restarted_and_its_time_goes_on() {
    let mut world = World::with_a_held_server(&[]);
    world.checks_fail = false;
    world.wait(10 * SECOND);
    world.input(Input::Disconnected);
    for backend in world.haproxy.values_mut() {
        backend.servers.clear();
    }
    world.info.pid = 2;
    world.forget();
    world.wait(SECOND);
    world.input(Input::Connected(world.info.clone()));
    world.wait(5 * SECOND);
    assert_eq!((world.ready("web"), world.drains()), (1, 0), "put back");
    assert!(
        world
            .changes()
            .iter()
            .all(|command| !matches!(command, Command::HealthDown(_)))
    );
    world.forget();
    world.wait(20 * SECOND);
    assert_eq!((world.ends(), world.drains()), (vec![HoldEnd::Over], 1));
}

#[test]
fn a_sidecar_that_has_just_started_holds_what_it_finds_in_rotation() {
    let former = World::with_a_held_server(&[]);
    let mut world = World::new(&[]);
    world.haproxy = former.haproxy;
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(BTreeMap::new()));
    // Nothing of it is in the catalog: it is read, and proven gone.
    assert!(world.proven.contains(&service("web")));
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(29 * SECOND);
    assert_eq!(world.drains(), 0);
    world.wait(2 * SECOND);
    assert_eq!((world.ends(), world.drains()), (vec![HoldEnd::Over], 1));
}

#[test]
fn a_server_whose_registration_came_back_is_held_again_the_next_time() {
    let mut world = World::with_a_held_server(&[]);
    world.input(Input::Changed(service("web"), tagged(1, &[])));
    assert_eq!((world.ends(), world.drains()), (vec![HoldEnd::Returned], 0));
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(SECOND);
    assert_eq!((world.core.overview().held, world.drains()), (1, 0));
}

#[test]
fn another_service_of_the_same_task_claims_nothing() {
    let mut world = World::with_a_held_server(&[]);
    // Nomad deregisters the services of a group one after the other.
    let mut other = registrations("api", 1..2);
    other[0].address = "10.0.0.1".to_owned();
    world.input(Input::Changed(service("api"), other));
    world.wait(SECOND);
    assert_eq!((world.core.overview().held, world.drains()), (1, 0));
}

#[test]
fn a_server_that_came_up_after_it_was_read_is_seen_before_it_is_taken_out() {
    let mut world = World::new(&["web"]);
    let slot = |name: &str, ip: &str, port, admin, check| ServerState {
        name: Some(crate::model::ServerName::new(name).unwrap()),
        ip: Some(ip.parse().unwrap()),
        port,
        oper: crate::model::OperState::Stopped,
        admin: crate::model::AdminState(admin),
        weight: 1,
        initial_weight: 1,
        since_change: 0,
        check_health: 0,
        check: crate::model::CheckState(check),
        agent: crate::model::CheckState(0),
        line: None,
    };
    let web = BackendName::new("web").unwrap();
    world.haproxy.get_mut(&web).unwrap().servers = vec![
        slot("nomad1", "10.0.0.1", 80, 4, 6),
        slot("nomad2", "127.0.0.1", 1, 5, 14),
    ];
    world.input(Input::Connected(world.info.clone()));
    world.haproxy.get_mut(&web).unwrap().servers[0].oper = crate::model::OperState::Running;
    world.wait(SECOND / 2);
    world.input(synced(catalog(&[("web", 1..1)])));
    world.wait(SECOND);
    assert_eq!(world.core.overview().held, 1);
    assert_eq!(world.changes(), Vec::<&Command>::new());
}

#[test]
fn a_service_that_moves_to_another_backend_leaves_the_first_when_it_is_up_in_the_other() {
    let mut world = World::started(&["web", "other"]);
    world.input(synced(catalog(&[("web", 1..2)])));
    world.up();
    let mut moved = registrations("web", 1..2);
    moved[0].tags.push("haproxy.backend.name=other".to_owned());
    world.checks_fail = true;
    world.input(Input::Changed(service("web"), moved));
    world.wait(SECOND);
    assert_eq!((world.ready("web"), world.ready("other")), (1, 1));
    world.up();
    world.wait(5 * SECOND);
    assert_eq!((world.ready("web"), world.ready("other")), (0, 1));
}
