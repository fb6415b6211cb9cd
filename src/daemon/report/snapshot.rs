//! The lines about the snapshot of the catalog.

use std::{path::Path, time::Duration};

use tracing::{info, warn};

use super::{Report, Rounded, now};
use crate::{
    admin::FromSnapshot,
    snapshot::{Refusal, Usable},
};

impl Report {
    /// Nomad is away at the start, and this is used in its place.
    pub(in crate::daemon) fn snapshot_used(&mut self, path: &Path, snapshot: &Usable) {
        let Usable {
            age,
            index,
            too_old,
            remembered,
        } = snapshot;
        let registrations: usize = remembered.services.values().map(Vec::len).sum();
        warn!(
            snapshot = %path.display(),
            age = ?Rounded(*age),
            index,
            services = remembered.services.len(),
            registrations,
            held = remembered.holds.len(),
            too_old = too_old.join(","),
            reason = self.nomad,
            "Nomad gives no catalog at the start: serving from the snapshot of the last good one, by HAProxy's checks; nothing \
             is removed until Nomad is back"
        );
        self.snapshot = Some(FromSnapshot {
            age: *age,
            read_at: now(),
            reason: self.nomad.clone(),
        });
    }

    /// Nomad is away at the start, and there is nothing in its place.
    pub(in crate::daemon) fn snapshot_refused(&self, path: &Path, refusal: &Refusal) {
        let snapshot = path.display();
        self.metrics.snapshot().refused(refusal.as_str());
        if *refusal == Refusal::Absent {
            info!(%snapshot, "Nomad gives no catalog at the start, and there is no snapshot of a former one");
        } else {
            warn!(%snapshot, "Nomad gives no catalog at the start, and the snapshot is not used: {refusal}");
        }
    }
}

pub(super) fn applied(took: Duration) {
    info!(took = ?Rounded(took), "this HAProxy process has everything that the snapshot has");
}
