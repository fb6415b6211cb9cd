//! What a backend remembers of refusals.

use super::*;
use crate::model::ServerRef;

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
