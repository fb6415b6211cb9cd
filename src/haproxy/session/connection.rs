//! One connection to HAProxy: greeted, then moving the bytes of a [`Pipeline`].
//!
//! It ends at its first error, at once: an open connection keeps a replaced HAProxy alive.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::bytes::Buf;

use super::{
    Settings,
    error::{ConnectError, MAX_PATH, SessionError},
    pipeline::{Answered, PROMPT, Pipeline, Unfinished},
};
use crate::{
    haproxy::parse,
    model::{Batch, ProcessInfo, Response},
};

/// Read at most so much at once.
const CHUNK: usize = 64 << 10;

/// A sidecar that looks so much later than it should was stopped, or its machine was.
const STOOD_STILL: Duration = Duration::from_secs(3);

/// No answer of the greeting is longer.
const MAX_GREETING: usize = 64 << 10;

/// An open connection to a HAProxy that may be changed.
#[derive(Debug)]
pub struct Connection {
    /// `None` once it has failed.
    stream: Option<UnixStream>,
    pipeline: Pipeline,
    settings: Settings,
    /// When the answer that is due last grew, or became due.
    progress: Instant,
    /// When the session looked at the process last, for a connection that has a session.
    polled_at: Option<Instant>,
}

impl Connection {
    /// Connects, enters prompt mode, and makes sure that this HAProxy can be changed and is not being replaced.
    pub async fn open(settings: &Settings) -> Result<(Self, ProcessInfo), ConnectError> {
        let path = &settings.socket;
        if path.as_os_str().len() > MAX_PATH {
            return Err(ConnectError::PathTooLong(path.clone()));
        }
        let greeting = async {
            let mut stream = UnixStream::connect(path).await.map_err(|error| {
                ConnectError::from_connect(path, error, settings.reply_deadline)
            })?;
            let info = greet(&mut stream, path).await?;
            Ok((stream, info))
        };
        let (stream, info) = timeout(settings.reply_deadline, greeting)
            .await
            .unwrap_or_else(|_| {
                Err(ConnectError::NoAnswer {
                    path: path.clone(),
                    deadline: settings.reply_deadline,
                })
            })?;
        let connection = Self {
            stream: Some(stream),
            pipeline: Pipeline::new(info.clone(), settings.window),
            settings: settings.clone(),
            progress: Instant::now(),
            polled_at: None,
        };
        Ok((connection, info))
    }

    /// Runs one batch to its end. Returns what was answered and, if that is not all, why; after an error nothing more can
    /// be run on this connection.
    pub async fn run_batch(&mut self, batch: &Batch) -> (Vec<Response>, Option<SessionError>) {
        self.push(batch.clone());
        loop {
            match self.advance().await {
                Ok((id, responses)) if id == batch.id => return (responses, None),
                // Of a batch whose caller has gone.
                Ok(_) => {}
                Err(error) => {
                    let unfinished = self.give_up(&error).pop();
                    let responses = unfinished.map_or_else(Vec::new, |(_, responses, _)| responses);
                    return (responses, Some(error));
                }
            }
        }
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.pipeline.push(batch);
    }

    /// The session begins: from now on it looks at the process again and again.
    pub(super) fn attend(&mut self) {
        self.polled_at = Some(Instant::now());
    }

    pub(super) fn poll(&mut self) {
        self.pipeline.poll();
        // Otherwise the connection is about to end.
        if self.stood_still().is_none() {
            self.polled_at = Some(Instant::now());
        }
    }

    /// For how long the sidecar itself did nothing, when that is too long: what it was about to write is of another time.
    fn stood_still(&self) -> Option<SessionError> {
        let silence = self.polled_at?.elapsed();
        (silence > self.settings.poll + STOOD_STILL).then_some(SessionError::StoodStill(silence))
    }

    pub(super) fn waiting_batches(&self) -> usize {
        self.pipeline.len()
    }

    /// Writes and reads until a batch is answered as a whole. An error ends the connection. Cancel-safe.
    pub(super) async fn advance(&mut self) -> Result<Answered, SessionError> {
        let answered = self.exchange().await;
        if answered.is_err() {
            self.stream = None;
        }
        answered
    }

    pub(super) fn give_up(&mut self, error: &SessionError) -> Vec<Unfinished> {
        self.pipeline.give_up(error)
    }

