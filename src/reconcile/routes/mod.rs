//! Routes: by which hosts, paths, server names and ports HAProxy's frontends find the backend of a service. They are entries
//! of maps that haproxy.cfg looks up; the operator names the maps.
//!
//! `tags` reads what a registration asks for, `claims` decides whose a route is, `diff` compares with what HAProxy shows,
//! `machine` remembers. When to run what, `reconciler` decides.

pub(super) mod claims;
mod diff;
pub(super) mod machine;
mod rounds;
mod tags;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use crate::model::{BackendName, MapChange, MapKind, MapName, MapWord, ServiceKey};

use super::{Refusal, tags::TagProblem};

pub use tags::RouteTags;

/// One key of one kind of map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// What is looked up, and how.
    pub kind: MapKind,
    /// The key.
    pub key: MapWord,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// The maps that the operator has for routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maps(BTreeMap<MapKind, MapName>);

impl Maps {
    /// These maps; a kind that is not there has none.
    #[must_use]
    pub fn new(maps: BTreeMap<MapKind, MapName>) -> Self {
        Self(maps)
    }

    /// The map of this kind.
    #[must_use]
    pub fn of(&self, kind: MapKind) -> Option<&MapName> {
        self.0.get(&kind)
    }

    /// The map of this kind that is used when nothing else is said.
    #[must_use]
    pub fn usual(kind: MapKind) -> Option<MapName> {
        let name = match kind {
            MapKind::Host => "virt@hosts",
            MapKind::Suffix => "virt@suffixes",
            MapKind::Prefix => "virt@prefixes",
            MapKind::Regex => return None,
            MapKind::Path => "virt@paths",
            MapKind::Sni => "virt@sni",
            MapKind::Port => "virt@ports",
        };
        MapName::new(name).ok()
    }
}

impl Default for Maps {
    fn default() -> Self {
        let maps = MapKind::ALL.into_iter();
        Self(
            maps.filter_map(|kind| Some((kind, Self::usual(kind)?)))
                .collect(),
        )
    }
}

/// Why a service does not have a route that its tags ask for, or has it otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteReason {
    /// A tag that makes no route.
    Tag(TagProblem),
    /// Another service claimed it first.
    Taken(Route, ServiceKey),
    /// It would take requests of a route that belongs to a service of the sidecar's own namespace.
    Covered(Route, Route, ServiceKey),
    /// It has it; another service claims it, too.
    Contested(Route, ServiceKey),
    /// Its tags name other routes than those of the newest registration, which count.
    Differs(Arc<str>),
}

impl RouteReason {
    /// Whether all routes are there that are asked for.
    #[must_use]
    pub fn is_note(&self) -> bool {
        matches!(self, Self::Contested(..) | Self::Differs(_))
    }
}

impl fmt::Display for RouteReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(problem) => problem.fmt(f),
            Self::Taken(route, by) => write!(
                f,
                "{route} belongs to the service {by}, which has the first claim: take the tag away from one of them"
            ),
            Self::Covered(route, other, by) => write!(
                f,
                "{route} would take requests of {other}, which belongs to the service {by} of the sidecar's own namespace"
            ),
            Self::Contested(route, other) => write!(
                f,
                "the service {other} claims {route}, too, and does not get it"
            ),
            Self::Differs(newest) => write!(
                f,
                "its tags ask for other routes than those of the newer registration {}, which count",
                super::tags::shown(newest)
            ),
        }
    }
}

/// Something that is in the way of a route, on HAProxy's side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteObstacle {
    /// HAProxy has no such map.
    NoMap(MapKind, MapName),
    /// No map is named for this kind.
    Unnamed(MapKind),
    /// The key is in the map with a value that is not the sidecar's to change: the backend that is wanted, and the value.
    Foreign(Route, BackendName, Option<MapWord>),
    /// HAProxy does not take the key: its words.
    Refused(Route, String),
    /// A longer key cannot be put before a shorter one without losing an entry of somebody else's.
    Order(MapName),
}

impl fmt::Display for RouteObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMap(kind, map) => {
                write!(
                    f,
                    "HAProxy has no map {map}: look it up in a frontend of haproxy.cfg, as in docs/routes.md, or name another map \
                     for {kind} routes with --{}",
                    kind.flag()
                )?;
                if map.is_virtual() {
                    f.write_str(" (before HAProxy 3.0: the path of a file)")?;
                }
                Ok(())
            }
            Self::Unnamed(kind) => write!(
                f,
                "no map is named for {kind} routes: look one up in haproxy.cfg, and name it with --{}",
                kind.flag()
            ),
            Self::Foreign(route, backend, value) => {
                let value = value.as_ref().map_or("something else", MapWord::as_str);
                write!(
                    f,
                    "{route} is not routed to {backend}: an entry that is not the sidecar's leads to {value}; delete it (del map) \
                     or take the tag away"
                )
            }
            Self::Refused(route, text) => write!(f, "HAProxy refuses {route}: {text}"),
            Self::Order(map) => write!(
                f,
                "a longer suffix stands behind a shorter one in {map}, where the first match counts, and putting it before would lose \
                 entries that are not plain words: put these right"
            ),
        }
    }
}

/// Something that happened to routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteFact {
    /// They were written and read back.
    Applied {
        /// How many were added.
        added: usize,
        /// How many lead elsewhere now.
        changed: usize,
        /// How many were removed.
        removed: usize,
        /// Maps that were written anew, for their order.
        rewritten: usize,
        /// Since the first command.
        took: Duration,
    },
    /// A change of a map that is being sent.
    Sent(MapChange),
    /// In observing mode: what would have been sent.
    WouldSend(Vec<MapChange>),
    /// They could not be read or written; they are tried again after the delay.
    Failed {
        /// What went wrong.
        problem: String,
        /// Until the next try.
        again_in: Duration,
    },
    /// Something in HAProxy is in the way of routes.
    Blocked(RouteObstacle),
    /// It no longer is.
    Unblocked(RouteObstacle),
}

/// How many routes there are, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoutesCount {
    /// Routes that are in HAProxy as they should be.
    pub active: usize,
    /// Routes that wait for a server in rotation.
    pub waiting: usize,
    /// Routes that something in HAProxy is in the way of.
    pub blocked: usize,
    /// Claims of routes that another service has.
    pub taken: usize,
    /// Tags that make no route, and routes that the rules do not allow.
    pub refused: usize,
    /// In observing mode: changes that would be made now.
    pub would: usize,
}

/// A service's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Where they lead.
    pub backend: BackendName,
    /// The registration whose tags count.
    pub registration: Arc<str>,
    /// They stay while nothing of the service is registered.
    pub keep: bool,
    /// The routes, with the lowest `CreateIndex` of the registrations that ask for each.
    pub claims: BTreeMap<Route, u64>,
    /// Routes that the rules do not allow.
    pub refused: BTreeMap<Route, Refusal>,
}

/// Changes by what they do: added, changed, removed; and maps that were written anew.
pub(super) fn counted(changes: &[MapChange]) -> [usize; 4] {
    let count = |of: fn(&MapChange) -> bool| changes.iter().filter(|change| of(change)).count();
    [
        count(|change| matches!(change, MapChange::Add(..))),
        count(|change| matches!(change, MapChange::Set(..))),
        count(|change| matches!(change, MapChange::Delete(..))),
        count(|change| matches!(change, MapChange::Commit(..))),
    ]
}
