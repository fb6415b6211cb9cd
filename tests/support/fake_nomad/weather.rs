//! Bad weather: each way in which Nomad was seen to be late, partial, forbidden, silent or wrong, with the version that
//! it was seen on. "By its source" means read in v2.0.5 and never run.

use std::time::Duration;

use tokio::time::sleep;

use super::{
    Catalog, Deletion, FakeNomad, Key, Mode, Recorded, ServiceRegistration, Token, Which,
    acl::Acl,
    stream::{Signal, Subscription},
};

/// How long a client agent that shuts down still answers (2.0.5).
const LAST_BREATH: Duration = Duration::from_millis(100);

impl FakeNomad {
    // === deletions and ghosts ===

    /// What garbage collection of evaluations and allocations does: gone, the index moves, and no event says so (2.0.5,
    /// 1.11.3, 1.10.5: `streams/terminal-and-gc`; 1.8.0 and later by its source).
    pub(crate) fn delete_silently(&self, keys: &[Key]) {
        self.shared
            .change(|state| state.catalog.delete_silently(keys));
    }

    /// A lost node returns: it registers its lost allocations again, the same IDs with new indexes, and deregisters them
    /// after `haunting` (2.0.5, 1.10.5: `streams/node-lost`, 20 to 300 ms).
    pub(crate) async fn haunt(&self, lost: Vec<ServiceRegistration>, haunting: Duration) {
        let keys: Vec<Key> = lost.iter().map(ServiceRegistration::key).collect();
        self.register_all(lost);
        sleep(haunting).await;
        for key in keys {
            self.deregister(&[key], Deletion::ServiceDeregistration);
        }
    }

    // === rights ===

    /// Switches ACLs on and issues `token`, or gives it other rights. Open streams go on whatever those are: a check that
    /// runs before the change is committed misses it (2.0.5: 2 of 8 streams).
    pub(crate) fn issue(&self, token: &str, rights: Token) {
        self.shared.change(|state| {
            let tokens = state.acl.0.get_or_insert_default();
            tokens.insert(token.into(), rights);
        });
    }

    /// Switches ACLs on without issuing anything.
    pub(crate) fn enable_acl(&self) {
        self.shared
            .change(|state| state.acl = Acl(Some(state.acl.0.take().unwrap_or_default())));
    }

    /// Deletes a token. Streams that were opened with it end as their version ends them (2.0.5, 1.11.3, 1.10.5:
    /// `http/stream-end-token-deleted`).
    pub(crate) fn revoke(&self, token: &str) {
        self.forget_token(token, &Signal::Ended(RESUBSCRIBE));
    }

    /// The token is too old from now on. Its streams go on with their heartbeats until there is something to tell, which
    /// is lost (2.0.5; text of 1.10.5 by its source).
    pub(crate) fn expire(&self, token: &str) {
        self.forget_token(token, &Signal::Expired);
    }

    fn forget_token(&self, token: &str, signal: &Signal) {
        self.shared.change(|state| {
            if let Some(tokens) = &mut state.acl.0 {
                tokens.remove(token);
            }
            let mine = |stream: &Subscription| stream.token.as_deref() == Some(token);
            state.signal(mine, signal);
        });
    }

    /// `enable_event_broker = false` on the servers, by its source: 500 `EventBroker not configured` before 1.11.2, and
    /// silence since.
    pub(crate) fn switch_broker(&self, on: bool) {
        self.shared.change(|state| state.broker = on);
    }

    // === snapshots and restarts ===

    /// The state as it is, for [`Self::restore`].
    pub(crate) fn snapshot(&self) -> Catalog {
        self.shared.state().catalog.clone()
    }

    /// An operator restores a snapshot: the index goes back, no event says what changed, and the streams are dead (2.0.5,
    /// 1.11.3, 1.10.5: `streams/restore`). 2.0.5 was seen to close them after 0.4 s, 1.11.3 not within 25 s.
    pub(crate) fn restore(&self, snapshot: Catalog) {
        self.shared.change(|state| {
            state.catalog.restore(snapshot);
            state.signal(|_| true, &Signal::Ended(RESUBSCRIBE));
        });
    }

    /// The server restarts: connections end, reads fail, `stale` ones lie, streams open and wait (2.0.5, 1.11.3, 1.10.5:
    /// `http/list-first-after-server-restart`).
    pub(crate) fn begin_restart(&self) {
        self.shared.change(|state| {
            state.restarting = true;
            state.catalog.forget_ring();
        });
        self.cut();
    }

