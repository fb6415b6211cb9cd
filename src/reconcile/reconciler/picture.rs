//! The part of the picture that the core knows: what is registered, where that is served and how far it is, what is in the way.
//! It is drawn only when somebody asks, and changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    ops::Bound::{self, Unbounded},
    time::Duration,
};

use super::{Mode, Reconciler};
use crate::{
    model::{Address, BackendName, Registration, Request, ServerState, ServiceKey},
    picture::{self, Admin, By, Charge, Drain, HoldBy, Picture, Place, Slots, Stage, Text, ms},
    reconcile::{
        Guard, Hand, Policy,
        backend::Backend,
        desired::{DesiredServer, Reason, desired_at},
        hold::Hold,
        made::Origin,
        plan::{self, Kind, Obstacle},
        routes::RouteReason,
        states::States,
        tags,
    },
};

/// Of so many servers HAProxy's words are half a megabyte, which is read in a few milliseconds.
const FEW: usize = 1_000;

/// A picture that is being drawn, part by part: what is large does not keep anybody waiting.
#[derive(Debug)]
pub struct Sketch {
    picture: Picture,
    next: Next,
}

#[derive(Debug)]
enum Next {
    /// After this one.
    Services(Option<ServiceKey>),
    Backends(Option<BackendName>),
    Routes(Option<ServiceKey>),
    Nothing,
}

impl Sketch {
    /// What was drawn.
    #[must_use]
    pub fn into_picture(self) -> Picture {
        self.picture
    }
}

