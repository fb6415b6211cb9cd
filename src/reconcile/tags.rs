//! The tags of a registration, read and validated. Any job author writes these: a value reaches a command only as a
//! number or as a name that passed HAProxy's grammar.
//!
//! A bad value of a key that is in use rejects its registration; everything else is noted and shown. Source of the
//! vocabulary: the Go connector's tags, and those that HAProxy ingress controllers made known.

use std::{collections::BTreeMap, fmt, time::Duration};

pub use super::fixed_tags::{Cookie, FixedTags};
use super::routes::RouteTags;
use crate::model::{BackendName, ProfileName};

/// What the tags of one registration ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// `enable`: `None` when the tag is absent.
    pub enable: Option<bool>,
    /// `backend.name`
    pub backend: Option<BackendName>,
    /// `backend=custom`: it has to be there, and is not made.
    pub is_custom: bool,
    /// `backend.profile`: the `defaults` section that it is made from.
    pub profile: Option<ProfileName>,
    /// `weight`, 0 to 256.
    pub weight: Option<u16>,
    /// `maxconn`; 0 is no limit.
    pub maxconn: Option<u32>,
    /// `canary`: it replaces nothing that is stable.
    pub canary: bool,
    /// What cannot be changed on a server that exists.
    pub fixed: FixedTags,
    /// How its server leaves.
    pub leaving: LeavingTags,
    /// By what its service is found.
    pub routes: RouteTags,
    /// What was read but is not acted on, in words.
    pub notes: Vec<TagProblem>,
}

/// The tags that say how a server leaves once its registration is gone. HAProxy is never told of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeavingTags {
    /// `hold`: how long it is kept in rotation for want of a replacement.
    pub hold: Option<Duration>,
    /// `min-ready`: so many servers that are UP replace it.
    pub min_ready: Option<u32>,
    /// `drain.timeout`: how long it may finish its sessions.
    pub drain_timeout: Option<Duration>,
    /// `drain.sessions=close`: what lasts longer is closed.
    pub close_sessions: bool,
}

/// One tag that is wrong or without effect, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TagProblem {
    /// The tag as written, shortened, escaped.
    pub tag: String,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for TagProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tag {}: {}", self.tag, self.problem)
    }
}

/// Keys that are acted on: those of [`Tags`], of [`FixedTags`] and of [`RouteTags`].
const KEYS: &[&str] = &[
    "enable",
    "backend.name",
    "backend",
    "backend.profile",
    "weight",
    "maxconn",
    "check.type",
    "canary",
    "hold",
    "min-ready",
    "drain.timeout",
    "drain.sessions",
    "backup",
    "check.disabled",
    "check.port",
    "check.interval",
    "check.fastinter",
    "check.downinter",
    "check.rise",
    "check.fall",
    "check.profile",
    "maxqueue",
    "slowstart",
    "cookie",
    "send-proxy",
    "proto",
    "agent.port",
    "agent.interval",
    "tls.profile",
    "domain",
    "path",
    "sni",
    "port",
    "domain.type",
    "route.keep",
];

/// Keys that are the backend's to decide about, whatever a tag says.
const THE_BACKENDS: &[&str] = &["check.path", "check.method", "check.host"];

/// Keys that later parts of the product act on. They are validated by [`Grammar`] and reported.
const NOT_YET: &[(&str, Grammar)] = &[
    ("group", Grammar::Name),
    ("canary.weight", Grammar::Number(0, 100)),
    ("canary.header", Grammar::Text),
    ("canary.cookie", Grammar::Text),
    ("locality", Grammar::OneOf(&["off", "prefer", "require"])),
    ("empty", Grammar::OneOf(&["keep", "drop"])),
    (
        "check.initial",
        Grammar::OneOf(&["down", "up", "fully-down", "fully-up"]),
    ),
    (
        "check.source",
        Grammar::OneOf(&["haproxy", "nomad", "both"]),
    ),
];

enum Grammar {
    Name,
    Text,
    Number(u32, u32),
    OneOf(&'static [&'static str]),
}

