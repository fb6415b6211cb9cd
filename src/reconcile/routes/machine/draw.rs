//! The routes of the picture: what each service asks for, what became of it, and why.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Unbounded},
};

use super::{
    Claimant, MapChange, MapKind, MapWord, Maps, Route, RouteObstacle, RouteReason, Routes,
    ServiceKey,
};
use crate::{
    picture::{self, RouteState, Text},
    reconcile::{
        Mode,
        routes::{claims::Owned, diff::Difference},
    },
};

/// Why a route is not in HAProxy as it should be.
#[derive(Clone, Debug)]
pub(super) enum Open {
    /// No server of its backend is in rotation.
    Waiting,
    /// It is about to be written.
    Coming,
    /// Something is in the way.
    Blocked(RouteObstacle),
}

/// The routes of a map that are not there as they should be.
pub(super) fn open_of(kind: MapKind, difference: &Difference) -> Vec<(Route, Open)> {
    let route = |key: &MapWord| Route {
        kind,
        key: key.clone(),
    };
    let waiting = difference.waiting.iter();
    let waiting = waiting.map(|key| (route(key), Open::Waiting));
    let changes = difference.changes.iter();
    let coming = changes.filter_map(|change| match change {
        MapChange::Add(_, key, _) | MapChange::Set(_, key, _) => Some((route(key), Open::Coming)),
        MapChange::Delete(..)
        | MapChange::Prepare(_)
        | MapChange::AddTo(..)
        | MapChange::Commit(..) => None,
    });
    let obstacles = difference.obstacles.iter();
    let blocked = obstacles.filter_map(|obstacle| match obstacle {
        RouteObstacle::Foreign(route, ..) | RouteObstacle::Refused(route, _) => {
            Some((route.clone(), Open::Blocked(obstacle.clone())))
        }
        RouteObstacle::NoMap(..) | RouteObstacle::Unnamed(_) | RouteObstacle::Order(_) => None,
    });
    waiting.chain(coming).chain(blocked).collect()
}

/// All routes, as they are to be drawn.
pub(in crate::reconcile) struct Drawn<'a> {
    routes: &'a Routes,
    maps: &'a Maps,
    mode: Mode,
    /// Why services do not have what they ask for.
    remarks: BTreeMap<&'a ServiceKey, Vec<&'a RouteReason>>,
}

impl Routes {
    /// How all routes stand.
    pub(in crate::reconcile) fn draw<'a>(&'a self, maps: &'a Maps, mode: Mode) -> Drawn<'a> {
        let mut remarks: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (service, _, reason) in &self.verdict.remarks {
            remarks.entry(service).or_default().push(reason);
        }
        Drawn {
            routes: self,
            maps,
            mode,
            remarks,
        }
    }
}

impl<'a> Drawn<'a> {
    /// The routes of the services after this one.
    pub(in crate::reconcile) fn after(
        &self,
        last: Option<&ServiceKey>,
    ) -> impl Iterator<Item = (&'a ServiceKey, Vec<picture::Route>)> {
        let after = last.map_or(Unbounded, Excluded);
        let claimants = self.routes.claimants.range((after, Unbounded));
        claimants.map(|(service, claimant)| (service, self.of(service, claimant)))
    }

    fn of(&self, service: &ServiceKey, claimant: &Claimant) -> Vec<picture::Route> {
        let routing = &claimant.routing;
        let drawn = |route: &Route| picture::Route {
            kind: route.kind.to_string().into(),
            key: route.key.as_str().into(),
            map: (self.maps.of(route.kind)).map(|map| map.to_string().into()),
            namespace: (&service.namespace).into(),
            service: (&service.name).into(),
            backend: routing.backend.as_str().into(),
            ..picture::Route::default()
        };
        let refused = routing.refused.iter().filter(|_| !claimant.is_empty);
        let refused = refused.map(|(route, refusal)| picture::Route {
            state: RouteState::Refused,
            why: Some(refusal.to_string()),
            ..drawn(route)
        });
        let claims = routing.claims.keys().filter_map(|route| {
            let (state, why, taken_by) = self.state(service, claimant, route)?;
            Some(picture::Route {
                state,
                why,
                taken_by,
                ..drawn(route)
            })
        });
        claims.chain(refused).collect()
    }

    fn state(
        &self,
        service: &ServiceKey,
        claimant: &Claimant,
        route: &Route,
    ) -> Option<(RouteState, Option<String>, Option<Text>)> {
        let owned = self.routes.verdict.owned.get(route);
        match owned.filter(|owned| owned.backend == claimant.routing.backend) {
            // What is over is about to be removed.
            Some(owned) if owned.is_gone && !owned.keep => None,
            Some(owned) => {
                let (state, why) = self.state_of_owned(route, owned, claimant.is_empty);
                Some((state, why, None))
            }
            None if claimant.is_empty => None,
            None => {
                let mut remarks = self.remarks.get(service).into_iter().flatten();
                let why = remarks.find_map(|reason| match reason {
                    RouteReason::Taken(it, by) | RouteReason::Covered(it, _, by) if it == route => {
                        Some((reason.to_string(), by))
                    }
                    RouteReason::Taken(..)
                    | RouteReason::Covered(..)
                    | RouteReason::Tag(_)
                    | RouteReason::Contested(..)
                    | RouteReason::Differs(_) => None,
                });
                // A claim that is new was not judged yet.
                let Some((why, by)) = why else {
                    return Some((RouteState::Waiting, Some(self.coming()), None));
                };
                Some((RouteState::Taken, Some(why), Some(by.to_string().into())))
            }
        }
    }

    fn state_of_owned(
        &self,
        route: &Route,
        owned: &Owned,
        is_empty: bool,
    ) -> (RouteState, Option<String>) {
        let blocked = |obstacle: &RouteObstacle| (RouteState::Blocked, Some(obstacle.to_string()));
        let Some(map) = self.maps.of(route.kind) else {
            return blocked(&RouteObstacle::Unnamed(route.kind));
        };
        match self.routes.observed.get(&route.kind) {
            None => {
                let unread = format!("HAProxy's map {map} was not read yet");
                let why = self.routes.problem.clone().unwrap_or(unread);
                return (RouteState::Waiting, Some(why));
            }
            Some(None) => return blocked(&RouteObstacle::NoMap(route.kind, map.clone())),
            Some(Some(_)) => {}
        }
        match self.routes.open.get(route) {
            Some(Open::Waiting) => {
                let why = format!("no server of {} is in rotation yet", owned.backend);
                (RouteState::Waiting, Some(why))
            }
            Some(Open::Coming) => (RouteState::Waiting, Some(self.coming())),
            Some(Open::Blocked(obstacle)) => blocked(obstacle),
            None => {
                let kept =
                    "nothing of the service is registered, and the route is kept (tag route.keep)";
                (RouteState::Active, is_empty.then(|| kept.to_owned()))
            }
        }
    }

    fn coming(&self) -> String {
        match (&self.routes.problem, self.mode) {
            (Some(problem), _) => format!("it could not be written, and is tried again: {problem}"),
            (None, Mode::Act) => "it is just being written".to_owned(),
            (None, Mode::Standby) => {
                "another sidecar is in charge, and has not written it".to_owned()
            }
            (None, Mode::Observe) => "this sidecar only observes (--observe)".to_owned(),
        }
    }
}
