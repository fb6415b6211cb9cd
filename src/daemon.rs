//! Stand-in: the signatures that the shell's entry point needs.

use std::{convert::Infallible, io::Write};

use crate::config::Config;

/// Why the daemon ended.
pub type Error = Infallible;

/// Whether a plan has something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanVerdict {
    /// HAProxy is as it should be.
    NothingToDo,
    /// There are changes.
    HasChanges,
}

/// Follows the catalog until a signal.
#[expect(clippy::unused_async, reason = "stand-in")]
pub async fn run(config: Config) -> Result<(), Error> {
    tracing::info!(?config, "stand-in");
    Ok(())
}

/// Writes the plan.
#[expect(clippy::unused_async, reason = "stand-in")]
pub async fn plan(config: Config, _out: &mut impl Write) -> Result<PlanVerdict, Error> {
    tracing::info!(?config, "stand-in");
    Ok(PlanVerdict::NothingToDo)
}