impl Grammar {
    fn check(&self, value: &str) -> Result<(), String> {
        match self {
            Self::Name => BackendName::new(value)
                .map(drop)
                .map_err(|error| error.to_string()),
            Self::Number(min, max) => number(value, *min, *max).map(drop),
            Self::OneOf(words) if words.contains(&value) => Ok(()),
            Self::OneOf(words) => Err(format!("expected one of {}", words.join(", "))),
            Self::Text if value.is_empty() => Err("a value is needed".to_owned()),
            Self::Text
                if value.contains(|c: char| c.is_control() || " ;\\\"'".contains(c))
                    || value.contains("<<") =>
            {
                Err("spaces, quotes, control characters and ; \\ << are not allowed".to_owned())
            }
            Self::Text => Ok(()),
        }
    }
}

/// Every key that is known.
pub fn keys() -> impl Iterator<Item = &'static str> {
    let not_yet = NOT_YET.iter().map(|(key, _)| *key);
    let acted_on = KEYS.iter().chain(THE_BACKENDS).copied();
    acted_on.chain(not_yet)
}

/// The key and the value of a tag that begins with `prefix` and a dot. A key alone is `true`.
#[must_use]
pub fn split<'a>(prefix: &str, tag: &'a str) -> Option<(&'a str, &'a str)> {
    let rest = tag.strip_prefix(prefix)?.strip_prefix('.')?;
    Some(rest.split_once('=').unwrap_or((rest, "true")))
}

/// Reads the tags that begin with `prefix` and a dot. The error lists every tag that makes the registration unusable.
pub fn read(prefix: &str, tags: &[String]) -> Result<Tags, Vec<TagProblem>> {
    let mut read = Tags::default();
    let mut errors = Vec::new();
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    let check_profile = format!("{prefix}.check.profile=");
    let has_check_profile = tags.iter().any(|tag| tag.starts_with(&check_profile));
    for tag in tags {
        let Some((key, value)) = split(prefix, tag) else {
            continue;
        };
        let problem = |problem: String| TagProblem {
            tag: shown(tag),
            problem,
        };
        match read.routes.set(key, value) {
            Some(Ok(())) => continue,
            Some(Err(why)) => {
                read.notes.push(problem(why));
                continue;
            }
            None => {}
        }
        match NOT_YET.iter().find(|(known, _)| *known == key) {
            Some((_, grammar)) => read.notes.push(problem(match grammar.check(value) {
                Ok(()) => "not supported yet, it has no effect".to_owned(),
                Err(why) => format!("{why}; besides, it is not supported yet"),
            })),
            None if seen
                .insert(key, value)
                .is_some_and(|earlier| earlier != value) =>
            {
                errors.push(problem("given twice with different values".to_owned()));
            }
            None => match read.set(key, value) {
                Ok(true) => {}
                // That section is what gives it.
                Ok(false) if has_check_profile && is_check_request(key) => {}
                Ok(false) => read.notes.push(problem(no_effect(key))),
                Err(why) => errors.push(problem(why)),
            },
        }
    }
    if errors.is_empty() {
        Ok(read)
    } else {
        Err(errors)
    }
}

impl Tags {
    /// Takes one tag in. `Ok(false)` when the key is unknown.
    fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "enable" => self.enable = Some(boolean(value)?),
            "backend.name" => {
                self.backend = Some(BackendName::new(value).map_err(|error| error.to_string())?);
            }
            "backend" => {
                self.is_custom = match value {
                    "custom" => true,
                    "dynamic" => false,
                    _ => return Err(
                        "expected dynamic or custom; a backend is named by the tag backend.name"
                            .to_owned(),
                    ),
                }
            }
            "backend.profile" => {
                self.profile = Some(ProfileName::new(value).map_err(|error| error.to_string())?);
            }
            "weight" => self.weight = Some(small(value, 0, 256)?),
            "maxconn" => self.maxconn = Some(number(value, 0, 1_000_000)?),
            "check.type" => match value {
                "tcp" => {}
                "none" => self.fixed.check_disabled = true,
                // What kind of check it is, the backend's lines decide on every version below 3.4.
                "http" | "agent" => return Ok(false),
                _ => return Err("expected one of tcp, http, agent, none".to_owned()),
            },
            _ if is_check_request(key) => return Ok(false),
            "canary" => self.canary = boolean(value)?,
            "hold" => self.leaving.hold = Some(duration(value)?),
            "min-ready" => self.leaving.min_ready = Some(number(value, 0, 10_000)?),
            "drain.timeout" => self.leaving.drain_timeout = Some(duration(value)?),
            "drain.sessions" => {
                self.leaving.close_sessions = match value {
                    "close" => true,
                    "keep" => false,
                    _ => return Err("expected keep or close".to_owned()),
                }
            }
            _ => return self.fixed.set(key, value),
        }
        Ok(true)
    }
}

