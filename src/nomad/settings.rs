//! How Nomad is reached, as whom, and what of it is followed. Reads no environment: the configuration does.

use std::{fmt, io, path::PathBuf, str::FromStr};

use hyper::header::HeaderValue;

use crate::{catalog::Wanted, redacted::Redacted};

/// Nomad's HTTP port.
const DEFAULT_PORT: u16 = 4646;

/// Everything that is to be known to follow a catalog.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where Nomad answers.
    pub endpoint: Endpoint,
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
}

impl Settings {
    /// The default namespace of the agent at `endpoint`, without a token.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            token: TokenSource::None,
            namespaces: vec!["default".to_owned()],
            region: None,
            http_auth: None,
            tag_prefix: "haproxy".to_owned(),
            expose_by_default: false,
            seed: 0,
        }
    }

    /// Which services are worth reading.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        Wanted::new(&self.tag_prefix, self.expose_by_default)
    }
}

/// Where Nomad answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket: the Task API, or an agent behind one.
    Unix(PathBuf),
    /// Plain HTTP.
    Http {
        /// A name or an address, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// HTTPS.
    Https {
        /// A name or an address, IPv6 without brackets.
        host: String,
        /// The port.
        port: u16,
        /// Whom to trust, and as whom to come.
        tls: TlsSettings,
    },
}

/// Nomad's own TLS settings, by the names of its environment variables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `NOMAD_CACERT`: a PEM file of authorities that are trusted instead of the system's.
    pub ca_cert: Option<PathBuf>,
    /// `NOMAD_CAPATH`: a directory of such files.
    pub ca_path: Option<PathBuf>,
    /// `NOMAD_CLIENT_CERT`: the certificate to show.
    pub client_cert: Option<PathBuf>,
    /// `NOMAD_CLIENT_KEY`: its key.
    pub client_key: Option<PathBuf>,
    /// `NOMAD_TLS_SERVER_NAME`: the name to expect instead of the host.
    pub server_name: Option<String>,
    /// `NOMAD_SKIP_VERIFY`: trust anybody.
    pub skip_verify: bool,
}

impl Endpoint {
    /// The same endpoint with these TLS settings, which only HTTPS heeds.
    #[must_use]
    pub fn with_tls(self, tls: TlsSettings) -> Self {
        match self {
            Self::Https { host, port, .. } => Self::Https { host, port, tls },
            Self::Unix(_) | Self::Http { .. } => self,
        }
    }

    /// What belongs into the `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Http { host, port } | Self::Https { host, port, .. } => {
                format!("{}:{port}", bracketed(host))
            }
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Http { .. } => write!(f, "http://{}", self.authority()),
            Self::Https { .. } => write!(f, "https://{}", self.authority()),
        }
    }
}

/// An address that is none of Nomad's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address:?} is no address of Nomad: {reason}; write http://host:4646, https://host:4646 or unix:///path/api.sock"
)]
pub struct InvalidAddress {
    address: String,
    reason: &'static str,
}

impl FromStr for Endpoint {
    type Err = InvalidAddress;

    /// `unix:///path`, `http://host[:port]`, `https://host[:port]`; a host may be `[IPv6]`, the port is 4646 if not given.
    fn from_str(address: &str) -> Result<Self, InvalidAddress> {
        let refuse = |reason| InvalidAddress {
            address: match address.rsplit_once('@') {
                Some((_, host)) => format!("[redacted]@{host}"),
                None => address.to_owned(),
            },
            reason,
        };
        let (scheme, rest) = address
            .trim()
            .split_once("://")
            .ok_or(refuse("it has no scheme"))?;
        match scheme {
            "unix" if rest.starts_with('/') => Ok(Self::Unix(PathBuf::from(rest))),
            "unix" => Err(refuse("the path of the socket must be absolute")),
            "http" => authority(rest)
                .map(|(host, port)| Self::Http { host, port })
                .map_err(refuse),
            "https" => authority(rest)
                .map(|(host, port)| Self::Https {
                    host,
                    port,
                    tls: TlsSettings::default(),
                })
                .map_err(refuse),
            _ => Err(refuse("the scheme is not known")),
        }
    }
}

/// Splits what stands between the scheme and the end of an address.
fn authority(rest: &str) -> Result<(String, u16), &'static str> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains('@') {
        return Err("user and password go into NOMAD_HTTP_AUTH");
    }
    if rest.contains(['/', '?', '#']) {
        return Err("a path is not supported");
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest.split_once(']').ok_or("the bracket is not closed")?;
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("what stands in brackets is no IPv6 address");
            }
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return Err("there is text behind the bracket"),
            }
        }
        None => match rest.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address must stand in brackets");
            }
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(valid) {
        return Err("the host is missing or has characters that no host has");
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => return Err("the port is no number from 1 to 65535"),
            Ok(port) => port,
        },
    };
    Ok((host.to_owned(), port))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
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
            Self::File(path) => (tokio::fs::read_to_string(path).await, path),
        };
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

    #[test]
    fn addresses_are_understood() {
        let http = |host: &str, port| Endpoint::Http {
            host: host.to_owned(),
            port,
        };
        let table = [
            (
                "unix:///secrets/api.sock",
                Endpoint::Unix("/secrets/api.sock".into()),
            ),
            ("http://127.0.0.1:4646", http("127.0.0.1", 4646)),
            (
                "http://nomad.service.consul/",
                http("nomad.service.consul", 4646),
            ),
            ("http://[::1]:80", http("::1", 80)),
            ("http://[fe80::1]", http("fe80::1", 4646)),
            (
                "https://nomad:443",
                Endpoint::Https {
                    host: "nomad".to_owned(),
                    port: 443,
                    tls: TlsSettings::default(),
                },
            ),
        ];
        for (text, endpoint) in table {
            assert_eq!(text.parse::<Endpoint>().unwrap(), endpoint, "{text}");
        }
        let shown = "http://[::1]:80".parse::<Endpoint>().unwrap();
        assert_eq!(shown.to_string(), "http://[::1]:80");
    }

    #[test]
    fn a_bad_address_is_refused_with_the_reason() {
        let table = [
            ("127.0.0.1:4646", "it has no scheme"),
            ("ftp://nomad", "the scheme is not known"),
            (
                "unix://secrets/api.sock",
                "the path of the socket must be absolute",
            ),
            ("http://", "the host is missing"),
            ("http://:4646", "the host is missing"),
            ("http://a b", "characters that no host has"),
            ("http://nomad:http", "the port is no number"),
            ("http://nomad:0", "the port is no number"),
            ("http://nomad:65536", "the port is no number"),
            ("http://::1:4646", "must stand in brackets"),
            ("http://[::1", "the bracket is not closed"),
            ("http://[nomad]:1", "no IPv6 address"),
            ("http://nomad/v1", "a path is not supported"),
        ];
        for (text, reason) in table {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(
                error.ends_with(
                    "write http://host:4646, https://host:4646 or unix:///path/api.sock"
                )
            );
        }
    }

    #[test]
    fn a_password_in_an_address_is_not_repeated() {
        let error = "http://user:s3cr3t@nomad"
            .parse::<Endpoint>()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("NOMAD_HTTP_AUTH") && !error.contains("s3cr3t"),
            "{error}"
        );
    }

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
}
