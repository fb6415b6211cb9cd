//! The picture between those who ask for it and the core that draws it: it is drawn only when somebody asks, at most four times
//! a second, and its bytes are shared by all who ask. Slow readers keep a few old ones alive, and no more.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use hyper::body::Bytes;
use tokio::{
    sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot, watch},
    time::timeout,
};

use super::Feed;
use crate::picture::Change;

/// A picture is good for so long.
const GOOD_FOR: Duration = Duration::from_millis(250);
/// For the core to draw one, or to hear of HAProxy. It does not come round while it starts afresh.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many are kept for slow readers, or of so many bytes. Who asks then gets the last one, however old it is.
const MOST_ALIVE: usize = 3;
const MOST_BYTES: usize = 4 << 20;
/// Of a document. A vector that grows as a whole takes the double for a moment.
const PIECE: usize = 64 << 10;
/// Questions to HAProxy that wait.
const MOST_QUESTIONS: usize = 8;

/// A picture that was drawn.
#[derive(Debug)]
pub struct Shot {
    /// When.
    pub at: Instant,
    /// The document without its changes and its last brace.
    pub document: Document,
    /// The changes, the oldest first.
    pub changes: Vec<Change>,
    /// The turns of HAProxy's verdicts, the oldest first.
    pub verdicts: Vec<Change>,
}

/// Text in pieces.
#[derive(Debug, Default)]
pub struct Document(Vec<Vec<u8>>);

impl Document {
    fn size(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// Takes the last byte away.
    pub fn pop(&mut self) {
        self.0.last_mut().and_then(Vec::pop);
    }
}

impl io::Write for Document {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_full = |piece: &Vec<u8>| piece.len() >= PIECE;
        if self.0.last().is_none_or(is_full) {
            self.0.push(Vec::with_capacity(PIECE));
        }
        let Some(piece) = self.0.last_mut() else {
            return Ok(0);
        };
        let taken = bytes.len().min(PIECE.saturating_sub(piece.len()));
        piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One piece of a shot, which keeps all of it.
struct Shared(Arc<Shot>, usize);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.document.0.get(self.1).map_or(&[], Vec::as_slice)
    }
}

impl Shot {
    /// The whole document, with so many of the last changes and of the last verdicts.
    pub(super) fn pieces(
        self: &Arc<Self>,
        changes: usize,
    ) -> Result<VecDeque<Bytes>, serde_json::Error> {
        let last = [&self.changes, &self.verdicts].map(|all| {
            let first = all.len().saturating_sub(changes);
            &all[first..]
        });
        let mut last: Vec<_> = last.into_iter().flatten().collect();
        last.sort_by_key(|change| change.number);
        let mut rest = b",\"changes\":".to_vec();
        serde_json::to_writer(&mut rest, &last)?;
        rest.push(b'}');
        let shared = |at| Bytes::from_owner(Shared(Arc::clone(self), at));
        let document = (0..self.document.0.len()).map(shared);
        Ok(document.chain([rest.into()]).collect())
    }
}

/// What HAProxy says of a backend's checks.
#[derive(Debug)]
pub struct Question {
    /// Of which one.
    pub backend: String,
    /// Takes [`Checks`](crate::picture::Checks) as JSON; dropped when there is no answer.
    pub answer: oneshot::Sender<Vec<u8>>,
}

/// Where both sides meet. It outlives the core.
#[derive(Debug)]
pub struct Pictures {
    /// What those who listen are told.
    pub feed: Feed,
    wanted: Notify,
    latest: watch::Sender<Option<Arc<Shot>>>,
    alive: Mutex<Vec<Weak<Shot>>>,
    questions: mpsc::Sender<Question>,
    asked: AsyncMutex<mpsc::Receiver<Question>>,
}

impl Default for Pictures {
    fn default() -> Self {
        let (questions, asked) = mpsc::channel(MOST_QUESTIONS);
        Self {
            feed: Feed::default(),
            wanted: Notify::new(),
            latest: watch::Sender::new(None),
            alive: Mutex::default(),
            questions,
            asked: AsyncMutex::new(asked),
        }
    }
}

impl Pictures {
    // === Those who ask ===

    /// A picture that is good; nothing when the core does not draw.
    pub(super) async fn get(&self) -> Option<Arc<Shot>> {
        let mut seen = self.latest.subscribe();
        let latest = seen.borrow_and_update().clone();
        if let Some(latest) = latest
            && (latest.at.elapsed() < GOOD_FOR || self.is_full(&latest))
        {
            return Some(latest);
        }
        // The next one has its place, unless somebody still reads it.
        self.latest.send_if_modified(|latest| {
            latest.take();
            false
        });
        self.wanted.notify_one();
        timeout(PATIENCE, seen.changed()).await.ok()?.ok()?;
        seen.borrow().clone()
    }

    /// What HAProxy says of a backend's checks, as JSON.
    pub(super) async fn checks(&self, backend: &str) -> Option<Vec<u8>> {
        let (answer, answered) = oneshot::channel();
        let backend = backend.to_owned();
        self.questions.try_send(Question { backend, answer }).ok()?;
        timeout(PATIENCE, answered).await.ok()?.ok()
    }

