//! What an operator means: a service with or without its namespace, a backend, the beginning of an allocation's ID, an
//! address, a registration's ID, a server or the key of a route.

use std::collections::BTreeSet;

use super::routes::is_route;
use crate::picture::{Backend, Picture, Registration, Server, Service, Stage};

/// Shorter beginnings of an ID fit too many.
const SHORTEST_ID: usize = 4;

/// Something in the picture.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'a> {
    /// A registration that Nomad has.
    Registration(&'a Service, &'a Registration),
    /// A server that no registration asks for.
    Server(&'a Backend, &'a Server),
}

impl Subject<'_> {
    /// Whether it is a registration of the service of this name.
    pub(super) fn is_of_service(&self, what: &str) -> bool {
        match self {
            Self::Registration(service, _) => is_service(service, what),
            Self::Server(..) => false,
        }
    }
}

/// Whether this is its name, or that with its namespace.
pub(super) fn is_service(service: &Service, what: &str) -> bool {
    let of_namespace = what.split_once('/');
    *service.name == *what || of_namespace == Some((&*service.namespace, &*service.name))
}

/// Everything that `what` names, registrations first.
#[must_use]
pub fn find<'a>(picture: &'a Picture, what: &str) -> Vec<Subject<'a>> {
    let mut found = Vec::new();
    let mut registered = BTreeSet::new();
    let by_route = picture.routes.iter();
    let by_route = by_route.filter(|route| is_route(route, what));
    let by_route: BTreeSet<_> = by_route
        .map(|route| (&*route.namespace, &*route.service))
        .collect();
    for service in &picture.services {
        for registration in &service.registrations {
            registered.insert(&*registration.id);
            let has_route = by_route.contains(&(&*service.namespace, &*service.name));
            if has_route || is_of(service, registration, what) {
                found.push(Subject::Registration(service, registration));
            }
        }
    }
    for backend in &picture.backends {
        let is_its_backend = is_backend(backend, what);
        for server in &backend.servers {
            let is_left = server
                .registration
                .as_ref()
                .is_none_or(|id| !registered.contains(&**id));
            let is_named = is_server(backend, server, what);
            if is_left && (is_named || (is_its_backend && server.stage != Stage::Foreign)) {
                found.push(Subject::Server(backend, server));
            }
        }
    }
    found
}

fn is_of(service: &Service, registration: &Registration, what: &str) -> bool {
    let place = registration.place.as_ref();
    let is_server = |what: &str| {
        place.is_some_and(|place| {
            let server = place.server.as_deref();
            server == Some(what)
                || (what.split_once('/')).is_some_and(|(backend, name)| {
                    *place.backend == *backend && server == Some(name)
                })
        })
    };
    is_service(service, what)
        || is_registration(registration, what)
        || is_server(what)
        || place.is_some_and(|place| *place.backend == *what)
}

/// Whether this is its ID, its job's, the beginning of its allocation's, or its address.
#[must_use]
pub fn is_registration(registration: &Registration, what: &str) -> bool {
    *registration.id == *what
        || *registration.job == *what
        || is_beginning(&registration.allocation, what)
        || is_at(&registration.address, what)
}

/// Whether this is the address, with its port or without.
fn is_at(address: &str, what: &str) -> bool {
    let host = address.rsplit_once(':').map(|(host, _)| host);
    let bare = host.map(|host| host.trim_matches(['[', ']']));
    address == what || (host.is_some() && [host, bare].contains(&Some(what)))
}

fn is_beginning(id: &str, what: &str) -> bool {
    what.len() >= SHORTEST_ID && id.starts_with(what)
}

fn is_backend(backend: &Backend, what: &str) -> bool {
    let name = &*backend.name;
    name == what || name == what.replace('-', "_") || name == what.replacen('/', ".", 1)
}

fn is_server(backend: &Backend, server: &Server, what: &str) -> bool {
    let of_its_backend = what.split_once('/');
    let of_allocation = what.get(..8).is_some_and(|begin| {
        let rest = server.name.strip_prefix("nomad-");
        rest.is_some_and(|rest| rest.starts_with(begin))
    });
    *server.name == *what
        || of_its_backend
            .is_some_and(|(name, of_it)| *backend.name == *name && *server.name == *of_it)
        || server
            .address
            .is_some_and(|address| is_at(&address.to_string(), what))
        || server.registration.as_deref() == Some(what)
        || (server.stage != Stage::Foreign && of_allocation)
}
