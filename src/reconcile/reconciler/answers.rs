//! What HAProxy said to the batch of one backend: what became of its commands, and how it is now.

use std::time::Duration;

use super::{Output, Reconciler};
use crate::{
    model::{BackendName, Outcome, Request, Response},
    reconcile::{
        facts::Fact,
        made::{Origin, Places},
        plan::ObservedBackend,
    },
};

impl Reconciler {
    /// Takes in what HAProxy said to a batch of one backend.
    pub(super) fn backend_answered(
        &mut self,
        now: Duration,
        name: &BackendName,
        requests: &[Request],
        responses: Vec<Response>,
    ) {
        let Some(backend) = self.backends.get_mut(name) else {
            return;
        };
        let (Some(process), mut nothing) = (&mut self.process, Places::default()) else {
            return;
        };
        let places = process.places.as_mut().unwrap_or(&mut nothing);
        backend.busy = false;
        backend.failures.reset();
        backend.problem = None;
        let mut observed: Option<ObservedBackend> = None;
        let mut vanished = false;
        for (number, (request, response)) in requests.iter().zip(responses).enumerate() {
            match (request, response) {
                (Request::Change(command), Response::Changed(outcome)) => {
                    if let Outcome::Notice(text) = &outcome {
                        self.outputs
                            .push_back(Output::Tell(Fact::Noticed(name.clone(), text.clone())));
                    }
                    if matches!(outcome, Outcome::Done | Outcome::Notice(_)) {
                        places.changed(command);
                    }
                    backend.answered(now, number, command, &outcome, &mut self.random);
                }
                (_, Response::Servers(rows)) => {
                    let observed = observed.insert(ObservedBackend::default());
                    for row in rows {
                        observed.push(row);
                    }
                }
                (_, Response::Stat(stat)) => {
                    if stat.is_running {
                        places.was_read(name, !stat.is_unpublished);
                    }
                    if let Some(observed) = &mut observed {
                        observed.stat = Some(stat);
                    }
                }
                (Request::ServersState(_), Response::NoSuchBackend) => vanished = true,
                (
                    _,
                    Response::Info(_)
                    | Response::Backends(_)
                    | Response::BackendRows(_)
                    | Response::Guids(_)
                    | Response::Verdicts(_)
                    | Response::Map(_)
                    | Response::NoSuchMap
                    | Response::MapVersion(_)
                    | Response::Changed(_)
                    | Response::NoSuchBackend,
                ) => {}
            }
        }
        let origin = places.origin(name);
        let is_missing = origin == Origin::Missing;
        let mut observed = observed.filter(|_| !vanished).unwrap_or_default();
        observed.origin = if vanished { Origin::Missing } else { origin };
        self.recalled.remind(name, backend, &observed);
        self.looks += u64::from(backend.observe(now, now, observed));
        self.newly_observed.insert(name.clone());
        if vanished != is_missing {
            // It was deleted, or made, by somebody else: which backends there are is read again, and with it who resolves
            // where.
            backend.fresh = false;
            process.read_everything_at = now;
        }
    }
}
