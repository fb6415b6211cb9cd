//! The task that owns the connection to HAProxy. It runs batches, asks every 250 ms whether the process still is the one
//! it was, and connects anew when it is not.
//!
//! It decides nothing and repeats nothing: whatever was not answered is given back. A batch never goes to another process
//! than the one that its sender knew of. Since all goes through one connection, one request after the other, no server is
//! deleted while a dump is being read (which crashes 2.6 and 2.8).

mod connection;
mod error;
mod pipeline;

use std::{collections::VecDeque, mem, path::PathBuf, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};

pub use connection::Connection;
pub use error::{ConnectError, SessionError};

use crate::model::{Batch, BatchId, ProcessInfo, Response};

/// Where HAProxy is and how patient the session is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The path of the stats socket.
    pub socket: PathBuf,
    /// How long no byte of an answer may come. Also how long connecting may take.
    pub reply_deadline: Duration,
    /// Between two looks at the process.
    pub poll: Duration,
    /// How many bytes of requests may be unanswered.
    pub window: usize,
}

impl Settings {
    /// The settings that HAProxy 2.6 to 3.4 were measured with.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            reply_deadline: Duration::from_secs(5),
            poll: Duration::from_millis(250),
            window: 8192,
        }
    }
}

/// What the session tells.
#[derive(Debug)]
pub enum Event {
    /// A process answers: everything must be observed anew.
    Connected(ProcessInfo),
    /// Every request of the batch was answered, each by one response.
    Completed {
        /// The batch.
        id: BatchId,
        /// In the order of the requests.
        responses: Vec<Response>,
    },
    /// The batch ends here. Requests beyond `responses` may or may not be done.
    Failed {
        /// The batch.
        id: BatchId,
        /// The answers before the failure.
        responses: Vec<Response>,
        /// Why: the error itself for the batch whose answer was due, [`SessionError::Abandoned`] for the others.
        error: SessionError,
    },
    /// The connection ended, and all batches have failed. [`Event::Connected`] comes next, sooner or later.
    Lost(SessionError),
    /// Connecting fails. Told once until the reason changes; the session goes on trying.
    Unavailable(ConnectError),
}

/// So many batches are taken before the first of them is answered.
const MAX_BATCHES: usize = 64;

/// The wait before the next attempt to connect, at first and at most: a HAProxy that comes back is noticed as soon as one
/// that is reloaded.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_millis(250);

/// A connection that lasted so long gives no reason to wait before the next one.
const STABLE: Duration = Duration::from_secs(1);

/// Serves `batches` until that channel, or `events`, is closed.
///
/// A batch fails at once while there is no connection. After [`Event::Lost`], [`Event::Connected`] comes only when the
/// former was taken, and what was sent until then has failed: nothing that was planned for one process reaches another,
/// if the sender takes an event before it sends another batch.
pub async fn run(settings: Settings, batches: mpsc::Receiver<Batch>, events: mpsc::Sender<Event>) {
    let mut session = Session {
        settings,
        batches,
        outbox: Outbox {
            events,
            owed: VecDeque::new(),
        },
        retry: Duration::ZERO,
    };
    while let Some(connection) = session.connect().await {
        let since = Instant::now();
        if session.serve(connection).await.is_none() {
            return;
        }
        session.retry = if since.elapsed() >= STABLE {
            Duration::ZERO
        } else {
            next_retry(session.retry)
        };
    }
}

/// The caller, or the channel to it, is gone.
struct Gone;

struct Session {
    settings: Settings,
    batches: mpsc::Receiver<Batch>,
    outbox: Outbox,
    /// The wait before the next attempt to connect.
    retry: Duration,
}

impl Session {
    /// `None` when the caller is gone.
    async fn connect(&mut self) -> Option<Connection> {
        let mut told = None;
        loop {
            let settings = self.settings.clone();
            let retry = self.retry;
            let attempt = async move {
                sleep(retry).await;
                Connection::open(&settings).await
            };
            let error = match self.while_refusing(attempt).await.ok()? {
                Ok((connection, info)) => {
                    self.until_taken().await.ok()?;
                    self.outbox.owed.push_back(Event::Connected(info));
                    return Some(connection);
                }
                Err(error) => error,
            };
            self.retry = if error.is_of_a_restart() {
                FIRST_RETRY
            } else {
                next_retry(self.retry)
            };
            let reason = mem::discriminant(&error);
            if told.replace(reason) != Some(reason) {
                self.outbox.owed.push_back(Event::Unavailable(error));
            }
        }
    }

    /// Awaits `work`; a batch that comes meanwhile fails.
    async fn while_refusing<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Gone> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                batch = self.batches.recv() => refuse(&batch.ok_or(Gone)?, &mut self.outbox),
                Gone = self.outbox.deliver() => return Err(Gone),
            }
        }
    }

    /// Waits until the caller has taken every event, and fails what it sent before.
    async fn until_taken(&mut self) -> Result<(), Gone> {
        loop {
            tokio::select! {
                taken = self.outbox.emptied() => break taken?,
                batch = self.batches.recv() => refuse(&batch.ok_or(Gone)?, &mut self.outbox),
            }
        }
        while let Ok(batch) = self.batches.try_recv() {
            refuse(&batch, &mut self.outbox);
        }
        Ok(())
    }

    /// `None` when the caller is gone, `Some` when the connection is.
    async fn serve(&mut self, mut connection: Connection) -> Option<()> {
        let mut poll = interval_at(Instant::now() + self.settings.poll, self.settings.poll);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        connection.attend();
        let error = loop {
            tokio::select! {
                answered = connection.advance() => match answered {
                    Ok((id, responses)) => self.outbox.owed.push_back(Event::Completed { id, responses }),
                    Err(error) => break error,
                },
                batch = self.batches.recv(), if connection.waiting_batches() < MAX_BATCHES => {
                    connection.push(batch?);
                }
                _ = poll.tick() => connection.poll(),
                Gone = self.outbox.deliver() => return None,
            }
        };
        for (id, responses, error) in connection.give_up(&error) {
            self.outbox.owed.push_back(Event::Failed {
                id,
                responses,
                error,
            });
        }
        self.outbox.owed.push_back(Event::Lost(error));
        Some(())
    }
}

fn refuse(batch: &Batch, outbox: &mut Outbox) {
    outbox.owed.push_back(Event::Failed {
        id: batch.id,
        responses: Vec::new(),
        error: SessionError::NotConnected,
    });
}

fn next_retry(retry: Duration) -> Duration {
    (retry * 3 / 2).clamp(FIRST_RETRY, LAST_RETRY)
}

/// What the caller is to be told. The session never waits for the caller with its hands full: each may be waiting for the
/// other to take something.
struct Outbox {
    events: mpsc::Sender<Event>,
    owed: VecDeque<Event>,
}

impl Outbox {
    /// Delivers what is owed, then waits for the caller to go. Cancel-safe.
    async fn deliver(&mut self) -> Gone {
        if self.drain().await.is_ok() {
            self.events.closed().await;
        }
        Gone
    }

    /// Returns when the caller has taken everything. Cancel-safe.
    async fn emptied(&mut self) -> Result<(), Gone> {
        self.drain().await?;
        let all = self.events.max_capacity();
        self.events.reserve_many(all).await.map_err(|_| Gone)?;
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), Gone> {
        while !self.owed.is_empty() {
            let permit = self.events.reserve().await.map_err(|_| Gone)?;
            if let Some(event) = self.owed.pop_front() {
                permit.send(event);
            }
        }
        Ok(())
    }
}
