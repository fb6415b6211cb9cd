//! Shows how everything stands: the listener, the way of pictures and of questions to HAProxy through the loop, the audit log;
//! and the commands that ask for it, `status` and `explain`.

mod ask;
mod both_sides;
mod commands;
mod verdicts;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

pub use crate::picture::Served;
pub use commands::{StatusForm, explain, status};
pub(super) use verdicts::Verdicts;

use super::{
    Shell, audit,
    keep::{Failures, Part},
    now,
    report::Show,
};
use crate::{
    admin::{self, Pictures, Status},
    config::Config,
    reconcile::Sketch,
};

/// For the last lines of the audit log.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The admin listener, if there is to be one; it ends when this is dropped.
pub(super) fn listener(
    config: &Config,
    failures: &Failures,
    status: &watch::Receiver<Status>,
    pictures: &Arc<Pictures>,
) -> JoinSet<()> {
    let mut listener = JoinSet::new();
    for listen in &config.admin_listen {
        let (status, metrics) = (status.clone(), Arc::clone(&failures.metrics));
        let (listen, pictures) = (listen.clone(), Arc::clone(pictures));
        listener.spawn(failures.clone().keep(Part::Admin, move || {
            let (status, metrics) = (status.clone(), Arc::clone(&metrics));
            let (listen, pictures) = (listen.clone(), Arc::clone(&pictures));
            async move {
                let listener = admin::bind_forever(listen).await;
                admin::serve(listener, status, metrics, pictures).await;
            }
        }));
    }
    listener
}

/// Begins to write down changes, if that is wanted.
pub(super) fn audit_log(config: &Config, show: &Show) -> Option<JoinHandle<()>> {
    let path = config.audit_log.clone()?;
    Some(tokio::spawn(audit::write(path, show.audit.open())))
}

/// Lets what was changed last be written down, unless that takes long.
pub(super) async fn end_log(log: Option<JoinHandle<()>>, show: &Show) {
    show.audit.close();
    if let Some(log) = log {
        drop(timeout(LAST_LINES, log).await);
    }
}

/// So many registrations or servers are drawn at a time: less than a millisecond.
const PART: usize = 200;

/// A picture that is being drawn.
pub(super) struct Drawing {
    sketch: Sketch,
    began: Instant,
    /// For how long it was drawn on, so far.
    took: Duration,
}

impl Shell {
    /// Whether a picture may be begun.
    pub(super) fn may_draw(&self) -> bool {
        self.drawing.is_none() && self.report.may_draw()
    }

    /// Begins to draw how everything stands.
    pub(super) fn begin_to_draw(&mut self) {
        self.drawing = Some(Drawing {
            sketch: self.core.sketch(),
            began: now(),
            took: Duration::ZERO,
        });
    }

    /// Draws on; shows it when all is there.
    pub(super) fn draw(&mut self) {
        let Some(mut drawing) = self.drawing.take() else {
            return;
        };
        let begins = now();
        let at = begins.saturating_duration_since(self.started);
        let is_more = self.core.draw(at, &mut drawing.sketch, PART);
        drawing.took += begins.elapsed();
        if is_more {
            self.drawing = Some(drawing);
            return;
        }
        let picture = drawing.sketch.into_picture();
        self.report.draw(picture, drawing.began, drawing.took);
    }
}
