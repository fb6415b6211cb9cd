//! What the core remembers of routes: who claims them, what HAProxy was seen to have, and what is being written. It goes its own
//! way beside the backends: whatever happens here stops none of them.

mod draw;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use draw::{Open, open_of};

use super::{
    Maps, Route, RouteObstacle, RouteReason, RoutesCount, Routing,
    claims::{self, Claimant, Verdict},
    diff::{self, Wanted, Wish},
    rounds::Rounds,
};
use crate::{
    model::{
        BackendName, Backoff, MapChange, MapContent, MapKind, MapWord, Outcome, Request, Response,
        ServiceKey,
    },
    reconcile::{
        Rules,
        desired::{Reason, Rejection},
    },
};

/// After this time a map may have been changed by somebody else.
const OLD: Duration = Duration::from_millis(20);

/// What routes have to know of a backend.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::reconcile) struct View {
    /// A server of it is in rotation.
    pub(in crate::reconcile) takes_traffic: bool,
    /// A server of a registration is to be there, or is held.
    pub(in crate::reconcile) is_wanted: bool,
    /// It is about to be deleted: nothing may lead there.
    pub(in crate::reconcile) is_ending: bool,
    /// It was made by the sidecar.
    pub(in crate::reconcile) is_made: bool,
    /// All its services are known, and something is registered of each.
    pub(in crate::reconcile) is_known: bool,
}

/// Everything else that a review needs.
pub(in crate::reconcile) struct Surroundings<'a> {
    pub(in crate::reconcile) maps: &'a Maps,
    pub(in crate::reconcile) rules: &'a Rules,
    pub(in crate::reconcile) view: &'a dyn Fn(&BackendName) -> View,
    /// Nothing may be removed now.
    pub(in crate::reconcile) is_frozen: bool,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::reconcile) enum Next {
    /// Nothing: HAProxy is as it should be, or what is in the way was told.
    Nothing,
    /// These readings.
    Read(Vec<Request>),
    /// These changes, and readings after them.
    Change(Vec<MapChange>, Vec<Request>),
}

/// The whole of a map that is being written anew, for its order.
#[derive(Clone, Debug)]
struct Replacement {
    kind: MapKind,
    entries: Vec<(MapWord, MapWord)>,
    version: Option<u32>,
    is_written: bool,
}

/// What the core holds of routes.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
pub(in crate::reconcile) struct Routes {
    claimants: BTreeMap<ServiceKey, Claimant>,
    /// The backends that routes of services lead to, or led to.
    managed: BTreeSet<BackendName>,
    /// Claims have changed since the verdict.
    stale: bool,
    verdict: Verdict,
    /// What was wanted since the start.
    was_wanted: BTreeSet<(Route, BackendName)>,
    /// The maps as they were seen; `None` is a map that HAProxy does not have.
    observed: BTreeMap<MapKind, Option<MapContent>>,
    observed_at: Duration,
    /// They were not looked at since.
    fresh: bool,
    /// Maps that were seen once.
    found: BTreeSet<MapKind>,
    /// The maps have to be read.
    pub(in crate::reconcile) dirty: bool,
    /// A batch is under way.
    pub(in crate::reconcile) busy: bool,
    /// Left alone until then.
    pub(in crate::reconcile) paused_until: Option<Duration>,
    /// Everything was applied, since HAProxy was connected.
    pub(in crate::reconcile) settled: bool,
    pub(in crate::reconcile) failures: Backoff,
    rounds: Rounds,
    /// Backends whose first server in rotation is waited for.
    waiting: BTreeSet<BackendName>,
    /// A backend is otherwise than it was when it was looked last.
    pub(in crate::reconcile) noticed: bool,
    /// When changes were sent last.
    pub(in crate::reconcile) sent_at: Option<Duration>,
    replacement: Option<Replacement>,
    refused: BTreeMap<Route, String>,
    /// The routes that are somebody's and not in HAProxy as they should be.
    open: BTreeMap<Route, Open>,
    /// Why they could not be read or written the last time.
    pub(in crate::reconcile) problem: Option<String>,
    /// What was told.
    pub(in crate::reconcile) obstacles: BTreeSet<RouteObstacle>,
    remarks: BTreeSet<(ServiceKey, Rejection)>,
    pub(in crate::reconcile) count: RoutesCount,
    /// In observing mode: what was told last.
    pub(in crate::reconcile) would: Vec<MapChange>,
    /// Changes that HAProxy accepted since it was settled last.
    pub(in crate::reconcile) accepted: Vec<MapChange>,
    pub(in crate::reconcile) changing_since: Option<Duration>,
}

