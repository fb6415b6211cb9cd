//! From registrations to the servers that should be in HAProxy: which backend, which address, which keywords. Whatever
//! cannot be used is rejected alone, with a reason an operator can read.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
};

use crate::model::{Address, BackendName, Registration, ServerName, ServiceKey};

use super::{
    Policy,
    made::{self, Origin, Places, Wish},
    routes::{Routing, claims},
    server_name::dynamic_name,
    tags::{self, FixedTags, LeavingTags, Tags},
};

pub use super::reason::{Reason, Rejection};

/// A server that should be in HAProxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredServer {
    /// The registration's ID, unique in its namespace.
    pub registration: Arc<str>,
    /// The service it belongs to.
    pub service: ServiceKey,
    /// Where it listens.
    pub address: Address,
    /// The name that it has as a dynamic server.
    pub name: ServerName,
    /// The tag `weight`.
    pub weight: Option<u16>,
    /// The tag `maxconn`.
    pub maxconn: Option<u32>,
    /// The tag `canary`: it replaces nothing that is stable.
    pub canary: bool,
    /// The tags that cannot be changed on a server that exists.
    pub fixed: FixedTags,
    /// The tags that say how it leaves.
    pub leaving: LeavingTags,
    /// The registration's `CreateIndex`: of two with one address, the younger is served.
    pub create_index: u64,
}

/// Who is wanted at an address, of servers in the order of theirs.
pub(super) fn desired_at(servers: &[DesiredServer], address: Address) -> Option<&DesiredServer> {
    let place = servers.binary_search_by_key(&address, |server| server.address);
    place.ok().map(|place| &servers[place])
}

/// What a server is known by: a slot by its address, a dynamic server by its name.
pub type Identity = (Address, ServerName);

impl DesiredServer {
    /// What its server is known by.
    #[must_use]
    pub fn identity(&self) -> Identity {
        (self.address, self.name.clone())
    }
}

/// What one service contributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contribution {
    /// Servers by backend. A backend is there even when it has none: the service resolves to it.
    pub servers: BTreeMap<BackendName, Vec<DesiredServer>>,
    /// How these backends are to be made where there are none.
    pub wishes: BTreeMap<BackendName, Wish>,
    /// The one that all of its servers there are in by the service's name, not by a tag.
    pub by_name: Option<BackendName>,
    /// By what the service is found; `None` when nothing of it is served.
    pub routing: Option<Routing>,
    /// What is not served, or not as asked.
    pub rejections: BTreeSet<Rejection>,
}

/// The servers that `registrations`, all those of `service`, ask for.
#[must_use]
pub fn contribution(
    service: &ServiceKey,
    registrations: &[Registration],
    places: &Places,
    policy: &Policy,
) -> Contribution {
    let mut contribution = Contribution::default();
    let mut by_tag = BTreeSet::new();
    let mut usable = Vec::new();
    for registration in registrations {
        let mut reject = |reason| {
            contribution.rejections.insert(Rejection {
                registration: registration.id.clone(),
                reason,
            });
        };
        let tags = match tags::read(&policy.tag_prefix, &registration.tags) {
            Ok(tags) if tags.enable.unwrap_or(policy.expose_by_default) => tags,
            Ok(_) => continue,
            Err(problems) => {
                reject(Reason::Tags(problems));
                continue;
            }
        };
        for note in &tags.notes {
            reject(Reason::Note(note.clone()));
        }
        if let Some(weight) = tags.weight
            && let Err(refusal) = policy.rules.weight(service, weight)
        {
            reject(Reason::Capped(refusal));
        }
        match server(registration, &tags, places, policy) {
            Ok((backend, server, wish)) => {
                if places.origin(&backend) == Origin::Operator && tags.profile.is_some() {
                    reject(Reason::NoProfile(backend.clone()));
                }
                if tags.backend.is_none() {
                    contribution.by_name = Some(backend.clone());
                } else {
                    by_tag.insert(backend.clone());
                }
                if let Some(wish) = wish {
                    let newest = contribution.wishes.entry(backend.clone());
                    let newest = newest.or_insert_with(|| wish.clone());
                    *newest = wish.max(newest.clone());
                }
                usable.push((registration, tags, backend.clone()));
                let servers = contribution.servers.entry(backend).or_default();
                servers.push(server);
            }
            Err(reason) => reject(reason),
        }
    }
    contribution
        .by_name
        .take_if(|backend| by_tag.contains(backend));
    let (rules, prefix) = (&policy.rules, &policy.tag_prefix);
    contribution.routing =
        claims::routing(service, &usable, rules, prefix, |registration, remark| {
            let reason = match remark {
                claims::Remark::Route(reason) => Reason::Route(reason),
                claims::Remark::Refused(refusal) => Reason::RouteRefused(refusal),
            };
            contribution.rejections.insert(Rejection {
                registration: registration.clone(),
                reason,
            });
        });
    // By its name the service follows a backend even when nothing of it is registered any more.
    if contribution.servers.is_empty()
        && let Ok(backend) = resolve(service, None, places, false, policy)
    {
        contribution.servers.insert(backend, Vec::new());
    }
    contribution
}

