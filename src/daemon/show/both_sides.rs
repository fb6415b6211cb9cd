//! Both sides, read by a command itself: for when no sidecar answers, and for what the one that runs does not follow.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    config::Config,
    daemon::{nomad_settings, observer::Observer, report::Chain},
    haproxy::session::Connection,
    model::{Batch, BatchId, Request, Response, Scope, ServiceKey},
    nomad::{
        client::Client,
        watch::{Read, read_once_within},
    },
    picture::{self, Charge, Checks, Namespace, Picture, Service, Trouble, is_registration},
    reconcile::{Input, Reconciler},
};

/// For Nomad as a whole. A command is not worth waiting longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many services are read to find an allocation or an address.
const MOST_READ: usize = 500;

/// How everything stands, as far as both sides tell, and HAProxy's words on the checks of each backend.
pub(super) struct BothSides {
    pub(super) picture: Picture,
    pub(super) connection: Option<Connection>,
    pub(super) core: Reconciler,
}

impl BothSides {
    pub(super) async fn read(config: &Config) -> Self {
        let mut observer = Observer::new(config);
        let settings = nomad_settings(config);
        let read = read_once_within(PATIENCE, &settings).await;
        let opened = Connection::open(&config.haproxy).await;
        let (mut connection, mut problem) = match opened {
            Ok((connection, info)) => {
                observer.handle(Input::Connected(info));
                (Some(connection), None)
            }
            Err(error) => (None, Some(Chain(&error).to_string())),
        };
        let namespaces = config.nomad.namespaces.iter();
        let namespaces: Vec<_> = namespaces.map(|name| namespace(name, &read)).collect();
        let is_whole = read.unread.is_empty();
        observer.read(read);
        if let Some(connection) = &mut connection {
            let (_, lost) = observer.look(connection).await;
            problem = lost.map(|error| Chain(&error).to_string());
        }
        let core = observer.core;
        let mut picture = core.picture(Duration::ZERO);
        env!("CARGO_PKG_VERSION").clone_into(&mut picture.sidecar.version);
        picture.taken_at = crate::daemon::report::wall_clock();
        picture.sidecar.charge = Charge::Nobody;
        picture.haproxy.problem = problem;
        picture.nomad.address = config.nomad.endpoints.to_string();
        picture.nomad.known = namespaces.iter().any(|one| one.current_ms.is_some());
        picture.nomad.namespaces = namespaces;
        if !is_whole {
            // Some of these are there for the sake of what HAProxy has.
            (picture.services).retain(|service| !service.registrations.is_empty());
        }
        Self {
            picture,
            connection,
            core,
        }
    }

    /// HAProxy's words on the checks of a backend.
    pub(super) async fn checks(&mut self, backend: &str) -> Option<Checks> {
        let request: Request = self.core.ask_for_verdicts(backend)?;
        let batch = Batch {
            id: BatchId(u64::MAX),
            requests: [request].into(),
            lock_step: false,
        };
        let (responses, _) = self.connection.as_mut()?.run_batch(&batch).await;
        let Response::Verdicts(verdicts) = responses.into_iter().next()? else {
            return None;
        };
        Some(super::verdicts::checks(verdicts))
    }
}

/// A namespace as it was read, or why not: itself, or something in it.
fn namespace(name: &str, read: &Read) -> Namespace {
    let is_of_it = |scope: &Scope| match scope {
        Scope::Namespace(of) => **of == *name || **of == *"*",
        Scope::Service(key) => name == "*" || *key.namespace == *name,
    };
    let unread = read.unread.iter().find(|(scope, _)| is_of_it(scope));
    let is_read = !matches!(unread, Some((Scope::Namespace(_), _)));
    Namespace {
        name: name.to_owned(),
        followed: "none".to_owned(),
        current_ms: is_read.then_some(0),
        trouble: unread.map(|(_, why)| Trouble {
            text: why.to_string(),
            ..Trouble::default()
        }),
        ..Namespace::default()
    }
}

/// What Nomad has of `what` that the picture lacks: a service, or those with such an allocation, address, job or registration.
pub(super) async fn elsewhere(config: &Config, what: &str) -> (Vec<Service>, Option<String>) {
    match timeout(PATIENCE, search(config, what)).await {
        Ok(found) => found,
        Err(_) => (
            Vec::new(),
            Some(format!("Nomad did not answer within {PATIENCE:?}")),
        ),
    }
}

async fn search(config: &Config, what: &str) -> (Vec<Service>, Option<String>) {
    let mut client = Client::new(Arc::new(nomad_settings(config)));
    let (mut listed, mut problem) = (Vec::new(), None);
    // Whoever may see all namespaces learns that it is in another one.
    let all = std::iter::once("*").chain(config.nomad.namespaces.iter().map(String::as_str));
    for namespace in all {
        match client.list(namespace, None).await {
            Ok(answer) => {
                problem = None;
                listed.extend(answer.value.into_iter().map(|service| service.key));
                if namespace == "*" {
                    break;
                }
            }
            Err(failed) => problem = Some(failed.to_string()),
        }
    }
    let is_named = |key: &ServiceKey| *key.name == *what || key.to_string() == what;
    let named: Vec<_> = listed.iter().filter(|key| is_named(key)).cloned().collect();
    let is_by_name = !named.is_empty();
    let to_read = if is_by_name { named } else { listed };
    let mut found = Vec::new();
    for key in to_read.into_iter().take(MOST_READ) {
        let Ok(answer) = client.read(&key, None).await else {
            continue;
        };
        let drawn = answer.value.iter().map(picture::Registration::from);
        let fits = |one: &picture::Registration| is_by_name || is_registration(one, what);
        let registrations: Vec<_> = drawn.filter(fits).collect();
        if !registrations.is_empty() {
            found.push(Service {
                namespace: (&key.namespace).into(),
                name: (&key.name).into(),
                registrations,
            });
        }
    }
    (found, problem)
}
