//! What HAProxy reports of the sidecar's own servers in one backend, to be found by what identifies them.

use std::collections::BTreeMap;

use super::{
    Policy,
    desired::DesiredServer,
    plan::{self, Kind, ObservedBackend},
};
use crate::model::{Address, ServerName, ServerState};

/// Rows of `show servers state` of servers that are the sidecar's, by what identifies them in their kind of backend.
#[derive(Default)]
pub(super) struct States<'a> {
    kind: Kind,
    by_name: BTreeMap<&'a ServerName, &'a ServerState>,
    by_address: BTreeMap<Address, &'a ServerState>,
}

impl<'a> States<'a> {
    pub(super) fn new(observed: &'a ObservedBackend, kind: Kind, policy: &Policy) -> Self {
        let mut states = Self {
            kind,
            ..Self::default()
        };
        for state in &observed.servers {
            if !plan::is_owned(state, kind, policy) {
                continue;
            }
            if let Some(name) = &state.name {
                states.by_name.insert(name, state);
            }
            if let Some(address) = state.address().filter(|_| !state.admin.in_maintenance()) {
                states.by_address.insert(address, state);
            }
        }
        states
    }

    /// All of them that have a name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &'a ServerState> {
        self.by_name.values().copied()
    }

    /// The row of the server with this name.
    pub(super) fn named(&self, name: &ServerName) -> Option<&'a ServerState> {
        self.by_name.get(name).copied()
    }

    /// The row of a desired server, if it has one that is not free.
    pub(super) fn of(&self, desired: &DesiredServer) -> Option<&'a ServerState> {
        match self.kind {
            Kind::Slots => self.by_address.get(&desired.address).copied(),
            Kind::Dynamic => self.by_name.get(&desired.name).copied(),
        }
    }
}
