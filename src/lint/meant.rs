//! What a tag that nobody reads was perhaps meant as.

use super::job::Text;
use crate::{reconcile::tags, spelling};

/// The key that a tag with an unknown key was perhaps meant to have.
pub(super) fn key(prefix: &str, tag: &str) -> Option<&'static str> {
    let (key, _) = tags::split(prefix, tag)?;
    if tags::keys().any(|known| known == key) {
        return None;
    }
    let last_part = || {
        let mut same = tags::keys().filter(|known| known.rsplit('.').next() == Some(key));
        same.next().filter(|_| same.next().is_none())
    };
    spelling::meant(key, tags::keys()).or_else(last_part)
}

/// Whether a tag of which only the beginning is known has an unknown key.
pub(super) fn is_unknown(prefix: &str, tag: &Text) -> bool {
    tags::split(prefix, &tag.known)
        .filter(|_| tag.known.contains('='))
        .is_some_and(|(key, _)| !tags::keys().any(|known| known == key))
}

/// The key of a tag with a misspelt prefix.
pub(super) fn key_behind_another_prefix(prefix: &str, tag: &str) -> Option<&'static str> {
    if tags::split(prefix, tag).is_some() {
        return None;
    }
    let (tag, _) = tag.split_once('=').unwrap_or((tag, ""));
    let end = tag.find(|c: char| !c.is_alphanumeric() && c != ' ')?;
    let key = tag[end..].trim_start_matches(|c: char| !c.is_alphanumeric());
    let word = tag[..end].trim();
    spelling::is_near(word, prefix)
        .then(|| spelling::meant(key, tags::keys()))
        .flatten()
}

/// The tag that opts in or out, if a misspelt one was perhaps meant so.
pub(super) fn enable(prefix: &str, tag: &str) -> Option<String> {
    let meant = key(prefix, tag).or_else(|| key_behind_another_prefix(prefix, tag))?;
    let (_, value) = tag.split_once('=').unwrap_or((tag, "true"));
    (meant == "enable").then(|| format!("{prefix}.{meant}={value}"))
}
