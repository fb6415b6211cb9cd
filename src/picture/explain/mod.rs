//! Why something gets traffic, or does not: the whole chain from Nomad to HAProxy, for one service, allocation, address,
//! registration or server. A function of the picture and of what the command has read besides.
//!
//! The first line is the verdict. Every text from elsewhere is kept to one line, without anything that a terminal obeys.

mod absent;
mod find;
mod routes;
mod story;
#[cfg(test)]
mod tests;
mod verdict;

use std::{collections::BTreeMap, fmt};

use super::{Change, Check, Checks, Namespace, Picture, Service};

pub use find::{Subject, find, is_registration};
pub(super) use story::charge;
pub(super) use verdict::words;

/// So many things are told of one by one.
const SHOWN: usize = 20;

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// How everything stands.
    pub picture: Picture,
    /// HAProxy's words on checks, by backend.
    pub checks: BTreeMap<String, Checks>,
    /// What the command has read from Nomad itself: services that the picture lacks.
    pub elsewhere: Vec<Service>,
    /// Why it could not.
    pub unread: Option<String>,
}

impl Evidence {
    pub(in crate::picture) fn check(&self, backend: &str, server: &str) -> Option<&Check> {
        self.checks.get(backend)?.get(server)
    }

    /// The last changes of a server, the oldest first.
    fn changes(&self, backend: &str, server: &str) -> Vec<&Change> {
        const SHOWN: usize = 6;
        let all = self.picture.changes.iter();
        let of_it = all.filter(|one| &*one.backend == backend && &*one.server == server);
        // What was before it got its address is another instance's.
        let is_first = |one: &&Change| {
            one.command.starts_with("add server ") || one.command.contains(" addr ")
        };
        let mut last = Vec::new();
        for one in of_it.rev() {
            last.push(one);
            if is_first(&one) {
                break;
            }
        }
        last.truncate(SHOWN);
        last.reverse();
        last
    }
}

/// Whether something gets traffic; what is worst comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Served {
    /// It does not.
    No,
    /// Nobody could find out.
    Unknown,
    /// It does.
    Yes,
}

/// One thing, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Explained {
    /// What it is about.
    subject: String,
    served: Served,
    /// In one sentence.
    verdict: String,
    /// The chain: a word, and what there is to say.
    chain: Vec<(&'static str, String)>,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.subject, self.verdict)?;
        for (word, text) in &self.chain {
            writeln!(f, "  {word:<8} {text}")?;
        }
        Ok(())
    }
}

/// Everything that was asked for, explained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    what: String,
    /// Never none.
    all: Vec<Explained>,
}

impl Explanation {
    /// Whether all of it gets traffic.
    #[must_use]
    pub fn served(&self) -> Served {
        let all = self.all.iter().map(|one| one.served);
        all.min().unwrap_or(Served::Unknown)
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, what) = (self.all.len(), &self.what);
        if all > 1 {
            let count = |served| self.all.iter().filter(|one| one.served == served).count();
            let unknown = match count(Served::Unknown) {
                0 => String::new(),
                unknown => format!(", {unknown} may or not"),
            };
            let get = count(Served::Yes);
            writeln!(f, "{what}: {get} of {all} get traffic{unknown}\n")?;
        }
        for (number, one) in self.all.iter().take(SHOWN).enumerate() {
            let gap = if number > 0 { "\n" } else { "" };
            write!(f, "{gap}{one}")?;
        }
        if let Some(more) = all.checked_sub(SHOWN).filter(|more| *more > 0) {
            writeln!(
                f,
                "\n… and {more} more: ask for one by its address or allocation"
            )?;
        }
        Ok(())
    }
}

/// Everything that `what` names: first what is of the service itself, and of that what gets no traffic; never nothing.
#[must_use]
pub fn explain(what: &str, evidence: &Evidence) -> Explanation {
    let subjects = find(&evidence.picture, what).into_iter();
    let told = subjects.map(|subject| {
        (
            !subject.is_of_service(what),
            story::tell(subject, what, evidence),
        )
    });
    let mut told: Vec<_> = told.collect();
    // Of many, those that are looked for.
    told.sort_by_key(|(is_anothers, one)| (*is_anothers, one.served));
    let mut all: Vec<_> = told.into_iter().map(|(_, one)| one).collect();
    if all.is_empty() {
        all = absent::explain(what, evidence);
    }
    Explanation {
        what: safe(what),
        all,
    }
}

/// What keeps this namespace, or any, from being read now.
fn trouble_in(picture: &Picture, namespace: Option<&str>) -> Option<String> {
    let of_it = |one: &&Namespace| namespace.is_none_or(|name| one.name == name || one.name == "*");
    let mut namespaces = picture.nomad.namespaces.iter().filter(of_it);
    namespaces.find_map(trouble_of)
}

/// What keeps a namespace from being read now.
pub(super) fn trouble_of(namespace: &Namespace) -> Option<String> {
    let trouble = namespace.trouble.as_ref();
    let lasting = trouble.filter(|trouble| trouble.ended_ms.is_none())?;
    Some(safe(&lasting.text))
}

/// A text from elsewhere in one line, without what a terminal would obey.
pub(super) fn safe(text: &str) -> String {
    const SHOWN: usize = 300;
    let mut characters = text.chars();
    let mut shown = String::with_capacity(text.len());
    for c in characters.by_ref().take(SHOWN) {
        let is_odd = c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if is_odd {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

/// A time as people read it.
pub(super) fn time(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..10_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        10_000..120_000 => format!("{} s", ms / 1_000),
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}
