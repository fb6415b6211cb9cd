//! A HAProxy without faults of its own, and the reconciler that follows the mirror: whatever the weather, no server is
//! taken out whose registration the mirror knows, and in the end those in rotation are those of the catalog.

use std::{collections::BTreeSet, net::SocketAddr, rc::Rc, time::Duration};

use haproxy_nomad_sidecar::{
    catalog::Tell,
    haproxy::{command::print, reply},
    model::{Batch, Command, Registration, Request, Response},
    reconcile::{Input, Mode, Output, Policy, Reconciler},
};

use crate::{
    haproxy_model::{Backend, Check, Conduct, Config, Model, View},
    weather::{
        book::Book,
        plan::{INSTANCES, SERVICES},
    },
};

/// Of a batch.
const ROUND_TRIP: Duration = Duration::from_millis(1);

pub(crate) struct Haproxy {
    core: Reconciler,
    process: Model,
    now: Duration,
}

impl Haproxy {
    pub(crate) fn new(seed: u64, version: &'static str) -> Self {
        let everybody_serves = |_: SocketAddr, _: Duration| Conduct::Serves;
        let process = Model::new(
            version,
            config(),
            Rc::new(everybody_serves),
            100,
            Duration::ZERO,
        );
        let mut haproxy = Self {
            core: Reconciler::new(Policy::default(), Mode::Act, seed),
            process,
            now: Duration::ZERO,
        };
        let text = haproxy.process.execute(Duration::ZERO, "show info");
        let Ok(Response::Info(info)) = reply::read(&Request::Info, text.as_bytes()) else {
            panic!("show info is read");
        };
        haproxy.core.handle(Duration::ZERO, Input::Connected(info));
        haproxy
    }

    /// It is `now`, and the mirror may have said something.
    pub(crate) fn follow(&mut self, now: Duration, book: &mut Book) {
        let said = book.take_said();
        if said.is_empty() && self.due(Duration::MAX) > now {
            return;
        }
        let known = book.addresses();
        let mut broken = self.advance(now, &known);
        for tell in said {
            let input = match tell {
                Tell::Synced(synced) => Input::Synced {
                    services: synced.services,
                    unproven: synced.unproven,
                },
                Tell::Changed {
                    key, registrations, ..
                } => Input::Changed(key, registrations),
                _ => continue,
            };
            self.core.handle(self.now, input);
            broken = broken.or_else(|| self.carry_out(&known));
        }
        if let Some(how) = broken {
            book.violated(format!("at {now:?} HAProxy: {how}"));
        }
    }

    fn advance(&mut self, until: Duration, known: &BTreeSet<SocketAddr>) -> Option<String> {
        while self.due(Duration::MAX) <= until {
            let due = self.due(until);
            self.pass(due);
            self.core.handle(self.now, Input::Timeout);
            let broken = self.carry_out(known);
            if broken.is_some() {
                return broken;
            }
        }
        self.pass(until);
        None
    }

    /// It is `now`, unless it is later already.
    fn pass(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.process.advance(self.now);
    }

    fn due(&self, otherwise: Duration) -> Duration {
        self.core.next_timeout().unwrap_or(otherwise)
    }

    fn carry_out(&mut self, known: &BTreeSet<SocketAddr>) -> Option<String> {
        while let Some(output) = self.core.poll() {
            let Output::Run(batch) = output else {
                // Nothing was left behind by another sidecar, so there is nothing to prove.
                continue;
            };
            let broken = self.judge(&batch, known);
            if broken.is_some() {
                return broken;
            }
            let answers = batch.requests.iter().map(|request| {
                let text = self.process.execute(self.now, print(request).trim_end());
                reply::read(request, text.as_bytes()).expect("the answer is understood")
            });
            let answers = answers.collect();
            self.pass(self.now + ROUND_TRIP);
            self.core
                .handle(self.now, Input::Answered(batch.id, answers));
        }
        None
    }

    fn judge(&self, batch: &Batch, known: &BTreeSet<SocketAddr>) -> Option<String> {
        let servers = self.process.servers();
        batch.requests.iter().find_map(|request| {
            let Request::Change(
                command @ (Command::Drain(server)
                | Command::Maintenance(server)
                | Command::DeleteServer(server)),
            ) = request
            else {
                return None;
            };
            let is_it = |view: &&View| {
                view.in_rotation
                    && view.backend == server.backend.as_str()
                    && view.name == server.server.as_str()
            };
            let view = servers.iter().find(is_it)?;
            let lives = known.contains(&view.address);
            lives.then(|| {
                format!(
                    "{command:?} at {}, whose registration is known",
                    view.address
                )
            })
        })
    }

    /// The addresses in rotation, in the backends of the configuration: 3.4 makes others for the services that have none.
    pub(crate) fn in_rotation(&self) -> BTreeSet<SocketAddr> {
        let backends = config().backends;
        let is_of_file = |view: &View| backends.iter().any(|one| one.name == view.backend);
        let servers = self.process.servers().into_iter();
        let rotating = servers.filter(|view| view.in_rotation && is_of_file(view));
        rotating.map(|view| view.address).collect()
    }
}

/// Where a registration is served, if it has a backend.
pub(crate) fn address(one: &Registration) -> Option<SocketAddr> {
    let (namespace, name) = (&*one.service.namespace, &*one.service.name);
    let port = u16::try_from(one.port).ok()?;
    let address = SocketAddr::new(one.address.parse().ok()?, port);
    SERVICES.contains(&(namespace, name)).then_some(address)
}

/// A backend of each service; slots and dynamic servers in turn.
fn config() -> Config {
    let placeholder: SocketAddr = ([127, 0, 0, 1], 1).into();
    let check = Some(Check::every(Duration::from_millis(500)));
    let backends = SERVICES.iter().enumerate().map(|(at, (namespace, name))| {
        let backend = match *namespace {
            "default" => Backend::new(name),
            _ => Backend::new(&format!("{namespace}.{name}")),
        };
        // Room for those that drain.
        let slots = u16::try_from(8 * INSTANCES).unwrap();
        if at % 2 == 0 {
            backend.template("nomad", slots.into(), placeholder, check)
        } else {
            backend
        }
    });
    Config {
        backends: backends.collect(),
    }
}
