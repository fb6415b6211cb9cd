//! A client that asks once for each connection, and one that never stops asking.

use std::{
    io::{self, BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);

/// The body of a 200; every other answer is an error.
pub(crate) fn get(addr: SocketAddr, target: &str) -> io::Result<String> {
    ask(addr, "GET", target, "")
}

/// The same for any method.
pub(crate) fn ask(addr: SocketAddr, method: &str, target: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let length = body.len();
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = BufReader::new(stream);
    let status = line(&mut answer)?;
    let status = status.split(' ').nth(1).unwrap_or("no answer");
    if status != "200" {
        return Err(io::Error::other(format!("{method} {target}: {status}")));
    }
    let mut headers = Vec::new();
    loop {
        let header = line(&mut answer)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        headers.push(header);
    }
    let mut body = Vec::new();
    if headers.iter().any(|it| it == "transfer-encoding: chunked") {
        loop {
            let size = u64::from_str_radix(&line(&mut answer)?, 16).map_err(io::Error::other)?;
            answer.by_ref().take(size).read_to_end(&mut body)?;
            line(&mut answer)?;
            if size == 0 {
                break;
            }
        }
    } else {
        let length = headers
            .iter()
            .find_map(|it| it.strip_prefix("content-length: ")?.parse().ok());
        let end = length.unwrap_or(u64::MAX);
        answer.take(end).read_to_end(&mut body)?;
    }
    String::from_utf8(body).map_err(io::Error::other)
}

/// The next line, without its end.
fn line(answer: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    answer.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

/// Asks HAProxy fifty times a second until it is dropped, and counts.
pub(crate) struct Visitor {
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    is_over: AtomicBool,
    requests: AtomicU64,
    failed: AtomicU64,
}

impl Visitor {
    pub(crate) fn of(addr: SocketAddr) -> Self {
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let thread = thread::spawn(move || {
            while !shared.is_over.load(Ordering::SeqCst) {
                for target in ["/", "/api/"] {
                    if get(addr, target).is_err() {
                        shared.failed.fetch_add(1, Ordering::SeqCst);
                    }
                    shared.requests.fetch_add(1, Ordering::SeqCst);
                    thread::sleep(Duration::from_millis(20));
                }
            }
        });
        Self {
            counts,
            thread: Some(thread),
        }
    }

    /// Requests so far, and how many of them failed.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let failed = self.counts.failed.load(Ordering::SeqCst);
        (self.counts.requests.load(Ordering::SeqCst), failed)
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.counts.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
