//! Typed calls to Nomad. Every variant of [`Error`] is somebody's decision; every answer that is given was believable:
//! 200, JSON, an index of 1 or more, and a known leader (`/v1/services` answers an empty list with index 0 to a token without rights, and
//! from an agent that is shutting down).

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, USER_AGENT},
};
use tokio::time::timeout;

use crate::{
    catalog::{FailureKind, ListedService},
    model::{Registration, ServiceKey},
    nomad::{
        settings::{Settings, TokenError},
        stream::{EventStream, StreamError},
        transport::{Connection, Dial, DialError, Dialler},
        types,
    },
};

/// For a whole answer, from the request to the last byte of the body.
const ANSWER: Duration = Duration::from_secs(15);
/// So long Nomad holds a blocking query; it adds up to a sixteenth.
const WAIT: Duration = Duration::from_mins(1);
/// For a whole answer to a blocking query. Nomad may forget the wait that was asked for.
const HELD_ANSWER: Duration =
    Duration::from_millis(WAIT.as_secs() * 1_000 * 17 / 16 + ANSWER.as_secs() * 1_000);
/// 10,000 registrations are some 4 MB.
const MAX_BODY: usize = 64 * 1024 * 1024;
/// So much of the text of an error is kept.
const MAX_ERROR_BODY: usize = 4096;
/// So much of a foreign text is shown.
const SHOWN: usize = 200;
/// What the Task API answers to a token that is none, and when there is no server to ask.
const AUTHENTICATION_FAILED: &str = "Server error authenticating request";
const TOKEN_HEADER: &str = "x-nomad-token";
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
    /// 401 (no token) or 403 (a token without the right, or an unknown one).
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
    #[error("the answer is longer than {} MiB", MAX_BODY / 1024 / 1024)]
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
            Self::Denied { status: 403, .. } => FailureKind::Denied,
            Self::Denied { .. } | Self::BadToken { .. } | Self::Token(_) => FailureKind::BadToken,
            Self::ServerError { .. } | Self::Protocol(_) | Self::TooLong => {
                FailureKind::ServerError
            }
            Self::NotBelievable(_) => FailureKind::NotBelievable,
            Self::Timeout(_) => FailureKind::Timeout,
            Self::Connect(_) | Self::Broken(_) => FailureKind::Unreachable,
            Self::Limited { .. } => FailureKind::Limited,
            Self::UnreadableName(_) => FailureKind::Unreadable,
        }
    }

    /// Whether another token could help, so that its file should be read again.
    fn is_about_the_token(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::BadToken { .. })
    }

    fn from_hyper(error: hyper::Error) -> Self {
        if error.is_parse() {
            Self::Protocol(error)
        } else {
            Self::Broken(error)
        }
    }
}

/// Asks one Nomad, over one connection that is kept.
pub struct Client {
    settings: Arc<Settings>,
    dial: Arc<dyn Dial>,
    kept: Option<Kept>,
}

struct Kept {
    connection: Connection,
    token: Option<HeaderValue>,
}

impl Client {
    /// A client of the endpoint that the settings name. Nothing is connected yet.
    #[must_use]
    pub fn new(settings: Arc<Settings>) -> Self {
        let dial = Arc::new(Dialler(settings.endpoint.clone()));
        Self::with_dial(settings, dial)
    }

    /// A client whose connections `dial` makes.
    #[must_use]
    pub fn with_dial(settings: Arc<Settings>, dial: Arc<dyn Dial>) -> Self {
        Self {
            settings,
            dial,
            kept: None,
        }
    }

    /// The services of `namespace`, or of all namespaces that the token may read, for `*`.
    ///
    /// With `after` it is a blocking query: Nomad holds it until the namespace has changed after that index, or for some 60 s.
    /// The answer may be the same as before, and of any index.
    pub async fn list(
        &mut self,
        namespace: &str,
        after: Option<u64>,
    ) -> Result<Answer<Vec<ListedService>>, Error> {
        let path = format!("/v1/services?namespace={}", percent_encoded(namespace));
        self.get(&path, after, types::parse_list).await
    }

