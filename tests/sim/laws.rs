//! What must hold: after every step, before every batch, and in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use haproxy_nomad_sidecar::{
    model::{BackendName, Batch, Command, Registration, Request, ServerRef},
    reconcile::{
        LeftServer,
        desired::{DesiredServer, one_per_address},
    },
};

use crate::{
    haproxy_model::{Conduct, Model, View},
    invariants::{FOREIGN, NOTHING_REMOVED, OPERATORS},
    rules::HAPROXY_ADMITS,
    world::{Resolved, World},
};

/// Admin bits.
const MAINTENANCE: u8 = 1;
const DISABLED: u8 = 4;
const DRAIN: u8 = 8;

/// HAProxy puts a server back at once that was in rotation so short a time ago in the process before.
const PUT_BACK: Duration = Duration::from_secs(90);
/// By then the sidecar has seen what an operator did.
const SEEN_BY: Duration = Duration::from_secs(6);

/// What was done within a simulated second.
#[derive(Default)]
pub(crate) struct Load {
    second: u64,
    pub(crate) timeouts: u64,
    pub(crate) ticks: u64,
    pub(crate) batches: u64,
    pub(crate) asked: u64,
    pub(crate) lines: u64,
    /// The most of each in any second, for people who tune the bounds.
    pub(crate) most: [u64; 5],
}

/// No second may have more than this: timeouts of the core, ticks of the mirror, batches, questions to Nomad, lines.
const BOUNDS: [u64; 5] = [2_000, 200, 1_500, 200, 4_000];

/// The weight of [`Deed::Weight`].
pub(crate) const BY_HAND: u16 = 3;

/// What an operator does to a server of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Maintenance,
    Drain,
    /// Neither the weight of a configuration line nor one of any tags.
    Weight,
    /// A sidecar that has just started takes it for what its predecessor died on, unless that one has told.
    WeightZero,
    /// The same, and there is such a one, or one that has not seen this process before.
    UnsureZero,
}

impl Deed {
    /// Whether it is seen on a server. What the sidecar takes out has weight 0.
    fn shows(self, view: &View) -> bool {
        let is_out = view.admin & (MAINTENANCE | DRAIN) != 0;
        match self {
            Self::Maintenance => {
                view.admin & MAINTENANCE != 0 && view.weight != 0 && view.address.port() != 1
            }
            Self::Drain => view.admin & DRAIN != 0 && view.weight != 0,
            Self::Weight => !is_out && view.weight == BY_HAND,
            Self::WeightZero | Self::UnsureZero => !is_out && view.weight == 0,
        }
    }
}

/// What a sidecar has told that it knows to be by hand.
type Known = BTreeMap<BackendName, BTreeSet<LeftServer>>;

/// The hand of an operator.
#[derive(Default)]
pub(crate) struct Operator {
    /// Servers that it has changed, how, and when.
    pub(crate) held: BTreeMap<(String, String), (Deed, Duration)>,
    /// What it has undone, and where that server was; without an address what another process has not.
    pub(crate) undone: BTreeMap<(String, String), (Deed, Option<SocketAddr>)>,
    /// Those that it has changed in this process.
    pub(crate) touched: BTreeSet<(String, String)>,
    /// What its own servers must look like.
    foreign: BTreeMap<(String, String), (u8, u16, SocketAddr)>,
    /// What was in rotation in a former process, and until when.
    rotated: BTreeMap<(String, SocketAddr), Duration>,
    leaks_seen: usize,
}

impl Operator {
    /// A sidecar that has just started may take weight 0 for what its predecessor died on, unless that one has told.
    pub(crate) fn forget_unless_known(&mut self, known: Option<&Known>) {
        let servers = known.into_iter().flatten();
        let pairs = servers.flat_map(|(backend, servers)| {
            let names = servers.iter().map(|left| left.name.to_string());
            names.map(|name| (backend.to_string(), name))
        });
        let known: BTreeSet<_> = pairs.collect();
        for (server, (deed, _)) in &mut self.held {
            if *deed == Deed::WeightZero && !known.contains(server) {
                *deed = Deed::UnsureZero;
            }
        }
    }

    /// So it may what was done since then and before it has looked.
    pub(crate) fn forget_zeros(&mut self, since: Duration) {
        for (deed, at) in self.held.values_mut() {
            if *deed == Deed::WeightZero && *at >= since {
                *deed = Deed::UnsureZero;
            }
        }
    }

