//! The verdict on one registration or server: whether it gets traffic, why, and what happens next.

use super::{Evidence, Served, safe, time, trouble_in};
use crate::{
    picture::{Admin, Backend, Charge, Check, HoldBy, Picture, Registration, Server, Stage},
    spelling,
};

/// Whether it gets traffic, and the sentence about it; then what will happen.
pub(super) struct Verdict {
    pub(super) served: Served,
    pub(super) sentence: String,
    pub(super) next: String,
}

fn no(why: impl Into<String>, next: impl Into<String>) -> Verdict {
    Verdict {
        served: Served::No,
        sentence: format!("does not get traffic: {}", why.into()),
        next: next.into(),
    }
}

fn yes(how: &str, next: impl Into<String>) -> Verdict {
    Verdict {
        served: Served::Yes,
        sentence: format!("gets traffic{how}"),
        next: next.into(),
    }
}

/// What the operator has to change comes first in the chain, so it is looked at from its begin.
pub(super) fn of_registration(
    namespace: &str,
    registration: &Registration,
    place: Option<(&Backend, Option<&Server>)>,
    evidence: &Evidence,
) -> Verdict {
    let picture = &evidence.picture;
    let again = "nothing before that changes; whatever changes is noticed at once";
    if !registration.rejections.is_empty() {
        return no(safe(&registration.rejections.join("; ")), again);
    }
    if !registration.enabled {
        let tag = format!("{}.enable=true", picture.sidecar.tag_prefix);
        let tags: Vec<_> = registration.tags.iter().map(String::as_str).collect();
        return no(missing_tag(&tags, &tag), again);
    }
    if let Some(verdict) = without_haproxy(picture) {
        return verdict;
    }
    let Some((backend, server)) = place else {
        return no(
            "HAProxy was not read yet",
            "that is going on, or the line `charge` says what is in its way",
        );
    };
    let Some(server) = server else {
        return not_there(registration, backend, picture);
    };
    let live = evidence.check(&backend.name, &server.name).map(is_live);
    match registration.stage {
        Stage::InRotation => in_rotation(namespace, backend, server, evidence),
        Stage::ByHand | Stage::Admitted | Stage::Down if live == Some(true) => yes(
            "",
            "nothing: HAProxy says so just now, and the sidecar reads it within seconds",
        ),
        Stage::ByHand => no(
            format!(
                "an operator took it out of service: {}",
                server.by_hand.as_deref().map(safe).unwrap_or_default()
            ),
            "nothing, until he undoes that or its registration ends",
        ),
        Stage::Admitted => admitted(evidence.check(&backend.name, &server.name)),
        Stage::Down => down(server, evidence.check(&backend.name, &server.name)),
        Stage::Wanted
        | Stage::Draining
        | Stage::Gone
        | Stage::Held
        | Stage::Foreign
        | Stage::Unserved => not_there(registration, backend, picture),
    }
}

/// That none of these tags is `tag`, and which was perhaps meant so.
pub(super) fn missing_tag(tags: &[&str], tag: &str) -> String {
    let key = |tag: &str| tag.split_once('=').map_or(tag.len(), |(key, _)| key.len());
    let wanted = &tag[..key(tag)];
    let is_off = |one: &&&str| one[..key(one)] == *wanted && !one.contains(' ');
    let is_near = |one: &&&str| spelling::is_near(one[..key(one)].trim(), wanted);
    if let Some(off) = tags.iter().find(is_off) {
        format!(
            "its tag {:?} switches it off: it should be {tag:?}",
            safe(off)
        )
    } else if let Some(near) = tags.iter().find(is_near) {
        format!(
            "it has no tag {tag:?}, so it is not followed; its tag {:?} was perhaps meant so",
            safe(near)
        )
    } else {
        format!("it has no tag {tag:?}, so it is not followed: add it to the service in the job")
    }
}

/// Whether HAProxy says just now that it is UP. What the picture has of it may be some seconds old.
fn is_live(check: &Check) -> bool {
    check.state.starts_with("UP") || check.state == "no check"
}

