//! What an operator did by hand to a server that is the sidecar's, and how that is told from what the sidecar does itself.
//!
//! In maintenance or in drain the sidecar's own servers have weight 0, or a check that is not enabled yet; an operator's have
//! neither. A weight is an operator's when it is none that the sidecar has set or found: a sidecar that has just started takes
//! the weight of the configuration line, that of the tags, and 0, on which its predecessor may have died, for its own.

use std::{collections::BTreeMap, sync::Arc};

use crate::model::{BackendName, ServerName, ServerState};

use super::plan::{Memory, Plan, Situation};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hand {
    /// `state maint`
    Maintenance,
    /// `state drain`
    Drain,
    /// `weight …`
    Weight {
        /// The weight that it has.
        has: u16,
        /// The one that its tags, or the configuration, ask for.
        asked: u16,
    },
}

/// A server that stays as an operator left it, until that is undone or its registration ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByHand {
    /// The registration that wants the server.
    pub registration: Arc<str>,
    /// The server.
    pub server: ServerName,
    /// What was done.
    pub hand: Hand,
    /// Its tags have changed: the server that would take its place does not come in before that is undone.
    pub is_outdated: bool,
}

impl ByHand {
    /// For people: what, that it stays, and the command that undoes it.
    #[must_use]
    pub fn describe(&self, backend: &BackendName) -> String {
        let server = &self.server;
        let (what, undo) = match self.hand {
            Hand::Maintenance => (
                "was put into maintenance and stays there".to_owned(),
                "state ready".to_owned(),
            ),
            Hand::Drain => (
                "was set to drain and goes on draining".to_owned(),
                "state ready".to_owned(),
            ),
            Hand::Weight { has, asked } => (
                format!("was given weight {has} and keeps it, instead of {asked}"),
                format!("weight {asked}"),
            ),
        };
        let outdated = if self.is_outdated {
            ", and keeps its former tags"
        } else {
            ""
        };
        format!(
            "server {server} {what}{outdated}; undo it with `set server {backend}/{server} {undo}`"
        )
    }
}

/// The servers that are as an operator left them, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandsCount {
    /// In maintenance.
    pub maintenance: usize,
    /// In drain.
    pub drain: usize,
    /// With another weight.
    pub weight: usize,
}

impl HandsCount {
    pub(super) fn add(&mut self, hand: Hand) {
        match hand {
            Hand::Maintenance => self.maintenance += 1,
            Hand::Drain => self.drain += 1,
            Hand::Weight { .. } => self.weight += 1,
        }
    }
}

/// What is known of whose a server's weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// The last one of the sidecar's that was seen.
    seen: u16,
    /// The last one that it sent, which HAProxy may not have got.
    sent: u16,
    /// What the server has now is neither.
    pub(super) is_by_hand: bool,
}

impl Weight {
    fn new(weight: u16) -> Self {
        Self {
            seen: weight,
            sent: weight,
            is_by_hand: false,
        }
    }

    /// The one that a server had which another sidecar knew to be an operator's; of its own it may be `initial`.
    pub(super) fn left_by_hand(initial: u16) -> Self {
        Self {
            is_by_hand: true,
            ..Self::new(initial)
        }
    }

    /// Takes in what the server has.
    pub(super) fn see(
        weights: &mut BTreeMap<ServerName, Self>,
        name: &ServerName,
        of: &ServerState,
    ) {
        let Some(known) = weights.get_mut(name) else {
            let ours = if of.weight == 0 { 0 } else { of.initial_weight };
            let is_by_hand = of.weight != ours;
            let new = Self {
                is_by_hand,
                ..Self::new(ours)
            };
            weights.insert(name.clone(), new);
            return;
        };
        if of.weight == known.sent {
            *known = Self::new(known.sent);
        } else if of.weight == known.seen {
            known.is_by_hand = false;
        } else if known.is_by_hand && of.weight == of.initial_weight {
            // `weight 100%`
            *known = Self::new(of.weight);
        } else {
            known.is_by_hand = true;
        }
    }

    /// Remembers what is being sent.
    pub(super) fn send(weights: &mut BTreeMap<ServerName, Self>, name: &ServerName, weight: u16) {
        // One that was not looked at is in maintenance, where ours have weight 0.
        let known = weights.entry(name.clone()).or_insert(Self::new(0));
        known.sent = weight;
    }

    /// What the server has is what its tags asked for, whoever has set it.
    pub(super) fn settle(&mut self, weight: u16) {
        *self = Self::new(weight);
    }
}

impl Memory {
    /// Whether it was seen ready, and nothing was sent since that would take it out: then somebody else did.
    pub(super) fn was_taken_out_by_hand(&self, name: &ServerName) -> bool {
        self.seen_ready.contains(name) && !self.taken_out.contains(name)
    }

    /// Another sidecar was in charge: what was done since something was seen, and who was let to a slot, it may have done; and
    /// what was in rotation when HAProxy restarted, it knew better.
    pub(super) fn forget_deeds(&mut self) {
        self.seen_ready.clear();
        self.taken_out.clear();
        self.drains.clear();
        self.weights.clear();
        self.tenants.clear();
        self.put_back.clear();
    }

    fn has_weight_by_hand(&self, name: &ServerName) -> bool {
        self.weights
            .get(name)
            .is_some_and(|weight| weight.is_by_hand)
    }
}

/// Session counters that were not read.
pub(super) struct Unread;

/// What an operator did to a server whose tags ask for weight `asked`. [`Unread`] while that depends on session counters;
/// they are asked for.
pub(super) fn hand(
    name: &ServerName,
    state: &ServerState,
    asked: u16,
    situation: &Situation<'_>,
    plan: &mut Plan,
) -> Result<Option<Hand>, Unread> {
    let memory = situation.memory;
    let is_slot = state.admin.is_config_disabled();
    let is_on_its_way = !is_slot && state.check.is_configured() && !state.check.is_enabled();
    if is_on_its_way {
        return Ok(None);
    }
    if state.admin.is_ready() {
        let is_by_hand = state.weight != asked && memory.has_weight_by_hand(name);
        let weight = Hand::Weight {
            has: state.weight,
            asked,
        };
        return Ok(is_by_hand.then_some(weight));
    }
    let hand = if state.admin.in_maintenance() {
        Hand::Maintenance
    } else {
        Hand::Drain
    };
    if memory.was_taken_out_by_hand(name) {
        return Ok(Some(hand));
    }
    // Weight 0 is ours, unless the tags ask for it: then it tells nothing. A slot is on its way in in maintenance.
    let is_told_by_weight = asked != 0 || is_slot || hand == Hand::Drain;
    if state.weight == 0 && (is_told_by_weight || memory.taken_out.contains(name)) {
        return Ok(None);
    }
    if is_slot || hand == Hand::Drain || state.check.is_enabled() {
        return Ok(Some(hand));
    }
    // Without a check nothing else tells one that was just added from one that served.
    let Some(stat) = situation.observed.stat_of(name) else {
        plan.wants_stat = true;
        return Err(Unread);
    };
    Ok((stat.total_sessions > 0).then_some(hand))
}
