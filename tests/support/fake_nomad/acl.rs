//! Who may do what, as recorded in the table of tokens, transports and calls of real agents.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// A token that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Token {
    /// May do everything.
    Management,
    /// `read-job` in these namespaces; `*` is a rule for all of them.
    Client(Vec<String>),
    /// The identity of a task: lists and reads any one namespace by itself, everything else by these rules.
    Workload(Vec<String>),
}

/// What came with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bearer {
    /// No ACLs here.
    Anybody,
    /// No token.
    Anonymous,
    /// A token that nobody has issued, or nonsense.
    Unknown,
    /// A valid token.
    Known(Token),
}

/// The tokens, if ACLs are on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acl(pub(crate) Option<BTreeMap<String, Token>>);

impl Acl {
    pub(crate) fn bearer(&self, token: Option<&str>) -> Bearer {
        match (&self.0, token) {
            (None, _) => Bearer::Anybody,
            (Some(_), None) => Bearer::Anonymous,
            (Some(tokens), Some(token)) => tokens
                .get(token)
                .cloned()
                .map_or(Bearer::Unknown, Bearer::Known),
        }
    }
}

impl Bearer {
    /// Whether it has `read-job` in `namespace` by a rule.
    pub(crate) fn rules_read(&self, namespace: &str) -> bool {
        match self {
            Self::Anybody | Self::Known(Token::Management) => true,
            Self::Anonymous | Self::Unknown => false,
            Self::Known(Token::Client(rules) | Token::Workload(rules)) => {
                rules.iter().any(|rule| rule == "*" || rule == namespace)
            }
        }
    }

    /// Whether it may list or read this one namespace. `*` is a namespace that nobody has.
    pub(crate) fn reads(&self, namespace: &str) -> bool {
        match self {
            Self::Known(Token::Workload(_)) => true,
            Self::Known(Token::Client(rules)) if namespace == "*" => !rules.is_empty(),
            Self::Anybody | Self::Anonymous | Self::Unknown | Self::Known(_) => {
                self.rules_read(namespace)
            }
        }
    }

    /// Whether it may open a stream; `*` takes the right in every namespace that exists.
    pub(crate) fn streams(&self, namespace: &str, existing: &BTreeSet<String>) -> bool {
        match namespace {
            "*" => existing.iter().all(|namespace| self.rules_read(namespace)),
            _ => self.rules_read(namespace),
        }
    }
}

/// Whether `token` looks like a token at all, which the Task API tells apart from one that nobody has issued.
pub(crate) fn is_uuid(token: &str) -> bool {
    let groups: Vec<usize> = token.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12] && token.chars().all(|c| c == '-' || c.is_ascii_hexdigit())
}
