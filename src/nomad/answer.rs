//! What an answer must have to be believed, and what it is taken for when it has not.
//!
//! Every answer that is believed was 200, JSON, uncompressed, with an index of 1 or more and a known leader (`/v1/services`
//! answers an empty list with index 0 to a token without rights, and from an agent that is shutting down).

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::{
    Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use memchr::memchr_iter;
use tokio::{sync::SemaphorePermit, time::timeout};

use crate::{
    catalog::FailureKind,
    nomad::{
        route::Route,
        settings::TokenError,
        traffic::{Kind, Outcome},
        transport::DialError,
    },
};

/// For a whole answer, from the request to the last byte of the body.
pub(super) const ANSWER: Duration = Duration::from_secs(15);
/// 10,000 registrations are some 6 MB.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// What an answer or a line may take in memory once it is read.
pub(super) const MAX_WEIGHT: usize = 16 * 1024 * 1024;
/// What a text takes beside its bytes.
const TEXT: usize = 48;
/// Answers that are longer are read one at a time.
const SMALL: usize = 256 * 1024;
/// For the text of an error, which is of less use the later it comes.
const ERROR_BODY: Duration = Duration::from_secs(5);
/// So much of the text of an error is kept.
const MAX_ERROR_BODY: usize = 4096;
/// So much of a foreign text is shown.
const SHOWN: usize = 200;
/// So much of the words on what was sent: there may be several mistakes in a job.
const SHOWN_OF_WORDS: usize = 2000;
/// What the Task API answers to a token that is none, and when there is no server to ask.
const AUTHENTICATION_FAILED: &str = "Server error authenticating request";
/// What is answered to a token without the right to read an allocation that is there (`nomad/alloc_endpoint.go`, `GetAlloc`),
/// with the status 500; client agents have [`RPC`] before it.
const ALLOCATION_DENIED: &str = "Unknown allocation";
const RPC: &str = "rpc error: ";
const INDEX_HEADER: &str = "x-nomad-index";
const LEADER_HEADER: &str = "x-nomad-knownleader";

/// A believable answer: there was a known leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// The index of the whole table of registrations, 1 or more.
    pub index: u64,
    /// What was asked for.
    pub value: T,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 401 (no token), 403 (a token without the right, or an unknown one), or the 500 of an allocation that may not be read.
    #[error("denied ({status}: {body})")]
    Denied {
        /// The status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// The Task API could not authenticate: the token is none, or no server could be asked.
    #[error("the token could not be authenticated (500: {body})")]
    BadToken {
        /// The beginning of the body.
        body: String,
    },
    /// Any other status that is not 200.
    #[error("status {status}: {body}")]
    ServerError {
        /// The status.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// A 200 that proves nothing.
    #[error("the answer cannot be believed")]
    NotBelievable(#[source] Doubt),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] DialError),
    /// The connection ended before the answer did.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// Too many connections or requests (429).
    #[error("too many connections or requests (429: {body})")]
    Limited {
        /// The beginning of the body.
        body: String,
    },
    /// What came is no HTTP/1.
    #[error("the answer is no HTTP/1")]
    Protocol(#[source] hyper::Error),
    /// The body is longer than any that is expected.
    #[error(
        "the answer is longer than {} MiB, or would take more than {} MiB of memory, and is not read; what is known stays",
        MAX_BODY / 1024 / 1024, MAX_WEIGHT / 1024 / 1024
    )]
    TooLong,
    /// The token cannot be had.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The API has no way to ask for a service of this name.
    #[error("the name {0:?} cannot be asked for through Nomad's API")]
    UnreadableName(String),
}

/// Why a 200 proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// The index is 0: nothing was read. A valid answer has 1 or more.
    #[error("its index is 0")]
    IndexZero,
    /// The index is missing or no number.
    #[error("it has no valid X-Nomad-Index header")]
    NoIndex,
    /// The agent knows no leader.
    #[error("it was given without a known leader")]
    NoLeader,
    /// The body is compressed, which nobody asked for.
    #[error("its body is compressed ({0:?}), which was not asked for")]
    Compressed(String),
    /// The body is of another type.
    #[error("its body is of type {0:?}, not JSON")]
    ContentType(String),
    /// The body is JSON, but not what Nomad sends.
    #[error("its body is not what was asked for: {0}")]
    Content(String),
}

impl Error {
    /// The kind of failure that the mirror is told.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Denied { status: 401, .. } | Self::BadToken { .. } | Self::Token(_) => {
                FailureKind::BadToken
            }
            Self::Denied { .. } => FailureKind::Denied,
            Self::ServerError { .. } | Self::Protocol(_) => FailureKind::ServerError,
            Self::TooLong => FailureKind::TooLong,
            Self::NotBelievable(_) => FailureKind::NotBelievable,
            Self::Timeout(_) => FailureKind::Timeout,
            Self::Connect(_) | Self::Broken(_) => FailureKind::Unreachable,
            Self::Limited { .. } => FailureKind::Limited,
            Self::UnreadableName(_) => FailureKind::Unreadable,
        }
    }

    /// What is counted.
    pub(super) fn outcome(&self) -> Outcome {
        match self.kind() {
            FailureKind::Denied => Outcome::Denied,
            FailureKind::BadToken => Outcome::BadToken,
            FailureKind::Unreachable => Outcome::Unreachable,
            FailureKind::Timeout => Outcome::Timeout,
            FailureKind::ServerError => Outcome::ServerError,
            FailureKind::TooLong => Outcome::TooLong,
            FailureKind::Limited => Outcome::Limited,
            FailureKind::NotBelievable | FailureKind::Unreadable => Outcome::NotBelievable,
        }
    }

    /// Whether another endpoint may do better: this one is gone, hangs, or has no servers or no leader. What the servers
    /// themselves say of the token is the same everywhere.
    pub(super) fn is_of_the_endpoint(&self) -> bool {
        match self {
            Self::Denied { .. } | Self::Token(_) | Self::UnreadableName(_) => false,
            Self::BadToken { .. }
            | Self::ServerError { .. }
            | Self::NotBelievable(_)
            | Self::Timeout(_)
            | Self::Connect(_)
            | Self::Broken(_)
            | Self::Limited { .. }
            | Self::Protocol(_)
            | Self::TooLong => true,
        }
    }

    /// Whether another token could help, so that its file should be read again.
    pub(super) fn is_about_the_token(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::BadToken { .. })
    }

    pub(super) fn from_hyper(error: hyper::Error) -> Self {
        if error.is_parse() {
            Self::Protocol(error)
        } else {
            Self::Broken(error)
        }
    }
}

