//! The sockets of the fake: listeners, connections, reads, blocking queries.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpSocket, UnixListener},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{
    Mode, Version, Via, Which,
    acl::{self, Acl, Bearer},
    answers::{self, Recorded},
    catalog::{Catalog, Shuffle},
    gzip,
    reads::{self, Look},
    request::{self, Kind, Request},
    stream::{self, Subscription},
};

/// The longest that a blocking query waits, and how long it does when nothing is said.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// What all connections see.
pub(crate) struct Shared {
    pub(crate) version: Version,
    pub(crate) heartbeat: Duration,
    state: Mutex<State>,
    /// Told whenever anything in the state may have changed.
    moved: watch::Sender<()>,
    /// Told when all connections end.
    pub(crate) cut: watch::Sender<()>,
    /// Told when those to the Task API end.
    pub(crate) task_api_cut: watch::Sender<()>,
    /// Whether the listeners are closed.
    pub(crate) refusing: watch::Sender<bool>,
}

/// What changes, behind one lock.
pub(crate) struct State {
    pub(crate) catalog: Catalog,
    pub(crate) acl: Acl,
    /// By namespace and ID, as Nomad writes them.
    pub(crate) jobs: BTreeMap<(String, String), String>,
    /// The same of allocations.
    pub(crate) allocations: BTreeMap<(String, String), String>,
    /// The latest that fits decides.
    pub(crate) modes: Vec<(Which, Mode)>,
    pub(crate) shuffle: Shuffle,
    /// Between the start of a server and the end of its recovery.
    pub(crate) restarting: bool,
    /// Whether the servers publish events.
    pub(crate) broker: bool,
    pub(crate) seen: Vec<Seen>,
    pub(crate) streams: Vec<Subscription>,
    pub(crate) connections: usize,
    pub(crate) listening: usize,
}

/// A request that came in.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) via: Via,
    pub(crate) request: Request,
}

/// Where to listen.
pub(crate) enum Door {
    Tcp(SocketAddr),
    Tls(SocketAddr, TlsAcceptor),
    TaskApi(PathBuf),
}

enum Answer {
    Bytes(Vec<u8>),
    Slowly(Vec<u8>, Duration),
    /// All but the last byte, and then nothing more.
    Stalling(Vec<u8>),
    /// All but the last byte, and the end.
    CutShort(Vec<u8>),
    Endless,
    Huge,
    /// A blocking query, held.
    Later,
    /// Not before the mode is another one.
    Held,
    Never,
}

impl Shared {
    pub(crate) fn new(version: Version, heartbeat: Duration) -> Self {
        Self {
            version,
            heartbeat,
            state: Mutex::new(State {
                catalog: Catalog::new(),
                acl: Acl::default(),
                jobs: BTreeMap::new(),
                allocations: BTreeMap::new(),
                modes: Vec::new(),
                shuffle: Shuffle(0x9e37_79b9_7f4a_7c15),
                restarting: false,
                broker: true,
                seen: Vec::new(),
                streams: Vec::new(),
                connections: 0,
                listening: 0,
            }),
            moved: watch::Sender::new(()),
            cut: watch::Sender::new(()),
            task_api_cut: watch::Sender::new(()),
            refusing: watch::Sender::new(false),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the lock held")
    }

    /// Changes the state and wakes whoever waits for it.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.moved.send_replace(());
        result
    }

    pub(crate) fn moves(&self) -> watch::Receiver<()> {
        self.moved.subscribe()
    }

    /// The answer to a read, which for a blocking query may take its time.
    async fn answer(&self, request: &Request, via: Via) -> Answer {
        let mut moves = self.moves();
        let mut wait = pin!(tokio::time::sleep(self.wait(request)));
        let mut look = Look::First;
        // Rights are looked at once, before a query is held.
        let bearer = self.state().acl.bearer(request.token());
        loop {
            let answer = self.state().answer(request, via, &bearer, look);
            match answer {
                Answer::Later => {}
                Answer::Held => {
                    // The sender lives as long as this.
                    let _ = moves.changed().await;
                    continue;
                }
                Answer::Never => std::future::pending().await,
                answer @ (Answer::Bytes(_)
                | Answer::Slowly(..)
                | Answer::Stalling(_)
                | Answer::CutShort(_)
                | Answer::Endless
                | Answer::Huge) => {
                    return answer;
                }
            }
            tokio::select! {
                _ = moves.changed() => look = Look::Again,
                () = &mut wait => look = Look::Last,
            }
        }
    }

    /// The mode for a stream, which is opened when it is held no longer.
    async fn unheld(&self, request: &Request) -> Mode {
        let mut moves = self.moves();
        loop {
            let mode = self.state().mode(request);
            if mode != Mode::Hold {
                return mode;
            }
            // The sender lives as long as this.
            let _ = moves.changed().await;
        }
    }

