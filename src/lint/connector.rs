//! How the Go connector between Nomad and HAProxy's Data Plane API reads a job's tags (as its code does, not as its pages
//! say), beside how they are read here.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    check::{Located, namespace_of, services, whole},
    claim,
    job::{Job, Text},
    meant, shown,
};
use crate::reconcile::{
    Policy,
    tags::{self, TagProblem},
};

/// The connector's prefix cannot be changed.
const PREFIX: &str = "haproxy";

/// For what an expression makes.
const LATER: &str = "not known before Nomad has evaluated it";

/// What holds for every service, and no tag says.
const GENERAL: &[(&str, &str, &str)] = &[
    (
        "the server's name",
        "<service>_<address>_<port>, with _ for the dots",
        "the slot's, or nomad-<allocation>-<hash>: see dashboards and alerts that name servers",
    ),
    (
        "the check",
        "made of haproxy.check.*, else of the job's own check, else of haproxy.domain",
        "HAProxy's own, as haproxy.cfg and the tags haproxy.check.* say; a domain makes none, and the job's check is Nomad's",
    ),
    (
        "the drain",
        "10 s, or HAPROXY_DRAIN_TIMEOUT_SEC",
        "until no session is left, for 10 s at most, or --drain-timeout, or the tag haproxy.drain.timeout",
    ),
];

/// One service, read by both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reading {
    line: Option<usize>,
    /// Its group, its task and its name.
    service: String,
    /// What is read: a tag, or what follows from the name.
    pub items: Vec<Item>,
}

/// One thing, read by both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The tag, or what it is.
    pub what: String,
    /// What the connector does.
    pub connector: String,
    /// What the sidecar does.
    pub here: String,
}

/// Every service of the job that has tags for the connector.
#[must_use]
pub fn readings(job: &Job, policy: &Policy, namespace: &str) -> Vec<Reading> {
    let namespace = namespace_of(job, namespace);
    let mut readings: Vec<_> = services(job)
        .filter_map(|located| reading(&located, namespace, policy))
        .collect();
    if !readings.is_empty() {
        let items = GENERAL
            .iter()
            .map(|(what, connector, here)| Item::new(*what, *connector, *here));
        readings.push(Reading {
            line: None,
            service: "every service".to_owned(),
            items: items.collect(),
        });
    }
    readings
}

fn reading(located: &Located<'_>, namespace: &str, policy: &Policy) -> Option<Reading> {
    let routes = claim::route_problems(located, policy);
    let together = tags::read(PREFIX, &whole(&located.service.tags));
    let together = together.err().unwrap_or_default();
    let item = |tag| item(tag, &together, &routes, policy);
    let mut items: Vec<_> = match &located.service.tags.texts {
        None => vec![Item::new("the tags", LATER, LATER)],
        Some(texts) => texts.iter().filter_map(item).collect(),
    };
    if items.is_empty() {
        return None;
    }
    let connector = match located.name.whole() {
        Some(name) => shown(&name.replace('-', "_")),
        None => "the service's name, with _ for -".to_owned(),
    };
    let here = claim::backend(located, namespace, policy);
    items.push(Item::new("the backend", connector, here));
    let service = located.place.to_string();
    Some(Reading {
        line: located.service.line,
        service: service.trim_start_matches(", ").to_owned(),
        items,
    })
}

fn item(
    tag: &Text,
    together: &[TagProblem],
    routes: &[TagProblem],
    policy: &Policy,
) -> Option<Item> {
    let what = shown(&tag.written);
    let Some(tag) = tag.whole() else {
        let may_be = tag.may_begin_with(&format!("{PREFIX}."));
        return may_be.then(|| Item::new(what, LATER, LATER));
    };
    let is_ours = policy.tag_prefix == PREFIX;
    if let Some(key) = meant::key_behind_another_prefix(PREFIX, tag).filter(|_| is_ours) {
        let here = format!("nobody reads it: did you mean {PREFIX}.{key}?");
        return Some(Item::new(what, "never read", here));
    }
    let (key, value) = tags::split(PREFIX, tag)?;
    let here = match together.iter().find(|problem| problem.tag == shown(tag)) {
        Some(found) if is_ours => {
            format!("the service is not served: {}", found.problem)
        }
        _ => here(tag, routes, policy),
    };
    Some(Item::new(what, there(tag, key, value), here))
}