    /// The server has recovered, and every stream gets the whole past (2.0.5, 1.11.3, 1.10.5: `streams/server-restart`).
    pub(crate) fn finish_restart(&self) {
        self.shared.change(|state| {
            state.restarting = false;
            let past = state.catalog.replay_past();
            state.publish(&past);
        });
    }

    /// The server behind this client agent dies: reads fail, held ones at once (2.0.5: `http/server-away-500-2`). The
    /// stream says `EOF` and ends at once before 1.11.2, and after 5 to 14 s since (2.0.5: 5.6 and 13.7 s).
    pub(crate) async fn lose_server(&self) {
        self.mode(Which::Every, Mode::Answer(Recorded::ConnectionRefused));
        self.signal_streams(&Signal::Ended("EOF"));
        sleep(Duration::from_millis(5600)).await;
        self.cut_streams();
    }

    /// The server is frozen (SIGSTOP): everything hangs, nothing fails, streams are silent (2.0.5, 1.11.3, 1.10.5). New
    /// streams get no head. [`Self::thaw`] lets it go on.
    pub(crate) fn freeze(&self) {
        self.mode(Which::Every, Mode::Hold);
        self.silence_streams();
    }

    /// Ends [`Self::freeze`] and every other mode.
    pub(crate) fn thaw(&self) {
        self.mode(Which::Every, Mode::Normal);
    }

    /// This client agent shuts down: for a moment it answers everything, held queries too, with the false empty; then
    /// nobody is there (2.0.5, 1.11.3, 1.10.5: `http/client-agent-shutdown-false-empty`). Over the Task API the connection
    /// was always cut first.
    pub(crate) async fn shut_down(&self) {
        self.mode(Which::Lists, Mode::Answer(Recorded::ShuttingDown));
        self.mode(Which::Reads, Mode::Answer(Recorded::ShuttingDown));
        self.shared.task_api_cut.send_replace(());
        self.cut_streams();
        sleep(LAST_BREATH).await;
        self.stop().await;
        self.mode(Which::Every, Mode::Normal);
    }

    // === answers and streams ===

    /// From now on answers these requests so. A later mode goes before an earlier one; `Normal` for `Every` ends all.
    pub(crate) fn mode(&self, which: Which, mode: Mode) {
        self.shared.change(|state| {
            if (&which, mode) == (&Which::Every, Mode::Normal) {
                state.modes.clear();
            }
            state.modes.push((which, mode));
        });
    }

    /// Closes every connection.
    pub(crate) fn cut(&self) {
        self.shared.cut.send_replace(());
    }

    /// Closes every stream: the end of the agent that one is connected to (2.0.5, 1.11.3: within 0.5 s), or what comes
    /// late after silence (2.0.5, 1.11.3: 1.6, 13, 27, 43 and 120 s).
    pub(crate) fn cut_streams(&self) {
        self.signal_streams(&Signal::Cut);
    }

    /// Closes every stream after half of `line`, as a network does or an agent that is killed.
    pub(crate) fn cut_streams_within(&self, line: &str) {
        self.signal_streams(&Signal::HalfLine(line.into()));
    }

    /// Ends every stream as a server does that drops a reader who is more batches behind than the ring has (1.10.5: with a
    /// text; 2.0.5: silent, the end after 120 s).
    pub(crate) fn overrun_streams(&self) {
        self.signal_streams(&Signal::Ended("event dropped from buffer"));
    }

    /// The streams stay open and say nothing any more, not even heartbeats (2.0.5, 1.11.3).
    pub(crate) fn silence_streams(&self) {
        self.signal_streams(&Signal::Silence);
    }

    /// Puts any line on every stream, garbage too.
    pub(crate) fn say(&self, line: &str) {
        self.signal_streams(&Signal::Line(line.into()));
    }

    /// Closes the listeners and every connection: the agent is gone. Returns when connections are refused.
    pub(crate) async fn stop(&self) {
        self.shared.refusing.send_replace(true);
        self.cut();
        self.until("the listeners close", |fake| {
            fake.shared.state().listening == 0
        })
        .await;
    }

    /// Listens again, at the same places.
    pub(crate) async fn resume(&self) {
        self.shared.refusing.send_replace(false);
        let doors = self.doors.len();
        self.until("the listeners open", |fake| {
            fake.shared.state().listening == doors
        })
        .await;
    }

    fn signal_streams(&self, signal: &Signal) {
        self.shared.change(|state| state.signal(|_| true, signal));
    }
}

/// How versions up to 1.11.1 end a stream whose right is gone.
const RESUBSCRIBE: &str = "subscription closed by server, client should resubscribe";