/// What has become otherwise since it was told last.
#[derive(Debug, Default)]
pub(in crate::reconcile) struct News {
    pub(in crate::reconcile) begun: Vec<RouteObstacle>,
    pub(in crate::reconcile) ended: Vec<RouteObstacle>,
    pub(in crate::reconcile) rejected: Vec<(ServiceKey, Rejection)>,
    pub(in crate::reconcile) unrejected: Vec<(ServiceKey, Rejection)>,
}

impl Routes {
    pub(in crate::reconcile) fn new() -> Self {
        Self {
            claimants: BTreeMap::new(),
            managed: BTreeSet::new(),
            stale: true,
            verdict: Verdict::default(),
            was_wanted: BTreeSet::new(),
            observed: BTreeMap::new(),
            observed_at: Duration::ZERO,
            fresh: false,
            found: BTreeSet::new(),
            dirty: true,
            busy: false,
            paused_until: None,
            settled: false,
            failures: Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
            rounds: Rounds::default(),
            waiting: BTreeSet::new(),
            noticed: false,
            sent_at: None,
            replacement: None,
            refused: BTreeMap::new(),
            open: BTreeMap::new(),
            problem: None,
            obstacles: BTreeSet::new(),
            remarks: BTreeSet::new(),
            count: RoutesCount::default(),
            would: Vec::new(),
            accepted: Vec::new(),
            changing_since: None,
        }
    }

    /// Takes in what a service asks for now; `None` when nothing of it is served.
    pub(in crate::reconcile) fn contribute(&mut self, service: &ServiceKey, new: Option<&Routing>) {
        let former = self.claimants.get_mut(service);
        let Some(new) = new else {
            if let Some(former) = former.filter(|former| !former.is_empty) {
                former.is_empty = true;
                self.stale = true;
            }
            return;
        };
        if former.is_none() && new.claims.is_empty() && new.refused.is_empty() {
            return;
        }
        let mut claimant = Claimant {
            routing: new.clone(),
            is_empty: false,
            is_gone: false,
            found: BTreeSet::new(),
        };
        if let Some(former) = former {
            // An update replaces registrations one by one: the claim is that of the service.
            if !former.is_gone && former.routing.backend == new.backend {
                for (route, index) in &mut claimant.routing.claims {
                    let before = former.routing.claims.get(route).copied();
                    *index = before.map_or(*index, |before| before.min(*index));
                }
                let claims = &claimant.routing.claims;
                claimant.found = std::mem::take(&mut former.found);
                claimant.found.retain(|route| claims.contains_key(route));
            }
            if former.routing == claimant.routing && !former.is_empty {
                former.found = claimant.found;
                return;
            }
        }
        self.managed.insert(new.backend.clone());
        self.claimants.insert(service.clone(), claimant);
        self.stale = true;
    }

    /// The connection is gone: nothing is known any more.
    pub(in crate::reconcile) fn disconnect(&mut self) {
        self.busy = false;
        self.dirty = true;
        self.fresh = false;
        self.settled = false;
        self.observed.clear();
        self.replacement = None;
        self.refused.clear();
        self.rounds = Rounds::default();
    }

    /// Whether an entry of a map leads to this backend, or may do.
    #[must_use]
    pub(in crate::reconcile) fn leads_to(&self, name: &BackendName, maps: &Maps) -> bool {
        let mut kinds = MapKind::ALL.iter().filter(|kind| maps.of(**kind).is_some());
        kinds.any(|kind| match self.observed.get(kind) {
            None => true,
            Some(None) => false,
            Some(Some(content)) => content.entries.iter().any(|entry| {
                let value = entry.value.as_ref();
                value.is_some_and(|value| value.as_str() == name.as_str())
            }),
        })
    }

