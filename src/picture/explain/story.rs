//! The chain from Nomad to HAProxy, a line for each link.

use super::{
    Evidence, Explained, Subject, routes, safe, time,
    verdict::{self, Verdict},
};
use crate::picture::{
    Admin, Backend, By, Charge, Kind, Namespace, Outcome, Picture, Place, Registration, Server,
    Service,
};

type Chain = Vec<(&'static str, String)>;

pub(super) fn tell(subject: Subject<'_>, what: &str, evidence: &Evidence) -> Explained {
    match subject {
        Subject::Registration(service, registration) => {
            of_registration(service, registration, what, evidence)
        }
        Subject::Server(backend, server) => {
            let mut chain = Chain::new();
            let id = server.registration.as_deref();
            chain.push((
                "nomad",
                match id {
                    Some(id) => format!(
                        "registration {} is gone; {}",
                        safe(id),
                        catalog(&evidence.picture, None)
                    ),
                    None => format!(
                        "no registration is known for it; {}",
                        catalog(&evidence.picture, None)
                    ),
                },
            ));
            chain.push(("backend", of_backend(backend)));
            of_server(backend, server, evidence, &mut chain);
            let verdict = verdict::of_server(backend, server, &evidence.picture);
            let subject = format!("{}/{}", backend.name, server.name);
            end(subject, verdict, chain, evidence)
        }
    }
}

fn of_registration(
    service: &Service,
    registration: &Registration,
    what: &str,
    evidence: &Evidence,
) -> Explained {
    let picture = &evidence.picture;
    let place = registration.place.as_ref();
    let backend = place.and_then(|place| picture.backend(&place.backend));
    let server = place.zip(backend).and_then(|(place, backend)| {
        let name = place.server.as_ref()?;
        let mut servers = backend.servers.iter();
        servers.find(|server| server.name == *name)
    });
    let mut chain = vec![
        (
            "nomad",
            format!(
                "registration {} of {}/{}, allocation {}, job {}, at {}; created at index {}, changed at {}; {}",
                safe(&registration.id),
                safe(&service.namespace),
                safe(&service.name),
                safe(&registration.allocation),
                safe(&registration.job),
                safe(&registration.address),
                registration.create_index,
                registration.modify_index,
                catalog(picture, Some(&service.namespace)),
            ),
        ),
        ("tags", tags(registration)),
    ];
    if let (Some(place), Some(backend)) = (place, backend) {
        chain.push((
            "backend",
            format!("{}; {}", of_backend(backend), because(place)),
        ));
    }
    if let (Some(backend), Some(server)) = (backend, server) {
        of_server(backend, server, evidence, &mut chain);
    }
    let routes = routes::of(service, picture);
    let unrouted = service.registrations.iter().flat_map(|one| &one.unrouted);
    let unrouted: Vec<_> = unrouted.map(|why| safe(why)).collect();
    chain.extend(routes::lines(&routes, &unrouted));
    let is_made = backend.is_some_and(|backend| backend.made_at_runtime);
    let backend = backend.map(|it| (it, server));
    let verdict = verdict::of_registration(&service.namespace, registration, backend, evidence);
    let verdict = routes::found(verdict, &routes, &unrouted, is_made, what);
    let name = place
        .and_then(|place| Some(format!("{}/{}", place.backend, place.server.as_ref()?)))
        .unwrap_or_else(|| safe(&registration.id));
    let subject = format!("{} ({name})", safe(&service.name));
    end(subject, verdict, chain, evidence)
}

fn end(subject: String, verdict: Verdict, mut chain: Chain, evidence: &Evidence) -> Explained {
    chain.push(("charge", charge(&evidence.picture)));
    if let Some(guards) = guards(&evidence.picture) {
        chain.push(("guards", guards));
    }
    chain.push(("next", verdict.next));
    Explained {
        subject,
        served: verdict.served,
        verdict: verdict.sentence,
        chain,
    }
}

fn tags(registration: &Registration) -> String {
    let quoted = registration
        .tags
        .iter()
        .map(|tag| format!("{:?}", safe(tag)));
    let all = quoted.collect::<Vec<_>>().join(" ");
    let mut text = if registration.tags.is_empty() {
        "none".to_owned()
    } else {
        safe_len(&all)
    };
    if registration.rejections.is_empty() && registration.enabled {
        text.push_str("; accepted");
    }
    for note in &registration.notes {
        text = format!("{text}; {}", safe(note));
    }
    text
}

/// Many tags are cut.
fn safe_len(text: &str) -> String {
    const SHOWN: usize = 1_000;
    let mut short: String = text.chars().take(SHOWN).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn because(place: &Place) -> &'static str {
    match place.by {
        By::Name => "it has the service's name",
        By::NameWithUnderscores => "it has the service's name, with _ for -",
        By::NamespaceAndName => "it has the name of namespace and service",
        By::Tag => "the tag backend.name names it",
    }
}

fn of_backend(backend: &Backend) -> String {
    let kind = match (backend.kind, backend.slots) {
        (Kind::Slots, Some(slots)) => format!("{} of {} slots are taken", slots.used, slots.total),
        (Kind::Slots, None) => "with slots".to_owned(),
        (Kind::Dynamic, _) => match &backend.to_be_made_from {
            Some(section) => format!("not there yet, to be made from `defaults {section}`"),
            None if backend.made_at_runtime => {
                "made at runtime, servers are added to it".to_owned()
            }
            None => "servers are added to it".to_owned(),
        },
    };
    format!(
        "{}: {kind}; {} of {} instances are in rotation",
        backend.name, backend.in_rotation, backend.wanted
    )
}

fn of_server(backend: &Backend, server: &Server, evidence: &Evidence, chain: &mut Chain) {
    let address = server
        .address
        .map(|address| format!(" at {address}"))
        .unwrap_or_default();
    let admin = match server.admin {
        Admin::Ready => "READY",
        Admin::Drain => "in drain",
        Admin::Maintenance => "in maintenance",
    };
    let up = if server.up { "UP" } else { "DOWN" };
    let is_connected = evidence.picture.haproxy.connected;
    let read = if is_connected {
        ""
    } else {
        ", as it was read last"
    };
    let checked = if server.checked {
        ""
    } else {
        ", without a check"
    };
    chain.push((
        "server",
        format!(
            "{}{address}, {admin} and {up} for {}, weight {}{checked}{read}",
            server.name,
            time(server.since_ms),
            server.weight
        ),
    ));
    if let Some(check) = evidence.check(&backend.name, &server.name) {
        let took = check
            .took_ms
            .map(|ms| format!(", took {}", time(ms)))
            .unwrap_or_default();
        let state = safe(&check.state);
        let words = if check.status.is_empty() {
            "none".to_owned()
        } else {
            verdict::words(check)
        };
        chain.push((
            "check",
            format!(
                "{state}; the last one: {words}{took}; {} sessions",
                check.sessions
            ),
        ));
    }
    if let Some(left) = &server.by_hand {
        chain.push(("by hand", safe(left)));
    }
    for change in evidence.changes(&backend.name, &server.name) {
        let outcome = match change.outcome {
            Outcome::Sent => "not answered yet",
            Outcome::Done => "done",
            Outcome::Later => "not now",
            Outcome::Refused => "refused",
            Outcome::Unknown => "the connection broke",
            Outcome::Up => "UP",
            Outcome::Down => "DOWN",
        };
        let reply = change
            .reply
            .as_ref()
            .map(|reply| format!(", {:?}", safe(reply)))
            .unwrap_or_default();
        let index = change
            .index
            .map(|index| format!(", index {index}"))
            .unwrap_or_default();
        if change.command.is_empty() {
            let (at, why) = (safe(&change.at), safe(&change.why));
            chain.push(("change", format!("{at} {why}{reply}")));
            continue;
        }
        chain.push((
            "change",
            format!(
                "{} {} ({}{index}): {outcome}{reply}",
                safe(&change.at),
                safe(&change.command),
                safe(&change.why)
            ),
        ));
    }
}

/// What is known of the catalog.
pub(super) fn catalog(picture: &Picture, namespace: Option<&str>) -> String {
    let nomad = &picture.nomad;
    if let Some(snapshot) = &nomad.snapshot {
        return safe(snapshot);
    }
    let names = |one: &&Namespace| namespace.is_none_or(|name| one.name == name || one.name == "*");
    let Some(followed) = nomad.namespaces.iter().find(names) else {
        return "the catalog was read by this command".to_owned();
    };
    let index = followed
        .index
        .map_or("no index".to_owned(), |index| format!("index {index}"));
    let current = followed.current_ms.map_or("never read".to_owned(), |ms| {
        format!("current {} ago", time(ms))
    });
    let how = match followed.followed.as_str() {
        "stream" => "followed by its event stream",
        "blocking" => "followed by blocking queries",
        _ => "not followed now",
    };
    let trouble = followed
        .trouble
        .as_ref()
        .filter(|trouble| trouble.ended_ms.is_none());
    let trouble = trouble
        .map(|trouble| {
            format!(
                "; trouble for {}: {}",
                time(trouble.began_ms),
                safe(&trouble.text)
            )
        })
        .unwrap_or_default();
    format!("the catalog: {index}, {current}, {how}{trouble}")
}

/// Who acts, and on what.
pub(in crate::picture) fn charge(picture: &Picture) -> String {
    let (sidecar, haproxy) = (&picture.sidecar, &picture.haproxy);
    let who = match sidecar.charge {
        Charge::InCharge => "this sidecar is in charge".to_owned(),
        Charge::Standby => format!(
            "this sidecar only observes: {}",
            safe(
                sidecar
                    .standby
                    .as_deref()
                    .unwrap_or("another one is in charge")
            )
        ),
        Charge::Observing => "this sidecar only observes (--observe)".to_owned(),
        Charge::Nobody => "both sides were read by this command".to_owned(),
    };
    let unasked = sidecar.unasked.as_ref();
    let because = unasked.map(|unasked| format!(", because {}", safe(&unasked.text)));
    let haproxy = match (&haproxy.version, &haproxy.problem) {
        (Some(version), None) => {
            let pid = haproxy
                .pid
                .map(|pid| format!(", pid {pid}"))
                .unwrap_or_default();
            format!("HAProxy {}{pid}", safe(version))
        }
        (_, Some(problem)) => format!("HAProxy cannot be used: {}", safe(problem)),
        (None, None) => "HAProxy is not connected".to_owned(),
    };
    format!("{who}{}; {haproxy}", because.unwrap_or_default())
}

fn guards(picture: &Picture) -> Option<String> {
    let guards = picture.sidecar.guards;
    let mut in_force = Vec::new();
    if guards.frozen {
        in_force.push("removals are stopped".to_owned());
    }
    if guards.mass {
        in_force.push("a mass deregistration is not believed".to_owned());
    }
    if guards.waiting > 0 {
        in_force.push(format!("{} servers wait to be taken out", guards.waiting));
    }
    (!in_force.is_empty()).then(|| in_force.join("; "))
}