    /// What was done by hand is gone, unless a state file brought it back. A file may be older than what was undone: gives
    /// the servers on which it has to be undone once more.
    pub(crate) fn process_is_new(
        &mut self,
        process: &Model,
        now: Duration,
    ) -> Vec<(String, String)> {
        let now_at = |(backend, name): &(String, String), deed: Deed| {
            let view = process.server(backend, name)?;
            deed.shows(&view).then_some(view.address)
        };
        let undone = std::mem::take(&mut self.undone).into_iter();
        // A file that was written when the former process ended may bring it back in the next but one.
        self.held.retain(|server, (deed, _)| {
            let stays = now_at(server, *deed).is_some();
            if !stays {
                self.undone.insert(server.clone(), (*deed, None));
            }
            stays
        });
        let is_back = |server: &(String, String), deed: Deed, at: Option<SocketAddr>| {
            let now = now_at(server, deed);
            now.is_some() && (at.is_none() || at == now)
        };
        let back: Vec<_> = undone
            .filter(|(server, (deed, at))| is_back(server, *deed, *at))
            .map(|(server, (deed, _))| (server, (deed, now)))
            .collect();
        let servers = back.iter().map(|(server, _)| server.clone()).collect();
        self.held.extend(back);
        self.touched.clear();
        self.foreign.clear();
        self.leaks_seen = 0;
        servers
    }
}

/// What is not as it should be.
enum Missing {
    Server(String),
    Leftover(String),
}

fn is_slot(view: &View) -> bool {
    let number = view
        .name
        .strip_prefix("nomad")
        .is_some_and(|rest| rest.parse::<u32>().is_ok());
    !view.dynamic && number && view.admin & DISABLED != 0
}

fn is_ours(view: &View, followed: bool) -> bool {
    followed && (is_slot(view) || view.dynamic)
}

/// No service resolves to the others.
fn is_ever_followed(backend: &str) -> bool {
    backend != "nomad" && backend != "operators"
}

impl World {
    /// After every step.
    pub(crate) fn check_laws(&mut self) {
        self.check_load();
        let Some(pid) = self.current_pid else { return };
        let process = &self.processes[&pid];
        let leaks = &process.leaks()[self.operator.leaks_seen..];
        let mut broken = None;
        for leak in leaks {
            let backend = leak.server.split('/').next().unwrap();
            // Nobody listens at the placeholder, and a cookie that nobody has brings nobody.
            let reaches_nobody = leak.cookie.as_ref().is_some_and(|cookie| {
                leak.address.port() == 1 || !self.clients.hold_cookie(backend, cookie)
            });
            if !reaches_nobody && !self.may_be_put_back(backend, leak.address) {
                let whom = leak.cookie.as_ref().map_or("", |_| ", for its cookie");
                broken = Some(format!("{} at {}{whom}", leak.server, leak.address));
            }
        }
        self.operator.leaks_seen += leaks.len();
        if let Some(how) = broken {
            self.violated(HAPROXY_ADMITS, &how);
        }
    }

    /// What was in rotation in the process before may be served at once.
    pub(crate) fn may_be_put_back(&self, backend: &str, address: SocketAddr) -> bool {
        let served_before = self.operator.rotated.get(&(backend.to_owned(), address));
        served_before.is_some_and(|until| *until >= self.now)
    }

    fn check_load(&mut self) {
        let load = &mut self.load;
        let now = [
            load.timeouts,
            load.ticks,
            load.batches,
            load.asked,
            load.lines,
        ];
        for (most, now) in load.most.iter_mut().zip(now) {
            *most = now.max(*most);
        }
        if now.iter().zip(BOUNDS).any(|(now, bound)| *now > bound) {
            let how = format!("timeouts, ticks, batches, questions, lines: {now:?}");
            *load = Load::default();
            return self.violated("nothing spins", &how);
        }
        if load.second != self.now.as_secs() {
            *load = Load {
                second: self.now.as_secs(),
                most: load.most,
                ..Load::default()
            };
        }
    }

    /// After every change.
    pub(crate) fn check_foreign(&mut self) {
        let mut broken = None;
        for view in self.servers() {
            let followed = is_ever_followed(&view.backend);
            if is_ours(&view, followed) {
                continue;
            }
            let is = (view.admin, view.weight, view.address);
            let key = (view.backend.clone(), view.name.clone());
            let was = *self.operator.foreign.entry(key).or_insert(is);
            if was != is {
                broken = Some(format!(
                    "{}/{} was {was:?} and is {is:?}",
                    view.backend, view.name
                ));
            }
        }
        if let Some(how) = broken {
            self.violated(FOREIGN, &how);
        }
    }

