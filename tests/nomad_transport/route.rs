//! Several endpoints: the one that answered last is asked, the others in turn, and everybody goes where an answer is.

use std::{
    collections::BTreeMap,
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use haproxy_nomad_sidecar::{
    catalog::FailureKind,
    nomad::{
        client::{Client, Error},
        route::Failed,
        settings::{Endpoint, Settings},
        stream::StreamError,
        transport::{Dial, DialError, Dialling},
        watch,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UnixListener},
    time::Instant,
};

use crate::script::{Reply, Script, ScriptDial, json, recorded, route, settings, stream};

const TWO: &str = "http://a:1,http://b:2";

/// Dials each address by its own script, and nothing where there is none.
#[derive(Default)]
struct Places(BTreeMap<String, ScriptDial>);

impl Places {
    fn with(mut self, address: &str, script: &Arc<Script>) -> Self {
        let dial = ScriptDial(Arc::clone(script));
        self.0.insert(address.to_owned(), dial);
        self
    }
}

impl Dial for Places {
    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> Dialling<'a> {
        match self.0.get(&endpoint.to_string()) {
            Some(script) => script.dial(endpoint),
            None => {
                Box::pin(async { Err(DialError::Connect(io::ErrorKind::ConnectionRefused.into())) })
            }
        }
    }
}

fn at(addresses: &str) -> Settings {
    Settings {
        endpoints: addresses.parse().unwrap(),
        ..settings()
    }
}

fn no_leader() -> Vec<u8> {
    b"HTTP/1.1 500 Oops\r\nContent-Length: 17\r\n\r\nNo cluster leader".to_vec()
}

