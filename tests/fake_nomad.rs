//! The fake Nomad against the recordings of real ones, read by plain sockets.

#[expect(dead_code, reason = "each test program uses a part of the support")]
mod support;

use std::time::Duration;

use support::{
    fake_nomad::{Deletion, FakeNomad, ServiceRegistration, Token, Version},
    raw_http::{EventStream, Said, ask, ask_with, get, reply, request, undated},
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
    list.assert_is(recording!("2.0.5/http/list.http"));
    let read = get(nomad.addr(), "/v1/service/sidecar").await;
    read.assert_is(recording!("2.0.5/http/service.http"));
    let unknown = get(nomad.addr(), "/v1/service/nope").await;
    unknown.assert_is(recording!("2.0.5/http/service-unknown-name.http"));
    let star = get(nomad.addr(), "/v1/service/sidecar?namespace=*").await;
    star.assert_is(recording!("2.0.5/http/service-namespace-star.http"));
    let unknown = get(nomad.addr(), "/v1/services?namespace=nope").await;
    unknown.assert_is(recording!("2.0.5/http/list-unknown-namespace.http"));
}

#[tokio::test]
async fn a_long_answer_is_chunked_as_recorded() {
    let recorded = recording!("2.0.5/http/service-over-2048-bytes-chunked.http");
    let rows = recorded.lines().find(|line| line.starts_with('[')).unwrap();
    let mut rows: Vec<ServiceRegistration> = serde_json::from_str(rows).unwrap();
    rows.sort_by_key(|row| row.modify_index);
    let nomad = FakeNomad::start().await;
    for row in rows {
        nomad.replay(&line_of(&row, "ServiceRegistration", row.modify_index));
    }
    let mut socket = TcpStream::connect(nomad.addr()).await.unwrap();
    let request = request("GET", "/v1/service/probe", "", "");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut said = vec![0; recorded.len()];
    timeout(SOON, socket.read_exact(&mut said))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        undated(&String::from_utf8(said).unwrap()),
        undated(recorded)
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
        ask(nomad.addr(), method, target, "")
            .await
            .assert_is(recorded);
    }
}

#[tokio::test]
async fn an_allocation_is_hidden_from_who_may_not_read_it_as_recorded() {
    let hidden = recording!("2.0.5/http/allocation-denied-500.http");
    let (_, id) = hidden.split_once("allocation \"").unwrap();
    let target = format!("/v1/allocation/{}", id.trim_end_matches('"'));
    let nomad = FakeNomad::start().await;
    nomad.enable_acl();
    let unknown = ask(nomad.addr(), "GET", &target, "").await;
    unknown.assert_is(recording!("2.0.5/http/allocation-denied-unknown-404.http"));
    nomad.describe_allocation(id.trim_end_matches('"'), "run", "running");
    ask(nomad.addr(), "GET", &target, "")
        .await
        .assert_is(hidden);
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

    ask("", list)
        .await
        .assert_is(recording!("2.0.5/http/task-api-acl-off-no-token-401.http"));
    ask("x", list)
        .await
        .assert_is(recording!("2.0.5/http/task-api-acl-off-any-token.http"));
    nomad.issue("identity", Token::Workload(vec![]));
    let nobody = ask("", "/v1/event/stream").await;
    nobody.assert_is(recording!("2.0.5/http/task-api-stream-no-token-401.http"));
    ask(UUID, list)
        .await
        .assert_is(recording!("2.0.5/http/task-api-unknown-token-403.http"));
    ask("x", list)
        .await
        .assert_is(recording!("2.0.5/http/task-api-malformed-token-500.http"));
    assert_eq!(ask("identity", list).await.status, 200);
    let everywhere = ask("identity", "/v1/services?namespace=*").await;
    everywhere.assert_is(recording!(
        "2.0.5/http/list-star-workload-identity-index-0.http"
    ));

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
            if open {
                assert_eq!(stream.line().await, "{}", "{token} {namespace}");
                continue;
            }
            assert_eq!(
                stream.next(A_WHILE).await,
                Said::Nothing,
                "{token} {namespace}"
            );
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

fn recorded_registration() -> ServiceRegistration {
    let (_, body) = recording!("2.0.5/http/service.http")
        .split_once("\r\n\r\n")
        .expect("an answer has a body");
    let mut rows: Vec<ServiceRegistration> = serde_json::from_str(body).expect("of registrations");
    rows.remove(0)
}

/// A line of the stream about `row`.
fn line_of(row: &ServiceRegistration, kind: &str, index: u64) -> String {
    let service = serde_json::to_value(row).expect("a row is JSON");
    serde_json::json!({"Index": index, "Events": [{"Type": kind, "Payload": {"Service": service}}]})
        .to_string()
}

fn token_header(token: &str) -> String {
    match token {
        "" => String::new(),
        token => format!("X-Nomad-Token: {token}\r\n"),
    }
}
