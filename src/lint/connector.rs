//! How the Go connector between Nomad and HAProxy's Data Plane API reads a job's tags (as its code does, not as its pages
//! say), beside how they are read here.

use std::io::{self, Write};

use serde::Serialize;

use super::{
    check::{Claimant, claimants},
    job::{Job, Text},
    shown,
};
use crate::reconcile::{Policy, tags};

/// The connector's prefix cannot be changed.
const PREFIX: &str = "haproxy";

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
    let mut readings: Vec<_> = claimants(job, policy, namespace)
        .into_iter()
        .filter_map(|claimant| reading(&claimant, policy))
        .collect();
    if !readings.is_empty() {
        let items = GENERAL.iter().map(|(what, connector, here)| Item {
            what: (*what).to_owned(),
            connector: (*connector).to_owned(),
            here: (*here).to_owned(),
        });
        readings.push(Reading {
            line: None,
            service: "every service".to_owned(),
            items: items.collect(),
        });
    }
    readings
}

fn reading(claimant: &Claimant<'_>, policy: &Policy) -> Option<Reading> {
    let texts = claimant.service.tags.texts();
    let tags = texts.iter().filter_map(Text::whole);
    let tags: Vec<_> = tags
        .filter(|tag| tags::split(PREFIX, tag).is_some())
        .collect();
    if tags.is_empty() {
        return None;
    }
    let mut items: Vec<_> = tags.iter().map(|tag| item(tag, policy)).collect();
    items.push(Item {
        what: "the backend".to_owned(),
        connector: match claimant.name.whole() {
            Some(name) => shown(&name.replace('-', "_")),
            None => "the service's name, with _ for -".to_owned(),
        },
        here: claimant.backend.clone(),
    });
    Some(Reading {
        line: claimant.service.line,
        service: claimant
            .place
            .to_string()
            .trim_start_matches(", ")
            .to_owned(),
        items,
    })
}

fn item(tag: &str, policy: &Policy) -> Item {
    let (key, value) = tags::split(PREFIX, tag).unwrap_or_default();
    Item {
        what: shown(tag),
        connector: there(tag, key, value),
        here: here(tag, key, value, policy),
    }
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
fn here(tag: &str, key: &str, value: &str, policy: &Policy) -> String {
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
        return note.problem.clone();
    }
    match (key, value) {
        ("enable", "true") => "the service takes part",
        ("enable", _) => "the service does not take part",
        ("backend.name", _) => "the backend",
        ("check.disabled", "false") => "the check stays on",
        ("domain", _) => {
            "a route for this host, in whatever case and with any port; of several tags each one"
        }
        ("domain.type", "prefix") => "the domain is what the host begins with",
        _ => "read as it is written",
    }
    .to_owned()
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