    /// Whether something has to be looked at now.
    pub(in crate::reconcile) fn is_due(&self, view: &dyn Fn(&BackendName) -> View) -> bool {
        if self.busy || self.paused_until.is_some() {
            return false;
        }
        if self.dirty || self.stale || self.fresh {
            return true;
        }
        // This is asked at every step of every backend.
        if !self.noticed {
            return false;
        }
        let mut fading = (self.claimants.values())
            .filter(|claimant| claimant.is_empty && !claimant.is_gone)
            .map(|claimant| &claimant.routing.backend);
        self.waiting.iter().any(|name| view(name).takes_traffic)
            || fading.any(|name| !view(name).is_wanted)
    }

    /// Ends the pause when the time for that has come.
    pub(in crate::reconcile) fn wake(&mut self, now: Duration) {
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
            self.dirty = true;
        }
    }

    /// What comes next, from what was seen last.
    pub(in crate::reconcile) fn next(
        &mut self,
        now: Duration,
        around: &Surroundings<'_>,
        ending: &BTreeSet<BackendName>,
    ) -> (Next, News) {
        self.judge(around);
        self.fresh = false;
        let kinds = self.needed(ending, around.maps);
        let unseen = kinds.iter().any(|kind| !self.observed.contains_key(kind));
        if self.dirty || unseen {
            let requests = readings(&kinds, around.maps);
            if !requests.is_empty() {
                return (Next::Read(requests), News::default());
            }
            self.dirty = false;
        }
        let (changes, replacement, obstacles) = self.compare(around, ending);
        let news = self.news(obstacles);
        if changes.is_empty() && replacement.is_none() {
            self.replacement = None;
            return (Next::Nothing, news);
        }
        if now.saturating_sub(self.observed_at) > OLD {
            return (Next::Read(readings(&kinds, around.maps)), news);
        }
        let Some((kind, entries)) = replacement else {
            let kinds = (kinds.into_iter()).filter(|kind| {
                changes
                    .iter()
                    .any(|one| around.maps.of(*kind) == Some(one.map()))
            });
            let after = readings(&kinds.collect(), around.maps);
            self.rounds.changes(changes.iter().cloned());
            return (Next::Change(changes, after), news);
        };
        let Some(map) = around.maps.of(kind) else {
            return (Next::Nothing, news);
        };
        // The whole of it, as if it were added.
        let sent =
            (entries.iter().cloned()).map(|(key, value)| MapChange::Add(map.clone(), key, value));
        self.rounds.whole(sent);
        self.replacement = Some(Replacement {
            kind,
            entries,
            version: None,
            is_written: false,
        });
        (
            Next::Change(vec![MapChange::Prepare(map.clone())], Vec::new()),
            news,
        )
    }

    /// What follows in the writing of a map that is written anew.
    pub(in crate::reconcile) fn go_on(
        &mut self,
        maps: &Maps,
    ) -> Option<(Vec<MapChange>, Vec<Request>)> {
        let replacement = self.replacement.as_mut()?;
        let map = maps.of(replacement.kind)?;
        let version = replacement.version?;
        if std::mem::replace(&mut replacement.is_written, true) {
            let commit = vec![MapChange::Commit(version, map.clone())];
            self.replacement = None;
            return Some((commit, vec![Request::Map(map.clone())]));
        }
        let entries = std::mem::take(&mut replacement.entries).into_iter();
        let add = |(key, value)| MapChange::AddTo(version, map.clone(), key, value);
        Some((entries.map(add).collect(), Vec::new()))
    }

    /// Takes in the answers to a batch. The error is what went wrong, in HAProxy's words.
    pub(in crate::reconcile) fn answered(
        &mut self,
        now: Duration,
        maps: &Maps,
        requests: &[Request],
        responses: Vec<Response>,
    ) -> Result<(), String> {
        self.busy = false;
        let mut problem = None;
        let mut has_changes = false;
        let kind_of = |map| {
            MapKind::ALL
                .into_iter()
                .find(|kind| maps.of(*kind) == Some(map))
        };
        for (request, response) in requests.iter().zip(responses) {
            match (request, response) {
                (Request::Map(map), Response::Map(content)) => {
                    if let Some(kind) = kind_of(map) {
                        self.see(now, kind, Some(content));
                    }
                }
                (Request::Map(map), Response::NoSuchMap) => {
                    if let Some(kind) = kind_of(map) {
                        self.see(now, kind, None);
                    }
                }
                (Request::ChangeMap(_), Response::MapVersion(version)) => {
                    if let Some(replacement) = &mut self.replacement {
                        replacement.version = Some(version);
                    }
                }
                (Request::ChangeMap(change), Response::Changed(outcome)) => {
                    has_changes = true;
                    match outcome {
                        Outcome::Done | Outcome::Notice(_) => self.accepted.push(change.clone()),
                        Outcome::Refused(text) => {
                            if let MapChange::Add(map, key, _) = change
                                && let Some(kind) = kind_of(map)
                            {
                                let key = key.clone();
                                self.refused.insert(Route { kind, key }, text);
                            }
                        }
                        Outcome::RetryLater(text) => {
                            problem.get_or_insert(format!("{}: {text}", change.verb()));
                        }
                    }
                }
                (_, _) => {}
            }
        }
        if has_changes && self.rounds.are_too_many() {
            self.rounds = Rounds::default();
            problem.get_or_insert(
                "HAProxy acknowledges changes of maps that it does not show".to_owned(),
            );
        }
        if let Some(problem) = problem {
            self.replacement = None;
            return Err(problem);
        }
        Ok(())
    }

    /// Nothing is left to do for now.
    pub(in crate::reconcile) fn settle(&mut self) {
        self.settled = true;
        self.rounds = Rounds::default();
        self.problem = None;
        self.failures.reset();
    }

    // === inside ===

    fn see(&mut self, now: Duration, kind: MapKind, content: Option<MapContent>) {
        self.dirty = false;
        self.fresh = true;
        self.observed_at = now;
        if let (Some(content), true) = (&content, self.found.insert(kind)) {
            // Who has a route when the sidecar starts, keeps it: a restart changes nothing.
            let has: BTreeMap<_, _> = (content.entries.iter().rev())
                .filter_map(|entry| Some((&entry.key, entry.value.as_ref()?.as_str())))
                .collect();
            for claimant in self.claimants.values_mut() {
                let Routing {
                    backend, claims, ..
                } = &claimant.routing;
                for route in claims.keys().filter(|route| route.kind == kind) {
                    if has.get(&route.key) == Some(&backend.as_str()) {
                        claimant.found.insert(route.clone());
                        self.stale = true;
                    }
                }
            }
        }
        self.observed.insert(kind, content);
    }

    fn judge(&mut self, around: &Surroundings<'_>) {
        for claimant in self.claimants.values_mut() {
            let is_gone = claimant.is_empty && !(around.view)(&claimant.routing.backend).is_wanted;
            if is_gone != claimant.is_gone {
                claimant.is_gone = is_gone;
                claimant.found.clear();
                self.stale = true;
            }
        }
        if !std::mem::take(&mut self.stale) {
            return;
        }
        self.verdict = claims::judge(&self.claimants, around.rules);
        for (route, owned) in &self.verdict.owned {
            let wanted = (route.clone(), owned.backend.clone());
            self.was_wanted.insert(wanted);
        }
    }

    /// The kinds whose maps have to be known.
    fn needed(&self, ending: &BTreeSet<BackendName>, maps: &Maps) -> BTreeSet<MapKind> {
        let named = |kind: &MapKind| maps.of(*kind).is_some();
        if !ending.is_empty() {
            return MapKind::ALL.into_iter().filter(named).collect();
        }
        let seen = (self.observed.iter())
            .filter(|(_, content)| content.is_some())
            .map(|(kind, _)| *kind);
        let claimed = self.verdict.owned.keys().map(|route| route.kind);
        seen.chain(claimed).filter(named).collect()
    }

    #[expect(
        clippy::type_complexity,
        reason = "what one comparison of all maps comes to"
    )]
    fn compare(
        &mut self,
        around: &Surroundings<'_>,
        ending: &BTreeSet<BackendName>,
    ) -> (
        Vec<MapChange>,
        Option<(MapKind, Vec<(MapWord, MapWord)>)>,
        BTreeSet<RouteObstacle>,
    ) {
        let mut changes = Vec::new();
        let mut replacement = None;
        let mut obstacles = BTreeSet::new();
        let mut count = RoutesCount::default();
        self.waiting.clear();
        self.open.clear();
        for kind in MapKind::ALL {
            let mut routes = BTreeMap::new();
            for (route, owned) in &self.verdict.owned {
                if route.kind != kind || ending.contains(&owned.backend) {
                    continue;
                }
                let takes_traffic = (around.view)(&owned.backend).takes_traffic;
                let wish = Wish {
                    backend: &owned.backend,
                    takes_traffic,
                    is_over: !owned.keep && owned.is_gone,
                };
                if !takes_traffic {
                    self.waiting.insert(owned.backend.clone());
                }
                routes.insert(&route.key, wish);
            }
            let Some(map) = around.maps.of(kind) else {
                if !routes.is_empty() {
                    count.blocked += routes.len();
                    obstacles.insert(RouteObstacle::Unnamed(kind));
                }
                continue;
            };
            let content = match self.observed.get(&kind) {
                Some(Some(content)) => content,
                Some(None) if !routes.is_empty() => {
                    count.blocked += routes.len();
                    obstacles.insert(RouteObstacle::NoMap(kind, map.clone()));
                    continue;
                }
                Some(None) | None => continue,
            };
            let is_ours = |backend: &BackendName| {
                self.managed.contains(backend) || (around.view)(backend).is_made
            };
            let may_go = |key: &MapWord, backend: &BackendName| {
                let view = (around.view)(backend);
                let route = || Route {
                    kind,
                    key: key.clone(),
                };
                view.is_ending
                    || !around.is_frozen
                        && (view.is_known || self.was_wanted.contains(&(route(), backend.clone())))
            };
            let wanted = Wanted {
                kind,
                map,
                routes: &routes,
                is_ours: &is_ours,
                may_go: &may_go,
                refused: &self.refused,
            };
            let difference = diff::difference(&wanted, content);
            count.active += difference.active;
            count.waiting += difference.waiting.len();
            count.blocked += difference.obstacles.len();
            self.open.extend(open_of(kind, &difference));
            obstacles.extend(difference.obstacles);
            match difference.replacement {
                Some(entries) => replacement = Some((kind, entries)),
                None => changes.extend(difference.changes),
            }
        }
        self.count = count;
        // A map that is written anew comes after the others.
        let replacement = replacement.filter(|_| changes.is_empty());
        (changes, replacement, obstacles)
    }

    fn news(&mut self, obstacles: BTreeSet<RouteObstacle>) -> News {
        let reason = |(service, registration, reason): &(_, _, RouteReason)| {
            let rejection = Rejection {
                registration: std::sync::Arc::clone(registration),
                reason: Reason::Route(reason.clone()),
            };
            (ServiceKey::clone(service), rejection)
        };
        let remarks: BTreeSet<_> = self.verdict.remarks.iter().map(reason).collect();
        let news = News {
            begun: obstacles.difference(&self.obstacles).cloned().collect(),
            ended: self.obstacles.difference(&obstacles).cloned().collect(),
            rejected: remarks.difference(&self.remarks).cloned().collect(),
            unrejected: self.remarks.difference(&remarks).cloned().collect(),
        };
        let costly = remarks.iter().filter(|(_, one)| one.reason.costs_a_route());
        self.count.taken = costly.count();
        self.obstacles = obstacles;
        self.remarks = remarks;
        news
    }
}

fn readings(kinds: &BTreeSet<MapKind>, maps: &Maps) -> Vec<Request> {
    let maps = kinds.iter().filter_map(|kind| maps.of(*kind));
    maps.map(|map| Request::Map(map.clone())).collect()
}
