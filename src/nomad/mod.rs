//! Nomad: how it is reached, what is asked of it, and how its service catalog is followed.
//!
//! [`watch`] runs the pure mirror of [`crate::catalog`] over real connections; below it are typed calls ([`client`]),
//! the event stream ([`stream`]), HTTP over any byte stream ([`transport`]) and the wire's structs ([`types`]).
//! Nothing is ever written to Nomad, `stale` is never asked for, and a token is in no text.
//! API: <https://developer.hashicorp.com/nomad/api-docs/services> and `/api-docs/events`.

mod advice;
mod answer;
mod chain;
pub mod client;
mod endpoint;
pub mod evaluate;
pub mod route;
pub mod settings;
pub mod stream;
pub mod tls;
pub mod traffic;
pub mod transport;
pub mod types;
pub mod watch;
