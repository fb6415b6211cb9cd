//! Runs the mirror of [`crate::catalog`] over real connections: asks what it asks, keeps its time, says what it tells.
//!
//! Decides nothing about what is believed. It never ends because of Nomad, only when nobody listens any more.

mod once;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{self, AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    catalog::{
        Ask, Cause, Failure, FailureKind, Heard, How, Listing, Mirror, Reading, Scope, StreamEnd,
        Synced, Tell, Ticket,
    },
    model::{Registration, ServiceKey},
    nomad::{
        advice,
        client::{Answer, Client, Error},
        route::{Failed, Route},
        settings::{Endpoint, Settings},
        stream::EventStream,
    },
};

pub use once::{Read, Unread, read_once, read_once_with, read_once_within};

/// So many lines wait before the stream's task does. Nomad cuts a reader that waits for long, which is a resync.
const LINES: usize = 1024;
/// And so many KiB of them.
const LINES_KIB: u32 = 4 * 1024;
/// The connections that are kept: the parallel reads and a list.
const KEPT: usize = Mirror::PARALLEL_READS + 1;
/// So many services have a blocking query of their own, where connections are not counted: through the Task API. An agent
/// allows 100 connections for each address that it is asked from, sidecars and all else together.
const HELD_READS: usize = 64;

/// What the operator wants from a running watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Read the token again, open the streams anew, read everything again.
    Resync,
    /// Read these services although no list has them, until it is told whether they are there.
    Prove(BTreeSet<ServiceKey>),
}

/// What became known.
#[derive(Clone, Debug)]
pub enum Event {
    /// Everything that is known: replaces all that was said before.
    Synced(Synced),
    /// All registrations of one service, after a change.
    Changed {
        /// The service.
        key: ServiceKey,
        /// All its registrations, sorted by ID.
        registrations: Vec<Registration>,
        /// The index of the table up to which this is proven.
        index: u64,
        /// The index of the event that changed it; none if a read found the difference.
        event_index: Option<u64>,
        /// When the last byte of what said so was here.
        received_at: std::time::Instant,
    },
    /// How a namespace is followed from now on.
    Following {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// How.
        how: How,
        /// The same for an operator, with what would make it better.
        text: String,
    },
    /// A stream was lost; a resync begins.
    StreamLost {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// Why.
        text: String,
    },
    /// Nomad's index went back: it was restored or made anew. Everything is read again.
    IndexWentBack {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// The index that was known.
        from: u64,
        /// The index now.
        to: u64,
    },
    /// A failure began or became another one. What is known stays as it is.
    Trouble {
        /// What it is about.
        scope: Scope,
        /// What kind of failure it is.
        kind: FailureKind,
        /// What happened and what to do about it.
        text: String,
    },
    /// The failure is over.
    Recovered {
        /// What it was about.
        scope: Scope,
    },
    /// What was said of this namespace is the catalog of that moment.
    Current {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// The highest index of the table that is known.
        index: u64,
        /// The moment.
        at: std::time::Instant,
    },
    /// Services are read again.
    Rereads {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// Why.
        cause: Cause,
        /// How many.
        services: usize,
    },
}

