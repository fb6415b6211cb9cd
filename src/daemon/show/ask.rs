//! Asks the admin listener of the sidecar that runs.

use std::{
    io::{self, Write as _},
    pin::pin,
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{ACCEPT, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{admin::Listen, picture::Unasked};

/// Until the head of an answer is there: a sidecar that lives answers within its own patience of 3 s, if only that it cannot.
const PATIENCE: Duration = Duration::from_secs(5);
/// After that it is said what is waited for.
const SILENCE: Duration = Duration::from_secs(1);
/// For the rest of an answer, which may be long.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);
/// A picture of 10,000 servers has 6 MB.
const LARGEST_ANSWER: usize = 256 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("no sidecar answered: --admin-listen is off")]
    Off,
    #[error("no sidecar answered: nobody answers at {0}: {1}")]
    Unreachable(String, io::Error),
    #[error(
        "the sidecar at {0} is there and does not answer within {PATIENCE:?}: it stands still, see its log"
    )]
    Silent(String),
    #[error("the sidecar at {0} is there and answers {1}: {2}")]
    Refused(String, StatusCode, String),
    #[error("what is at {0} does not answer as a sidecar does: {1}")]
    Odd(String, String),
}

impl AskError {
    /// Whether somebody is there who does not answer.
    fn is_there(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Refused(..) => true,
            Self::Off | Self::Unreachable(..) | Self::Odd(..) => false,
        }
    }
}

impl From<AskError> for Unasked {
    fn from(error: AskError) -> Self {
        Self {
            text: error.to_string(),
            is_there: error.is_there(),
        }
    }
}

/// The body of a good answer of one of `places`, in their order: sockets first, since they are of this allocation. Without one
/// it is told of somebody who is there rather than of nobody.
pub(super) async fn ask(places: &[Listen], path: &str) -> Result<Vec<u8>, AskError> {
    let mut sorted: Vec<_> = places.iter().collect();
    sorted.sort_by_key(|place| matches!(place, Listen::Tcp(_)));
    let mut told = AskError::Off;
    for place in sorted {
        match ask_patiently(place, path).await {
            Ok(body) => return Ok(body),
            Err(error) if told.is_there() && !error.is_there() => {}
            Err(error) => told = error,
        }
    }
    Err(told)
}

async fn ask_patiently(place: &Listen, path: &str) -> Result<Vec<u8>, AskError> {
    let mut asking = pin!(timeout(PATIENCE, ask_at(place, path)));
    let answer = if let Ok(answer) = timeout(SILENCE, &mut asking).await {
        answer
    } else {
        // Whoever waits at a terminal sees for what; there is nobody left to tell when the standard error is gone.
        drop(writeln!(
            io::stderr(),
            "the sidecar at {place} does not answer yet: it is waited for, for {PATIENCE:?} in all"
        ));
        asking.await
    };
    let silent = |_| AskError::Silent(place.to_string());
    let (status, body) = answer.map_err(silent)??;
    let odd = |why: String| AskError::Odd(place.to_string(), why);
    let body = timeout(LONGEST_ANSWER, Limited::new(body, LARGEST_ANSWER).collect()).await;
    let body = body
        .map_err(silent)?
        .map_err(|error| odd(error.to_string()))?
        .to_bytes();
    if status == StatusCode::OK {
        return Ok(body.into());
    }
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    Err(if status.is_server_error() {
        AskError::Refused(place.to_string(), status, text)
    } else {
        odd(format!("{status}, {text:?}"))
    })
}

/// The head of the answer, and the rest as it comes.
async fn ask_at(place: &Listen, path: &str) -> Result<(StatusCode, Incoming), AskError> {
    let unreachable = |error| AskError::Unreachable(place.to_string(), error);
    match place {
        Listen::Tcp(addr) => {
            let stream = TcpStream::connect(addr).await.map_err(unreachable)?;
            exchange(stream, place, path).await
        }
        Listen::Unix(socket) => {
            let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
            exchange(stream, place, path).await
        }
    }
}

async fn exchange<S>(
    stream: S,
    place: &Listen,
    path: &str,
) -> Result<(StatusCode, Incoming), AskError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let odd = |why: String| AskError::Odd(place.to_string(), why);
    let handshake = http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| odd(error.to_string()))?;
    // It ends with the answer.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(HOST, "sidecar")
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| odd(error.to_string()))?;
    let answer = sender.send_request(request).await;
    let answer = answer.map_err(|error| odd(error.to_string()))?;
    Ok((answer.status(), answer.into_body()))
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// What is made of `answer`; nothing is said when it is empty.
    async fn asked(answer: Vec<u8>) -> Result<Vec<u8>, AskError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = Listen::Tcp(listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(&answer).await.unwrap();
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
        });
        // Somebody who is not there tells less than one who is.
        let nobody = Listen::Tcp("127.0.0.1:1".parse().unwrap());
        let result = ask(&[place, nobody], "/status").await;
        server.abort();
        result
    }

    fn answer(status: &str, body: &[u8]) -> Vec<u8> {
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.as_bytes(), body].concat()
    }

    #[tokio::test]
    async fn a_long_answer_is_read_whole() {
        let body = vec![b'x'; 8 << 20];
        assert_eq!(asked(answer("200 OK", &body)).await.unwrap(), body);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_there_and_has_no_answer_is_not_taken_for_nobody() {
        let refused = asked(answer(
            "503 Service Unavailable",
            b"no answer: see /ready\n",
        ))
        .await;
        let unasked = Unasked::from(refused.unwrap_err());
        let text = " is there and answers 503 Service Unavailable: no answer: see /ready";
        assert!(
            unasked.is_there && unasked.text.ends_with(text),
            "{unasked:?}"
        );
        let silent = Unasked::from(asked(Vec::new()).await.unwrap_err());
        let text = " is there and does not answer within 5s: it stands still, see its log";
        assert!(silent.is_there && silent.text.ends_with(text), "{silent:?}");
        let odd = Unasked::from(asked(b"220 ready\r\n".to_vec()).await.unwrap_err());
        assert!(!odd.is_there, "{odd:?}");
    }
}
