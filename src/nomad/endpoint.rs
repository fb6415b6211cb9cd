//! Where Nomad answers: addresses as an operator writes them.

use std::{fmt, path::PathBuf, str::FromStr};

/// Nomad's HTTP port.
const DEFAULT_PORT: u16 = 4646;

/// The agents of one Nomad, at least one: whichever answers is good for everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints(Vec<Endpoint>);

impl Endpoints {
    /// The same endpoints with these TLS settings, which only HTTPS heeds.
    #[must_use]
    pub fn with_tls(self, tls: &TlsSettings) -> Self {
        let with_tls = |endpoint: Endpoint| endpoint.with_tls(tls.clone());
        Self(self.0.into_iter().map(with_tls).collect())
    }

    /// All of them, in the order in which they are tried first.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Endpoint> {
        self.0.iter()
    }

    /// The one at this place, counted around.
    pub(super) fn at(&self, place: usize) -> &Endpoint {
        &self.0[place % self.0.len()]
    }
}

impl From<Endpoint> for Endpoints {
    fn from(endpoint: Endpoint) -> Self {
        Self(vec![endpoint])
    }
}

impl FromStr for Endpoints {
    type Err = InvalidAddress;

    /// Addresses with commas between them; one that is repeated counts once.
    fn from_str(addresses: &str) -> Result<Self, InvalidAddress> {
        let mut endpoints = Vec::new();
        for address in addresses.split(',') {
            let endpoint = address.parse()?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        Ok(Self(endpoints))
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, endpoint) in self.0.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{endpoint}")?;
        }
        Ok(())
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
        if address.trim().is_empty() {
            return Err(refuse("it is empty"));
        }
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
            ("", "it is empty"),
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
    fn several_addresses_stand_between_commas_and_a_bad_one_is_named() {
        let endpoints: Endpoints = "http://a, https://b:1,unix:///c.sock,http://a"
            .parse()
            .unwrap();
        assert_eq!(
            endpoints.to_string(),
            "http://a:4646, https://b:1, unix:///c.sock"
        );
        for (text, bad) in [
            ("http://a,b:4646,http://c", "\"b:4646\" is no address"),
            ("http://a,", "\"\" is no address of Nomad: it is empty"),
            ("http://a, http://u:p@b", "\"[redacted]@b\" is no address"),
        ] {
            let error = text.parse::<Endpoints>().unwrap_err().to_string();
            assert!(error.starts_with(bad), "{text}: {error}");
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
}
