//! Routes: maps that follow the tags, and leave everybody else's entries alone.

use super::*;
use crate::{
    model::{MapChange, MapContent, MapEntry, MapKind, MapName, MapWord, OperState},
    reconcile::routes::{Maps, RouteFact, RouteObstacle},
};

/// HAProxy's maps, by name, in their order.
pub(super) struct MapsOfHaproxy {
    maps: BTreeMap<String, Vec<(MapWord, MapWord)>>,
    /// The version that is being made, of whichever map.
    prepared: Vec<(MapWord, MapWord)>,
    refuse: Option<Outcome>,
}

impl Default for MapsOfHaproxy {
    fn default() -> Self {
        let usual = MapKind::ALL.into_iter().filter_map(Maps::usual);
        Self {
            maps: usual.map(|map| (map.to_string(), Vec::new())).collect(),
            prepared: Vec::new(),
            refuse: None,
        }
    }
}

impl MapsOfHaproxy {
    pub(super) fn show(&self, map: &MapName) -> Response {
        let Some(entries) = self.maps.get(&map.to_string()) else {
            return Response::NoSuchMap;
        };
        let entry = |(key, value): &(MapWord, MapWord)| MapEntry {
            key: key.clone(),
            value: Some(value.clone()),
        };
        Response::Map(MapContent {
            entries: entries.iter().map(entry).collect(),
            others: 0,
        })
    }

    pub(super) fn change(&mut self, change: &MapChange) -> Response {
        if let Some(outcome) = &self.refuse {
            return Response::Changed(outcome.clone());
        }
        let Some(entries) = self.maps.get_mut(&change.map().to_string()) else {
            return Response::Changed(Outcome::RetryLater("Unknown map identifier.".to_owned()));
        };
        match change {
            MapChange::Add(_, key, value) => {
                assert!(
                    !entries.iter().any(|entry| entry.0 == *key),
                    "{key} is doubled"
                );
                entries.push((key.clone(), value.clone()));
            }
            MapChange::Set(_, key, value) => {
                let entries = entries.iter_mut().filter(|entry| entry.0 == *key);
                entries.for_each(|entry| entry.1 = value.clone());
            }
            MapChange::Delete(_, key) => entries.retain(|entry| entry.0 != *key),
            MapChange::Prepare(_) => {
                self.prepared.clear();
                return Response::MapVersion(7);
            }
            MapChange::AddTo(7, _, key, value) => self.prepared.push((key.clone(), value.clone())),
            MapChange::Commit(7, _) => *entries = mem::take(&mut self.prepared),
            MapChange::AddTo(..) | MapChange::Commit(..) => panic!("another version"),
        }
        Response::Changed(Outcome::Done)
    }
}

impl World {
    fn put(&mut self, map: &str, key: &str, value: &str) {
        let entry = (MapWord::new(key).unwrap(), MapWord::new(value).unwrap());
        self.maps.maps.get_mut(map).unwrap().push(entry);
    }

    fn map(&self, map: &str) -> Vec<String> {
        let entries = self.maps.maps[map].iter();
        entries
            .map(|(key, value)| format!("{key} {value}"))
            .collect()
    }

    fn map_changes(&self) -> usize {
        let is_change = |request: &&Request| matches!(request, Request::ChangeMap(_));
        self.sent.iter().filter(is_change).count()
    }

    fn rejected(&self, name: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for fact in &self.facts {
            if let Fact::Rejected(service, rejection) = fact
                && *service.name == *name
            {
                texts.push(rejection.reason.to_string());
            }
        }
        texts
    }

    /// HAProxy is restarted: it has what its configuration says.
    fn restart_with_maps(&mut self) {
        self.input(Input::Disconnected);
        let backends = self.haproxy.values_mut();
        backends.for_each(|observed| observed.servers.clear());
        self.maps = MapsOfHaproxy::default();
        self.info.pid += 1;
        self.input(Input::Connected(self.info.clone()));
    }
}

fn tagged(name: &str, numbers: std::ops::Range<u8>, tags: &[&str]) -> Vec<Registration> {
    let mut registrations = registrations(name, numbers);
    for registration in &mut registrations {
        let tags = tags.iter().map(|tag| format!("haproxy.{tag}"));
        registration.tags.extend(tags);
    }
    registrations
}

fn changed(name: &str, numbers: std::ops::Range<u8>, tags: &[&str]) -> Input {
    Input::Changed(service(name), tagged(name, numbers, tags))
}

