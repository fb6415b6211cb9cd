//! What the lock file says: who holds the lock, and what that sidecar follows.
//!
//! Whoever may write to the folder may have written it, so it is read with a limit and only shown, or compared.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// How much of a foreign word is shown.
const SHOWN: usize = 200;

/// What a lock file of ours begins with.
const MARK: &[u8] = b"{\"haproxy-nomad-sidecar\":";

/// A sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// The version of this form.
    #[serde(rename = "haproxy-nomad-sidecar")]
    form: u32,
    /// Chosen by chance for each process: numbers of processes repeat from container to container.
    pub(super) id: u64,
    pid: u32,
    host: String,
    pub(super) follows: Follows,
}

/// What makes a server this sidecar's own, rather than one to be taken out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Follows {
    namespaces: BTreeSet<String>,
    own_namespace: String,
    /// None is the agent's, which may be any.
    region: Option<String>,
    tag_prefix: String,
    expose_by_default: bool,
    slot_prefix: String,
}

impl Holder {
    pub(super) fn new(id: u64, host: String, config: &Config) -> Self {
        Self {
            form: 1,
            id,
            pid: std::process::id(),
            host,
            follows: Follows {
                namespaces: config.nomad.namespaces.iter().cloned().collect(),
                own_namespace: config.own_namespace.clone(),
                region: config.nomad.region.clone(),
                tag_prefix: config.nomad.tag_prefix.clone(),
                expose_by_default: config.nomad.expose_by_default,
                slot_prefix: config.slot_prefix.clone(),
            },
        }
    }

    /// The content of a lock file, if a sidecar wrote it.
    pub(super) fn read(content: &[u8]) -> Option<Self> {
        serde_json::from_slice(content).ok()
    }

    /// Whether a sidecar wrote this, be it only in part.
    pub(super) fn may_replace(content: &[u8]) -> bool {
        content.starts_with(MARK) || MARK.starts_with(content)
    }

    pub(super) fn content(&self) -> Vec<u8> {
        // Texts and numbers can always be written.
        let mut content = serde_json::to_vec(self).unwrap_or_default();
        content.push(b'\n');
        content
    }
}

impl Follows {
    /// Whether all that belongs to a sidecar that follows `other` belongs to this one, too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let all = self.namespaces.contains("*");
        (all || self.namespaces.is_superset(&other.namespaces))
            && (self.expose_by_default || !other.expose_by_default)
            && self.is_of_one_kind(other)
    }

    /// Whether both serve the same.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.covers(other) && other.covers(self)
    }

    fn is_of_one_kind(&self, other: &Self) -> bool {
        let one_region = match (&self.region, &other.region) {
            (Some(one), Some(another)) => one == another,
            (_, _) => true,
        };
        one_region
            && self.own_namespace == other.own_namespace
            && self.tag_prefix == other.tag_prefix
            && self.slot_prefix == other.slot_prefix
    }

    /// What to do about two that differ.
    pub(super) fn advice(&self, other: &Self) -> String {
        let both: Vec<_> = self.namespaces.union(&other.namespaces).collect();
        let both: Vec<_> = both.into_iter().map(String::as_str).collect();
        let one = if both.contains(&"*") {
            "*".to_owned()
        } else {
            both.join(",")
        };
        let namespaces = format!("run one sidecar with --namespaces {}", Short(&one));
        if self.is_of_one_kind(other) {
            namespaces
        } else {
            format!("{namespaces}, or give each its own HAProxy")
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pid {} on {}", self.pid, Short(&self.host))
    }
}

impl fmt::Display for Follows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.namespaces.iter().map(String::as_str).collect();
        write!(
            f,
            "namespaces {}, from namespace {}, region {}, tags {}.…, slots {}…",
            Short(&names.join(",")),
            Short(&self.own_namespace),
            Short(self.region.as_deref().unwrap_or("of the agent")),
            Short(&self.tag_prefix),
            Short(&self.slot_prefix),
        )?;
        if self.expose_by_default {
            f.write_str(", every service by default")?;
        }
        Ok(())
    }
}

/// A foreign word, with an end.
struct Short<'a>(&'a str);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;

        let mut characters = self.0.chars();
        for c in characters.by_ref().take(SHOWN) {
            f.write_char(if c.is_control() { ' ' } else { c })?;
        }
        if characters.next().is_some() {
            f.write_char('…')?;
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn holder(id: u64, namespaces: &[&str]) -> Holder {
        Holder {
            form: 1,
            id,
            pid: 7,
            host: "lb-1".to_owned(),
            follows: Follows {
                namespaces: namespaces.iter().map(ToString::to_string).collect(),
                own_namespace: "default".to_owned(),
                region: None,
                tag_prefix: "haproxy".to_owned(),
                expose_by_default: false,
                slot_prefix: "nomad".to_owned(),
            },
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let one = holder(3, &["shop", "default"]);
        assert_eq!(Holder::read(&one.content()), Some(one.clone()));
        assert!(Holder::may_replace(&one.content()));
        assert!(Holder::may_replace(&one.content()[..9]));
        assert!(Holder::may_replace(b""));
        for garbage in [&b"\0\xff"[..], b"{}", b"[]", b"root:x:0:0"] {
            assert_eq!(Holder::read(garbage), None);
            assert!(!Holder::may_replace(garbage) || garbage.is_empty());
        }
    }

    #[test]
    fn more_namespaces_cover_fewer_and_other_words_cover_nothing() {
        let follows = |namespaces: &[&str]| holder(1, namespaces).follows;
        let (one, two, all) = (follows(&["a"]), follows(&["a", "b"]), follows(&["*"]));
        assert!(two.covers(&one) && !one.covers(&two) && !one.is_same(&two));
        assert!(all.covers(&two) && !two.covers(&all));
        let mut exposing = one.clone();
        exposing.expose_by_default = true;
        assert!(exposing.covers(&one) && !one.covers(&exposing));
        let mut elsewhere = one.clone();
        elsewhere.region = Some("eu".to_owned());
        assert!(
            elsewhere.is_same(&one),
            "the agent's region may be that one"
        );
        let mut far = one.clone();
        far.region = Some("us".to_owned());
        assert!(!elsewhere.covers(&far));
        for change in [
            |f: &mut Follows| f.tag_prefix = "x".to_owned(),
            |f: &mut Follows| f.slot_prefix = "x".to_owned(),
            |f: &mut Follows| f.own_namespace = "x".to_owned(),
        ] {
            let mut other = one.clone();
            change(&mut other);
            assert!(!one.covers(&other) && !other.covers(&one));
            let advice = one.advice(&other);
            assert!(
                advice.ends_with(", or give each its own HAProxy"),
                "{advice}"
            );
        }
        assert_eq!(
            one.advice(&follows(&["b"])),
            "run one sidecar with --namespaces a,b"
        );
    }

    #[test]
    fn foreign_words_are_short_and_in_one_line() {
        let mut one = holder(1, &["a"]);
        one.host = format!("\r\n{}", "x".repeat(300));
        assert_eq!(one.to_string(), format!("pid 7 on   {}…", "x".repeat(198)));
    }
}
