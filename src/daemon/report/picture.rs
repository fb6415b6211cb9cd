//! What the shell knows of the picture, and the way of the picture to those who asked.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::task::{JoinHandle, spawn_blocking};
use tracing::error;

use super::Report;
use crate::{
    admin::{self, Document, Pictures, Shot},
    daemon::{audit::Audit, now},
    picture::{Namespace, Picture, Trouble, WentBack, ms},
};

/// Drawing may take a twentieth of the time at most.
const SHARE: u32 = 20;

/// What is shown of the daemon.
#[derive(Clone, Debug)]
pub(in crate::daemon) struct Show {
    /// Where pictures are asked for.
    pub(in crate::daemon) pictures: Arc<Pictures>,
    /// The changes.
    pub(in crate::daemon) audit: Audit,
}

impl Default for Show {
    fn default() -> Self {
        let pictures = Arc::default();
        let audit = Audit::told_to(&pictures);
        Self { pictures, audit }
    }
}

/// The picture that is being written down.
#[derive(Debug, Default)]
pub(super) struct Drawing {
    writing: Option<JoinHandle<()>>,
    not_before: Option<Instant>,
}

impl Report {
    /// Something looks otherwise: who listens is told.
    pub(in crate::daemon) fn looks_otherwise(&self) {
        self.show.pictures.feed.looks_otherwise();
    }

    /// When the next picture may be drawn; nothing while one is being written down.
    pub(in crate::daemon) fn may_draw(&self) -> bool {
        let Drawing {
            writing,
            not_before,
        } = &self.drawing;
        writing.as_ref().is_none_or(JoinHandle::is_finished)
            && not_before.is_none_or(|at| at <= now())
    }

    /// Shows what the core has drawn since `began`, which took it so long.
    pub(in crate::daemon) fn draw(&mut self, mut picture: Picture, began: Instant, took: Duration) {
        self.complete(&mut picture);
        let (changes, verdicts) = (self.show.audit.changes(), self.show.audit.verdicts());
        self.drawing.not_before = Some(began + took * SHARE);
        let pictures = Arc::clone(&self.show.pictures);
        // Many megabytes in the end: elsewhere than in the loop.
        self.drawing.writing = Some(spawn_blocking(move || {
            let mut document = Document::default();
            let written = serde_json::to_writer(&mut document, &picture);
            drop(picture);
            if let Err(error) = written {
                return error!(%error, "the picture cannot be written, which is a bug");
            }
            document.pop();
            pictures.show(Shot {
                at: began,
                document,
                changes,
                verdicts,
            });
        }));
    }

    /// Fills in what only the shell knows.
    fn complete(&self, picture: &mut Picture) {
        let now = now();
        let ago = |at: Instant| ms(now.saturating_duration_since(at));
        picture.taken_at = wall_clock();
        let status = self.status.borrow();
        let sidecar = &mut picture.sidecar;
        env!("CARGO_PKG_VERSION").clone_into(&mut sidecar.version);
        sidecar.up_ms = ago(status.started);
        sidecar.standby.clone_from(&status.standby);
        sidecar.ready = status.is_ready();
        sidecar.missing = status.missing.iter().map(ToString::to_string).collect();
        sidecar.failure = status.failure.as_ref().map(|failure| {
            format!(
                "{} times, the last time in the {}: {}",
                failure.times, failure.part, failure.reason
            )
        });
        picture.nomad.address.clone_from(&self.asked_at);
        picture.nomad.snapshot = status.snapshot.as_ref().map(|snapshot| snapshot.words(now));
        picture.nomad.namespaces = (self.following.namespaces().iter())
            .map(|namespace| followed(namespace, &ago))
            .collect();
        if let Err(problem) = &self.haproxy {
            picture.haproxy.problem = Some(problem.clone());
        }
    }
}

fn followed(namespace: &admin::Namespace, ago: &impl Fn(Instant) -> u64) -> Namespace {
    let trouble = namespace.trouble.as_ref().map(|trouble| Trouble {
        text: trouble.text.clone(),
        began_ms: ago(trouble.began),
        ended_ms: trouble.ended.map(ago),
    });
    let went_back = namespace.went_back.map(|went_back| WentBack {
        times: went_back.times,
        last_ms: ago(went_back.last),
    });
    Namespace {
        name: namespace.name.clone(),
        followed: namespace.followed.name().to_owned(),
        for_ms: ago(namespace.since),
        index: namespace.index,
        current_ms: namespace.known_at.map(ago),
        trouble,
        went_back,
    }
}

/// The time of day, in UTC.
pub(in crate::daemon) fn wall_clock() -> String {
    humantime::format_rfc3339_millis(system_time()).to_string()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shell is where time comes from"
)]
pub(super) fn system_time() -> SystemTime {
    SystemTime::now()
}