    /// How long a blocking query waits, with the jitter of up to a sixteenth.
    fn wait(&self, request: &Request) -> Duration {
        let asked = request
            .parameter("wait")
            .and_then(|text| request::duration(&text));
        let wait = asked.filter(|wait| !wait.is_zero()).unwrap_or(LONGEST_WAIT);
        let wait = wait.min(LONGEST_WAIT);
        let jitter = u64::try_from(wait.as_millis() / 16).expect("at most 300 s");
        wait + Duration::from_millis(self.state().shuffle.below(jitter))
    }
}

impl State {
    fn answer(&mut self, request: &Request, via: Via, bearer: &Bearer, look: Look) -> Answer {
        let mode = self.mode(request);
        match mode {
            Mode::Answer(answer) => return Answer::Bytes(answers::recorded(answer, via)),
            Mode::Hang => return Answer::Never,
            Mode::Hold => return Answer::Held,
            Mode::Endless => return Answer::Endless,
            Mode::Huge => return Answer::Huge,
            Mode::Normal | Mode::Stall | Mode::CutShort | Mode::Trickle(_) => {}
        }
        let mut bytes = match self.read(request, via, bearer, look) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Answer::Later,
            Err(refusal) => answers::recorded(refusal, via),
        };
        if gzip::is_asked(request, via) {
            bytes = gzip::compressed(&bytes);
        }
        match mode {
            Mode::Trickle(pause) => Answer::Slowly(bytes, pause),
            Mode::Stall => Answer::Stalling(bytes),
            Mode::CutShort => Answer::CutShort(bytes),
            Mode::Normal
            | Mode::Answer(_)
            | Mode::Hang
            | Mode::Hold
            | Mode::Endless
            | Mode::Huge => Answer::Bytes(bytes),
        }
    }

    fn mode(&self, request: &Request) -> Mode {
        let fits = |which: &Which| match which {
            Which::Every => true,
            Which::Lists => request.kind() == Kind::List,
            Which::Reads => request.kind() == Kind::Read,
            Which::Streams => request.kind() == Kind::Stream,
            Which::Others => request.kind() == Kind::Other,
            Which::Service(name) => request.service().as_ref() == Some(name),
            Which::Connections => false,
        };
        let mut modes = self.modes.iter().rev();
        modes
            .find(|(which, _)| fits(which))
            .map_or(Mode::Normal, |(_, mode)| *mode)
    }

    /// The gate of the Task API, before anything else is looked at.
    fn gate(&self, request: &Request) -> Option<Recorded> {
        match reads::after(request) {
            Ok(_) => {}
            Err(Recorded::InvalidIndex) => return Some(Recorded::TaskApiInvalidIndex),
            Err(_) => return Some(Recorded::TaskApiInvalidWait),
        }
        let Some(token) = request.token() else {
            return Some(Recorded::Unauthorized);
        };
        if self.mode(request) == Mode::Answer(Recorded::ConnectionRefused) {
            // Who somebody is, a server has to say.
            return Some(Recorded::ServerErrorAuthenticating);
        }
        match self.acl.bearer(Some(token)) {
            Bearer::Unknown if acl::is_uuid(token) => Some(Recorded::Forbidden),
            Bearer::Unknown => Some(Recorded::ServerErrorAuthenticating),
            Bearer::Anybody | Bearer::Anonymous | Bearer::Known(_) => None,
        }
    }
}

/// Serves at `door` for ever, closed while the fake refuses connections.
pub(crate) async fn listen(shared: Arc<Shared>, mut door: Door, first: Listener) {
    let mut connections = JoinSet::new();
    let mut refusing = shared.refusing.subscribe();
    let mut listener = Some(first);
    loop {
        if *refusing.borrow_and_update() {
            if listener.take().is_some() {
                shared.change(|state| state.listening -= 1);
            }
            // Bound and not listening it refuses, and the kernel gives its port to nobody else.
            let _held = door.hold();
            if refusing.changed().await.is_err() {
                return;
            }
            continue;
        }
        if listener.is_none() {
            let bound = Listener::bind(&mut door).await;
            listener = Some(bound.expect("the place was free before"));
            shared.change(|state| state.listening += 1);
        }
        let Some(open) = &listener else { continue };
        tokio::select! {
            _ = refusing.changed() => {}
            accepted = open.accept(&shared, &door, &mut connections) => {
                accepted.expect("accepting does not fail on this machine");
            }
        }
    }
}

impl Door {
    /// Keeps the port of a door that is closed.
    fn hold(&self) -> Option<TcpSocket> {
        let (Self::Tcp(addr) | Self::Tls(addr, _)) = self else {
            return None;
        };
        let socket = TcpSocket::new_v4().ok()?;
        socket.set_reuseaddr(true).ok()?;
        socket.bind(*addr).ok()?;
        Some(socket)
    }
}