fn in_rotation(
    namespace: &str,
    backend: &Backend,
    server: &Server,
    evidence: &Evidence,
) -> Verdict {
    let picture = &evidence.picture;
    let check = evidence.check(&backend.name, &server.name);
    if let Some(check) = check.filter(|check| !is_live(check)) {
        return no(
            format!("HAProxy has it {} now", safe(&check.state)),
            "the sidecar reads that within seconds: ask again then",
        );
    }
    if server.weight == 0 {
        let why = "it is UP, and its weight is 0: only clients that have its cookie reach it";
        return match &server.by_hand {
            Some(by_hand) => no(
                format!("{why}; {}", safe(by_hand)),
                "nothing, until that is undone or its registration ends",
            ),
            None => no(why, "nothing, until the tag `weight` is another"),
        };
    }
    if backend.unpublished {
        let why = backend
            .hindrances
            .first()
            .map(|one| format!(": {}", safe(&one.text)));
        return no(
            format!(
                "it is UP, and {} is not published, so that no rule finds it{}",
                backend_of(backend),
                why.unwrap_or_default()
            ),
            "the sidecar publishes it when its first server is UP, unless it was unpublished by hand",
        );
    }
    let is_first =
        |one: &Server| !one.backup && one.up && one.admin == Admin::Ready && one.weight > 0;
    if server.backup && backend.servers.iter().any(is_first) {
        return no(
            "it is a backup, and others of its backend are UP",
            "HAProxy sends it requests when none of the others is UP",
        );
    }
    let next = if let Some(check) = check.filter(|check| failed(check)) {
        format!(
            "its last check failed ({}): HAProxy has it DOWN if more of them do",
            words(check)
        )
    } else if let Some(unasked) = &picture.sidecar.unasked {
        let until = if unasked.is_there {
            "the sidecar goes on"
        } else {
            "a sidecar runs"
        };
        format!("it keeps its traffic; what changes in Nomad is not followed before {until}")
    } else if let Some(trouble) = trouble_in(picture, Some(namespace)) {
        format!(
            "it keeps its traffic; Nomad cannot be read, or not all of it, so that changes may not be seen: {trouble}"
        )
    } else {
        "nothing: everything is as it should be".to_owned()
    };
    yes("", next)
}

/// What happens next, if somebody acts.
fn by_who_acts(picture: &Picture, next: String) -> String {
    let sidecar = &picture.sidecar;
    match (sidecar.charge, &sidecar.unasked) {
        (Charge::InCharge | Charge::Nobody, None) => next,
        (Charge::Standby, _) => format!("by the sidecar that is in charge: {next}"),
        (Charge::Observing, _) => "nothing: this sidecar only observes (--observe)".to_owned(),
        (_, Some(unasked)) if unasked.is_there => {
            format!("nothing before the sidecar goes on; then: {next}")
        }
        (_, Some(_)) => format!("nothing before a sidecar runs; then: {next}"),
    }
}

/// The one who would bring it in does not, or cannot.
fn without_haproxy(picture: &Picture) -> Option<Verdict> {
    let haproxy = &picture.haproxy;
    if haproxy.connected {
        return None;
    }
    let problem = haproxy.problem.as_deref().unwrap_or("not connected yet");
    if let Some(unasked) = &picture.sidecar.unasked {
        let next = if unasked.is_there {
            "see the log of the sidecar, and ask again"
        } else {
            "ask again with --admin-listen as the sidecar has it, or with --haproxy-socket"
        };
        return Some(Verdict {
            served: Served::Unknown,
            sentence: format!(
                "may get traffic or not: {}; and HAProxy cannot be used by this command: {}",
                safe(&unasked.text),
                safe(problem)
            ),
            next: next.to_owned(),
        });
    }
    Some(no(
        format!("HAProxy cannot be used: {}", safe(problem)),
        "it is tried again several times a second, for ever; everything is put back then",
    ))
}