    /// Before a batch goes: what it takes out must have been told to be gone.
    pub(crate) fn judge(&mut self, batch: &Batch) {
        let commands: Vec<&Command> = batch
            .requests
            .iter()
            .filter_map(|request| match request {
                Request::Change(command) => Some(command),
                Request::Info
                | Request::Backends
                | Request::ServersState(_)
                | Request::Stat(..)
                | Request::Map(_)
                | Request::ChangeMap(_)
                | Request::Verdicts(..)
                | Request::BackendRows
                | Request::Guids => None,
            })
            .collect();
        if commands.is_empty() {
            return;
        }
        let servers = self.servers();
        let readied: BTreeSet<&ServerRef> = commands
            .iter()
            .filter(|command| matches!(command, Command::Ready(_)))
            .filter_map(|command| command.server())
            .collect();
        for &command in &commands {
            let Some(server) = command.server() else {
                continue;
            };
            let (backend, name) = (server.backend.as_str(), server.server.as_str());
            let Some(view) = servers
                .iter()
                .find(|one| one.backend == backend && one.name == name)
            else {
                continue;
            };
            let owners = self
                .ledger
                .owners(backend, view.address, view.dynamic.then_some(name));
            // Where another registration was admitted, it is not the owner's server, though it has its address.
            let admitted = self.admitted(view);
            let is_its = |id: &str| view.dynamic || admitted.is_none_or(|one| *one.id == *id);
            // Whose allocation has ended does not count.
            let owners = owners
                .iter()
                .filter(|one| is_its(&one.id) && !self.is_said_to_have_ended(&one.alloc_id));
            let owners: Vec<String> = owners.map(|one| one.id.to_string()).collect();
            let takes_out = match command {
                Command::Drain(_) => !readied.contains(server),
                Command::Maintenance(_)
                | Command::DeleteServer(_)
                | Command::ShutdownSessions(_) => true,
                Command::SetAddress(_, address) => {
                    view.admin & MAINTENANCE == 0 && address.to_string() != view.address.to_string()
                }
                Command::Ready(_)
                | Command::HealthDown(_)
                | Command::EnableHealth(_)
                | Command::EnableAgent(_)
                | Command::DisableAgent(_)
                | Command::SetWeight(..)
                | Command::SetMaxconn(..)
                | Command::AddServer(..)
                | Command::AddBackend(..)
                | Command::PublishBackend(_)
                | Command::UnpublishBackend(_)
                | Command::DeleteBackend(_) => false,
            };
            let doubled = servers.iter().any(|other| {
                other.backend == backend
                    && other.address == view.address
                    && other.name != name
                    && other.admin & MAINTENANCE == 0
            });
            // Of two instances with one address the other is served now: where clients have cookies, in another slot.
            let moves = commands.iter().any(|other| {
                matches!(other, Command::SetAddress(_, address)
                    if other.server() != Some(server) && address.to_string() == view.address.to_string())
            });
            let is_anothers = matches!(command, Command::Maintenance(_)) && self.was_shared(view);
            if takes_out && !owners.is_empty() && !doubled && !moves && !is_anothers {
                let how = format!("{command:?} at {} takes out {owners:?}", view.address);
                self.violated(NOTHING_REMOVED, &how);
            }
            let key = (backend.to_owned(), name.to_owned());
            if owners.is_empty() {
                self.operator.held.remove(&key);
            } else if let Some((deed, since)) = self.operator.held.get(&key)
                && *deed != Deed::UnsureZero
                && self.now > *since + SEEN_BY
            {
                let how = format!("{deed:?} by hand, and {command:?}");
                self.violated(OPERATORS, &how);
            }
        }
    }

    /// What `process` has in rotation may be put back at once in the next.
    pub(crate) fn remember_rotation(&mut self, pid: u32) {
        for view in self.processes[&pid].servers() {
            let server = (view.backend.clone(), view.name.clone());
            // What an operator did a moment ago, no sidecar has seen.
            let held = self.operator.held.get(&server);
            let seems_to_rotate = held.is_some_and(|(_, since)| self.now <= *since + SEEN_BY);
            if view.in_rotation || view.has_passed || seems_to_rotate {
                self.operator
                    .rotated
                    .insert((view.backend, view.address), self.now + PUT_BACK);
            }
        }
    }

    /// What the catalog asks for at this moment, with the namespace.
    pub(crate) fn resolved(&self) -> Rc<Resolved> {
        let version = self.nomad.version();
        let mut last = self.resolved.borrow_mut();
        if last.0 != version {
            let all = self.nomad.table().values();
            let resolve = |one| Some((Registration::clone(one), self.ledger.resolve(one)?));
            let resolved = all.filter_map(resolve);
            *last = (version, Rc::new(resolved.collect()));
        }
        Rc::clone(&last.1)
    }

