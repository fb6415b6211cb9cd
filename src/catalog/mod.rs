//! The mirror of the Nomad service catalog: what of it is believed, and what has to be asked to believe more.
//!
//! Pure: no socket, no clock, no randomness of its own. [`Mirror`] says what to ask ([`Ask`]), is told what was heard
//! ([`Heard`]) and says what became known ([`Tell`]). It opens the event stream first, lists second, reads every wanted
//! service, and replays by index what the stream said meanwhile, so that nothing falls between list and stream.
//!
//! A registration leaves the mirror only when a deletion event told so, or when a valid read of that very service does
//! not have it. A shorter list, an error or silence removes nothing.

mod exchange;
mod follower;
mod mirror;
mod pace;
mod view;
mod wanted;

#[cfg(test)]
mod tests;

pub use exchange::{
    Ask, Cause, Failure, FailureKind, Heard, How, Line, ListedService, Listing, Reading, Scope,
    StreamEnd, Synced, Tell, Ticket,
};
pub use mirror::Mirror;
pub use wanted::Wanted;
