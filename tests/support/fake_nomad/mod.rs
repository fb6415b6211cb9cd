//! A fake Nomad: service lists, reads, blocking queries and the event stream over TCP, TLS and the Task API's Unix
//! socket, in this process. Every answer was recorded from a real agent, but for the few in `answers` that were read in
//! Nomad's source; what `Mode` and the methods of `weather` add is how a network or a dying agent delivers it, each with
//! the version that it was seen on. It is no scheduler: the test says what registers and when.

pub(crate) mod acl;
pub(crate) mod answers;
pub(crate) mod catalog;
pub(crate) mod gzip;
pub(crate) mod memory;
pub(crate) mod reads;
pub(crate) mod records;
pub(crate) mod request;
pub(crate) mod server;
pub(crate) mod stream;
pub(crate) mod weather;

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
pub(crate) use memory::MemoryDoor;
pub(crate) use records::{Deletion, Key, ServiceRegistration};
pub(crate) use request::Kind;
pub(crate) use server::Seen;

use server::{Door, Listener, Shared};

/// Between two heartbeats of a stream, in every version.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// How long a test waits for something that should happen at once.
const SOON: Duration = Duration::from_secs(10);

/// Whose stream it is: how it is framed and how it is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Version {
    /// Up to 1.9.5, by its source (`nomad/event_endpoint.go:82-89`), never run: as 1.10.5, but a valid token without the
    /// right gets a 500.
    V1_9_5,
    /// Up to 1.11.1: chunked, 403 when denied, says why it ends.
    V1_10_5,
    /// `HTTP/0.0`.
    V1_11_2,
    /// From 1.11.3: not framed at all; silent when denied and when the server ends it.
    V2_0_5,
}

impl Version {
    /// Whether a denial is a status and the end of a stream says why: before 1.11.2, which took the connection over
    /// from Go's HTTP server. Since then there is nothing but silence.
    pub(crate) fn says_why(self) -> bool {
        match self {
            Self::V1_9_5 | Self::V1_10_5 => true,
            Self::V1_11_2 | Self::V2_0_5 => false,
        }
    }
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
    /// Jobs and allocations.
    Others,
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
    /// When the mode is another one. A client agent that has just started holds every read until its node is
    /// registered (2.0.5 by its source, `client/rpc.go:56-60`); a frozen server holds them as long as it is frozen
    /// (2.0.5, 1.11.3, 1.10.5).
    Hold,
    /// By all of the answer but its last byte, and nothing more.
    Stall,
    /// By all of the answer but its last byte, and the end.
    CutShort,
    /// By a body without an end.
    Endless,
    /// By a body of which 2 GiB are announced.
    Huge,
    /// A byte at a time, with this pause between two.
    Trickle(Duration),
}

impl Mode {
    fn answers_instead_of_streams(self) -> bool {
        match self {
            Self::Normal | Self::Trickle(_) | Self::Stall | Self::CutShort => false,
            Self::Answer(_) | Self::Hang | Self::Hold | Self::Endless | Self::Huge => true,
        }
    }
}

/// The running fake. Its sockets end, with all their connections, when it is dropped.
pub(crate) struct FakeNomad {
    shared: Arc<Shared>,
    /// None if it has no port.
    addr: Option<SocketAddr>,
    doors: JoinSet<()>,
    /// How long a test waits for something that should happen.
    patience: Duration,
}

impl FakeNomad {
    /// A Nomad 2.0.5 without ACLs on a port of the loopback.
    pub(crate) async fn start() -> Self {
        Self::start_as(Version::V2_0_5, HEARTBEAT).await
    }

    /// The same, with the stream of `version` and a heartbeat every `heartbeat`, which is 30 s in truth.
    pub(crate) async fn start_as(version: Version, heartbeat: Duration) -> Self {
        Self::start_at(version, heartbeat, (Ipv4Addr::LOCALHOST, 0).into()).await
    }

    /// The same, at `addr`.
    pub(crate) async fn start_at(version: Version, heartbeat: Duration, addr: SocketAddr) -> Self {
        let mut fake = Self {
            shared: Arc::new(Shared::new(version, heartbeat)),
            addr: None,
            doors: JoinSet::new(),
            patience: SOON,
        };
        fake.addr = fake.listen(Door::Tcp(addr)).await;
        fake
    }

    /// A Nomad of `version` without a socket: it is reached through [`Self::door`], so that nothing is waited for but
    /// time, which a test can pause.
    pub(crate) fn in_memory(version: Version) -> Self {
        Self {
            shared: Arc::new(Shared::new(version, HEARTBEAT)),
            addr: None,
            doors: JoinSet::new(),
            patience: Duration::from_mins(20),
        }
    }

    /// A way in without a socket.
    pub(crate) fn door(&self, via: Via) -> MemoryDoor {
        MemoryDoor::new(Arc::clone(&self.shared), via)
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
        self.addr.expect("this fake has a port")
    }

    /// The same as `NOMAD_ADDR` has it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    // === the catalog ===

    /// What `/v1/job/:id` answers in the namespace `default`.
    pub(crate) fn describe_job(&self, id: &str, json: &str) {
        let key = ("default".to_owned(), id.to_owned());
        self.shared
            .change(|state| drop(state.jobs.insert(key, json.to_owned())));
    }

    /// What `/v1/allocation/:id` answers in the namespace `default`: as much of it as anybody reads.
    pub(crate) fn describe_allocation(&self, id: &str, desired: &str, client: &str) {
        let key = ("default".to_owned(), id.to_owned());
        let state = if client == "running" {
            "running"
        } else {
            "dead"
        };
        let last = if client == "running" {
            "Started"
        } else {
            "Killed"
        };
        let json = format!(
            r#"{{"ClientStatus":"{client}","DesiredStatus":"{desired}","ID":"{id}","Namespace":"default","TaskStates":{{"web":{{"Events":[{{"Type":"Received"}},{{"Type":"Task Setup"}},{{"Type":"{last}"}}],"Failed":false,"State":"{state}"}}}}}}"#
        );
        self.shared
            .change(|state| drop(state.allocations.insert(key, json)));
    }

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

    /// Streams of `*` that are open already will never deliver anything of it (2.0.5, 1.11.3, 1.10.5:
    /// `streams/namespaces`; since 1.9.6).
    pub(crate) fn create_namespace(&self, name: &str) {
        self.shared
            .change(|state| state.catalog.create_namespace(name));
    }

    /// Deletes a namespace without services, of which no event of topic `Service` tells.
    pub(crate) fn delete_namespace(&self, name: &str) {
        self.shared
            .change(|state| state.catalog.delete_namespace(name));
    }

    /// Raft entries of other topics, which push service events out of the ring of 100; nothing ever tells of the gap
    /// (2.0.5, 1.11.3, 1.10.5).
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

    /// The value of `X-Nomad-Index`.
    pub(crate) fn index(&self) -> u64 {
        self.shared.state().catalog.index()
    }

    /// Everything that is registered.
    pub(crate) fn rows(&self) -> BTreeMap<Key, ServiceRegistration> {
        self.shared.state().catalog.rows().clone()
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
        if timeout(self.patience, wait).await.is_err() {
            let seen: Vec<String> = self
                .seen()
                .into_iter()
                .map(|seen| seen.request.target)
                .collect();
            panic!("waited in vain until {what}; requests so far: {seen:#?}");
        }
    }
}
