//! HAProxy's runtime API (management guide, section 9.3) over the stats socket: what is written, how answers are read,
//! and the task that owns the one connection.
//!
//! [`command`], [`reply`] and [`parse`] are pure. [`session`] has the socket and the clock. Nothing here decides what
//! HAProxy should look like.

pub mod command;
pub mod parse;
pub mod reply;
pub mod session;
