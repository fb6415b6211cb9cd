//! Shows how everything stands: the listener, the way of pictures and of questions to HAProxy through the loop, the audit log;
//! and the commands that ask for it, `status` and `explain`.

mod ask;
mod both_sides;
mod commands;

use std::{
    collections::BTreeMap,
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

use super::{
    Shell, audit,
    keep::{Failures, Part},
    now,
    report::Show,
};
use crate::{
    admin::{self, Pictures, Question, Status},
    config::Config,
    model::{Batch, BatchId, Request, Response, ServerName, Verdict},
    picture::{Check, Checks},
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

/// The questions to HAProxy that are no concern of the core's. Their batches have the last numbers there are.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    asked: u64,
    under_way: BTreeMap<BatchId, Question>,
}

impl Verdicts {
    fn ask(&mut self, request: Request, question: Question) -> Batch {
        self.asked += 1;
        let id = BatchId(u64::MAX - self.asked);
        self.under_way.insert(id, question);
        Batch {
            id,
            requests: [request].into(),
            lock_step: false,
        }
    }

    /// Answers a question; what is none of these is given back.
    pub(super) fn take(&mut self, id: BatchId, responses: Vec<Response>) -> Option<Vec<Response>> {
        let Some(question) = self.under_way.remove(&id) else {
            return Some(responses);
        };
        let verdicts = match responses.into_iter().next() {
            Some(Response::Verdicts(verdicts)) => verdicts,
            // It has no servers, so nothing is said of any.
            Some(Response::NoSuchBackend) => BTreeMap::new(),
            Some(_) | None => return None,
        };
        if let Ok(json) = serde_json::to_vec(&checks(verdicts)) {
            // Whoever asked may have gone.
            drop(question.answer.send(json));
        }
        None
    }
}

fn checks(verdicts: BTreeMap<ServerName, Verdict>) -> Checks {
    let check = |verdict: Verdict| Check {
        state: verdict.state,
        status: verdict.check_status,
        code: verdict.code,
        text: verdict.text,
        took_ms: verdict.took,
        since_ms: verdict
            .since_change
            .map(|seconds| seconds.saturating_mul(1_000)),
        address: verdict.address,
        sessions: verdict.sessions,
    };
    let verdicts = verdicts.into_iter();
    verdicts
        .map(|(name, verdict)| (name.as_str().to_owned(), check(verdict)))
        .collect()
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

    /// Asks HAProxy for its words on checks, besides what the core asks for.
    pub(super) async fn ask_for_verdicts(&mut self, question: Question) {
        let Some(request) = self.core.ask_for_verdicts(&question.backend) else {
            return;
        };
        let batch = self.verdicts.ask(request, question);
        drop(self.batches.send(batch).await);
    }
}
