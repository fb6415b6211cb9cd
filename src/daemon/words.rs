//! How things are written for people and for the metrics.

use std::time::Duration;

use crate::{admin::ServersOwned, reconcile::Owned};

/// A time as people read it.
pub(super) struct Rounded(pub(super) Duration);

impl std::fmt::Debug for Rounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1?}", self.0)
    }
}

/// An error with what caused it.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut causes = std::iter::successors(self.0.source(), |&cause| cause.source());
        causes.try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl From<Owned> for ServersOwned {
    fn from(owned: Owned) -> Self {
        let Owned {
            in_rotation,
            down,
            draining,
            maintenance,
            free,
        } = owned;
        Self {
            in_rotation,
            down,
            draining,
            maintenance,
            free,
        }
    }
}