/// An open listener.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Opens `door`, which from then on names the port that the kernel chose.
    pub(crate) async fn bind(door: &mut Door) -> io::Result<Self> {
        match door {
            Door::Tcp(addr) | Door::Tls(addr, _) => {
                let listener = TcpListener::bind(*addr).await?;
                *addr = listener.local_addr()?;
                Ok(Self::Tcp(listener))
            }
            Door::TaskApi(path) => {
                // What a killed process left behind cannot be bound again.
                let _ = std::fs::remove_file(&path);
                Ok(Self::Unix(UnixListener::bind(&path)?, path.clone()))
            }
        }
    }

    async fn accept(
        &self,
        shared: &Arc<Shared>,
        door: &Door,
        connections: &mut JoinSet<()>,
    ) -> io::Result<()> {
        let shared = Arc::clone(shared);
        match self {
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept().await?;
                socket.set_nodelay(true)?;
                match door {
                    Door::Tls(_, acceptor) => {
                        let handshake = acceptor.accept(socket);
                        connections.spawn(async move {
                            if let Ok(socket) = handshake.await {
                                until_cut(shared, socket, Via::Agent).await;
                            }
                        });
                    }
                    Door::Tcp(_) | Door::TaskApi(_) => {
                        connections.spawn(until_cut(shared, socket, Via::Agent));
                    }
                }
            }
            Self::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                connections.spawn(until_cut(shared, socket, Via::TaskApi));
            }
        }
        while connections.try_join_next().is_some() {}
        Ok(())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // The Task API's socket goes with its agent.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One connection, until it ends by itself or all are cut.
pub(super) async fn until_cut(
    shared: Arc<Shared>,
    socket: impl AsyncRead + AsyncWrite + Unpin,
    via: Via,
) {
    let mut cut = shared.cut.subscribe();
    let mut task_api_cut = shared.task_api_cut.subscribe();
    shared.change(|state| state.connections += 1);
    tokio::select! {
        biased;
        _ = cut.changed() => {}
        _ = task_api_cut.changed(), if via == Via::TaskApi => {}
        _ = serve(&shared, socket, via) => {}
    }
    shared.change(|state| state.connections -= 1);
}

async fn serve(
    shared: &Shared,
    socket: impl AsyncRead + AsyncWrite + Unpin,
    via: Via,
) -> io::Result<()> {
    let mut socket = BufReader::new(socket);
    let greeting = {
        let state = shared.state();
        let mut modes = state.modes.iter().rev();
        modes
            .find(|(which, _)| *which == Which::Connections)
            .map(|(_, mode)| *mode)
    };
    if let Some(Mode::Answer(answer)) = greeting {
        socket.write_all(&answers::recorded(answer, via)).await?;
        socket.shutdown().await?;
        // A request that is never read would reset the connection, and take the answer with it.
        return tokio::io::copy(&mut socket, &mut tokio::io::sink())
            .await
            .map(drop);
    }
    while let Some(request) = Request::read(&mut socket).await? {
        let kind = request.kind();
        let seen = Seen {
            kind,
            via,
            request: request.clone(),
        };
        shared.change(|state| state.seen.push(seen));
        let refusal = shared
            .state()
            .gate(&request)
            .filter(|_| via == Via::TaskApi);
        let mode = match kind {
            Kind::Stream => shared.unheld(&request).await,
            Kind::List | Kind::Read | Kind::Other => shared.state().mode(&request),
        };
        if refusal.is_none() && kind == Kind::Stream && !mode.answers_instead_of_streams() {
            match stream::open(shared, &request) {
                Ok(opened) => return stream::run(shared, socket, via, opened, mode).await,
                Err(refusal) => socket.write_all(&answers::recorded(refusal, via)).await?,
            }
            continue;
        }
        if let Some(refusal) = refusal {
            socket.write_all(&answers::recorded(refusal, via)).await?;
            continue;
        }
        let answer = tokio::select! {
            answer = shared.answer(&request, via) => answer,
            () = hung_up(&mut socket) => return Ok(()),
        };
        match answer {
            Answer::Bytes(bytes) => socket.write_all(&bytes).await?,
            Answer::Slowly(bytes, pause) => trickle(&mut socket, &bytes, pause).await?,
            Answer::CutShort(bytes) => return socket.write_all(&bytes[..bytes.len() - 1]).await,
            Answer::Stalling(bytes) => {
                socket.write_all(&bytes[..bytes.len() - 1]).await?;
                socket.flush().await?;
                hung_up(&mut socket).await;
                return Ok(());
            }
            Answer::Endless => return without_end(socket, answers::endless(via)).await,
            Answer::Huge => return without_end(socket, answers::huge(via)).await,
            Answer::Later | Answer::Held | Answer::Never => unreachable!("these are waited for"),
        }
    }
    Ok(())
}

/// Ends when the client is gone.
pub(crate) async fn hung_up(socket: &mut (impl AsyncBufRead + Unpin)) {
    match socket.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// Writes a byte at a time.
pub(crate) async fn trickle(
    socket: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    pause: Duration,
) -> io::Result<()> {
    for byte in bytes {
        socket.write_all(&[*byte]).await?;
        socket.flush().await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

/// Writes for as long as the client reads.
async fn without_end(
    mut socket: impl AsyncWrite + Unpin,
    (beginning, more): (String, String),
) -> io::Result<()> {
    socket.write_all(beginning.as_bytes()).await?;
    loop {
        socket.write_all(more.as_bytes()).await?;
    }
}
