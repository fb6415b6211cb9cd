//! What the picture does not have: something that is not followed, or not there, or that nobody could read.

use super::{Evidence, Explained, safe, story, trouble_in};
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
    let (verdict, next) = if !is_followed(&service.namespace, evidence) {
        (
            format!(
                "does not get traffic: its namespace {namespace} is not followed, only {}: add it to --namespaces",
                followed(evidence)
            ),
            "nothing, until the sidecar is started with another --namespaces",
        )
    } else if !service
        .registrations
        .iter()
        .any(|one| one.tags.contains(&tag))
    {
        (
            format!(
                "does not get traffic: it has no tag {tag:?}, so it is not followed: add it to the service in the job"
            ),
            "it is followed as soon as it is registered with that tag",
        )
    } else if let Some(trouble) = trouble_in(&evidence.picture, Some(&service.namespace)) {
        (
            // HAProxy may have it from before.
            format!(
                "is not known to the sidecar: what HAProxy has of it stays, but nothing new comes, as Nomad cannot be read by the sidecar: {trouble}"
            ),
            "it is read again and again",
        )
    } else {
        (
            "is not known to the sidecar, which has not read it yet".to_owned(),
            "ask again in a moment",
        )
    };
    chain.push((
        "charge",
        story::charge(&evidence.picture, evidence.alone.as_deref()),
    ));
    chain.push(("next", next.to_owned()));
    Explained {
        subject: name,
        gets_traffic: false,
        verdict,
        chain,
    }
}

fn nowhere(what: &str, evidence: &Evidence) -> Explained {
    let mut chain = vec![("nomad", story::catalog(&evidence.picture, None))];
    let picture = &evidence.picture;
    let why = if let Some(trouble) = trouble_in(&evidence.picture, None) {
        format!("Nomad cannot be read: {trouble}")
    } else if !picture.nomad.known {
        let unasked = evidence.unasked.as_deref().unwrap_or("not read yet");
        format!("Nomad cannot be read: {}", safe(unasked))
    } else {
        let mut text = match emptied(what, evidence) {
            Some(text) => text,
            None => format!(
                "there is no such service, allocation, address, registration or server in {}",
                followed(evidence)
            ),
        };
        if let Some(like) = like(what, evidence) {
            text = format!("{text}; did you mean {like}?");
        }
        text
    };
    if let (Some(unasked), true) = (&evidence.unasked, picture.nomad.known) {
        chain.push((
            "unread",
            format!(
                "what the sidecar does not follow could not be looked at: {}",
                safe(unasked)
            ),
        ));
    }
    chain.push((
        "charge",
        story::charge(&evidence.picture, evidence.alone.as_deref()),
    ));
    Explained {
        subject: safe(what),
        gets_traffic: false,
        verdict: format!("does not get traffic: {why}"),
        chain,
    }
}

/// That a service, or a backend, has nobody, though it is known.
fn emptied(what: &str, evidence: &Evidence) -> Option<String> {
    let picture = &evidence.picture;
    let is_it = |service: &&Service| {
        let name = (&*service.namespace, &*service.name);
        *service.name == *what || what.split_once('/') == Some(name)
    };
    let is_service = picture.services.iter().any(|one| is_it(&one));
    let backend = picture.backends.iter().find(|one| *one.name == *what);
    let free = match backend.and_then(|one| one.slots) {
        Some(slots) => format!(", with {} of {} slots free", slots.free, slots.total),
        None => String::new(),
    };
    let backend = backend.map(|_| format!("; backend {} is there{free}", safe(what)));
    (is_service || backend.is_some()).then(|| {
        format!(
            "nothing of it is registered in Nomad now, in {}{}",
            followed(evidence),
            backend.unwrap_or_default()
        )
    })
}

/// A service or backend whose name differs by little.
fn like(what: &str, evidence: &Evidence) -> Option<String> {
    let what = what.rsplit('/').next().unwrap_or(what);
    let names = evidence
        .picture
        .services
        .iter()
        .map(|service| &*service.name);
    let backends = evidence
        .picture
        .backends
        .iter()
        .map(|backend| &*backend.name);
    let meant = spelling::meant(what, names.chain(backends));
    meant.filter(|name| *name != what).map(safe)
}
