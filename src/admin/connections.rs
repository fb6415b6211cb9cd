//! The connections of the admin listener, and their places. When somebody else needs the place, one leaves: of those who have
//! not sent a whole request yet the oldest, and then of those who do not read their answer. So slow clients, or hostile
//! ones, keep nobody waiting.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::{Semaphore, watch},
    task::{AbortHandle, JoinSet, yield_now},
    time::sleep,
};
use tracing::{debug, info, warn};

use super::{
    Listener, MAX_LISTENERS, Metrics, Pictures, Shown, Status, events::Patience, listen::Stream,
    reply,
};

/// Connections at once.
const PLACES: usize = 64;
/// For the head of a request to arrive.
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// The largest head of a request, in bytes. It is also hyper's smallest buffer.
const MAX_HEAD: usize = 8192;
/// After a connection could not be accepted for want of file descriptors.
const RETRY: Duration = Duration::from_secs(1);

/// Answers requests for as long as the future is polled. Dropping it closes every connection.
pub async fn serve(
    listener: Listener,
    status: watch::Receiver<Status>,
    metrics: Arc<Metrics>,
    pictures: Arc<Pictures>,
) {
    let shown = Shown {
        status,
        metrics,
        pictures,
        seats: Arc::new(Semaphore::new(MAX_LISTENERS)),
    };
    let (mut connections, mut places) = (JoinSet::new(), Places::default());
    let mut is_failing = false;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if places.make_room() => {
                    if mem::take(&mut is_failing) {
                        info!("the admin listener accepts connections again");
                    }
                    let asked = Arc::default();
                    let task = connections.spawn(answer(stream, shown.clone(), Arc::clone(&asked)));
                    places.0.push_back((task, asked));
                    // What was sent is read, and who has left is gone, before the next one comes.
                    yield_now().await;
                    while connections.try_join_next().is_some() {}
                }
                Ok((_, peer)) => debug!(%peer, "too many admin connections; this one is closed"),
                Err(error) if concerns_one_connection(&error) => {
                    debug!(%error, "an admin connection could not be accepted");
                }
                Err(error) => {
                    if !mem::replace(&mut is_failing, true) {
                        warn!(
                            %error,
                            "the admin listener cannot accept connections and tries again every second: raise the limit of open files (ulimit -n), or see who keeps connections to it open"
                        );
                    }
                    sleep(RETRY).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn answer(stream: Box<dyn Stream>, shown: Shown, asked: Arc<Asked>) {
    let patience = Patience::new();
    let service = service_fn(|request: Request<Incoming>| {
        let listens = request.uri().path() == "/events";
        asked.listens.store(listens, Ordering::Relaxed);
        asked.all.store(true, Ordering::Relaxed);
        let (shown, patience) = (&shown, &patience);
        async move { Ok::<_, Infallible>(reply(request, shown, patience).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            debug!(%error, "an admin connection failed");
        },
        () = patience.end() => debug!("an admin connection was closed for taking too long"),
    }
}

/// What a client has asked so far.
#[derive(Default)]
struct Asked {
    /// A whole request.
    all: AtomicBool,
    /// One for events, which are answered for as long as somebody takes them.
    listens: AtomicBool,
}

/// Those who have a place, in the order in which they came.
#[derive(Default)]
struct Places(VecDeque<(AbortHandle, Arc<Asked>)>);

impl Places {
    /// Whether there is a place for one more, for which somebody may have to leave.
    fn make_room(&mut self) -> bool {
        if self.0.len() < PLACES {
            return true;
        }
        self.0.retain(|(task, _)| !task.is_finished());
        if self.0.len() < PLACES {
            return true;
        }
        let is_silent = |asked: &Asked| !asked.all.load(Ordering::Relaxed);
        let is_answered = |asked: &Asked| !asked.listens.load(Ordering::Relaxed);
        let silent = self.0.iter().position(|(_, asked)| is_silent(asked));
        let slow = || self.0.iter().position(|(_, asked)| is_answered(asked));
        let leaves = silent.or_else(slow).and_then(|place| self.0.remove(place));
        leaves.inspect(|(task, _)| task.abort()).is_some()
    }
}

/// Whether accepting failed for the one connection only, so that the next one can be accepted at once.
fn concerns_one_connection(error: &io::Error) -> bool {
    [
        io::ErrorKind::ConnectionAborted,
        io::ErrorKind::ConnectionReset,
        io::ErrorKind::ConnectionRefused,
    ]
    .contains(&error.kind())
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;
    use crate::admin::{
        CONNECTION_LIMIT,
        tests::{ask, exchange, listening, starting},
    };

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let (addr, _status) = listening(starting()).await;
        let request = format!("GET /live HTTP/1.1\r\nx: {}", "x".repeat(MAX_HEAD));
        let answer = exchange(addr, &request).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_nothing_is_closed_after_five_seconds() {
        let (addr, _status) = listening(starting()).await;
        let start = tokio::time::Instant::now();
        assert_eq!(exchange(addr, "GET /live HTTP/1.1\r\n").await, "");
        assert!((HEAD_LIMIT..CONNECTION_LIMIT).contains(&start.elapsed()));
    }

    #[tokio::test]
    async fn whoever_asked_nothing_for_longest_leaves_when_another_one_comes() {
        let (addr, _status) = listening(starting()).await;
        let mut silent = Vec::new();
        for _ in 0..PLACES {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(b"GET /live HT").await.unwrap();
            silent.push(stream);
        }
        assert_eq!(ask(addr, "GET /live").await.2, "ok\n");
        // What it had sent may not have been read.
        let _ = silent[0].read(&mut [0]).await;
        let next = &mut silent[1];
        next.write_all(b"TP/1.1\r\nhost: sidecar\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        next.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("\r\n\r\nok\n"), "{answer}");
    }

    #[tokio::test]
    async fn whoever_listens_keeps_the_place_and_whoever_has_asked_does_before_the_silent() {
        let (mut tasks, mut places) = (JoinSet::new(), Places::default());
        let mut come = |places: &mut Places, all: bool, listens: bool| {
            let (all, listens) = (all.into(), listens.into());
            let task = tasks.spawn(pending::<()>());
            places.0.push_back((task, Arc::new(Asked { all, listens })));
        };
        come(&mut places, true, false);
        come(&mut places, false, false);
        for _ in 2..PLACES {
            assert!(places.make_room());
            come(&mut places, true, true);
        }
        let [reads_nothing, silent] = [0, 1].map(|place| places.0[place].0.clone());
        for leaves in [silent, reads_nothing] {
            assert!(places.make_room());
            yield_now().await;
            assert!(leaves.is_finished());
            come(&mut places, true, true);
        }
        assert!(!places.make_room());
    }
}
