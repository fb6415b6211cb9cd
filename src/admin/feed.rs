//! What those who listen are told: each change of HAProxy with what became of it, and that the picture is another one.
//!
//! The last thousand changes are kept for who comes late, or again. Nobody who listens keeps the daemon waiting: it leaves
//! what happened here, and each takes it when it can.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use crate::picture::Change;

/// So many changes are kept.
pub(super) const KEPT: usize = 1_000;

/// Counts what happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The last change.
    pub(super) change: u64,
    /// The last time that something looked otherwise.
    pub(super) picture: u64,
}

/// What happened. It outlives the core.
#[derive(Debug)]
pub struct Feed {
    /// Of this run: numbers of another one mean nothing.
    run: String,
    kept: Mutex<VecDeque<(u64, Change)>>,
    seen: watch::Sender<Seen>,
}

impl Default for Feed {
    #[expect(
        clippy::disallowed_methods,
        reason = "the listener is part of the shell"
    )]
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            run: format!("{:x}", since.unwrap_or_default().as_micros()),
            kept: Mutex::default(),
            seen: watch::Sender::default(),
        }
    }
}

impl Feed {
    /// HAProxy has answered to a change, or never will.
    pub fn changed(&self, change: Change) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.seen.borrow().change + 1;
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((number, change));
        self.seen.send_modify(|seen| seen.change = number);
    }

    /// Something looks otherwise.
    pub fn looks_otherwise(&self) {
        self.seen.send_modify(|seen| seen.picture += 1);
    }

    /// From where on who listens is told: what it heard last in this run; everything that is kept, when that was in another
    /// one; and from now on, when it has heard nothing.
    pub(super) fn begin(&self, last: Option<&str>) -> (watch::Receiver<Seen>, Seen) {
        let moves = self.seen.subscribe();
        let mut seen = *moves.borrow();
        if let Some(last) = last {
            let of_this_run = last.strip_prefix(&self.run);
            let number = of_this_run.and_then(|rest| rest.strip_prefix('-')?.parse().ok());
            seen.change = number.map_or(0, |number: u64| number.min(seen.change));
        }
        (moves, seen)
    }

    /// The events of some changes after that one, and the last of these.
    pub(super) fn after(&self, number: u64, most: usize) -> Option<(String, u64)> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let first = kept.front()?.0;
        let passed = usize::try_from((number + 1).saturating_sub(first)).ok()?;
        let changes: Vec<_> = kept.iter().skip(passed).take(most).cloned().collect();
        // Writing them down is nobody else's business.
        drop(kept);
        let last = changes.last()?.0;
        let mut text = String::new();
        let missed = first.saturating_sub(number + 1);
        if missed > 0 {
            let _ = write!(text, "event: lost\ndata: {{\"changes\":{missed}}}\n\n");
        }
        for (number, change) in changes {
            // Plain values always can be.
            let json = serde_json::to_string(&change).unwrap_or_default();
            let _ = write!(
                text,
                "event: change\nid: {}-{number}\ndata: {json}\n\n",
                self.run
            );
        }
        Some((text, last))
    }
}
