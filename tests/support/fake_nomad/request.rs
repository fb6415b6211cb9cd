//! Reading requests: as much of HTTP/1.1 as a client of the catalog sends.

use std::{collections::BTreeMap, io, time::Duration};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// `GET /v1/services`
    List,
    /// `GET /v1/service/:name`
    Read,
    /// `GET /v1/event/stream`
    Stream,
    /// Everything else.
    Other,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, still encoded.
    pub(crate) target: String,
    /// The headers, their names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The next request of a connection, or nothing at its end.
    pub(crate) async fn read(
        connection: &mut (impl AsyncBufRead + Unpin),
    ) -> io::Result<Option<Self>> {
        let Some(first) = read_line(connection).await? else {
            return Ok(None);
        };
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some("HTTP/1.1")) =
            (words.next(), words.next(), words.next())
        else {
            return Err(io::Error::other(format!("not a request: {first:?}")));
        };
        let (method, target) = (method.to_owned(), target.to_owned());
        let mut headers = BTreeMap::new();
        while let Some(line) = read_line(connection).await? {
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            headers.insert(name.to_lowercase(), value.trim().to_owned());
        }
        let length = headers
            .get("content-length")
            .and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        connection.read_exact(&mut body).await?;
        Ok(Some(Self {
            method,
            target,
            headers,
            body,
        }))
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.path() {
            "/v1/services" => Kind::List,
            "/v1/event/stream" => Kind::Stream,
            path if path.starts_with("/v1/service/") => Kind::Read,
            _ => Kind::Other,
        }
    }

    /// The path, still encoded.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The name in `/v1/service/:name`, decoded.
    pub(crate) fn service(&self) -> Option<String> {
        Some(decode(self.path().strip_prefix("/v1/service/")?, false))
    }

    /// The parameters, decoded, in their order.
    pub(crate) fn parameters(&self) -> Vec<(String, String)> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (decode(name, true), decode(value, true))
            })
            .collect()
    }

    /// The first value of a parameter.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let mut parameters = self.parameters().into_iter();
        parameters
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }

    pub(crate) fn namespace(&self) -> String {
        self.parameter("namespace")
            .unwrap_or_else(|| "default".into())
    }

    /// The token: `X-Nomad-Token` wins over `Authorization`.
    pub(crate) fn token(&self) -> Option<&str> {
        let bearer = || self.headers.get("authorization")?.strip_prefix("Bearer ");
        let own = self.headers.get("x-nomad-token").map(String::as_str);
        own.or_else(bearer).filter(|token| !token.is_empty())
    }
}

/// A Go duration of one unit, which is all that anybody writes: `60s`, `5m`, `250ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let unit = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number * 60)),
        "h" => Some(Duration::from_secs(number * 3600)),
        _ => None,
    }
}

async fn read_line(connection: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<String>> {
    let mut line = String::new();
    if connection.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
}

fn decode(text: &str, plus_is_space: bool) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = tail
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
                continue;
            }
            None if plus_is_space && *first == b'+' => bytes.push(b' '),
            None => bytes.push(*first),
        }
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
