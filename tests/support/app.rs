//! An application as Nomad runs them: it boots for a while before it listens, its requests last as long as they ask,
//! and when it is told to end it closes its listener, finishes what runs, and is gone. As servers do that end gracefully,
//! it answers whoever is connected by then.
//!
//! It speaks HTTP/1.1 with keep-alive and without bodies of requests: 200 with its name, `/sleep/<ms>` after a while,
//! `/health` for checks. Every answer has the header `X-Instance`, so that nobody takes an answer of HAProxy's own for
//! one of an application. A connection whose first line is no request of HTTP is a TCP session: `sleep <ms>` is answered
//! with the name after a while, as often as the client likes.
//!
//! It is tasks on a runtime, not a process; `toy_web.rs` makes a process of it.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Handle,
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// A running application. It is told to end when it is dropped.
pub(crate) struct App {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

struct Shared {
    name: String,
    is_healthy: AtomicBool,
    listens: AtomicBool,
    has_ended: AtomicBool,
    requests: AtomicU64,
    checks: AtomicU64,
}

impl App {
    /// One that answers with `name` at `address`, after it has booted. Its port is taken at once, though nobody listens
    /// there: connections are refused until then.
    pub(crate) fn boot(
        runtime: &Handle,
        name: &str,
        address: SocketAddr,
        boots: Duration,
    ) -> io::Result<Self> {
        // Sockets of tokio belong to the runtime in which they are made.
        let _inside = runtime.enter();
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let app = Self {
            address: socket.local_addr()?,
            shared: Arc::new(Shared {
                name: name.to_owned(),
                is_healthy: AtomicBool::new(true),
                listens: AtomicBool::new(false),
                has_ended: AtomicBool::new(false),
                requests: AtomicU64::new(0),
                checks: AtomicU64::new(0),
            }),
            stop: watch::Sender::new(false),
        };
        let (shared, mut stop) = (Arc::clone(&app.shared), app.stop.subscribe());
        runtime.spawn(async move {
            tokio::select! {
                () = sleep(boots) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            if !*stop.borrow() {
                // Its port is its own already, so there is nothing that could fail.
                if let Ok(listener) = socket.listen(1024) {
                    serve(listener, &shared, stop).await;
                }
            }
            shared.has_ended.store(true, Ordering::SeqCst);
        });
        Ok(app)
    }

    /// Where it listens, or will.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it answers with.
    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether it has booted, and was not told to end.
    pub(crate) fn listens(&self) -> bool {
        self.shared.listens.load(Ordering::SeqCst)
    }

    /// Requests and sessions so far, without those to `/health`.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Requests to `/health` so far.
    pub(crate) fn checks(&self) -> u64 {
        self.shared.checks.load(Ordering::SeqCst)
    }

    /// Whether it answers 200 or 503 to `/health`.
    pub(crate) fn set_healthy(&self, is_healthy: bool) {
        self.shared.is_healthy.store(is_healthy, Ordering::SeqCst);
    }

    /// SIGTERM: closes its listener and its idle connections, and finishes what runs.
    pub(crate) fn terminate(&self) {
        self.stop.send_replace(true);
    }

    /// Whether everything is finished after [`Self::terminate`].
    pub(crate) fn has_ended(&self) -> bool {
        self.shared.has_ended.load(Ordering::SeqCst)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.terminate();
    }
}

async fn serve(listener: TcpListener, shared: &Arc<Shared>, mut stop: watch::Receiver<bool>) {
    shared.listens.store(true, Ordering::SeqCst);
    let mut conversations = JoinSet::new();
    let told = stop.clone();
    let converse = |stream| {
        let conversation = Conversation::new(stream, Arc::clone(shared), told.clone());
        // A connection that breaks is the client's affair.
        async { conversation.hold().await.unwrap_or_default() }
    };
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            Some(_) = conversations.join_next() => {}
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    conversations.spawn(converse(stream));
                }
            }
        }
    }
    // Whoever is connected already would be reset.
    while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
        conversations.spawn(converse(stream));
    }
    shared.listens.store(false, Ordering::SeqCst);
    drop(listener);
    while conversations.join_next().await.is_some() {}
}

