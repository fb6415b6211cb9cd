//! Reads the catalog once, for commands: what of it can be read, and what cannot.

use std::{collections::BTreeMap, sync::Arc};

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

/// As [`read_once`], over connections that `dial` makes.
///
/// # Errors
///
/// When nothing of it can be read or believed.
pub async fn read_once_with(settings: &Settings, dial: Arc<dyn Dial>) -> Result<Read, Unread> {
    let settings = Arc::new(settings.clone());
    let mut watch = Watch::new(Route::with_dial(
        settings,
        dial,
        Arc::new(Traffic::default()),
    ));
    watch.streams = None;
    let mut told = Told::default();
    loop {
        watch.ask();
        while let Some(tell) = watch.mirror.poll_tell() {
            told.hear(tell);
        }
        if let Some(end) = told.end(&watch.settings.namespaces) {
            return end;
        }
        watch.next().await;
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
    fn end(&mut self, namespaces: &[String]) -> Option<Result<Read, Unread>> {
        let Some(synced) = &self.synced else {
            let star = namespaces.iter().any(|name| name == "*");
            let mut followed = namespaces.iter().filter(|name| !star || *name == "*");
            let trouble =
                |name: &String| self.troubles.get(&Scope::Namespace(name.as_str().into()));
            let is_over = followed.clone().all(|name| trouble(name).is_some());
            return followed
                .find_map(trouble)
                .filter(|_| is_over)
                .cloned()
                .map(Err);
        };
        let unread = synced.unproven.iter().map(|scope| {
            let why = self.why(scope)?.clone();
            Some((scope.clone(), why))
        });
        let unread = unread.collect::<Option<_>>()?;
        let services = self.synced.take()?.services;
        Some(Ok(Read { services, unread }))
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
