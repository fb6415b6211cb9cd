//! Web servers to stand behind HAProxy, each in this process on a port of its own.
//!
//! They answer 200 with their name, `/sleep/<ms>` after a while, and can be told to fail their health check or to
//! refuse connections. HTTP/1.1 with keep-alive and without bodies of requests; nothing else.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

const SERVES: u8 = 0;
const FAILS: u8 = 1;
const REFUSES: u8 = 2;

/// A web server, refusing connections when dropped.
pub(crate) struct Toy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    mode: AtomicU8,
    requests: AtomicU64,
    checks: AtomicU64,
}

impl Toy {
    /// A server that answers with `name`.
    pub(crate) fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let toy = Self {
            address: listener.local_addr().expect("it is bound"),
            shared: Arc::new(Shared {
                name: name.to_owned(),
                mode: AtomicU8::new(SERVES),
                requests: AtomicU64::new(0),
                checks: AtomicU64::new(0),
            }),
        };
        toy.accept_on(listener);
        toy
    }

    /// Where it listens, or would.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it answers with.
    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Requests so far, without those to `/health`.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Requests to `/health` so far.
    pub(crate) fn checks(&self) -> u64 {
        self.shared.checks.load(Ordering::SeqCst)
    }

    /// Answers 200 to everything.
    pub(crate) fn serve(&self) {
        if self.shared.mode.swap(SERVES, Ordering::SeqCst) == REFUSES {
            self.listen_again();
        }
    }

    /// Answers 503 to `/health`, 200 to the rest.
    pub(crate) fn fail(&self) {
        if self.shared.mode.swap(FAILS, Ordering::SeqCst) == REFUSES {
            self.listen_again();
        }
    }

    /// Closes its port, and its connections at their next request.
    pub(crate) fn refuse(&self) {
        if self.shared.mode.swap(REFUSES, Ordering::SeqCst) != REFUSES {
            // Wakes the thread that accepts, which then drops the listener.
            while TcpStream::connect(self.address).is_ok() {
                thread::yield_now();
            }
        }
    }

    fn listen_again(&self) {
        let listener = TcpListener::bind(self.address).expect("nobody took the port meanwhile");
        self.accept_on(listener);
    }

    fn accept_on(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.mode.load(Ordering::SeqCst) == REFUSES {
                    return;
                }
                let shared = Arc::clone(&shared);
                // A connection that breaks is the client's affair.
                thread::spawn(move || converse(&stream, &shared).unwrap_or_default());
            }
        });
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.refuse();
    }
}

fn converse(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while header.trim_end() != "" || header.is_empty() {
            header.clear();
            if reader.read_line(&mut header)? == 0 {
                return Ok(());
            }
        }
        let path = request.split(' ').nth(1).unwrap_or_default();
        let is_check = path == "/health";
        let counter = if is_check {
            &shared.checks
        } else {
            &shared.requests
        };
        counter.fetch_add(1, Ordering::SeqCst);
        if let Some(millis) = path
            .strip_prefix("/sleep/")
            .and_then(|text| text.parse().ok())
        {
            thread::sleep(Duration::from_millis(millis));
        }
        let status = match shared.mode.load(Ordering::SeqCst) {
            REFUSES => return Ok(()),
            FAILS if is_check => "503 Service Unavailable",
            _ => "200 OK",
        };
        let name = &shared.name;
        let length = name.len();
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{name}");
        (&*stream).write_all(answer.as_bytes())?;
    }
}
