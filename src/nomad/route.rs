//! Which of Nomad's endpoints is asked: the one that answered last, for everything that asks, streams included.
//!
//! A request that an endpoint fails to answer is tried at the others in turn. The endpoint that answers is asked first from
//! then on; while none does, nothing moves, so a request that fails everywhere makes nobody go to and fro.

use std::{error::Error as StdError, fmt, future::pending, sync::Arc};

use tokio::sync::{Semaphore, watch};

use crate::nomad::{
    chain::chain,
    settings::{Endpoint, Settings},
    traffic::Traffic,
    transport::{Dial, Dialler},
};

/// One Nomad: its endpoints, how they are dialled, and what is counted of it. Shared by all clients.
pub struct Route {
    pub(super) settings: Arc<Settings>,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) traffic: Arc<Traffic>,
    /// The right to read a large answer: memory is for one of them.
    pub(super) large_answers: Semaphore,
    first: watch::Sender<First>,
}

/// Which endpoint is asked first.
#[derive(Clone, Debug)]
struct First {
    place: usize,
    /// Why the one before it was left.
    reason: String,
}

impl Route {
    /// A route to the endpoints of `settings`, over real connections.
    #[must_use]
    pub fn new(settings: Arc<Settings>, traffic: Arc<Traffic>) -> Arc<Self> {
        Self::with_dial(settings, Arc::new(Dialler), traffic)
    }

    /// A route whose connections `dial` makes.
    #[must_use]
    pub fn with_dial(
        settings: Arc<Settings>,
        dial: Arc<dyn Dial>,
        traffic: Arc<Traffic>,
    ) -> Arc<Self> {
        let first = First {
            place: 0,
            reason: String::new(),
        };
        Arc::new(Self {
            settings,
            dial,
            traffic,
            large_answers: Semaphore::new(1),
            first: watch::Sender::new(first),
        })
    }

    /// The endpoint that is asked first now, and why the one before it was left; empty if none was.
    #[must_use]
    pub fn endpoint(&self) -> (Endpoint, String) {
        let first = self.first.borrow();
        (self.at(first.place).clone(), first.reason.clone())
    }

    /// What was asked and what came, on this route and on all that share its counters.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub(super) fn at(&self, place: usize) -> &Endpoint {
        self.settings.endpoints.at(place)
    }

    /// A request's way through the endpoints, at the one that is asked first.
    pub(super) fn turn<E: StdError>(&self) -> Turn<'_, E> {
        let first = self.first.borrow().place;
        Turn {
            route: self,
            first,
            place: first,
            before: Vec::new(),
        }
    }

    /// Tells when the endpoint at `place` is left for another.
    pub(super) fn until_left(&self, place: usize) -> Left {
        Left {
            place,
            first: self.first.subscribe(),
        }
    }
}

/// The endpoints that one request has come to.
pub(super) struct Turn<'a, E> {
    route: &'a Route,
    first: usize,
    /// Of the endpoint that is asked now.
    pub(super) place: usize,
    before: Vec<(Endpoint, E)>,
}

impl<E: StdError> Turn<'_, E> {
    /// This endpoint answered what others could not, beginning with the one that was asked first. If that is no longer the
    /// first, another request has found out the same.
    pub(super) fn answered(&self) {
        let Some((left, error)) = self.before.first() else {
            return;
        };
        self.route.first.send_if_modified(|first| {
            let moves = self.route.at(first.place) == left;
            if moves {
                first.place = self.place;
                first.reason = format!("{left}: {}", chain(error));
            }
            moves
        });
    }

    /// Goes on to the next endpoint, if that may do better and there is one that was not asked.
    #[expect(
        clippy::result_large_err,
        reason = "made once, when a request has failed"
    )]
    pub(super) fn failed(mut self, error: E, may_go_on: bool) -> Result<Self, Failed<E>> {
        let endpoint = self.route.at(self.place).clone();
        let next = (self.place + 1) % self.route.settings.endpoints.iter().len();
        if next == self.first || !may_go_on {
            return Err(Failed {
                before: self.before,
                endpoint,
                error,
            });
        }
        self.before.push((endpoint, error));
        self.place = next;
        Ok(self)
    }
}

/// Waits for an endpoint to be left.
pub(super) struct Left {
    place: usize,
    first: watch::Receiver<First>,
}

impl Left {
    /// Returns when another endpoint is asked from now on.
    pub(super) async fn wait(&mut self) {
        while self.first.changed().await.is_ok() {
            if self.first.borrow().place != self.place {
                return;
            }
        }
        pending::<()>().await;
    }
}

/// No endpoint answered: what became of each that was asked, in that order.
#[derive(Debug)]
pub struct Failed<E> {
    /// Those after which another was asked.
    pub(super) before: Vec<(Endpoint, E)>,
    /// The one after which no other was.
    pub(super) endpoint: Endpoint,
    pub(super) error: E,
}

impl<E> Failed<E> {
    /// The error that settled it: that of the endpoint that was asked last.
    #[must_use]
    pub const fn last(&self) -> &E {
        &self.error
    }

    /// The same, alone.
    #[must_use]
    pub fn into_last(self) -> E {
        self.error
    }

    /// Every endpoint that was asked, with its error.
    pub fn each(&self) -> impl Iterator<Item = (&Endpoint, &E)> {
        let before = self
            .before
            .iter()
            .map(|(endpoint, error)| (endpoint, error));
        before.chain([(&self.endpoint, &self.error)])
    }
}

impl<E: StdError> fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (endpoint, error)) in self.each().enumerate() {
            let separator = if place == 0 { "" } else { "; " };
            write!(f, "{separator}nomad at {endpoint}: {}", chain(error))?;
        }
        Ok(())
    }
}

impl<E: StdError> StdError for Failed<E> {}