impl Reconciler {
    /// Counts how often servers were seen to be otherwise than before.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.looks
    }

    /// How everything stands, as far as the core knows it.
    #[must_use]
    pub fn picture(&self, now: Duration) -> Picture {
        let mut sketch = self.sketch();
        while self.draw(now, &mut sketch, usize::MAX) {}
        sketch.picture
    }

    /// Draws on, until some `most` registrations or servers more are in it; whether there is more to draw. What changes
    /// meanwhile is there as it was before or after.
    pub fn draw(&self, now: Duration, sketch: &mut Sketch, most: usize) -> bool {
        let mut drawn = 0;
        let view = |backend| View::new(backend, &self.policy, now);
        match mem::replace(&mut sketch.next, Next::Nothing) {
            Next::Services(last) => {
                let catalog = self.catalog.iter();
                let services =
                    catalog.flat_map(|catalog| catalog.range((after(last.as_ref()), Unbounded)));
                let mut views = BTreeMap::new();
                for (key, registrations) in services {
                    if drawn >= most {
                        return true;
                    }
                    let contribution = self.contributions.get(key);
                    for name in contribution.iter().flat_map(|one| one.servers.keys()) {
                        if let Some(backend) = self.backends.get(name) {
                            views.entry(name).or_insert_with(|| view(backend));
                        }
                    }
                    let service = self.draw_service(key, registrations, &views);
                    sketch.picture.services.push(service);
                    drawn += registrations.len() + 1;
                    sketch.next = Next::Services(Some(key.clone()));
                }
                sketch.next = Next::Backends(None);
                true
            }
            Next::Backends(last) => {
                for (name, backend) in self.backends.range((after(last.as_ref()), Unbounded)) {
                    if drawn >= most {
                        return true;
                    }
                    let backend = view(backend).draw(name);
                    drawn += backend.servers.len() + 1;
                    sketch.picture.backends.push(backend);
                    sketch.next = Next::Backends(Some(name.clone()));
                }
                sketch.next = Next::Routes(None);
                true
            }
            Next::Routes(last) => {
                let of = self.routes.draw(&self.policy.maps, self.mode);
                for (service, routes) in of.after(last.as_ref()) {
                    if drawn >= most {
                        return true;
                    }
                    drawn += routes.len() + 1;
                    sketch.picture.routes.extend(routes);
                    sketch.next = Next::Routes(Some(service.clone()));
                }
                sketch.next = Next::Nothing;
                false
            }
            Next::Nothing => false,
        }
    }

    /// The begin of a picture.
    #[must_use]
    pub fn sketch(&self) -> Sketch {
        let picture = self.draw_head();
        let next = Next::Services(None);
        Sketch { picture, next }
    }

    fn draw_head(&self) -> Picture {
        let process = self.process.as_ref();
        Picture {
            version: picture::VERSION,
            sidecar: picture::Sidecar {
                charge: match self.mode {
                    Mode::Act => Charge::InCharge,
                    Mode::Observe => Charge::Observing,
                    Mode::Standby => Charge::Standby,
                },
                namespace: self.policy.rules.own_namespace().into(),
                tag_prefix: self.policy.tag_prefix.as_str().into(),
                expose_by_default: self.policy.expose_by_default,
                guards: picture::Guards {
                    frozen: self.guards.is_frozen(),
                    mass: (self.backends.values()).any(|one| one.guarded(Guard::Mass) > 0),
                    waiting: self.backends.values().map(|one| one.waiting.len()).sum(),
                },
                ..picture::Sidecar::default()
            },
            nomad: picture::Nomad {
                known: self.catalog.is_some(),
                unread: self.unproven.iter().map(ToString::to_string).collect(),
                ..picture::Nomad::default()
            },
            haproxy: picture::Haproxy {
                connected: process.is_some(),
                read: process.is_some_and(|process| process.swept),
                version: process.map(|process| process.info.version_text.clone()),
                pid: process.map(|process| process.info.pid),
                problem: None,
            },
            ..Picture::default()
        }
    }

    /// What asks HAProxy for its words on the checks of a followed backend.
    #[must_use]
    pub fn ask_for_verdicts(&self, backend: &str) -> Option<Request> {
        self.process.as_ref()?;
        let name = BackendName::new(backend).ok()?;
        let known = self.backends.get(&name)?;
        let id = known.observed.as_ref().and_then(|observed| observed.id);
        Some(Request::Verdicts(name, id))
    }

    /// The same when nobody has asked: not where the answer would be long.
    #[must_use]
    pub fn ask_for_words(&self, backend: &BackendName) -> Option<Request> {
        let observed = self.backends.get(backend)?.observed.as_ref()?;
        let is_small = observed.servers.len() <= FEW;
        is_small.then(|| self.ask_for_verdicts(backend.as_str()))?
    }

    fn draw_service(
        &self,
        key: &ServiceKey,
        registrations: &[Registration],
        views: &BTreeMap<&BackendName, View<'_>>,
    ) -> picture::Service {
        let contribution = self.contributions.get(key);
        let servers = contribution.into_iter().flat_map(|one| &one.servers);
        let servers = servers.flat_map(|(backend, servers)| {
            servers
                .iter()
                .map(move |server| (&*server.registration, (backend, server)))
        });
        let servers: BTreeMap<&str, _> = servers.collect();
        let mut rejections: BTreeMap<&str, Vec<&Reason>> = BTreeMap::new();
        for one in contribution.iter().flat_map(|one| &one.rejections) {
            let of_it = rejections.entry(&one.registration).or_default();
            of_it.push(&one.reason);
        }
        let registrations = registrations.iter().map(|registration| {
            let served = servers.get(&*registration.id).copied();
            let mut drawn = draw_registration(registration, rejections.get(&*registration.id));
            drawn.enabled = served.is_some()
                || !drawn.rejections.is_empty()
                || is_enabled(registration, &self.policy);
            if let Some((backend, server)) = served {
                drawn.stage = Stage::Wanted;
                let mut name = None;
                if let Some(view) = views.get(backend) {
                    (name, drawn.stage) = view.of(server);
                    drawn.notes.extend(view.notes(&registration.id));
                }
                drawn.place = Some(Place {
                    backend: backend.as_str().into(),
                    by: by(key, backend),
                    server: name,
                });
            } else if drawn.enabled && drawn.rejections.is_empty() {
                // HAProxy was not read yet.
                drawn.stage = Stage::Wanted;
            }
            drawn
        });
        picture::Service {
            namespace: (&key.namespace).into(),
            name: (&key.name).into(),
            registrations: registrations.collect(),
        }
    }
}

