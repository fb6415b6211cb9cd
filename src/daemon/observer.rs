//! A core that writes nothing, for commands that read both sides once: it is told what a daemon would tell it, and answered as
//! by one.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    config::Config,
    haproxy::session::{Connection, SessionError},
    model::{BackendName, Scope, ServiceKey},
    nomad::watch::Read,
    reconcile::{Fact, Input, Mode, Output, Policy, Reconciler, desired::possible_services},
};

use super::{freeze::Freeze, policy, snapshot::hands};

/// The core, and what was read of the catalog.
pub(super) struct Observer {
    pub(super) core: Reconciler,
    followed: Vec<String>,
    read: BTreeSet<ServiceKey>,
    /// Nobody knows what there is in a whole namespace.
    is_blind: bool,
    policy: Policy,
}

impl Observer {
    /// It has heard what a daemon would have found on the disk.
    pub(super) fn new(config: &Config) -> Self {
        let policy = policy(config);
        let mut core = Reconciler::new(policy.clone(), Mode::Observe, 0);
        if let Some(is_frozen) = Freeze::new(config).changed() {
            core.handle(Duration::ZERO, Input::Freeze(is_frozen));
        }
        if let Some(hands) = hands::look(config) {
            core.handle(Duration::ZERO, Input::Recalled(hands));
        }
        Self {
            core,
            followed: config.nomad.namespaces.clone(),
            read: BTreeSet::new(),
            is_blind: false,
            policy,
        }
    }

    /// Takes in the catalog.
    pub(super) fn read(&mut self, read: Read) {
        let mut services = read.services;
        for scope in read.unread.keys() {
            // Of one that could not be read, too, the core shall look at what HAProxy has. As it is unproven, all of that stays.
            match scope {
                Scope::Service(service) => drop(services.entry(service.clone()).or_default()),
                Scope::Namespace(_) => self.is_blind = true,
            }
        }
        self.read = services.keys().cloned().collect();
        let unproven = read.unread.into_keys().collect();
        self.handle(Input::Synced { services, unproven });
    }

    /// No time passes while both sides are read.
    pub(super) fn handle(&mut self, input: Input) {
        self.core.handle(Duration::ZERO, input);
    }

    /// Reads of HAProxy what the core asks for; what it told, and why HAProxy was lost on the way, if it was.
    pub(super) async fn look(
        &mut self,
        connection: &mut Connection,
    ) -> (Vec<Fact>, Option<SessionError>) {
        let mut facts = Vec::new();
        while let Some(output) = self.core.poll() {
            match output {
                Output::Run(batch) => {
                    let (responses, error) = connection.run_batch(&batch).await;
                    if error.is_some() {
                        return (facts, error);
                    }
                    self.handle(Input::Answered(batch.id, responses));
                }
                Output::Prove(services) => self.prove(services),
                Output::Tell(fact) => {
                    if let Fact::Found(found) = &fact
                        && self.is_blind
                    {
                        self.follow(&found.unclaimed);
                    }
                    facts.push(fact);
                }
                // Without a running daemon nobody waits for an answer, nor for a file.
                Output::Ask(_) | Output::StateFile(_) | Output::Hands(_) => {}
            }
        }
        (facts, None)
    }

    /// Looks at what these backends have, too, whoever asks for it: nothing of it is taken out in the end, as not all was read.
    fn follow(&mut self, backends: &BTreeSet<BackendName>) {
        for backend in backends {
            for service in possible_services(backend, &self.policy) {
                if !self.read.contains(&service) {
                    self.handle(Input::Changed(service, Vec::new()));
                }
            }
        }
    }

    /// What was read is the whole catalog: what it lacks is not there, where it would have been read. If not all could be read,
    /// nothing is taken out in the end.
    fn prove(&mut self, services: BTreeSet<ServiceKey>) {
        for service in services {
            let is_followed = |one: &String| one == "*" || *one == *service.namespace;
            if self.followed.iter().any(is_followed) && !self.read.contains(&service) {
                self.handle(Input::Changed(service, Vec::new()));
            }
        }
    }
}
