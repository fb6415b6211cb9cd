//! What the daemon shows of itself: one plain value, published through a `watch` channel, from which `/live`, `/ready`,
//! `/status` and some metrics are answered.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::Namespace;
use crate::model::BackendName;

/// A daemon whose loop was not seen for this long is not alive.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(30);

/// How many backends a line of `/ready` names before it stops.
const NAMED_BACKENDS: usize = 10;

/// How many characters of a reason are shown.
const REASON_LIMIT: usize = 300;

/// The daemon's state, as far as others may see it.
#[derive(Clone, Debug)]
pub struct Status {
    /// When the daemon was started.
    pub started: Instant,
    /// When the daemon's loop last came round.
    pub alive_at: Instant,
    /// When the catalog was last known to be current; `None` before the first accepted list.
    pub catalog_at: Option<Instant>,
    /// The catalog is a snapshot's: Nomad was not heard yet.
    pub snapshot: Option<FromSnapshot>,
    /// What keeps the daemon from being ready. Empty is ready.
    pub missing: Vec<Missing>,
    /// The address of Nomad that is asked first.
    pub nomad: String,
    /// What guards hold back, in lines.
    pub guards: Vec<String>,
    /// Servers that stay as they are by an operator's hand, a hold or a guard, in lines.
    pub staying: Vec<String>,
    /// How each namespace is followed.
    pub namespaces: Vec<Namespace>,
    /// Whether this sidecar acts: another one may be in charge, or it only observes.
    pub in_charge: bool,
    /// Why it does not, when that is another one's doing.
    pub standby: Option<String>,
    /// The last panic of a part.
    pub failure: Option<Failure>,
}

/// A part of the process panicked, and was started afresh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub part: &'static str,
    /// What the panic said.
    pub reason: String,
    /// How many there were since the start.
    pub times: u64,
    /// When the last one was.
    pub at: Instant,
}

/// A catalog that was not read from Nomad since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromSnapshot {
    /// How old it was when it was read.
    pub age: Duration,
    /// When that was.
    pub read_at: Instant,
    /// Why it is used, in an operator's words.
    pub reason: String,
}

/// Something without which the daemon is not ready. Each is one line of `/ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The core failed, and starts afresh.
    Core {
        /// What its panic said.
        reason: String,
    },
    /// There is no usable connection to HAProxy's runtime socket.
    Haproxy {
        /// Why, in an operator's words.
        reason: String,
    },
    /// No list of services was accepted since the start.
    Catalog {
        /// Why, in an operator's words.
        reason: String,
    },
    /// The first sync is not applied everywhere.
    Backends {
        /// Those where it is not.
        pending: Vec<BackendName>,
        /// How many backends there are to apply it to.
        total: usize,
    },
    /// A namespace was never read: its name, and why.
    Namespace {
        /// Its name.
        name: String,
        /// What keeps it from being read.
        reason: String,
    },
    /// The first sync is not applied to the maps.
    Routes,
    /// It is, and HAProxy's checks have not admitted its servers.
    Checks {
        /// The backends where they have not.
        pending: Vec<BackendName>,
        /// How many backends there are.
        total: usize,
    },
}

impl Status {
    /// A daemon that was started at `now` and has reached nothing yet.
    #[must_use]
    pub fn starting(now: Instant) -> Self {
        let reason = || "not tried yet".to_owned();
        Self {
            started: now,
            alive_at: now,
            catalog_at: None,
            snapshot: None,
            missing: vec![
                Missing::Haproxy { reason: reason() },
                Missing::Catalog { reason: reason() },
            ],
            nomad: "nowhere yet".to_owned(),
            guards: Vec::new(),
            staying: Vec::new(),
            namespaces: Vec::new(),
            in_charge: false,
            standby: None,
            failure: None,
        }
    }

    /// How things stand at `now`, in lines: with Nomad, and what is not as Nomad has it.
    #[must_use]
    pub fn report(&self, now: Instant) -> String {
        let lines = self.namespaces.iter();
        let lines = lines.map(|namespace| format!("{}\n", namespace.line(now)));
        let nomad = OneLine(&self.nomad);
        let guards = self.guard_lines();
        let standby = match self.standby_line() {
            Some(standby) => standby,
            None if self.in_charge => "in charge: this sidecar changes HAProxy\n".to_owned(),
            None => String::new(),
        };
        let staying = self.staying.iter().map(|line| format!("{line}\n"));
        let failure = self.failure.as_ref().map(|failure| {
            let ago = now.saturating_duration_since(failure.at).as_secs();
            format!(
                "failed: {} times since the start, a bug; the last time {ago} s ago, in the {}: {}\n",
                failure.times,
                failure.part,
                OneLine(&failure.reason)
            )
        });
        format!(
            "nomad: asked at {nomad}\n{}{guards}{standby}{}{}",
            lines.collect::<String>(),
            failure.unwrap_or_default(),
            staying.collect::<String>()
        )
    }

    /// What guards hold back.
    pub(super) fn guard_lines(&self) -> String {
        let lines = self.guards.iter().map(|line| format!("{line}\n"));
        lines.collect()
    }

    /// That another sidecar is in charge, if it is.
    #[must_use]
    pub fn standby_line(&self) -> Option<String> {
        let reason = self.standby.as_ref()?;
        Some(format!("standby: {}\n", OneLine(reason)))
    }

