//! Asks the admin listener of the sidecar that runs.

use std::{io, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::Bytes,
    client::conn::http1,
    header::{ACCEPT, HOST},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::admin::Listen;

/// For everything: a sidecar that lives answers within its own patience.
const PATIENCE: Duration = Duration::from_secs(10);
/// A picture of 10,000 servers has 6 MB.
const LONGEST: usize = 256 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("--admin-listen is off")]
    Off,
    #[error("nobody answers at {0}: {1}")]
    Unreachable(String, io::Error),
    #[error("{0} does not answer within {PATIENCE:?}")]
    Silent(String),
    #[error("{0} does not answer as a sidecar does: {1}")]
    Odd(String, String),
}

/// The body of a good answer of one of `places`, in their order: sockets first, since they are of this allocation.
pub(super) async fn ask(places: &[Listen], path: &str) -> Result<Vec<u8>, AskError> {
    let mut sorted: Vec<_> = places.iter().collect();
    sorted.sort_by_key(|place| matches!(place, Listen::Tcp(_)));
    let mut last = AskError::Off;
    for place in sorted {
        match timeout(PATIENCE, ask_at(place, path)).await {
            Ok(Ok(body)) => return Ok(body),
            Ok(Err(error)) => last = error,
            Err(_) => last = AskError::Silent(place.to_string()),
        }
    }
    Err(last)
}

async fn ask_at(place: &Listen, path: &str) -> Result<Vec<u8>, AskError> {
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

async fn exchange<S>(stream: S, place: &Listen, path: &str) -> Result<Vec<u8>, AskError>
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
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| odd(error.to_string()))?.to_bytes();
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(odd(format!("{status}, {text:?}")));
    }
    Ok(body.into())
}