    /// The registrations of one service; with `after` as a blocking query, as in [`Self::list`].
    pub async fn read(
        &mut self,
        key: &ServiceKey,
        after: Option<u64>,
    ) -> Result<Answer<Vec<Registration>>, Error> {
        // The agent decodes the path before it splits and cleans it.
        if key.name.contains('/') || matches!(&*key.name, "" | "." | "..") {
            return Err(Error::UnreadableName(shortened(&key.name)));
        }
        let path = format!(
            "/v1/service/{}?namespace={}",
            percent_encoded(&key.name),
            percent_encoded(&key.namespace)
        );
        self.get(&path, after, types::parse_registrations).await
    }

    /// Opens the event stream of `namespace` (or `*`) on a connection of its own: topic `Service`, all that is buffered.
    /// Open means that the first line has come.
    pub async fn open_stream(&self, namespace: &str) -> Result<EventStream, StreamError> {
        let path = format!(
            "/v1/event/stream?topic=Service&namespace={}&index=0",
            percent_encoded(namespace)
        );
        let opened = async {
            let mut kept = self.connect().await?;
            let head = kept
                .connection
                .send(self.request(&path, kept.token.as_ref()));
            head.await.map_err(Error::from_hyper)
        };
        let head = timeout(ANSWER, opened)
            .await
            .map_err(|_| StreamError::Refused(Error::Timeout(ANSWER)))?;
        let head = match head {
            Ok(head) if head.status() == StatusCode::OK => head,
            Ok(head) => return Err(StreamError::Refused(refusal(head).await)),
            Err(Error::Protocol(source)) => return Err(StreamError::NotHttp(source)),
            Err(error) => return Err(StreamError::Refused(error)),
        };
        EventStream::open(head.into_body()).await
    }

    /// Asks on the kept connection or on a new one. A kept connection may have been closed at any time, and a token may
    /// have been replaced: both are tried once more with a new one.
    async fn get<T>(
        &mut self,
        path: &str,
        after: Option<u64>,
        parse: fn(&[u8]) -> Result<T, serde_json::Error>,
    ) -> Result<Answer<T>, Error> {
        let (path, deadline) = match after {
            None => (path.to_owned(), ANSWER),
            Some(index) => (
                format!("{path}&index={index}&wait={}s", WAIT.as_secs()),
                HELD_ANSWER,
            ),
        };
        let kept = self.kept.take().filter(|kept| !kept.connection.is_closed());
        let refused = if let Some(kept) = kept {
            let token = kept.token.clone();
            match self.get_on(kept, &path, deadline, parse).await {
                Err(Error::Broken(_)) => None,
                Err(error) if error.is_about_the_token() => Some((token, error)),
                result => return result,
            }
        } else {
            None
        };
        let kept = self.connect().await?;
        match refused {
            Some((token, error)) if token == kept.token => Err(error),
            _ => self.get_on(kept, &path, deadline, parse).await,
        }
    }

    async fn get_on<T>(
        &mut self,
        mut kept: Kept,
        path: &str,
        deadline: Duration,
        parse: fn(&[u8]) -> Result<T, serde_json::Error>,
    ) -> Result<Answer<T>, Error> {
        let exchange = async {
            let request = self.request(path, kept.token.as_ref());
            let head = kept
                .connection
                .send(request)
                .await
                .map_err(Error::from_hyper)?;
            if head.status() != StatusCode::OK {
                return Err(refusal(head).await);
            }
            let believed = believed_index(head.headers());
            // The body is read in any case, so that the connection can be kept.
            let body = whole(head.into_body()).await?;
            Ok((believed, body))
        };
        let (believed, body) = timeout(deadline, exchange)
            .await
            .map_err(|_| Error::Timeout(deadline))??;
        self.kept = Some(kept);
        let index = believed.map_err(Error::NotBelievable)?;
        let value = parse(&body)
            .map_err(|error| Error::NotBelievable(Doubt::Content(shortened(&error.to_string()))))?;
        Ok(Answer { index, value })
    }

