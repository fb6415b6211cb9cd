//! Nomad's side: how it answers, and what it says on streams.

use std::{sync::Arc, time::Duration};

use haproxy_nomad_sidecar::{
    catalog::{Ask, Failure, FailureKind, Heard, Listing, Reading, StreamEnd, Ticket},
    model::{Registration, ServiceKey},
};

use crate::weather::{
    kind::{Kind, Moment},
    plan::Fault,
    world::{Happening, Luck, Stream, Weather, ticket_of},
};

/// The client waits no longer for an answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// The client waits no longer for the first line of a stream.
const FIRST_LINE: Duration = Duration::from_secs(5);

impl Moment {
    pub(crate) fn of_question(ask: &Ask, is_held: bool) -> &'static [Self] {
        match ask {
            Ask::OpenStream { .. } => &[Self::Opening],
            Ask::List { .. } | Ask::Read { .. } if is_held => &[Self::Answer],
            Ask::List { .. } => &[Self::Answer, Self::Fresh, Self::List],
            Ask::Read { .. } => &[Self::Answer, Self::Fresh, Self::Read],
            Ask::Cancel { .. } => &[],
        }
    }
}

impl Weather {
    /// Whether a question that arrives now is answered, if no fault strikes it.
    pub(crate) fn is_answered(&self, ask: &Ask) -> bool {
        if self.now < self.air.frozen || self.air.failure(self.now).is_some() {
            return false;
        }
        match ask {
            Ask::OpenStream { namespace, .. } => self.may_stream(namespace),
            Ask::List { .. } | Ask::Read { .. } | Ask::Cancel { .. } => self.refusal(ask).is_none(),
        }
    }

    /// A stream of `*` needs the right in every namespace.
    fn may_stream(&self, namespace: &str) -> bool {
        let forbidden = if namespace == "*" {
            self.air.is_anything_forbidden(self.now)
        } else {
            self.air.is_forbidden(self.now, namespace)
        };
        self.plan.way.streams && !forbidden
    }

    fn is_unreadable(&self, key: &ServiceKey) -> bool {
        self.air
            .unreadable
            .as_ref()
            .is_some_and(|(service, until)| service == key && self.now < *until)
    }

    /// A question is here.
    pub(crate) fn arrive(&mut self, ordinal: u64, ask: Ask, luck: Luck) {
        let waits = self.air.frozen.saturating_sub(self.now);
        let patience = match &ask {
            Ask::OpenStream { .. } => FIRST_LINE,
            Ask::List { .. } | Ask::Read { .. } | Ask::Cancel { .. } => DEADLINE,
        };
        if !waits.is_zero() && waits < patience {
            return self.after(waits, Happening::Arrive(ordinal, ask));
        }
        let frozen = (!waits.is_zero()).then_some((FailureKind::Timeout, patience));
        let failure = frozen.or_else(|| self.air.failure(self.now));
        let ticket = ticket_of(&ask);
        let latency = self.latency(2, ordinal);
        let failure = failure.or_else(|| self.refusal(&ask));
        if let Ask::OpenStream { namespace, .. } = &ask {
            return self.stream_asked(latency, ticket, namespace, failure, luck);
        }
        let failure = failure.or_else(|| luck.struck().and_then(failure_of));
        if failure.is_none() && self.is_held(&ask) {
            return self.hold_query(ordinal, ask);
        }
        let (heard, delay) = match (ask, failure) {
            (ask, Some((kind, delay))) => {
                // What happens at the server happens, whatever becomes of the answer.
                let _ = self.answer(ordinal, &ask, luck);
                (failed(&ask, kind), delay)
            }
            (ask, None) => (self.answer(ordinal, &ask, luck), lateness(luck)),
        };
        self.after(latency + delay, Happening::Answer(ticket, heard));
    }

    /// Why this question is not answered.
    fn refusal(&self, ask: &Ask) -> Option<(FailureKind, Duration)> {
        let at_once = Duration::ZERO;
        match ask {
            Ask::List { namespace, .. } if self.air.is_forbidden(self.now, namespace) => {
                Some((FailureKind::Denied, at_once))
            }
            Ask::Read { key, .. } if self.air.is_forbidden(self.now, &key.namespace) => {
                Some((FailureKind::Denied, at_once))
            }
            Ask::Read { key, .. } if self.is_unreadable(key) => {
                Some((FailureKind::ServerError, at_once))
            }
            Ask::List { .. } | Ask::Read { .. } | Ask::OpenStream { .. } | Ask::Cancel { .. } => {
                None
            }
        }
    }

    /// What Nomad answers at this moment.
    pub(crate) fn answer(&mut self, ordinal: u64, ask: &Ask, luck: Luck) -> Heard {
        match ask {
            Ask::List {
                ticket, namespace, ..
            } => Heard::Listed {
                ticket: *ticket,
                result: Ok(self.list(namespace, luck)),
            },
            Ask::Read { ticket, key, .. } => Heard::Read {
                ticket: *ticket,
                result: Ok(self.read(ordinal, key, luck)),
            },
            Ask::OpenStream { .. } | Ask::Cancel { .. } => panic!("{ask:?} has no answer"),
        }
    }

    fn list(&mut self, namespace: &str, luck: Luck) -> Listing {
        let mut listing = self.nomad.list(namespace);
        let (air, now) = (&self.air, self.now);
        listing
            .services
            .retain(|one| namespace != "*" || !air.is_forbidden(now, &one.key.namespace));
        if let Some(fault) = luck.struck()
            && fault.kind == Kind::PartialList
        {
            let mut dice = fault.dice;
            listing.services.retain(|_| {
                dice = dice.rotate_right(1);
                dice.is_multiple_of(2)
            });
        }
        listing
    }