    async fn exchange(&mut self) -> Result<Answered, SessionError> {
        let Some(stream) = &self.stream else {
            return Err(SessionError::NotConnected);
        };
        loop {
            if let Some(error) = self.stood_still() {
                return Err(error);
            }
            if let Some(answered) = self.pipeline.answer()? {
                return Ok(answered);
            }
            if !self.pipeline.is_answer_due() {
                self.progress = Instant::now();
            }
            let interest = if self.pipeline.output().is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = if self.pipeline.is_answer_due() {
                let deadline = self.settings.reply_deadline;
                timeout_at(self.progress + deadline, stream.ready(interest))
                    .await
                    .map_err(|_| self.stood_still().unwrap_or(SessionError::Silent(deadline)))??
            } else {
                stream.ready(interest).await?
            };
            if let Some(error) = self.stood_still() {
                return Err(error);
            }
            if ready.is_readable() {
                let input = self.pipeline.input();
                input.reserve(CHUNK);
                match stream.try_read_buf(input) {
                    Ok(0) => return Err(SessionError::Closed),
                    Ok(_) => self.progress = Instant::now(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if ready.is_writable() {
                let output = self.pipeline.output();
                match stream.try_write(output) {
                    Ok(written) => output.advance(written),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
}

/// The fixed beginning of every session. The socket may be configured with `severity-output`, which would put a prefix
/// before each answer; the time-out is how long a HAProxy that was replaced waits for a sidecar that was stopped.
async fn greet(stream: &mut UnixStream, path: &Path) -> Result<ProcessInfo, ConnectError> {
    let mut input = Vec::new();
    send(stream, path, "prompt\n").await?;
    expect_silence(path, &answer(stream, path, &mut input).await?)?;
    send(
        stream,
        path,
        "set severity-output none\nset timeout cli 60s\nshow cli level\nshow info\n",
    )
    .await?;
    expect_silence(path, &answer(stream, path, &mut input).await?)?;
    expect_silence(path, &answer(stream, path, &mut input).await?)?;
    let level = answer(stream, path, &mut input).await?;
    if level.trim_ascii() != b"admin" {
        return Err(ConnectError::NotAdmin {
            path: path.to_owned(),
            level: parse::shown(level.trim_ascii()),
        });
    }
    let info = parse::info(&answer(stream, path, &mut input).await?).map_err(|source| {
        ConnectError::Unreadable {
            path: path.to_owned(),
            source,
        }
    })?;
    expect_silence(path, &input)?;
    if info.stopping {
        return Err(ConnectError::Stopping(path.to_owned()));
    }
    Ok(info)
}

async fn send(stream: &mut UnixStream, path: &Path, lines: &str) -> Result<(), ConnectError> {
    stream
        .write_all(lines.as_bytes())
        .await
        .map_err(|error| ConnectError::from_greeting(path, error))
}

async fn answer(
    stream: &mut UnixStream,
    path: &Path,
    input: &mut Vec<u8>,
) -> Result<Vec<u8>, ConnectError> {
    loop {
        if let Some(end) = input
            .windows(PROMPT.len())
            .position(|window| window == PROMPT)
        {
            let rest = input.split_off(end + PROMPT.len());
            let mut answer = std::mem::replace(input, rest);
            answer.truncate(end);
            return Ok(answer);
        }
        if input.starts_with(b"master> ") {
            return Err(ConnectError::Master(path.to_owned()));
        }
        let read = stream
            .read_buf(input)
            .await
            .map_err(|error| ConnectError::from_greeting(path, error))?;
        if read == 0 && input.is_empty() {
            return Err(ConnectError::Closed(path.to_owned()));
        }
        if read == 0 || input.len() > MAX_GREETING {
            return Err(not_haproxy(path, input));
        }
    }
}

fn expect_silence(path: &Path, answer: &[u8]) -> Result<(), ConnectError> {
    match answer {
        b"" => Ok(()),
        words => Err(not_haproxy(path, words)),
    }
}

fn not_haproxy(path: &Path, words: &[u8]) -> ConnectError {
    ConnectError::NotHaproxy {
        path: path.to_owned(),
        said: parse::shown(words),
    }
}
