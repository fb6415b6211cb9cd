//! Load at a constant rate, by a schedule that waits for no answer (an open loop), and a record of every request.
//!
//! A request has the time at which it is due; when it was sent, and how long it took, is measured against that, so that
//! a HAProxy that answers nothing for a second costs all the requests of that second, not one. A generator that falls
//! behind its schedule measures nothing, and says so ([`Report::fault`]).
//!
//! What failed is what `design.md` calls a failed request: an answer of HAProxy's own, no connection, a reset, an end
//! without an answer, and more than two seconds beyond what the request asked to last. An application's answer is not,
//! whatever its status.

mod client;
pub(crate) mod report;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use haproxy_nomad_sidecar::model::SplitMix64;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};

use client::Client;
pub(crate) use report::{Outcome, Record, Report};

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A file with an `IP:PORT` in each line, read before every request: each of them in turn. A kept connection to one that is no longer in
    /// it is closed, as whoever follows a health check does.
    Listed(PathBuf),
}

/// What kind of client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// HTTP; connections are used again.
    KeepAlive,
    /// HTTP; each request has a connection of its own.
    Close,
    /// A session for each request, to an application of `app.rs`.
    Tcp,
}

/// What to do, for how long is said by who stops it.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) target: Target,
    pub(crate) kind: Kind,
    /// The header `Host`.
    pub(crate) host: String,
    /// Requests in a second.
    pub(crate) rate: u32,
    /// How long the longest requests last. Most are short: see [`Order::lasting`].
    pub(crate) longest: Duration,
    /// What decides how long each of them lasts.
    pub(crate) seed: u64,
}

impl Order {
    /// Five of ten requests are answered at once, four last up to a tenth of the longest, one up to the longest.
    fn lasting(&self, number: u64) -> Duration {
        let mut random = SplitMix64::new(self.seed.wrapping_add(number.wrapping_mul(0x9e37)));
        let longest = u64::try_from(self.longest.as_millis()).unwrap_or(u64::MAX);
        let most = match random.next() % 10 {
            0..5 => 0,
            5..9 => longest / 10,
            _ => longest,
        };
        Duration::from_millis(random.next() % (most + 1))
    }
}

/// A running load. It ends when it is dropped, too, but then nobody learns of it.
pub(crate) struct Load {
    order: Order,
    began: Instant,
    records: Arc<Mutex<Vec<Record>>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Duration>,
}

impl Load {
    /// Begins at once.
    pub(crate) fn start(runtime: &Handle, order: Order) -> Self {
        let records = Arc::default();
        let began = Instant::now();
        let stop = watch::Sender::new(false);
        let run = run(order.clone(), began, Arc::clone(&records), stop.subscribe());
        Self {
            task: runtime.spawn(run),
            order,
            began,
            records,
            stop,
        }
    }

    /// How many requests have ended so far.
    pub(crate) fn count(&self) -> usize {
        lock(&self.records).len()
    }

    /// Sends nothing more, waits for what is under way, and tells.
    pub(crate) async fn stop(self) -> Report {
        self.stop.send_replace(true);
        let lasted = self.task.await.expect("the generator does not panic");
        let mut records = std::mem::take(&mut *lock(&self.records));
        records.sort_by_key(|record| record.due);
        Report {
            rate: self.order.rate,
            began: self.began,
            lasted,
            records,
        }
    }
}

/// Returns how long it sent.
async fn run(
    order: Order,
    began: Instant,
    records: Arc<Mutex<Vec<Record>>>,
    mut stop: watch::Receiver<bool>,
) -> Duration {
    let client = Arc::new(Client::new(&order));
    let mut requests = JoinSet::new();
    for number in 0u32.. {
        let due = began + Duration::from_secs(1) * number / order.rate;
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = sleep_until(due) => {}
        }
        let (client, records) = (Arc::clone(&client), Arc::clone(&records));
        let lasts = order.lasting(number.into());
        requests.spawn(async move {
            let sent = Instant::now();
            let (outcome, retried) = client.ask(lasts).await;
            let record = Record {
                due,
                late: sent - due,
                lasts,
                took: due.elapsed(),
                retried,
                outcome,
            };
            lock(&records).push(record);
        });
        while requests.try_join_next().is_some() {}
    }
    let lasted = began.elapsed();
    while requests.join_next().await.is_some() {}
    lasted
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
