//! The bad weather of the fake Nomad, read byte by byte through its door without a socket, on a paused clock.

#[expect(dead_code, reason = "each test program uses a part of the support")]
mod support;

use std::time::Duration;

use haproxy_nomad_sidecar::nomad::{
    settings::Endpoint,
    transport::{Dial as _, DialError, Io},
};
use support::{
    fake_nomad::{
        Deletion, FakeNomad, Mode, Recorded, ServiceRegistration, Token, Version, Via, Which,
    },
    raw_http::{Reply, reply, request, undated},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    time::{Instant, sleep, timeout},
};

const LIST: &str = "/v1/services";
const READ: &str = "/v1/service/web";
const STREAM: &str = "/v1/event/stream?topic=Service";

/// A Nomad with two instances of `web`.
fn nomad(version: Version) -> FakeNomad {
    let nomad = FakeNomad::in_memory(version);
    nomad.register_all([web(1), web(2)]);
    nomad
}

fn web(alloc: u32) -> ServiceRegistration {
    ServiceRegistration::new("web", alloc, 8080)
}

async fn dial(nomad: &FakeNomad, via: Via) -> Result<Box<dyn Io>, DialError> {
    // The door leads to one place, whatever it is called.
    let endpoint = Endpoint::Unix("nomad".into());
    nomad.door(via).dial(&endpoint).await
}

/// Asks on a new connection.
async fn ask(nomad: &FakeNomad, target: &str, headers: &str) -> Box<dyn Io> {
    ask_via(nomad, Via::Agent, target, headers).await
}

async fn ask_via(nomad: &FakeNomad, via: Via, target: &str, headers: &str) -> Box<dyn Io> {
    let mut socket = dial(nomad, via).await.expect("it listens");
    let request = request("GET", target, "", headers);
    socket
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    socket
}

async fn get(nomad: &FakeNomad, target: &str) -> Reply {
    held(ask(nomad, target, "").await).await
}

/// The answer, however late it comes.
async fn held(socket: Box<dyn Io>) -> Reply {
    let mut socket = BufReader::new(socket);
    socket.fill_buf().await.expect("it answers");
    reply(&mut socket).await
}

