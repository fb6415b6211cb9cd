//! What the integration tests share: stand-ins for the programs that the sidecar talks to.

pub(crate) mod any_nomad;
pub(crate) mod fake_nomad;
pub(crate) mod raw_http;
pub(crate) mod real_nomad;
pub(crate) mod tls;