fn after<K>(last: Option<&K>) -> Bound<&K> {
    last.map_or(Unbounded, Bound::Excluded)
}

impl From<&Registration> for picture::Registration {
    /// What Nomad has of it.
    fn from(registration: &Registration) -> Self {
        Self {
            id: (&registration.id).into(),
            allocation: (&registration.alloc_id).into(),
            job: (&registration.job_id).into(),
            address: picture::address(&registration.address, registration.port),
            tags: registration.tags.clone(),
            create_index: registration.create_index,
            modify_index: registration.modify_index,
            ..Self::default()
        }
    }
}

fn draw_registration(
    registration: &Registration,
    reasons: Option<&Vec<&Reason>>,
) -> picture::Registration {
    let reasons = reasons.into_iter().flatten();
    let makes_no_route = |reason: &&&Reason| matches!(reason, Reason::Route(RouteReason::Tag(_)));
    let (unrouted, others): (Vec<&&Reason>, Vec<_>) = reasons.partition(makes_no_route);
    let (notes, rejections) = others.iter().partition(|reason| reason.is_note());
    let text = |all: Vec<&&Reason>| all.iter().map(ToString::to_string).collect();
    picture::Registration {
        rejections: text(rejections),
        notes: text(notes),
        unrouted: text(unrouted),
        stage: Stage::Unserved,
        ..picture::Registration::from(registration)
    }
}

fn is_enabled(registration: &Registration, policy: &Policy) -> bool {
    let read = tags::read(&policy.tag_prefix, &registration.tags);
    read.is_ok_and(|tags| tags.enable.unwrap_or(policy.expose_by_default))
}

/// Why a service is served by this backend.
fn by(service: &ServiceKey, backend: &BackendName) -> By {
    let backend = backend.as_str();
    if *backend == *service.name {
        By::Name
    } else if *backend == service.name.replace('-', "_") {
        By::NameWithUnderscores
    } else if *backend == format!("{}.{}", service.namespace, service.name) {
        By::NamespaceAndName
    } else {
        By::Tag
    }
}

/// A backend that is being drawn.
struct View<'a> {
    backend: &'a Backend,
    policy: &'a Policy,
    now: Duration,
    kind: Kind,
    states: States<'a>,
    /// What is held, and what is remembered of what is gone, by address.
    holds: BTreeMap<Address, &'a Hold>,
    departed: BTreeMap<Address, &'a DesiredServer>,
    by_hand: BTreeMap<&'a str, &'a crate::reconcile::ByHand>,
    noted: BTreeSet<&'a str>,
}

impl<'a> View<'a> {
    fn new(backend: &'a Backend, policy: &'a Policy, now: Duration) -> Self {
        let holds = backend.memory.holds.values();
        let departed = backend.memory.departed.values();
        let by_hand = backend.by_hand.keys();
        let notes = backend.notes.iter();
        Self {
            kind: backend.kind(policy),
            states: backend.states(policy),
            holds: holds.map(|hold| (hold.server.address, hold)).collect(),
            departed: departed.map(|server| (server.address, server)).collect(),
            by_hand: by_hand.map(|left| (left.server.as_str(), left)).collect(),
            noted: notes.map(|note| &*note.registration).collect(),
            backend,
            policy,
            now,
        }
    }

    /// The server of a registration, and how far it is.
    fn of(&self, server: &DesiredServer) -> (Option<Text>, Stage) {
        // Of two with one address the other one may be served.
        let kept = desired_at(&self.backend.desired, server.address).unwrap_or(server);
        let mut left = self.by_hand.values();
        if let Some(left) = left.find(|left| left.registration == kept.registration)
            && !matches!(left.hand, Hand::Weight { .. })
        {
            return (Some(left.server.as_str().into()), Stage::ByHand);
        }
        match self.states.of(kept) {
            Some(state) => {
                let name = state.name.as_ref().map(|name| name.as_str().into());
                (name, self.stage_of_wanted(state))
            }
            // A dynamic one has its name before it is there.
            None if self.kind == Kind::Dynamic => (Some(kept.name.as_str().into()), Stage::Wanted),
            None => (None, Stage::Wanted),
        }
    }

