//! What the sidecar would make of a service. That is asked of [`contribution`], which makes servers of what the catalog
//! says: here it is given what the catalog would say.

use std::collections::BTreeSet;

use super::{
    check::{Located, whole},
    job::Text,
    shown,
};
use crate::{
    model::{BackendName, Registration, ServiceKey},
    reconcile::{
        Policy,
        desired::{Reason, contribution},
        routes::RouteReason,
        tags::{self, TagProblem},
    },
};

/// For what Nomad will put in.
const ANY_ADDRESS: &str = "192.0.2.1";
/// Keys of tags that make routes.
const ROUTES: &[&str] = &["domain", "domain.type", "path", "sni", "port"];

/// The tags that can be read, and what is wrong with any: a bad value hides what else there is to say.
pub(super) fn readable(prefix: &str, mut tags: Vec<String>) -> (Vec<String>, Vec<TagProblem>) {
    let mut problems = Vec::new();
    while let Err(bad) = tags::read(prefix, &tags) {
        let before = tags.len();
        tags.retain(|tag| !bad.iter().any(|bad| bad.tag == shown(tag)));
        problems.extend(bad);
        if tags.len() == before {
            break;
        }
    }
    let notes = tags::read(prefix, &tags).map(|tags| tags.notes);
    problems.extend(notes.unwrap_or_default());
    (tags, problems)
}

/// What Nomad would register, as far as it is known. What is not known is something that can be used.
pub(super) fn registration(namespace: &str, name: &Text, tags: Vec<String>) -> Registration {
    Registration {
        id: "lint".into(),
        service: ServiceKey::new(namespace, name.whole().unwrap_or("service")),
        alloc_id: "00000000-0000-0000-0000-000000000000".into(),
        job_id: "lint".into(),
        tags,
        address: ANY_ADDRESS.to_owned(),
        port: 1,
        create_index: 1,
        modify_index: 1,
    }
}

/// Why the sidecar would not serve a registration, or not as it asks, if HAProxy had whatever backend it goes to.
pub(super) fn reasons(registration: &Registration, policy: &Policy) -> Vec<Reason> {
    let reasons = reasons_with(registration, &[], policy);
    let missing: Vec<_> = reasons.iter().flat_map(missing).cloned().collect();
    if missing.is_empty() {
        reasons
    } else {
        reasons_with(registration, &missing, policy)
    }
}

fn reasons_with(registration: &Registration, backends: &[String], policy: &Policy) -> Vec<Reason> {
    let backends = backends
        .iter()
        .filter_map(|name| BackendName::new(name).ok());
    let places = backends.collect::<BTreeSet<_>>().into();
    let (service, one) = (&registration.service, std::slice::from_ref(registration));
    let contribution = contribution(service, one, &places, policy);
    let rejections = contribution.rejections.into_iter();
    let reasons = rejections.map(|rejection| rejection.reason);
    // Whose the backend will be is not known here.
    reasons
        .filter(|reason| !matches!(reason, Reason::NoProfile(_)))
        .collect()
}

/// The backends that a registration goes to, the first that HAProxy has.
fn missing(reason: &Reason) -> &[String] {
    if let Reason::NoSuchBackend(names) = reason {
        names
    } else {
        &[]
    }
}

/// The tags that make no route, wherever the service goes.
pub(super) fn route_problems(located: &Located<'_>, policy: &Policy) -> Vec<TagProblem> {
    let prefix = &policy.tag_prefix;
    let (mut tags, _) = readable(prefix, whole(&located.service.tags));
    tags.retain(|tag| tags::split(prefix, tag).is_some_and(|(key, _)| ROUTES.contains(&key)));
    let own = policy.rules.own_namespace();
    let registration = exposed(own, &Text::default(), tags, policy);
    let mut problems = Vec::new();
    for reason in reasons(&registration, policy) {
        if let Reason::Route(RouteReason::Tag(problem)) = reason {
            problems.push(problem);
        }
    }
    problems
}

/// What Nomad would register if the service opted in, with these of its tags.
fn exposed(namespace: &str, name: &Text, mut tags: Vec<String>, policy: &Policy) -> Registration {
    let prefix = &policy.tag_prefix;
    tags.retain(|tag| !matches!(tags::split(prefix, tag), Some(("enable", _))));
    tags.push(format!("{prefix}.enable=true"));
    registration(namespace, name, tags)
}

/// The backend of a service, in words, whether or not it opts in.
pub(super) fn backend(located: &Located<'_>, namespace: &str, policy: &Policy) -> String {
    let prefix = &policy.tag_prefix;
    let later = |what: &str| format!("not known before Nomad has evaluated {what}");
    let Some(texts) = &located.service.tags.texts else {
        return later("its tags");
    };
    let start = format!("{prefix}.backend.name=");
    let mut unknown = texts.iter().filter(|text| !text.is_whole);
    if let Some(tag) = unknown.find(|text| text.may_begin_with(&start)) {
        return later(&format!("tag {}", shown(&tag.written)));
    }
    let (tags, problems) = readable(prefix, whole(&located.service.tags));
    let names_backend = |tag: &str| tag.starts_with(&start);
    if let Some(problem) = (problems.iter()).find(|problem| problem.tag[1..].starts_with(&start)) {
        return format!("none, before tag {} is mended", problem.tag);
    }
    if !located.name.is_whole && !tags.iter().any(|tag| names_backend(tag)) {
        return later(&format!("its name {}", shown(&located.name.written)));
    }
    let reasons = reasons_with(
        &exposed(namespace, &located.name, tags, policy),
        &[],
        policy,
    );
    let names = reasons.iter().flat_map(missing);
    let names: Vec<_> = names.map(|name| shown(name)).collect();
    match (&*names, reasons.first()) {
        ([only], _) => only.clone(),
        ([first, others @ ..], _) => format!("{first}; if HAProxy has none, {}", others.join(", ")),
        ([], Some(reason)) => format!("none: {reason}"),
        ([], None) => "none".to_owned(),
    }
}