struct Conversation {
    is_new: bool,
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
}

impl Conversation {
    fn new(stream: TcpStream, shared: Arc<Shared>, stop: watch::Receiver<bool>) -> Self {
        // Without it an answer may wait for the client's acknowledgement; it is as right, only later.
        stream.set_nodelay(true).unwrap_or_default();
        let (reader, writer) = stream.into_split();
        Self {
            is_new: true,
            lines: BufReader::new(reader).lines(),
            writer,
            shared,
            stop,
        }
    }

    async fn hold(mut self) -> io::Result<()> {
        while let Some(first) = self.next_request().await? {
            let goes_on = if first.contains(" HTTP/1.") {
                self.answer_request(&first).await?
            } else {
                self.answer_session(&first).await?
            };
            if !goes_on || *self.stop.borrow() {
                break;
            }
        }
        Ok(())
    }

    /// The first line of what comes next. One that has to end still answers a request that is there already, and waits a
    /// moment for the first one of a new connection: it is on its way.
    async fn next_request(&mut self) -> io::Result<Option<String>> {
        let is_new = std::mem::take(&mut self.is_new);
        let told = async {
            self.stop.wait_for(|stop| *stop).await.map(drop).ok();
            if is_new {
                sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            biased;
            line = self.lines.next_line() => line,
            () = told => Ok(None),
        }
    }

    async fn answer_session(&mut self, line: &str) -> io::Result<bool> {
        self.shared.requests.fetch_add(1, Ordering::SeqCst);
        last(line.strip_prefix("sleep ")).await;
        let answer = format!("{}\n", self.shared.name);
        self.writer.write_all(answer.as_bytes()).await?;
        Ok(true)
    }

    /// Whether another request may follow.
    async fn answer_request(&mut self, line: &str) -> io::Result<bool> {
        let mut goes_on = !line.ends_with("/1.0");
        loop {
            let header = self.lines.next_line().await?;
            let header = header.ok_or(io::ErrorKind::UnexpectedEof)?;
            if header.is_empty() {
                break;
            }
            goes_on &= !header.eq_ignore_ascii_case("connection: close");
        }
        let mut words = line.split(' ');
        let is_head = words.next() == Some("HEAD");
        let path = words.next().unwrap_or_default();
        let (status, body) = if path == "/health" {
            self.shared.checks.fetch_add(1, Ordering::SeqCst);
            if self.shared.is_healthy.load(Ordering::SeqCst) {
                ("200 OK", "ok")
            } else {
                ("503 Service Unavailable", "not ok")
            }
        } else {
            self.shared.requests.fetch_add(1, Ordering::SeqCst);
            last(path.strip_prefix("/sleep/")).await;
            ("200 OK", &*self.shared.name)
        };
        goes_on &= !*self.stop.borrow();
        let connection = if goes_on { "keep-alive" } else { "close" };
        let answer = format!(
            "HTTP/1.1 {status}\r\nX-Instance: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{}",
            self.shared.name,
            body.len() + 1,
            if is_head {
                String::new()
            } else {
                format!("{body}\n")
            }
        );
        self.writer.write_all(answer.as_bytes()).await?;
        Ok(goes_on)
    }
}

/// Lasts as long as a request asks to.
async fn last(millis: Option<&str>) {
    if let Some(millis) = millis.and_then(|text| text.trim().parse().ok()) {
        sleep(Duration::from_millis(millis)).await;
    }
}

/// An address of the loopback that nobody else has, and nobody will: no request can reach an instance because it has the
/// address of one that has ended.
pub(crate) fn loopback() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // 127.16.0.0 and above, from a place that another test program at the same time does not have.
    let first = std::process::id().wrapping_mul(0x9e37_79b1) >> 9;
    let number = (first + NEXT.fetch_add(1, Ordering::SeqCst)) % (0x7f_ffff - 2) + 1;
    Ipv4Addr::from(0x7f00_0000 | 0x10_0000 | number)
}
