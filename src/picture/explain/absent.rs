//! What the picture does not have: something that is not followed, or not there, or that nobody could read.

use super::{
    Evidence, Explained, Served, find::is_service, safe, story, trouble_in, verdict::missing_tag,
};
use crate::{picture::Service, spelling};

pub(super) fn explain(what: &str, evidence: &Evidence) -> Vec<Explained> {
    let elsewhere = evidence.elsewhere.iter();
    let mut explained: Vec<_> = elsewhere
        .map(|service| of_service(service, evidence))
        .collect();
    if explained.is_empty() {
        explained.push(nowhere(what, evidence));
    }
    explained
}

/// Whether the namespace is one of those that are followed.
fn is_followed(namespace: &str, evidence: &Evidence) -> bool {
    let followed = &evidence.picture.nomad.namespaces;
    followed
        .iter()
        .any(|one| one.name == namespace || one.name == "*")
}

fn followed(evidence: &Evidence) -> String {
    let names = evidence.picture.nomad.namespaces.iter();
    names
        .map(|one| safe(&one.name))
        .collect::<Vec<_>>()
        .join(", ")
}

fn of_service(service: &Service, evidence: &Evidence) -> Explained {
    let (namespace, name) = (safe(&service.namespace), safe(&service.name));
    let tag = format!("{}.enable=true", evidence.picture.sidecar.tag_prefix);
    let mut chain = vec![(
        "nomad",
        format!(
            "service {namespace}/{name} has {} registrations",
            service.registrations.len()
        ),
    )];
    for registration in &service.registrations {
        let tags = registration
            .tags
            .iter()
            .map(|tag| format!("{:?}", safe(tag)));
        chain.push((
            "tags",
            format!(
                "{}: {}",
                safe(&registration.id),
                tags.collect::<Vec<_>>().join(" ")
            ),
        ));
    }
    let tags = service.registrations.iter().flat_map(|one| &one.tags);
    let tags: Vec<_> = tags.map(String::as_str).collect();
    let mut served = Served::No;
    let (verdict, next) = if !is_followed(&service.namespace, evidence) {
        (
            format!(
                "does not get traffic: its namespace {namespace} is not followed, only {}: add it to --namespaces",
                followed(evidence)
            ),
            "nothing, until the sidecar is started with another --namespaces",
        )
    } else if !tags.contains(&tag.as_str()) {
        (
            format!("does not get traffic: {}", missing_tag(&tags, &tag)),
            "it is followed as soon as it is registered with that tag",
        )
    } else if let Some(trouble) = trouble_in(&evidence.picture, Some(&service.namespace)) {
        // HAProxy may have it from before.
        served = Served::Unknown;
        (
            format!(
                "may get traffic or not: HAProxy keeps what it has of it, but nothing new comes, as Nomad cannot be read: {trouble}"
            ),
            "it is read again and again, by a sidecar that runs",
        )
    } else {
        served = Served::Unknown;
        (
            "may get traffic or not: the sidecar has not read it yet".to_owned(),
            "ask again in a moment",
        )
    };
    chain.push(("charge", story::charge(&evidence.picture)));
    chain.push(("next", next.to_owned()));
    Explained {
        subject: name,
        served,
        verdict,
        chain,
    }
}

fn nowhere(what: &str, evidence: &Evidence) -> Explained {
    let picture = &evidence.picture;
    let mut chain = vec![("nomad", story::catalog(picture, None))];
    let unread = evidence.unread.as_deref();
    let is_of_another = |unread: &String| {
        let key = unread.strip_prefix("service ");
        key.is_some_and(|key| name_in(key) != name_in(what))
    };
    let all = &picture.nomad.unread;
    let is_of_others = !all.is_empty() && all.iter().all(is_of_another);
    let trouble = trouble_in(picture, None)
        .filter(|_| !is_of_others)
        .or_else(|| (!picture.nomad.known).then(|| safe(unread.unwrap_or("not read yet"))));
    let mut served = Served::No;
    let verdict = if let Some(trouble) = trouble {
        served = Served::Unknown;
        format!("may get traffic or not: Nomad cannot be read: {trouble}")
    } else {
        let why = free_slot(what, evidence).or_else(|| emptied(what, evidence));
        let why = why.unwrap_or_else(|| {
            format!(
                "there is no such service, allocation, address, registration or server in {}",
                followed(evidence)
            )
        });
        let like = like(what, evidence).map(|like| format!("; did you mean {like}?"));
        format!("does not get traffic: {why}{}", like.unwrap_or_default())
    };
    if let (Some(unread), true) = (unread, picture.nomad.known) {
        chain.push((
            "unread",
            format!(
                "what the sidecar does not follow could not be looked at: {}",
                safe(unread)
            ),
        ));
    }
    chain.push(("charge", story::charge(picture)));
    Explained {
        subject: safe(what),
        served,
        verdict,
        chain,
    }
}

/// The name of a service that is written with its namespace or without.
fn name_in(what: &str) -> &str {
    what.rsplit('/').next().unwrap_or(what)
}

/// That a server of a backend is a slot that nobody has: only HAProxy tells of those.
fn free_slot(what: &str, evidence: &Evidence) -> Option<String> {
    let (backend, name) = what.split_once('/')?;
    let slots = evidence.picture.backend(backend)?.slots?;
    let check = evidence.check(backend, name)?;
    Some(format!(
        "it is a free slot, {} in HAProxy: no registration has it; {} of {} slots of backend {} are free",
        safe(&check.state),
        slots.free,
        slots.total,
        safe(backend)
    ))
}

/// That a service, or a backend, has nobody, though it is known.
fn emptied(what: &str, evidence: &Evidence) -> Option<String> {
    let picture = &evidence.picture;
    let is_followed = picture.services.iter().any(|one| is_service(one, what));
    let backend = picture.backend(what);
    let free = match backend.and_then(|one| one.slots) {
        Some(slots) => format!(", with {} of {} slots free", slots.free, slots.total),
        None => String::new(),
    };
    let backend = backend.map(|_| format!("; backend {} is there{free}", safe(what)));
    (is_followed || backend.is_some()).then(|| {
        format!(
            "nothing of it is registered in Nomad now, in {}{}",
            followed(evidence),
            backend.unwrap_or_default()
        )
    })
}

/// A service of that name in another namespace, or a service or backend whose name differs by little.
fn like(what: &str, evidence: &Evidence) -> Option<String> {
    let services = &evidence.picture.services;
    let name = name_in(what);
    let full = |one: &Service| format!("{}/{}", safe(&one.namespace), safe(&one.name));
    if let Some(elsewhere) = services.iter().find(|one| *one.name == *name)
        && name != what
        && !is_service(elsewhere, what)
    {
        return Some(full(elsewhere));
    }
    let services = services.iter().map(|service| &*service.name);
    let backends = evidence.picture.backends.iter();
    let known = services.chain(backends.map(|backend| &*backend.name));
    let meant = spelling::meant(name, known);
    meant.filter(|meant| *meant != name).map(safe)
}