/// What comes within this time, and whether that is the end.
async fn said_within(socket: &mut Box<dyn Io>, time: Duration) -> (String, bool) {
    let mut said = Vec::new();
    let end = timeout(time, socket.read_to_end(&mut said)).await.is_ok();
    (String::from_utf8_lossy(&said).into_owned(), end)
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_blocking_query_is_held_until_what_it_asks_about_changes() {
    let nomad = nomad(Version::V2_0_5);
    nomad.create_namespace("shop");
    // The name, the namespace, the whole table: what wakes each, of changes in this order.
    let api = ServiceRegistration::new("api", 3, 8081);
    for (target, namespace, wakes_at) in
        [(READ, "default", 3), (LIST, "default", 2), (LIST, "*", 1)]
    {
        let index = nomad.index();
        let target = format!("{target}?namespace={namespace}&index={index}&wait=60s");
        let query = ask(&nomad, &target, "").await;
        let changes = async {
            sleep(SECOND).await;
            nomad.register(api.clone().namespace("shop"));
            sleep(SECOND).await;
            nomad.register(api.clone());
            sleep(SECOND).await;
            nomad.register(web(3));
        };
        let started = Instant::now();
        let answer = async {
            held(query).await;
            started.elapsed().as_secs()
        };
        let (woken, ()) = tokio::join!(answer, changes);
        assert_eq!(woken, wakes_at, "{target}");
        let keys = [api.key(), api.clone().namespace("shop").key(), web(3).key()];
        nomad.deregister(&keys, Deletion::PlanResult);
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocking_query_returns_at_once_when_another_service_has_moved_the_index() {
    let nomad = nomad(Version::V2_0_5);
    let index = nomad.index();
    let before = get(&nomad, READ).await.body;
    nomad.register(ServiceRegistration::new("api", 3, 8081));
    let started = Instant::now();
    let answer = get(&nomad, &format!("{READ}?index={index}&wait=60s")).await;
    assert_eq!((answer.index(), answer.body), (index + 1, before));
    assert!(started.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_blocking_query_ends_with_its_wait_and_up_to_a_sixteenth_more() {
    let nomad = nomad(Version::V2_0_5);
    let index = nomad.index();
    for (parameters, wait) in [
        (format!("index={index}&wait=16s"), 16),
        // An index of the future, such as one of before a snapshot was restored.
        (format!("index={}&wait=16s", index + 100), 16),
        (format!("index={index}"), 300),
        (format!("index={index}&wait=600s"), 300),
    ] {
        let started = Instant::now();
        let answer = get(&nomad, &format!("{LIST}?{parameters}")).await;
        assert_eq!(answer.index(), index, "{parameters}");
        let waited = started.elapsed();
        let wait = Duration::from_secs(wait);
        assert!(waited >= wait && waited <= wait * 17 / 16, "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn rights_are_looked_at_before_a_query_is_held() {
    let nomad = nomad(Version::V2_0_5);
    nomad.issue("task", Token::Workload(Vec::new()));
    let header = "X-Nomad-Token: task\r\n";
    let target = format!("{READ}?index={}&wait=16s", nomad.index());
    let query = ask(&nomad, &target, header).await;
    sleep(SECOND).await;
    nomad.revoke("task");
    assert_eq!(held(query).await.status, 200, "it was let in");
    let next = ask(&nomad, &target, header).await;
    assert_eq!(held(next).await.status, 403);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_shuts_down_answers_held_queries_with_nothing_but_not_those_of_the_task_api()
{
    let nomad = nomad(Version::V2_0_5);
    nomad.issue("task", Token::Workload(vec!["default".into()]));
    let header = "X-Nomad-Token: task\r\n";
    let target = format!("{READ}?index={}&wait=60s", nomad.index());
    let mut held = ask(&nomad, &target, header).await;
    let mut held_by_task = ask_via(&nomad, Via::TaskApi, &target, header).await;
    let mut stream = ask(&nomad, STREAM, header).await;
    sleep(SECOND).await;
    let (answer, ()) = tokio::join!(reply(&mut held), nomad.shut_down());
    answer.assert_is(include_str!(
        "fixtures/nomad-2.0.5/http/client-agent-shutdown-false-empty.http"
    ));
    assert_eq!(
        said_within(&mut held_by_task, SECOND).await,
        (String::new(), true)
    );
    assert!(said_within(&mut stream, SECOND).await.1, "its end is told");
    assert!(dial(&nomad, Via::Agent).await.is_err());
    assert!(dial(&nomad, Via::TaskApi).await.is_err());
    nomad.resume().await;
    assert_eq!(nomad.rows().len(), 2);
    let mut again = ask(&nomad, READ, header).await;
    assert_eq!(reply(&mut again).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_agent_without_its_server_fails_and_its_stream_ends_late() {
    for (version, end, after) in [
        (Version::V1_10_5, "3\r\nEOF\r\n0\r\n\r\n", 0),
        (Version::V2_0_5, "}\n", 5),
    ] {
        let nomad = nomad(version);
        nomad.issue("task", Token::Workload(vec!["default".into()]));
        let header = "X-Nomad-Token: task\r\n";
        let index = nomad.index();
        let mut held = ask(&nomad, &format!("{LIST}?index={index}"), header).await;
        let mut stream = ask(&nomad, STREAM, header).await;
        sleep(SECOND).await;
        let started = Instant::now();
        let watching = async {
            reply(&mut held).await.assert_is(include_str!(
                "fixtures/nomad-2.0.5/http/server-away-500-2.http"
            ));
            let (said, ended) = said_within(&mut stream, SECOND * 20).await;
            assert!(ended && said.ends_with(end), "{version:?}: {said}");
            started.elapsed().as_secs()
        };
        let (ended_after, ()) = tokio::join!(watching, nomad.lose_server());
        assert_eq!(ended_after, after, "{version:?}");
        let mut task = ask_via(&nomad, Via::TaskApi, LIST, header).await;
        reply(&mut task).await.assert_is(include_str!(
            "fixtures/nomad-2.0.5/http/server-away-500-1.http"
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_frozen_goes_on_where_it_was() {
    let nomad = nomad(Version::V2_0_5);
    let index = nomad.index();
    nomad.freeze();
    let mut list = ask(&nomad, LIST, "").await;
    let mut stream = ask(&nomad, STREAM, "").await;
    assert_eq!(
        said_within(&mut list, SECOND * 100).await,
        (String::new(), false)
    );
    nomad.thaw();
    assert_eq!(reply(&mut list).await.index(), index);
    let (said, ended) = said_within(&mut stream, SECOND).await;
    assert!(said.contains("\r\n\r\n{}\n") && !ended, "{said}");
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_loses_the_next_event_and_keeps_its_heartbeats_until_then() {
    for (version, end, closes) in [
        (
            Version::V1_10_5,
            "11\r\nACL token expired\r\n0\r\n\r\n",
            true,
        ),
        (Version::V2_0_5, "{}\n{}\n", false),
    ] {
        let nomad = FakeNomad::in_memory(version);
        nomad.issue("task", Token::Workload(vec!["default".into()]));
        let mut stream = ask(&nomad, STREAM, "X-Nomad-Token: task\r\n").await;
        sleep(SECOND).await;
        nomad.expire("task");
        let (said, ended) = said_within(&mut stream, SECOND * 31).await;
        assert!(!ended);
        assert_eq!(said.matches("{}").count(), 2, "{version:?}: {said}");
        nomad.register(web(1));
        let (more, ended) = said_within(&mut stream, SECOND * 100).await;
        assert!(
            format!("{said}{more}").ends_with(end),
            "{version:?}: {more}"
        );
        assert_eq!(ended, closes, "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_returns_registers_what_it_lost_and_takes_it_away() {
    let nomad = nomad(Version::V2_0_5);
    nomad.deregister(&[web(1).key(), web(2).key()], Deletion::PlanResult);
    let index = nomad.index();
    let stream = format!("{STREAM}&index={}", index + 1);
    let mut stream = ask(&nomad, &stream, "").await;
    said_within(&mut stream, SECOND).await;
    let seen = async {
        sleep(Duration::from_millis(10)).await;
        let rows = nomad.rows();
        rows.into_values()
            .map(|row| row.create_index)
            .collect::<Vec<_>>()
    };
    let haunting = nomad.haunt(vec![web(1), web(2)], Duration::from_millis(20));
    let (created, ()) = tokio::join!(seen, haunting);
    assert_eq!(created, [index + 1, index + 2], "the same IDs, new indexes");
    assert!(nomad.rows().is_empty());
    let (said, _) = said_within(&mut stream, SECOND).await;
    let types = said.matches("\"Type\":\"Service").count();
    assert_eq!((types, said.lines().count()), (4, 4), "{said}");
}

#[tokio::test(start_paused = true)]
async fn denials_and_a_missing_broker_are_told_as_the_version_tells_them() {
    for (version, token, broker, text) in [
        (Version::V1_9_5, "", true, "403 Forbidden"),
        (Version::V1_9_5, "task", true, "500 Internal Server Error"),
        (Version::V1_10_5, "task", true, "403 Forbidden"),
        (Version::V1_10_5, "all", false, "EventBroker not configured"),
        (Version::V2_0_5, "task", true, "200 OK"),
        (Version::V2_0_5, "all", false, "200 OK"),
    ] {
        let nomad = nomad(version);
        nomad.issue("task", Token::Workload(Vec::new()));
        nomad.issue("all", Token::Management);
        nomad.switch_broker(broker);
        let header = format!("X-Nomad-Token: {token}\r\n");
        let (said, ended) = said_within(&mut ask(&nomad, STREAM, &header).await, SECOND).await;
        assert!(said.contains(text), "{version:?} {token}: {said}");
        assert!(!said.contains("{}"), "{version:?} {token}: {said}");
        assert!(!ended, "{version:?} {token}: the connection stays open");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_can_be_cut_short_stall_or_be_without_end() {
    let nomad = nomad(Version::V2_0_5);
    let whole = get(&nomad, LIST).await;
    let length = whole.head.len() + whole.body.len();
    for (mode, ends) in [(Mode::CutShort, true), (Mode::Stall, false)] {
        nomad.mode(Which::Lists, mode);
        let (said, ended) = said_within(&mut ask(&nomad, LIST, "").await, SECOND * 60).await;
        assert_eq!((said.len(), ended), (length - 1, ends), "{mode:?}");
    }
    for (mode, head) in [
        (Mode::Huge, "Content-Length: 2147483648"),
        (Mode::Endless, "Transfer-Encoding: chunked"),
    ] {
        nomad.mode(Which::Lists, mode);
        let mut socket = ask(&nomad, LIST, "").await;
        let mut said = vec![0; 1 << 20];
        socket.read_exact(&mut said).await.unwrap();
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(head), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_who_asks_an_agent_for_gzip_gets_it() {
    let nomad = nomad(Version::V2_0_5);
    nomad.issue("task", Token::Workload(Vec::new()));
    let plain = "X-Nomad-Token: task\r\n";
    let header = "X-Nomad-Token: task\r\nAccept-Encoding: gzip\r\n";
    for (via, headers, compressed) in [
        (Via::Agent, header, true),
        (Via::Agent, plain, false),
        (Via::TaskApi, header, false),
    ] {
        let mut socket = ask_via(&nomad, via, READ, headers).await;
        let mut said = vec![0; 4096];
        let length = socket.read(&mut said).await.unwrap();
        said.truncate(length);
        let head = String::from_utf8_lossy(&said);
        assert_eq!(head.contains("Content-Encoding: gzip"), compressed);
        let magic = said.windows(6).any(|bytes| bytes == b"\r\n\r\n\x1f\x8b");
        assert_eq!(magic, compressed, "{via:?}: {head}");
        assert!(
            head.contains("\"ServiceName\":\"web\""),
            "stored blocks: {head}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_in_the_source_looks_like_what_was_recorded() {
    let nomad = nomad(Version::V2_0_5);
    let recorded = include_str!("fixtures/nomad-2.0.5/http/server-away-500-2.http");
    let (recorded, _) = recorded.split_once("Content-Length").unwrap();
    for (answer, text) in [
        (Recorded::NoServers, "no servers"),
        (Recorded::NoLeader, "No cluster leader"),
    ] {
        nomad.mode(Which::Every, Mode::Answer(answer));
        let reply = get(&nomad, LIST).await;
        assert_eq!(reply.body, text);
        let (head, _) = reply.head.split_once("Content-Length").unwrap();
        assert_eq!(undated(head), undated(recorded));
    }
}