#[test]
fn a_route_comes_with_the_first_server_in_rotation_and_stays_when_the_service_is_empty() {
    let mut world = World::started(&["web"]);
    world.checks_fail = true;
    world.input(changed("web", 1..2, &["domain=a.example,*.b.example"]));
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts"), [""; 0]);
    assert_eq!(world.core.overview().routes.waiting, 2);
    assert!(
        world.core.overview().in_sync,
        "checks decide, not the sidecar"
    );

    world.up();
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts"), ["a.example web"]);
    assert_eq!(world.map("virt@suffixes"), [".b.example web"]);

    let haproxy = world.haproxy.values_mut();
    haproxy.for_each(|observed| observed.servers[0].oper = OperState::Stopped);
    world.wait(10 * SECOND);
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(2 * HELD);
    assert_eq!(world.map("virt@hosts"), ["a.example web"]);
}

#[test]
fn a_route_that_is_not_kept_goes_after_the_last_server_did() {
    let mut world = World::started(&["web"]);
    world.input(changed(
        "web",
        1..2,
        &["domain=a.example", "route.keep=false"],
    ));
    world.up();
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts"), ["a.example web"]);
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(5 * SECOND);
    assert_eq!(world.map("virt@hosts").len(), 1, "its server is held");
    world.wait(HELD);
    assert_eq!(world.map("virt@hosts").len(), 0);
}

#[test]
fn whoever_changes_his_host_is_found_by_the_new_one_only() {
    let mut world = World::started(&["web"]);
    world.put("virt@hosts", "operators.example", "elsewhere");
    world.input(changed("web", 1..2, &["domain=a.example"]));
    world.forget();
    world.input(changed("web", 1..2, &["domain=b.example"]));
    assert_eq!(
        world.map("virt@hosts"),
        ["operators.example elsewhere", "b.example web"]
    );
    let applied = Fact::Routes(RouteFact::Applied {
        added: 1,
        changed: 0,
        removed: 1,
        rewritten: 0,
        took: Duration::ZERO,
    });
    assert!(world.facts.contains(&applied), "{:?}", world.facts);
    world.forget();
    world.wait(60 * SECOND);
    assert_eq!(world.map_changes(), 0);
}

#[test]
fn a_restart_of_haproxy_brings_all_routes_back_and_one_of_the_sidecar_writes_nothing() {
    let mut world = World::started(&["web", "api"]);
    world.input(changed("web", 1..3, &["domain=a.example", "path=/x"]));
    world.input(changed("api", 5..6, &["sni=db.example", "port=5432"]));
    world.up();
    world.wait(6 * SECOND);
    let maps = |world: &World| ["virt@paths", "virt@sni", "virt@ports"].map(|map| world.map(map));
    let before = maps(&world);
    assert_eq!(before.concat().len(), 3);
    world.restart_with_maps();
    assert!(world.core.overview().in_sync);
    assert_eq!(maps(&world), before);

    let mut successor = World::new(&[]);
    successor.haproxy = world.haproxy;
    successor.maps = world.maps;
    successor.input(Input::Connected(successor.info.clone()));
    let services = [
        (
            service("web"),
            tagged("web", 1..3, &["domain=a.example", "path=/x"]),
        ),
        (
            service("api"),
            tagged("api", 5..6, &["sni=db.example", "port=5432"]),
        ),
    ];
    successor.input(synced(services.into()));
    successor.wait(60 * SECOND);
    assert_eq!(successor.map_changes(), 0);
    assert_eq!(maps(&successor), before);
}

#[test]
fn the_first_claim_counts_and_both_are_told() {
    let mut world = World::started(&["web", "api"]);
    world.input(changed("web", 5..6, &["domain=a.example"]));
    world.input(changed("api", 7..8, &["domain=a.example"]));
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts"), ["a.example web"]);
    assert_eq!(
        world.rejected("api"),
        [
            "host a.example belongs to the service default/web, which has the first claim: take the tag away from one of them"
        ]
    );
    assert_eq!(
        world.rejected("web"),
        ["the service default/api claims host a.example, too, and does not get it"]
    );
    // A rolling update brings higher indices, and the claim is still the first.
    world.input(changed("web", 5..10, &["domain=a.example"]));
    world.input(changed("web", 8..10, &["domain=a.example"]));
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts"), ["a.example web"]);

    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(5 * SECOND);
    assert_eq!(
        world.map("virt@hosts"),
        ["a.example web"],
        "it may come back"
    );
    world.wait(2 * HELD);
    assert_eq!(world.map("virt@hosts"), ["a.example api"]);
}

#[test]
fn who_has_a_route_when_the_sidecar_starts_keeps_it() {
    let mut world = World::new(&["web", "api"]);
    world.put("virt@hosts", "a.example", "api");
    world.input(Input::Connected(world.info.clone()));
    let services = [
        (service("web"), tagged("web", 1..2, &["domain=a.example"])),
        (service("api"), tagged("api", 7..8, &["domain=a.example"])),
    ];
    world.input(synced(services.into()));
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts"), ["a.example api"]);
    assert_eq!(world.rejected("web").len(), 1);
}

