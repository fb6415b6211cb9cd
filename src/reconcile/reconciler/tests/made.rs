//! Backends that are made at runtime.

use super::*;
use crate::model::{OperState, ProfileName};

const LINGER: Duration = Duration::from_mins(10);

impl World {
    /// The backends that were made, if they are published or not.
    pub(super) fn made(&self, which: impl Fn(bool) -> bool) -> BTreeSet<BackendName> {
        let is_one = |observed: &ObservedBackend| match observed.origin {
            Origin::Made { is_published } => which(is_published),
            Origin::Operator | Origin::Missing => false,
        };
        let backends = self.haproxy.iter();
        let made = backends.filter(|(_, observed)| is_one(observed));
        made.map(|(name, _)| name.clone()).collect()
    }

    /// Another process, with what its configuration has.
    fn restart_bare(&mut self, configured: &[&str]) {
        self.input(Input::Disconnected);
        let names = configured.iter().map(|name| backend(name));
        self.haproxy = names
            .map(|name| (name, ObservedBackend::default()))
            .collect();
        self.info.pid += 1;
        self.forget();
        self.input(Input::Connected(self.info.clone()));
    }

    fn backend_lines(&self) -> Vec<String> {
        let word = |command: &&Command| {
            if let Command::AddServer(server, ..) = command {
                return Some(format!("add to {}", server.backend));
            }
            let name = command.backend();
            match (command.server(), format!("{command:?}").split('(').next()?) {
                (Some(_), _) => None,
                (None, kind) => Some(format!("{kind} {name}")),
            }
        };
        let commands = self.changes();
        commands.iter().filter_map(word).collect()
    }

    fn is_published(&self, name: &str) -> Option<bool> {
        match self.haproxy.get(&backend(name))?.origin {
            Origin::Made { is_published } => Some(is_published),
            Origin::Operator | Origin::Missing => None,
        }
    }

    /// What is in the way now.
    fn obstacles(&self) -> Vec<String> {
        let backends = self.core.backends.values();
        let hindrances = backends.flat_map(|backend| &backend.hindrances);
        hindrances
            .map(|hindrance| hindrance.obstacle.to_string())
            .collect()
    }
}

fn backend(name: &str) -> BackendName {
    BackendName::new(name).unwrap()
}

fn tagged(name: &str, number: u8, tags: &[&str]) -> Vec<Registration> {
    let mut all = registrations(name, number..number + 1);
    all[0].tags.extend(tags.iter().map(|tag| (*tag).to_owned()));
    all
}

#[test]
fn a_registration_without_a_backend_gets_one_that_is_published_when_a_server_is_up() {
    let mut world = World::started(&[]);
    world.checks_fail = true;
    world.input(Input::Changed(service("web"), registrations("web", 1..3)));
    assert_eq!(
        world.backend_lines(),
        ["AddBackend web", "add to web", "add to web"]
    );
    assert_eq!(world.is_published("web"), Some(false));
    world.wait(SECOND);
    assert_eq!(world.is_published("web"), Some(false));
    world.up();
    world.wait(SECOND);
    assert_eq!(world.is_published("web"), Some(true));
    world.forget();
    world.wait(30 * SECOND);
    assert_eq!(world.changes(), Vec::<&Command>::new());
}

#[test]
fn a_sidecar_that_starts_over_what_another_made_writes_nothing() {
    let mut world = World::started(&[]);
    world.input(synced(catalog(&[("web", 1..3)])));
    assert_eq!(world.is_published("web"), Some(true));
    world.forget();
    world.core = Reconciler::new(Policy::default(), Mode::Act, 2);
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(catalog(&[("web", 1..3)])));
    world.wait(30 * SECOND);
    assert_eq!(world.changes(), Vec::<&Command>::new());
}

