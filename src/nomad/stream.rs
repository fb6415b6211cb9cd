//! The event stream: lines of JSON, with deadlines.
//!
//! A stream that Nomad denies, revokes or ends often just falls silent (1.11.2 and later): no first line within 5 s means
//! denied, no line for 40 s means dead, as a heartbeat comes every 30 s. It frames and parses, nothing more: a reader that
//! stalls is cut off by Nomad.

use std::{error::Error as StdError, io, pin::Pin, time::Duration};

use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::StreamReader,
};

use crate::{
    catalog::{FailureKind, Line},
    nomad::{
        client::{Error, shortened},
        types,
    },
};

/// For the first line, after the head of the answer.
const FIRST_LINE: Duration = Duration::from_secs(5);
/// Between two lines.
const SILENCE: Duration = Duration::from_secs(40);
/// A line has all registrations that one Raft entry changed.
const MAX_LINE: usize = 1024 * 1024;

type Lines = Pin<Box<dyn Stream<Item = Result<String, LinesCodecError>> + Send>>;

/// An open event stream.
pub struct EventStream {
    lines: Lines,
    /// The line that showed that the stream is open.
    first: Option<Line>,
}

/// Why a stream could not be opened, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// There was no answer, or one that says no.
    #[error(transparent)]
    Refused(Error),
    /// The answer's head is none of HTTP/1: Nomad 1.11.2 (and Enterprise 1.10.8 and 1.8.20) send `HTTP/0.0`.
    #[error(
        "the head of the event stream is no HTTP/1 (Nomad 1.11.2, 1.10.8+ent and 1.8.20+ent send HTTP/0.0; fixed in the next release)"
    )]
    NotHttp(#[source] hyper::Error),
    /// 200, and then nothing.
    #[error(
        "the event stream stayed silent for {} s: denied, or the event broker is disabled",
        FIRST_LINE.as_secs()
    )]
    Silent,
    /// 200, and then the end.
    #[error("the event stream ended without a line: denied, or the event broker is disabled")]
    Empty,
    /// No line, not even a heartbeat.
    #[error("the event stream was silent for {} s", SILENCE.as_secs())]
    Dead,
    /// The end of the connection.
    #[error("the event stream ended")]
    Ended,
    /// The end, with the reason that versions before 1.11.2 give.
    #[error("the event stream ended: {0}")]
    EndedBy(String),
    /// A line that is too long to be one.
    #[error("a line of the event stream is longer than {} KiB", MAX_LINE / 1024)]
    LineTooLong,
    /// A line that is not one of Nomad's.
    #[error("a line of the event stream cannot be understood: {0}")]
    Malformed(String),
    /// The connection broke.
    #[error("the event stream broke")]
    Broken(#[source] io::Error),
}

impl StreamError {
    /// Whether Nomad, or its servers, could not be asked at all: it says nothing of rights, and may pass at any time.
    pub(super) fn is_unreachable(&self) -> bool {
        let Self::Refused(error) = self else {
            return false;
        };
        matches!(
            error,
            Error::Timeout(_) | Error::ServerError { status: 500.., .. }
        ) || matches!(
            error.kind(),
            FailureKind::Unreachable | FailureKind::Limited
        )
    }
}

impl EventStream {
    /// Waits for the first line.
    pub(super) async fn open(body: Incoming) -> Result<Self, StreamError> {
        let bytes = BodyDataStream::new(body).map(|chunk| chunk.map_err(io::Error::other));
        let codec = LinesCodec::new_with_max_length(MAX_LINE);
        let mut stream = Self {
            lines: Box::pin(FramedRead::new(StreamReader::new(bytes), codec)),
            first: None,
        };
        stream.first = match timeout(FIRST_LINE, stream.line()).await {
            Ok(Err(StreamError::Ended)) => return Err(StreamError::Empty),
            Ok(Err(StreamError::Broken(source))) if is_early_end(&source) => {
                return Err(StreamError::Empty);
            }
            Ok(line) => Some(line?),
            Err(_) => return Err(StreamError::Silent),
        };
        Ok(stream)
    }

    /// The next line, a heartbeat included. After an error the stream is of no more use.
    ///
    /// # Errors
    ///
    /// When the stream ends, in one of its many ways.
    pub async fn next(&mut self) -> Result<Line, StreamError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        match timeout(SILENCE, self.line()).await {
            Ok(line) => line,
            Err(_) => Err(StreamError::Dead),
        }
    }

    async fn line(&mut self) -> Result<Line, StreamError> {
        loop {
            let text = match self.lines.next().await {
                None => return Err(StreamError::Ended),
                Some(Ok(text)) => text,
                Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                    return Err(StreamError::LineTooLong);
                }
                Some(Err(LinesCodecError::Io(source))) => return Err(StreamError::Broken(source)),
            };
            // 1.11.1 and older end their last text with one.
            if text.is_empty() {
                continue;
            }
            return types::parse_line(&text).map_err(|error| {
                if text.starts_with('{') {
                    StreamError::Malformed(shortened(&error.to_string()))
                } else {
                    StreamError::EndedBy(shortened(&text))
                }
            });
        }
    }
}

/// Whether the other side just closed the connection: over TLS Nomad does that without a word when it denied a stream.
fn is_early_end(error: &io::Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof) {
            return true;
        }
        // An io::Error passes over what it holds when it is asked for its source.
        cause = match io.and_then(io::Error::get_ref) {
            Some(held) => Some(held),
            None => error.source(),
        };
    }
    false
}
