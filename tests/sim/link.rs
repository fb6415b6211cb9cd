//! What lies between the mirror and Nomad, and everything that can go wrong there. What the product's client refuses to
//! believe (index 0, no leader, another body) comes out as it comes out of that client: as a failure.

use std::{collections::BTreeSet, time::Duration};

use haproxy_nomad_sidecar::{
    catalog::{Ask, Failure, FailureKind, Heard, Line, StreamEnd, Ticket},
    model::NomadEvent,
};

use crate::{
    nomad_model::Batch,
    world::{Event, World},
};

/// How Nomad is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    Up,
    /// Nobody listens.
    Away,
    /// Every answer is this failure.
    Failing(FailureKind),
    /// Connections are taken, answers do not come.
    Hangs,
    /// Lists leave services out; everything else is right.
    ShortLists,
    /// This service cannot be read.
    OneUnreadable,
    /// No stream: denied, which is silence since 1.11.2.
    NoStream,
}

/// The stream that is open, if any.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) health: Option<Health>,
    stream: Option<(u32, Ticket, String)>,
    /// Lines are lost: the server has forgotten the subscription and says nothing.
    pub(crate) silent: bool,
    /// Queries that the mirror has let go of.
    cancelled: BTreeSet<(u32, Ticket)>,
    /// When the last line arrives: lines keep their order.
    last_line: Duration,
}

const HANGS_FOR: Duration = Duration::from_secs(10);
/// So long after the table has moved blocking queries are answered, at most.
const HELD_FOR_MILLIS: u64 = 20;
const FIRST_LINE: Duration = Duration::from_secs(5);

impl Link {
    /// The client is gone, and with it its stream and its questions: the tickets of the next one are the same again.
    pub(crate) fn close(&mut self) {
        self.stream = None;
        self.cancelled.clear();
    }

    /// Whether the mirror does not wait for the answer any more.
    pub(crate) fn has_let_go(&self, generation: u32, ticket: Ticket) -> bool {
        self.cancelled.contains(&(generation, ticket))
    }
}

impl World {
    pub(crate) fn health(&self) -> Health {
        self.link.health.unwrap_or(Health::Up)
    }

    /// The mirror asks something: it is on its way.
    pub(crate) fn ask(&mut self, ask: Ask) {
        self.load.asked += 1;
        if let Ask::Cancel { ticket } = ask {
            self.link.cancelled.insert((self.generation, ticket));
            if self
                .link
                .stream
                .as_ref()
                .is_some_and(|(_, open, _)| *open == ticket)
            {
                self.link.stream = None;
            }
            return;
        }
        let delay = self.random.latency();
        self.after(delay, Event::Asked(self.generation, ask));
    }

    /// It has arrived.
    pub(crate) fn asked(&mut self, ask: Ask) {
        let failure = |kind: FailureKind| Failure {
            kind,
            text: kind.to_string(),
        };
        let fault = match self.health() {
            Health::Up | Health::ShortLists | Health::OneUnreadable | Health::NoStream => None,
            Health::Away => Some(FailureKind::Unreachable),
            Health::Failing(kind) => Some(kind),
            Health::Hangs => Some(FailureKind::Timeout),
        };
        let mut delay = self.random.latency();
        if self.health() == Health::Hangs {
            delay = HANGS_FOR;
        }
        let heard = match ask {
            Ask::Cancel { .. } => return,
            Ask::OpenStream { ticket, namespace } => {
                return match (fault, self.health()) {
                    (None, Health::NoStream)
                    | (Some(FailureKind::Denied | FailureKind::Timeout), _) => {
                        let end = StreamEnd::Refused("no first line".to_owned());
                        self.hear_after(FIRST_LINE, Heard::StreamEnded { ticket, end });
                    }
                    (None, _) => self.open_stream(ticket, &namespace),
                    (Some(_), _) => {
                        let end = StreamEnd::Unreachable("away".to_owned());
                        self.hear_after(delay, Heard::StreamEnded { ticket, end });
                    }
                };
            }
            Ask::List { ticket, .. } | Ask::Read { ticket, .. }
                if self.link.cancelled.contains(&(self.generation, ticket)) =>
            {
                return;
            }
            Ask::List {
                after: Some(after), ..
            }
            | Ask::Read {
                after: Some(after), ..
            } if fault.is_none() && self.nomad.table_index() <= after => {
                return self.held.push((self.generation, ask));
            }
            Ask::List {
                ticket, namespace, ..
            } => {
                let mut listing = self.nomad.list(&namespace);
                if self.health() == Health::ShortLists {
                    // What the mirror has never known it cannot miss: to a new one the first list is all there is.
                    let mirror = &self.sidecar.as_ref().unwrap().mirror;
                    listing
                        .services
                        .retain(|one| !mirror.has(&one.key) || self.random.chance(50));
                }
                Heard::Listed {
                    ticket,
                    result: fault.map_or(Ok(listing), |kind| Err(failure(kind))),
                }
            }
            Ask::Read { ticket, key, .. } => {
                let is_unreadable = self.health() == Health::OneUnreadable
                    && self.unreadable.as_ref() == Some(&key);
                let fault = fault.or(is_unreadable.then_some(FailureKind::ServerError));
                let reading = self.nomad.read(&key);
                let result = fault.map_or(Ok(reading), |kind| Err(failure(kind)));
                if let Ok(reading) = &result {
                    // The mirror takes it only while it waits for it; what it proves, it proves from then on.
                    let reading = reading.clone();
                    return self.after(
                        delay,
                        Event::HeardRead(self.generation, ticket, key, reading),
                    );
                }
                Heard::Read { ticket, result }
            }
        };
        self.hear_after(delay, heard);
    }

