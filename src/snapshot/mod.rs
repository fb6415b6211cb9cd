//! The bytes of the snapshot: the last good catalog with its holds, for a sidecar that starts while Nomad is away.
//!
//! The first line has the format's version, the length and the SHA-256 of the rest, which is JSON. There is no token in
//! it. Registrations are in it as Nomad wrote them, so that what is read back goes through the same validation. No file
//! and no clock here: `daemon::snapshot` has both.

mod hands;
mod held;
mod refusal;
#[cfg(test)]
mod tests;
mod wire;

use std::{collections::BTreeMap, time::Duration};

pub use hands::{decode_hands, encode_hands};
pub use refusal::Refusal;

use crate::{model::ServiceKey, reconcile::Remembered};
use wire::Body;

/// One that is as old as this is not used: addresses outlive their owners.
pub const MAX_AGE: Duration = Duration::from_mins(10);
/// A longer one is neither written nor read.
pub const MAX_LENGTH: usize = 16 << 20;
/// Clocks are set back a little now and then.
const CLOCK: Duration = Duration::from_secs(5);
const MAGIC: &str = "haproxy-nomad-sidecar-snapshot";
const VERSION: u32 = 1;

/// Whose catalog it is: to another one a snapshot means nothing.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Source {
    /// Nomad's addresses; the Task API is the same whatever its path.
    pub addresses: Vec<String>,
    /// The region that is asked.
    pub region: Option<String>,
    /// The namespaces that are followed.
    pub namespaces: Vec<String>,
    /// The sidecar's own.
    pub own_namespace: String,
    /// What tags begin with.
    pub tag_prefix: String,
    /// Whether a service without tags takes part.
    pub expose_by_default: bool,
}

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Whose it is.
    pub source: Source,
    /// Nomad's index.
    pub index: u64,
    /// When each followed namespace was last known to be current; times are since the epoch.
    pub current: BTreeMap<String, Duration>,
    /// When `remembered` was true.
    pub written: Duration,
    /// The catalog and the holds.
    pub remembered: Remembered,
}

/// What may be used of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usable {
    /// Since the oldest of its namespaces was known to be current.
    pub age: Duration,
    /// Nomad's index then.
    pub index: u64,
    /// Namespaces that are too old.
    pub too_old: Vec<String>,
    /// The rest.
    pub remembered: Remembered,
}

/// The bytes of a snapshot.
#[must_use]
pub fn encode(snapshot: &Snapshot) -> Vec<u8> {
    sign(&Body::of(snapshot).to_json())
}

/// The body with its first line.
#[must_use]
pub fn sign(body: &[u8]) -> Vec<u8> {
    sign_as(MAGIC, body)
}

fn sign_as(magic: &str, body: &[u8]) -> Vec<u8> {
    let (length, sum) = (body.len(), checksum(body));
    let head = format!("{magic} {VERSION} {length} {sum}\n");
    [head.as_bytes(), body].concat()
}

/// What of `bytes` a sidecar that follows `source` may use at `now`, since the epoch.
///
/// # Errors
///
/// With the reason for which nothing of it is used.
pub fn decode(bytes: &[u8], source: &Source, now: Duration) -> Result<Usable, Refusal> {
    let body = Body::from_json(verified(MAGIC, bytes)?)?;
    body.source.check(source)?;
    let snapshot = body.into_snapshot(now)?;
    let Snapshot {
        index,
        current,
        mut remembered,
        ..
    } = snapshot;
    let mut age = Duration::ZERO;
    let (mut fresh, mut too_old) = (Vec::new(), Vec::new());
    let mut youngest = None;
    for (namespace, at) in current {
        if at > now + CLOCK {
            return Err(Refusal::FromTheFuture(at.saturating_sub(now)));
        }
        let since = now.saturating_sub(at);
        youngest = Some(youngest.map_or(since, |other: Duration| other.min(since)));
        if since < MAX_AGE {
            age = age.max(since);
            fresh.push(namespace);
        } else {
            too_old.push(namespace);
        }
    }
    match youngest {
        None => return Err(Refusal::Damaged("it has no namespace".to_owned())),
        Some(since) if fresh.is_empty() => return Err(Refusal::TooOld(since)),
        Some(_) => {}
    }
    let is_fresh = |key: &ServiceKey| {
        let mut names = fresh.iter();
        names.any(|name| name == "*" || **name == *key.namespace)
    };
    remembered.services.retain(|key, _| is_fresh(key));
    let holds = &mut remembered.holds;
    holds.retain(|held| held.service.as_ref().is_none_or(is_fresh));
    Ok(Usable {
        age,
        index,
        too_old,
        remembered,
    })
}

