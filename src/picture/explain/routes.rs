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

/// A line for each.
pub(super) fn lines(routes: &[&Route]) -> Vec<(&'static str, String)> {
    let shown = routes.iter().take(SHOWN).map(|route| {
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
    let more = routes.len().checked_sub(SHOWN).filter(|more| *more > 0);
    let more = more.map(|more| format!("… and {more} more (`status --json` has them all)"));
    shown.chain(more).map(|text| ("route", text)).collect()
}

/// The verdict on what is in rotation is none on whether it is found.
pub(super) fn found(verdict: Verdict, routes: &[&Route]) -> Verdict {
    let missing = routes.iter().find(|one| one.state != RouteState::Active);
    let Some(missing) = missing.filter(|_| verdict.served == Served::Yes) else {
        return verdict;
    };
    let why = safe(missing.why.as_deref().unwrap_or(missing.state.as_str()));
    let next = "nothing before that changes; whatever changes is noticed at once".to_owned();
    let is_found = routes.iter().any(|one| one.state == RouteState::Active);
    let sentence = if is_found {
        let name = safe(&missing.name());
        format!("{}, but not by {name}: {why}", verdict.sentence)
    } else {
        format!("is in rotation, but no route leads to it: {why}")
    };
    Verdict {
        served: if is_found { Served::Yes } else { Served::No },
        sentence,
        next,
    }
}