    fn read(&mut self, ordinal: u64, key: &ServiceKey, luck: Luck) -> Reading {
        let before = self.nomad.read(key);
        let (Luck::Struck(fault) | Luck::Spared(fault)) = luck else {
            return before;
        };
        if fault.kind != Kind::EventBeforeRead {
            return before;
        }
        // A change at the very moment of the read; the question is which of the two the read shows.
        let Some(one) = before.registrations.first() else {
            return before;
        };
        let changed = Registration {
            port: 30_000 + i64::try_from(ordinal % 30_000).unwrap(),
            ..one.clone()
        };
        let batch = self.nomad.register(changed);
        self.publish(&batch);
        if luck.struck().is_some() {
            before
        } else {
            self.nomad.read(key)
        }
    }

    fn stream_asked(
        &mut self,
        latency: Duration,
        ticket: Ticket,
        namespace: &Arc<str>,
        failure: Option<(FailureKind, Duration)>,
        luck: Luck,
    ) {
        let silence = (
            StreamEnd::Refused("no first line within 5 s".to_owned()),
            FIRST_LINE,
        );
        let at_once = (StreamEnd::Refused("Permission denied".to_owned()), latency);
        let denied = if self.plan.way.old {
            at_once
        } else {
            silence.clone()
        };
        let unreachable = |why: &str| StreamEnd::Unreachable(why.to_owned());
        let struck = luck.struck();
        let end = match (failure, struck.map(|fault| fault.kind)) {
            (Some((FailureKind::Timeout, _)), _) | (None, Some(Kind::DeniedBySilence)) => {
                Some(silence)
            }
            (Some((FailureKind::Unreachable, _)), _) => Some((unreachable("away"), latency)),
            // Streams are any server's, not the leader's.
            (Some(_), _) if self.now < self.air.serverless => {
                Some((unreachable("no servers"), latency))
            }
            _ if !self.may_stream(namespace) => Some(denied),
            (_, Some(Kind::DeniedAtOnce)) => Some(denied),
            (_, Some(Kind::HttpZero)) => {
                let why = "HTTP/0.0: Nomad 1.11.2".to_owned();
                Some((StreamEnd::Refused(why), latency))
            }
            (_, Some(Kind::NotReached)) => Some((unreachable("refused"), latency)),
            (_, Some(Kind::RingOverflow)) => {
                self.nomad.overflow();
                None
            }
            (_, Some(Kind::Replay)) => {
                let logs = struck.map_or(0, |fault| fault.dice % 60);
                self.nomad.restart(usize::try_from(logs).unwrap());
                None
            }
            _ => None,
        };
        match end {
            Some((end, delay)) => self.after(delay, Happening::Ended(ticket, end)),
            None => self.open_stream(ticket, namespace, latency),
        }
    }

    fn open_stream(&mut self, ticket: Ticket, namespace: &Arc<str>, latency: Duration) {
        let opened = self.now + latency;
        let stream = Stream {
            namespace: Arc::clone(namespace),
            delivers: self.namespaces.clone(),
            silent: false,
            last_line: opened,
            heard_at: opened,
        };
        self.streams.insert(ticket, stream);
        self.at(opened, Happening::Opened(ticket));
        self.after(Duration::from_secs(30), Happening::Heartbeat(ticket));
        for batch in self.nomad.buffered() {
            self.say(ticket, &batch);
        }
    }

    /// Answers that are on their way are lost.
    pub(crate) fn lose_answers(&mut self, kind: FailureKind) {
        for happening in self.queue.values_mut() {
            let Happening::Answer(_, heard) = happening else {
                continue;
            };
            match heard {
                Heard::Listed { result, .. } => *result = Err(failure(kind)),
                Heard::Read { result, .. } => *result = Err(failure(kind)),
                Heard::StreamOpened { .. }
                | Heard::StreamLine { .. }
                | Heard::StreamEnded { .. } => {}
            }
        }
    }
}

pub(crate) fn failed(ask: &Ask, kind: FailureKind) -> Heard {
    match ask {
        Ask::List { ticket, .. } => Heard::Listed {
            ticket: *ticket,
            result: Err(failure(kind)),
        },
        Ask::Read { ticket, .. } => Heard::Read {
            ticket: *ticket,
            result: Err(failure(kind)),
        },
        Ask::OpenStream { .. } | Ask::Cancel { .. } => panic!("{ask:?} has no answer"),
    }
}

fn failure(kind: FailureKind) -> Failure {
    Failure {
        kind,
        text: kind.to_string(),
    }
}

/// What the client makes of the answer.
fn failure_of(fault: Fault) -> Option<(FailureKind, Duration)> {
    let at_once = Duration::ZERO;
    match fault.kind {
        Kind::FalseEmptyList | Kind::FalseEmptyRead => Some((FailureKind::NotBelievable, at_once)),
        Kind::Denied => Some((FailureKind::Denied, at_once)),
        Kind::ServerError => Some((FailureKind::ServerError, at_once)),
        Kind::TooMany => Some((FailureKind::Limited, at_once)),
        Kind::NoAnswer => Some((FailureKind::Timeout, DEADLINE)),
        Kind::ConnectionBroken => Some((FailureKind::Unreachable, at_once)),
        _ => None,
    }
}

fn lateness(luck: Luck) -> Duration {
    match luck.struck() {
        Some(fault) if fault.kind == Kind::LateAnswer => {
            Duration::from_millis(200 + fault.dice % 12_000)
        }
        _ => Duration::ZERO,
    }
}
