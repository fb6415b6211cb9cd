//! How everything stands, on one screen: a line for each backend, and what is in the way of whom. What is well is short.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{
    Backend, Charge, Evidence, HoldBy, Kind, Picture, Registration, RouteState, Server, Service,
    Stage,
    explain::{charge, safe, time, trouble_of, words},
};

/// So many lines of one kind are shown; then it says how many there are more.
const SHOWN: usize = 40;
/// So many of those that have the same reason are named.
const NAMED: usize = 3;

/// The screen, each line with its end.
#[must_use]
pub fn screen(evidence: &Evidence) -> String {
    let picture = &evidence.picture;
    let mut text = String::new();
    head(picture, &mut text);
    backends(picture, &mut text);
    troubles(evidence, &mut text);
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = writeln!(text, "{line}");
}

fn head(picture: &Picture, text: &mut String) {
    let sidecar = &picture.sidecar;
    let ready = match sidecar.charge {
        Charge::Nobody => match &sidecar.unasked {
            Some(unasked) if unasked.is_there => "no answer".to_owned(),
            Some(_) | None => "none found".to_owned(),
        },
        Charge::InCharge | Charge::Standby | Charge::Observing if sidecar.ready => {
            "ready".to_owned()
        }
        Charge::InCharge | Charge::Standby | Charge::Observing => {
            format!("not ready: {}", safe(&sidecar.missing.join("; ")))
        }
    };
    line(text, format_args!("sidecar  {ready}; {}", charge(picture)));
    for namespace in &picture.nomad.namespaces {
        let name = safe(&namespace.name);
        let trouble = trouble_of(namespace);
        if sidecar.charge == Charge::Nobody {
            let how = trouble.unwrap_or_else(|| "read by this command".to_owned());
            line(text, format_args!("nomad    {name}: {how}"));
            continue;
        }
        let index = namespace
            .index
            .map_or("-".to_owned(), |index| index.to_string());
        let current = namespace
            .current_ms
            .map_or("never".to_owned(), |ms| format!("{} ago", time(ms)));
        let trouble = trouble.map(|why| format!("; {why}"));
        line(
            text,
            format_args!(
                "nomad    {name}: index {index}, current {current}, by {}{}",
                safe(&namespace.followed),
                trouble.unwrap_or_default()
            ),
        );
    }
    if !picture.haproxy.connected
        && sidecar.charge != Charge::Nobody
        && !picture.backends.is_empty()
    {
        line(
            text,
            format_args!("haproxy  away: what follows is as it was when it was read last"),
        );
    }
    if let Some(snapshot) = &picture.nomad.snapshot {
        line(text, format_args!("nomad    {}", safe(snapshot)));
    }
    let guards = sidecar.guards;
    if guards.frozen {
        line(text, format_args!("guard    removals are stopped"));
    }
    if guards.mass {
        line(
            text,
            format_args!("guard    a mass deregistration is not believed"),
        );
    }
    if let Some(failure) = &sidecar.failure {
        line(text, format_args!("failed   {}", safe(failure)));
    }
}

