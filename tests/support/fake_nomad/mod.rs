//! A fake Nomad: service lists, reads, blocking queries and the event stream over TCP, TLS and the Task API's Unix
//! socket, in this process. Every answer was recorded from a real agent; what `Mode` and the `cut` methods add is only
//! how a network or a dying agent delivers it. It is no scheduler: the test says what registers and when.

pub(crate) mod acl;
pub(crate) mod answers;
pub(crate) mod catalog;
pub(crate) mod reads;
pub(crate) mod records;
pub(crate) mod request;
pub(crate) mod server;
pub(crate) mod stream;

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use serde::Deserialize;
use tokio::{task::JoinSet, time::timeout};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

pub(crate) use acl::Token;
pub(crate) use answers::Recorded;
pub(crate) use catalog::Catalog;
pub(crate) use records::{Deletion, Key, ServiceRegistration};
pub(crate) use request::Kind;
pub(crate) use server::Seen;

use acl::Acl;
use server::{Door, Listener, Shared};
use stream::Signal;

/// How long a test waits for something that should happen at once.
const SOON: Duration = Duration::from_secs(10);

/// Whose stream it is: how it is framed and how it is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Version {
    /// Up to 1.11.1: chunked, 403 when denied, says why it ends.
    V1_10_5,
    /// `HTTP/0.0`.
    V1_11_2,
    /// From 1.11.3: not framed at all; silent when denied and when the server ends it.
    V2_0_5,
}

/// Through what a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// The HTTP listener of an agent.
    Agent,
    /// The Unix socket in a task's secrets directory.
    TaskApi,
}

/// Which requests a mode is for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Which {
    Every,
    Lists,
    Reads,
    /// The reads of one service.
    Service(String),
    Streams,
    /// Connections, as soon as they are accepted.
    Connections,
}

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Mode {
    Normal,
    /// Always with this. Held blocking queries get it at once.
    Answer(Recorded),
    /// Never.
    Hang,
    /// By a body without an end.
    Endless,
    /// A byte at a time, with this pause between two.
    Trickle(Duration),
}

impl Mode {
    fn answers_instead_of_streams(self) -> bool {
        match self {
            Self::Normal | Self::Trickle(_) => false,
            Self::Answer(_) | Self::Hang | Self::Endless => true,
        }
    }
}

/// The running fake. It ends, with all its connections, when it is dropped.
pub(crate) struct FakeNomad {
    shared: Arc<Shared>,
    addr: SocketAddr,
    doors: JoinSet<()>,
}

impl FakeNomad {
    /// A Nomad 2.0.5 without ACLs on a port of the loopback.
    pub(crate) async fn start() -> Self {
        Self::start_as(Version::V2_0_5, Duration::from_secs(30)).await
    }

