//! What HAProxy says to the commands of a backend's batch, and what is left alone for a while because of it.

use std::time::Duration;

use super::Backend;
use crate::{
    model::{Command, Outcome, ServerRef, SplitMix64},
    reconcile::made::Origin,
};

/// After so many tries, some six seconds, something that HAProxy puts off is shown.
const LASTING: u32 = 6;

impl Backend {
    /// Takes in what HAProxy said to command `number` of the batch. A server that it refuses is left alone for a while.
    pub(in crate::reconcile) fn answered(
        &mut self,
        now: Duration,
        number: usize,
        command: &Command,
        outcome: &Outcome,
        random: &mut SplitMix64,
    ) {
        let text = match outcome {
            Outcome::Done | Outcome::Notice(_) => {
                if let Some(why) = self.reasons.get(number) {
                    *self.accepted.entry(*why).or_default() += 1;
                }
                if command.server().is_none() {
                    let remark = match outcome {
                        Outcome::Notice(text) => Some(text.as_str()),
                        Outcome::Done | Outcome::RetryLater(_) | Outcome::Refused(_) => None,
                    };
                    self.memory.life.changed(command, remark);
                }
                return;
            }
            Outcome::Refused(_) if matches!(command, Command::SetWeight(..)) => {
                self.memory.static_weights = true;
                return;
            }
            Outcome::RetryLater(text) | Outcome::Refused(text) => text,
        };
        if self.lacks_its_backend(command) {
            return;
        }
        let mut delay = self.refusals.next_delay(random);
        if matches!(outcome, Outcome::Refused(_)) {
            delay = delay.max(Duration::from_secs(5));
        }
        let Some(ServerRef { server, .. }) = command.server() else {
            let refused = &mut self.memory.life.refused;
            // What follows from the first refusal says less than it.
            if refused.as_ref().is_none_or(|(until, _)| *until <= now) {
                *refused = Some((now + delay, text.clone()));
            }
            return;
        };
        self.memory.sent.remove(server);
        // Requests may still be on their last try there: that is nobody's concern before it lasts.
        let is_ordinary = matches!(
            (command, outcome),
            (Command::DeleteServer(_), Outcome::RetryLater(_))
        ) && self.refusals.tries() < LASTING;
        let text = if is_ordinary { "" } else { text.as_str() };
        // What follows from the first refusal, such as "No such server.", says less than it, and may pass sooner.
        self.memory
            .suspended
            .entry(server.clone())
            .or_insert_with(|| (now + delay, text.to_owned()));
    }

    /// Whether a command failed only because the one before it, that was to make the backend, was refused.
    fn lacks_its_backend(&self, command: &Command) -> bool {
        let life = &self.memory.life;
        self.origin() == Some(Origin::Missing)
            && life.refused.is_some()
            && !matches!(command, Command::AddBackend(..))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackendName, ServerName};

    #[test]
    fn a_deletion_that_has_to_wait_is_shown_when_it_lasts() {
        let mut backend = Backend::new();
        let server = ServerRef {
            backend: BackendName::new("web").unwrap(),
            server: ServerName::new("nomad-1").unwrap(),
        };
        let text = "Server still has connections attached to it, cannot remove it.";
        let mut said = Vec::new();
        for _ in 0..LASTING {
            let (command, outcome) = (
                Command::DeleteServer(server.clone()),
                Outcome::RetryLater(text.to_owned()),
            );
            backend.memory.suspended.clear();
            let random = &mut SplitMix64::new(0);
            backend.answered(Duration::ZERO, 0, &command, &outcome, random);
            said.push(backend.memory.suspended[&server.server].1.clone());
        }
        let last = said.pop().unwrap();
        assert!(said.iter().all(String::is_empty));
        assert_eq!(last, text);
    }

    #[test]
    fn of_the_refusals_in_a_batch_the_first_one_counts() {
        let mut backend = Backend::new();
        let server = ServerRef {
            backend: BackendName::new("web").unwrap(),
            server: ServerName::new("nomad-1").unwrap(),
        };
        let why = "Backend must use a dynamic load balancing to support dynamic servers.";
        for (command, outcome) in [
            (
                Command::DeleteServer(server.clone()),
                Outcome::Refused(why.to_owned()),
            ),
            (
                Command::Ready(server.clone()),
                Outcome::RetryLater("No such server.".to_owned()),
            ),
        ] {
            backend.answered(
                Duration::ZERO,
                0,
                &command,
                &outcome,
                &mut SplitMix64::new(0),
            );
        }
        assert_eq!(
            backend.memory.suspended[&server.server],
            (Duration::from_secs(5), why.to_owned())
        );
    }
}
