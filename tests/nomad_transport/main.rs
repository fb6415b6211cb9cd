//! The Nomad side over byte streams: recorded answers of real agents through the real client, stream and watch, on a
//! paused clock; and real sockets where the socket is the point.

mod client;
mod script;
mod sockets;
mod stream;
mod watch;
