//! The machine against a HAProxy that does exactly what it is told.

mod account;
mod admissions;
mod charge;
mod claims;
mod guards;
mod holds;
mod made;
mod picture;
mod recalled;
mod restarts;
mod restored;
mod routes;

use super::*;
use crate::{
    model::{BackendRows, Command, Outcome, ProfileName, ServerRow, ServerState, Version},
    reconcile::{desired::Reason, facts::Overview, predict},
};

const SECOND: Duration = Duration::from_secs(1);
/// A last server is out after this time.
const HELD: Duration = Duration::from_secs(31);

/// The core, and a HAProxy with some backends that it talks to.
struct World {
    core: Reconciler,
    haproxy: BTreeMap<BackendName, ObservedBackend>,
    maps: routes::MapsOfHaproxy,
    info: ProcessInfo,
    now: Duration,
    facts: Vec<Fact>,
    sent: Vec<Request>,
    proven: BTreeSet<ServiceKey>,
    state_file: Vec<StateFile>,
    hands: Vec<Hands>,
    asked: Vec<Question>,
    refuse: Option<Outcome>,
    /// Of every server.
    sessions: u64,
    /// New servers stay down.
    checks_fail: bool,
    /// The `defaults` sections.
    profiles: BTreeSet<ProfileName>,
    /// What HAProxy says of a backend that it makes.
    remark: Option<String>,
}

impl World {
    fn new(backends: &[&str]) -> Self {
        let haproxy = backends
            .iter()
            .map(|name| (BackendName::new(name).unwrap(), ObservedBackend::default()));
        let info = ProcessInfo {
            version: Version::new(3, 4, 7),
            version_text: "3.4.7".to_owned(),
            pid: 1,
            start_time: 1,
            uptime: 1,
            connections: 1,
            stopping: false,
        };
        let (now, facts, sent) = (Duration::ZERO, Vec::new(), Vec::new());
        Self {
            core: Reconciler::new(Policy::default(), Mode::Act, 1),
            haproxy: haproxy.collect(),
            maps: routes::MapsOfHaproxy::default(),
            info,
            now,
            facts,
            sent,
            proven: BTreeSet::new(),
            state_file: Vec::new(),
            hands: Vec::new(),
            asked: Vec::new(),
            refuse: None,
            sessions: 0,
            checks_fail: false,
            profiles: crate::reconcile::default_profiles().into_iter().collect(),
            remark: None,
        }
    }

    /// A core that is connected and knows an empty catalog.
    fn started(backends: &[&str]) -> Self {
        let mut world = Self::new(backends);
        world.input(Input::Connected(world.info.clone()));
        world.input(synced(BTreeMap::new()));
        world.forget();
        world
    }

    fn forget(&mut self) {
        self.facts.clear();
        self.sent.clear();
    }

    fn input(&mut self, input: Input) {
        self.core.handle(self.now, input);
        while let Some(output) = self.core.poll() {
            match output {
                Output::Tell(fact) => self.facts.push(fact),
                Output::Prove(services) => self.proven.extend(services),
                Output::StateFile(wanted) => self.state_file.push(wanted),
                Output::Hands(hands) => self.hands.push(hands),
                Output::Ask(question) => self.asked.push(question),
                Output::Run(batch) => {
                    let answers = batch
                        .requests
                        .iter()
                        .map(|request| self.answer(request))
                        .collect();
                    self.sent.extend(batch.requests.iter().cloned());
                    self.core
                        .handle(self.now, Input::Answered(batch.id, answers));
                }
            }
        }
    }