#[test]
fn a_backend_of_an_operator_is_used_and_neither_published_nor_removed() {
    let mut world = World::started(&["web", "my_api"]);
    world.input(synced(catalog(&[("web", 1..2), ("my-api", 2..3)])));
    world.input(synced(BTreeMap::new()));
    world.wait(LINGER + LINGER);
    assert_eq!(world.backend_lines(), ["add to my_api", "add to web"]);
    assert!(world.haproxy.contains_key(&backend("web")));
}

#[test]
fn one_that_was_made_is_nobody_elses_by_half_of_its_name() {
    let mut world = World::started(&[]);
    world.input(Input::Changed(
        service("my_web"),
        registrations("my_web", 1..2),
    ));
    world.input(Input::Changed(
        service("my-web"),
        registrations("my-web", 2..3),
    ));
    assert_eq!(world.ready("my_web"), 1);
    assert_eq!(world.ready("my-web"), 1);
}

#[test]
fn after_a_restart_it_is_made_filled_and_published_in_one_batch() {
    let mut world = World::started(&[]);
    world.input(synced(catalog(&[("web", 1..3)])));
    world.checks_fail = true;
    world.restart_bare(&[]);
    assert_eq!(
        world.backend_lines(),
        [
            "AddBackend web",
            "add to web",
            "add to web",
            "PublishBackend web"
        ]
    );
    assert!(
        !world.sent.contains(&Request::Change(Command::HealthDown(
            crate::model::ServerRef {
                backend: backend("web"),
                server: world.haproxy[&backend("web")].servers[0]
                    .name
                    .clone()
                    .unwrap(),
            }
        )))
    );
}

#[test]
fn one_that_was_not_published_yet_waits_for_a_server_after_a_restart_too() {
    let mut world = World::started(&[]);
    world.checks_fail = true;
    world.input(synced(catalog(&[("web", 1..2)])));
    world.restart_bare(&[]);
    world.wait(SECOND);
    assert_eq!(world.is_published("web"), Some(false));
}

#[test]
fn when_nothing_is_registered_it_lingers_and_is_removed_in_the_reverse_order() {
    let mut world = World::started(&[]);
    world.input(synced(catalog(&[("web", 1..2), ("api", 2..3)])));
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(HELD + 15 * SECOND);
    assert!(world.haproxy[&backend("web")].servers.is_empty());
    world.forget();
    world.wait(LINGER.saturating_sub(20 * SECOND));
    assert_eq!(world.is_published("web"), Some(true));
    assert_eq!(world.changes(), Vec::<&Command>::new());
    world.wait(20 * SECOND);
    assert_eq!(
        world.backend_lines(),
        ["UnpublishBackend web", "DeleteBackend web"]
    );
    assert!(!world.haproxy.contains_key(&backend("web")));
    assert_eq!(world.core.overview().backends, 1);
    // And it can come again.
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    assert_eq!(world.is_published("web"), Some(true));
}

#[test]
fn a_registration_while_it_lingers_ends_that() {
    let mut world = World::started(&[]);
    world.input(synced(catalog(&[("web", 1..2)])));
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(LINGER);
    world.input(Input::Changed(service("web"), registrations("web", 3..4)));
    world.forget();
    world.wait(LINGER);
    assert_eq!(world.backend_lines(), Vec::<String>::new());
    assert_eq!(world.ready("web"), 1);
}

#[test]
fn what_lingers_is_there_again_after_a_restart_and_for_no_longer() {
    let mut world = World::started(&[]);
    world.input(synced(catalog(&[("web", 1..2)])));
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(Duration::from_mins(5));
    world.restart_bare(&[]);
    assert_eq!(
        world.backend_lines(),
        ["AddBackend web", "PublishBackend web"]
    );
    world.wait(Duration::from_mins(6));
    assert!(!world.haproxy.contains_key(&backend("web")));
}

