//! HTTP/1.1 over any byte stream: dialling with deadlines, and one request at a time on one kept connection.
//!
//! There is no pool and no redirect. `Accept-Encoding` is never sent: the stream of versions before 1.11.2 would be
//! compressed. HTTP/2 is not offered by Nomad.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream, lookup_host},
    task,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::nomad::{
    settings::{Endpoint, TlsSettings},
    tls::{self, TlsError},
};

/// For a name to be resolved, and again for the connection to its only address.
const CONNECT: Duration = Duration::from_secs(5);
/// For the connection to each address of a name that has several: one of them may be dead.
const CONNECT_EACH: Duration = Duration::from_secs(2);
/// So many addresses of a name are tried.
const MAX_ADDRESSES: usize = 4;
/// For the TLS files to be read.
const FILES: Duration = Duration::from_secs(5);
/// For the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Nomad sends some ten headers.
const MAX_HEADERS: usize = 64;
/// No head of an answer is longer.
const MAX_HEAD: usize = 64 * 1024;

/// A byte stream to Nomad.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// What [`Dial::dial`] gives.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Io>, DialError>> + Send + 'a>>;

/// Makes byte streams to Nomad: real ones ([`Dialler`]), or in a test anything.
pub trait Dial: Send + Sync {
    /// A new byte stream to `endpoint`.
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a>;
}

/// Why there is no byte stream.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nothing answers there.
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    /// Nothing answers there in time.
    #[error("no connection within {} s", CONNECT.as_secs())]
    ConnectTimeout,
    /// The TLS settings cannot be used.
    #[error("the TLS settings cannot be used")]
    Settings(#[from] TlsError),
    /// The files of the TLS settings cannot be read in time.
    #[error("the TLS files could not be read within {} s", FILES.as_secs())]
    FilesTimeout,
    /// The other side is not trusted, does not trust us, or speaks no TLS.
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    /// The other side does not go on with the handshake.
    #[error("no TLS handshake within {} s", HANDSHAKE.as_secs())]
    HandshakeTimeout,
}

/// Dials an endpoint: Unix socket, TCP, or TLS over TCP.
#[derive(Clone, Copy, Debug)]
pub struct Dialler;

impl Dial for Dialler {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a> {
        Box::pin(async move {
            let io: Box<dyn Io> = match endpoint {
                Endpoint::Unix(path) => {
                    Box::new(connect(CONNECT, UnixStream::connect(path)).await?)
                }
                Endpoint::Http { host, port } => Box::new(dial_tcp(host, *port).await?),
                Endpoint::Https { host, port, tls } => Box::new(dial_tls(host, *port, tls).await?),
            };
            Ok(io)
        })
    }
}

async fn connect<T>(
    limit: Duration,
    connecting: impl Future<Output = io::Result<T>>,
) -> Result<T, DialError> {
    match timeout(limit, connecting).await {
        Ok(connected) => connected.map_err(DialError::Connect),
        Err(_) => Err(DialError::ConnectTimeout),
    }
}

async fn dial_tcp(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let resolved = connect(CONNECT, lookup_host((host, port))).await?;
    dial_first(resolved.take(MAX_ADDRESSES).collect()).await
}

/// The first of `addresses` that can be connected to.
async fn dial_first(addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
    let limit = if addresses.len() > 1 {
        CONNECT_EACH
    } else {
        CONNECT
    };
    let mut failed = DialError::Connect(io::ErrorKind::AddrNotAvailable.into());
    for address in addresses {
        match connect(limit, TcpStream::connect(address)).await {
            Ok(tcp) => {
                tcp.set_nodelay(true).map_err(DialError::Connect)?;
                return Ok(tcp);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn dial_tls(
    host: &str,
    port: u16,
    settings: &TlsSettings,
) -> Result<TlsStream<TcpStream>, DialError> {
    let name = tls::server_name(settings, host)?;
    let settings = settings.clone();
    let reading = task::spawn_blocking(move || tls::client_config(&settings));
    let config = timeout(FILES, reading)
        .await
        .map_err(|_| DialError::FilesTimeout)?
        .map_err(|error| DialError::Connect(io::Error::other(error)))??;
    let tcp = dial_tcp(host, port).await?;
    let connector = TlsConnector::from(Arc::new(config));
    match timeout(HANDSHAKE, connector.connect(name, tcp)).await {
        Ok(stream) => stream.map_err(DialError::Handshake),
        Err(_) => Err(DialError::HandshakeTimeout),
    }
}

/// One connection. It is closed when this and the body of its last answer are dropped.
#[derive(Debug)]
pub(super) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// Prepares `io` for requests.
    pub(super) async fn new(io: Box<dyn Io>) -> Result<Self, hyper::Error> {
        let (sender, driver) = http1::Builder::new()
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(SpeakFirst::new(io)))
            .await?;
        // What ends the connection is told to whoever waits for an answer.
        task::spawn(async move { drop(driver.await) });
        Ok(Self(sender))
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, hyper::Error> {
        self.0.ready().await?;
        self.0.send_request(request).await
    }

    /// Whether the other side has closed it, as far as is known.
    pub(super) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

/// Holds back what the other side says until the first byte was written, and leaves an error of writing to the reader.
/// Nomad answers a connection too many with a 429 at once and closes it; the 429 is what has to be known.
struct SpeakFirst {
    io: Box<dyn Io>,
    spoke: bool,
    reader: Option<Waker>,
}

impl SpeakFirst {
    fn new(io: Box<dyn Io>) -> Self {
        Self {
            io,
            spoke: false,
            reader: None,
        }
    }
}

impl AsyncRead for SpeakFirst {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.spoke {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl AsyncWrite for SpeakFirst {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(context, bytes));
        self.spoke = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(written.unwrap_or(bytes.len())))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