    fn answer(&mut self, request: &Request) -> Response {
        let rows = |name: &BackendName, observed: &ObservedBackend| {
            let row = |state: &ServerState| ServerRow {
                backend: name.clone(),
                backend_id: 3,
                state: state.clone(),
            };
            observed.servers.iter().map(row).collect::<Vec<_>>()
        };
        match request {
            Request::Info => Response::Info(self.info.clone()),
            Request::Backends => Response::Backends(self.haproxy.keys().cloned().collect()),
            Request::ServersState(None) => Response::Servers(
                self.haproxy
                    .iter()
                    .flat_map(|(name, observed)| rows(name, observed))
                    .collect(),
            ),
            Request::ServersState(Some(name)) => match self.haproxy.get(name) {
                Some(observed) => Response::Servers(rows(name, observed)),
                None => Response::NoSuchBackend,
            },
            Request::BackendRows => Response::BackendRows(BackendRows {
                unpublished: self.made(|is_published| !is_published),
                ..BackendRows::default()
            }),
            Request::Guids => Response::Guids(self.made(|_| true)),
            Request::Stat(name, _) => match self.haproxy.get(name) {
                Some(observed) => {
                    let mut stat = predict::all_quiet(observed);
                    stat.is_unpublished = self.made(|is_published| !is_published).contains(name);
                    (stat.servers.values_mut()).for_each(|row| row.sessions = self.sessions);
                    Response::Stat(stat)
                }
                None => Response::NoSuchBackend,
            },
            Request::Verdicts(..) => Response::Verdicts(BTreeMap::new()),
            Request::Map(map) => self.maps.show(map),
            Request::ChangeMap(change) => self.maps.change(change),
            Request::Change(command) => {
                if let Some(outcome) = &self.refuse {
                    return Response::Changed(outcome.clone());
                }
                if let Command::AddBackend(name, profile) = command {
                    if !self.profiles.contains(profile) {
                        let text = format!("Cannot find default proxy '{profile}'.");
                        return Response::Changed(Outcome::Refused(text));
                    }
                    self.haproxy.entry(name.clone()).or_default();
                }
                let Some(backend) = self.haproxy.get_mut(command.backend()) else {
                    let text = "No such backend.".to_owned();
                    return Response::Changed(Outcome::RetryLater(text));
                };
                predict::apply(backend, command);
                match (command, &self.remark) {
                    (Command::AddBackend(..), Some(text)) => {
                        return Response::Changed(Outcome::Notice(text.clone()));
                    }
                    (Command::DeleteBackend(name), _) => {
                        self.haproxy.remove(name);
                        return Response::Changed(Outcome::Done);
                    }
                    (_, _) => {}
                }
                let brought_in = matches!(command, Command::EnableHealth(_) | Command::Ready(_));
                let name = command.server().map(|server| &server.server);
                for server in &mut backend.servers {
                    if self.checks_fail && brought_in && server.name.as_ref() == name {
                        server.oper = crate::model::OperState::Stopped;
                    }
                }
                Response::Changed(Outcome::Done)
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.core.next_timeout().filter(|next| *next <= end) {
            self.now = self.now.max(next);
            self.input(Input::Timeout);
        }
        self.now = end;
    }

    fn changes(&self) -> Vec<&Command> {
        let mut changes = Vec::new();
        for request in &self.sent {
            if let Request::Change(command) = request {
                changes.push(command);
            }
        }
        changes
    }

    fn ready(&self, backend: &str) -> usize {
        let servers = &self.haproxy[&BackendName::new(backend).unwrap()].servers;
        servers
            .iter()
            .filter(|server| server.admin.is_ready())
            .count()
    }

    fn up(&mut self) {
        for server in self
            .haproxy
            .values_mut()
            .flat_map(|observed| &mut observed.servers)
        {
            server.oper = crate::model::OperState::Running;
        }
    }
}

fn registrations(service: &str, numbers: std::ops::Range<u8>) -> Vec<Registration> {
    let registration = |number: u8| Registration {
        id: format!("_nomad-task-{number:08x}-group-{service}").into(),
        service: ServiceKey::new("default", service),
        alloc_id: format!("{number:08x}-0000-0000-0000-000000000000").into(),
        job_id: service.into(),
        tags: vec!["haproxy.enable=true".to_owned()],
        address: format!("10.0.0.{number}"),
        port: 80,
        create_index: number.into(),
        modify_index: number.into(),
    };
    numbers.map(registration).collect()
}

fn synced(services: BTreeMap<ServiceKey, Vec<Registration>>) -> Input {
    Input::Synced {
        services,
        unproven: BTreeSet::new(),
    }
}

fn service(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn catalog(services: &[(&str, std::ops::Range<u8>)]) -> BTreeMap<ServiceKey, Vec<Registration>> {
    services
        .iter()
        .map(|(name, numbers)| (service(name), registrations(name, numbers.clone())))
        .collect()
}

#[test]
fn what_was_registered_before_the_start_is_served_whoever_comes_first() {
    for haproxy_first in [true, false] {
        let mut world = World::new(&["web", "api"]);
        let inputs = [
            Input::Connected(world.info.clone()),
            synced(catalog(&[("web", 1..4), ("api", 5..6)])),
        ];
        let order: Vec<_> = if haproxy_first {
            inputs.to_vec()
        } else {
            inputs.into_iter().rev().collect()
        };
        for input in order {
            world.input(input);
        }
        assert_eq!((world.ready("web"), world.ready("api")), (3, 1));
        assert!(world.facts.iter().any(|fact| matches!(
            fact,
            Fact::FirstSync {
                services: 2,
                servers: 4,
                ..
            }
        )));
        assert!(world.core.overview().in_sync);
    }
}

#[test]
fn a_second_sync_writes_nothing() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..4)])));
    world.forget();
    world.input(synced(catalog(&[("web", 1..4)])));
    world.wait(60 * SECOND);
    assert_eq!(world.changes(), Vec::<&Command>::new());
}

