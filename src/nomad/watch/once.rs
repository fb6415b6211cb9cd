//! Reads the catalog once, for commands: what of it can be read, and what cannot.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::sleep_until;

use super::Watch;
use crate::{
    catalog::{FailureKind, Scope, Synced, Tell},
    model::{Registration, ServiceKey},
    nomad::{
        route::Route,
        settings::Settings,
        traffic::Traffic,
        transport::{Dial, Dialler},
    },
};

/// What was read of the catalog at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Every service that is wanted and could be read.
    pub services: BTreeMap<ServiceKey, Vec<Registration>>,
    /// What could not be, and why: that a service of these is not in `services` proves nothing.
    pub unread: BTreeMap<Scope, Unread>,
}

/// Reads the catalog once.
///
/// # Errors
///
/// When nothing of it can be read or believed.
pub async fn read_once(settings: &Settings) -> Result<Read, Unread> {
    read_once_with(settings, Arc::new(Dialler)).await
}

/// The same by whoever waits no longer than that, and shows whatever was read by then.
pub async fn read_once_within(patience: Duration, settings: &Settings) -> Read {
    read(settings, Arc::new(Dialler), Some(patience)).await
}

/// As [`read_once`], over connections that `dial` makes.
///
/// # Errors
///
/// When nothing of it can be read or believed.
pub async fn read_once_with(settings: &Settings, dial: Arc<dyn Dial>) -> Result<Read, Unread> {
    let read = read(settings, dial, None).await;
    let mut lists = followed(&settings.namespaces).map(|list| read.unread.get(&list));
    let first = lists.next().flatten();
    match first.filter(|_| lists.all(|why| why.is_some())) {
        Some(why) => Err(why.clone()),
        None => Ok(read),
    }
}

async fn read(settings: &Settings, dial: Arc<dyn Dial>, patience: Option<Duration>) -> Read {
    let settings = Arc::new(settings.clone());
    let mut watch = Watch::new(Route::with_dial(
        settings,
        dial,
        Arc::new(Traffic::default()),
    ));
    watch.streams = None;
    let mut told = Told::default();
    let started = watch.started;
    let mut deadline = patience.map(|patience| started + patience);
    loop {
        watch.ask();
        while let Some(tell) = watch.mirror.poll_tell() {
            told.hear(tell);
        }
        if let Some(end) = told.end(&watch.settings.namespaces) {
            return end;
        }
        tokio::select! {
            () = watch.next() => {}
            () = sleep_until(deadline.unwrap_or(started)), if deadline.is_some() => {
                deadline = None;
                watch.mirror.give_up(started.elapsed());
            }
        }
    }
}

/// The catalog, or a part of it, could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unread {
    /// What could not be read.
    pub scope: Scope,
    /// What kind of failure it was.
    pub kind: FailureKind,
    text: String,
}

/// What the mirror has told while the catalog is read once.
#[derive(Default)]
struct Told {
    synced: Option<Synced>,
    troubles: BTreeMap<Scope, Unread>,
}

impl Told {
    fn hear(&mut self, tell: Tell) {
        match tell {
            Tell::Trouble { scope, failure } => {
                let (kind, text) = (failure.kind, failure.text);
                let unread = Unread {
                    scope: scope.clone(),
                    kind,
                    text,
                };
                self.troubles.insert(scope, unread);
            }
            Tell::Recovered { scope } => drop(self.troubles.remove(&scope)),
            Tell::Synced(synced) => self.synced = Some(synced),
            Tell::Changed { .. }
            | Tell::Current { .. }
            | Tell::Following { .. }
            | Tell::StreamLost { .. }
            | Tell::IndexWentBack { .. }
            | Tell::Rereads { .. } => {}
        }
    }

    /// What became of it, when all was read but what is in trouble.
    fn end(&mut self, namespaces: &[String]) -> Option<Read> {
        let why = |scope: Scope| {
            let why = self.why(&scope)?.clone();
            Some((scope, why))
        };
        let unread: Option<_> = match &self.synced {
            Some(synced) => synced.unproven.iter().cloned().map(why).collect(),
            None => followed(namespaces).map(why).collect(),
        };
        let unread = unread?;
        let synced = self.synced.take();
        let services = synced.map_or_else(BTreeMap::new, |synced| synced.services);
        Some(Read { services, unread })
    }

    /// A denial of all services of a namespace is told once.
    fn why(&self, scope: &Scope) -> Option<&Unread> {
        let namespace = match scope {
            Scope::Service(key) => &key.namespace,
            Scope::Namespace(name) => name,
        };
        let whole = || self.troubles.get(&Scope::Namespace(Arc::clone(namespace)));
        self.troubles.get(scope).or_else(whole)
    }
}

/// What is listed: each of these, or `*` for all.
fn followed(namespaces: &[String]) -> impl Iterator<Item = Scope> {
    let star = namespaces.iter().any(|name| name == "*");
    let listed = namespaces.iter().filter(move |name| !star || *name == "*");
    listed.map(|name| Scope::Namespace(name.as_str().into()))
}
