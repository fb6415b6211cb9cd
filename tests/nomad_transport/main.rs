//! The Nomad side over byte streams: recorded answers of real agents through the real client, stream and watch, on a
//! paused clock; and real sockets where the socket is the point.

#![expect(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "everything here is a test, which looks at the one variant that it expects"
)]

mod client;
mod route;
mod script;
mod sockets;
mod stream;
mod watch;
