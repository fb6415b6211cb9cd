//! How the fake Nomad misbehaves when a test tells it to, read by plain sockets.

#[expect(dead_code, reason = "each test program uses a part of the support")]
mod support;

use std::time::Duration;

use support::{
    fake_nomad::{
        Deletion, FakeNomad, Key, Kind, Mode, Recorded, ServiceRegistration, Version, Which,
    },
    raw_http::{EventStream, Said, get, reply, request},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Long enough to see that nothing comes.
const A_WHILE: Duration = Duration::from_millis(200);
const SOON: Duration = Duration::from_secs(10);

macro_rules! recording {
    ($path:literal) => {
        include_str!(concat!("fixtures/nomad-", $path))
    };
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
    list.assert_is(recording!(
        "1.10.5/http/list-first-after-server-restart.http"
    ));
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
            Said::End("subscription closed by server, client should resubscribe".into()),
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
    list.assert_is(recording!(
        "2.0.5/http/client-agent-shutdown-false-empty.http"
    ));
    nomad.mode(
        Which::Service("web".into()),
        Mode::Answer(Recorded::ConnectionRefused),
    );
    let read = get(addr, "/v1/service/w%65b").await;
    read.assert_is(recording!("2.0.5/http/server-away-500-2.http"));
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
