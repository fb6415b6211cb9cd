//! The fake Nomad against the recordings of real ones, read by plain sockets.

#[expect(dead_code, reason = "each test program uses a part of the support")]
mod support;

use std::time::Duration;

use support::{
    fake_nomad::{
        Deletion, FakeNomad, Key, Kind, Mode, Recorded, ServiceRegistration, Token, Version, Which,
    },
    raw_http::{EventStream, Reply, Said, ask, ask_with, get, reply, request},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

/// Long enough to see that nothing comes.
const A_WHILE: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(10);
const UUID: &str = "11111111-2222-3333-4444-555555555555";

macro_rules! recording {
    ($path:literal) => {
        include_str!(concat!("fixtures/nomad-", $path))
    };
}

#[tokio::test]
async fn the_head_of_a_list_and_of_a_read_are_as_recorded() {
    let nomad = FakeNomad::start().await;
    let row = recorded_registration();
    nomad.replay(&line_of(&row, "ServiceRegistration", 17));

    let list = get(nomad.addr(), "/v1/services").await;
    assert_same(&list, recording!("2.0.5/http/list.http"));
    let read = get(nomad.addr(), "/v1/service/sidecar").await;
    assert_same(&read, recording!("2.0.5/http/service.http"));
    let unknown = get(nomad.addr(), "/v1/service/nope").await;
    assert_same(&unknown, recording!("2.0.5/http/service-unknown-name.http"));
    let star = get(nomad.addr(), "/v1/service/sidecar?namespace=*").await;
    assert_same(&star, recording!("2.0.5/http/service-namespace-star.http"));
    let unknown = get(nomad.addr(), "/v1/services?namespace=nope").await;
    assert_same(
        &unknown,
        recording!("2.0.5/http/list-unknown-namespace.http"),
    );
}

#[tokio::test]
async fn refusals_are_as_recorded() {
    let nomad = FakeNomad::start().await;
    for (method, target, recorded) in [
        (
            "GET",
            "/v1/services?index=x",
            recording!("2.0.5/http/error-bad-index-400.http"),
        ),
        (
            "GET",
            "/v1/services?index=-1",
            recording!("2.0.5/http/error-bad-index-400.http"),
        ),
        (
            "GET",
            "/v1/services?index=1&wait=5",
            recording!("2.0.5/http/error-bad-wait-400.http"),
        ),
        (
            "PUT",
            "/v1/services",
            recording!("2.0.5/http/error-method-405.http"),
        ),
        (
            "POST",
            "/v1/event/stream",
            recording!("2.0.5/http/error-method-405.http"),
        ),
        (
            "GET",
            "/v1/service/a/b",
            recording!("2.0.5/http/service-name-with-slash-405.http"),
        ),
        (
            "GET",
            "/v1/service/a%2Fb",
            recording!("2.0.5/http/service-name-with-slash-405.http"),
        ),
        (
            "GET",
            "/v1/service/",
            recording!("2.0.5/http/service-name-missing-400.http"),
        ),
        (
            "GET",
            "/v1/nothing",
            recording!("2.0.5/http/unknown-path-404.http"),
        ),
        (
            "DELETE",
            "/v1/service/web/no",
            recording!("2.0.5/http/service-delete-missing-500.http"),
        ),
        (
            "GET",
            "/v1/event/stream?index=x",
            recording!("2.0.5/http/error-stream-bad-index-400.http"),
        ),
        (
            "GET",
            "/v1/event/stream?topic=Service:a:b",
            recording!("2.0.5/http/error-stream-bad-topic-400.http"),
        ),
    ] {
        assert_same(&ask(nomad.addr(), method, target, "").await, recorded);
    }
}

#[tokio::test]
async fn stream_heads_and_framings_are_as_recorded() {
    for (version, token, recorded) in [
        (
            Version::V1_10_5,
            "all",
            recording!("1.10.5/http/stream-opened.http"),
        ),
        (
            Version::V1_11_2,
            "all",
            recording!("1.11.2/http/stream-opened.http"),
        ),
        (
            Version::V2_0_5,
            "all",
            recording!("2.0.5/http/stream-opened.http"),
        ),
        (
            Version::V1_10_5,
            "none",
            recording!("1.10.5/http/stream-denied.http"),
        ),
        (
            Version::V1_11_2,
            "none",
            recording!("1.11.2/http/stream-denied.http"),
        ),
        (
            Version::V2_0_5,
            "none",
            recording!("2.0.5/http/stream-denied.http"),
        ),
    ] {
        let nomad = FakeNomad::start_as(version, SOON).await;
        nomad.issue("all", Token::Client(vec!["*".into()]));
        let mut socket = TcpStream::connect(nomad.addr()).await.unwrap();
        let headers = format!("X-Nomad-Token: {token}\r\n");
        let request = request("GET", "/v1/event/stream?topic=Service", "", &headers);
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut said = vec![0; recorded.len()];
        timeout(SOON, socket.read_exact(&mut said))
            .await
            .unwrap()
            .unwrap();
        let said = String::from_utf8(said).unwrap();
        assert_eq!(undated(&said), undated(recorded), "{version:?} {token}");
        let mut more = [0];
        let more = timeout(A_WHILE, socket.read(&mut more)).await;
        assert!(
            more.is_err(),
            "{version:?} {token}: nothing follows, not even the end"
        );
    }
}

#[tokio::test]
async fn the_task_api_answers_as_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let mut nomad = FakeNomad::start().await;
    nomad.listen_task_api(&path).await;
    nomad.replay(&line_of(
        &recorded_registration(),
        "ServiceRegistration",
        15,
    ));
    let ask = async |token: &str, target: &str| {
        let mut socket = UnixStream::connect(&path).await.unwrap();
        let headers = match token {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let request = request("GET", target, "", &headers);
        socket.write_all(request.as_bytes()).await.unwrap();
        reply(&mut socket).await
    };
    let list = "/v1/services";

    assert_same(
        &ask("", list).await,
        recording!("2.0.5/http/task-api-acl-off-no-token-401.http"),
    );
    assert_same(
        &ask("x", list).await,
        recording!("2.0.5/http/task-api-acl-off-any-token.http"),
    );
    nomad.issue("identity", Token::Workload(vec![]));
    let nobody = ask("", "/v1/event/stream").await;
    assert_same(
        &nobody,
        recording!("2.0.5/http/task-api-stream-no-token-401.http"),
    );
    assert_same(
        &ask(UUID, list).await,
        recording!("2.0.5/http/task-api-unknown-token-403.http"),
    );
    assert_same(
        &ask("x", list).await,
        recording!("2.0.5/http/task-api-malformed-token-500.http"),
    );
    assert_eq!(ask("identity", list).await.status, 200);
    let everywhere = ask("identity", "/v1/services?namespace=*").await;
    assert_same(
        &everywhere,
        recording!("2.0.5/http/list-star-workload-identity-index-0.http"),
    );

    nomad.stop().await;
    assert!(!path.exists(), "the socket goes with its agent");
    nomad.resume().await;
    assert_eq!(ask("identity", list).await.status, 200);
}

#[tokio::test]
async fn rights_are_as_in_the_recorded_table() {
    let nomad = FakeNomad::start().await;
    nomad.create_namespace("late");
    nomad.register(ServiceRegistration::new("web", 1, 8080));
    nomad.issue("none", Token::Client(vec![]));
    nomad.issue("default", Token::Client(vec!["default".into()]));
    nomad.issue("all", Token::Client(vec!["*".into()]));
    nomad.issue("management", Token::Management);
    nomad.issue("identity", Token::Workload(vec![]));
    let calls = [
        "/v1/services",
        "/v1/services?namespace=*",
        "/v1/services?namespace=unknown",
        "/v1/service/web",
        "/v1/service/web?namespace=*",
        "/v1/service/unknown",
    ];
    for (token, expected) in [
        ("", ["403", "200/0", "403", "403", "403", "403"]),
        (UUID, ["403", "403", "403", "403", "403", "403"]),
        ("none", ["403", "200/0", "403", "403", "403", "403"]),
        (
            "default",
            ["200/12", "200/12", "403", "200/12", "200/12", "200/12"],
        ),
        (
            "all",
            ["200/12", "200/12", "200/12", "200/12", "200/12", "200/12"],
        ),
        (
            "management",
            ["200/12", "200/12", "200/12", "200/12", "200/12", "200/12"],
        ),
        (
            "identity",
            ["200/12", "200/0", "200/12", "200/12", "200/12", "200/12"],
        ),
    ] {
        for (call, expected) in calls.iter().zip(expected) {
            let reply = ask_with(nomad.addr(), "GET", call, "", &token_header(token)).await;
            let index = reply
                .header("x-nomad-index")
                .map(|index| format!("/{index}"));
            let seen = format!("{}{}", reply.status, index.unwrap_or_default());
            assert_eq!(seen, expected, "{token:?} {call}");
        }
    }
    for (token, one, every) in [
        ("", false, false),
        (UUID, false, false),
        ("none", false, false),
        ("default", true, false),
        ("all", true, true),
        ("management", true, true),
        ("identity", false, false),
    ] {
        for (namespace, open) in [("default", one), ("*", every)] {
            let query = format!("topic=Service&namespace={namespace}");
            let header = token_header(token);
            let mut stream = EventStream::open_with(nomad.addr(), &query, &header).await;
            assert!(stream.head.starts_with("HTTP/1.1 200 OK"));
            match open {
                true => assert_eq!(stream.line().await, "{}", "{token} {namespace}"),
                false => assert_eq!(stream.next(A_WHILE).await, Said::Nothing),
            }
        }
    }
}

#[tokio::test]
async fn a_list_unites_tags_and_comes_in_every_order() {
    let nomad = FakeNomad::start().await;
    nomad.register(ServiceRegistration::new("web", 1, 8080).tags(&["a", "b"]));
    nomad.register(ServiceRegistration::new("web", 2, 8081).tags(&["b", "c"]));
    nomad.register(ServiceRegistration::new("api", 3, 8082));
    let mut bodies = std::collections::BTreeSet::new();
    for _ in 0..50 {
        bodies.insert(get(nomad.addr(), "/v1/services").await.body);
    }
    assert!(bodies.len() > 6, "{bodies:#?}");
    let sorted: &[_] = &[r#""a""#, r#""b""#, r#""c""#];
    assert!(
        bodies
            .iter()
            .all(|body| sorted.iter().all(|tag| body.matches(tag).count() == 1))
    );
}

#[tokio::test]
async fn what_is_registered_again_unchanged_changes_nothing() {
    let nomad = FakeNomad::start().await;
    let web = || ServiceRegistration::new("web", 1, 8080);
    nomad.register(web().tags(&["a", "b"]));
    let index = nomad.index();
    nomad.register(web().tags(&["b", "a"]));
    assert_eq!(nomad.index(), index);
    nomad.register(web().tags(&["c"]));
    let row = nomad.rows().into_values().next().unwrap();
    assert_eq!((row.create_index, row.modify_index), (index, index + 1));
    nomad.deregister(&[web().key()], Deletion::ServiceDeregistration);
    nomad.register(web());
    let row = nomad.rows().into_values().next().unwrap();
    assert_eq!((row.create_index, row.modify_index), (index + 3, index + 3));
}

#[tokio::test]
async fn recorded_streams_come_out_as_they_went_in() {
    for recorded in [
        recording!("2.0.5/streams/node-lost.ndjson"),
        recording!("2.0.5/streams/register-stop.ndjson"),
        recording!("1.11.3/streams/canary-promotion.ndjson"),
        recording!("1.10.5/streams/terminal-and-gc.ndjson"),
    ] {
        let nomad = FakeNomad::start().await;
        let mut stream = EventStream::open(nomad.addr(), "topic=Service&namespace=*").await;
        assert_eq!(stream.line().await, "{}");
        for line in recorded.lines() {
            nomad.replay(line);
            assert_eq!(stream.line().await, line);
        }
    }
}

#[tokio::test]
async fn a_stream_starts_where_the_buffer_allows() {
    let nomad = FakeNomad::start().await;
    let open = async |index: u64| {
        let query = format!("topic=Service&namespace=*&index={index}");
        let mut stream = EventStream::open(nomad.addr(), &query).await;
        assert_eq!(stream.line().await, "{}");
        let mut indexes = Vec::new();
        while let Said::Line(line) = stream.next(A_WHILE).await {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            indexes.push(line["Index"].as_u64().unwrap());
        }
        indexes
    };
    assert_eq!(open(0).await, [0; 0], "a fresh broker has nothing");
    nomad.register(ServiceRegistration::new("web", 1, 8080)); // 11
    nomad.other_entries(3); // 12..14
    nomad.register(ServiceRegistration::new("web", 2, 8081)); // 15
    nomad.register(ServiceRegistration::new("web", 3, 8082)); // 16

    assert_eq!(open(0).await, [11, 15, 16], "everything");
    assert_eq!(open(15).await, [15, 16], "inclusive");
    assert_eq!(open(13).await, [15, 16], "between");
    assert_eq!(open(99).await, [16], "the tail again");
    nomad.other_entries(1);
    assert_eq!(open(99).await, [0; 0], "the tail is of another topic");
    nomad.other_entries(98);
    assert_eq!(
        open(11).await,
        [16],
        "what has left the buffer is never missed aloud"
    );
}

#[tokio::test]
async fn a_restarted_server_tells_the_past_again() {
    let nomad = FakeNomad::start().await;
    nomad.register(ServiceRegistration::new("web", 1, 8080));
    let key = ServiceRegistration::new("web", 1, 8080).key();
    nomad.deregister(&[key], Deletion::PlanResult);
    let (addr, index) = (nomad.addr(), nomad.index());
    nomad.begin_restart();
    let list = get(addr, "/v1/services").await;
    assert_same(
        &list,
        recording!("1.10.5/http/list-first-after-server-restart.http"),
    );
    let stale = get(addr, "/v1/services?stale").await;
    assert_eq!((stale.index(), stale.body.as_str()), (1, "[]"));
    let query = format!("topic=Service&index={}", index + 1);
    let mut stream = EventStream::open(addr, &query).await;
    assert_eq!(stream.line().await, "{}");
    nomad.finish_restart();
    let (first, second) = (stream.batch().await, stream.batch().await);
    assert_eq!(first["Events"][0]["Type"], "ServiceRegistration");
    assert_eq!(second["Events"][0]["Type"], "PlanResult");
    assert_eq!(get(addr, "/v1/services").await.index(), index);
}

#[tokio::test]
async fn a_restored_snapshot_takes_the_index_back_and_kills_the_streams() {
    for (version, end) in [
        (Version::V2_0_5, Said::Nothing),
        (
            Version::V1_10_5,
            Said::Line("38\r".into()), // The length of the text, then the text.
        ),
    ] {
        let nomad = FakeNomad::start_as(version, SOON).await;
        nomad.register(ServiceRegistration::new("web", 1, 8080));
        let (snapshot, index) = (nomad.snapshot(), nomad.index());
        nomad.register(ServiceRegistration::new("web", 2, 8081));
        let query = "topic=Service&index=999";
        let mut stream = EventStream::open(nomad.addr(), query).await;
        while !matches!(stream.next(A_WHILE).await, Said::Nothing) {}
        nomad.restore(snapshot);
        assert_eq!(stream.next(A_WHILE).await, end, "{version:?}");
        assert_eq!(get(nomad.addr(), "/v1/services").await.index(), index);
        nomad.register(ServiceRegistration::new("web", 3, 8082));
        assert!(nomad.index() > index + 1, "the log goes on");
    }
}

#[tokio::test]
async fn a_deletion_by_garbage_collection_moves_the_index_and_says_nothing() {
    let nomad = FakeNomad::start().await;
    let web = ServiceRegistration::new("web", 1, 8080);
    nomad.register(web.clone());
    let mut stream = EventStream::open(nomad.addr(), "topic=Service").await;
    assert_eq!(stream.line().await, "{}");
    stream.batch().await;
    nomad.delete_silently(&[web.key()]);
    assert_eq!(stream.next(A_WHILE).await, Said::Nothing);
    let list = get(nomad.addr(), "/v1/services").await;
    assert_eq!((list.index(), list.body.as_str()), (nomad.index(), "[]"));
}

#[tokio::test]
async fn a_stream_can_be_cut_in_a_line_fall_silent_or_talk_nonsense() {
    let nomad = FakeNomad::start_as(Version::V2_0_5, Duration::from_millis(20)).await;
    let open = async || EventStream::open(nomad.addr(), "topic=Service").await;

    let mut stream = open().await;
    nomad
        .until("it is open", |nomad| nomad.open_streams() == 1)
        .await;
    nomad.cut_streams_within("{\"Events\":[]}");
    loop {
        match stream.next(SOON).await {
            Said::Line(line) => assert_eq!(line, "{}"),
            Said::End(rest) => break assert_eq!(rest, "{\"Event"),
            Said::Nothing => panic!("it ends"),
        }
    }
    let mut stream = open().await;
    nomad
        .until("it is open", |nomad| nomad.open_streams() == 1)
        .await;
    nomad.say("no JSON");
    while stream.line().await != "no JSON" {}
    nomad.silence_streams();
    while !matches!(stream.next(A_WHILE).await, Said::Nothing) {}
    nomad.cut();
    assert_eq!(stream.next(SOON).await, Said::End(String::new()));
    nomad
        .until("all are gone", |nomad| nomad.connections() == 0)
        .await;
}

#[tokio::test]
async fn troubles_are_for_the_requests_that_they_are_set_for() {
    let nomad = FakeNomad::start().await;
    let addr = nomad.addr();
    nomad.register(ServiceRegistration::new("web", 1, 8080));
    nomad.register(ServiceRegistration::new("api", 2, 8081));

    nomad.mode(Which::Lists, Mode::Answer(Recorded::ShuttingDown));
    let list = get(addr, "/v1/services").await;
    assert_same(
        &list,
        recording!("2.0.5/http/client-agent-shutdown-false-empty.http"),
    );
    nomad.mode(
        Which::Service("web".into()),
        Mode::Answer(Recorded::ConnectionRefused),
    );
    let read = get(addr, "/v1/service/w%65b").await;
    assert_same(&read, recording!("2.0.5/http/server-away-500-2.http"));
    assert_eq!(get(addr, "/v1/service/api").await.status, 200);
    nomad.mode(Which::Every, Mode::Normal);
    assert_eq!(get(addr, "/v1/service/web").await.status, 200);
    nomad.mode(Which::Reads, Mode::Hang);
    assert!(
        timeout(A_WHILE, get(addr, "/v1/service/web"))
            .await
            .is_err()
    );
    nomad.mode(Which::Reads, Mode::Trickle(Duration::from_micros(10)));
    assert_eq!(get(addr, "/v1/service/web").await.status, 200);
    nomad.mode(
        Which::Connections,
        Mode::Answer(Recorded::TooManyConnections),
    );
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, recording!("2.0.5/http/too-many-connections-429.http"));
    nomad.stop().await;
    assert!(TcpStream::connect(addr).await.is_err());
    assert_eq!(nomad.count(Kind::List), 1);
}

#[tokio::test]
async fn a_held_blocking_query_falls_with_its_agent() {
    let nomad = FakeNomad::start().await;
    nomad.register(ServiceRegistration::new("web", 1, 8080));
    let target = format!("/v1/services?index={}&wait=60s", nomad.index());
    let agent = async {
        nomad
            .until("the query is there", |nomad| nomad.count(Kind::List) == 1)
            .await;
        nomad.mode(Which::Every, Mode::Answer(Recorded::ShuttingDown));
    };
    let (reply, ()) = tokio::join!(get(nomad.addr(), &target), agent);
    assert_eq!((reply.index(), reply.body.as_str()), (0, "[]"));
}

#[tokio::test]
async fn ten_thousand_registrations_are_served_at_once() {
    let nomad = FakeNomad::start().await;
    let rows: Vec<ServiceRegistration> = (0..10_000)
        .map(|n| ServiceRegistration::new(&format!("service-{:03}", n % 100), n, 8080))
        .collect();
    let keys: Vec<Key> = rows.iter().map(ServiceRegistration::key).collect();
    nomad.register_all(rows);
    let mut socket = TcpStream::connect(nomad.addr()).await.unwrap();
    for service in 0..100 {
        let target = format!("/v1/service/service-{service:03}");
        let request = request("GET", &target, "", "");
        socket.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(
            reply(&mut socket).await.json().as_array().unwrap().len(),
            100
        );
    }
    nomad.deregister(&keys, Deletion::PlanResult);
    assert_eq!(get(nomad.addr(), "/v1/services").await.body, "[]");
}

fn recorded_registration() -> ServiceRegistration {
    let (_, body) = recording!("2.0.5/http/service.http")
        .split_once("\r\n\r\n")
        .unwrap();
    let mut rows: Vec<ServiceRegistration> = serde_json::from_str(body).unwrap();
    rows.remove(0)
}

/// A line of the stream about `row`.
fn line_of(row: &ServiceRegistration, kind: &str, index: u64) -> String {
    let service = serde_json::to_value(row).unwrap();
    serde_json::json!({"Index": index, "Events": [{"Type": kind, "Payload": {"Service": service}}]})
        .to_string()
}

fn token_header(token: &str) -> String {
    match token {
        "" => String::new(),
        token => format!("X-Nomad-Token: {token}\r\n"),
    }
}

fn assert_same(reply: &Reply, recorded: &str) {
    let said = format!("{}{}", reply.head, reply.body);
    assert_eq!(undated(&said), undated(recorded));
}

/// The same text with no time in it.
fn undated(text: &str) -> String {
    let lines = text
        .split_inclusive('\n')
        .filter(|line| !line.starts_with("Date: "));
    lines.collect()
}
