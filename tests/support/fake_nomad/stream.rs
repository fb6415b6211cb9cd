//! The event stream: subscriptions, framings, and the many ways in which it ends.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufRead, AsyncWrite, AsyncWriteExt},
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};

use super::{
    Mode, Version, Via,
    acl::{Bearer, Token},
    answers::{self, Recorded},
    records::{Batch, Wanted},
    request::Request,
    server::{Shared, State, hung_up, trickle},
};

/// One write to a reader who does not read (`command/agent/event_endpoint.go`, 1.11.2 and later by its source).
const WRITE: Duration = Duration::from_secs(40);
const NEVER: Duration = Duration::from_secs(u32::MAX as u64);

/// What happens to an open stream.
#[derive(Clone, Debug)]
pub(crate) enum Signal {
    Batch(Arc<Batch>),
    /// Any line, as it is.
    Line(String),
    /// The first half of a line, and the end.
    HalfLine(String),
    /// Nothing more, not even heartbeats, and no end.
    Silence,
    /// The server ends it with this text, which only versions up to 1.11.1 send; later ones fall silent.
    Ended(&'static str),
    /// The server ends it so as soon as there is something to tell.
    Expired,
    /// The connection closes.
    Cut,
}

/// An open stream, as the state knows it.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) token: Option<String>,
    pub(crate) wanted: Wanted,
    sender: UnboundedSender<Signal>,
}

/// A stream that was opened or, silently, denied.
pub(crate) struct Opened {
    wanted: Wanted,
    signals: Option<UnboundedReceiver<Signal>>,
}

impl State {
    /// Hands `batches` to every open stream.
    pub(crate) fn publish(&mut self, batches: &[Arc<Batch>]) {
        for batch in batches {
            self.signal(|_| true, &Signal::Batch(Arc::clone(batch)));
        }
    }

    /// Does something to the open streams that `which` picks.
    pub(crate) fn signal(&mut self, which: impl Fn(&Subscription) -> bool, signal: &Signal) {
        self.streams.retain(|stream| !stream.sender.is_closed());
        for stream in self.streams.iter().filter(|stream| which(stream)) {
            // A stream that has ended meanwhile misses nothing.
            let _ = stream.sender.send(signal.clone());
        }
    }

    /// How many streams are open and not denied.
    pub(crate) fn open_streams(&self) -> usize {
        let open = self
            .streams
            .iter()
            .filter(|stream| !stream.sender.is_closed());
        open.count()
    }
}

/// Subscribes, so that nothing published from now on is missed.
pub(crate) fn open(shared: &Shared, request: &Request) -> Result<Opened, Recorded> {
    if request.method != "GET" {
        return Err(Recorded::InvalidMethod);
    }
    let index: i64 = match request.parameter("index") {
        Some(text) => text.parse().map_err(|_| Recorded::StreamInvalidIndex)?,
        None => 0,
    };
    let mut topics = Vec::new();
    for (name, value) in request.parameters() {
        if name != "topic" {
            continue;
        }
        let (topic, key) = value.split_once(':').unwrap_or((&value, ""));
        if key.contains(':') {
            return Err(Recorded::StreamInvalidTopic);
        }
        topics.push((topic.to_owned(), key.trim_start_matches('*').to_owned()));
    }

    shared.change(|state| {
        let namespace = request.namespace();
        let existing = state.catalog.namespaces();
        let bearer = state.acl.bearer(request.token());
        let everything = matches!(bearer, Bearer::Anybody | Bearer::Known(Token::Management));
        let allowed = match topics.as_slice() {
            [] => everything,
            _ => bearer.streams(&namespace, existing),
        };
        let wanted = Wanted {
            topics,
            namespaces: match namespace.as_str() {
                "*" => existing.clone(),
                _ => BTreeSet::from([namespace]),
            },
        };
        if shared.version.says_why() {
            if !state.broker {
                return Err(Recorded::BrokerOff);
            }
            if !allowed {
                let known = matches!(bearer, Bearer::Known(_));
                return Err(if known && shared.version == Version::V1_9_5 {
                    Recorded::StreamPermissionDenied
                } else {
                    Recorded::StreamDenied
                });
            }
        }
        let signals = (allowed && state.broker).then(|| {
            let (sender, signals) = mpsc::unbounded_channel();
            for batch in state.catalog.batches_from(index.unsigned_abs()) {
                sender
                    .send(Signal::Batch(batch))
                    .expect("its receiver is here");
            }
            state.streams.push(Subscription {
                token: request.token().map(str::to_owned),
                wanted: wanted.clone(),
                sender,
            });
            signals
        });
        Ok(Opened { wanted, signals })
    })
}