/// Whether it says what a check is to ask for. HAProxy cannot be told that of one server.
fn is_check_request(key: &str) -> bool {
    THE_BACKENDS.contains(&key)
}

fn no_effect(key: &str) -> String {
    match key {
        "check.type" => {
            "it has no effect: `option httpchk` or `agent-check` in haproxy.cfg decides".to_owned()
        }
        _ if is_check_request(key) => {
            "it has no effect of its own: `http-check send` in haproxy.cfg decides, or from HAProxy 3.4 the healthcheck \
             section that the tag check.profile names"
                .to_owned()
        }
        _ => "unknown, it has no effect".to_owned(),
    }
}

pub(super) fn boolean(value: &str) -> Result<bool, String> {
    value
        .parse()
        .map_err(|_| "expected true or false".to_owned())
}

pub(super) fn number(value: &str, min: u32, max: u32) -> Result<u32, String> {
    let digits =
        !value.is_empty() && value.len() <= 9 && value.bytes().all(|byte| byte.is_ascii_digit());
    match value.parse() {
        Ok(number) if digits && (min..=max).contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("expected a whole number from {min} to {max}")),
    }
}

pub(super) fn small(value: &str, min: u16, max: u16) -> Result<u16, String> {
    let number = number(value, min.into(), max.into())?;
    Ok(u16::try_from(number).expect("the range is one of u16"))
}

/// As [`milliseconds`], or `0s`.
fn duration(value: &str) -> Result<Duration, String> {
    if value == "0s" {
        return Ok(Duration::ZERO);
    }
    let milliseconds = milliseconds(value).map_err(|why| why.replace("from 1ms", "from 0s"))?;
    Ok(Duration::from_millis(milliseconds.into()))
}

/// `10s`, `500ms`, `2m`, from 1 ms to one hour.
pub(super) fn milliseconds(value: &str) -> Result<u32, String> {
    const EXPECTED: &str = "expected a duration from 1ms to 1h, such as 500ms, 10s, 2m";
    let unit = value.find(|c: char| !c.is_ascii_digit()).ok_or(EXPECTED)?;
    let factor = match &value[unit..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(EXPECTED.to_owned()),
    };
    let number = number(&value[..unit], 1, 3_600_000).map_err(|_| EXPECTED)?;
    match number.checked_mul(factor) {
        Some(ms) if ms <= 3_600_000 => Ok(ms),
        Some(_) | None => Err(EXPECTED.to_owned()),
    }
}

