//! Maps of HAProxy, by which a frontend chooses a backend: their names, their entries, and how they are changed.
//!
//! A word of an entry can be made only by passing its grammar, as a name of `name` can. Source: management guide,
//! section 9.3 (`add map` and its kin); HAProxy itself would store any byte.

use std::{fmt, sync::Arc};

use super::BackendName;

/// What is looked up in a map, and how: each has a map of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapKind {
    /// The whole host: `map_str`.
    Host,
    /// The end of the host: `map_end`, the first match in the map's order.
    Suffix,
    /// The beginning of the host: `map_beg`, the longest match.
    Prefix,
    /// A regular expression of the host: `map_reg`, the first match in the map's order.
    Regex,
    /// The beginning of the host with the path, or of the path alone: `map_beg`, the longest match.
    Path,
    /// The whole server name of TLS: `map_str`.
    Sni,
    /// The port that the client connected to: `map_str`.
    Port,
}

impl MapKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Host,
        Self::Suffix,
        Self::Prefix,
        Self::Regex,
        Self::Path,
        Self::Sni,
        Self::Port,
    ];

    /// The flag that names the map of this kind, without `--`.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::Host => "host-map",
            Self::Suffix => "suffix-map",
            Self::Prefix => "prefix-map",
            Self::Regex => "regex-map",
            Self::Path => "path-map",
            Self::Sni => "sni-map",
            Self::Port => "port-map",
        }
    }
}

impl fmt::Display for MapKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Suffix => "suffix",
            Self::Prefix => "prefix",
            Self::Regex => "regex",
            Self::Path => "path",
            Self::Sni => "SNI",
            Self::Port => "port",
        })
    }
}

/// Why a text cannot be the name of a map, or a word of an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWord {
    /// Nothing was given.
    #[error("it is empty")]
    Empty,
    /// Too long for a line of the runtime API.
    #[error("it is longer than {MAX_WORD} bytes")]
    TooLong,
    /// `#` would be a number, `@` a version.
    #[error("it begins with {0:?}")]
    Beginning(char),
    /// A byte that is not allowed.
    #[error("it has the character {0:?}")]
    Character(char),
    /// `<<`, which begins a payload.
    #[error("it has << in it")]
    Payload,
}

/// HAProxy takes lines of 15 kB at least.
const MAX_WORD: usize = 1_000;

fn check(word: &str, is_allowed: impl Fn(u8) -> bool) -> Result<(), InvalidWord> {
    let first = word.chars().next().ok_or(InvalidWord::Empty)?;
    if word.len() > MAX_WORD {
        return Err(InvalidWord::TooLong);
    }
    if matches!(first, '#' | '@') {
        return Err(InvalidWord::Beginning(first));
    }
    if let Some(bad) = (word.chars()).find(|c| !u8::try_from(*c).is_ok_and(&is_allowed)) {
        return Err(InvalidWord::Character(bad));
    }
    if word.contains("<<") {
        return Err(InvalidWord::Payload);
    }
    Ok(())
}

/// The name of a map as the runtime API has it: the path of its file, or `virt@name`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapName(Arc<str>);

impl MapName {
    /// Accepts `[A-Za-z0-9_.:/@+-]`, at most 1,000 bytes, and neither `#` nor `@` at the beginning. `opt@` before a path is left
    /// out: HAProxy 3.0 does not know it at runtime, and later versions do not need it.
    pub fn new(name: &str) -> Result<Self, InvalidWord> {
        let name = name.strip_prefix("opt@").unwrap_or(name);
        check(name, |byte| {
            byte.is_ascii_alphanumeric()
                || matches!(byte, b'_' | b'.' | b':' | b'/' | b'@' | b'+' | b'-')
        })?;
        Ok(Self(name.into()))
    }

    /// Whether it has no file: HAProxy has such maps from 3.0 on.
    #[must_use]
    pub fn is_virtual(&self) -> bool {
        self.0.starts_with("virt@")
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One word of an entry of a map, its key or its value: visible ASCII without `;` and quotes. A backslash is escaped when it
/// is printed; it stands in regular expressions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapWord(Arc<str>);

impl MapWord {
    /// Accepts `!` to `~` without `;`, `"` and `'`, at most 1,000 bytes, neither `#` nor `@` at the beginning, no `<<`.
    pub fn new(word: &str) -> Result<Self, InvalidWord> {
        check(word, |byte| {
            byte.is_ascii_graphic() && !matches!(byte, b';' | b'"' | b'\'')
        })?;
        Ok(Self(word.into()))
    }

    /// The word as HAProxy shows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&BackendName> for MapWord {
    fn from(name: &BackendName) -> Self {
        Self(name.as_str().into())
    }
}

impl fmt::Display for MapWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MapWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An entry of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapEntry {
    /// What is looked up.
    pub key: MapWord,
    /// What comes of it; `None` for what is not one word of the grammar, and thus nobody's of ours.
    pub value: Option<MapWord>,
}

/// What `show map` tells of a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MapContent {
    /// In HAProxy's order. A key may be there twice; the first one counts.
    pub entries: Vec<MapEntry>,
    /// Entries whose key is outside the grammar.
    pub others: usize,
}

/// A change of a map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapChange {
    /// `add map <map> <key> <value>`. Never for a key that is there: HAProxy would have it twice.
    Add(MapName, MapWord, MapWord),
    /// `set map <map> <key> <value>`
    Set(MapName, MapWord, MapWord),
    /// `del map <map> <key>`
    Delete(MapName, MapWord),
    /// `prepare map <map>`: begins a content that replaces the present one.
    Prepare(MapName),
    /// `add map @<version> <map> <key> <value>`
    AddTo(u32, MapName, MapWord, MapWord),
    /// `commit map @<version> <map>`: it does replace it, at once.
    Commit(u32, MapName),
}

impl MapChange {
    /// The map.
    #[must_use]
    pub fn map(&self) -> &MapName {
        match self {
            Self::Add(map, ..)
            | Self::Set(map, ..)
            | Self::Delete(map, _)
            | Self::Prepare(map)
            | Self::AddTo(_, map, ..)
            | Self::Commit(_, map) => map,
        }
    }

    /// The words that name the command, as HAProxy has them.
    #[must_use]
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Add(..) | Self::AddTo(..) => "add map",
            Self::Set(..) => "set map",
            Self::Delete(..) => "del map",
            Self::Prepare(_) => "prepare map",
            Self::Commit(..) => "commit map",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_map_is_a_path_or_a_virtual_name() {
        for (given, name) in [
            ("virt@hosts", "virt@hosts"),
            ("/etc/haproxy/hosts.map", "/etc/haproxy/hosts.map"),
            ("opt@maps/h.map", "maps/h.map"),
        ] {
            assert_eq!(MapName::new(given).unwrap().to_string(), name);
        }
        for bad in [
            "", "#1", "@1", "a b", "a;b", "a\\b", "a\nb", "ä", "a<<", "opt@",
        ] {
            assert!(MapName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_word_of_an_entry_ends_neither_word_nor_command() {
        for good in [
            "a.example",
            ".a.example",
            "a.example/api",
            "443",
            r"^v\d+\.ex$",
        ] {
            assert_eq!(MapWord::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "", "a b", "a;b", "#1", "@1", "a\n", "a\0", "é", "a<<", "\"a\"", "'a'", "a\u{7f}",
        ] {
            assert!(MapWord::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(
            MapWord::new(&"x".repeat(1_001)).unwrap_err().to_string(),
            "it is longer than 1000 bytes"
        );
    }
}
