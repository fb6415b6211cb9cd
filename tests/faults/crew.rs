//! The instances of one service: two that stay, one that leaves and one that joins meanwhile, and one that is registered and
//! never passes its check.

use std::{
    net::SocketAddr,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Handle;

use crate::{
    kind::Kind,
    support::{
        app::{App, loopback},
        fake_nomad::{Deletion, ServiceRegistration},
        world::{ENABLED, Nomad},
    },
};

/// How long the one that joins boots after it is registered.
const BOOTS: Duration = Duration::from_millis(500);

pub(crate) struct Crew {
    pub(crate) kind: Kind,
    runtime: Handle,
    pub(crate) stays: [Instance; 2],
    pub(crate) leaves: Instance,
    pub(crate) sick: Instance,
    joins: OnceLock<Instance>,
}

pub(crate) struct Instance {
    pub(crate) app: App,
    row: ServiceRegistration,
}

impl Crew {
    /// All but the one that joins later are registered.
    pub(crate) fn start(runtime: &Handle, nomad: &Nomad, kind: Kind) -> Self {
        let boot = |name| Instance::boot(runtime, kind, name, Duration::ZERO);
        let crew = Self {
            kind,
            runtime: runtime.clone(),
            stays: [boot("stays-1"), boot("stays-2")],
            leaves: boot("leaves"),
            sick: boot("sick"),
            joins: OnceLock::new(),
        };
        crew.sick.app.set_healthy(false);
        for instance in crew.stays.iter().chain([&crew.leaves, &crew.sick]) {
            nomad.register(instance.row.clone());
        }
        crew
    }

    /// One is registered, another one no longer.
    pub(crate) fn change(&self, nomad: &Nomad) {
        let boot = || Instance::boot(&self.runtime, self.kind, "joins", BOOTS);
        self.joins.get_or_init(boot);
        self.correct(nomad);
    }

    /// What is registered is what it ought to be, if anything has changed so far.
    pub(crate) fn correct(&self, nomad: &Nomad) {
        if let Some(joins) = self.joins.get() {
            let kind = Deletion::ServiceDeregistration;
            nomad.deregister(&[self.leaves.row.key()], kind);
            nomad.register(joins.row.clone());
        }
    }

    /// Those that are registered and healthy.
    pub(crate) fn healthy(&self) -> impl Iterator<Item = &App> {
        let [first, second] = &self.stays;
        let third = self.joins.get().unwrap_or(&self.leaves);
        [first, second, third]
            .map(|instance| &instance.app)
            .into_iter()
    }
}

impl Instance {
    fn boot(runtime: &Handle, kind: Kind, name: &str, boots: Duration) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let service = kind.name;
        let name = format!("{service}-{name}");
        let app = App::boot(runtime, &name, SocketAddr::from((loopback(), 0)), boots)
            .expect("a port can be had");
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let row = ServiceRegistration::new(service, number, i64::from(app.address().port()))
            .address(&app.address().ip().to_string());
        let domain = kind
            .route
            .map(|route| format!("haproxy.domain={}", route.domain));
        let tags: Vec<_> = [ENABLED].into_iter().chain(domain.as_deref()).collect();
        let row = row.tags(&tags);
        Self { app, row }
    }
}