    async fn connect(&self) -> Result<Kept, Error> {
        let token = self.settings.token.load().await?;
        let io = self.dial.dial().await?;
        let connection = Connection::new(io).await.map_err(Error::from_hyper)?;
        Ok(Kept { connection, token })
    }

    fn request(&self, path: &str, token: Option<&HeaderValue>) -> Request<Empty<Bytes>> {
        let mut uri = path.to_owned();
        if let Some(region) = &self.settings.region {
            uri.push_str("&region=");
            uri.push_str(&percent_encoded(region));
        }
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri
            .parse()
            .expect("every part of the path is percent-encoded");
        let host = HeaderValue::try_from(self.settings.endpoint.authority())
            .expect("the host of an endpoint has only characters of a host");
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, HeaderValue::from_static(env!("CARGO_PKG_NAME")));
        if let Some(token) = token {
            headers.insert(TOKEN_HEADER, token.clone());
        }
        if let Some(user) = &self.settings.http_auth {
            let basic = format!("Basic {}", BASE64_STANDARD.encode(user.reveal()));
            let mut basic = HeaderValue::try_from(basic).expect("base64 is ASCII");
            basic.set_sensitive(true);
            headers.insert(AUTHORIZATION, basic);
        }
        request
    }
}

fn believed_index(headers: &HeaderMap) -> Result<u64, Doubt> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let kind = text(CONTENT_TYPE.as_str()).unwrap_or_default();
    if !kind.starts_with("application/json") {
        return Err(Doubt::ContentType(shortened(kind)));
    }
    match text(INDEX_HEADER).and_then(|index| index.parse().ok()) {
        None => Err(Doubt::NoIndex),
        Some(0) => Err(Doubt::IndexZero),
        Some(_) if text(LEADER_HEADER) != Some("true") => Err(Doubt::NoLeader),
        Some(index) => Ok(index),
    }
}

async fn whole(body: Incoming) -> Result<Bytes, Error> {
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(Error::TooLong);
    }
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLong),
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err(Error::from_hyper(*error)),
            Err(_) => Err(Error::TooLong),
        },
    }
}

/// What an answer means that is not 200.
async fn refusal(answer: Response<Incoming>) -> Error {
    let status = answer.status();
    let body = beginning(answer.into_body()).await;
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied {
            status: status.as_u16(),
            body,
        },
        StatusCode::TOO_MANY_REQUESTS => Error::Limited { body },
        StatusCode::INTERNAL_SERVER_ERROR if body.starts_with(AUTHENTICATION_FAILED) => {
            Error::BadToken { body }
        }
        _ => Error::ServerError {
            status: status.as_u16(),
            body,
        },
    }
}

/// As much of a body as is of use to an operator, in the time that an answer has.
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
    drop(timeout(ANSWER, reading).await);
    shortened(String::from_utf8_lossy(&bytes).trim())
}

/// A foreign text, short and without control characters.
pub(super) fn shortened(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    let mut short: String = text.chars().take(SHOWN).map(shown).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Everything but the unreserved characters of RFC 3986 as `%XX`.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
                encoded.extend(['%', digit(byte >> 4), digit(byte & 0xF)]);
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_percent_encoded() {
        assert_eq!(percent_encoded("a-b_c.~1"), "a-b_c.~1");
        assert_eq!(percent_encoded("a b/?&é\n"), "a%20b%2F%3F%26%C3%A9%0A");
    }

    #[test]
    fn foreign_texts_are_short_and_plain() {
        assert_eq!(shortened("a\r\nb\u{1b}[0m"), "a  b [0m");
        assert_eq!(shortened(&"é".repeat(500)).chars().count(), SHOWN + 1);
    }
}
