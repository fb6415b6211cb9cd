//! What is said of routes.

use tracing::{debug, info, warn};

use super::Rounded;
use crate::{
    admin::{Metrics, SyncFailure},
    haproxy::command::print,
    model::{MapChange, Outcome, Request, Response},
    reconcile::{Overview, desired::Rejection, routes::RouteFact},
};

/// Says a fact about routes.
pub(super) fn fact(metrics: &Metrics, fact: RouteFact) {
    match fact {
        RouteFact::Applied {
            added,
            changed,
            removed,
            rewritten,
            took,
        } => {
            info!(added, changed, removed, rewritten, took = ?Rounded(took), "routes applied");
        }
        RouteFact::Sent(change) => {
            debug!(
                command = print(&Request::ChangeMap(change)).trim_end(),
                "sending"
            );
        }
        RouteFact::WouldSend(changes) => {
            info!(
                commands = changes.len(),
                "observing only: this would have been sent to maps"
            );
            for change in changes {
                info!(
                    command = print(&Request::ChangeMap(change)).trim_end(),
                    "would send"
                );
            }
        }
        RouteFact::Failed { problem, again_in } => {
            metrics.sync_failed(SyncFailure::Backend);
            warn!(
                problem,
                ?again_in,
                "routes could not be written; trying again"
            );
        }
        RouteFact::Blocked(obstacle) => warn!("route blocked: {obstacle}"),
        RouteFact::Unblocked(obstacle) => info!("route no longer blocked: {obstacle}"),
    }
}

/// A route that a service does not have although its tags ask for it.
pub(super) fn rejected(service: &impl std::fmt::Display, rejection: &Rejection) {
    let registration = &*rejection.registration;
    warn!(%service, registration, "not routed: {}", rejection.reason);
}

/// Counts a change of a map by HAProxy's answer.
pub(super) fn answered(metrics: &Metrics, change: &MapChange, answer: Option<&Response>) {
    let outcome = match answer {
        Some(Response::Changed(outcome)) => Some(outcome),
        // A version that was begun.
        Some(_) => Some(&Outcome::Done),
        None => None,
    };
    metrics.routes().changed(change, outcome);
}

/// For `/ready` and `/status`: what is in the way.
pub(super) fn lines(overview: &Overview) -> impl Iterator<Item = String> {
    let obstacles = overview.route_obstacles.iter();
    obstacles.map(|obstacle| format!("route blocked: {obstacle}"))
}

/// Publishes how many there are.
pub(super) fn tick(metrics: &Metrics, overview: &Overview) {
    let routes = overview.routes;
    metrics.routes().routes([
        ("active", routes.active),
        ("waiting", routes.waiting),
        ("blocked", routes.blocked),
        ("taken", routes.taken),
        ("refused", routes.refused),
    ]);
}