/// A tag as it may be shown in logs: escaped, at most 60 characters.
#[must_use]
pub fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(tags: &[&str]) -> Result<Tags, Vec<TagProblem>> {
        read(
            "haproxy",
            &tags.iter().map(|&tag| tag.to_owned()).collect::<Vec<_>>(),
        )
    }

    #[test]
    fn the_tags_in_use_are_read() {
        let tags = read_all(&[
            "urlprefix-/x",
            "haproxy.enable=true",
            "haproxy.backend.name=web_1",
            "haproxy.weight=256",
            "haproxy.maxconn=50",
            "haproxy.backup",
            "haproxy.check.port=8081",
            "haproxy.check.interval=1500ms",
            "haproxy.check.rise=3",
            "haproxy.canary",
            "haproxy.hold=0s",
            "haproxy.min-ready=2",
            "haproxy.drain.timeout=1m",
            "haproxy.drain.sessions=close",
        ])
        .unwrap();
        assert_eq!(
            tags.leaving,
            LeavingTags {
                hold: Some(Duration::ZERO),
                min_ready: Some(2),
                drain_timeout: Some(Duration::from_mins(1)),
                close_sessions: true,
            }
        );
        assert!(tags.canary);
        assert_eq!(tags.enable, Some(true));
        assert_eq!(tags.backend.unwrap().as_str(), "web_1");
        assert_eq!((tags.weight, tags.maxconn), (Some(256), Some(50)));
        assert_eq!(
            tags.fixed.canonical(),
            "backup=1 check.port=8081 check.interval=1500 check.rise=3 "
        );
        assert!(tags.notes.is_empty());
    }

    #[test]
    fn a_bad_value_names_the_tag_and_what_is_expected() {
        for (tag, message) in [
            (
                "haproxy.enable=yes",
                "tag \"haproxy.enable=yes\": expected true or false",
            ),
            (
                "haproxy.weight=257",
                "tag \"haproxy.weight=257\": expected a whole number from 0 to 256",
            ),
            (
                "haproxy.weight=+1",
                "tag \"haproxy.weight=+1\": expected a whole number from 0 to 256",
            ),
            (
                "haproxy.weight",
                "tag \"haproxy.weight\": expected a whole number from 0 to 256",
            ),
            (
                "haproxy.backend.name=a;b",
                "tag \"haproxy.backend.name=a;b\": the name has the character ';'; letters, digits and _ . : - are \
                 allowed",
            ),
            (
                "haproxy.check.interval=10",
                "tag \"haproxy.check.interval=10\": expected a duration from 1ms to 1h, such as 500ms, 10s, 2m",
            ),
            (
                "haproxy.hold=1d",
                "tag \"haproxy.hold=1d\": expected a duration from 0s to 1h, such as 500ms, 10s, 2m",
            ),
            (
                "haproxy.drain.sessions=cut",
                "tag \"haproxy.drain.sessions=cut\": expected keep or close",
            ),
            (
                "haproxy.weight=1\nshutdown frontend fe",
                "tag \"haproxy.weight=1\\nshutdown frontend fe\": expected a whole number from 0 to 256",
            ),
        ] {
            let errors = read_all(&[tag]).unwrap_err();
            assert_eq!(errors[0].to_string(), message);
        }
        assert_eq!(
            read_all(&["haproxy.weight=1", "haproxy.weight=2"]).unwrap_err()[0].problem,
            "given twice with different values"
        );
    }

    #[test]
    fn what_has_no_effect_is_noted_not_ignored() {
        let tags = read_all(&[
            "haproxy.group=internal",
            "haproxy.wieght=3",
            "haproxy.locality=far",
            "haproxy.route.keep=no",
        ])
        .unwrap();
        let notes: Vec<_> = tags.notes.iter().map(ToString::to_string).collect();
        assert_eq!(
            notes,
            [
                "tag \"haproxy.group=internal\": not supported yet, it has no effect",
                "tag \"haproxy.wieght=3\": unknown, it has no effect",
                "tag \"haproxy.locality=far\": expected one of off, prefer, require; besides, it is not supported yet",
                "tag \"haproxy.route.keep=no\": expected true or false",
            ]
        );
    }

    #[test]
    fn every_key_is_known_once_and_none_is_missing() {
        let sources = [
            include_str!("tags.rs"),
            include_str!("fixed_tags.rs"),
            include_str!("routes/tags.rs"),
        ];
        let sets = sources.map(|source| {
            let set = source.split("fn set(").nth(1).unwrap();
            set.split("\n    }\n").next().unwrap()
        });
        let acted_on = sets.iter().flat_map(|set| set.lines()).filter_map(|line| {
            let (key, _) = line.strip_prefix("            \"")?.split_once("\" =>")?;
            Some(key)
        });
        assert_eq!(acted_on.collect::<Vec<_>>(), KEYS);
        let distinct: std::collections::BTreeSet<_> = keys().collect();
        assert_eq!(distinct.len(), keys().count());
    }

    #[test]
    fn a_long_tag_is_shortened_when_it_is_shown() {
        assert_eq!(shown(&"x".repeat(100)).chars().count(), 63);
    }
}