/// The index of a list, or why there is none.
async fn list(client: &mut Client) -> Result<u64, Failed<Error>> {
    client.list("default", None).await.map(|list| list.index)
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_is_passed_over_and_not_tried_again_while_the_other_answers() {
    let b = Script::always(json(7, "[]"));
    let route = route(at(TWO), Places::default().with("http://b:2", &b));
    assert_eq!(route.endpoint().0.to_string(), "http://a:1");
    for _ in 0..2 {
        assert_eq!(list(&mut Client::on(Arc::clone(&route))).await.unwrap(), 7);
    }
    let (endpoint, reason) = route.endpoint();
    assert_eq!(endpoint.to_string(), "http://b:2");
    assert_eq!(reason, "http://a:1: cannot connect: connection refused");
    assert_eq!(b.count("host: b:2"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_nothing_of_use_is_left_by_everybody() {
    let limited = recorded("2.0.5/http/too-many-connections-429.http");
    let false_empty = recorded("2.0.5/http/client-agent-shutdown-false-empty.http");
    let no_servers = b"HTTP/1.1 500 Oops\r\nContent-Length: 10\r\n\r\nno servers".to_vec();
    let table = [
        Reply::Bytes(no_leader()),
        Reply::Bytes(no_servers),
        Reply::End(limited),
        Reply::Bytes(false_empty),
        Reply::Silence(Vec::new()),
        Reply::End(Vec::new()),
        Reply::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
    ];
    for reply in table {
        let bad = Arc::new(AtomicBool::new(false));
        let (is_bad, answer) = (Arc::clone(&bad), reply.clone());
        let a = Arc::new(Script::new(move |_| {
            if is_bad.load(Ordering::Relaxed) {
                answer.clone()
            } else {
                Reply::Bytes(json(7, "[]"))
            }
        }));
        let b = Script::always(json(8, "[]"));
        let places = Places::default()
            .with("http://a:1", &a)
            .with("http://b:2", &b);
        let route = route(at(TWO), places);
        let mut clients = [(); 2].map(|()| Client::on(Arc::clone(&route)));
        for client in &mut clients {
            assert_eq!(list(client).await.unwrap(), 7);
        }
        bad.store(true, Ordering::Relaxed);
        assert_eq!(list(&mut clients[0]).await.unwrap(), 8);
        let asked = a.count("GET");
        // The other one has a good connection to the endpoint that was left, and goes where all go.
        bad.store(false, Ordering::Relaxed);
        for client in &mut clients {
            assert_eq!(list(client).await.unwrap(), 8);
        }
        assert_eq!(a.count("GET"), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_each_is_named_with_its_reason_and_nobody_goes_to_and_fro() {
    let b = Script::always(no_leader());
    let places = || Places::default().with("http://b:2", &b);
    let shared = route(at(TWO), places());
    let mut client = Client::on(Arc::clone(&shared));
    for _ in 0..3 {
        let failed = list(&mut client).await.unwrap_err();
        assert_eq!(failed.last().kind(), FailureKind::ServerError);
        assert_eq!(
            failed.to_string(),
            "nomad at http://a:1: cannot connect: connection refused; nomad at http://b:2: status 500: No cluster leader"
        );
        assert_eq!(shared.endpoint().0.to_string(), "http://a:1");
    }
    let read = watch::read_once_with(&at(TWO), Arc::new(places())).await;
    assert_eq!(
        read.unwrap_err().to_string(),
        "nomad at http://a:1: cannot connect: connection refused: is the agent running? set NOMAD_ADDR to where it answers; nomad at \
         http://b:2: status 500: No cluster leader"
    );
    let failed = client.open_stream("default").await.err().unwrap();
    assert_eq!(failed.each().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_the_answer_of_all_and_no_other_is_asked() {
    let a = Script::always(recorded("2.0.5/http/list-denied-403.http"));
    let b = Script::always(json(8, "[]"));
    let places = Places::default()
        .with("http://a:1", &a)
        .with("http://b:2", &b);
    let mut client = Client::on(route(at(TWO), places));
    let failed = list(&mut client).await.unwrap_err();
    assert_eq!(
        failed.to_string(),
        "nomad at http://a:1: denied (403: Permission denied)"
    );
    assert!(b.seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_opened_elsewhere_and_goes_where_all_go() {
    let answers = |path: &str| {
        if path.starts_with("/v1/event") {
            Reply::Silence(stream("{}\n"))
        } else {
            Reply::Bytes(json(7, "[]"))
        }
    };
    let a_dies = Arc::new(AtomicBool::new(false));
    let dying = Arc::clone(&a_dies);
    let a = Arc::new(Script::new(move |path| {
        if dying.load(Ordering::Relaxed) {
            Reply::Bytes(no_leader())
        } else {
            answers(path)
        }
    }));
    let b = Arc::new(Script::new(answers));
    let places = Places::default()
        .with("http://a:1", &a)
        .with("http://b:2", &b);
    let route = route(at(TWO), places);
    let mut client = Client::on(Arc::clone(&route));
    let mut on_a = client.open_stream("default").await.unwrap();
    on_a.next().await.unwrap();

    a_dies.store(true, Ordering::Relaxed);
    // A stream that opens elsewhere moves nobody: only answers do.
    let mut on_b = client.open_stream("default").await.unwrap();
    on_b.next().await.unwrap();
    assert_eq!(route.endpoint().0.to_string(), "http://a:1");

    assert_eq!(list(&mut client).await.unwrap(), 7);
    let started = Instant::now();
    let error = on_a.next().await.unwrap_err();
    assert!(matches!(error, StreamError::Left), "{error:?}");
    assert_eq!(started.elapsed().as_secs(), 0);
    // The other one is where all are.
    let error = on_b.next().await.unwrap_err();
    assert!(matches!(error, StreamError::Dead), "{error:?}");
}

// === Real sockets ===

/// Answers each connection once with what is recorded.
async fn agent(listener: TcpListener, name: &'static str) {
    loop {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        drop(tcp.read(&mut head).await);
        drop(tcp.write_all(&recorded(name)).await);
    }
}

#[tokio::test]
async fn of_real_sockets_the_one_that_answers_is_used_whatever_its_scheme() {
    let dir = tempfile::tempdir().unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = gone.local_addr().unwrap();
    drop(gone);
    let bad = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shutting_down = bad.local_addr().unwrap();
    tokio::spawn(agent(
        bad,
        "2.0.5/http/client-agent-shutdown-false-empty.http",
    ));
    let good = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = good.local_addr().unwrap();
    tokio::spawn(agent(good, "2.0.5/http/list.http"));
    let missing = dir.path().join("api.sock");
    let addresses = format!(
        "https://{dead},unix://{},http://{shutting_down},http://{address}",
        missing.display()
    );
    let settings = Settings::new(addresses.parse().unwrap());
    let mut client = Client::new(Arc::new(settings));
    assert_eq!(list(&mut client).await.unwrap(), 17);
}

#[tokio::test]
async fn the_socket_of_the_task_api_may_be_made_anew_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let mut client = Client::new(Arc::new(Settings::new(Endpoint::Unix(path.clone()).into())));
    let agent = serve_at(&path);
    assert_eq!(list(&mut client).await.unwrap(), 17);
    agent.abort();
    assert!(agent.await.unwrap_err().is_cancelled());
    fs::remove_file(&path).unwrap();
    let error = list(&mut client).await.unwrap_err().to_string();
    assert!(
        error.ends_with("No such file or directory (os error 2)"),
        "{error}"
    );
    let _agent = serve_at(&path);
    assert_eq!(list(&mut client).await.unwrap(), 17);
}

/// An agent that keeps its connections.
fn serve_at(path: &Path) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        while io.read(&mut head).await.is_ok_and(|read| read > 0) {
            io.write_all(&recorded("2.0.5/http/list.http"))
                .await
                .unwrap();
        }
    })
}
