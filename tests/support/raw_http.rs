//! A client that hides nothing: what a socket said, byte by byte. For tests of the fake and of Nomad itself.

use std::{net::SocketAddr, time::Duration};

use haproxy_nomad_sidecar::nomad::transport::Io;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// How long something may take that happens at once.
const SOON: Duration = Duration::from_secs(10);

/// One answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Status line and headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// `X-Nomad-Index`.
    pub(crate) fn index(&self) -> u64 {
        let index = self.header("X-Nomad-Index").expect("there is an index");
        index.parse().expect("it is a number")
    }

    /// Panics unless it is what was recorded, but for the date.
    pub(crate) fn assert_is(&self, recorded: &str) {
        let said = format!("{}{}", self.head, self.body);
        assert_eq!(undated(&said), undated(recorded));
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    headers
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// The answer to `method target` with `body`.
pub(crate) async fn ask(addr: SocketAddr, method: &str, target: &str, body: &str) -> Reply {
    ask_with(addr, method, target, body, "").await
}

/// The same with more headers, each with its line end.
pub(crate) async fn ask_with(
    addr: SocketAddr,
    method: &str,
    target: &str,
    body: &str,
    headers: &str,
) -> Reply {
    let socket = TcpStream::connect(addr).await.expect("it listens");
    ask_on(Box::new(socket), method, target, body, headers).await
}

/// The same over a connection that is there.
pub(crate) async fn ask_on(
    mut socket: Box<dyn Io>,
    method: &str,
    target: &str,
    body: &str,
    headers: &str,
) -> Reply {
    let request = request(method, target, body, headers);
    socket
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    socket.flush().await.expect("it reads");
    reply(&mut socket).await
}

/// `GET target`.
pub(crate) async fn get(addr: SocketAddr, target: &str) -> Reply {
    ask(addr, "GET", target, "").await
}

/// The bytes of a request.
pub(crate) fn request(method: &str, target: &str, body: &str, headers: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: nomad\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one answer that ends before its connection does.
pub(crate) async fn reply(socket: &mut (impl AsyncReadExt + Unpin)) -> Reply {
    let head = read_head(socket).await;
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    let mut reply = Reply {
        status: status.expect("a status line"),
        head,
        body: String::new(),
    };
    let mut body = Vec::new();
    if reply.header("Transfer-Encoding") == Some("chunked") {
        while let Some(chunk) = read_chunk(socket).await {
            body.extend(chunk);
        }
    } else {
        let length = reply.header("Content-Length").expect("a length");
        body.resize(length.parse().expect("a number"), 0);
        socket
            .read_exact(&mut body)
            .await
            .expect("the whole body comes");
    }
    reply.body = String::from_utf8(body).expect("the body is UTF-8");
    reply
}

/// The same text with no time in it.
pub(crate) fn undated(text: &str) -> String {
    let lines = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("Date: "));
    lines.collect()
}

/// An open event stream.
pub(crate) struct EventStream {
    pub(crate) head: String,
    chunked: bool,
    socket: Box<dyn Io>,
    received: Vec<u8>,
}

/// What a stream said next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Line(String),
    Nothing,
    /// It ended, after these bytes of no whole line.
    End(String),
}

impl EventStream {
    pub(crate) async fn open(addr: SocketAddr, query: &str) -> Self {
        Self::open_with(addr, query, "").await
    }

    pub(crate) async fn open_with(addr: SocketAddr, query: &str, headers: &str) -> Self {
        let socket = TcpStream::connect(addr).await.expect("it listens");
        Self::open_on(Box::new(socket), query, headers).await
    }

    /// The same over a connection that is there.
    pub(crate) async fn open_on(mut socket: Box<dyn Io>, query: &str, headers: &str) -> Self {
        let request = request("GET", &format!("/v1/event/stream?{query}"), "", headers);
        socket
            .write_all(request.as_bytes())
            .await
            .expect("it reads");
        socket.flush().await.expect("it reads");
        let head = read_head(&mut socket).await;
        Self {
            chunked: head.contains("Transfer-Encoding: chunked"),
            head,
            socket,
            received: Vec::new(),
        }
    }

    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The next line, or what came instead within `deadline`. Chunks are put together.
    pub(crate) async fn next(&mut self, deadline: Duration) -> Said {
        timeout(deadline, self.read())
            .await
            .unwrap_or(Said::Nothing)
    }

    /// The next line that comes soon.
    pub(crate) async fn line(&mut self) -> String {
        match self.next(SOON).await {
            Said::Line(line) => line,
            said @ (Said::Nothing | Said::End(_)) => panic!("no line but {said:?}"),
        }
    }

    /// The next batch that comes soon, heartbeats passed over.
    pub(crate) async fn batch(&mut self) -> serde_json::Value {
        loop {
            let line = self.line().await;
            if line != "{}" {
                return serde_json::from_str(&line).expect("a line is JSON");
            }
        }
    }

    async fn read(&mut self) -> Said {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                return Said::Line(line.trim_end_matches('\n').to_owned());
            }
            let more = if self.chunked {
                read_chunk(&mut self.socket).await
            } else {
                let mut bytes = vec![0; 4096];
                let read = self.socket.read(&mut bytes).await.unwrap_or(0);
                bytes.truncate(read);
                Some(bytes).filter(|bytes| !bytes.is_empty())
            };
            match more {
                Some(bytes) => self.received.extend(bytes),
                None => return Said::End(String::from_utf8_lossy(&self.received).into_owned()),
            }
        }
    }
}

/// The next chunk of a body; none at its end, or when the connection ends.
async fn read_chunk(socket: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut size = Vec::new();
    while !size.ends_with(b"\r\n") {
        size.push(socket.read_u8().await.ok()?);
    }
    let size = String::from_utf8_lossy(&size);
    let size = usize::from_str_radix(size.trim_end(), 16).expect("the size of a chunk");
    let mut chunk = vec![0; size + 2];
    socket.read_exact(&mut chunk).await.ok()?;
    chunk.truncate(size);
    (size > 0).then_some(chunk)
}

async fn read_head(socket: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.expect("the head comes whole"));
        }
    };
    timeout(SOON, read).await.expect("the head comes soon");
    String::from_utf8(head).expect("the head is UTF-8")
}
