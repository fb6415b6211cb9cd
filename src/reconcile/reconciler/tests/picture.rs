//! What the core shows of itself.

use super::*;
use crate::picture::{By, Charge, HoldBy, Picture, RouteState, Stage};

impl World {
    fn picture(&self) -> Picture {
        self.core.picture(self.now)
    }

    /// The stages of the servers of the only backend.
    fn stages(&self) -> Vec<Stage> {
        let picture = self.picture();
        let servers = &picture.backends[0].servers;
        servers.iter().map(|server| server.stage).collect()
    }
}

#[test]
fn a_registration_is_shown_with_its_place_and_how_far_it_is() {
    let mut world = World::started(&["web"]);
    world.checks_fail = true;
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    let picture = world.picture();
    let registration = &picture.services[0].registrations[0];
    assert!(registration.enabled && registration.rejections.is_empty());
    assert_eq!(registration.stage, Stage::Admitted);
    let place = registration.place.as_ref().unwrap();
    let server = &picture.backends[0].servers[0];
    assert_eq!((&*place.backend, place.by), ("web", By::Name));
    assert_eq!(place.server.as_ref(), Some(&server.name));
    assert_eq!(server.registration.as_ref(), Some(&registration.id));
    assert_eq!(
        (picture.backends[0].wanted, picture.backends[0].in_rotation),
        (1, 0)
    );
    assert_eq!(picture.sidecar.charge, Charge::InCharge);

    world.up();
    world.wait(SECOND);
    assert_eq!(world.stages(), [Stage::InRotation]);
    for servers in world.haproxy.values_mut() {
        servers.servers[0].oper = crate::model::OperState::Stopped;
    }
    world.wait(6 * SECOND);
    assert_eq!(world.stages(), [Stage::Down]);
    assert_eq!(
        world.picture().services[0].registrations[0].stage,
        Stage::Down
    );
    // It is so for longer than when it was read.
    let since = |at| world.core.picture(at).backends[0].servers[0].since_ms;
    assert_eq!(since(world.now + SECOND) - since(world.now), 1_000);
}

#[test]
fn who_was_up_between_two_looks_is_down_and_not_new() {
    let mut world = World::started(&["web"]);
    world.checks_fail = true;
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    for (since_change, stage) in [(8, Stage::Admitted), (3, Stage::Down)] {
        for servers in world.haproxy.values_mut() {
            servers.servers[0].since_change = since_change;
        }
        world.wait(6 * SECOND);
        assert_eq!(world.stages(), [stage], "{since_change}");
    }
}

#[test]
fn what_is_not_served_says_why() {
    let mut world = World::started(&["web"]);
    let mut all = registrations("web", 1..4);
    all[0].tags = vec![
        "haproxy.enable=true".to_owned(),
        "haproxy.weight=much".to_owned(),
    ];
    all[1].tags.clear();
    let mut unrouted = registrations("web", 1..2);
    unrouted[0].tags.push("haproxy.domain=bad host".to_owned());
    world.input(Input::Changed(service("web"), unrouted));
    let picture = world.picture();
    let shown = &picture.services[0].registrations[0];
    let why = &shown.unrouted[0];
    assert!(
        why.starts_with("tag \"haproxy.domain=bad host\": "),
        "{why}"
    );
    assert!(
        shown.rejections.is_empty() && shown.notes.is_empty(),
        "{shown:?}"
    );

    all[2].tags.push("haproxy.backend.name=nowhere".to_owned());
    all[2].tags.push("haproxy.backend=custom".to_owned());
    world.input(Input::Changed(service("web"), all));
    let picture = world.picture();
    let shown = picture.services[0].registrations.iter();
    let shown: Vec<_> = shown
        .map(|one| (one.enabled, one.stage, one.rejections.join(" ")))
        .collect();
    assert!(
        shown.iter().all(|(_, stage, _)| *stage == Stage::Unserved),
        "{shown:?}"
    );
    assert!(
        shown[0].0 && shown[0].2.contains("expected a whole number"),
        "{shown:?}"
    );
    assert!(!shown[1].0 && shown[1].2.is_empty(), "{shown:?}");
    assert!(
        shown[2].2.contains("HAProxy has no backend named nowhere"),
        "{shown:?}"
    );
}

