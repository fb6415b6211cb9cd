//! Runs the mirror of [`crate::catalog`] over real connections: asks what it asks, keeps its time, says what it tells.
//!
//! Decides nothing about what is believed. It never ends because of Nomad, only when nobody listens any more.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    panic,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{self, AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use crate::{
    catalog::{
        Ask, Failure, FailureKind, Heard, How, Listing, Mirror, Reading, Scope, StreamEnd, Synced,
        Tell, Ticket,
    },
    model::{Registration, ServiceKey},
    nomad::{
        advice,
        client::{Answer, Client, Error},
        proofs::{Proof, RETRY, prove},
        settings::Settings,
        stream::{EventStream, StreamError},
        transport::{Dial, Dialler},
    },
};

/// So many lines wait before the stream's task does. Nomad cuts a reader that waits for long, which is a resync.
const LINES: usize = 1024;
/// The connections that are kept: the parallel reads and a list.
const KEPT: usize = Mirror::PARALLEL_READS + 1;

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
        /// The moment.
        at: std::time::Instant,
    },
}

/// Follows the catalog until `control` or `events` has no other end any more.
pub async fn run(
    settings: Settings,
    control: mpsc::Receiver<Control>,
    events: mpsc::Sender<Event>,
) {
    let dial = Arc::new(Dialler(settings.endpoint.clone()));
    run_with(settings, dial, control, events).await;
}

/// As [`run`], over connections that `dial` makes.
pub async fn run_with(
    settings: Settings,
    dial: Arc<dyn Dial>,
    mut control: mpsc::Receiver<Control>,
    events: mpsc::Sender<Event>,
) {
    let mut watch = Watch::new(Arc::new(settings), dial);
    let mut proofs = JoinSet::new();
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
                Some(Control::Prove(services)) => {
                    for service in services {
                        proofs.spawn(watch.prove(service, Duration::ZERO));
                    }
                }
                None => return,
            },
            Some(Ok((key, proof))) = proofs.join_next() => match proof {
                // What is there is the mirror's to tell, and it knows better than an older read.
                _ if watch.mirror.has(&key) => {}
                Proof::Present => drop(proofs.spawn(watch.prove(key, RETRY))),
                Proof::Absent(index) => {
                    let event = Event::Changed {
                        key,
                        registrations: Vec::new(),
                        index,
                        event_index: None,
                        received_at: Instant::now().into_std(),
                    };
                    if events.send(event).await.is_err() {
                        return;
                    }
                }
            },
            () = watch.next() => {}
        }
    }
}

/// Reads the catalog once.
///
/// # Errors
///
/// When anything of it cannot be read or believed.
pub async fn read_once(
    settings: &Settings,
) -> Result<BTreeMap<ServiceKey, Vec<Registration>>, Unread> {
    let dial = Arc::new(Dialler(settings.endpoint.clone()));
    read_once_with(settings, dial).await
}

/// As [`read_once`], over connections that `dial` makes.
///
/// # Errors
///
/// When anything of it cannot be read or believed.
pub async fn read_once_with(
    settings: &Settings,
    dial: Arc<dyn Dial>,
) -> Result<BTreeMap<ServiceKey, Vec<Registration>>, Unread> {
    let mut watch = Watch::new(Arc::new(settings.clone()), dial);
    watch.streams = None;
    loop {
        watch.ask();
        while let Some(tell) = watch.mirror.poll_tell() {
            match tell {
                Tell::Trouble { scope, failure } => {
                    return Err(Unread {
                        scope,
                        kind: failure.kind,
                        text: failure.text,
                    });
                }
                Tell::Synced(synced) if synced.unproven.is_empty() => return Ok(synced.services),
                Tell::Synced(_)
                | Tell::Changed { .. }
                | Tell::Current { .. }
                | Tell::Following { .. }
                | Tell::StreamLost { .. }
                | Tell::IndexWentBack { .. }
                | Tell::Recovered { .. } => {}
            }
        }
        watch.next().await;
    }
}

/// The catalog could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unread {
    /// What could not be read.
    pub scope: Scope,
    /// What kind of failure it was.
    pub kind: FailureKind,
    text: String,
}

struct Watch {
    settings: Arc<Settings>,
    dial: Arc<dyn Dial>,
    mirror: Mirror,
    started: Instant,
    /// When what was heard last was here.
    heard_at: Instant,
    /// Connections that nobody uses, the last used first.
    idle: VecDeque<Client>,
    calls: JoinSet<(Heard, Client)>,
    /// The tasks that read streams; none if there shall be no stream.
    streams: Option<BTreeMap<Ticket, AbortHandle>>,
    lines: mpsc::Receiver<(Heard, Instant)>,
    line_sender: mpsc::Sender<(Heard, Instant)>,
}