    /// What is noted of a registration in this backend.
    fn notes(&self, registration: &str) -> Vec<String> {
        if !self.noted.contains(registration) {
            return Vec::new();
        }
        let notes = self.backend.notes.iter();
        let notes = notes.filter(|note| *note.registration == *registration);
        notes.map(|note| note.reason.to_string()).collect()
    }

    fn draw(&self, name: &BackendName) -> picture::Backend {
        let backend = self.backend;
        let rows = backend.observed.iter().flat_map(|one| &one.servers);
        let mut slots = Slots::default();
        let mut servers = Vec::new();
        for state in rows {
            let is_owned = plan::is_owned(state, self.kind, self.policy);
            let drawn = if is_owned {
                self.draw_owned(name, state)
            } else {
                Some(picture::Server {
                    stage: Stage::Foreign,
                    ..self.draw_row(state)
                })
            };
            if is_owned && self.kind == Kind::Slots {
                slots.total += 1;
                *(if drawn.is_some() {
                    &mut slots.used
                } else {
                    &mut slots.free
                }) += 1;
            }
            servers.extend(drawn);
        }
        let in_rotation = |server: &&DesiredServer| {
            let state = self.states.of(server);
            state.is_some_and(ServerState::in_rotation)
        };
        let hindrances = backend.hindrances.iter();
        let tries = backend
            .next_resumption()
            .into_iter()
            .chain(backend.paused_until);
        picture::Backend {
            name: name.as_str().into(),
            kind: match self.kind {
                Kind::Slots => picture::Kind::Slots,
                Kind::Dynamic => picture::Kind::Dynamic,
            },
            disabled: (hindrances.clone()).any(|one| one.obstacle == Obstacle::DisabledBackend),
            made_at_runtime: backend.is_made(),
            to_be_made_from: (backend.memory.life.profile.as_ref())
                .filter(|_| backend.origin() == Some(Origin::Missing))
                .map(|profile| profile.as_str().to_owned()),
            unpublished: backend.origin()
                == Some(Origin::Made {
                    is_published: false,
                }),
            settled: backend.settled,
            wanted: backend.desired.len(),
            in_rotation: backend.desired.iter().filter(in_rotation).count(),
            slots: (self.kind == Kind::Slots).then_some(slots),
            servers,
            hindrances: hindrances
                .map(|one| picture::Hindrance {
                    registration: (&one.registration).into(),
                    text: one.obstacle.to_string(),
                })
                .collect(),
            waiting: (backend.waiting.iter())
                .map(|name| name.as_str().into())
                .collect(),
            problem: backend.problem.clone(),
            next_try_ms: tries.min().map(|at| ms(at.saturating_sub(self.now))),
            would_send: backend.would.len(),
        }
    }