#[test]
fn another_namespace_gets_no_host_of_the_own_one_nor_a_part_of_it() {
    let mut world = World::started(&["web", "team.api"]);
    let mut theirs = tagged(
        "api",
        1..2,
        &[
            "domain=a.example,x.b.example,c.example,*.d.b.example",
            "sni=a.example",
        ],
    );
    let mut paths = tagged(
        "paths",
        1..2,
        &["domain=a.example", "path=/x", "backend.name=team.api"],
    );
    for registration in theirs.iter_mut().chain(&mut paths) {
        registration.service.namespace = "team".into();
    }
    world.input(Input::Changed(ServiceKey::new("team", "api"), theirs));
    world.input(Input::Changed(ServiceKey::new("team", "paths"), paths));
    world.up();
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts").len(), 3);
    world.input(changed(
        "web",
        5..6,
        &["domain=a.example,*.b.example", "sni=a.example"],
    ));
    world.up();
    world.wait(SECOND);
    assert_eq!(
        world.map("virt@hosts"),
        ["a.example web", "c.example team.api"]
    );
    assert_eq!(world.map("virt@suffixes"), [".b.example web"]);
    assert_eq!(world.map("virt@sni"), ["a.example web"]);
    assert_eq!(world.map("virt@paths"), [""; 0]);
    let rejected = world.rejected("api");
    let covered = "host x.b.example would take requests of suffix .b.example, which belongs to the service default/web of the \
        sidecar's own namespace";
    assert!(rejected.iter().any(|text| text == covered), "{rejected:#?}");
}

#[test]
fn foreign_entries_are_never_changed_and_one_with_our_key_is_named() {
    let mut world = World::started(&["web"]);
    world.put("virt@hosts", "a.example", "operators");
    world.put("virt@hosts", "z.example", "operators");
    world.input(changed("web", 1..2, &["domain=a.example,b.example"]));
    world.wait(10 * SECOND);
    let expected = [
        "a.example operators",
        "z.example operators",
        "b.example web",
    ];
    assert_eq!(world.map("virt@hosts"), expected);
    let blocked = world.facts.iter().filter(|fact| {
        matches!(
            fact,
            Fact::Routes(RouteFact::Blocked(RouteObstacle::Foreign(..)))
        )
    });
    assert_eq!(blocked.count(), 1, "{:?}", world.facts);
    assert!(world.core.overview().in_sync);
    world.input(changed("web", 1..2, &["domain=c.example"]));
    world.wait(10 * SECOND);
    assert_eq!(world.map("virt@hosts")[..2], expected[..2]);
    assert!(
        world
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::Routes(RouteFact::Unblocked(_))))
    );
}

#[test]
fn a_successor_removes_what_is_left_of_a_service_only_when_it_knows_all_of_it() {
    for (unproven, left) in [(false, 1), (true, 2)] {
        let mut world = World::new(&["web"]);
        world.put("virt@hosts", "old.example", "web");
        world.input(Input::Connected(world.info.clone()));
        let parts = unproven.then(|| Scope::Service(service("other")));
        world.input(Input::Synced {
            services: [(service("web"), tagged("web", 1..2, &["domain=a.example"]))].into(),
            unproven: parts.into_iter().collect(),
        });
        world.wait(10 * SECOND);
        assert_eq!(world.map("virt@hosts").len(), left, "{unproven:?}");
    }
}

#[test]
fn a_backend_whose_services_name_no_route_has_the_operators_entries() {
    let mut world = World::started(&["web", "api"]);
    world.put("virt@hosts", "a.example", "web");
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    world.input(changed("api", 5..6, &["domain=b.example"]));
    world.wait(60 * SECOND);
    assert_eq!(world.map("virt@hosts"), ["a.example web", "b.example api"]);
}

#[test]
fn a_missing_map_blocks_its_routes_only_and_says_what_to_do() {
    let mut world = World::started(&["web"]);
    world.maps.maps.remove("virt@sni");
    world.input(changed("web", 1..2, &["sni=a.example", "domain=b.example"]));
    assert_eq!(world.map("virt@hosts"), ["b.example web"]);
    assert!(world.core.overview().in_sync);
    assert_eq!(
        world.core.overview().route_obstacles,
        [
            "HAProxy has no map virt@sni: look it up in a frontend of haproxy.cfg, as in docs/routes.md, or name another map for SNI \
          routes with --sni-map (before HAProxy 3.0: the path of a file)"
        ]
    );
    assert_eq!(world.core.overview().routes.blocked, 1);
}

