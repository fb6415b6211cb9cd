//! How Nomad is reached, as whom, and what of it is followed. Reads no environment: the configuration does.

use std::{io, path::PathBuf, time::Duration};

use hyper::header::HeaderValue;
use tokio::time::timeout;

pub use crate::nomad::endpoint::{Endpoint, Endpoints, InvalidAddress, TlsSettings};
use crate::{catalog::Wanted, redacted::Redacted};

/// For the file of the token to be read.
const READ: Duration = Duration::from_secs(5);

/// Everything that is to be known to follow a catalog.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Nomad answers.
    pub endpoints: Endpoints,
    /// As whom it is asked.
    pub token: TokenSource,
    /// The namespaces to follow, or `*`.
    pub namespaces: Vec<String>,
    /// The region; the agent's own if none.
    pub region: Option<String>,
    /// `user:password` for a proxy before Nomad (`NOMAD_HTTP_AUTH`).
    pub http_auth: Option<Redacted<String>>,
    /// What the tags begin with: `haproxy`.
    pub tag_prefix: String,
    /// Whether services without a tag are wanted too.
    pub expose_by_default: bool,
    /// For the jitter of retries.
    pub seed: u64,
    /// What the catalog may take in memory, in bytes.
    pub catalog_room: usize,
}

impl Settings {
    /// The default namespace of the agents at `endpoints`, without a token.
    #[must_use]
    pub fn new(endpoints: Endpoints) -> Self {
        Self {
            endpoints,
            token: TokenSource::None,
            namespaces: vec!["default".to_owned()],
            region: None,
            http_auth: None,
            tag_prefix: "haproxy".to_owned(),
            expose_by_default: false,
            seed: 0,
            catalog_room: usize::MAX,
        }
    }

    /// Which services are worth reading.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted::new(&self.tag_prefix, self.expose_by_default)
    }
}

/// Where the token comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// There is none: enough where access control is off and Nomad is not asked through the Task API.
    None,
    /// The token itself.
    Value(Redacted<String>),
    /// A file, read again at every connection and when the token in use is refused.
    File(PathBuf),
}

/// A token that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot read the token file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("the token from {0} is empty")]
    Empty(String),
    /// It has characters that no header can carry.
    #[error("the token from {0} has characters that no token has")]
    Malformed(String),
}

impl TokenSource {
    /// The token as a header that is never logged.
    pub(super) async fn load(&self) -> Result<Option<HeaderValue>, TokenError> {
        let (token, from) = match self {
            Self::None => return Ok(None),
            Self::Value(token) => return header(token.reveal(), "the configuration").map(Some),
            Self::File(path) => (timeout(READ, tokio::fs::read_to_string(path)).await, path),
        };
        let late = format!("not read within {} s", READ.as_secs());
        let token = token.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, late)));
        let token = token.map_err(|source| TokenError::File {
            path: from.clone(),
            source,
        })?;
        header(&token, &from.display().to_string()).map(Some)
    }
}

fn header(token: &str, from: &str) -> Result<HeaderValue, TokenError> {
    let token = token.trim();
    if token.is_empty() {
        return Err(TokenError::Empty(from.to_owned()));
    }
    let Ok(mut value) = HeaderValue::from_str(token) else {
        return Err(TokenError::Malformed(from.to_owned()));
    };
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_trimmed_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nomad_token");
        std::fs::write(&path, "s3cr3t\n").unwrap();
        let token = TokenSource::File(path).load().await.unwrap().unwrap();
        assert_eq!(token, "s3cr3t");
        assert!(token.is_sensitive());
        let bad = TokenSource::Value(Redacted::new("s3\ncr3t".to_owned()));
        let refused = bad.load().await.unwrap_err();
        let error = format!("{bad:?} {refused} {refused:?}");
        assert!(error.contains("has characters that no token has"));
        assert!(!error.contains("cr3t"));
        let gone = TokenSource::File("/nowhere/nomad_token".into())
            .load()
            .await
            .unwrap_err();
        assert_eq!(
            gone.to_string(),
            "cannot read the token file /nowhere/nomad_token"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_file_that_hangs_is_given_up_after_five_seconds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nomad_token");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let source = TokenSource::File(path.clone());
        let (loaded, ()) = tokio::join!(source.load(), tokio::time::advance(READ));
        let Err(TokenError::File { source, .. }) = loaded else {
            panic!("{loaded:?}");
        };
        assert_eq!(source.to_string(), "not read within 5 s");
        // Lets the thread go that reads.
        drop(std::fs::OpenOptions::new().write(true).open(&path).unwrap());
    }
}