/// The body, once it is known to be what was written.
fn verified<'a>(magic: &str, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
    let damaged = |what: &str| Refusal::Damaged(what.to_owned());
    let no_snapshot = || damaged("it does not begin like a snapshot");
    if bytes.is_empty() {
        return Err(Refusal::Truncated);
    }
    if bytes.len() > MAX_LENGTH {
        return Err(Refusal::TooLarge(bytes.len()));
    }
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        let begun = bytes.len() <= magic.len() + 100
            && magic
                .as_bytes()
                .starts_with(&bytes[..bytes.len().min(magic.len())]);
        return Err(if begun {
            Refusal::Truncated
        } else {
            no_snapshot()
        });
    };
    let (head, body) = (&bytes[..end], &bytes[end + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| no_snapshot())?;
    let rest = head.strip_prefix(magic).ok_or_else(no_snapshot)?;
    let rest = rest.strip_prefix(' ').ok_or_else(no_snapshot)?;
    let words: Vec<_> = rest.split(' ').collect();
    let version = words.first().and_then(|word| word.parse::<u32>().ok());
    match version {
        None => return Err(no_snapshot()),
        Some(VERSION) => {}
        Some(other) => return Err(Refusal::UnknownVersion(other)),
    }
    let [_, length, sum] = words[..] else {
        return Err(no_snapshot());
    };
    let length: usize = length.parse().map_err(|_| no_snapshot())?;
    if body.len() < length {
        return Err(Refusal::Truncated);
    }
    if body.len() > length {
        return Err(damaged("something follows on its end"));
    }
    if checksum(body) != sum {
        return Err(damaged("its checksum is another"));
    }
    Ok(body)
}

fn checksum(body: &[u8]) -> String {
    use std::fmt::Write as _;

    let digest = ring::digest::digest(&ring::digest::SHA256, body);
    let mut text = String::new();
    for byte in digest.as_ref() {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

impl Source {
    /// Whether what `other` wrote means the same here.
    fn check(&self, here: &Self) -> Result<(), Refusal> {
        let differs = |what: &'static str, there: &str, here: &str| Refusal::Foreign {
            what,
            there: there.escape_debug().take(100).collect(),
            here: here.to_owned(),
        };
        // An address more or less is no other Nomad.
        let shared = |address: &String| here.addresses.contains(address);
        if !self.addresses.iter().any(shared) {
            return Err(differs(
                "address of Nomad",
                &self.addresses.join(","),
                &here.addresses.join(","),
            ));
        }
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names.join(",")
        };
        let region = |source: &Self| source.region.clone().unwrap_or("(none)".to_owned());
        for (what, there, here) in [
            ("region", region(self), region(here)),
            (
                "--namespaces",
                sorted(&self.namespaces),
                sorted(&here.namespaces),
            ),
            (
                "namespace",
                self.own_namespace.clone(),
                here.own_namespace.clone(),
            ),
            (
                "--tag-prefix",
                self.tag_prefix.clone(),
                here.tag_prefix.clone(),
            ),
            (
                "--expose-by-default",
                self.expose_by_default.to_string(),
                here.expose_by_default.to_string(),
            ),
        ] {
            if there != here {
                return Err(differs(what, &there, &here));
            }
        }
        Ok(())
    }
}