#[test]
fn a_restarted_core_writes_nothing_to_a_haproxy_that_is_right() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..4)])));
    world.up();
    let mut restarted = World::new(&[]);
    restarted.haproxy = world.haproxy;
    restarted.input(Input::Connected(restarted.info.clone()));
    restarted.input(synced(catalog(&[("web", 1..4)])));
    restarted.wait(60 * SECOND);
    assert_eq!(restarted.changes(), Vec::<&Command>::new());
}

#[test]
fn an_event_reads_and_changes_one_backend_only() {
    let mut world = World::started(&["web", "api", "db"]);
    world.input(synced(catalog(&[
        ("web", 1..4),
        ("api", 5..6),
        ("db", 7..8),
    ])));
    world.forget();
    world.input(Input::Changed(service("api"), registrations("api", 5..7)));
    for request in &world.sent {
        let backend = match request {
            Request::ServersState(Some(name)) | Request::Stat(name, _) => name,
            Request::Change(command) => command.backend(),
            Request::Info
            | Request::Backends
            | Request::BackendRows
            | Request::Guids
            | Request::Map(_)
            | Request::ChangeMap(_)
            | Request::Verdicts(..)
            | Request::ServersState(None) => {
                panic!("{request:?}")
            }
        };
        assert_eq!(backend.as_str(), "api");
    }
    assert_eq!(world.changes().len(), 3);
    assert!(
        world
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::Applied { .. })),
        "{:?}",
        world.facts
    );
}

#[test]
fn a_change_before_the_first_sync_waits_for_it() {
    let mut world = World::new(&["web"]);
    world.input(Input::Connected(world.info.clone()));
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    assert_eq!(world.ready("web"), 0);
    world.input(synced(catalog(&[("web", 1..2)])));
    assert_eq!(world.ready("web"), 1);
}

#[test]
fn what_was_down_before_haproxy_restarted_has_to_pass_its_checks_again() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..2)])));
    for server in world
        .haproxy
        .values_mut()
        .flat_map(|observed| &mut observed.servers)
    {
        server.oper = crate::model::OperState::Stopped;
    }
    world.wait(6 * SECOND);
    world.input(Input::Disconnected);
    world
        .haproxy
        .values_mut()
        .for_each(|observed| observed.servers.clear());
    world.info.pid = 2;
    world.forget();
    world.input(Input::Connected(world.info.clone()));
    let adds = world.changes().into_iter().filter(|command| {
        matches!(command, Command::AddServer(_, _, words) if words.contains(&crate::model::Keyword::InitStateFullyDown))
    });
    assert_eq!(adds.count(), 1);
}

#[test]
fn a_service_that_went_while_haproxy_was_away_is_not_put_back() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..2)])));
    world.input(Input::Disconnected);
    world.input(synced(BTreeMap::new()));
    world.input(Input::Connected(world.info.clone()));
    world.wait(HELD);
    assert_eq!(world.ready("web"), 0);
}

#[test]
fn a_lost_connection_to_the_same_process_is_not_a_restart() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..4)])));
    world.forget();
    world.input(Input::Disconnected);
    world.info.uptime = 5;
    world.input(Input::Connected(world.info.clone()));
    assert_eq!(world.changes(), Vec::<&Command>::new());
    assert!(
        !world
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::Restarted { .. }))
    );
}

#[test]
fn a_refused_server_does_not_stop_the_others_and_is_tried_again_later() {
    let mut world = World::started(&["web", "api"]);
    world.refuse = Some(Outcome::Refused(
        "Backend must use a dynamic load balancing".to_owned(),
    ));
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    assert!(
        world
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::Hindered(..))),
        "{:?}",
        world.facts
    );
    let tries = world.changes().len();
    world.wait(SECOND);
    assert_eq!(world.changes().len(), tries);
    world.wait(30 * SECOND);
    assert!(world.changes().len() > tries);
    let told = world
        .facts
        .iter()
        .filter(|fact| matches!(fact, Fact::Hindered(..) | Fact::Unhindered(..)));
    assert_eq!(told.count(), 1, "not with every try: {:?}", world.facts);
    let applied = |fact: &Fact| matches!(fact, Fact::Applied { .. });
    assert!(!world.facts.iter().any(applied), "{:?}", world.facts);
    world.refuse = None;
    world.input(Input::Changed(service("api"), registrations("api", 5..6)));
    assert_eq!(world.ready("api"), 1);
    world.wait(120 * SECOND);
    assert_eq!(world.ready("web"), 1);
    assert!(
        world
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::Unhindered(..)))
    );
}