    fn is_full(&self, latest: &Arc<Shot>) -> bool {
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|shot| shot.strong_count() > 0);
        // The last one has its place, too, and is in the hand of who asks.
        let is_read = |shot: &&Weak<Shot>| {
            let is_latest = shot.as_ptr() == Arc::as_ptr(latest);
            shot.strong_count() > if is_latest { 2 } else { 0 }
        };
        let read = alive.iter().filter(is_read).filter_map(Weak::upgrade);
        let bytes: usize = read.map(|shot| shot.document.size()).sum();
        alive.len() >= MOST_ALIVE || bytes >= MOST_BYTES
    }

    // === The core ===

    /// Waits until somebody wants a picture. Cancel-safe.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Waits for a question to HAProxy. Cancel-safe.
    pub async fn asked(&self) -> Question {
        let question = self.asked.lock().await.recv().await;
        match question {
            Some(question) => question,
            // This one keeps a sender.
            None => std::future::pending().await,
        }
    }

    /// Shows a picture to all who wait.
    pub fn show(&self, shot: Shot) {
        let shot = Arc::new(shot);
        let mut alive = self.alive.lock().unwrap_or_else(PoisonError::into_inner);
        alive.retain(|shot| shot.strong_count() > 0);
        alive.push(Arc::downgrade(&shot));
        drop(alive);
        self.latest.send_replace(Some(shot));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the listener's clock is real")]
    fn shot(text: &str) -> Shot {
        let change = |number| Change {
            number,
            ..Change::default()
        };
        Shot {
            at: Instant::now(),
            document: Document(vec![text.as_bytes().to_vec()]),
            changes: [1, 3, 4].map(change).into(),
            verdicts: [2, 5].map(change).into(),
        }
    }

    fn text(shot: &Arc<Shot>, changes: usize) -> String {
        let pieces = shot.pieces(changes).unwrap();
        String::from_utf8(Vec::from(pieces).concat()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_share_one_picture() {
        let pictures = Arc::new(Pictures::default());
        let ask = || {
            let pictures = Arc::clone(&pictures);
            tokio::spawn(async move { pictures.get().await })
        };
        let asking: Vec<_> = (0..50).map(|_| ask()).collect();
        pictures.wanted().await;
        tokio::task::yield_now().await;
        pictures.show(shot("{\"version\":1"));
        for each in asking {
            let shot = each.await.unwrap().unwrap();
            let document: serde_json::Value = serde_json::from_str(&text(&shot, 2)).unwrap();
            let numbers = document["changes"].as_array().unwrap().iter();
            let numbers: Vec<_> = numbers.map(|change| change["number"].as_u64()).collect();
            assert_eq!(numbers, [2, 3, 4, 5].map(Some));
            assert_eq!(text(&shot, 0), "{\"version\":1,\"changes\":[]}");
        }
        // It is good for a moment: nobody has to draw.
        assert!(pictures.get().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_readers_keep_three_pictures_and_no_more() {
        let pictures = Pictures::default();
        let mut slow = Vec::new();
        for number in 0..3 {
            let mut old = shot(&format!("{{\"n\":{number}"));
            old.at -= Duration::from_secs(5);
            pictures.show(old);
            slow.push(pictures.latest.borrow().clone().unwrap().pieces(0).unwrap());
        }
        let shown = pictures.get().await.unwrap();
        assert_eq!(text(&shown, 0), "{\"n\":2,\"changes\":[]}");
        drop((slow, shown));
        // Only the last one is left: a new one is wanted, and nobody draws it.
        assert!(pictures.get().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_big_picture_that_is_read_is_the_only_one() {
        let pictures = Pictures::default();
        let mut big = shot("");
        let text = vec![b' '; MOST_BYTES + 1];
        io::Write::write_all(&mut big.document, &text).unwrap();
        big.at -= Duration::from_secs(5);
        pictures.show(big);
        let reader = pictures.latest.borrow().clone().unwrap().pieces(0).unwrap();
        assert_eq!(Vec::from(reader.clone()).concat().len(), text.len() + 14);
        assert!(reader.len() > 64 && reader.iter().all(|piece| piece.len() <= PIECE));
        assert!(pictures.get().await.is_some());
        drop(reader);
        assert!(pictures.get().await.is_none());
        assert!(pictures.latest.borrow().is_none(), "it has left its place");
    }

    #[tokio::test(start_paused = true)]
    async fn a_core_that_does_not_answer_is_not_waited_for_for_ever() {
        let pictures = Pictures::default();
        assert!(pictures.get().await.is_none());
        assert!(pictures.checks("web").await.is_none());
        for _ in 0..MOST_QUESTIONS {
            drop(pictures.checks("web").await);
        }
        assert!(pictures.checks("web").await.is_none());
        assert_eq!(pictures.asked().await.backend, "web");
    }
}