/// Serves one stream to its end.
pub(crate) async fn run(
    shared: &Shared,
    mut socket: impl AsyncBufRead + AsyncWrite + Unpin,
    via: Via,
    opened: Opened,
    mode: Mode,
) -> io::Result<()> {
    let version = shared.version;
    socket
        .write_all(&answers::stream_head(version, via))
        .await?;
    socket.flush().await?;
    let Some(mut signals) = opened.signals else {
        hung_up(&mut socket).await;
        return Ok(());
    };
    let pause = match mode {
        Mode::Trickle(pause) => Some(pause),
        Mode::Normal
        | Mode::Answer(_)
        | Mode::Hang
        | Mode::Hold
        | Mode::Stall
        | Mode::CutShort
        | Mode::Endless
        | Mode::Huge => None,
    };
    write(&mut socket, &answers::stream_line(version, "{}"), pause).await?;
    let mut heartbeat = interval_at(Instant::now() + shared.heartbeat, shared.heartbeat);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut silent, mut expired) = (false, false);
    loop {
        let signal = tokio::select! {
            biased;
            () = hung_up(&mut socket) => return closed(shared, signals),
            signal = signals.recv() => signal.unwrap_or(Signal::Cut),
            _ = heartbeat.tick(), if !silent => Signal::Line("{}".into()),
        };
        let has_news =
            matches!(&signal, Signal::Batch(batch) if batch.line(&opened.wanted).is_some());
        let signal = if expired && has_news {
            Signal::Ended("ACL token expired")
        } else {
            signal
        };
        let bytes = match signal {
            Signal::Expired => {
                expired = true;
                continue;
            }
            Signal::Cut => return closed(shared, signals),
            Signal::HalfLine(line) => {
                let bytes = answers::stream_line(version, &line);
                write(&mut socket, &bytes[..bytes.len() / 2], None).await?;
                return closed(shared, signals);
            }
            Signal::Ended(text) if version.says_why() => {
                let last = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
                write(&mut socket, last.as_bytes(), None).await?;
                return closed(shared, signals);
            }
            Signal::Silence | Signal::Ended(_) => {
                silent = true;
                continue;
            }
            Signal::Batch(_) | Signal::Line(_) if silent => continue,
            Signal::Batch(batch) => match batch.line(&opened.wanted) {
                Some(line) => answers::stream_line(version, &line),
                None => continue,
            },
            Signal::Line(line) => answers::stream_line(version, &line),
        };
        // Since 1.11.2 (#27397, #27432) a reader who takes nothing for so long is cut off; before, for ever waited for.
        let patience = if version.says_why() { NEVER } else { WRITE };
        match timeout(patience, write(&mut socket, &bytes, pause)).await {
            Ok(written) => written?,
            Err(_) => return closed(shared, signals),
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it ends a function that may fail")]
fn closed(shared: &Shared, signals: UnboundedReceiver<Signal>) -> io::Result<()> {
    drop(signals);
    shared.change(|_| ());
    Ok(())
}

async fn write(
    socket: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    pause: Option<Duration>,
) -> io::Result<()> {
    if let Some(pause) = pause {
        return trickle(socket, bytes, pause).await;
    }
    socket.write_all(bytes).await?;
    socket.flush().await
}
