//! An operator's hand on servers of the sidecar's.

use std::time::Duration;

use crate::{
    haproxy_model::{Model, View},
    laws::{BY_HAND, Deed},
    world::World,
};

/// So long after a restart it is noticed what a state file brought back.
const NOTICED: Duration = Duration::from_secs(3);

impl World {
    /// One that serves a registration, and that nobody has his hand on.
    pub(crate) fn any_in_service(&mut self) -> Option<View> {
        let mut in_service = self.servers();
        in_service.retain(|view| {
            let name = view.dynamic.then_some(&*view.name);
            let owners = self.ledger.owners(&view.backend, view.address, name);
            view.in_rotation
                && view.name.starts_with("nomad")
                && !owners.is_empty()
                && !self.is_held(view)
        });
        self.random.pick(&in_service).cloned()
    }

    /// An operator changes a server that serves.
    pub(crate) fn hold(&mut self, view: &View, deed: Deed) {
        let (backend, server) = (&view.backend, &view.name);
        self.trace(|| format!("the operator: {deed:?} of {backend}/{server}"));
        let now = self.now;
        let Some((_, process)) = self.current() else {
            return;
        };
        // It has served: without a check nothing else tells it from a server that is on its way in.
        process.count_session(backend, server);
        let what = match deed {
            Deed::Maintenance => "state maint",
            Deed::Drain => "state drain",
            Deed::Weight => &format!("weight {BY_HAND}"),
            Deed::WeightZero | Deed::UnsureZero => "weight 0",
        };
        process.execute(now, &format!("set server {backend}/{server} {what}"));
        let server = (backend.clone(), server.clone());
        self.operator.touched.insert(server.clone());
        self.operator.held.insert(server, (deed, now));
    }

    /// The operator undoes it.
    pub(crate) fn release(&mut self, server: &(String, String)) {
        // What a dead process had may come back from a state file.
        if self.current_pid.is_none() {
            return;
        }
        self.trace(|| format!("the operator undoes that of {}/{}", server.0, server.1));
        let deed = self.operator.held.remove(server);
        let now = self.now;
        let view = self
            .current()
            .and_then(|(_, process)| process.server(&server.0, &server.1));
        if let (Some((deed, _)), Some(view)) = (deed, view) {
            let undone = (deed, Some(view.address));
            self.operator.undone.insert(server.clone(), undone);
        }
        if let (Some((deed, _)), Some((_, process))) = (deed, self.current()) {
            let undo = match deed {
                Deed::Maintenance | Deed::Drain => "state ready",
                Deed::Weight | Deed::WeightZero | Deed::UnsureZero => "weight 100%",
            };
            process.execute(now, &format!("set server {}/{} {undo}", server.0, server.1));
        }
    }

    /// There is another process, which may have read what was undone in a state file.
    pub(crate) fn by_hand_again(&mut self, process: &Model) {
        let at = self.now + NOTICED;
        for server in self.operator.process_is_new(process, self.now) {
            self.matrix.undo_at(at, server);
        }
    }

    /// The sidecar sees this process for the first time, or at first: what was done before that it cannot tell.
    pub(crate) fn met(&mut self) {
        let is_in_charge = self.is_in_charge();
        let (Some(sidecar), Some((pid, _))) = (&mut self.sidecar, &self.session.process) else {
            return;
        };
        let has_looked = std::mem::replace(&mut sidecar.has_looked, true);
        let is_same = sidecar.met.replace(*pid) == Some(*pid);
        let since = if is_same {
            sidecar.recalled
        } else {
            Duration::ZERO
        };
        if is_in_charge && !(is_same && has_looked) {
            self.operator.forget_zeros(since);
        }
    }
}
