//! The bytes of the file of what an operator did by hand: one line like the snapshot's first, and JSON.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
};

use serde::{Deserialize, Serialize};

use super::{Refusal, sign_as, verified};
use crate::{
    model::{Address, AdminState, BackendName, ServerName},
    reconcile::{Hands, LeftServer},
};

const MAGIC: &str = "haproxy-nomad-sidecar-hands";

#[derive(Deserialize, Serialize)]
struct Body {
    pid: u64,
    start_time: u64,
    servers: Vec<ServerWire>,
}

#[derive(Deserialize, Serialize)]
struct ServerWire {
    backend: String,
    server: String,
    ip: IpAddr,
    port: NonZeroU16,
    admin: u8,
    weight: u16,
}

impl Body {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers")
    }
}

/// The bytes of `hands`.
#[must_use]
pub fn encode_hands(hands: &Hands) -> Vec<u8> {
    let servers = hands.servers.iter().flat_map(|(backend, servers)| {
        servers.iter().map(|left| ServerWire {
            backend: backend.to_string(),
            server: left.name.to_string(),
            ip: left.address.ip,
            port: left.address.port,
            admin: left.admin.0,
            weight: left.weight,
        })
    });
    let body = Body {
        pid: hands.pid,
        start_time: hands.start_time,
        servers: servers.collect(),
    };
    sign_as(MAGIC, &body.to_json())
}

/// What is in `bytes`.
///
/// # Errors
///
/// With the reason for which nothing of it is used.
pub fn decode_hands(bytes: &[u8]) -> Result<Hands, Refusal> {
    let body: Body = serde_json::from_slice(verified(MAGIC, bytes)?).map_err(damaged)?;
    let mut servers: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for one in body.servers {
        let backend = BackendName::new(&one.backend).map_err(damaged)?;
        let left = LeftServer {
            name: ServerName::new(&one.server).map_err(damaged)?,
            address: Address {
                ip: one.ip,
                port: one.port,
            },
            admin: AdminState(one.admin),
            weight: one.weight,
        };
        servers.entry(backend).or_default().insert(left);
    }
    Ok(Hands {
        pid: body.pid,
        start_time: body.start_time,
        servers,
    })
}

fn damaged(error: impl std::error::Error) -> Refusal {
    Refusal::Damaged(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_or_refused() {
        let left = LeftServer {
            name: ServerName::new("nomad1").unwrap(),
            address: Address {
                ip: "fd00::1".parse().unwrap(),
                port: NonZeroU16::MIN,
            },
            admin: AdminState(12),
            weight: 256,
        };
        let hands = Hands {
            pid: 7,
            start_time: 1_700_000_000,
            servers: [(BackendName::new("web").unwrap(), [left].into())].into(),
        };
        let bytes = encode_hands(&hands);
        assert_eq!(decode_hands(&bytes), Ok(hands));
        for length in 0..bytes.len() {
            assert_eq!(decode_hands(&bytes[..length]), Err(Refusal::Truncated));
        }
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let text = String::from_utf8(bytes).unwrap();
        let newer = text.replacen(" 1 ", " 2 ", 1);
        assert_eq!(
            decode_hands(newer.as_bytes()),
            Err(Refusal::UnknownVersion(2))
        );
        let body = text.split_once('\n').unwrap().1;
        let hostile = body.replace("nomad1", "nomad1 weight 3");
        for damaged in [
            flipped,
            sign_as(MAGIC, hostile.as_bytes()),
            super::super::sign(b"{}"),
        ] {
            assert!(matches!(decode_hands(&damaged), Err(Refusal::Damaged(_))));
        }
    }
}