    /// Whether the first sync is applied.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing.is_empty()
    }

    /// How long the daemon's loop was not seen, when that is too long.
    #[must_use]
    pub fn silent_for(&self, now: Instant) -> Option<Duration> {
        let silence = now.saturating_duration_since(self.alive_at);
        (silence > HEARTBEAT_LIMIT).then_some(silence)
    }

    /// How old what is known of the catalog is; counted from the start while nothing is known.
    #[must_use]
    pub fn catalog_age(&self, now: Instant) -> Duration {
        match &self.snapshot {
            Some(snapshot) => snapshot.age(now),
            None => now.saturating_duration_since(self.catalog_at.unwrap_or(self.started)),
        }
    }
}

impl FromSnapshot {
    fn age(&self, now: Instant) -> Duration {
        self.age + now.saturating_duration_since(self.read_at)
    }

    /// For `/ready`.
    pub(super) fn line(&self, now: Instant) -> String {
        format!("{}\n", self.words(now))
    }

    /// How old it is, and why it is used.
    #[must_use]
    pub fn words(&self, now: Instant) -> String {
        format!(
            "serving from a snapshot of the catalog that is {} s old, until Nomad is back: {}",
            self.age(now).as_secs(),
            OneLine(&self.reason)
        )
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core { reason } => {
                write!(f, "core: it failed and starts afresh: {}", OneLine(reason))
            }
            Self::Haproxy { reason } => write!(f, "haproxy: not connected: {}", OneLine(reason)),
            Self::Catalog { reason } => {
                write!(f, "nomad: no list was accepted yet: {}", OneLine(reason))
            }
            Self::Namespace { name, reason } => {
                write!(
                    f,
                    "nomad: namespace {name} was not read yet: {}",
                    OneLine(reason)
                )
            }
            Self::Routes => f.write_str("routes are not applied yet"),
            Self::Backends { pending, total } | Self::Checks { pending, total } => {
                let (verb, noun) = match (pending.len(), total) {
                    (1, 1) => ("is", "backend"),
                    (1, _) => ("is", "backends"),
                    (_, _) => ("are", "backends"),
                };
                let what = if matches!(self, Self::Checks { .. }) {
                    "not checked by HAProxy yet"
                } else {
                    "not applied yet"
                };
                write!(f, "{} of {total} {noun} {verb} {what}", pending.len())?;
                for (i, name) in pending.iter().take(NAMED_BACKENDS).enumerate() {
                    write!(f, "{}{name}", if i == 0 { ": " } else { ", " })?;
                }
                if pending.len() > NAMED_BACKENDS {
                    f.write_str(", …")?;
                }
                Ok(())
            }
        }
    }
}

/// Text from elsewhere, kept to one line of bounded length.
pub(super) struct OneLine<'a>(pub(super) &'a str);

impl fmt::Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;

        let mut characters = self.0.chars();
        for c in characters.by_ref().take(REASON_LIMIT) {
            f.write_char(if c.is_control() { ' ' } else { c })?;
        }
        if characters.next().is_some() {
            f.write_char('…')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(names: &[&str], total: usize) -> String {
        let pending = names.iter().map(|n| BackendName::new(n).unwrap()).collect();
        Missing::Backends { pending, total }.to_string()
    }

    #[test]
    fn what_is_missing_is_said_in_one_line() {
        let hostile = Missing::Haproxy {
            reason: "answered:\r\n> \u{1b}[2J".to_owned(),
        };
        assert_eq!(
            hostile.to_string(),
            "haproxy: not connected: answered:  >  [2J"
        );
        let long = Missing::Catalog {
            reason: "x".repeat(400),
        };
        assert_eq!(
            long.to_string(),
            format!("nomad: no list was accepted yet: {}…", "x".repeat(300))
        );
    }

    #[test]
    fn pending_backends_are_counted_and_the_first_ten_named() {
        assert_eq!(
            backends(&["web"], 1),
            "1 of 1 backend is not applied yet: web"
        );
        assert_eq!(
            backends(&["api", "web"], 40),
            "2 of 40 backends are not applied yet: api, web"
        );
        let pending = vec![BackendName::new("api").unwrap()];
        let checks = Missing::Checks { pending, total: 40 };
        assert_eq!(
            checks.to_string(),
            "1 of 40 backends is not checked by HAProxy yet: api"
        );
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
        assert_eq!(
            backends(&names, 40),
            "12 of 40 backends are not applied yet: a, b, c, d, e, f, g, h, i, j, …"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "only a starting point")]
    fn thirty_seconds_of_silence_are_still_alive_and_more_are_not() {
        let start = Instant::now();
        let status = Status::starting(start);
        assert_eq!(status.silent_for(start + Duration::from_secs(30)), None);
        assert_eq!(
            status.silent_for(start + Duration::from_secs(31)),
            Some(Duration::from_secs(31))
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "only a starting point")]
    fn the_catalog_ages_from_the_start_until_it_is_known() {
        let start = Instant::now();
        let later = start + Duration::from_mins(1);
        let mut status = Status::starting(start);
        assert_eq!(status.catalog_age(later), Duration::from_mins(1));
        status.catalog_at = Some(start + Duration::from_secs(50));
        assert_eq!(status.catalog_age(later), Duration::from_secs(10));
    }
}