impl Watch {
    fn new(settings: Arc<Settings>, dial: Arc<dyn Dial>) -> Self {
        let (line_sender, lines) = mpsc::channel(LINES);
        let wanted = settings.wanted();
        let started = Instant::now();
        Self {
            mirror: Mirror::new(&settings.namespaces, &wanted, settings.seed, Duration::ZERO),
            settings,
            dial,
            started,
            heard_at: started,
            idle: VecDeque::new(),
            calls: JoinSet::new(),
            streams: Some(BTreeMap::new()),
            lines,
            line_sender,
        }
    }

    fn resync(&mut self) {
        self.idle.clear();
        self.mirror.resync(self.started.elapsed());
    }

    fn prove(
        &self,
        service: ServiceKey,
        delay: Duration,
    ) -> impl Future<Output = (ServiceKey, Proof)> + use<> {
        prove(
            service,
            Arc::clone(&self.settings),
            Arc::clone(&self.dial),
            delay,
        )
    }

    /// Starts everything that the mirror asks.
    fn ask(&mut self) {
        while let Some(ask) = self.mirror.poll_ask() {
            match ask {
                Ask::OpenStream { ticket, namespace } => self.open_stream(ticket, namespace),
                Ask::CloseStream { ticket } => {
                    if let Some(stream) = self.streams.as_mut().and_then(|all| all.remove(&ticket))
                    {
                        stream.abort();
                    }
                }
                Ask::List { ticket, namespace } => {
                    let mut client = self.client();
                    let settings = Arc::clone(&self.settings);
                    self.calls.spawn(async move {
                        let result = client.list(&namespace, None).await;
                        let result = settle(result, &settings, &namespace)
                            .map(|(index, services)| Listing { index, services });
                        (Heard::Listed { ticket, result }, client)
                    });
                }
                Ask::Read { ticket, key } => {
                    let mut client = self.client();
                    let settings = Arc::clone(&self.settings);
                    self.calls.spawn(async move {
                        let result = client.read(&key, None).await;
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
                }
            }
        }
    }

    /// Waits for the next thing to happen, and tells the mirror.
    async fn next(&mut self) {
        let due = self.mirror.next_deadline();
        tokio::select! {
            biased;
            Some((heard, at)) = self.lines.recv() => {
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
                    Err(error) => panic::resume_unwind(error.into_panic()),
                };
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
        let new = || Client::with_dial(Arc::clone(&self.settings), Arc::clone(&self.dial));
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
            client: Client::with_dial(Arc::clone(&self.settings), Arc::clone(&self.dial)),
            settings: Arc::clone(&self.settings),
            lines: self.line_sender.clone(),
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
            Tell::Current { namespace } => Event::Current {
                namespace,
                at: self.heard_at.into_std(),
            },
            Tell::Following { namespace, how } => Event::Following {
                text: match &how {
                    How::Stream => format!("following namespace {namespace} by its event stream"),
                    How::Poll { reason } => advice::on_polling(&namespace, reason),
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
    lines: mpsc::Sender<(Heard, Instant)>,
}

impl StreamTask {
    async fn run(self) {
        let ticket = self.ticket;
        let error = match self.client.open_stream(&self.namespace).await {
            Ok(stream) => {
                self.forward(Heard::StreamOpened { ticket }).await;
                self.forward_lines(stream).await
            }
            Err(error) => {
                let text = advice::on_stream(&error, &self.settings, &self.namespace);
                let end = if error.is_unreachable() {
                    StreamEnd::Unreachable(text)
                } else {
                    StreamEnd::Refused(text)
                };
                return self.forward(Heard::StreamEnded { ticket, end }).await;
            }
        };
        let text = advice::on_stream(&error, &self.settings, &self.namespace);
        let end = StreamEnd::Lost(text);
        self.forward(Heard::StreamEnded { ticket, end }).await;
    }

    async fn forward_lines(&self, mut stream: EventStream) -> StreamError {
        loop {
            match stream.next().await {
                Ok(line) => {
                    let ticket = self.ticket;
                    self.forward(Heard::StreamLine { ticket, line }).await;
                }
                Err(error) => return error,
            }
        }
    }

    async fn forward(&self, heard: Heard) {
        // Nobody listens only when this task is about to be stopped.
        drop(self.lines.send((heard, Instant::now())).await);
    }
}

/// What the mirror is told of a list or read.
fn settle<T>(
    result: Result<Answer<T>, Error>,
    settings: &Settings,
    namespace: &str,
) -> Result<(u64, T), Failure> {
    match result {
        Ok(answer) => Ok((answer.index, answer.value)),
        Err(error) => Err(Failure {
            kind: error.kind(),
            text: advice::on_failure(&error, settings, namespace),
        }),
    }
}
