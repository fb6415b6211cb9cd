//! The session against a scripted HAProxy on a Unix socket: what it writes, how it loses and regains its connection, and
//! what it tells an operator when there is none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{path::Path, time::Duration};

use haproxy_nomad_sidecar::{
    haproxy::session::{self, ConnectError, Connection, Event, SessionError, Settings},
    model::{
        BackendName, Batch, BatchId, Command, Outcome, Request, Response, ServerName, ServerRef,
    },
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

/// Nothing in these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

// === The scripted HAProxy ===

struct Haproxy {
    folder: TempDir,
    listener: UnixListener,
}

/// One connection to it.
struct Client {
    stream: UnixStream,
    received: Vec<u8>,
}

fn info(pid: u32, stopping: u8) -> String {
    format!(
        "Name: HAProxy\nVersion: 3.2.26-1\nPid: {pid}\nUptime_sec: 1\nCumConns: 1\nStopping: {stopping}\n\
         Start_time_sec: 1\n\n> "
    )
}

impl Haproxy {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("haproxy.sock")).unwrap();
        Self { folder, listener }
    }

    fn settings(&self) -> Settings {
        Settings {
            // Only the tests that mean to miss it wait for it.
            reply_deadline: PATIENCE,
            poll: Duration::from_hours(1),
            ..Settings::new(self.folder.path().join("haproxy.sock"))
        }
    }

    async fn accept(&self) -> Client {
        let (stream, _) = timeout(PATIENCE, self.listener.accept())
            .await
            .unwrap()
            .unwrap();
        Client {
            stream,
            received: Vec::new(),
        }
    }

    async fn accept_as(&self, pid: u32) -> Client {
        let mut client = self.accept().await;
        client.greet(&info(pid, 0)).await;
        client
    }
}

impl Client {
    async fn greet(&mut self, info: &str) {
        assert_eq!(self.line().await, "prompt");
        self.say("\n> ").await;
        for (line, answer) in [
            ("set severity-output none", "\n> "),
            ("set timeout cli 60s", "\n> "),
            ("show cli level", "admin\n\n> "),
            ("show info", info),
        ] {
            assert_eq!(self.line().await, line);
            self.say(answer).await;
        }
    }

    /// The next line, or `None` when the session has closed.
    async fn next_line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let rest = self.received.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.received, rest);
                line.pop();
                return Some(String::from_utf8(line).unwrap());
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await;
            match read.expect("the session says something") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    async fn line(&mut self) -> String {
        self.next_line().await.expect("the session is connected")
    }

    async fn say(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }
}

// === The session under test ===

/// What the next event, of this kind, says.
macro_rules! told {
    ($session:expr, $kind:pat => $what:expr) => {{
        let event = $session.event().await;
        let $kind = event else { panic!("{event:?}") };
        $what
    }};
}

struct Session {
    batches: mpsc::Sender<Batch>,
    events: mpsc::Receiver<Event>,
    task: JoinHandle<()>,
}

impl Session {
    fn start(settings: Settings) -> Self {
        let (batches, taken) = mpsc::channel(8);
        let (told, events) = mpsc::channel(8);
        Self {
            batches,
            events,
            task: tokio::spawn(session::run(settings, taken, told)),
        }
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv())
            .await
            .expect("the session tells something")
            .expect("the session runs")
    }

    async fn connected(&mut self) -> u64 {
        told!(self, Event::Connected(info) => info.pid)
    }

    async fn completed(&mut self) -> (BatchId, Vec<Response>) {
        told!(self, Event::Completed { id, responses } => (id, responses))
    }

    async fn failed(&mut self) -> (BatchId, Vec<Response>, SessionError) {
        told!(self, Event::Failed { id, responses, error } => (id, responses, error))
    }

    async fn lost(&mut self) -> SessionError {
        told!(self, Event::Lost(error) => error)
    }

    async fn unavailable(&mut self) -> ConnectError {
        told!(self, Event::Unavailable(error) => error)
    }

    async fn send(&self, id: u64, requests: Vec<Request>) {
        self.batches.send(batch(id, requests)).await.unwrap();
    }
}

async fn connect(haproxy: &Haproxy, settings: Settings) -> (Session, Client) {
    let mut session = Session::start(settings);
    let client = haproxy.accept_as(1).await;
    assert_eq!(session.connected().await, 1);
    (session, client)
}

fn batch(id: u64, requests: Vec<Request>) -> Batch {
    Batch {
        id: BatchId(id),
        requests: requests.into(),
        lock_step: false,
    }
}

