//! What is known to be by an operator's hand, kept for a successor. A sidecar without a memory takes weight 0, and with it
//! drain and maintenance, for its predecessor's and undoes them.
//!
//! It is a hint: it decides of a server only while that one is in the same process, and just as it was left.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

use super::{Mode, Output, Reconciler};
use crate::{
    model::{Address, AdminState, BackendName, ProcessInfo, ServerName},
    reconcile::{
        backend::Backend,
        hands::Weight,
        plan::{Memory, ObservedBackend, Plan},
    },
};

/// The servers of one HAProxy process that are as an operator left them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hands {
    /// The process: its number.
    pub pid: u64,
    /// When it was started, in seconds since the epoch.
    pub start_time: u64,
    /// The servers.
    pub servers: BTreeMap<BackendName, BTreeSet<LeftServer>>,
}

/// A server as an operator left it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeftServer {
    /// Its name.
    pub name: ServerName,
    /// Whose it is: in a slot that has another address by now, nobody did anything.
    pub address: Address,
    /// Its administrative state.
    pub admin: AdminState,
    /// Its weight.
    pub weight: u16,
}

/// What is known, by a predecessor of backends that were not planned for yet.
#[derive(Default)]
pub(super) struct Recalled {
    hands: Hands,
    /// What was known of backends when the process was connected, until they are observed.
    unseen: BTreeMap<BackendName, BTreeSet<LeftServer>>,
    /// What the shell keeps is another.
    is_changed: bool,
}

impl Reconciler {
    /// Takes in what a predecessor knew.
    pub(super) fn recall(&mut self, hands: Hands) {
        self.recalled.hands = hands;
    }

    /// Remembers what the plan for a backend leaves by hand.
    pub(super) fn keep_hands(&mut self, name: &BackendName, plan: &Plan) {
        let known = &mut self.recalled.hands.servers;
        // What another one in charge does looks like an operator's hand.
        let is_concerned = !plan.by_hand.is_empty() || known.contains_key(name);
        if self.mode != Mode::Act || !is_concerned {
            return;
        }
        let observed = self.backends.get(name).and_then(|it| it.observed.as_ref());
        let rows = observed.into_iter().flat_map(|observed| &observed.servers);
        let left: BTreeSet<_> = rows
            .filter_map(|row| {
                let name = row.name.as_ref()?;
                Some(LeftServer {
                    name: plan.stays_by_hand(name).then(|| name.clone())?,
                    address: row.address()?,
                    admin: row.admin,
                    weight: row.weight,
                })
            })
            .collect();
        let is_same = known.get(name).unwrap_or(&BTreeSet::new()) == &left;
        if left.is_empty() {
            known.remove(name);
        } else if !is_same {
            known.insert(name.clone(), left);
        }
        self.recalled.is_changed |= !is_same;
        // Before what follows from it is sent.
        self.tell_hands();
    }

    /// Lets a successor know what has changed.
    pub(super) fn tell_hands(&mut self) {
        let is_current = self.process.as_ref().is_some_and(|process| process.swept);
        if self.mode == Mode::Act && is_current && mem::take(&mut self.recalled.is_changed) {
            let hands = self.recalled.hands.clone();
            self.outputs.push_back(Output::Hands(hands));
        }
    }
}

impl Recalled {
    /// A process is connected. Of another one nothing is believed.
    pub(super) fn begin(&mut self, process: &ProcessInfo) {
        let (pid, start_time) = (process.pid, process.start_time);
        if (self.hands.pid, self.hands.start_time) != (pid, start_time) {
            self.hands = Hands {
                pid,
                start_time,
                servers: BTreeMap::new(),
            };
        }
        self.unseen.clone_from(&self.hands.servers);
        self.is_changed = true;
    }

    /// Lets a backend that is about to be observed for the first time know what was known of it.
    pub(super) fn remind(
        &mut self,
        name: &BackendName,
        backend: &mut Backend,
        of: &ObservedBackend,
    ) {
        if let Some(known) = self.unseen.remove(name) {
            backend.memory.recall(&known, of);
        }
    }
}

impl Memory {
    /// Those of `known` that are as they were left were seen in service, and taken out by somebody else.
    fn recall(&mut self, known: &BTreeSet<LeftServer>, observed: &ObservedBackend) {
        for row in &observed.servers {
            let is_it = |left: &&LeftServer| {
                Some(&left.name) == row.name.as_ref()
                    && Some(left.address) == row.address()
                    && (left.admin, left.weight) == (row.admin, row.weight)
            };
            let Some(left) = known.iter().find(is_it) else {
                continue;
            };
            let weight = Weight::left_by_hand(row.initial_weight);
            self.weights.insert(left.name.clone(), weight);
            if !row.admin.is_ready() {
                self.seen_ready.insert(left.name.clone());
            }
        }
    }
}