#[test]
fn what_haproxy_does_not_do_is_tried_later_and_stops_no_backend() {
    let mut world = World::started(&["web"]);
    world.maps.refuse = Some(Outcome::RetryLater("Unknown map identifier.".to_owned()));
    world.input(changed("web", 1..2, &["domain=a.example"]));
    assert!(
        world
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::Routes(RouteFact::Failed { .. })))
    );
    assert!(world.core.overview().routes_unsettled);
    world.input(changed("web", 1..3, &["domain=a.example"]));
    assert_eq!(world.ready("web"), 2);
    let tries = world.map_changes();
    world.wait(20 * SECOND);
    assert!(world.map_changes() < tries + 20);
    world.maps.refuse = None;
    world.wait(60 * SECOND);
    assert_eq!(world.map("virt@hosts"), ["a.example web"]);
    assert!(!world.core.overview().routes_unsettled);

    // It says it was done, and it was not.
    world.maps.refuse = Some(Outcome::Done);
    world.input(changed("web", 1..3, &["domain=b.example"]));
    assert!(world.map_changes() < tries + 100);
    assert!(world.core.overview().routes_unsettled);
}

#[test]
fn a_longer_suffix_is_put_before_a_shorter_one() {
    let mut world = World::started(&["web", "api"]);
    world.put("virt@suffixes", ".z", "operators");
    world.input(changed("web", 1..2, &["domain=*.a.example"]));
    world.input(changed("api", 5..6, &["domain=*.b.a.example"]));
    assert_eq!(
        world.map("virt@suffixes"),
        [".z operators", ".b.a.example api", ".a.example web"]
    );
    world.forget();
    world.wait(60 * SECOND);
    assert_eq!(world.map_changes(), 0);
}

#[test]
fn an_observer_tells_what_it_would_write_and_writes_nothing() {
    let mut world = World::new(&["web"]);
    world.core = Reconciler::new(Policy::default(), Mode::Observe, 1);
    world.haproxy.values_mut().for_each(|observed| {
        observed.servers.push(restarts::slot(1, "10.9.9.9:80", 0));
    });
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(
        [(service("web"), tagged("web", 1..2, &["domain=a.example"]))].into(),
    ));
    world.wait(20 * SECOND);
    assert_eq!(world.map_changes(), 0);
    let told = world.facts.iter().filter(
        |fact| matches!(fact, Fact::Routes(RouteFact::WouldSend(changes)) if changes.len() == 1),
    );
    assert_eq!(told.count(), 1);
}

#[test]
fn removals_that_are_stopped_stop_those_of_routes() {
    let mut world = World::started(&["web"]);
    world.input(changed("web", 1..2, &["domain=a.example"]));
    world.input(Input::Freeze(true));
    world.input(changed("web", 1..2, &["domain=b.example"]));
    world.wait(20 * SECOND);
    assert_eq!(world.map("virt@hosts"), ["a.example web", "b.example web"]);
    world.input(Input::Freeze(false));
    world.wait(20 * SECOND);
    assert_eq!(world.map("virt@hosts"), ["b.example web"]);
}

#[test]
fn a_backend_that_is_made_is_routed_once_published_and_ends_after_its_routes() {
    let mut world = World::started(&[]);
    world.checks_fail = true;
    world.input(changed("web", 1..2, &["domain=a.example"]));
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts"), [""; 0]);
    world.up();
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts"), ["a.example web"]);
    let name = BackendName::new("web").unwrap();
    assert!(world.core.routes.leads_to(&name, &Maps::default()));
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(Duration::from_mins(9));
    assert_eq!(world.map("virt@hosts"), ["a.example web"]);
    world.forget();
    world.wait(Duration::from_mins(3));
    assert_eq!(world.map("virt@hosts"), [""; 0]);
    let changes = world
        .sent
        .iter()
        .filter(|request| matches!(request, Request::Change(_) | Request::ChangeMap(_)));
    let changes: Vec<_> = changes.map(|request| format!("{request:?}")).collect();
    let kinds: Vec<_> = changes
        .iter()
        .filter_map(|change| change.split('(').nth(1))
        .collect();
    assert_eq!(kinds, ["Delete", "UnpublishBackend", "DeleteBackend"]);
    assert!(!world.haproxy.contains_key(&name));
}

#[test]
fn routes_of_services_that_come_at_once_are_written_together() {
    let names: Vec<_> = (10..60).map(|number| format!("web{number}")).collect();
    let mut world = World::started(&names.iter().map(String::as_str).collect::<Vec<_>>());
    world.checks_fail = true;
    let services = (names.iter().zip(1..)).map(|(name, number)| {
        let domain = format!("domain={name}.example");
        let registrations = tagged(name, number..number + 1, &[&domain]);
        (service(name), registrations)
    });
    world.input(synced(services.collect()));
    world.wait(SECOND);
    world.up();
    world.forget();
    world.wait(SECOND);
    assert_eq!(world.map("virt@hosts").len(), names.len());
    let is_reading = |request: &&Request| matches!(request, Request::Map(_));
    let readings = world.sent.iter().filter(is_reading).count();
    assert!(readings <= 5, "{readings}");
}