    /// A server of the sidecar's; nothing, when it is a free slot.
    fn draw_owned(&self, backend: &BackendName, state: &ServerState) -> Option<picture::Server> {
        let name = state.name.as_ref()?;
        let by_hand = self.by_hand.get(name.as_str());
        let address = state.address();
        let wanted = address.and_then(|address| desired_at(&self.backend.desired, address));
        let wanted = wanted.filter(|server| match self.kind {
            Kind::Slots => {
                // Of two slots with one address, the other one may be on its way out.
                state.admin.in_maintenance()
                    || (self.states.of(server)).is_some_and(|it| std::ptr::eq(it, state))
            }
            Kind::Dynamic => server.name == *name,
        });
        let mut drawn = picture::Server {
            by_hand: by_hand.map(|left| left.describe(backend)),
            ..self.draw_row(state)
        };
        if let Some(server) = wanted {
            drawn.registration = Some((&server.registration).into());
            drawn.backup = server.fixed.backup && self.kind == Kind::Dynamic;
            drawn.stage = match by_hand.map(|left| left.hand) {
                Some(Hand::Maintenance | Hand::Drain) => Stage::ByHand,
                Some(Hand::Weight { .. }) | None => self.stage_of_wanted(state),
            };
            return Some(drawn);
        }
        let of_address = |servers: &BTreeMap<Address, &'a DesiredServer>| {
            address.and_then(|address| servers.get(&address).copied())
        };
        let departed = of_address(&self.departed).filter(|server| match self.kind {
            Kind::Slots => true,
            Kind::Dynamic => server.name == *name,
        });
        drawn.registration = departed
            .or_else(|| Some(&self.holds.get(&address?)?.server))
            .map(|server| (&server.registration).into())
            .or_else(|| by_hand.map(|left| (&left.registration).into()));
        let is_free = self.kind == Kind::Slots
            && state.admin.in_maintenance()
            && !self.backend.memory.drains.contains_key(name);
        if is_free && by_hand.is_none() {
            return None;
        }
        let hold = address.and_then(|address| self.holds.get(&address));
        drawn.hold = hold
            .filter(|_| !state.admin.in_maintenance())
            .map(|hold| self.draw_hold(hold));
        drawn.stage = if drawn.hold.is_some() {
            Stage::Held
        } else if by_hand.is_some() && !state.admin.is_ready() {
            Stage::ByHand
        } else if state.admin.in_maintenance() {
            Stage::Gone
        } else if state.admin.in_drain() {
            Stage::Draining
        } else if state.is_up() {
            Stage::InRotation
        } else {
            Stage::Down
        };
        if matches!(drawn.stage, Stage::Draining | Stage::Gone) {
            let since = self.backend.memory.drains.get(name).copied();
            let lasts = self.now.saturating_sub(since.unwrap_or(self.now));
            let timeout = departed.and_then(|server| server.leaving.drain_timeout);
            let timeout = timeout.unwrap_or(self.policy.drain_timeout);
            let observed = self.backend.observed.as_ref();
            drawn.drain = Some(Drain {
                for_ms: ms(lasts),
                left_ms: ms(timeout.saturating_sub(lasts)),
                sessions: observed
                    .and_then(|observed| observed.stat_of(name))
                    .map(|stat| stat.sessions),
            });
        }
        Some(drawn)
    }

    fn stage_of_wanted(&self, state: &ServerState) -> Stage {
        let is_new = |name| self.backend.unadmitted.contains_key(name);
        if !state.admin.is_ready() {
            Stage::Wanted
        } else if state.is_up() {
            Stage::InRotation
        } else if state.name.as_ref().is_some_and(is_new) {
            Stage::Admitted
        } else {
            Stage::Down
        }
    }

    fn draw_row(&self, state: &ServerState) -> picture::Server {
        let since_read = self.now.saturating_sub(self.backend.observed_at);
        picture::Server {
            name: (state.name.as_ref()).map_or_else(Text::default, |name| name.as_str().into()),
            address: (state.address())
                .map(|address| std::net::SocketAddr::new(address.ip, address.port.get())),
            admin: if state.admin.in_maintenance() {
                Admin::Maintenance
            } else if state.admin.in_drain() {
                Admin::Drain
            } else {
                Admin::Ready
            },
            up: state.is_up(),
            since_ms: u64::try_from(state.since_change)
                .unwrap_or(0)
                .saturating_mul(1_000)
                .saturating_add(ms(since_read)),
            checked: state.check.is_enabled(),
            weight: state.weight,
            ..picture::Server::default()
        }
    }

    fn draw_hold(&self, hold: &Hold) -> picture::Hold {
        let lasts = self.now.saturating_sub(hold.since);
        let at_most = hold.at_most(self.policy);
        picture::Hold {
            by: match hold.guard {
                None => HoldBy::MinReady(hold.min_ready()),
                Some(Guard::Mass) => HoldBy::Mass,
                Some(Guard::Alive) => HoldBy::Alive,
                Some(Guard::Frozen) => HoldBy::Frozen,
            },
            for_ms: ms(lasts),
            left_ms: at_most.map(|time| ms(time.saturating_sub(lasts))),
        }
    }
}
