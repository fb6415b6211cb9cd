//! What a server-state file has to say, so that HAProxy comes back from a reload with its slots filled. No file here: the
//! shell writes what is wanted.
//!
//! HAProxy takes up the lines of `show servers state` as they are (management guide, "show servers state"), and that is what
//! is written, for what they say of TLS or of the port of checks is restored, too. On 2.6 to 3.4 alike: address, port,
//! weight, maintenance and drain come back; `maxconn` does not; and a slot that is ready comes back UP even when it was
//! DOWN, since leaving the `disabled` of its line does that. So only slots in rotation have a line, those in drain while
//! they are UP, and those that an operator put into maintenance. The others come back empty, and pass their checks first.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    mem,
    sync::Arc,
    time::Duration,
};

use super::{
    Policy,
    facts::{Fact, Restoring},
    plan::ObservedBackend,
    reconciler::{Mode, Output},
    removal::PLACEHOLDER,
    slots,
};
use crate::model::{BackendName, ServerState};

/// HAProxy reads lines by their columns' places; this one is for people.
const HEAD: &str = "1\n\
    # be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight \
    srv_time_since_last_change srv_check_status srv_check_result srv_check_health srv_check_state srv_agent_state \
    bk_f_forced_id srv_f_forced_id srv_fqdn srv_port srvrecord srv_use_ssl srv_check_port srv_check_addr \
    srv_agent_addr srv_agent_port\n";
/// Addresses outlive their owners: a HAProxy that was away for so long is not to have them back.
const GONE: Duration = Duration::from_secs(10);
/// How often the file is marked as current. Whoever starts HAProxy can tell one that nobody keeps.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// What is to become of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateFile {
    /// It consists of these texts.
    Write(Arc<[Arc<str>]>),
    /// It is right as it is, at this time.
    Keep,
    /// There is to be none.
    Remove,
}

/// Follows what was observed.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    is_wanted: bool,
    parts: BTreeMap<BackendName, Part>,
    /// The backends with slots that HAProxy would not restore.
    literal: BTreeSet<BackendName>,
    /// Other lines than those that were asked for.
    is_changed: bool,
    asked: Asked,
    kept_at: Duration,
    haproxy: Presence,
    /// So many lines were there for a HAProxy that has come up and was not read yet.
    offered: usize,
}

/// The lines of one backend.
#[derive(Debug)]
struct Part {
    text: Arc<str>,
    lines: usize,
    /// Of what is restored.
    hash: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    Nothing,
    File,
    NoFile,
}

#[derive(Debug, Default)]
enum Presence {
    /// Nobody has told yet.
    #[default]
    Unknown,
    There,
    GoneSince(Duration),
}

impl Keeper {
    pub(super) fn want(&mut self) {
        self.is_wanted = true;
    }

    /// The backends whose slots no file brings back.
    pub(super) fn literal(&self) -> usize {
        self.literal.len()
    }

    /// Another process is there.
    pub(super) fn restarted(&mut self) {
        if self.asked == Asked::File {
            self.offered = self.lines();
        }
    }

    /// A backend that is followed was read. Returns what is new about it.
    pub(super) fn observe(
        &mut self,
        name: &BackendName,
        observed: &ObservedBackend,
        policy: &Policy,
    ) -> Option<Fact> {
        if !self.is_wanted {
            return None;
        }
        let is_slot = |state: &&ServerState| slots::number(state, policy).is_some();
        let slots = || observed.servers.iter().filter(is_slot);
        let lines = || slots().filter(|state| is_restored_right(state));
        let mut hasher = DefaultHasher::new();
        for state in lines() {
            let ServerState {
                name,
                ip,
                port,
                admin,
                weight,
                initial_weight,
                agent,
                ..
            } = state;
            let has_agent = agent.is_enabled();
            (name, ip, port, admin.0, weight, initial_weight, has_agent).hash(&mut hasher);
        }
        let hash = hasher.finish();
        if self.parts.get(name).is_none_or(|part| part.hash != hash) {
            let lines: Vec<_> = lines().filter_map(|state| state.line.as_deref()).collect();
            self.is_changed |= self.parts.contains_key(name) || !lines.is_empty();
            let text = lines.iter().flat_map(|line| [line, "\n"]);
            let part = Part {
                text: text.collect::<String>().into(),
                lines: lines.len(),
                hash,
            };
            self.parts.insert(name.clone(), part);
        }
        let is_literal = slots().any(|state| state.line.is_none());
        if is_literal && self.literal.insert(name.clone()) {
            return Some(Fact::Restoring(Restoring::NotPossible(name.clone())));
        }
        if !is_literal && self.literal.remove(name) {
            return Some(Fact::Restoring(Restoring::Possible(name.clone())));
        }
        None
    }

    /// What is to be done and told now. `is_current`: HAProxy's servers are known.
    pub(super) fn review(
        &mut self,
        now: Duration,
        mode: Mode,
        is_connected: bool,
        is_current: bool,
    ) -> Option<Output> {
        match (&self.haproxy, is_connected) {
            (_, true) => self.haproxy = Presence::There,
            (Presence::Unknown | Presence::There, false) => {
                self.haproxy = Presence::GoneSince(now);
            }
            (Presence::GoneSince(_), false) => {}
        }
        if !self.is_wanted || mode != Mode::Act {
            // The file is another one's meanwhile, or nobody's.
            self.asked = Asked::Nothing;
            return None;
        }
        if is_current {
            if mem::take(&mut self.offered) > 0 && self.lines() == 0 {
                return Some(Output::Tell(Fact::Restoring(Restoring::NotDone)));
            }
            if mem::take(&mut self.is_changed) || self.asked != Asked::File {
                (self.asked, self.kept_at) = (Asked::File, now);
                let parts = self.parts.values().map(|part| Arc::clone(&part.text));
                let texts = [Arc::from(HEAD)].into_iter().chain(parts).collect();
                return Some(Output::StateFile(StateFile::Write(texts)));
            }
            if now.saturating_sub(self.kept_at) >= KEEP_EVERY {
                self.kept_at = now;
                return Some(Output::StateFile(StateFile::Keep));
            }
        }
        if self.removal_due().is_some_and(|at| at <= now) {
            self.asked = Asked::NoFile;
            return Some(Output::StateFile(StateFile::Remove));
        }
        None
    }

    /// When [`Self::review`] has something to do by the passing of time.
    pub(super) fn next_timeout(&self, mode: Mode) -> Option<Duration> {
        if !self.is_wanted || mode != Mode::Act {
            return None;
        }
        match self.haproxy {
            Presence::Unknown => Some(Duration::ZERO),
            Presence::There | Presence::GoneSince(_) => self.removal_due(),
        }
    }

    fn removal_due(&self) -> Option<Duration> {
        match self.haproxy {
            Presence::GoneSince(since) if self.asked != Asked::NoFile => Some(since + GONE),
            Presence::GoneSince(_) | Presence::Unknown | Presence::There => None,
        }
    }

    fn lines(&self) -> usize {
        self.parts.values().map(|part| part.lines).sum()
    }
}

/// Whether HAProxy would make of the line of this slot what it is.
fn is_restored_right(state: &ServerState) -> bool {
    let has_owner = state.address().is_some_and(|at| at != PLACEHOLDER);
    let is_operators = state.admin.in_maintenance() && state.weight != 0;
    has_owner && state.line.is_some() && (state.is_up() || is_operators)
}
