//! How long an instance should run on after its deregistration, so that it costs no request. Its job says how long it does
//! (`shutdown_delay`); `docs/jobs.md` has the arithmetic.

use std::{fmt, time::Duration};

use super::{
    Policy,
    tags::{self, LeavingTags},
};

/// Until HAProxy has taken an instance out of rotation and its replacement, which is there already, in: the event, and two
/// passed checks by the defaults.
const ADMISSION: Duration = Duration::from_secs(2);

/// An instance is stopped too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSoon {
    delay: Duration,
    needed: Duration,
}

impl TooSoon {
    /// Whether an instance with these tags, which runs on for `delay`, is stopped too soon.
    #[must_use]
    pub fn check(delay: Duration, tags: &[String], policy: &Policy) -> Option<Self> {
        let tags = tags::read(&policy.tag_prefix, tags).unwrap_or_default();
        let LeavingTags { drain_timeout, .. } = tags.leaving;
        let needed = ADMISSION + drain_timeout.unwrap_or(policy.drain_timeout);
        (delay < needed).then_some(Self { delay, needed })
    }
}

impl fmt::Display for TooSoon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay, needed } = self;
        if delay.is_zero() {
            f.write_str("an instance is stopped right after its deregistration")?;
        } else {
            write!(
                f,
                "an instance is stopped {delay:?} after its deregistration"
            )?;
        }
        write!(
            f,
            ", which can cost requests; set shutdown_delay = \"{}s\" ({} s until HAProxy sends it nothing, {:?} for what is \
             under way)",
            needed.as_secs_f64().ceil(),
            ADMISSION.as_secs(),
            needed.saturating_sub(ADMISSION),
        )
    }
}