    /// Whether anything resolves to this backend at this moment.
    pub(crate) fn is_followed(&self, backend: &str) -> bool {
        let resolved = self.resolved();
        let mut names = resolved.iter().map(|(_, (name, _))| name.as_str());
        names.any(|name| name == backend)
    }

    /// What is not as it should be, when everything has come to rest.
    pub(crate) fn missing(&self) -> Option<String> {
        if let Some(gone) = self.ledger.outdated(self.nomad.table()) {
            return Some(format!("{} is not known to be gone", gone.id));
        }
        let missing = self.missing_among(&|_| true).map(|missing| match missing {
            Missing::Server(text) | Missing::Leftover(text) => text,
        });
        missing.or_else(|| self.missing_route())
    }

    /// A server that is not in service, though it should be, in any backend but this.
    pub(crate) fn unserved_beside(&self, backend: &str) -> Option<String> {
        match self.missing_among(&|name| name != backend)? {
            Missing::Server(text) => Some(text),
            Missing::Leftover(_) => None,
        }
    }

    fn missing_among(&self, is_looked_at: &dyn Fn(&str) -> bool) -> Option<Missing> {
        let resolved = self.resolved();
        let resolved = resolved
            .iter()
            .filter(|(one, _)| self.star || &*one.service.namespace == "default");
        let servers = self.servers();
        for config in &self.config.backends {
            if !is_looked_at(&config.name) {
                continue;
            }
            let wanted = resolved
                .clone()
                .filter(|(_, (backend, _))| backend.as_str() == config.name)
                .map(|(_, (_, server))| server);
            let (wanted, _) = one_per_address(wanted);
            let here: Vec<&View> = servers
                .iter()
                .filter(|view| view.backend == config.name)
                .collect();
            let is_followed = self.is_followed(&config.name);
            let found = self.missing_in(&config.name, &wanted, &here, is_followed);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    fn missing_in(
        &self,
        backend: &str,
        wanted: &[&DesiredServer],
        here: &[&View],
        is_followed: bool,
    ) -> Option<Missing> {
        let slots = here.iter().filter(|view| is_slot(view)).count();
        let mut homeless = 0;
        let mut served = BTreeSet::new();
        let mut awaited = BTreeSet::new();
        for server in wanted {
            let address: SocketAddr = server.address.to_string().parse().unwrap();
            let is_its = |view: &&&View| {
                if slots > 0 {
                    is_slot(view)
                        && view.address == address
                        && (view.admin & MAINTENANCE == 0 || self.is_held(view))
                } else {
                    // One that an operator changed is not replaced when its tags change.
                    view.name == server.name.as_str()
                        || (view.address == address && self.is_held(view))
                }
            };
            let Some(view) = here.iter().find(is_its) else {
                homeless += 1;
                if slots == 0 || homeless > wanted.len().saturating_sub(slots) {
                    return Some(Missing::Server(format!(
                        "{} has no server in {backend}",
                        server.registration
                    )));
                }
                continue;
            };
            served.insert(view.name.clone());
            let is_good = self.conducts.borrow().get(&address) == Some(&Conduct::Serves);
            if !is_good {
                // What it was before its tags changed stays, if nobody checks that, until it has passed a check.
                awaited.insert(address);
            }
            let is_ready = view.admin & (MAINTENANCE | DRAIN) == 0;
            if !self.is_held(view)
                && (!is_ready || (is_good && view.weight > 0 && !view.in_rotation))
            {
                return Some(Missing::Server(format!(
                    "{} of {} is not in rotation",
                    view.name, server.registration
                )));
            }
        }
        // Slots that a sidecar left behind when it died, where nothing resolves to any more, are not known to be its.
        let orphaned = slots > 0 && !is_followed && self.generation > 1;
        let ours = is_ever_followed(backend) && !orphaned;
        here.iter()
            .filter(|view| ours && is_ours(view, true) && !served.contains(&view.name))
            .filter(|view| !(view.dynamic && view.in_rotation && awaited.contains(&view.address)))
            .find(|view| view.dynamic || view.admin & MAINTENANCE == 0)
            .map(|view| {
                Missing::Leftover(format!(
                    "{backend}/{} is still there (admin {})",
                    view.name, view.admin
                ))
            })
    }

    pub(crate) fn is_held(&self, view: &View) -> bool {
        self.operator
            .held
            .contains_key(&(view.backend.clone(), view.name.clone()))
    }
}