fn backends(picture: &Picture, text: &mut String) {
    if picture.backends.is_empty() {
        // Unread, nothing is known of it.
        if picture.haproxy.read {
            line(text, format_args!("no service resolves to a backend"));
            return;
        }
        for service in picture.services.iter().take(SHOWN) {
            let (namespace, name) = (safe(&service.namespace), safe(&service.name));
            let count = service.registrations.len();
            line(
                text,
                format_args!("service  {namespace}/{name}: {count} registered"),
            );
        }
        more(picture.services.len(), "services", text);
        return;
    }
    let width = picture
        .backends
        .iter()
        .map(|one| one.name.len())
        .max()
        .unwrap_or(0)
        .max(7);
    line(
        text,
        format_args!("\n{:<width$}  IN ROTATION  SLOTS FREE  BESIDES", "BACKEND"),
    );
    // What is not well is not cut away.
    let is_well = |backend: &&Backend| {
        backend.in_rotation == backend.wanted
            && backend.hindrances.is_empty()
            && backend.problem.is_none()
    };
    let mut sorted: Vec<_> = picture.backends.iter().collect();
    sorted.sort_by_key(is_well);
    for backend in sorted.into_iter().take(SHOWN) {
        let slots = backend.slots.map_or(String::new(), |slots| {
            format!("{} of {}", slots.free, slots.total)
        });
        let slots = if backend.kind == Kind::Slots {
            slots
        } else {
            "-".to_owned()
        };
        let besides = besides(backend);
        let rotation = match (backend.in_rotation, backend.wanted) {
            (0, 0) => "-".to_owned(),
            (in_rotation, wanted) => format!("{in_rotation} of {wanted}"),
        };
        let row = format!(
            "{:<width$}  {rotation:<11}  {slots:<10}  {besides}",
            backend.name
        );
        line(text, format_args!("{}", row.trim_end()));
    }
    more(picture.backends.len(), "backends", text);
    if !picture.routes.is_empty() {
        let counted = [
            RouteState::Active,
            RouteState::Waiting,
            RouteState::Blocked,
            RouteState::Taken,
            RouteState::Refused,
        ];
        let counted = counted.iter().filter_map(|state| {
            let all = picture.routes.iter().filter(|one| one.state == *state);
            let count = all.count();
            (count > 0).then(|| format!("{count} {}", state.as_str()))
        });
        let counted = counted.collect::<Vec<_>>().join(", ");
        line(text, format_args!("\nROUTES   {counted}"));
    }
}

/// What there is to say of a backend besides how many are in rotation.
fn besides(backend: &Backend) -> String {
    let counted = [
        (Stage::Wanted, "coming"),
        (Stage::Admitted, "waiting for a passed check"),
        (Stage::Down, "DOWN"),
        (Stage::ByHand, "by hand"),
        (Stage::Held, "held"),
        (Stage::Draining, "draining"),
        (Stage::Gone, "leaving"),
        (Stage::Foreign, "foreign"),
    ];
    let besides = counted.iter().filter_map(|(stage, word)| {
        let count = backend
            .servers
            .iter()
            .filter(|one| one.stage == *stage)
            .count();
        (count > 0).then(|| format!("{count} {word}"))
    });
    let blocked = backend.hindrances.len();
    let blocked = (blocked > 0).then(|| format!("{blocked} blocked"));
    let absent = backend.to_be_made_from.is_some();
    let absent = absent.then(|| "not there yet".to_owned());
    let unpublished = backend.unpublished.then(|| "not published".to_owned());
    let up = backend
        .servers
        .iter()
        .filter(|one| one.stage == Stage::InRotation);
    let more = up.count().saturating_sub(backend.in_rotation);
    let more = (more > 0).then(|| format!("{more} UP without a known registration"));
    let idle = backend.servers.iter().filter(|one| is_idle(one)).count();
    let idle = (idle > 0).then(|| format!("{idle} with weight 0"));
    let first = absent.into_iter().chain(unpublished).chain(blocked);
    let besides = first.chain(besides).chain(more).chain(idle);
    besides.collect::<Vec<_>>().join(", ")
}

fn more(count: usize, what: &str, text: &mut String) {
    if count > SHOWN {
        line(
            text,
            format_args!("… and {} more {what} (--json has them all)", count - SHOWN),
        );
    }
}

/// What is not as it should be, with its reason, and who has the same.
#[derive(Default)]
struct Troubles {
    all: Vec<(String, Vec<String>)>,
    places: BTreeMap<String, usize>,
}

impl Troubles {
    fn add(&mut self, what: String, who: impl Into<Option<String>>) {
        let place = *self.places.entry(what).or_insert_with_key(|what| {
            self.all.push((what.clone(), Vec::new()));
            self.all.len() - 1
        });
        if let Some((_, all)) = self.all.get_mut(place) {
            all.extend(who.into());
        }
    }
}