#[test]
fn a_backend_whose_reply_is_not_understood_waits_and_the_others_go_on() {
    let mut world = World::started(&["web", "api"]);
    world.core.handle(
        world.now,
        Input::Changed(service("web"), registrations("web", 1..2)),
    );
    let Some(Output::Run(batch)) = world.core.poll() else {
        panic!("a batch was expected")
    };
    world.input(Input::Failed(
        batch.id,
        Failure::NotUnderstood("it said blah".to_owned()),
    ));
    world.input(Input::Disconnected);
    world.info.uptime = 3;
    world.input(Input::Connected(world.info.clone()));
    assert_eq!(world.ready("web"), 0);
    let told = |fact: &Fact| matches!(fact, Fact::Failed { backend: Some(_), problem, .. } if problem == "it said blah");
    assert!(world.facts.iter().any(told));
    world.input(Input::Changed(service("api"), registrations("api", 5..6)));
    assert_eq!(world.ready("api"), 1);
    world.wait(2 * SECOND);
    assert_eq!(world.ready("web"), 1);
}

#[test]
fn a_change_that_haproxy_acknowledges_but_does_not_show_is_not_repeated_without_end() {
    let mut world = World::started(&["web"]);
    world.refuse = Some(Outcome::Done);
    world.input(Input::Changed(service("web"), registrations("web", 1..2)));
    assert!(world.changes().len() < 200);
    assert!(
        world
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::Failed { .. }))
    );
}

#[test]
fn a_backend_that_appears_later_is_used_and_one_that_is_missing_is_named() {
    let mut world = World::new(&[]);
    world.info.version = Version::new(3, 2, 26);
    world.input(Input::Connected(world.info.clone()));
    world.input(synced(catalog(&[("web", 1..2)])));
    let rejected = |fact: &Fact| matches!(fact, Fact::Rejected(_, each) if matches!(each.reason, Reason::NoSuchBackend(_)));
    assert!(world.facts.iter().any(rejected));
    world
        .haproxy
        .insert(BackendName::new("web").unwrap(), ObservedBackend::default());
    world.wait(6 * SECOND);
    assert_eq!(world.ready("web"), 1);
}

#[test]
fn what_a_dead_sidecar_left_behind_is_taken_out_once_nomad_has_proven_it_gone() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..2)])));
    let mut restarted = World::new(&[]);
    restarted.haproxy = world.haproxy;
    restarted.input(Input::Connected(restarted.info.clone()));
    restarted.input(synced(BTreeMap::new()));
    restarted.wait(30 * SECOND);
    assert_eq!(restarted.ready("web"), 1);
    assert_eq!(restarted.proven, [service("web")].into());
    restarted.input(Input::Changed(service("web"), Vec::new()));
    restarted.wait(HELD);
    assert!(
        restarted
            .haproxy
            .values()
            .all(|observed| observed.servers.is_empty())
    );
}

#[test]
fn while_parts_of_the_catalog_are_unread_nothing_unknown_is_taken_out() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..3)])));
    let mut restarted = World::new(&[]);
    restarted.haproxy = world.haproxy;
    restarted.input(Input::Connected(restarted.info.clone()));
    // The second instance belongs to a service that shares the backend and could not be read.
    let unproven: BTreeSet<_> = [Scope::Service(service("other"))].into();
    restarted.input(Input::Synced {
        services: catalog(&[("web", 1..2)]),
        unproven,
    });
    restarted.wait(30 * SECOND);
    assert_eq!(restarted.ready("web"), 2);
    // What was known in this life is told to be gone, and goes.
    restarted.input(Input::Changed(service("web"), Vec::new()));
    restarted.wait(HELD);
    assert_eq!(restarted.ready("web"), 1);
    restarted.input(synced(BTreeMap::new()));
    // Seen with the next reading of everything, and then held.
    restarted.wait(5 * SECOND + HELD);
    assert_eq!(restarted.ready("web"), 0);
}

#[test]
fn what_is_missing_after_thirty_seconds_is_a_failed_sync_but_a_verdict_is_not() {
    let mut world = World::started(&["web"]);
    world.input(synced(catalog(&[("web", 1..2)])));
    world.wait(40 * SECOND);
    assert!(
        !world
            .facts
            .iter()
            .any(|fact| matches!(fact, Fact::SyncFailed { .. }))
    );
    world.refuse = Some(Outcome::Refused("no".to_owned()));
    world.input(synced(catalog(&[("web", 1..4)])));
    world.wait(31 * SECOND);
    assert!(world.facts.iter().any(|fact| matches!(
        fact,
        Fact::SyncFailed {
            missing: 2,
            wanted: 3
        }
    )));
}