/// Follows the catalog until `control` or `events` has no other end any more.
pub async fn run(
    route: Arc<Route>,
    mut control: mpsc::Receiver<Control>,
    events: mpsc::Sender<Event>,
) {
    let mut watch = Watch::new(route);
    loop {
        watch.ask();
        while let Some(tell) = watch.mirror.poll_tell() {
            if events.send(watch.event(tell)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            biased;
            command = control.recv() => match command {
                Some(Control::Resync) => watch.resync(),
                Some(Control::Prove(services)) => watch.mirror.prove(watch.started.elapsed(), services),
                None => return,
            },
            () = watch.next() => {}
        }
    }
}

struct Watch {
    route: Arc<Route>,
    settings: Arc<Settings>,
    mirror: Mirror,
    started: Instant,
    /// When what was heard last was here.
    heard_at: Instant,
    /// Connections that nobody uses, the last used first.
    idle: VecDeque<Client>,
    calls: JoinSet<(Heard, Client)>,
    /// The same by their tickets.
    running: BTreeMap<Ticket, AbortHandle>,
    /// The tasks that read streams; none if there shall be no stream.
    streams: Option<BTreeMap<Ticket, AbortHandle>>,
    lines: mpsc::Receiver<Waiting>,
    line_sender: mpsc::Sender<Waiting>,
    /// Room for lines that wait, in KiB.
    line_room: Arc<Semaphore>,
}

/// What a stream said, when, and the room that it takes until it is heard.
type Waiting = (Heard, Instant, Option<OwnedSemaphorePermit>);

impl Watch {
    fn new(route: Arc<Route>) -> Self {
        let settings = Arc::clone(&route.settings);
        let (line_sender, lines) = mpsc::channel(LINES);
        let wanted = settings.wanted();
        let started = Instant::now();
        let is_socket = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Unix(_));
        let held_reads = if settings.endpoints.iter().all(is_socket) {
            HELD_READS
        } else {
            0
        };
        Self {
            mirror: Mirror::new(
                &settings.namespaces,
                &wanted,
                held_reads,
                settings.seed,
                Duration::ZERO,
            )
            .limited(settings.catalog_room),
            settings,
            route,
            started,
            heard_at: started,
            idle: VecDeque::new(),
            calls: JoinSet::new(),
            running: BTreeMap::new(),
            streams: Some(BTreeMap::new()),
            lines,
            line_sender,
            line_room: Arc::new(Semaphore::new(LINES_KIB as usize)),
        }
    }

    fn resync(&mut self) {
        self.idle.clear();
        self.mirror.resync(self.started.elapsed());
    }

    /// Starts everything that the mirror asks.
    fn ask(&mut self) {
        while let Some(ask) = self.mirror.poll_ask() {
            match ask {
                Ask::OpenStream { ticket, namespace } => self.open_stream(ticket, namespace),
                Ask::Cancel { ticket } => {
                    let stream = self.streams.as_mut().and_then(|all| all.remove(&ticket));
                    for task in stream.into_iter().chain(self.running.remove(&ticket)) {
                        task.abort();
                    }
                }
                Ask::List {
                    ticket,
                    namespace,
                    after,
                } => {
                    let mut client = self.client();
                    let settings = Arc::clone(&self.settings);
                    let call = self.calls.spawn(async move {
                        let result = client.list(&namespace, after).await;
                        let result = settle(result, &settings, &namespace)
                            .map(|(index, services)| Listing { index, services });
                        (Heard::Listed { ticket, result }, client)
                    });
                    self.running.insert(ticket, call);
                }
                Ask::Read { ticket, key, after } => {
                    let mut client = self.client();
                    let settings = Arc::clone(&self.settings);
                    let call = self.calls.spawn(async move {
                        let result = client.read(&key, after).await;
                        let result = settle(result, &settings, &key.namespace)
                            .map(|(index, registrations)| Reading {
                                index,
                                registrations,
                            })
                            .map_err(|failure| Failure {
                                text: format!("service {key} cannot be read: {}", failure.text),
                                kind: failure.kind,
                            });
                        (Heard::Read { ticket, result }, client)
                    });
                    self.running.insert(ticket, call);
                }
            }
        }
    }

    /// Waits for the next thing to happen, and tells the mirror.
    async fn next(&mut self) {
        let due = self.mirror.next_deadline();
        tokio::select! {
            biased;
            Some((heard, at, _room)) = self.lines.recv() => {
                if let (Heard::StreamEnded { ticket, .. }, Some(streams)) =
                    (&heard, &mut self.streams)
                {
                    streams.remove(ticket);
                }
                self.heard(heard, at);
            }
            Some(done) = self.calls.join_next() => {
                let (heard, client) = match done {
                    Ok(done) => done,
                    Err(error) if error.is_cancelled() => return,
                    Err(error) => panic::resume_unwind(error.into_panic()),
                };
                if let Heard::Listed { ticket, .. } | Heard::Read { ticket, .. } = &heard {
                    self.running.remove(ticket);
                }
                self.idle.push_front(client);
                self.idle.truncate(KEPT);
                self.heard(heard, Instant::now());
            }
            () = sleep_until(self.started + due.unwrap_or_default()), if due.is_some() => {
                self.mirror.tick(self.started.elapsed());
            }
        }
    }

    fn heard(&mut self, heard: Heard, at: Instant) {
        self.heard_at = at;
        self.mirror.handle(self.started.elapsed(), heard);
    }

    fn client(&mut self) -> Client {
        let new = || Client::on(Arc::clone(&self.route));
        self.idle.pop_front().unwrap_or_else(new)
    }

    fn open_stream(&mut self, ticket: Ticket, namespace: Arc<str>) {
        let Some(streams) = &mut self.streams else {
            let end = StreamEnd::Refused("no stream is wanted".to_owned());
            return self.heard(Heard::StreamEnded { ticket, end }, self.heard_at);
        };
        let stream = StreamTask {
            ticket,
            namespace,
            client: Client::on(Arc::clone(&self.route)),
            settings: Arc::clone(&self.settings),
            lines: self.line_sender.clone(),
            room: Arc::clone(&self.line_room),
        };
        streams.insert(ticket, task::spawn(stream.run()).abort_handle());
    }

    fn event(&self, tell: Tell) -> Event {
        match tell {
            Tell::Synced(synced) => Event::Synced(synced),
            Tell::Changed {
                key,
                registrations,
                index,
                event_index,
            } => Event::Changed {
                key,
                registrations,
                index,
                event_index,
                received_at: self.heard_at.into_std(),
            },
            Tell::Rereads {
                namespace,
                cause,
                services,
            } => Event::Rereads {
                namespace,
                cause,
                services,
            },
            Tell::Current { namespace, index } => Event::Current {
                namespace,
                index,
                at: self.heard_at.into_std(),
            },
            Tell::Following { namespace, how } => Event::Following {
                text: match &how {
                    How::Stream => format!("following namespace {namespace} by its event stream"),
                    How::Blocking { reason } => advice::on_blocking(&namespace, reason),
                },
                namespace,
                how,
            },
            Tell::StreamLost { namespace, reason } => Event::StreamLost {
                namespace,
                text: reason,
            },
            Tell::IndexWentBack {
                namespace,
                from,
                to,
            } => Event::IndexWentBack {
                namespace,
                from,
                to,
            },
            Tell::Trouble { scope, failure } => Event::Trouble {
                scope,
                kind: failure.kind,
                text: failure.text,
            },
            Tell::Recovered { scope } => Event::Recovered { scope },
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for stream in self.streams.iter().flat_map(BTreeMap::values) {
            stream.abort();
        }
    }
}

/// Opens one stream and forwards its lines.
struct StreamTask {
    ticket: Ticket,
    namespace: Arc<str>,
    client: Client,
    settings: Arc<Settings>,
    lines: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
}

impl StreamTask {
    async fn run(self) {
        let ticket = self.ticket;
        let end = match self.client.open_stream(&self.namespace).await {
            Ok(stream) => {
                self.forward(Heard::StreamOpened { ticket }).await;
                StreamEnd::Lost(self.forward_lines(stream).await)
            }
            Err(failed) => {
                let text = advice::on_no_stream(&failed, &self.settings, &self.namespace);
                if failed.last().is_unreachable() {
                    StreamEnd::Unreachable(text)
                } else {
                    StreamEnd::Refused(text)
                }
            }
        };
        self.forward(Heard::StreamEnded { ticket, end }).await;
    }

    /// Forwards lines until there are no more, and says why.
    async fn forward_lines(&self, mut stream: EventStream) -> String {
        let ticket = self.ticket;
        loop {
            match stream.next().await {
                Ok(line) => self.forward(Heard::StreamLine { ticket, line }).await,
                Err(error) => {
                    let endpoint = stream.endpoint();
                    return advice::on_stream(endpoint, &error, &self.settings, &self.namespace);
                }
            }
        }
    }

    async fn forward(&self, heard: Heard) {
        let at = Instant::now();
        let weight = match &heard {
            Heard::StreamLine { line, .. } => line
                .events
                .iter()
                .map(|event| event.registration().weight())
                .sum(),
            Heard::StreamOpened { .. }
            | Heard::StreamEnded { .. }
            | Heard::Listed { .. }
            | Heard::Read { .. } => 0,
        };
        let weight: usize = weight;
        let kib = u32::try_from(weight / 1024)
            .unwrap_or(LINES_KIB)
            .min(LINES_KIB);
        let room = Arc::clone(&self.room).acquire_many_owned(kib).await.ok();
        // Nobody listens only when this task is about to be stopped.
        drop(self.lines.send((heard, at, room)).await);
    }
}

/// What the mirror is told of a list or read.
fn settle<T>(
    result: Result<Answer<T>, Failed<Error>>,
    settings: &Settings,
    namespace: &str,
) -> Result<(u64, T), Failure> {
    match result {
        Ok(answer) => Ok((answer.index, answer.value)),
        Err(failed) => Err(Failure {
            kind: failed.last().kind(),
            text: advice::on_failure(&failed, settings, namespace),
        }),
    }
}