    /// The same, with the stream of `version` and a heartbeat every `heartbeat`, which is 30 s in truth.
    pub(crate) async fn start_as(version: Version, heartbeat: Duration) -> Self {
        Self::start_at(version, heartbeat, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// The same, at `addr`.
    pub(crate) async fn start_at(version: Version, heartbeat: Duration, addr: SocketAddr) -> Self {
        let mut fake = Self {
            shared: Arc::new(Shared::new(version, heartbeat)),
            addr,
            doors: JoinSet::new(),
        };
        fake.addr = fake
            .listen(Door::Tcp(addr))
            .await
            .expect("a TCP port has an address");
        fake
    }

    /// Listens with TLS as well, on another port.
    pub(crate) async fn listen_tls(&mut self, config: Arc<ServerConfig>) -> SocketAddr {
        let door = Door::Tls((Ipv4Addr::LOCALHOST, 0).into(), TlsAcceptor::from(config));
        self.listen(door).await.expect("a TCP port has an address")
    }

    /// Is a Task API at `path` as well.
    pub(crate) async fn listen_task_api(&mut self, path: &Path) {
        self.listen(Door::TaskApi(path.into())).await;
    }

    async fn listen(&mut self, mut door: Door) -> Option<SocketAddr> {
        let listener = Listener::bind(&mut door)
            .await
            .expect("the address is free");
        let addr = match &door {
            Door::Tcp(addr) | Door::Tls(addr, _) => Some(*addr),
            Door::TaskApi(_) => None,
        };
        self.shared.change(|state| state.listening += 1);
        self.doors
            .spawn(server::listen(Arc::clone(&self.shared), door, listener));
        addr
    }

    /// Whose stream it is.
    pub(crate) fn version(&self) -> Version {
        self.shared.version
    }

    /// Where plain HTTP is served.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as `NOMAD_ADDR` has it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    // === the catalog ===

    /// Registers, or changes what has the same ID: a Raft entry and an event, or nothing at all when it is equal.
    pub(crate) fn register(&self, registration: ServiceRegistration) {
        self.register_together(vec![registration]);
    }

    /// Registers all of them, each in a Raft entry of its own, as clients do.
    pub(crate) fn register_all(
        &self,
        registrations: impl IntoIterator<Item = ServiceRegistration>,
    ) {
        self.shared.change(|state| {
            for registration in registrations {
                if let Some(batch) = state.catalog.register(vec![registration]) {
                    state.publish(&[batch]);
                }
            }
        });
    }

    /// Registers all of them in one Raft entry: one line on the stream.
    pub(crate) fn register_together(&self, registrations: Vec<ServiceRegistration>) {
        self.shared.change(|state| {
            if let Some(batch) = state.catalog.register(registrations) {
                state.publish(&[batch]);
            }
        });
    }

    /// Deletes all of them in one Raft entry. Keys that are not there are passed over.
    pub(crate) fn deregister(&self, keys: &[Key], kind: Deletion) {
        self.shared.change(|state| {
            if let Some(batch) = state.catalog.deregister(keys, kind) {
                state.publish(&[batch]);
            }
        });
    }

    /// What garbage collection does: gone, the index moves, and no event says so.
    pub(crate) fn delete_silently(&self, keys: &[Key]) {
        self.shared
            .change(|state| state.catalog.delete_silently(keys));
    }

    /// Streams of `*` that are open already will never deliver anything of it.
    pub(crate) fn create_namespace(&self, name: &str) {
        self.shared
            .change(|state| state.catalog.create_namespace(name));
    }

    /// Raft entries of other topics, which push service events out of the ring of 100.
    pub(crate) fn other_entries(&self, count: u64) {
        self.shared
            .change(|state| state.catalog.other_entries(count));
    }

    /// Plays one line of a recorded stream, with its indexes: the catalog follows, open streams get it.
    pub(crate) fn replay(&self, line: &str) {
        if line == "{}" {
            return self.say(line);
        }
        self.shared.change(|state| {
            let batch = state.catalog.replay(line);
            state.publish(&[batch]);
        });
    }

    /// The state as it is, for [`Self::restore`].
    pub(crate) fn snapshot(&self) -> Catalog {
        self.shared.state().catalog.clone()
    }

    /// An operator restores a snapshot: the index goes back, no event says what changed, and the streams are dead.
    pub(crate) fn restore(&self, snapshot: Catalog) {
        self.shared.change(|state| {
            state.catalog.restore(snapshot);
            state.signal(|_| true, &Signal::Ended(RESUBSCRIBE));
        });
    }

    /// The value of `X-Nomad-Index`.
    pub(crate) fn index(&self) -> u64 {
        self.shared.state().catalog.index()
    }

    /// Everything that is registered.
    pub(crate) fn rows(&self) -> BTreeMap<Key, ServiceRegistration> {
        self.shared.state().catalog.rows().clone()
    }

    // === rights ===

    /// Switches ACLs on and issues `token`.
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

    /// Deletes a token. Streams that were opened with it end as their version ends them.
    pub(crate) fn revoke(&self, token: &str) {
        self.shared.change(|state| {
            if let Some(tokens) = &mut state.acl.0 {
                tokens.remove(token);
            }
            let mine = |stream: &stream::Subscription| stream.token.as_deref() == Some(token);
            state.signal(mine, &Signal::Ended(RESUBSCRIBE));
        });
    }

    // === trouble ===

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

    /// Closes every stream.
    pub(crate) fn cut_streams(&self) {
        self.signal_streams(&Signal::Cut);
    }

    /// Closes every stream after half of `line`.
    pub(crate) fn cut_streams_within(&self, line: &str) {
        self.signal_streams(&Signal::HalfLine(line.into()));
    }

    /// Ends every stream as a server does that drops a reader who is too slow.
    pub(crate) fn overrun_streams(&self) {
        self.signal_streams(&Signal::Ended("event dropped from buffer"));
    }

    /// The streams stay open and say nothing any more.
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

    /// The server restarts: connections end, reads fail, `stale` ones lie, streams open and wait.
    pub(crate) fn begin_restart(&self) {
        self.shared.change(|state| {
            state.restarting = true;
            state.catalog.forget_ring();
        });
        self.cut();
    }

    /// The server has recovered, and every stream gets the whole past.
    pub(crate) fn finish_restart(&self) {
        self.shared.change(|state| {
            state.restarting = false;
            let past = state.catalog.replay_past();
            state.publish(&past);
        });
    }

    fn signal_streams(&self, signal: &Signal) {
        self.shared.change(|state| state.signal(|_| true, signal));
    }

    // === what was seen ===

    /// All requests so far, in their order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// How many requests of this kind came so far.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        let state = self.shared.state();
        state.seen.iter().filter(|seen| seen.kind == kind).count()
    }

    /// How many streams are open and allowed.
    pub(crate) fn open_streams(&self) -> usize {
        self.shared.state().open_streams()
    }

    /// How many connections are open.
    pub(crate) fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// Waits until `condition` holds, which is looked at after each change, request and end of a connection.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let mut moves = self.shared.moves();
        let wait = async {
            while !condition(self) {
                moves
                    .changed()
                    .await
                    .expect("the sender lives as long as the fake");
            }
        };
        if timeout(SOON, wait).await.is_err() {
            let seen: Vec<String> = self
                .seen()
                .into_iter()
                .map(|seen| seen.request.target)
                .collect();
            panic!("waited in vain until {what}; requests so far: {seen:#?}");
        }
    }
}

/// How versions up to 1.11.1 end a stream whose right is gone.
const RESUBSCRIBE: &str = "subscription closed by server, client should resubscribe";