fn change(command: fn(ServerRef) -> Command, server: &str) -> Request {
    Request::Change(command(ServerRef {
        backend: BackendName::new("web").unwrap(),
        server: ServerName::new(server).unwrap(),
    }))
}

fn done() -> Response {
    Response::Changed(Outcome::Done)
}

// === Batches ===

#[tokio::test]
async fn batches_follow_each_other_without_waiting_and_get_their_own_answers() {
    let haproxy = Haproxy::start();
    let (mut session, mut client) = connect(&haproxy, haproxy.settings()).await;
    session
        .send(
            1,
            vec![
                change(Command::Drain, "a"),
                change(Command::DeleteServer, "a"),
            ],
        )
        .await;
    session.send(2, vec![Request::Backends]).await;
    for line in [
        "set server web/a state drain",
        "del server web/a",
        "show backend",
    ] {
        assert_eq!(client.line().await, line);
    }
    // As 2.6 says it: without a line feed before the prompt's own.
    client.say("\n> Server deleted.\n> # name\nweb\n\n> ").await;
    assert_eq!(
        session.completed().await,
        (BatchId(1), vec![done(), done()])
    );
    let web = BackendName::new("web").unwrap();
    assert_eq!(
        session.completed().await,
        (BatchId(2), vec![Response::Backends(vec![web])])
    );
}

