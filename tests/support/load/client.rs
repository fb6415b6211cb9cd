//! One request, and what became of it.

use std::{
    collections::VecDeque,
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{Kind, Order, Outcome, Target, lock};

/// How much longer than it asked to last a request may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any answer has.
const MAX_ANSWER: usize = 65_536;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// To whom, where that can change.
type Connection = (Option<SocketAddr>, Box<dyn Stream>);

/// Asks again and again, and keeps the connections.
pub(super) struct Client {
    target: Target,
    kind: Kind,
    host: String,
    kept: Mutex<VecDeque<Connection>>,
    /// Connections to what is listed.
    opened: AtomicUsize,
}

/// Why there is no answer.
enum Broken {
    /// Before a byte of an answer came: by the end of the connection, or otherwise.
    Before(Outcome),
    /// After that.
    Within(Outcome),
}

impl Client {
    pub(super) fn new(order: &Order) -> Self {
        Self {
            target: order.target.clone(),
            kind: order.kind,
            host: order.host.clone(),
            kept: Mutex::default(),
            opened: AtomicUsize::new(0),
        }
    }

    /// Asks for an answer after `lasts`. Also tells whether it was asked twice: a kept connection may be closed just
    /// when it is used again, as no client can know, and then every client asks once more.
    pub(super) async fn ask(&self, lasts: Duration) -> (Outcome, bool) {
        let mut retried = false;
        let outcome = timeout(PATIENCE + lasts, self.ask_twice(lasts, &mut retried)).await;
        (outcome.unwrap_or(Outcome::TimedOut), retried)
    }

    async fn ask_twice(&self, lasts: Duration, retried: &mut bool) -> Outcome {
        if self.kind == Kind::KeepAlive {
            if let Target::Listed(path) = &self.target {
                let listed = listed(path);
                lock(&self.kept).retain(|(to, _)| to.is_some_and(|to| listed.contains(&to)));
            }
            // The one that was idle for longest: each of them gets its turn.
            let kept = lock(&self.kept).pop_front();
            if let Some(connection) = kept {
                match self.converse(connection, lasts).await {
                    Ok(outcome) | Err(Broken::Within(outcome)) => return outcome,
                    Err(Broken::Before(_)) => *retried = true,
                }
            }
        }
        let connection = match self.connect().await {
            Ok(connection) => connection,
            Err(error) => return Outcome::NotConnected(error.kind()),
        };
        match self.converse(connection, lasts).await {
            Ok(outcome) | Err(Broken::Before(outcome) | Broken::Within(outcome)) => outcome,
        }
    }

    async fn connect(&self) -> io::Result<Connection> {
        let addr = match &self.target {
            Target::Unix(path) => return Ok((None, Box::new(UnixStream::connect(path).await?))),
            Target::Tcp(addr) => *addr,
            Target::Listed(path) => {
                let (listed, turn) = (listed(path), self.opened.fetch_add(1, Ordering::Relaxed));
                *listed
                    .get(turn % listed.len().max(1))
                    .ok_or(io::ErrorKind::AddrNotAvailable)?
            }
        };
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok((Some(addr), Box::new(stream)))
    }

    async fn converse(
        &self,
        mut connection: Connection,
        lasts: Duration,
    ) -> Result<Outcome, Broken> {
        let millis = lasts.as_millis();
        let host = &self.host;
        let request = match self.kind {
            Kind::KeepAlive => format!("GET /sleep/{millis} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            Kind::Close => {
                format!("GET /sleep/{millis} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
            }
            Kind::Tcp => format!("sleep {millis}\n"),
        };
        if connection.1.write_all(request.as_bytes()).await.is_err() {
            return Err(Broken::Before(Outcome::Reset));
        }
        let mut answer = Vec::new();
        loop {
            let complete = match self.kind {
                Kind::Tcp => of_session(&answer),
                Kind::KeepAlive | Kind::Close => of_answer(&answer),
            };
            if let Some((outcome, keeps)) = complete {
                if keeps && self.kind == Kind::KeepAlive {
                    lock(&self.kept).push_back(connection);
                }
                return Ok(outcome);
            }
            if answer.len() > MAX_ANSWER {
                return Err(Broken::Within(Outcome::Garbled));
            }
            let broken = match connection.1.read_buf(&mut answer).await {
                Ok(0) if answer.is_empty() => Outcome::ClosedWithoutAnswer,
                Ok(0) => Outcome::Cut,
                Ok(_) => continue,
                Err(_) => Outcome::Reset,
            };
            return Err(if answer.is_empty() {
                Broken::Before(broken)
            } else {
                Broken::Within(broken)
            });
        }
    }
}

fn listed(path: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// What a session has been told, when it is complete.
fn of_session(answer: &[u8]) -> Option<(Outcome, bool)> {
    let name = answer.strip_suffix(b"\n")?;
    let by = String::from_utf8_lossy(name).into_owned();
    Some((Outcome::Answered { status: 200, by }, false))
}

/// An answer of HTTP, when it is complete, and whether its connection can be used again.
fn of_answer(answer: &[u8]) -> Option<(Outcome, bool)> {
    const END: &[u8] = b"\r\n\r\n";
    let head = answer.windows(END.len()).position(|part| part == END)?;
    let body = answer.len() - head - END.len();
    let head = String::from_utf8_lossy(&answer[..head]);
    let garbled = Some((Outcome::Garbled, false));
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| {
        let mut words = rest.split(' ');
        let minor = words.next()?;
        Some((words.next()?.parse().ok()?, minor == "1"))
    });
    let Some((status, mut keeps)) = status else {
        return garbled;
    };
    let (mut length, mut by) = (None, None);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return garbled;
        };
        let value = value.trim();
        match &*name.to_ascii_lowercase() {
            "content-length" => length = value.parse().ok(),
            "connection" => keeps &= !value.eq_ignore_ascii_case("close"),
            "x-instance" => by = Some(value.to_owned()),
            _ => {}
        }
    }
    // The application and HAProxy always say it.
    let length: usize = match length {
        Some(length) => length,
        None => return garbled,
    };
    let outcome = match by {
        Some(by) => Outcome::Answered { status, by },
        None => Outcome::HaproxyAnswered { status },
    };
    (body >= length).then_some((outcome, keeps))
}
