//! What the text of a setting means. Each complaint says what could be written instead, and none repeats a secret.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use tracing_subscriber::filter::{LevelFilter, Targets};

use super::{Error, LogFormat, OnStop, options::Found};
use crate::{
    admin::Listen,
    model::{ProfileName, ServerKeywords, ServerName, ServerProfileName},
    nomad::settings::{Endpoints, InvalidAddress},
};

/// The longest drain that makes sense; more is a typing error.
const MAX_DURATION: Duration = Duration::from_hours(24);

/// The kernel takes no longer path of a socket.
const MAX_SOCKET: usize = 107;

/// Off when it is not set.
pub(super) fn switch(found: Option<Found<'_>>) -> Result<bool, Error> {
    found.map_or(Ok(false), |found| found.parse(boolean))
}

/// What Go's `strconv.ParseBool` accepts, since some of these variables are Nomad's.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let positive = text.strip_prefix('-');
    if positive.is_some_and(|text| humantime::parse_duration(text).is_ok()) {
        return Err(format!(
            "{text:?} is negative; write for example 10s or 1m30s"
        ));
    }
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        Ok(_) => Err(format!("{text:?} is more than a day")),
        Err(humantime::DurationError::NumberExpected(_)) => Err(format!(
            "{text:?} is not a duration; write for example 10s or 1m30s"
        )),
        Err(error) => Err(format!(
            "{text:?} is not a duration ({error}); write for example 10s or 1m30s"
        )),
    }
}

/// Names of `defaults` sections with commas between them, in their order, or off: no backend is made then.
pub(super) fn profiles(text: &str) -> Result<Vec<ProfileName>, String> {
    if text == "off" {
        return Ok(Vec::new());
    }
    let names = text.split(',').map(str::trim);
    names
        .map(|name| {
            ProfileName::new(name).map_err(|error| {
                format!("{name:?} is not the name of a `defaults` section: {error}; write for example nomad or nomad,nomad-tcp, or off")
            })
        })
        .collect()
}

pub(super) fn removals(text: &str) -> Result<NonZeroU32, String> {
    match text.parse().map(NonZeroU32::new) {
        Ok(Some(number)) => Ok(number),
        Ok(None) => Err(
            "0 would remove nothing for ever; to stop all removals for a while, use --freeze or the --freeze-file".to_owned(),
        ),
        Err(_) => Err(format!("{text:?} is not a number of servers; write for example 20")),
    }
}

/// `off`, or addresses and sockets with commas between them.
pub(super) fn listen(text: &str) -> Result<Vec<Listen>, String> {
    if text == "off" {
        return Ok(Vec::new());
    }
    let parse = |one: &str| {
        match one.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') && path.len() <= MAX_SOCKET => {
            Ok(Listen::Unix(path.into()))
        }
        Some(path) => Err(format!(
            "{path:?} is not the absolute path of a socket, of {MAX_SOCKET} bytes at most; write for example \
             unix:///alloc/sidecar.sock"
        )),
        None => one.parse().map(Listen::Tcp).map_err(|_| {
            format!(
                "{one:?} is not an IP address with a port; write for example 127.0.0.1:9417, [::]:9417, \
                 unix:///alloc/sidecar.sock, or off"
            )
        }),
    }
    };
    text.split(',').map(|one| parse(one.trim())).collect()
}

pub(super) fn on_stop(text: &str) -> Result<OnStop, String> {
    match text {
        "leave" => Ok(OnStop::Leave),
        "drain" => Ok(OnStop::Drain),
        _ => Err(format!("{text:?} is neither leave nor drain")),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "plain" => Ok(LogFormat::Plain),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is neither plain nor json")),
    }
}

/// `Targets` takes a word that is no level for a module, and would then show nothing else.
pub(super) fn log_filter(text: &str) -> Result<Targets, String> {
    let text: String = text.split_whitespace().collect();
    let is_level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    let misspelt = text
        .split(',')
        .find(|part| !part.contains('=') && !is_level(part));
    let filter = text.parse::<Targets>();
    match (misspelt, filter) {
        (None, Ok(filter)) => Ok(filter),
        (Some(part), _) => Err(complaint(part)),
        (None, Err(_)) => Err(complaint(&text)),
    }
}

fn complaint(filter: &str) -> String {
    format!(
        "{filter:?} is not a log level; write off, error, warn, info, debug or trace, or for one module info,haproxy_nomad_sidecar::nomad=debug"
    )
}

/// A number follows the prefix, so the prefix cannot end with one.
pub(super) fn slot_prefix(text: &str) -> Result<String, String> {
    if text.ends_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "{text:?} ends with a digit, and a number follows it"
        ));
    }
    match ServerName::new(&format!("{text}1")) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{text:?} cannot begin a server's name: {error}")),
    }
}

