//! Whose a route is. The first claim counts, by `CreateIndex`; the sidecar's own namespace goes before others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::model::{BackendName, MapKind, Registration, ServiceKey};

use super::{Route, RouteReason, Routing};
use crate::reconcile::{
    Refusal, Rules,
    tags::{TagProblem, Tags},
};

/// A registration that is served, with its tags and its backend.
pub(in crate::reconcile) type Served<'a> = (&'a Registration, Tags, BackendName);

/// Something to be said of a registration's routes.
pub(in crate::reconcile) enum Remark {
    Route(RouteReason),
    Refused(Refusal),
}

/// The routes of a service, from the registrations of it that are served: those of the newest one that is no canary count.
/// `None` when there is none.
pub(in crate::reconcile) fn routing(
    service: &ServiceKey,
    served: &[Served<'_>],
    rules: &Rules,
    prefix: &str,
    mut remark: impl FnMut(&Arc<str>, Remark),
) -> Option<Routing> {
    let rank = |(registration, tags, _): &&Served<'_>| {
        (
            !tags.canary,
            registration.create_index,
            registration.id.clone(),
        )
    };
    let (newest, tags, backend) = served.iter().max_by_key(rank)?;
    let (mut routes, problems) = tags.routes.routes();
    for (tag, problem) in problems {
        let tag = crate::reconcile::tags::shown(&format!("{prefix}.{tag}"));
        let problem = TagProblem { tag, problem };
        remark(&newest.id, Remark::Route(RouteReason::Tag(problem)));
    }
    let mut refused = BTreeMap::new();
    routes.retain(|route| match allowed(service, route, rules) {
        Ok(()) => true,
        Err(refusal) => {
            remark(&newest.id, Remark::Refused(refusal.clone()));
            refused.insert(route.clone(), refusal);
            false
        }
    });
    let mut claims: BTreeMap<_, _> = routes
        .into_iter()
        .map(|route| (route, newest.create_index))
        .collect();
    for (registration, other, _) in served {
        if other.routes == tags.routes {
            for index in claims.values_mut() {
                *index = registration.create_index.min(*index);
            }
            continue;
        }
        for route in other.routes.routes().0 {
            if let Some(index) = claims.get_mut(&route) {
                *index = registration.create_index.min(*index);
            }
        }
        if !other.canary {
            let reason = RouteReason::Differs(newest.id.clone());
            remark(&registration.id, Remark::Route(reason));
        }
    }
    Some(Routing {
        backend: backend.clone(),
        registration: newest.id.clone(),
        keep: tags.routes.keep(),
        claims,
        refused,
    })
}

fn allowed(service: &ServiceKey, route: &Route, rules: &Rules) -> Result<(), Refusal> {
    let key = route.key.as_str();
    match route.kind {
        MapKind::Host | MapKind::Sni => rules.host(service, key),
        MapKind::Suffix => rules.host(service, &format!("*{key}")),
        MapKind::Prefix => rules.host(service, &format!("{key}*")),
        MapKind::Regex => rules.regex(service),
        MapKind::Path => rules.host(service, host(route).unwrap_or("*")),
        MapKind::Port => rules.host(service, "*"),
    }
}

/// The whole host that a route is for.
fn host(route: &Route) -> Option<&str> {
    match route.kind {
        MapKind::Host => Some(route.key.as_str()),
        MapKind::Path => {
            let (host, _) = route.key.as_str().split_once('/')?;
            Some(host).filter(|host| !host.is_empty())
        }
        MapKind::Suffix | MapKind::Prefix | MapKind::Regex | MapKind::Sni | MapKind::Port => None,
    }
}

/// Who claims routes: a service and what is known of it.
#[derive(Clone, Debug)]
pub(super) struct Claimant {
    pub(super) routing: Routing,
    /// Nothing of it is registered.
    pub(super) is_empty: bool,
    /// Nor is anything of it left in HAProxy: whoever else claims its routes gets them.
    pub(super) is_gone: bool,
    /// What it had when this sidecar found it, whatever the indices say now.
    pub(super) found: BTreeSet<Route>,
}

/// A route that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) backend: BackendName,
    pub(super) keep: bool,
    pub(super) is_gone: bool,
}

