//! What HAProxy says of checks: for those who ask for it, and for the turns of its verdicts that are written down. It is no
//! concern of the core's.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    admin::Question,
    daemon::{Shell, audit::Audit},
    model::{BackendName, Batch, BatchId, Request, Response, ServerName, Verdict},
    picture::{Check, Checks},
};

/// So many backends wait to be asked for. Where more turn at once, the rest has no words.
const MOST_WAITING: usize = 100;

/// The questions. Their batches have the last numbers there are.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Verdicts {
    asked: u64,
    under_way: BTreeMap<BatchId, Purpose>,
    /// Backends with turns that have no words yet.
    turned: BTreeSet<BackendName>,
}

#[derive(Debug)]
enum Purpose {
    Answer(Question),
    Words(BackendName),
}

impl Verdicts {
    fn ask(&mut self, request: Request, purpose: Purpose) -> Batch {
        self.asked += 1;
        let id = BatchId(u64::MAX - self.asked);
        self.under_way.insert(id, purpose);
        Batch {
            id,
            requests: [request].into(),
            lock_step: false,
        }
    }

    /// A verdict on a server of this backend has turned.
    pub(in crate::daemon) fn turned(&mut self, backend: &BackendName) {
        self.turned.insert(backend.clone());
    }

    /// Answers a question; what is none of these is given back.
    pub(in crate::daemon) fn take(
        &mut self,
        id: BatchId,
        responses: Vec<Response>,
        audit: &Audit,
    ) -> Option<Vec<Response>> {
        let Some(purpose) = self.under_way.remove(&id) else {
            return Some(responses);
        };
        let verdicts = match responses.into_iter().next() {
            Some(Response::Verdicts(verdicts)) => Some(verdicts),
            // It has no servers, so nothing is said of any.
            Some(Response::NoSuchBackend) => Some(BTreeMap::new()),
            Some(_) | None => None,
        };
        match (purpose, verdicts) {
            (Purpose::Words(backend), verdicts) => audit.worded(&backend, verdicts.as_ref()),
            (Purpose::Answer(question), Some(verdicts)) => {
                if let Ok(json) = serde_json::to_vec(&checks(verdicts)) {
                    // Whoever asked may have gone.
                    drop(question.answer.send(json));
                }
            }
            (Purpose::Answer(_), None) => {}
        }
        None
    }

    /// The next backend to ask for, one at a time.
    fn next_turned(&mut self) -> Option<BackendName> {
        let mut under_way = self.under_way.values();
        if under_way.any(|purpose| matches!(purpose, Purpose::Words(_))) {
            return None;
        }
        self.turned.pop_first()
    }
}

pub(super) fn checks(verdicts: BTreeMap<ServerName, Verdict>) -> Checks {
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
    /// Asks HAProxy for its words on checks, besides what the core asks for.
    pub(in crate::daemon) async fn ask_for_verdicts(&mut self, question: Question) {
        let Some(request) = self.core.ask_for_verdicts(&question.backend) else {
            return;
        };
        let batch = self.verdicts.ask(request, Purpose::Answer(question));
        drop(self.batches.send(batch).await);
    }

    /// The same for what has turned.
    pub(in crate::daemon) async fn ask_for_words(&mut self) {
        let audit = &self.report.show.audit;
        while self.verdicts.turned.len() > MOST_WAITING
            && let Some(backend) = self.verdicts.turned.pop_last()
        {
            audit.worded(&backend, None);
        }
        while let Some(backend) = self.verdicts.next_turned() {
            match self.core.ask_for_words(&backend) {
                Some(request) => {
                    let batch = self.verdicts.ask(request, Purpose::Words(backend));
                    drop(self.batches.send(batch).await);
                }
                None => audit.worded(&backend, None),
            }
        }
    }
}
