//! A Nomad that says what a test tells it to say, byte by byte, over streams in memory.

use std::{
    fs, io,
    path::Path,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use haproxy_nomad_sidecar::nomad::{
    route::Route,
    settings::{Endpoint, Settings},
    traffic::Traffic,
    transport::{Dial, DialError, Dialling, Io},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    time::sleep,
};

/// What happens after a request.
#[derive(Clone)]
pub(crate) enum Reply {
    /// These bytes; then the next request is awaited.
    Bytes(Vec<u8>),
    /// These bytes, and then nothing for ever.
    Silence(Vec<u8>),
    /// These bytes, and the end.
    End(Vec<u8>),
    /// These bytes, and then one more byte each second, for ever.
    Trickle(Vec<u8>, u8),
    /// These bytes, and then others again and again, as fast as they are read.
    Flood(Vec<u8>, Vec<u8>),
}

type Answer = dyn Fn(&str) -> Reply + Send + Sync;

/// Answers every request, whatever the connection, by the path of the request.
pub(crate) struct Script {
    answer: Box<Answer>,
    /// The heads of the requests, and a line `dial` for every connection.
    pub(crate) seen: Mutex<Vec<String>>,
    /// Said before any request, as a listener with too many connections does.
    pub(crate) greeting: Option<Vec<u8>>,
}

impl Script {
    pub(crate) fn new(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            answer: Box::new(answer),
            seen: Mutex::new(Vec::new()),
            greeting: None,
        }
    }

    /// Gives every request the same answer.
    pub(crate) fn always(bytes: impl Into<Vec<u8>>) -> Arc<Self> {
        let bytes = bytes.into();
        Arc::new(Self::new(move |_| Reply::Bytes(bytes.clone())))
    }

    /// How many of what was seen contain `text`.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .filter(|seen| seen.contains(text))
            .count()
    }
}

/// Dials a script.
pub(crate) struct ScriptDial(pub(crate) Arc<Script>);

impl Dial for ScriptDial {
    fn dial<'a>(&'a self, _: &'a Endpoint) -> Dialling<'a> {
        Box::pin(async {
            let (near, far) = tokio::io::duplex(1 << 20);
            self.0.seen.lock().unwrap().push("dial".to_owned());
            let script = Arc::clone(&self.0);
            tokio::spawn(async move {
                // The other side may be gone at any time.
                drop(serve(&script, far).await);
            });
            Ok(Box::new(near) as _)
        })
    }
}

/// Dials a script as if over TLS, whose end without a word of it is an error.
pub(crate) struct TlsScriptDial(pub(crate) Arc<Script>);

impl Dial for TlsScriptDial {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a> {
        Box::pin(async {
            let script = ScriptDial(Arc::clone(&self.0));
            Ok(Box::new(EndIsAnError(script.dial(endpoint).await?)) as _)
        })
    }
}

struct EndIsAnError(Box<dyn Io>);

impl AsyncRead for EndIsAnError {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buffer))?;
        if buffer.filled().len() == before {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for EndIsAnError {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Dials nothing.
pub(crate) struct Refusing(pub(crate) io::ErrorKind);

impl Dial for Refusing {
    fn dial<'a>(&'a self, _: &'a Endpoint) -> Dialling<'a> {
        Box::pin(async { Err(DialError::Connect(self.0.into())) })
    }
}

async fn serve(script: &Script, mut far: DuplexStream) -> io::Result<()> {
    if let Some(greeting) = &script.greeting {
        return far.write_all(greeting).await;
    }
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(far.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let path = head.split(' ').nth(1).unwrap().to_owned();
        script.seen.lock().unwrap().push(head);
        match (script.answer)(&path) {
            Reply::Bytes(bytes) => far.write_all(&bytes).await?,
            Reply::End(bytes) => return far.write_all(&bytes).await,
            Reply::Trickle(bytes, more) => {
                far.write_all(&bytes).await?;
                loop {
                    sleep(Duration::from_secs(1)).await;
                    far.write_u8(more).await?;
                }
            }
            Reply::Flood(bytes, more) => {
                far.write_all(&bytes).await?;
                loop {
                    far.write_all(&more).await?;
                }
            }
            Reply::Silence(bytes) => {
                far.write_all(&bytes).await?;
                // Until the other side goes.
                far.read_u8().await?;
            }
        }
    }
}

/// A recorded answer: `2.0.5/http/list.http`.
pub(crate) fn recorded(path: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fs::read(root.join(format!("nomad-{path}"))).unwrap()
}

/// An answer as Nomad gives it.
pub(crate) fn json(index: u64, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Nomad-Index: {index}\r\nX-Nomad-Knownleader: true\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A stream of 1.11.2 and later with these lines.
pub(crate) fn stream(lines: &str) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n";
    format!("{head}{lines}").into_bytes()
}

/// Settings for an agent at `http://127.0.0.1:4646` that take every service.
pub(crate) fn settings() -> Settings {
    let mut settings = Settings::new("http://127.0.0.1:4646".parse().unwrap());
    settings.expose_by_default = true;
    settings
}

/// A route over what `dial` makes.
pub(crate) fn route(settings: Settings, dial: impl Dial + 'static) -> Arc<Route> {
    Route::with_dial(
        Arc::new(settings),
        Arc::new(dial),
        Arc::new(Traffic::default()),
    )
}