/// What became of all claims.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) owned: BTreeMap<Route, Owned>,
    /// By service and registration.
    pub(super) remarks: BTreeSet<(ServiceKey, Arc<str>, RouteReason)>,
}

/// Gives each route to one of those who claim it.
pub(super) fn judge(claimants: &BTreeMap<ServiceKey, Claimant>, rules: &Rules) -> Verdict {
    let mut by_route: BTreeMap<&Route, Vec<(&ServiceKey, &Claimant)>> = BTreeMap::new();
    for (service, claimant) in claimants {
        for route in claimant.routing.claims.keys() {
            by_route.entry(route).or_default().push((service, claimant));
        }
    }
    let own = OwnNamespace::of(claimants, rules);
    let mut verdict = Verdict::default();
    for (route, mut claims) in by_route {
        claims.retain(|(service, claimant)| {
            let Some((by, other)) = own.covering(route).filter(|_| !rules.is_own(service)) else {
                return true;
            };
            if !claimant.is_empty {
                let reason = RouteReason::Covered(route.clone(), other.clone(), by.clone());
                let registration = claimant.routing.registration.clone();
                let remark = ((*service).clone(), registration, reason);
                verdict.remarks.insert(remark);
            }
            false
        });
        let first = claims.iter().min_by_key(|(service, claimant)| {
            let index = claimant.routing.claims.get(route).copied();
            let found = claimant.found.contains(route);
            let own = rules.is_own(service);
            (claimant.is_gone, !own, !found, index, *service)
        });
        let Some(&(winner, best)) = first else {
            continue;
        };
        for (service, loser) in claims {
            // Two services of one backend share its routes.
            if loser.is_empty || loser.routing.backend == best.routing.backend {
                continue;
            }
            verdict.remarks.insert((
                service.clone(),
                loser.routing.registration.clone(),
                RouteReason::Taken(route.clone(), winner.clone()),
            ));
            verdict.remarks.insert((
                winner.clone(),
                best.routing.registration.clone(),
                RouteReason::Contested(route.clone(), service.clone()),
            ));
        }
        let owned = Owned {
            backend: best.routing.backend.clone(),
            keep: best.routing.keep,
            is_gone: best.is_gone,
        };
        verdict.owned.insert(route.clone(), owned);
    }
    verdict
}

/// What the sidecar's own namespace claims. Another namespace gets no part of a host of it: a path of it, or a host below a
/// suffix of it, would be looked up before.
#[derive(Default)]
struct OwnNamespace<'a> {
    hosts: BTreeMap<&'a str, (&'a ServiceKey, &'a Route)>,
    suffixes: BTreeMap<&'a str, (&'a ServiceKey, &'a Route)>,
}

impl<'a> OwnNamespace<'a> {
    fn of(claimants: &'a BTreeMap<ServiceKey, Claimant>, rules: &Rules) -> Self {
        let mut own = Self::default();
        for (service, claimant) in claimants {
            if claimant.is_gone || !rules.is_own(service) {
                continue;
            }
            for route in claimant.routing.claims.keys() {
                if let Some(host) = host(route) {
                    own.hosts.entry(host).or_insert((service, route));
                } else if route.kind == MapKind::Suffix {
                    let suffix = route.key.as_str();
                    own.suffixes.entry(suffix).or_insert((service, route));
                }
            }
        }
        own
    }

    /// What of the own namespace's a route of another namespace would take requests of.
    fn covering(&self, route: &Route) -> Option<(&'a ServiceKey, &'a Route)> {
        let suffix = |host: &str| {
            let dots = host.match_indices('.');
            dots.map(|(dot, _)| &host[dot..])
                .find_map(|end| self.suffixes.get(end))
        };
        match route.kind {
            MapKind::Host | MapKind::Path => match host(route) {
                Some(host) => self.hosts.get(host).or_else(|| suffix(host)).copied(),
                // A path of every host.
                None => (self.hosts.values())
                    .chain(self.suffixes.values())
                    .next()
                    .copied(),
            },
            // Of the same suffix, the claims are compared.
            MapKind::Suffix => suffix(&route.key.as_str()[1..]).copied(),
            MapKind::Prefix | MapKind::Regex | MapKind::Sni | MapKind::Port => None,
        }
    }
}