fn there(tag: &str, key: &str, value: &str) -> String {
    match key {
        "enable" if tag == "haproxy.enable=true" => "the service takes part",
        "enable" => "ignored: only haproxy.enable=true counts, to the letter",
        "backend" if value == "custom" => "the backend is in haproxy.cfg, and only its servers and rules are changed",
        "backend" => "the backend is made, or changed, with roundrobin",
        "backend.name" => "never read",
        "domain" => {
            "a rule for this Host, with its port if it has one and in the same case; of several the last one; and a check GET / \
             with this Host"
        }
        "domain.type" => match value {
            "regex" => "the domain is a regular expression",
            "prefix" => "stored, but the domain has to match as a whole",
            _ => "the domain has to match as a whole",
        },
        "check.path" => "HTTP checks of this path, for the whole backend",
        "check.method" => "the method of the HTTP check",
        "check.host" => "the Host of the HTTP check",
        "check.type" if value == "http" => "an HTTP check",
        "check.type" => "a TCP check",
        _ if key.starts_with("check.disabled") => "no check, whatever is written behind it",
        _ => "unknown, ignored",
    }
    .to_owned()
}

/// As the reader of tags takes it, and what is different where it takes it.
fn here(tag: &str, routes: &[TagProblem], policy: &Policy) -> String {
    if policy.tag_prefix != PREFIX {
        return format!("not read: --tag-prefix is {}", shown(&policy.tag_prefix));
    }
    let read = match tags::read(PREFIX, &[tag.to_owned()]) {
        Err(problems) => {
            let problems: Vec<_> = problems.into_iter().map(|found| found.problem).collect();
            return format!("the service is not served: {}", problems.join("; "));
        }
        Ok(read) => read,
    };
    if let Some(note) = read.notes.first() {
        return match meant::key(PREFIX, tag) {
            Some(meant) => format!("{}: did you mean {PREFIX}.{meant}?", note.problem),
            None => note.problem.clone(),
        };
    }
    let (key, value) = tags::split(PREFIX, tag).unwrap_or_default();
    // One tag may have several routes.
    let is_of_tag = |problem: &&TagProblem| {
        let mut parts = value.split(',');
        problem.tag == shown(tag)
            || parts.any(|part| problem.tag == shown(&format!("{PREFIX}.{key}={}", part.trim())))
    };
    if let Some(found) = routes.iter().find(is_of_tag) {
        let of = if found.tag == shown(tag) {
            String::new()
        } else {
            format!(" of {}", found.tag)
        };
        return format!("no route{of}: {}", found.problem);
    }
    match (key, value) {
        ("enable", "true") => "the service takes part",
        ("enable", _) => "the service does not take part",
        ("backend.name", _) => "the backend",
        ("backend", "custom") => "the backend is in haproxy.cfg",
        ("backend", _) => "the backend is in haproxy.cfg; if not, it is made from HAProxy 3.4 on",
        ("check.disabled", "false") => "the check stays on",
        ("check.disabled", _) => "no check",
        ("domain", _) => {
            "a route for this host, in whatever case and with any port; of several tags each one"
        }
        ("domain.type", "regex") => "the domain is a regular expression",
        ("domain.type", "prefix") => "the domain is what the host begins with",
        _ => "read as it is written",
    }
    .to_owned()
}

impl Item {
    fn new(what: impl Into<String>, connector: impl Into<String>, here: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            connector: connector.into(),
            here: here.into(),
        }
    }
}

impl Reading {
    pub(super) fn print(&self, file: &str, out: &mut impl Write) -> io::Result<()> {
        let line = self.line.map(|line| format!("{line}:")).unwrap_or_default();
        writeln!(out, "{file}:{line} {}", self.service)?;
        for Item {
            what,
            connector,
            here,
        } in &self.items
        {
            writeln!(out, "  {what}")?;
            writeln!(out, "    connector: {connector}")?;
            writeln!(out, "    here:      {here}")?;
        }
        writeln!(out)
    }
}