#[tokio::test]
async fn many_requests_and_long_answers_do_not_block_each_other() {
    let haproxy = Haproxy::start();
    let (mut session, mut client) = connect(&haproxy, haproxy.settings()).await;
    let requests = (0..50)
        .flat_map(|_| [Request::Backends, change(Command::Ready, "a")])
        .collect();
    session.send(1, requests).await;
    let long = format!(
        "# name\n{}\n> ",
        format!("{}\n", "x".repeat(100)).repeat(4_000)
    );
    let peer = tokio::spawn(async move {
        for _ in 0..50 {
            assert_eq!(client.line().await, "show backend");
            assert_eq!(client.line().await, "set server web/a state ready");
            // Nothing more is read until all of this is taken.
            client.say(&long).await;
            client.say("\n> ").await;
        }
        client
    });
    let (_, responses) = session.completed().await;
    assert_eq!(responses.len(), 100);
    peer.await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_not_understood_ends_its_batch_and_the_connection() {
    let haproxy = Haproxy::start();
    let (mut session, mut client) = connect(&haproxy, haproxy.settings()).await;
    let requests = (0..1000)
        .map(|n| change(Command::Ready, &format!("s{n}")))
        .collect();
    session.send(1, requests).await;
    session.send(2, vec![Request::Backends]).await;
    client.line().await;
    client.say("\n> Oops\n\n> ").await;
    let (id, responses, error) = session.failed().await;
    assert_eq!((id, responses), (BatchId(1), vec![done()]));
    assert_eq!(
        error.to_string(),
        r#"the answer to set server state is not understood: "Oops""#
    );
    let (id, responses, error) = session.failed().await;
    assert_eq!((id, responses), (BatchId(2), vec![]));
    assert!(matches!(error, SessionError::Abandoned));
    assert!(matches!(
        session.lost().await,
        SessionError::UnknownReply(_)
    ));
    // What was in the window came, the rest never does.
    let mut lines = 1;
    while client.next_line().await.is_some() {
        lines += 1;
    }
    assert!(lines * "set server web/s1 state ready\n".len() < 10_000);
    haproxy.accept_as(1).await;
    assert_eq!(session.connected().await, 1);
}

#[tokio::test]
async fn what_was_planned_for_one_process_never_reaches_the_next() {
    let haproxy = Haproxy::start();
    let mut session = Session::start(haproxy.settings());
    session.send(1, vec![Request::Backends]).await;
    let (id, _, error) = session.failed().await;
    assert_eq!(id, BatchId(1));
    assert_eq!(error.to_string(), "there is no connection to HAProxy");

    drop(haproxy.accept_as(1).await);
    assert_eq!(session.connected().await, 1);
    // The caller does not look at its events for a while and goes on planning.
    let mut next = haproxy.accept_as(2).await;
    session.send(2, vec![change(Command::Ready, "a")]).await;
    assert!(matches!(session.lost().await, SessionError::Closed));
    let (id, responses, error) = session.failed().await;
    assert_eq!((id, responses), (BatchId(2), vec![]));
    assert!(matches!(error, SessionError::NotConnected));
    assert_eq!(session.connected().await, 2);
    session.send(3, vec![change(Command::Ready, "b")]).await;
    assert_eq!(next.line().await, "set server web/b state ready");
}

// === The end of a connection ===

#[tokio::test]
async fn a_reloaded_haproxy_is_left_at_once_for_its_successor() {
    let haproxy = Haproxy::start();
    let settings = Settings {
        poll: Duration::from_millis(1),
        ..haproxy.settings()
    };
    let (mut session, mut old) = connect(&haproxy, settings).await;
    for _ in 0..3 {
        assert_eq!(old.line().await, "show info");
        old.say(&info(1, 0)).await;
    }
    assert_eq!(old.line().await, "show info");
    old.say(&info(1, 1)).await;
    assert_eq!(old.next_line().await, None);
    assert!(matches!(session.lost().await, SessionError::Stopping));
    // The old process still accepts for a moment.
    for _ in 0..3 {
        haproxy.accept().await.greet(&info(1, 1)).await;
    }
    haproxy.accept_as(2).await;
    assert_eq!(
        session.unavailable().await.to_string(),
        format!(
            "the HAProxy behind {} is stopping, a reload is going on",
            haproxy.settings().socket.display()
        )
    );
    assert_eq!(session.connected().await, 2);
}

#[tokio::test]
async fn a_killed_haproxy_is_noticed_while_nothing_is_asked() {
    let haproxy = Haproxy::start();
    let (mut session, client) = connect(&haproxy, haproxy.settings()).await;
    drop(client);
    assert_eq!(
        session.lost().await.to_string(),
        "HAProxy closed the connection"
    );
}

#[tokio::test]
async fn a_haproxy_killed_while_it_answers_fails_the_batch() {
    let haproxy = Haproxy::start();
    let (mut session, mut client) = connect(&haproxy, haproxy.settings()).await;
    session
        .send(1, vec![change(Command::Ready, "a"), Request::Backends])
        .await;
    client.line().await;
    client.line().await;
    client.say("\n> # name\nwe").await;
    drop(client);
    let (id, responses, error) = session.failed().await;
    assert_eq!((id, responses), (BatchId(1), vec![done()]));
    assert!(matches!(error, SessionError::Closed));
    assert!(matches!(session.lost().await, SessionError::Closed));
}

#[tokio::test]
async fn a_haproxy_that_falls_silent_is_left() {
    let haproxy = Haproxy::start();
    let settings = Settings {
        reply_deadline: Duration::from_millis(300),
        ..haproxy.settings()
    };
    let (mut session, mut client) = connect(&haproxy, settings).await;
    session.send(1, vec![Request::Backends]).await;
    client.line().await;
    client.say("# name\n").await;
    let (_, _, error) = session.failed().await;
    assert_eq!(error.to_string(), "HAProxy did not answer within 300ms");
    assert!(matches!(session.lost().await, SessionError::Silent(_)));
    assert_eq!(client.next_line().await, None);
}

#[tokio::test]
async fn words_that_nobody_asked_for_end_the_connection() {
    let haproxy = Haproxy::start();
    let (mut session, mut client) = connect(&haproxy, haproxy.settings()).await;
    client.say("hello\n> ").await;
    assert_eq!(
        session.lost().await.to_string(),
        r#"HAProxy said "hello\n> " unasked"#
    );
}

// === The end of the session ===

#[tokio::test]
async fn it_ends_when_nobody_sends_or_nobody_listens() {
    let haproxy = Haproxy::start();
    let (session, _client) = connect(&haproxy, haproxy.settings()).await;
    drop(session.batches);
    timeout(PATIENCE, session.task).await.unwrap().unwrap();

    let (session, _client) = connect(&haproxy, haproxy.settings()).await;
    drop(session.events);
    timeout(PATIENCE, session.task).await.unwrap().unwrap();

    let session = Session::start(Settings::new("/nonexistent/haproxy.sock".into()));
    drop(session.events);
    timeout(PATIENCE, session.task).await.unwrap().unwrap();
}

// === No connection ===

#[tokio::test]
async fn a_reason_is_told_once_until_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("haproxy.sock");
    let mut session = Session::start(Settings::new(path.clone()));
    assert!(matches!(
        session.unavailable().await,
        ConnectError::Missing(_)
    ));
    // A socket that nobody listens on any more.
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(
        session.unavailable().await,
        ConnectError::Refused(_)
    ));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(
        session.unavailable().await,
        ConnectError::Missing(_)
    ));
    let haproxy = Haproxy {
        listener: UnixListener::bind(&path).unwrap(),
        folder,
    };
    haproxy.accept_as(1).await;
    assert_eq!(session.connected().await, 1);
}

