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
                let best = states.by_address.entry(address).or_insert(state);
                if rank(state) < rank(best) {
                    *best = state;
                }
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

    /// The row of a desired server, if it has one that is not free. Of several slots with its address, one by which it is
    /// given traffic.
    pub(super) fn of(&self, desired: &DesiredServer) -> Option<&'a ServerState> {
        match self.kind {
            Kind::Slots => self.by_address.get(&desired.address).copied(),
            Kind::Dynamic => self.by_name.get(&desired.name).copied(),
        }
    }
}

/// Of slots with one address: in rotation before ready before in drain.
fn rank(state: &ServerState) -> (bool, bool) {
    (!state.in_rotation(), !state.admin.is_ready())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{AdminState, OperState},
        reconcile::plan_tests::{instance, template},
    };

    #[test]
    fn of_slots_that_share_an_address_the_one_in_rotation_counts_wherever_it_is() {
        let policy = Policy::default();
        let desired = instance(1, &[]);
        let (up, down, drained, free) = ((4, 2), (4, 0), (12, 2), (5, 0));
        for (slots, best) in [
            ([up, drained], up),
            ([drained, up], up),
            ([down, up], up),
            ([up, down], up),
            ([drained, down], down),
            ([free, drained], drained),
            ([drained, free], drained),
        ] {
            let mut observed = template(2);
            for (state, (admin, oper)) in observed.servers.iter_mut().zip(slots) {
                (state.ip, state.port) = (Some(desired.address.ip), desired.address.port.get());
                state.admin = AdminState(admin);
                state.oper = if oper == 2 {
                    OperState::Running
                } else {
                    OperState::Stopped
                };
            }
            let states = States::new(&observed, Kind::Slots, &policy);
            let found = states.of(&desired).unwrap();
            let is_up = u8::from(found.is_up()) * 2;
            assert_eq!((found.admin.0, is_up), best, "{slots:?}");
        }
    }
}