fn not_there(registration: &Registration, backend: &Backend, picture: &Picture) -> Verdict {
    let next_try = backend
        .next_try_ms
        .map(|ms| format!("it is tried again in {}", time(ms)));
    if let Some(hindrance) = backend.hindrance(&registration.id) {
        let looks = "it is looked at again with every change there, and every 5 to 30 s";
        return no(
            format!(
                "{} is in the way: {}",
                backend_of(backend),
                safe(&hindrance.text)
            ),
            by_who_acts(picture, next_try.unwrap_or_else(|| looks.to_owned())),
        );
    }
    match picture.sidecar.charge {
        Charge::Standby => no(
            format!(
                "another sidecar is in charge, and has not brought it in: {}",
                safe(
                    picture
                        .sidecar
                        .standby
                        .as_deref()
                        .unwrap_or("it has the lock")
                )
            ),
            "the other one brings it in; when it ends, this one does",
        ),
        Charge::Observing => no(
            "this sidecar only observes (--observe), and nobody else has brought it in",
            format!(
                "nothing: it would send {} commands to {}",
                backend.would_send, backend.name
            ),
        ),
        Charge::Nobody => match &picture.sidecar.unasked {
            Some(unasked) if unasked.is_there => no(
                format!("it is not in HAProxy, and {}", safe(&unasked.text)),
                "it is brought in when the sidecar goes on; `plan` shows what it would send",
            ),
            Some(_) | None => no(
                "no sidecar that runs was found, and it is not in HAProxy",
                "nothing: start the sidecar, or give --admin-listen as it has it; `plan` shows what it would send",
            ),
        },
        Charge::InCharge => match &backend.problem {
            Some(problem) => no(
                format!(
                    "the last change of {} failed: {}",
                    backend_of(backend),
                    safe(problem)
                ),
                next_try.unwrap_or_else(|| "it is tried again soon".to_owned()),
            ),
            None => no(
                "it is just being brought in",
                next_try.unwrap_or_else(|| {
                    "its server gets ready, and has to pass its check".to_owned()
                }),
            ),
        },
    }
}

fn backend_of(backend: &Backend) -> String {
    format!("backend {}", backend.name)
}

/// What is known of a check, in HAProxy's words.
pub(in crate::picture) fn words(check: &Check) -> String {
    if check.status.is_empty() {
        return "no check has ended yet".to_owned();
    }
    let mut words = safe(&check.status);
    if let Some(code) = check.code {
        words = format!("{words}, code {code}");
    }
    if !check.text.is_empty() {
        words = format!("{words}, {:?}", safe(&check.text));
    }
    words
}

/// Whether a check's verdict is that it failed. HAProxy's words begin so for each layer.
fn failed(check: &Check) -> bool {
    let bad = [
        "L4TOUT", "L4CON", "L6TOUT", "L6RSP", "L7TOUT", "L7RSP", "L7STS", "SOCKERR", "PROCERR",
        "PROCTOUT",
    ];
    bad.contains(&check.status.as_str())
}

const PASSES: &str =
    "HAProxy checks it again and again; it gets traffic as soon as its check has passed";

fn admitted(check: Option<&Check>) -> Verdict {
    match check.filter(|check| failed(check)) {
        Some(check) => no(
            format!(
                "it waits for its first passed check, and that fails so far: {}",
                words(check)
            ),
            PASSES,
        ),
        None => no("it waits for its first passed check", PASSES),
    }
}

fn down(server: &Server, check: Option<&Check>) -> Verdict {
    let since = time(server.since_ms);
    match check {
        Some(check) => no(
            format!(
                "HAProxy has it DOWN for {since}, its check fails: {}",
                words(check)
            ),
            PASSES,
        ),
        None => no(
            format!("HAProxy has it DOWN for {since}, its check fails"),
            PASSES,
        ),
    }
}