async fn why_not(settings: &Settings) -> String {
    let error = Connection::open(settings).await.unwrap_err();
    error
        .to_string()
        .replace(&settings.socket.display().to_string(), "SOCKET")
}

/// What an operator reads when the other side answers `prompt` with this and then closes or falls silent.
async fn why_not_after(answer: &'static str, closes: bool) -> String {
    let haproxy = Haproxy::start();
    let settings = Settings {
        reply_deadline: Duration::from_millis(if closes { 20_000 } else { 100 }),
        ..haproxy.settings()
    };
    let peer = tokio::spawn(async move {
        let mut client = haproxy.accept().await;
        client.line().await;
        client.say(answer).await;
        if closes {
            client.stream.shutdown().await.unwrap();
        }
        while client.next_line().await.is_some() {}
        haproxy
    });
    let text = why_not(&settings).await;
    peer.await.unwrap();
    text
}

#[tokio::test]
async fn an_operator_is_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let gone = folder.path().join("gone.sock");
    drop(UnixListener::bind(&gone).unwrap());
    for (path, text) in [
        (
            Path::new("/nonexistent/haproxy.sock"),
            "SOCKET does not exist: start HAProxy, or name its stats socket with --haproxy-socket",
        ),
        (
            &file.join("haproxy.sock"),
            "SOCKET does not exist: start HAProxy, or name its stats socket with --haproxy-socket",
        ),
        (
            &file,
            "SOCKET is not a socket: name HAProxy's stats socket with --haproxy-socket",
        ),
        (
            &gone,
            "nobody listens on SOCKET: HAProxy is not running, or is just being restarted",
        ),
        (
            Path::new(&format!("/{}", "x".repeat(107))),
            "the path SOCKET has 108 bytes, a socket's cannot have more than 107: put the stats socket elsewhere",
        ),
    ] {
        assert_eq!(why_not(&Settings::new(path.to_owned())).await, text);
    }
    for (answer, closes, text) in [
        (
            "\n> \n> \n> operator\n\n> ",
            true,
            r#"the stats socket SOCKET answers at level "operator": write `level admin` on its `stats socket` line"#,
        ),
        (
            "HTTP/1.1 400 Bad Request\r\n\r\n",
            true,
            r#"SOCKET does not answer as HAProxy does, but with "HTTP/1.1 400 Bad Request\r\n\r\n": name HAProxy's stats socket with --haproxy-socket"#,
        ),
        (
            "",
            true,
            "SOCKET closed the connection: HAProxy is just being restarted, or it is not HAProxy",
        ),
        (
            "master> ",
            true,
            "SOCKET is the socket of HAProxy's master (-S): name the one of a `stats socket` line with --haproxy-socket",
        ),
        (
            "\n> \n> \n> admin\n\n> Name: HAProxy\n\n> ",
            true,
            "the answer of SOCKET to show info cannot be read",
        ),
        (
            "",
            false,
            "SOCKET does not answer within 100ms: HAProxy is stuck, or 10 connections are open already (close some, or raise `stats maxconn`)",
        ),
    ] {
        assert_eq!(why_not_after(answer, closes).await, text);
    }
}

// === Without the task ===

#[tokio::test]
async fn batches_can_be_run_one_by_one_on_a_connection() {
    let haproxy = Haproxy::start();
    let settings = haproxy.settings();
    let peer = tokio::spawn(async move {
        let mut client = haproxy.accept_as(7).await;
        assert_eq!(client.line().await, "show backend");
        client.say("# name\nweb\n\n> ").await;
        client.line().await;
        client.line().await;
        client.say("\n> ").await;
    });
    let (mut connection, process) = Connection::open(&settings).await.unwrap();
    assert_eq!(process.pid, 7);
    let backends = batch(1, vec![Request::Backends]);
    let (responses, error) = connection.run_batch(&backends).await;
    assert!(matches!(&responses[..], [Response::Backends(names)] if names.len() == 1));
    assert!(error.is_none());
    let ready = batch(2, vec![change(Command::Ready, "a"), Request::Info]);
    let (responses, error) = connection.run_batch(&ready).await;
    assert_eq!(responses, [done()]);
    assert!(matches!(error, Some(SessionError::Closed)));
    let (responses, error) = connection.run_batch(&backends).await;
    assert_eq!(responses, []);
    assert!(matches!(error, Some(SessionError::NotConnected)));
    peer.await.unwrap();
}