/// What is not as it should be, and why.
fn troubles(evidence: &Evidence, text: &mut String) {
    let picture = &evidence.picture;
    let mut troubles = Troubles::default();
    for service in &picture.services {
        let service_name = format!("{}/{}", safe(&service.namespace), safe(&service.name));
        if let Some((backend, count)) = forsaken(service, picture) {
            let what = format!("{service_name}: 0 of {count} in rotation, in backend {backend}");
            troubles.add(what, None);
        }
        for registration in &service.registrations {
            for rejection in &registration.rejections {
                let what = format!("{service_name}: not served: {}", safe(rejection));
                troubles.add(what, safe(&registration.address));
            }
            for why in &registration.unrouted {
                troubles.add(format!("{service_name}: not routed: {}", safe(why)), None);
            }
            // What is in its way is told with the backend.
            let is_blocked = |backend: &str| {
                let backend = picture.backend(backend);
                backend.is_some_and(|backend| backend.hindrance(&registration.id).is_some())
            };
            if let (Stage::Wanted, Some(place)) = (registration.stage, &registration.place)
                && !is_blocked(&place.backend)
            {
                let what = format!("{}: not ready in HAProxy", place.backend);
                troubles.add(what, safe(&registration.address));
            }
        }
    }
    of_backends(evidence, &mut troubles);
    for route in &picture.routes {
        if route.state != RouteState::Active {
            let what = format!(
                "{}/{}: {} {}: {}",
                safe(&route.namespace),
                safe(&route.service),
                safe(&route.name()),
                route.state.as_str(),
                safe(route.why.as_deref().unwrap_or_default())
            );
            troubles.add(what, None);
        }
    }
    if troubles.all.is_empty() {
        return;
    }
    line(
        text,
        format_args!("\nWHY      (explain <name> tells the whole story)"),
    );
    for (what, who) in troubles.all.iter().take(SHOWN) {
        let named = who.iter().take(NAMED).map(String::as_str);
        let named = named.collect::<Vec<_>>().join(", ");
        match who.len().saturating_sub(NAMED) {
            0 if named.is_empty() => line(text, format_args!("{what}")),
            0 => line(text, format_args!("{what}: {named}")),
            more => line(text, format_args!("{what}: {named} and {more} more")),
        }
    }
    more(troubles.all.len(), "lines", text);
}

/// Where a backend serves several services, one that has nobody left there, and how many it had.
fn forsaken<'a>(service: &'a Service, picture: &'a Picture) -> Option<(&'a str, usize)> {
    let served = service
        .registrations
        .iter()
        .filter(|one| one.place.is_some());
    let is_out = |one: &Registration| matches!(one.stage, Stage::Down | Stage::ByHand);
    let count = served.clone().count();
    let place = served.clone().next()?.place.as_ref()?;
    let backend = picture.backend(&place.backend)?;
    let has_others = backend.wanted > count;
    (has_others && served.clone().all(is_out)).then_some((&*place.backend, count))
}

fn of_backends(evidence: &Evidence, troubles: &mut Troubles) {
    let services = evidence.picture.services.iter();
    let registrations = services.flat_map(|service| &service.registrations);
    let addresses: BTreeMap<&str, &str> =
        registrations.map(|one| (&*one.id, &*one.address)).collect();
    for backend in &evidence.picture.backends {
        let name = &backend.name;
        if let Some(problem) = &backend.problem {
            let what = format!("{name}: a batch failed: {}", safe(problem));
            troubles.add(what, None);
        }
        for hindrance in &backend.hindrances {
            let id = &*hindrance.registration;
            let who = addresses.get(id).copied().unwrap_or(id);
            let what = format!("{name}: blocked: {}", safe(&hindrance.text));
            troubles.add(what, safe(who));
        }
        for server in &backend.servers {
            if let Some(left) = &server.by_hand {
                troubles.add(format!("{name}: by hand: {}", safe(left)), None);
            }
            let check = evidence.check(name, &server.name);
            let check = check.map(|check| format!(": {}", words(check)));
            if is_idle(server) && server.by_hand.is_none() {
                troubles.add(format!("{name}: weight 0"), named(server));
            }
            let word = match server.stage {
                Stage::Down => "DOWN",
                Stage::Admitted => "waiting for a passed check",
                Stage::Held => {
                    let (what, who) = held(server);
                    troubles.add(format!("{name}: held: {what}"), who);
                    continue;
                }
                Stage::Wanted
                | Stage::InRotation
                | Stage::Draining
                | Stage::Gone
                | Stage::ByHand
                | Stage::Foreign
                | Stage::Unserved => continue,
            };
            let what = format!("{name}: {word}{}", check.unwrap_or_default());
            troubles.add(
                what,
                format!("{} for {}", named(server), time(server.since_ms)),
            );
        }
    }
}