    /// Blocking queries are answered when the table has moved, or Nomad is otherwise than it was.
    pub(crate) fn release_held(&mut self) {
        let nomad_is = (self.nomad.version(), self.link.health);
        if std::mem::replace(&mut self.held_at, nomad_is) == nomad_is {
            return;
        }
        for (of, ask) in std::mem::take(&mut self.held) {
            let delay = self.random.millis(0, HELD_FOR_MILLIS);
            self.after(delay, Event::Asked(of, ask));
        }
    }

    fn hear_after(&mut self, delay: Duration, heard: Heard) {
        self.after(delay, Event::Heard(self.generation, heard));
    }

    fn open_stream(&mut self, ticket: Ticket, namespace: &str) {
        self.link.stream = Some((self.generation, ticket, namespace.to_owned()));
        self.link.silent = false;
        self.link.last_line = self.now;
        self.deliver(Heard::StreamOpened { ticket });
        for batch in self.nomad.buffered() {
            self.publish(&batch);
        }
    }

    /// Nomad publishes a line.
    pub(crate) fn published(&mut self, batch: &Batch) {
        self.both(|world| world.publish(batch));
    }

    fn publish(&mut self, batch: &Batch) {
        let Some((generation, ticket, namespace)) = &self.link.stream else {
            return;
        };
        if self.link.silent || *generation != self.generation || self.sidecar.is_none() {
            return;
        }
        let events: Vec<NomadEvent> = batch
            .events
            .iter()
            .filter(|event| {
                namespace == "*" || *event.registration().service.namespace == **namespace
            })
            .cloned()
            .collect();
        if events.is_empty() {
            return;
        }
        let (ticket, index) = (*ticket, batch.index);
        self.deliver(Heard::StreamLine {
            ticket,
            line: Line { index, events },
        });
    }

    fn deliver(&mut self, heard: Heard) {
        let at = (self.now + self.random.latency()).max(self.link.last_line);
        self.link.last_line = at;
        self.at(at, Event::Heard(self.generation, heard));
    }

    /// The streams break now.
    pub(crate) fn break_stream(&mut self) {
        self.both(Self::end_stream);
    }

    fn end_stream(&mut self) {
        let Some((_, ticket, _)) = self.link.stream.take() else {
            return;
        };
        self.deliver(Heard::StreamEnded {
            ticket,
            end: StreamEnd::Lost("broken".to_owned()),
        });
    }

    /// The stream falls silent, which the client notices after 40 s.
    pub(crate) fn silence_stream(&mut self) {
        if let Some((_, ticket, _)) = self.link.stream.take() {
            let end = StreamEnd::Lost("silent".to_owned());
            self.hear_after(Duration::from_secs(40), Heard::StreamEnded { ticket, end });
        }
    }

    /// What Nomad was about to answer is lost.
    pub(crate) fn lose_answers(&mut self) {
        let failure = || Failure {
            kind: FailureKind::Unreachable,
            text: "lost".to_owned(),
        };
        for event in self.queue.values_mut() {
            let (of, heard) = if let Event::HeardRead(of, ticket, ..) = event {
                let result = Err(failure());
                (
                    *of,
                    Heard::Read {
                        ticket: *ticket,
                        result,
                    },
                )
            } else if let Event::Heard(of, Heard::Listed { ticket, .. }) = event {
                let result = Err(failure());
                (
                    *of,
                    Heard::Listed {
                        ticket: *ticket,
                        result,
                    },
                )
            } else if let Event::Heard(of, Heard::StreamLine { ticket, .. }) = event {
                let line = Line::default();
                (
                    *of,
                    Heard::StreamLine {
                        ticket: *ticket,
                        line,
                    },
                )
            } else {
                continue;
            };
            *event = Event::Heard(of, heard);
        }
    }
}