fn server(
    registration: &Registration,
    tags: &Tags,
    places: &Places,
    policy: &Policy,
) -> Result<(BackendName, DesiredServer, Option<Wish>), Reason> {
    let address = address(registration)?;
    let service = &registration.service;
    let profile = made::profile(service, tags, places, policy);
    let may_make = !matches!(profile, Ok(None));
    let backend = resolve(service, tags.backend.as_ref(), places, may_make, policy)?;
    let profile = match profile {
        // An operator's backend needs none.
        Err(_) if places.origin(&backend) == Origin::Operator => None,
        profile => profile?,
    };
    let wish = profile.map(|profile| Wish {
        is_stable: !tags.canary,
        create_index: registration.create_index,
        profile,
    });
    let fixed = with_profile(&tags.fixed, service, policy)?;
    let heaviest = policy.rules.max_weight(service);
    let server = DesiredServer {
        registration: registration.id.clone(),
        service: registration.service.clone(),
        address,
        name: dynamic_name(registration, address, &fixed),
        weight: tags.weight.map(|weight| weight.min(heaviest)),
        maxconn: tags.maxconn,
        canary: tags.canary,
        fixed,
        leaving: tags.leaving,
        create_index: registration.create_index,
    };
    Ok((backend, server, wish))
}

/// The tags with the keywords that the server profile stands for that they name.
pub(super) fn with_profile(
    fixed: &FixedTags,
    service: &ServiceKey,
    policy: &Policy,
) -> Result<FixedTags, Reason> {
    let mut fixed = fixed.clone();
    if let Some(profile) = &fixed.tls_profile {
        let allowed = policy.rules.server_profile(service, profile.as_str());
        allowed.map_err(Reason::Refused)?;
        let keywords = policy.server_profiles.get(profile).ok_or_else(|| {
            let known = policy.server_profiles.keys();
            Reason::NoSuchServerProfile(profile.clone(), known.map(ToString::to_string).collect())
        })?;
        fixed.tls_keywords = Some(keywords.clone());
    }
    Ok(fixed)
}

/// Where a registration says that it listens.
///
/// # Errors
///
/// When HAProxy cannot be told of it.
pub fn address(registration: &Registration) -> Result<Address, Reason> {
    if registration.address.is_empty() {
        return Err(Reason::NoAddress);
    }
    let Ok(ip) = registration.address.parse::<IpAddr>() else {
        return Err(Reason::NotAnIpAddress(tags::shown(&registration.address)));
    };
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(Reason::NotAnIpAddress(tags::shown(&registration.address)));
    }
    let port = u16::try_from(registration.port)
        .ok()
        .and_then(NonZeroU16::new);
    Ok(Address {
        ip,
        port: port.ok_or(Reason::NoPort(registration.port))?,
    })
}

/// The backend of a service: the tag, else the service's name, else that with `-` as `_`, or in another namespace than
/// the sidecar's own `<namespace>.<service>`; if the rules allow it. Where there is none, one that can be made: never by
/// another name than the service's, and one that was made is nobody's by half of its name.
fn resolve(
    service: &ServiceKey,
    tag: Option<&BackendName>,
    places: &Places,
    may_make: bool,
    policy: &Policy,
) -> Result<BackendName, Reason> {
    if let Some(backend) = tag {
        let allowed = policy.rules.backend(service, backend);
        allowed.map_err(Reason::Refused)?;
        return if may_make || places.backends.contains(backend) {
            Ok(backend.clone())
        } else {
            Err(Reason::NoSuchBackend(vec![backend.to_string()]))
        };
    }
    // With a dot in it, a service of the sidecar's own namespace could pass for one of another.
    if service.name.contains('.') {
        return Err(Reason::Name("it has a dot in it".to_owned()));
    }
    let candidates = if policy.rules.is_own(service) {
        vec![service.name.to_string(), service.name.replace('-', "_")]
    } else {
        vec![format!("{}.{}", service.namespace, service.name)]
    };
    let first =
        BackendName::new(&candidates[0]).map_err(|error| Reason::Name(error.to_string()))?;
    let known = candidates
        .iter()
        .filter_map(|name| BackendName::new(name).ok())
        .find(|name| match places.origin(name) {
            Origin::Operator => true,
            Origin::Made { .. } => *name == first,
            Origin::Missing => false,
        });
    let known = known.or_else(|| may_make.then_some(first)).ok_or_else(|| {
        let mut names = candidates;
        names.dedup();
        Reason::NoSuchBackend(names)
    })?;
    let allowed = policy.rules.backend(service, &known);
    allowed.map_err(Reason::Refused)?;
    Ok(known)
}

/// The services whose name alone resolves to `backend`: who could have put a server there before the sidecar started.
#[must_use]
pub fn possible_services(backend: &BackendName, policy: &Policy) -> BTreeSet<ServiceKey> {
    match backend.as_str().split_once('.') {
        Some((namespace, service)) => [ServiceKey::new(namespace, service)].into(),
        None => [
            backend.as_str().to_owned(),
            backend.as_str().replace('_', "-"),
        ]
        .iter()
        .map(|name| ServiceKey::new(policy.rules.own_namespace(), name))
        .collect(),
    }
}

/// Of servers with one address only the youngest is served; the others are told so.
#[must_use]
pub fn one_per_address<'a>(
    servers: impl Iterator<Item = &'a DesiredServer>,
) -> (Vec<&'a DesiredServer>, Vec<Rejection>) {
    let mut by_address: BTreeMap<Address, &DesiredServer> = BTreeMap::new();
    let mut rejections = Vec::new();
    for server in servers {
        let Some(other) = by_address.insert(server.address, server) else {
            continue;
        };
        let rank = |server: &DesiredServer| {
            (
                server.create_index,
                server.service.clone(),
                server.registration.clone(),
            )
        };
        let (kept, dropped) = if rank(other) > rank(server) {
            (other, server)
        } else {
            (server, other)
        };
        by_address.insert(kept.address, kept);
        rejections.push(Rejection {
            registration: dropped.registration.clone(),
            reason: Reason::SameAddress(kept.address, kept.registration.clone()),
        });
    }
    (by_address.into_values().collect(), rejections)
}

#[cfg(test)]
mod tests;