#[test]
fn each_route_is_shown_with_what_became_of_it() {
    let mut world = World::started(&["web", "api", "new"]);
    let with = |name: &str, numbers, tags: &[&str]| {
        let mut all = registrations(name, numbers);
        for one in &mut all {
            let tags = tags.iter().map(|tag| format!("haproxy.{tag}"));
            one.tags.extend(tags);
        }
        Input::Changed(service(name), all)
    };
    let regex = ["domain.type=regex", "domain=^v"];
    world.input(with("web", 1..2, &["domain=a.example", "sni=kept.example"]));
    world.input(with("api", 2..3, &["domain=a.example", "port=80"]));
    world.up();
    world.wait(SECOND);
    world.checks_fail = true;
    world.input(with("new", 3..4, &["domain=n.example"]));
    world.input(with("api", 2..3, &["domain=a.example", regex[0], regex[1]]));
    world.input(with("web", 1..2, &["domain=a.example", "sni=kept.example"]));
    world.wait(SECOND);
    let shown = |world: &World| -> Vec<_> {
        let routes = world.picture().routes.into_iter();
        routes
            .map(|one| {
                (
                    format!("{} {}", one.service, one.name()),
                    one.state,
                    one.why.unwrap_or_default(),
                )
            })
            .collect()
    };
    let refused = "the namespace default may not claim hosts by a regular expression";
    for (name, state, why) in shown(&world) {
        let (expected, part) = match name.as_str() {
            "web host a.example" | "web SNI kept.example" => (RouteState::Active, ""),
            "new host n.example" => (RouteState::Waiting, "no server of new is in rotation yet"),
            "api regex ^v" | "api regex a.example" => (RouteState::Refused, refused),
            _ => panic!("{name}"),
        };
        assert_eq!(state, expected, "{name}: {why}");
        assert!(why.starts_with(part), "{name}: {why}");
    }
    assert_eq!(shown(&world).len(), 5);

    world.input(with("api", 2..3, &["domain=a.example"]));
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(SECOND);
    let routes = world.picture().routes;
    let taken = routes.iter().find(|one| &*one.service == "api").unwrap();
    assert_eq!(taken.state, RouteState::Taken);
    assert_eq!(taken.taken_by.as_deref(), Some("default/web"));
    let kept = routes.iter().find(|one| &*one.service == "web").unwrap();
    assert_eq!(kept.state, RouteState::Active);
    let why = "nothing of the service is registered, and the route is kept (tag route.keep)";
    assert_eq!(kept.why.as_deref(), Some(why));

    world.input(Input::Disconnected);
    assert!(
        shown(&world)
            .iter()
            .all(|(_, state, _)| matches!(state, RouteState::Waiting | RouteState::Taken))
    );
}

#[test]
fn what_leaves_is_shown_with_its_time() {
    let mut world = World::started(&["web"]);
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    world.up();
    world.wait(SECOND);
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(SECOND);
    let picture = world.picture();
    let server = &picture.backends[0].servers[0];
    assert_eq!(server.stage, Stage::Held);
    let hold = server.hold.as_ref().unwrap();
    assert_eq!(
        (hold.by, hold.for_ms, hold.left_ms),
        (HoldBy::MinReady(1), 1_000, Some(29_000))
    );
    assert_eq!(
        server.registration.as_deref(),
        Some("_nomad-task-00000001-group-web")
    );
    world.wait(HELD);
    assert_eq!(world.stages(), []);
}

#[test]
fn who_was_denied_or_cannot_connect_is_no_reason_to_forget_what_was_seen() {
    let mut world = World::started(&["web"]);
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    world.up();
    world.wait(SECOND);
    world.input(Input::Disconnected);
    let picture = world.picture();
    assert!(!picture.haproxy.connected);
    assert_eq!(world.stages(), [Stage::InRotation]);
}

#[test]
fn ten_thousand_servers_are_drawn_in_parts() {
    let names: Vec<_> = (0..100).map(|number| format!("be{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut world = World::started(&names);
    let registration = |service: &str, number: u32| Registration {
        id: format!("_nomad-task-{service}-{number:08x}").into(),
        address: format!("10.1.{}.{}", number / 200, number % 200 + 1),
        alloc_id: format!("{number:08x}-0000-0000-0000-000000000000").into(),
        ..registrations(service, 1..2).remove(0)
    };
    let services = names.iter().enumerate().map(|(place, &name)| {
        let first = u32::try_from(place).unwrap() * 100;
        let all = (first..first + 100).map(|number| registration(name, number));
        (service(name), all.collect())
    });
    world.input(synced(services.collect()));
    world.up();
    world.wait(SECOND);
    let picture = world.picture();
    let bytes = serde_json::to_vec(&picture).unwrap();
    let rotation = picture.backends.iter().map(|backend| backend.in_rotation);
    assert_eq!(rotation.sum::<usize>(), 10_000);
    assert_eq!(serde_json::from_slice::<Picture>(&bytes).unwrap(), picture);
    // In parts it is the same.
    let (mut sketch, mut parts) = (world.core.sketch(), 1);
    while world.core.draw(world.now, &mut sketch, 200) {
        parts += 1;
    }
    assert_eq!(sketch.into_picture(), picture);
    assert!((100..=102).contains(&parts), "{parts}");
}
