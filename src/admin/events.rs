//! `/events`: what happens, as Server-Sent Events, for as long as somebody reads.
//!
//! An event is made when the connection takes it, from what the feed keeps: who reads slowly has one in memory and misses
//! what the feed no longer has. Who takes nothing is cut.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper::body::{Bytes, Frame};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep_until, timeout_at},
};

use super::{CONNECTION_LIMIT, Pictures, feed::Seen};

/// Who listens to nothing hears at least that, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Between two notices that the picture is another one.
const NUDGE: Duration = Duration::from_secs(1);
/// So many changes are told at a time.
const AT_A_TIME: usize = 16;

/// Until when a connection may take nothing.
#[derive(Debug)]
pub(super) struct Patience(Mutex<Instant>);

impl Patience {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Instant::now() + CONNECTION_LIMIT)))
    }

    fn renew(&self) {
        let until = Instant::now() + KEEP_ALIVE + CONNECTION_LIMIT;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// Ends when it is over.
    pub(super) async fn end(&self) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

type Next = Pin<Box<dyn Future<Output = (Listener, String)> + Send>>;

/// The body of the answer: it has no end.
pub(super) struct Events {
    next: Next,
    patience: Arc<Patience>,
}

impl Events {
    /// `last` is the ID that the client has heard last.
    pub(super) fn new(
        pictures: Arc<Pictures>,
        last: Option<&str>,
        patience: Arc<Patience>,
        seat: OwnedSemaphorePermit,
    ) -> Self {
        let (moves, seen) = pictures.feed.begin(last);
        let listener = Listener {
            pictures,
            moves,
            seen,
            nudge_at: Instant::now(),
            _seat: seat,
        };
        let hello = async { (listener, "retry: 2000\n\n".to_owned()) };
        Self {
            next: Box::pin(hello),
            patience,
        }
    }

    pub(super) fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.patience.renew();
        self.next.as_mut().poll(context).map(|(listener, text)| {
            self.next = Box::pin(listener.next());
            Some(Ok(Frame::data(text.into())))
        })
    }
}

struct Listener {
    pictures: Arc<Pictures>,
    moves: watch::Receiver<Seen>,
    seen: Seen,
    nudge_at: Instant,
    _seat: OwnedSemaphorePermit,
}