/// UP, and given no traffic.
fn is_idle(server: &Server) -> bool {
    server.stage == Stage::InRotation && server.weight == 0
}

fn named(server: &Server) -> String {
    match server.address {
        Some(address) => format!("{} at {address}", server.name),
        None => server.name.to_string(),
    }
}

/// Why a server is held, and for how long.
fn held(server: &Server) -> (&'static str, String) {
    let hold = server.hold.as_ref();
    let why = match hold.map(|hold| hold.by) {
        Some(HoldBy::MinReady(_)) => "too few others of its service are UP",
        Some(HoldBy::Mass) => "a mass deregistration is not believed",
        Some(HoldBy::Alive) => "its allocation still runs",
        Some(HoldBy::Frozen) => "removals are stopped",
        None => "its registration is gone",
    };
    let left = hold.and_then(|hold| hold.left_ms);
    let left = left.map(|ms| format!(" for {} at most", time(ms)));
    (
        why,
        format!("{}{}", named(server), left.unwrap_or_default()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_haproxy_that_could_not_be_read_nothing_is_said() {
        let mut evidence = Evidence::default();
        assert!(!screen(&evidence).contains("no service resolves"));
        evidence.picture.haproxy.read = true;
        assert!(screen(&evidence).contains("no service resolves to a backend"));
    }

    #[test]
    fn who_has_the_same_reason_is_told_in_one_line() {
        let mut evidence = Evidence::default();
        let server = |number: u8, stage| Server {
            name: format!("nomad{number}").as_str().into(),
            address: format!("10.0.0.{number}:80").parse().ok(),
            since_ms: 3_000,
            stage,
            ..Server::default()
        };
        let mut held = server(9, Stage::Held);
        held.hold = Some(crate::picture::Hold {
            by: HoldBy::Mass,
            for_ms: 1_000,
            left_ms: Some(59_000),
        });
        let mut servers: Vec<_> = (1..=5).map(|number| server(number, Stage::Down)).collect();
        servers.push(held);
        let blocked = |number| crate::picture::Hindrance {
            registration: format!("_nomad-{number}").as_str().into(),
            text: "no free slot".to_owned(),
        };
        evidence.picture.backends = vec![Backend {
            name: "web".into(),
            wanted: 7,
            servers,
            hindrances: (1..=2).map(blocked).collect(),
            ..Backend::default()
        }];
        let check = |text: &str| crate::picture::Check {
            status: "L4CON".to_owned(),
            text: text.to_owned(),
            ..crate::picture::Check::default()
        };
        let refused = (1..=4).map(|number| (format!("nomad{number}"), check("refused")));
        evidence.checks.insert("web".to_owned(), refused.collect());
        let text = screen(&evidence);
        let expected = "
BACKEND  IN ROTATION  SLOTS FREE  BESIDES
web      0 of 7       -           2 blocked, 5 DOWN, 1 held

WHY      (explain <name> tells the whole story)
web: blocked: no free slot: _nomad-1, _nomad-2
web: DOWN: L4CON, \"refused\": nomad1 at 10.0.0.1:80 for 3.0 s, nomad2 at 10.0.0.2:80 for 3.0 s, nomad3 at 10.0.0.3:80 for 3.0 s and 1 more
web: DOWN: nomad5 at 10.0.0.5:80 for 3.0 s
web: held: a mass deregistration is not believed: nomad9 at 10.0.0.9:80 for 59 s at most
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn a_service_that_has_nobody_left_in_a_backend_of_several_is_named() {
        let mut evidence = Evidence::default();
        let registration = |stage| Registration {
            place: Some(crate::picture::Place {
                backend: "web".into(),
                by: crate::picture::By::Tag,
                server: None,
            }),
            stage,
            ..Registration::default()
        };
        let service = |name: &str, stage| Service {
            namespace: "default".into(),
            name: name.into(),
            registrations: vec![registration(stage)],
        };
        evidence.picture.services = vec![
            service("photos", Stage::Down),
            service("web", Stage::InRotation),
        ];
        evidence.picture.backends = vec![Backend {
            name: "web".into(),
            wanted: 2,
            in_rotation: 1,
            ..Backend::default()
        }];
        let text = screen(&evidence);
        let line = "\ndefault/photos: 0 of 1 in rotation, in backend web\n";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("default/web:"), "{text}");
    }
}