#[test]
fn what_a_dead_sidecar_left_is_proven_gone_then_lingers_and_goes() {
    let mut world = World::started(&[]);
    world.input(synced(catalog(&[("web", 1..2)])));
    world.forget();
    world.core = Reconciler::new(Policy::default(), Mode::Act, 2);
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(BTreeMap::new()));
    assert!(world.proven.contains(&service("web")));
    world.wait(LINGER + LINGER);
    assert_eq!(world.ready("web"), 1);
    world.input(Input::Changed(service("web"), Vec::new()));
    world.wait(HELD + 15 * SECOND);
    assert!(world.haproxy[&backend("web")].servers.is_empty());
    world.wait(LINGER);
    assert!(!world.haproxy.contains_key(&backend("web")));
}

#[test]
fn while_something_is_unread_nothing_is_removed() {
    let mut world = World::started(&[]);
    world.input(synced(catalog(&[("web", 1..2)])));
    world.input(Input::Synced {
        services: BTreeMap::new(),
        unproven: [Scope::Service(service("other"))].into(),
    });
    world.wait(LINGER + LINGER);
    assert_eq!(world.is_published("web"), Some(true));
}

#[test]
fn a_missing_profile_is_said_and_the_others_are_served() {
    let mut world = World::started(&["api"]);
    world.profiles.clear();
    world.input(synced(catalog(&[("web", 1..3), ("api", 3..4)])));
    assert_eq!(world.ready("api"), 1);
    assert_eq!(
        world.obstacles(),
        [
            "HAProxy has no such backend, and no section `defaults nomad` to make it from: add either to haproxy.cfg, or name \
             another section with --backend-profiles"
        ]
    );
    assert!(world.core.overview().in_sync);
    assert_eq!(world.core.overview().blocked, 1);
    // It is tried again, with nothing after it that would not be understood.
    world.forget();
    world.wait(Duration::from_mins(2));
    assert_eq!(world.backend_lines()[0], "AddBackend web");
    assert!(
        world
            .backend_lines()
            .iter()
            .all(|line| line.starts_with("AddBackend"))
    );
    world.profiles.insert(ProfileName::new("nomad").unwrap());
    world.wait(Duration::from_mins(2));
    assert_eq!(world.is_published("web"), Some(true));
    assert_eq!(world.ready("web"), 2);
    assert_eq!(world.obstacles(), Vec::<String>::new());
}

#[test]
fn a_tag_picks_the_profile_of_those_that_are_allowed() {
    let mut world = World::new(&["old"]);
    let name = |text: &str| ProfileName::new(text).unwrap();
    let policy = Policy {
        backend_profiles: vec![name("nomad"), name("tcp")],
        ..Policy::default()
    };
    world.profiles.insert(name("tcp"));
    world.core = Reconciler::new(policy, Mode::Act, 1);
    world.input(Input::Connected(world.info.clone()));
    let profile = |profile: &str| format!("haproxy.backend.profile={profile}");
    world.input(synced(
        [
            (service("db"), tagged("db", 1, &[&profile("tcp")])),
            (service("bad"), tagged("bad", 2, &[&profile("udp")])),
            (service("old"), tagged("old", 3, &[&profile("udp")])),
            (
                service("own"),
                tagged("own", 4, &["haproxy.backend=custom"]),
            ),
        ]
        .into(),
    ));
    assert_eq!(
        world.backend_lines(),
        [
            "AddBackend db",
            "add to db",
            "PublishBackend db",
            "add to old"
        ]
    );
    let make = |profile| Request::Change(Command::AddBackend(backend("db"), name(profile)));
    assert!(world.sent.contains(&make("tcp")));
    let reasons: BTreeSet<_> = world
        .facts
        .iter()
        .filter_map(|fact| {
            let Fact::Rejected(of, rejection) = fact else {
                return None;
            };
            Some(format!("{of}: {}", rejection.reason))
        })
        .collect();
    assert_eq!(
        reasons.into_iter().collect::<Vec<_>>(),
        [
            "default/bad: its backend cannot be made from the section `defaults udp`, which --backend-profiles does not name: it \
             names nomad, tcp",
            "default/old: tag backend.profile has no effect: the backend old is in haproxy.cfg, and its own lines decide",
            "default/own: HAProxy has no backend named own: add one to haproxy.cfg, or name another with the tag backend.name",
        ]
    );
    // Another profile is for the next time.
    world.facts.clear();
    world.input(Input::Changed(
        service("db"),
        tagged("db", 1, &[&profile("nomad")]),
    ));
    world.wait(30 * SECOND);
    let said = world.facts.iter().any(|fact| {
        matches!(fact, Fact::Rejected(_, rejection) if matches!(rejection.reason, Reason::ProfileLater(..)))
    });
    assert!(said);
    world.restart_bare(&["old"]);
    assert!(world.sent.contains(&make("nomad")));
}

