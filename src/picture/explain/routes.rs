//! By which routes a service is found, and what of that it does not get.

use super::{Picture, Served, Service, safe, verdict::Verdict};
use crate::picture::{Route, RouteState};

/// So many routes are told one by one; a service may have a thousand.
const SHOWN: usize = 12;

/// The routes of a service: what is not as asked comes first.
pub(super) fn of<'a>(service: &Service, picture: &'a Picture) -> Vec<&'a Route> {
    let all = picture.routes.iter();
    let mut routes: Vec<_> = all
        .filter(|route| route.namespace == service.namespace && route.service == service.name)
        .collect();
    routes.sort_by_key(|route| route.state == RouteState::Active);
    routes
}

/// Whether this is its key, or its name.
pub(super) fn is_route(route: &Route, what: &str) -> bool {
    *route.key == *what || route.name() == what
}

/// A line for each, and for each tag that makes none.
pub(super) fn lines(routes: &[&Route], unrouted: &[String]) -> Vec<(&'static str, String)> {
    let wrong = unrouted.iter().map(|why| format!("none by {why}"));
    let all = routes.iter().map(|route| {
        let why = route.why.as_deref().map(|why| format!(": {}", safe(why)));
        let map = route.map.as_ref().map(|map| format!(" in {}", safe(map)));
        format!(
            "{}{} to {}: {}{}",
            safe(&route.name()),
            map.unwrap_or_default(),
            route.backend,
            route.state.as_str(),
            why.unwrap_or_default()
        )
    });
    let shown = wrong.chain(all).take(SHOWN);
    let more = (routes.len() + unrouted.len()).checked_sub(SHOWN);
    let more = more.filter(|more| *more > 0);
    let more = more.map(|more| format!("… and {more} more (`status --json` has them all)"));
    shown.chain(more).map(|text| ("route", text)).collect()
}

/// The verdict on what is in rotation is none on whether it is found.
pub(super) fn found(
    verdict: Verdict,
    routes: &[&Route],
    unrouted: &[String],
    is_made: bool,
    what: &str,
) -> Verdict {
    if verdict.served != Served::Yes {
        return verdict;
    }
    let is_found = routes.iter().any(|one| one.state == RouteState::Active);
    let missing = || routes.iter().filter(|one| one.state != RouteState::Active);
    let told = |route: &Route| {
        let why = route.why.as_deref().unwrap_or(route.state.as_str());
        (safe(&route.name()), safe(why))
    };
    let asked = missing().find(|route| is_found && is_route(route, what));
    let wrong = unrouted
        .first()
        .map(|why| ("a route that is asked for".to_owned(), why.clone()));
    let (served, sentence) = if let Some((name, why)) = asked.map(|route| told(route)) {
        let sentence = format!("is in rotation, but {name} does not lead to it: {why}");
        (Served::No, sentence)
    } else if let Some((name, why)) = missing().next().map(|route| told(route)).or(wrong) {
        if is_found {
            let sentence = format!("{}, but not by {name}: {why}", verdict.sentence);
            (Served::Yes, sentence)
        } else {
            (
                Served::No,
                format!("is in rotation, but no route leads to it: {why}"),
            )
        }
    } else if is_made && routes.is_empty() {
        let sentence = format!(
            "{}, if a rule of haproxy.cfg names its backend: it was made at runtime, and no tag asks for a route",
            verdict.sentence
        );
        return Verdict {
            sentence,
            ..verdict
        };
    } else {
        return verdict;
    };
    Verdict {
        served,
        sentence,
        next: "nothing before that changes; whatever changes is noticed at once".to_owned(),
    }
}
