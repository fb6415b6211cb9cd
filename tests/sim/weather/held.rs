//! Blocking queries, as Nomad holds them: until the watch of that name, namespace or table fires, or the wait is over.
//!
//! When the table's index is beyond the one asked for already, because of any service, the answer comes at once. A restore
//! wakes nobody; the answer after the wait then has a lower index. Source: nomad/rpc.go `blockingRPC`, runs of 2.0.5.

use std::time::Duration;

use haproxy_nomad_sidecar::{
    catalog::{Ask, FailureKind, Heard, Ticket},
    model::ServiceKey,
};

use crate::weather::{
    kind::{Kind, Moment},
    plan::Fault,
    server::failed,
    world::{Happening, Luck, Weather, ticket_of},
};

/// What the client asks for, to which the server adds up to a sixteenth.
const WAIT: Duration = Duration::from_mins(1);
/// The client waits no longer: `WAIT` and a sixteenth, and 15 s.
const DEADLINE: Duration = Duration::from_millis(78_750);

#[derive(Clone)]
pub(crate) struct Held {
    ask: Ask,
    ordinal: u64,
    until: Duration,
    /// Nothing wakes it, and nothing answers it.
    forgotten: bool,
}

impl Held {
    fn is_woken_by(&self, key: &ServiceKey) -> bool {
        let watches = match &self.ask {
            Ask::List { namespace, .. } => **namespace == *"*" || *namespace == key.namespace,
            Ask::Read { key: of, .. } => of == key,
            Ask::OpenStream { .. } | Ask::Cancel { .. } => false,
        };
        watches && !self.forgotten
    }
}

impl Weather {
    /// Whether this is a blocking query that Nomad has nothing new for.
    pub(crate) fn is_held(&self, ask: &Ask) -> bool {
        let (Ask::List { after, .. } | Ask::Read { after, .. }) = ask else {
            return false;
        };
        after.is_some_and(|after| self.nomad.table_index() <= after)
    }

    pub(crate) fn hold_query(&mut self, ordinal: u64, ask: Ask) {
        let jitter = Duration::from_millis(self.plan.chance(4, ordinal) % 3_750);
        let ticket = ticket_of(&ask);
        let until = self.now + WAIT + jitter;
        let held = Held {
            ask,
            ordinal,
            until,
            forgotten: false,
        };
        self.held.insert(ticket, held);
        self.at(until, Happening::Released(ticket));
        if let Some(fault) = self.air.take(&[Moment::Held]) {
            let early = Duration::from_millis(fault.dice % 10_000);
            self.after(early, Happening::StruckWhileHeld(ticket, fault));
        }
    }

    pub(crate) fn strike_held(&mut self, ticket: Ticket, fault: Fault) {
        let kind = match fault.kind {
            Kind::HeldEarly => return self.release(ticket),
            Kind::HeldForEver => {
                let until = self.now + DEADLINE;
                if let Some(held) = self.held.get_mut(&ticket) {
                    (held.forgotten, held.until) = (true, until);
                }
                return self.at(until, Happening::Released(ticket));
            }
            Kind::HeldCut => FailureKind::ServerError,
            Kind::HeldFalseEmpty => FailureKind::NotBelievable,
            kind => panic!("{kind:?} does not strike what is held"),
        };
        if let Some(held) = self.held.remove(&ticket) {
            self.answer_held(ticket, &held, failed(&held.ask, kind));
        }
    }

    pub(crate) fn wait_is_over(&mut self, ticket: Ticket) {
        if self
            .held
            .get(&ticket)
            .is_some_and(|held| held.until <= self.now)
        {
            self.release(ticket);
        }
    }

    fn release(&mut self, ticket: Ticket) {
        let Some(held) = self.held.remove(&ticket) else {
            return;
        };
        let heard = if held.forgotten {
            failed(&held.ask, FailureKind::Timeout)
        } else {
            self.answer(held.ordinal, &held.ask, Luck::Fair)
        };
        self.answer_held(ticket, &held, heard);
    }

    fn answer_held(&mut self, ticket: Ticket, held: &Held, heard: Heard) {
        let latency = self.latency(5, held.ordinal);
        let waits = self.air.frozen.saturating_sub(self.now);
        self.after(waits + latency, Happening::Answer(ticket, heard));
    }

    /// After every change: the queries that watch what has changed are answered.
    pub(crate) fn wake_queries(&mut self) {
        for key in self.nomad.take_touched() {
            let woken: Vec<Ticket> = self
                .held
                .iter()
                .filter(|(_, held)| held.is_woken_by(&key))
                .map(|(ticket, _)| *ticket)
                .collect();
            for ticket in woken {
                let held = self.held.remove(&ticket).unwrap();
                let heard = self.answer(held.ordinal, &held.ask, Luck::Fair);
                self.answer_held(ticket, &held, heard);
            }
        }
    }

    /// Their server, or the agent, is gone.
    pub(crate) fn lose_held(&mut self, kind: FailureKind) {
        for (ticket, held) in std::mem::take(&mut self.held) {
            let heard = failed(&held.ask, kind);
            let latency = self.latency(5, held.ordinal);
            self.after(latency, Happening::Answer(ticket, heard));
        }
    }
}
