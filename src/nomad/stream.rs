//! The event stream: lines of JSON, with deadlines.
//!
//! A stream that Nomad denies, revokes or ends often just falls silent (1.11.2 and later): no first line within 5 s means
//! denied, no line for 40 s means dead, as a heartbeat comes every 30 s. It frames and parses, nothing more: a reader that
//! stalls is cut off by Nomad.

use std::{error::Error as StdError, io, pin::Pin, sync::Arc, time::Duration};

use http_body_util::BodyDataStream;
use hyper::body::{Bytes, Incoming};
use tokio::time::timeout;
use tokio_stream::{Stream, StreamExt};
use tokio_util::{
    codec::{FramedRead, LinesCodec, LinesCodecError},
    io::StreamReader,
};

use crate::{
    catalog::{FailureKind, Line},
    nomad::{
        answer::{Error, MAX_WEIGHT, shortened, weight},
        route::Left,
        settings::Endpoint,
        traffic::{Kind, Outcome, Traffic},
        types,
    },
};

/// For the first line, after the head of the answer.
const FIRST_LINE: Duration = Duration::from_secs(5);
/// Between two lines.
const SILENCE: Duration = Duration::from_secs(40);
/// A line has all registrations that one Raft entry changed.
const MAX_LINE: usize = 4 * 1024 * 1024;
/// What a server without event broker answers (1.11.1 and older), with the status 500.
pub(super) const NO_BROKER: &str = "EventBroker not configured";
/// What 1.9.5 and older answer to a valid token that may not follow, with the status 500.
pub(super) const DENIED_BY_500: &str = "Permission denied";

type Lines = Pin<Box<dyn Stream<Item = Result<String, LinesCodecError>> + Send>>;

/// An open event stream.
pub struct EventStream {
    endpoint: Endpoint,
    left: Left,
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
    /// The end of the connection, in the middle of a line.
    #[error("the event stream ended within a line")]
    EndedWithin,
    /// A line that is too long to be one.
    #[error(
        "a line of the event stream is longer than {} MiB, or would take more than {} MiB of memory: it is passed over, \
         and everything is read again",
        MAX_LINE / 1024 / 1024, MAX_WEIGHT / 1024 / 1024
    )]
    LineTooLong,
    /// A line that is not one of Nomad's.
    #[error("a line of the event stream cannot be understood: {0}")]
    Malformed(String),
    /// The connection broke.
    #[error("the event stream broke")]
    Broken(#[source] io::Error),
    /// Another endpoint is asked from now on: lists and streams come from the same one.
    #[error("the event stream was closed, as another of Nomad's addresses is asked from now on")]
    Left,
}

impl StreamError {
    /// Whether Nomad, or its servers, could not be asked at all: it says nothing of rights, and may pass at any time.
    pub(super) fn is_unreachable(&self) -> bool {
        let Self::Refused(error) = self else {
            return false;
        };
        if let Error::ServerError { status, body } = error {
            let says_no = body.starts_with(NO_BROKER) || body.starts_with(DENIED_BY_500);
            return *status >= 500 && !says_no;
        }
        matches!(
            error.kind(),
            FailureKind::Unreachable | FailureKind::Limited | FailureKind::Timeout
        )
    }

    /// Whether another endpoint may do better. A denial is the same everywhere.
    pub(super) fn is_of_the_endpoint(&self) -> bool {
        match self {
            Self::Refused(error) => error.is_of_the_endpoint(),
            Self::NotHttp(_)
            | Self::Ended
            | Self::EndedBy(_)
            | Self::EndedWithin
            | Self::Broken(_) => true,
            Self::Silent
            | Self::Empty
            | Self::Dead
            | Self::LineTooLong
            | Self::Malformed(_)
            | Self::Left => false,
        }
    }

    /// What is counted of a stream that does not open.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Refused(error) => error.outcome(),
            Self::Silent | Self::Empty => Outcome::Denied,
            Self::NotHttp(_) => Outcome::ServerError,
            Self::Dead => Outcome::Timeout,
            Self::Ended | Self::EndedBy(_) | Self::EndedWithin | Self::Broken(_) => {
                Outcome::Unreachable
            }
            Self::LineTooLong | Self::Malformed(_) => Outcome::NotBelievable,
            Self::Left => Outcome::Cancelled,
        }
    }
}

impl EventStream {
    /// Waits for the first line of what `endpoint` says, until that endpoint is left.
    pub(super) async fn open(
        body: Incoming,
        endpoint: Endpoint,
        left: Left,
        traffic: Arc<Traffic>,
    ) -> Result<Self, StreamError> {
        let bytes = BodyDataStream::new(body).map(move |chunk| {
            traffic.received(Kind::Stream, chunk.as_ref().map_or(0, Bytes::len));
            chunk.map_err(io::Error::other)
        });
        let codec = LinesCodec::new_with_max_length(MAX_LINE);
        let mut lines: Lines = Box::pin(FramedRead::new(StreamReader::new(bytes), codec));
        let first = match timeout(FIRST_LINE, next_line(&mut lines)).await {
            Ok(Err(StreamError::Ended)) => return Err(StreamError::Empty),
            Ok(Err(StreamError::Broken(source))) if is_early_end(&source) => {
                return Err(StreamError::Empty);
            }
            Ok(line) => Some(line?),
            Err(_) => return Err(StreamError::Silent),
        };
        Ok(Self {
            endpoint,
            left,
            lines,
            first,
        })
    }

    /// Who speaks.
    pub(super) const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
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
        tokio::select! {
            biased;
            // The line as a whole: one that trickles in for ever is silence too.
            line = timeout(SILENCE, next_line(&mut self.lines)) => {
                line.unwrap_or(Err(StreamError::Dead))
            }
            () = self.left.wait() => Err(StreamError::Left),
        }
    }
}

async fn next_line(lines: &mut Lines) -> Result<Line, StreamError> {
    loop {
        let text = match lines.next().await {
            None => return Err(StreamError::Ended),
            Some(Ok(text)) => text,
            Some(Err(LinesCodecError::MaxLineLengthExceeded)) => {
                return Err(StreamError::LineTooLong);
            }
            Some(Err(LinesCodecError::Io(source))) => return Err(StreamError::Broken(source)),
        };
        if weight(text.as_bytes()) > MAX_WEIGHT {
            return Err(StreamError::LineTooLong);
        }
        // 1.11.1 and older end their last text with one.
        if text.is_empty() {
            continue;
        }
        return types::parse_line(&text).map_err(|error| {
            if error.is_eof() {
                StreamError::EndedWithin
            } else if text.starts_with('{') {
                StreamError::Malformed(shortened(&error.to_string()))
            } else {
                StreamError::EndedBy(shortened(&text))
            }
        });
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