#[test]
fn what_an_operator_unpublished_stays_so_until_he_publishes_it() {
    let mut world = World::started(&[]);
    world.input(synced(catalog(&[("web", 1..2)])));
    let set = |world: &mut World, is_published| {
        let web = world.haproxy.get_mut(&backend("web")).unwrap();
        web.origin = Origin::Made { is_published };
    };
    set(&mut world, false);
    world.forget();
    world.wait(30 * SECOND);
    assert_eq!(world.changes(), Vec::<&Command>::new());
    assert_eq!(
        world.obstacles(),
        [
            "the backend was unpublished by hand and stays so: `publish backend` at the stats socket ends that"
        ]
    );
    set(&mut world, true);
    world.wait(30 * SECOND);
    assert_eq!(world.obstacles(), Vec::<String>::new());
}

#[test]
fn below_3_4_a_missing_backend_is_said_as_ever() {
    let mut world = World::new(&[]);
    world.info.version = Version::new(3, 2, 26);
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(catalog(&[("web", 1..2)])));
    assert_eq!(world.changes(), Vec::<&Command>::new());
    assert!(!world.sent.contains(&Request::Guids));
    assert_eq!(world.core.overview().rejected, 1);
}

#[test]
fn a_backend_that_takes_no_servers_is_said_and_gets_none() {
    let mut world = World::started(&[]);
    world.remark = Some("New backend registered (no support for dynamic servers: why).".to_owned());
    world.input(synced(catalog(&[("web", 1..2)])));
    world.forget();
    world.wait(30 * SECOND);
    assert_eq!(world.backend_lines(), Vec::<String>::new());
    assert!(
        world.obstacles()[0]
            .starts_with("the backend takes no servers at runtime: change `balance` in")
    );
}

#[test]
fn observing_tells_all_that_would_be_sent() {
    let mut world = World::new(&[]);
    world.core = Reconciler::new(Policy::default(), Mode::Observe, 1);
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(catalog(&[("web", 1..2)])));
    assert_eq!(world.changes(), Vec::<&Command>::new());
    let told: Vec<_> = world
        .facts
        .iter()
        .filter_map(|fact| {
            let Fact::WouldSend { steps, .. } = fact else {
                return None;
            };
            Some(steps)
        })
        .flatten()
        .collect();
    assert!(matches!(told[0].command, Command::AddBackend(..)));
    assert!(matches!(
        told.last().unwrap().command,
        Command::PublishBackend(_)
    ));
}

#[test]
fn servers_of_one_that_is_down_after_a_restart_are_checked_but_it_is_published() {
    let mut world = World::started(&[]);
    world.input(synced(catalog(&[("web", 1..2)])));
    for server in world
        .haproxy
        .values_mut()
        .flat_map(|observed| &mut observed.servers)
    {
        server.oper = OperState::Stopped;
    }
    world.wait(6 * SECOND);
    world.checks_fail = true;
    world.restart_bare(&[]);
    // Whoever is led there is answered 503, and not by another service.
    assert_eq!(world.is_published("web"), Some(true));
}
