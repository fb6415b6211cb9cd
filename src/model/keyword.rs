//! Words of `add server` that are more than numbers. What a tag says got here through a grammar; what stands for a server
//! profile the operator wrote, and it was looked at, too.

use std::{fmt, sync::Arc};

/// The `PROXY` protocol's header that a server is sent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProxyHeader {
    /// `send-proxy`
    V1,
    /// `send-proxy-v2`
    V2,
}

impl fmt::Display for ProxyHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        })
    }
}

/// The version of HTTP that a server is spoken to in, without asking it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// `proto h1`
    H1,
    /// `proto h2`
    H2,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H1 => "h1",
            Self::H2 => "h2",
        })
    }
}

/// Keywords of `add server` in the operator's words: what a server profile stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerKeywords(Arc<str>);

/// Why words cannot be those of a server profile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeywords {
    /// Nothing was given.
    #[error("it has no keywords; write for example ssl verify required ca-file /etc/ssl/ca.pem")]
    Empty,
    /// Together with those of tags they would be more than HAProxy takes.
    #[error("it has more than {MAX_WORDS} words or {MAX_LENGTH} bytes")]
    TooLong,
    /// A character that means something else to HAProxy's socket.
    #[error("the character {0:?} cannot be written to HAProxy's socket")]
    Character(char),
    /// A keyword that the sidecar decides about.
    #[error("the keyword {0} is not for a profile: tags and the sidecar itself decide about it")]
    Taken(String),
}

/// HAProxy takes 64 words in a command; all that tags can ask for are 45.
const MAX_WORDS: usize = 18;
const MAX_LENGTH: usize = 600;

/// Who is added how, when, and with which check is decided by tags, and by how the sidecar brings servers in and out.
const TAKEN: &[&str] = &[
    "addr",
    "agent-addr",
    "agent-check",
    "agent-inter",
    "agent-port",
    "backup",
    "check",
    "cookie",
    "disabled",
    "downinter",
    "enabled",
    "fall",
    "fastinter",
    "guid",
    "healthcheck",
    "id",
    "init-state",
    "inter",
    "maxconn",
    "maxqueue",
    "no-check",
    "port",
    "proto",
    "rise",
    "send-proxy",
    "send-proxy-v2",
    "slowstart",
    "track",
    "weight",
];

impl ServerKeywords {
    /// Accepts printable words with one blank between them, none of which is the sidecar's to say.
    ///
    /// # Errors
    ///
    /// When HAProxy's socket would read something else in it.
    pub fn new(text: &str) -> Result<Self, InvalidKeywords> {
        let words: Vec<_> = text.split_ascii_whitespace().collect();
        if words.is_empty() {
            return Err(InvalidKeywords::Empty);
        }
        let text = words.join(" ");
        if words.len() > MAX_WORDS || text.len() > MAX_LENGTH {
            return Err(InvalidKeywords::TooLong);
        }
        let is_refused = |c: &char| !(' '..='~').contains(c) || ";\\'\"#<".contains(*c);
        if let Some(bad) = text.chars().find(is_refused) {
            return Err(InvalidKeywords::Character(bad));
        }
        match words.iter().find(|word| TAKEN.contains(word)) {
            Some(word) => Err(InvalidKeywords::Taken((*word).to_owned())),
            None => Ok(Self(text.into())),
        }
    }

    /// Whether `word` is one of them.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.0.split(' ').any(|other| other == word)
    }
}

impl fmt::Display for ServerKeywords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_has_words_that_are_harmless_on_the_socket() {
        let good =
            "ssl  verify required ca-file /etc/ssl/ca.pem sni str(a.example) alpn h2,http/1.1";
        assert_eq!(
            ServerKeywords::new(good).unwrap().to_string(),
            "ssl verify required ca-file /etc/ssl/ca.pem sni str(a.example) alpn h2,http/1.1"
        );
        for (bad, error) in [
            (" ", InvalidKeywords::Empty),
            ("ssl;shutdown", InvalidKeywords::Character(';')),
            ("ssl \\", InvalidKeywords::Character('\\')),
            ("ssl <<", InvalidKeywords::Character('<')),
            ("ssl\0", InvalidKeywords::Character('\0')),
            ("ssl weight 3", InvalidKeywords::Taken("weight".to_owned())),
            (&"ssl ".repeat(19), InvalidKeywords::TooLong),
        ] {
            assert_eq!(ServerKeywords::new(bad), Err(error), "{bad:?}");
        }
    }
}
