//! When maps are read and written.

use std::{collections::BTreeSet, time::Duration};

use crate::model::{BackendName, MapChange, Request, Response, ServiceKey};

use super::{MAX_UNDER_WAY, Mode, Output, Purpose, Reconciler, drive::STANDBY_LOOK};
use crate::reconcile::{
    backend::Backend,
    facts::Fact,
    routes::{
        self, RouteFact,
        machine::{Next, Surroundings, View},
    },
};

/// While HAProxy has other things to answer, the routes that come within this time are written together: all maps are read
/// for each batch of changes.
const TOGETHER: Duration = Duration::from_millis(50);

impl Reconciler {
    /// Takes the routes a step further.
    pub(super) fn step_routes(&mut self, now: Duration) {
        self.routes.wake(now);
        if self.under_way.len() >= MAX_UNDER_WAY || self.draining_since.is_some() {
            return;
        }
        let is_recent = |sent: Duration| now.saturating_sub(sent) < TOGETHER;
        if !self.under_way.is_empty() && self.routes.sent_at.is_some_and(is_recent) {
            return;
        }
        let view = |name: &BackendName| self.view(name);
        let is_due = self.routes.is_due(&view);
        // While it waits for something else, it is not looked.
        self.routes.noticed &= self.routes.busy || self.routes.paused_until.is_some();
        if !is_due {
            return;
        }
        let ending = self
            .backends
            .iter()
            .filter(|(_, backend)| backend.is_ending);
        let ending: BTreeSet<_> = ending.map(|(name, _)| name.clone()).collect();
        // The views borrow everything else of the core.
        let mut routes = std::mem::replace(&mut self.routes, routes::machine::Routes::new());
        let around = Surroundings {
            maps: &self.policy.maps,
            rules: &self.policy.rules,
            view: &|name| self.view(name),
            is_frozen: self.guards.is_frozen(),
        };
        let (next, news) = routes.next(now, &around, &ending);
        self.routes = routes;
        let blocked = |obstacle| Fact::Routes(RouteFact::Blocked(obstacle));
        let unblocked = |obstacle| Fact::Routes(RouteFact::Unblocked(obstacle));
        let facts = (news.begun.into_iter().map(blocked))
            .chain(news.ended.into_iter().map(unblocked))
            .chain((news.rejected.into_iter()).map(|(service, one)| Fact::Rejected(service, one)))
            .chain(
                (news.unrejected.into_iter()).map(|(service, one)| Fact::Unrejected(service, one)),
            );
        self.outputs.extend(facts.map(Output::Tell));
        match next {
            Next::Read(requests) => self.run_routes(requests),
            Next::Nothing => {
                self.tell_would(Vec::new());
                self.settle_routes(now);
            }
            Next::Change(changes, _) if self.mode != Mode::Act => {
                if self.mode == Mode::Standby {
                    // Whoever is in charge is about to do it.
                    self.routes.settled = false;
                    self.routes.paused_until = Some(now + STANDBY_LOOK);
                } else {
                    self.tell_would(changes);
                    self.routes.settle();
                }
            }
            Next::Change(changes, after) => self.send_routes(now, changes, after),
        }
    }

    fn send_routes(&mut self, now: Duration, changes: Vec<MapChange>, after: Vec<Request>) {
        self.routes.settled = false;
        self.routes.sent_at = Some(now);
        self.routes.changing_since.get_or_insert(now);
        for change in &changes {
            let fact = Fact::Routes(RouteFact::Sent(change.clone()));
            self.outputs.push_back(Output::Tell(fact));
        }
        let changes = changes.into_iter().map(Request::ChangeMap);
        self.run_routes(changes.chain(after).collect());
    }

    fn run_routes(&mut self, requests: Vec<Request>) {
        self.routes.busy = true;
        self.run(Purpose::Routes, requests, false);
    }

    /// What a batch about maps has come to.
    pub(super) fn routes_answered(
        &mut self,
        now: Duration,
        requests: &[Request],
        responses: Vec<Response>,
    ) {
        let maps = &self.policy.maps;
        if let Err(problem) = self.routes.answered(now, maps, requests, responses) {
            self.routes_failed(now, problem);
        } else if let Some((changes, after)) = self.routes.go_on(maps) {
            self.send_routes(now, changes, after);
        }
    }

    /// Routes could not be read or written: later again, whatever else goes on.
    pub(super) fn routes_failed(&mut self, now: Duration, problem: String) {
        self.routes.busy = false;
        self.routes.settled = false;
        let again_in = self.routes.failures.next_delay(&mut self.random);
        self.routes.paused_until = Some(now + again_in);
        self.routes.problem = Some(problem.clone());
        let fact = Fact::Routes(RouteFact::Failed { problem, again_in });
        self.outputs.push_back(Output::Tell(fact));
    }

    fn settle_routes(&mut self, now: Duration) {
        self.routes.settle();
        let since = self.routes.changing_since.take();
        let accepted = std::mem::take(&mut self.routes.accepted);
        if accepted.is_empty() {
            return;
        }
        let [added, changed, removed, rewritten] = routes::counted(&accepted);
        let fact = Fact::Routes(RouteFact::Applied {
            added,
            changed,
            removed,
            rewritten,
            took: now.saturating_sub(since.unwrap_or(now)),
        });
        self.outputs.push_back(Output::Tell(fact));
    }

    fn tell_would(&mut self, changes: Vec<MapChange>) {
        self.routes.count.would = changes.len();
        if self.routes.would != changes {
            self.routes.would.clone_from(&changes);
            if !changes.is_empty() {
                self.outputs
                    .push_back(Output::Tell(Fact::Routes(RouteFact::WouldSend(changes))));
            }
        }
    }

    /// Does something to a backend, and lets routes look when that is of interest to them.
    pub(super) fn noticing(&mut self, name: &BackendName, act: impl FnOnce(&mut Self)) {
        let seen = |all: &Self| {
            let backend = all.backends.get(name);
            backend.map(|backend| (backend.takes_traffic(), backend.is_wanted()))
        };
        let before = seen(self);
        act(self);
        self.routes.noticed |= before != seen(self);
    }

    /// What routes have to know of a backend.
    fn view(&self, name: &BackendName) -> View {
        let backend = self.backends.get(name);
        let is_registered = |service: &ServiceKey| {
            let contribution = self.contributions.get(service);
            contribution.is_some_and(|contribution| contribution.routing.is_some())
        };
        View {
            takes_traffic: backend.is_some_and(Backend::takes_traffic),
            is_wanted: backend.is_some_and(Backend::is_wanted),
            is_ending: backend.is_some_and(|backend| backend.is_ending),
            is_made: backend.is_some_and(Backend::is_made),
            is_known: self.unproven.is_empty()
                && !self.restored.unheard
                && (self.members.get(name))
                    .is_some_and(|services| services.iter().all(is_registered)),
        }
    }
}
