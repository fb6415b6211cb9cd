//! How everything stands, on one screen: a line for each backend, and what is in the way of whom. What is well is short.

use std::fmt::Write as _;

use super::{
    Charge, Kind, Picture, RouteState, Stage,
    explain::{charge, safe, time, trouble_of},
};

/// So many lines of one kind are shown; then it says how many there are more.
const SHOWN: usize = 40;

/// The screen, each line with its end.
#[must_use]
pub fn screen(picture: &Picture) -> String {
    let mut text = String::new();
    head(picture, &mut text);
    backends(picture, &mut text);
    troubles(picture, &mut text);
    text
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // A string takes everything.
    let _ = writeln!(text, "{line}");
}

fn head(picture: &Picture, text: &mut String) {
    let sidecar = &picture.sidecar;
    let ready = match sidecar.charge {
        Charge::Nobody => "no daemon".to_owned(),
        Charge::InCharge | Charge::Standby | Charge::Observing if sidecar.ready => {
            "ready".to_owned()
        }
        Charge::InCharge | Charge::Standby | Charge::Observing => {
            format!("not ready: {}", safe(&sidecar.missing.join("; ")))
        }
    };
    line(
        text,
        format_args!("sidecar  {ready}; {}", charge(picture, None)),
    );
    for namespace in &picture.nomad.namespaces {
        let index = namespace
            .index
            .map_or("-".to_owned(), |index| index.to_string());
        let current = namespace
            .current_ms
            .map_or("never".to_owned(), |ms| format!("{} ago", time(ms)));
        let trouble = trouble_of(namespace)
            .map(|why| format!("; {why}"))
            .unwrap_or_default();
        line(
            text,
            format_args!(
                "nomad    {}: index {index}, current {current}, by {}{trouble}",
                safe(&namespace.name),
                safe(&namespace.followed)
            ),
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
        }
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
    for backend in picture.backends.iter().take(SHOWN) {
        let slots = backend.slots.map_or(String::new(), |slots| {
            format!("{} of {}", slots.free, slots.total)
        });
        let slots = if backend.kind == Kind::Slots {
            slots
        } else {
            "-".to_owned()
        };
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
        let besides = besides.collect::<Vec<_>>().join(", ");
        let rotation = format!("{} of {}", backend.in_rotation, backend.wanted);
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

fn more(count: usize, what: &str, text: &mut String) {
    if count > SHOWN {
        line(
            text,
            format_args!("… and {} more {what} (--json has them all)", count - SHOWN),
        );
    }
}

/// What is not as it should be, and why.
fn troubles(picture: &Picture, text: &mut String) {
    let mut lines = Vec::new();
    for backend in &picture.backends {
        let name = &backend.name;
        if let Some(problem) = &backend.problem {
            lines.push(format!("{name}: a batch failed: {}", safe(problem)));
        }
        for hindrance in &backend.hindrances {
            lines.push(format!(
                "{name}: blocked: {}: {}",
                safe(&hindrance.registration),
                safe(&hindrance.text)
            ));
        }
        for server in &backend.servers {
            if let Some(left) = &server.by_hand {
                lines.push(format!("{name}: by hand: {}", safe(left)));
            }
            if matches!(server.stage, Stage::Down | Stage::Admitted) {
                let id = server.registration.as_deref().unwrap_or("nobody's");
                let word = if server.stage == Stage::Down {
                    "DOWN"
                } else {
                    "waiting for a passed check"
                };
                lines.push(format!(
                    "{name}: {word} for {}: {} ({})",
                    time(server.since_ms),
                    server.name,
                    safe(id)
                ));
            }
            if server.stage == Stage::Held {
                let id = server.registration.as_deref().unwrap_or("nobody's");
                lines.push(format!("{name}: held: {} ({})", server.name, safe(id)));
            }
        }
    }
    for route in &picture.routes {
        if route.state != RouteState::Active {
            lines.push(format!(
                "{}/{}: {} {}: {}",
                safe(&route.namespace),
                safe(&route.service),
                safe(&route.name()),
                route.state.as_str(),
                safe(route.why.as_deref().unwrap_or_default())
            ));
        }
    }
    for service in &picture.services {
        for registration in &service.registrations {
            for rejection in &registration.rejections {
                lines.push(format!(
                    "{}/{}: not served: {}: {}",
                    safe(&service.namespace),
                    safe(&service.name),
                    safe(&registration.id),
                    safe(rejection)
                ));
            }
        }
    }
    if lines.is_empty() {
        return;
    }
    line(
        text,
        format_args!("\nWHY      (explain <name> tells the whole story)"),
    );
    for one in lines.iter().take(SHOWN) {
        line(text, format_args!("{one}"));
    }
    more(lines.len(), "lines", text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_haproxy_that_could_not_be_read_nothing_is_said() {
        let mut picture = Picture::default();
        assert!(!screen(&picture).contains("no service resolves"));
        picture.haproxy.read = true;
        assert!(screen(&picture).contains("no service resolves to a backend"));
    }
}