/// On a server that no registration asks for.
pub(super) fn of_server(backend: &Backend, server: &Server, picture: &Picture) -> Verdict {
    if server.stage == Stage::Foreign {
        return foreign(server);
    }
    if let Some(verdict) = without_haproxy(picture) {
        return verdict;
    }
    if let Some(hold) = &server.hold {
        let left = hold.left_ms.map(|ms| format!("for {} at most", time(ms)));
        let left = left.unwrap_or_else(|| "for as long as that lasts".to_owned());
        let (why, until) = match hold.by {
            HoldBy::MinReady(count) => (
                "too few others of its service are UP".to_owned(),
                format!("it is drained when {count} of its service are UP, and is held {left}"),
            ),
            HoldBy::Mass => (
                "so much was deregistered at once that a guard holds what passes its checks"
                    .to_owned(),
                format!("it is held {left}; see whether the instances run (nomad node status)"),
            ),
            HoldBy::Alive => (
                "a guard holds it: Nomad says that its allocation still runs".to_owned(),
                format!(
                    "it is held {left}; restart the allocation or change its job to register it again"
                ),
            ),
            HoldBy::Frozen => (
                "removals are stopped (--freeze or the freeze file)".to_owned(),
                format!("it stays {left}"),
            ),
        };
        return yes(
            &format!(" although its registration is gone: it is held, because {why}"),
            by_who_acts(picture, until),
        );
    }
    let drained = |drain: Option<&crate::picture::Drain>| match drain {
        Some(drain) => {
            let sessions = drain.sessions.map_or(String::new(), |count| {
                format!(", {count} sessions are left")
            });
            format!("for {}{sessions}", time(drain.for_ms))
        }
        None => "now".to_owned(),
    };
    let drain = server.drain.as_ref();
    let is_leaving = matches!(server.stage, Stage::Draining | Stage::Gone);
    if is_leaving
        && picture.sidecar.unasked.is_some()
        && let Some(trouble) = trouble_in(picture, None)
    {
        return no(
            format!(
                "HAProxy has it out of rotation; why is not known, as Nomad cannot be read: {trouble}"
            ),
            by_who_acts(picture, "it stays as it is until Nomad was read".to_owned()),
        );
    }
    match server.stage {
        Stage::Draining => no(
            format!(
                "its registration is gone, and it is drained {}",
                drained(drain)
            ),
            by_who_acts(
                picture,
                format!(
                    "it goes into maintenance when it has no session, in {} at most; then it is {}",
                    time(drain.map_or(0, |drain| drain.left_ms)),
                    removed(backend)
                ),
            ),
        ),
        Stage::Gone => no(
            format!(
                "its registration is gone, and it is out of rotation {}",
                drained(drain)
            ),
            format!(
                "it is {} as soon as nothing is left on it",
                removed(backend)
            ),
        ),
        Stage::ByHand => no(
            safe(
                server
                    .by_hand
                    .as_deref()
                    .unwrap_or("an operator took it out of service"),
            ),
            "nothing, until he undoes that",
        ),
        Stage::Wanted
        | Stage::Admitted
        | Stage::InRotation
        | Stage::Down
        | Stage::Held
        | Stage::Foreign
        | Stage::Unserved => unwanted(backend, server, picture),
    }
}

fn removed(backend: &Backend) -> &'static str {
    match backend.kind {
        crate::picture::Kind::Slots => "free again",
        crate::picture::Kind::Dynamic => "deleted",
    }
}

fn foreign(server: &Server) -> Verdict {
    let next = "nothing: the sidecar never touches it";
    if server.admin == Admin::Ready && server.up {
        yes(", and is not the sidecar's", next)
    } else {
        no(
            "it is not the sidecar's, and whoever it belongs to, or HAProxy's check, has it out of service",
            next,
        )
    }
}

fn unwanted(backend: &Backend, server: &Server, picture: &Picture) -> Verdict {
    let is_waiting = backend.waiting.contains(&server.name);
    let guards = picture.sidecar.guards;
    let (why, next) = if is_waiting && guards.frozen {
        (
            "removals are stopped (--freeze or the freeze file)".to_owned(),
            "it stays until removals go on",
        )
    } else if is_waiting {
        (
            "no more than --max-removals-per-second servers are taken out of rotation".to_owned(),
            "it is drained when it is its turn",
        )
    } else if let Some(trouble) = trouble_in(picture, None) {
        (
            format!("nothing is believed to be gone while Nomad cannot be read: {trouble}"),
            "it stays as it is until Nomad was read",
        )
    } else if !picture.nomad.unread.is_empty() {
        (
            format!(
                "not all of the catalog was read: {}",
                safe(&picture.nomad.unread.join(", "))
            ),
            "it stays as it is until Nomad was read",
        )
    } else {
        match picture.sidecar.charge {
            Charge::InCharge => (
                "it is just about to be drained".to_owned(),
                "it is drained at once",
            ),
            Charge::Standby => (
                "another sidecar is in charge, and has not taken it out".to_owned(),
                "the other one takes it out",
            ),
            Charge::Observing => ("this sidecar only observes".to_owned(), "nothing"),
            Charge::Nobody => match &picture.sidecar.unasked {
                Some(unasked) if unasked.is_there => (
                    safe(&unasked.text),
                    "it is drained when the sidecar goes on",
                ),
                Some(_) | None => (
                    "no sidecar that runs was found".to_owned(),
                    "nothing, until a sidecar runs",
                ),
            },
        }
    };
    if trouble_in(picture, None).is_some() {
        // Perhaps one does.
        if server.admin == Admin::Ready && server.up {
            yes(&format!("; {why}"), next)
        } else {
            no(format!("HAProxy has it out of service, and {why}"), next)
        }
    } else if server.admin == Admin::Ready && server.up {
        yes(
            &format!(" although no registration asks for it: {why}"),
            next,
        )
    } else {
        no(format!("no registration asks for it, and {why}"), next)
    }
}