impl Listener {
    /// What is to be told next.
    async fn next(mut self) -> (Self, String) {
        let quiet_until = Instant::now() + KEEP_ALIVE;
        loop {
            let there = *self.moves.borrow_and_update();
            if there.change > self.seen.change
                && let Some((text, last)) = self.pictures.feed.after(self.seen.change, AT_A_TIME)
            {
                self.seen.change = last;
                return (self, text);
            }
            let is_other = there.picture > self.seen.picture;
            if is_other && self.nudge_at <= Instant::now() {
                self.seen.picture = there.picture;
                self.nudge_at = Instant::now() + NUDGE;
                return (self, "event: picture\ndata: {}\n\n".to_owned());
            }
            let until = if is_other { self.nudge_at } else { quiet_until };
            // The sender lives as long as the pictures do.
            let moved = timeout_at(until, self.moves.changed()).await;
            if moved.is_err() && !is_other {
                return (self, ":\n\n".to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::watch,
        time::timeout,
    };

    use super::*;
    use crate::{
        admin::{Listener as Socket, MAX_LISTENERS, Metrics, Status, feed::KEPT, serve},
        picture::Change,
    };

    struct Site {
        addr: std::net::SocketAddr,
        pictures: Arc<Pictures>,
        _status: watch::Sender<Status>,
    }

    impl Site {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let started = Instant::now().into_std();
            let (status, seen) = watch::channel(Status::starting(started));
            let pictures: Arc<Pictures> = Arc::default();
            let (metrics, shared) = (Arc::new(Metrics::new()), Arc::clone(&pictures));
            tokio::spawn(serve(Socket::Tcp(listener), seen, metrics, shared));
            Self {
                addr,
                pictures,
                _status: status,
            }
        }

        fn change(&self, number: u64, command: &str) {
            self.pictures.feed.changed(Change {
                number,
                command: command.into(),
                ..Change::default()
            });
        }

        async fn listen(&self, last: Option<&str>) -> Ear {
            let mut stream = TcpStream::connect(self.addr).await.unwrap();
            let last = last.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
            let request = format!("GET /events HTTP/1.1\r\nhost: sidecar\r\n{last}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            Ear {
                stream,
                heard: String::new(),
            }
        }
    }

    struct Ear {
        stream: TcpStream,
        heard: String,
    }

    impl Ear {
        /// Listens until this was said.
        async fn until(&mut self, text: &str) -> &str {
            self.until_times(text, 1).await
        }

        async fn until_times(&mut self, text: &str, times: usize) -> &str {
            let heard = timeout(Duration::from_mins(2), async {
                while self.heard.matches(text).count() < times {
                    let mut bytes = [0; 4096];
                    let count = self.stream.read(&mut bytes).await.unwrap();
                    assert!(count > 0, "{text:?} was not said, but {}", self.heard);
                    let text = std::str::from_utf8(&bytes[..count]).unwrap();
                    self.heard.push_str(text);
                }
            });
            heard.await.expect("it is said in time");
            &self.heard
        }
    }

    /// What stands after the last `id: `.
    fn last_id(heard: &str) -> String {
        let (_, id) = heard.rsplit_once("\nid: ").unwrap();
        id.lines().next().unwrap().to_owned()
    }

    #[tokio::test]
    async fn each_change_is_told_once_and_from_where_the_client_left_off() {
        let site = Site::start().await;
        site.change(1, "before");
        let mut ear = site.listen(None).await;
        let begin = ear.until("retry: 2000").await;
        assert!(begin.starts_with("HTTP/1.1 200 OK\r\n"), "{begin}");
        assert!(
            begin.contains("content-type: text/event-stream\r\n"),
            "{begin}"
        );
        site.change(2, "one\ntwo");
        let heard = ear.until("one").await.to_owned();
        assert!(!heard.contains("before"), "{heard}");
        assert!(heard.contains("\"command\":\"one\\ntwo\""), "{heard}");
        let id = last_id(&heard);
        drop(ear);
        site.change(3, "meanwhile");
        let mut ear = site.listen(Some(&id)).await;
        let heard = ear.until("meanwhile").await;
        assert_eq!(heard.matches("event: change").count(), 1, "{heard}");
        // Of another run: all of this one.
        for id in ["17-2", "", &format!("{id}x")] {
            let mut ear = site.listen(Some(id)).await;
            let heard = ear.until("meanwhile").await;
            assert_eq!(heard.matches("event: change").count(), 3, "{id}: {heard}");
        }
    }

    #[tokio::test]
    async fn what_is_no_longer_kept_is_said_to_be_lost() {
        let site = Site::start().await;
        site.change(0, "first");
        let mut ear = site.listen(Some("other")).await;
        let id = last_id(ear.until("first").await);
        for number in 0..=KEPT + 4 {
            site.change(number as u64, &format!("<{number}>"));
        }
        let mut ear = site.listen(Some(&id)).await;
        let heard = ear.until(&format!("<{}>", KEPT + 4)).await;
        assert!(
            heard.contains("event: lost\ndata: {\"changes\":5}\n"),
            "{heard:.300}"
        );
        assert_eq!(heard.matches("event: change").count(), KEPT);
    }

    #[tokio::test(start_paused = true)]
    async fn another_picture_is_told_of_once_a_second_and_silence_is_kept_alive() {
        let site = Site::start().await;
        let mut ear = site.listen(None).await;
        ear.until("retry").await;
        let start = Instant::now();
        for _ in 0..3 {
            for _ in 0..100 {
                site.pictures.feed.looks_otherwise();
            }
            ear.heard.clear();
            assert_eq!(
                ear.until("event").await.matches("event: picture").count(),
                1
            );
        }
        assert!(start.elapsed() >= 2 * NUDGE, "{:?}", start.elapsed());
        ear.heard.clear();
        let start = Instant::now();
        assert!(!ear.until(":\n\n").await.contains("event"));
        assert!(start.elapsed() >= KEEP_ALIVE, "{:?}", start.elapsed());
        // Longer than any other connection lives.
        ear.heard.clear();
        ear.until_times(":\n\n", 3).await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_and_keeps_nobody_waiting() {
        let site = Site::start().await;
        let long = "x".repeat(20_000);
        for number in 0..KEPT {
            site.change(number as u64, &long);
        }
        let mut slow = site.listen(Some("other")).await;
        let mut quick = site.listen(None).await;
        quick.until("retry").await;
        let start = Instant::now();
        while start.elapsed() < 2 * (KEEP_ALIVE + CONNECTION_LIMIT) {
            site.pictures.feed.looks_otherwise();
            quick.heard.clear();
            quick.until("event: picture").await;
        }
        let mut all = Vec::new();
        // Its connection ends, by whatever means.
        drop(slow.stream.read_to_end(&mut all).await);
        assert!(all.len() < KEPT * long.len(), "{}", all.len());
    }

    #[tokio::test]
    async fn as_many_as_may_listen_and_the_others_are_answered() {
        let site = Site::start().await;
        let mut ears = Vec::new();
        for _ in 0..MAX_LISTENERS {
            let mut ear = site.listen(None).await;
            ear.until("retry").await;
            ears.push(ear);
        }
        let mut more = site.listen(None).await;
        let answer = more.until("ask /status").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        // Whoever goes makes room.
        drop(ears.pop());
        loop {
            let mut ear = site.listen(None).await;
            if ear.until("\r\n\r\n").await.starts_with("HTTP/1.1 200 ") {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
}
