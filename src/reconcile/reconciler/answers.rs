//! What HAProxy has answered for one backend.

use std::time::Duration;

use super::{Output, Reconciler};
use crate::{
    model::{BackendName, Outcome, Request, Response},
    reconcile::{facts::Fact, plan::ObservedBackend},
};

impl Reconciler {
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
                    backend.answered(now, number, command, &outcome, &mut self.random);
                }
                (_, Response::Servers(rows)) => {
                    let observed = observed.insert(ObservedBackend::default());
                    for row in rows {
                        observed.push(row);
                    }
                }
                (_, Response::Stat(stat)) => {
                    if let Some(observed) = &mut observed {
                        observed.stat = Some(stat);
                    }
                }
                (Request::ServersState(_), Response::NoSuchBackend) => vanished = true,
                (
                    _,
                    Response::Info(_)
                    | Response::Backends(_)
                    | Response::Cookies(_)
                    | Response::Verdicts(_)
                    | Response::Map(_)
                    | Response::NoSuchMap
                    | Response::MapVersion(_)
                    | Response::Changed(_)
                    | Response::NoSuchBackend,
                ) => {}
            }
        }
        match observed {
            Some(observed) if !vanished => {
                self.recalled.remind(name, backend, &observed);
                backend.observe(now, now, observed);
            }
            Some(_) | None => {
                // It was deleted: which backends there are is read again, and with it who resolves where.
                backend.observe(now, now, ObservedBackend::default());
                backend.fresh = false;
                if let Some(process) = &mut self.process {
                    process.read_everything_at = now;
                }
            }
        }
    }
}