/// `name=keywords`, several with `;` between them, which no keyword can have.
pub(super) fn server_profiles(
    text: &str,
) -> Result<BTreeMap<ServerProfileName, ServerKeywords>, String> {
    let mut profiles = BTreeMap::new();
    for profile in text.split(';').filter(|part| !part.trim().is_empty()) {
        let Some((name, keywords)) = profile.split_once('=') else {
            return Err(format!(
                "{:?} is not a name, = and keywords; write for example tls=ssl verify required ca-file /etc/ssl/ca.pem",
                profile.trim()
            ));
        };
        let name = name.trim();
        let known = ServerProfileName::new(name)
            .map_err(|error| format!("{name:?} cannot be the name of a server profile: {error}"))?;
        let keywords = ServerKeywords::new(keywords)
            .map_err(|error| format!("server profile {name}: {error}"))?;
        if profiles.insert(known, keywords).is_some() {
            return Err(format!("server profile {name} is there twice"));
        }
    }
    Ok(profiles)
}

/// A tag is the prefix, a dot and a key.
pub(super) fn tag_prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !text.chars().all(allowed) || text.starts_with('.') || text.ends_with('.') {
        return Err(format!(
            "{text:?} cannot begin a tag: letters, digits and _ - . are allowed, and no dot at an end"
        ));
    }
    Ok(text.to_owned())
}

/// The name of one namespace, as Nomad allows it (`nomad/structs/structs.go`, `validNamespaceName`).
pub(super) fn namespace(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if text.is_empty() || text.len() > 128 || !text.chars().all(allowed) {
        return Err(format!(
            "{text:?} is not a namespace: 1 to 128 letters, digits and - are allowed"
        ));
    }
    Ok(text.to_owned())
}

/// `*`, or names with commas between them; each once, sorted.
pub(super) fn namespaces(text: &str) -> Result<Vec<String>, String> {
    if text.trim() == "*" {
        return Ok(vec!["*".to_owned()]);
    }
    let names = text.split(',').map(|name| match name.trim() {
        "*" => Err("* is every namespace; write it alone, or leave it out".to_owned()),
        name => namespace(name),
    });
    let names: BTreeSet<String> = names.collect::<Result<_, _>>()?;
    Ok(names.into_iter().collect())
}

/// Addresses of Nomad. What has a password in it is not repeated.
pub(super) fn nomad_addresses(text: &str) -> Result<Endpoints, String> {
    if text.contains('@') {
        return Err(
            "user and password do not belong into the address: set NOMAD_HTTP_AUTH".to_owned(),
        );
    }
    text.parse()
        .map_err(|error: InvalidAddress| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused_instead_of_silencing_the_log() {
        assert_eq!(log_filter("warn").unwrap().to_string(), "warn");
        assert!(log_filter("info, haproxy_nomad_sidecar::nomad=debug").is_ok());
        for bad in ["infoo", "info,debugg", "sidecar=loud", "info,"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn profiles_are_names_of_sections_in_their_order_or_off() {
        let names = |text| {
            profiles(text)
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(names("nomad, a-tcp"), ["nomad", "a-tcp"]);
        assert!(names("off").is_empty());
        assert_eq!(
            profiles("nomad,").unwrap_err(),
            "\"\" is not the name of a `defaults` section: the name is empty; write for example nomad or nomad,nomad-tcp, or off"
        );
    }

    #[test]
    fn namespaces_are_names_or_all() {
        assert_eq!(namespaces("web, api,web").unwrap(), ["api", "web"]);
        assert_eq!(namespaces("*").unwrap(), ["*"]);
        for bad in ["a,*", "a,,b", "a b", "web/api"] {
            assert!(namespaces(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_prefix_makes_names_that_haproxy_accepts() {
        assert_eq!(slot_prefix("nomad").unwrap(), "nomad");
        for bad in ["nomad1", "no mad", "a;b", &"x".repeat(100)] {
            assert!(slot_prefix(bad).is_err(), "{bad}");
        }
        assert_eq!(tag_prefix("lb.public").unwrap(), "lb.public");
        for bad in [".lb", "lb.", "l b", "l=b"] {
            assert!(tag_prefix(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn server_profiles_are_names_with_keywords() {
        let two = "tls=ssl verify required ca-file /ca.pem; plain = ssl verify none";
        let profiles: Vec<_> = server_profiles(two)
            .unwrap()
            .iter()
            .map(|(name, keywords)| format!("{name}: {keywords}"))
            .collect();
        assert_eq!(
            profiles,
            [
                "plain: ssl verify none",
                "tls: ssl verify required ca-file /ca.pem"
            ]
        );
        for (bad, problem) in [
            (
                "ssl verify none",
                "\"ssl verify none\" is not a name, = and keywords; write for example tls=ssl verify required ca-file \
                 /etc/ssl/ca.pem",
            ),
            (
                "a b=ssl",
                "\"a b\" cannot be the name of a server profile: the name has the character ' '; letters, digits and _ . : - \
                 are allowed",
            ),
            (
                "a=ssl weight 3",
                "server profile a: the keyword weight is not for a profile: tags and the sidecar itself decide about it",
            ),
            ("a=ssl;a=ssl", "server profile a is there twice"),
        ] {
            assert_eq!(server_profiles(bad).unwrap_err(), problem);
        }
    }
}