/// The index of an answer whose head is believed.
pub(super) fn believed_index(headers: &HeaderMap) -> Result<u64, Doubt> {
    json(headers)?;
    let text = |name| text(headers, name);
    match text(INDEX_HEADER).and_then(|index| index.parse().ok()) {
        None => Err(Doubt::NoIndex),
        Some(0) => Err(Doubt::IndexZero),
        Some(_) if text(LEADER_HEADER) != Some("true") => Err(Doubt::NoLeader),
        Some(index) => Ok(index),
    }
}

/// Refuses what is no plain JSON.
pub(super) fn json(headers: &HeaderMap) -> Result<(), Doubt> {
    compressed(headers)?;
    let kind = text(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    if kind.starts_with("application/json") {
        Ok(())
    } else {
        Err(Doubt::ContentType(shortened(kind)))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get(name)
        .and_then(|value: &HeaderValue| value.to_str().ok())
}

/// Refuses what was compressed although nobody asked for that, as some proxies do.
pub(super) fn compressed(headers: &HeaderMap) -> Result<(), Doubt> {
    match headers.get(CONTENT_ENCODING) {
        None => Ok(()),
        Some(encoding) if encoding == "identity" => Ok(()),
        Some(encoding) => Err(Doubt::Compressed(shortened(&String::from_utf8_lossy(
            encoding.as_bytes(),
        )))),
    }
}

/// A whole body, counted as it comes; with the right to a large one, for as long as it is there.
pub(super) async fn whole(
    mut body: Incoming,
    route: &Route,
    kind: Kind,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'_>>), Error> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(Error::TooLong);
    }
    let (mut whole, mut right) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Error::from_hyper)?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        route.traffic.received(kind, data.len());
        let length = whole.len() + data.len();
        if length > MAX_BODY {
            return Err(Error::TooLong);
        }
        if length > SMALL && right.is_none() {
            right = route.large_answers.acquire().await.ok();
        }
        whole.extend_from_slice(data);
    }
    if weight(&whole) > MAX_WEIGHT {
        return Err(Error::TooLong);
    }
    Ok((whole, right))
}

/// What some JSON will take in memory, about: many short texts take far more than their bytes.
pub(super) fn weight(json: &[u8]) -> usize {
    json.len() + memchr_iter(b'"', json).count() / 2 * TEXT
}

/// What an answer means that is not 200.
pub(super) async fn refusal(answer: Response<Incoming>) -> Error {
    let status = answer.status();
    let body = shortened(&beginning(answer.into_body()).await);
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied {
            status: status.as_u16(),
            body,
        },
        StatusCode::TOO_MANY_REQUESTS => Error::Limited { body },
        StatusCode::INTERNAL_SERVER_ERROR if body.starts_with(AUTHENTICATION_FAILED) => {
            Error::BadToken { body }
        }
        StatusCode::INTERNAL_SERVER_ERROR
            if body.trim_start_matches(RPC).starts_with(ALLOCATION_DENIED) =>
        {
            Error::Denied { status: 500, body }
        }
        _ => Error::ServerError {
            status: status.as_u16(),
            body,
        },
    }
}

/// As [`refusal`], of what was sent to be judged.
pub(super) async fn judgement(answer: Response<Incoming>) -> Error {
    if answer.status() != StatusCode::BAD_REQUEST {
        return refusal(answer).await;
    }
    Error::ServerError {
        status: StatusCode::BAD_REQUEST.as_u16(),
        body: cut(&beginning(answer.into_body()).await, SHOWN_OF_WORDS),
    }
}

/// As much of a body as is of use to an operator.
async fn beginning(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while bytes.len() < MAX_ERROR_BODY && !body.is_end_stream() {
            let Some(Ok(frame)) = body.frame().await else {
                return;
            };
            bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        }
    };
    // What came until then is text enough.
    drop(timeout(ERROR_BODY, reading).await);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// A foreign text, short and without control characters.
pub(super) fn shortened(text: &str) -> String {
    cut(text, SHOWN)
}

fn cut(text: &str, length: usize) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(length).map(shown).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_texts_are_short_and_plain() {
        assert_eq!(shortened("a\r\nb\u{1b}[0m"), "a  b [0m");
        assert_eq!(shortened(&"é".repeat(500)).chars().count(), SHOWN + 1);
    }
}
