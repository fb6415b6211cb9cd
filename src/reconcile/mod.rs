//! The core that decides: registrations and what HAProxy reports go in, commands come out. No socket, no clock, no
//! randomness of its own; the same inputs give the same outputs.
//!
//! [`Reconciler`] is the machine; [`plan`](plan::plan) is the pure function in its middle. It is level-triggered: an
//! event marks a backend as to be looked at, and the plan is made from its whole present state.

mod backend;
pub mod desired;
mod dynamic;
mod facts;
mod fixed_tags;
mod guards;
mod hands;
mod hold;
pub mod made;
mod obstacle;
pub mod plan;
#[cfg(test)]
mod plan_tests;
pub mod predict;
mod reason;
mod reconciler;
mod removal;
pub mod routes;
pub mod rules;
mod server_name;
mod slots;
mod state_file;
mod states;
mod stopping;
pub mod tags;
mod tally;
mod turn;

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use crate::model::{ProfileName, ServerKeywords, ServerProfileName};

pub use facts::{
    Admissions, Arrival, Fact, Found, Made, Overview, Owned, Restoring, Staying, Stays, Tally,
    Would,
};
pub use guards::{ASK_AFTER, Extent, Guard, Question, Removals};
pub use hands::{ByHand, Hand, HandsCount, Weight};
pub use hold::{Hold, HoldBegun, HoldEnd, HoldEnded};
pub use reconciler::{
    Failure, Hands, HeldServer, Input, LeftServer, Mode, Output, Reconciler, Remembered, Sketch,
};
pub use rules::{Refusal, Rules};
pub use server_name::is_dynamic_name;
pub use state_file::StateFile;
pub use stopping::TooSoon;
pub use turn::{Turn, Turned};

/// What the operator decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What each namespace may claim.
    pub rules: Arc<Rules>,
    /// The keywords that stand for what `tls.profile` names.
    pub server_profiles: BTreeMap<ServerProfileName, ServerKeywords>,
    /// The prefix of the tags, without the dot.
    pub tag_prefix: String,
    /// Whether a service without the tag `enable` is served.
    pub expose_by_default: bool,
    /// The prefix of the slots' names in `server-template` lines.
    pub slot_prefix: String,
    /// How long a server is kept in rotation after its registration is gone, for want of a replacement.
    pub hold: Duration,
    /// The `defaults` sections that backends may be made from; the first is taken where no tag names one.
    pub backend_profiles: Vec<ProfileName>,
    /// How long a backend that was made at runtime is kept after its last registration is gone.
    pub backend_linger: Duration,
    /// How long a server may drain before it goes into maintenance with sessions left.
    pub drain_timeout: Duration,
    /// How many servers that are UP may be taken out of rotation in a second; those of one backend may go together.
    pub max_removals_per_second: NonZeroU32,
    /// The maps for routes.
    pub maps: routes::Maps,
    /// Whether Nomad may be asked for allocations.
    pub second_opinion: bool,
}

/// A node with a hundred instances is drained within 5 s, which a usual `shutdown_delay` covers.
pub const MAX_REMOVALS_PER_SECOND: NonZeroU32 = NonZeroU32::new(20).unwrap();

/// Long enough for a job that is stopped, looked at and started again.
pub const BACKEND_LINGER: Duration = Duration::from_mins(10);

/// The section `defaults nomad`.
#[must_use]
pub fn default_profiles() -> Vec<ProfileName> {
    ProfileName::new("nomad").into_iter().collect()
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rules: Arc::default(),
            server_profiles: BTreeMap::new(),
            tag_prefix: "haproxy".to_owned(),
            expose_by_default: false,
            slot_prefix: "nomad".to_owned(),
            hold: Duration::from_secs(30),
            backend_profiles: default_profiles(),
            backend_linger: BACKEND_LINGER,
            drain_timeout: Duration::from_secs(10),
            max_removals_per_second: MAX_REMOVALS_PER_SECOND,
            maps: routes::Maps::default(),
            second_opinion: false,
        }
    }
}
