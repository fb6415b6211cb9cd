//! What a mirroring client relies on, each clause a function over any Nomad: the fake always, and a real agent where
//! `nomad` is on PATH. Asked through the product's own client wherever it has the call.

#[expect(dead_code, reason = "each test program uses a part of the support")]
mod support;

use std::{collections::BTreeSet, time::Duration};

use haproxy_nomad_sidecar::{
    catalog::Line,
    model::{NomadEvent, ServiceKey},
    nomad::{
        client::{Doubt, Error},
        route::Failed,
        stream::{EventStream, StreamError},
    },
};
use support::{
    any_nomad::{Nomad, SCHEDULED},
    fake_nomad::{FakeNomad, Token, Version},
    raw_http::Said,
    real_nomad::RealNomad,
};
use tokio::time::{Instant, sleep, timeout};

/// Long enough to see that nothing comes.
const A_WHILE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    for version in [Version::V2_0_5, Version::V1_10_5] {
        let fake = FakeNomad::start_as(version, Duration::from_secs(30)).await;
        keeps_the_contract(&Nomad::Fake(fake)).await;
    }
}

#[tokio::test]
async fn a_real_agent_keeps_the_contract() {
    if let Some(nomad) = RealNomad::start(false).await {
        keeps_the_contract(&Nomad::Real(nomad)).await;
    }
}

#[tokio::test]
async fn the_fake_grants_what_the_contract_says() {
    for version in [Version::V2_0_5, Version::V1_10_5] {
        let fake = FakeNomad::start_as(version, Duration::from_secs(30)).await;
        fake.issue("management", Token::Management);
        grants_what_the_contract_says(&Nomad::Fake(fake)).await;
    }
}

#[tokio::test]
async fn a_real_agent_grants_what_the_contract_says() {
    if let Some(nomad) = RealNomad::start(true).await {
        grants_what_the_contract_says(&Nomad::Real(nomad)).await;
    }
}

async fn keeps_the_contract(nomad: &Nomad) {
    an_empty_catalog_has_an_index_and_a_leader(nomad).await;
    what_is_registered_is_listed_and_read(nomad).await;
    an_unknown_name_is_an_empty_answer_with_an_index(nomad).await;
    a_read_of_every_namespace_finds_nothing(nomad).await;
    names_are_decoded(nomad).await;
    an_event_has_the_index_of_the_row_and_is_readable(nomad).await;
    a_changed_tag_keeps_the_id(nomad).await;
    the_same_again_says_nothing(nomad).await;
    a_deletion_tells_the_last_state(nomad).await;
    a_stop_tells_every_deletion(nomad).await;
    a_stream_begins_with_what_is_buffered(nomad).await;
    an_index_beyond_the_tail_tells_the_tail_again(nomad).await;
    a_blocking_query_is_held_until_the_change(nomad).await;
    a_blocking_query_ends_with_its_wait(nomad).await;
    nonsense_is_refused(nomad).await;
    an_unknown_namespace_has_a_stream(nomad).await;
    a_namespace_made_later_is_not_on_an_open_stream(nomad).await;
}

// === clauses ===

async fn an_empty_catalog_has_an_index_and_a_leader(nomad: &Nomad) {
    let list = nomad.list("default").await;
    assert!(list.index >= 1);
    assert_eq!(list.value, []);
    let list = nomad.get("/v1/services").await;
    assert_eq!(list.body, "[]");
    assert_eq!(list.header("x-nomad-knownleader"), Some("true"));
}

async fn what_is_registered_is_listed_and_read(nomad: &Nomad) {
    let rows = nomad.run("listed", &["b", "a"], 2).await;
    let list = nomad.list("*").await;
    let listed = list
        .value
        .into_iter()
        .find(|service| service.key == key("listed"))
        .expect("it is listed");
    assert_eq!(
        BTreeSet::from_iter(listed.tags),
        BTreeSet::from(["a".into(), "b".into()])
    );
    for row in &rows {
        assert!(!row.address.is_empty() && row.port > 0, "{row:?}");
        assert_eq!(row.tags, ["b", "a"]);
        assert!((1..=list.index).contains(&row.create_index), "{row:?}");
        assert_eq!(row.create_index, row.modify_index);
        assert!(row.id.contains(&*row.alloc_id), "{row:?}");
    }
    assert!(rows[0].id < rows[1].id, "in the order of the IDs");
}

async fn an_unknown_name_is_an_empty_answer_with_an_index(nomad: &Nomad) {
    let read = nomad.read(&key("nobody")).await;
    assert_eq!(read.value, []);
    assert_eq!(read.index, nomad.list("default").await.index);
}

async fn a_read_of_every_namespace_finds_nothing(nomad: &Nomad) {
    let read = nomad.read(&ServiceKey::new("*", "listed")).await;
    assert_eq!(read.value, []);
}

async fn names_are_decoded(nomad: &Nomad) {
    let plain = nomad.get("/v1/service/listed?namespace=default").await;
    let encoded = nomad.get("/v1/service/l%69sted?namespace=d%65fault").await;
    assert_eq!(encoded.body, plain.body);
    assert_ne!(plain.body, "[]");
}

async fn an_event_has_the_index_of_the_row_and_is_readable(nomad: &Nomad) {
    let mut stream = nomad.stream("default").await;
    let rows = nomad.run("told", &["v1"], 1).await;
    let (line, told) = next_about(&mut stream, "told").await;
    assert_eq!(told, NomadEvent::Registered(rows[0].clone()));
    assert_eq!(line.index, rows[0].modify_index);
}

async fn a_changed_tag_keeps_the_id(nomad: &Nomad) {
    let before = nomad.run("retagged", &["v1"], 1).await.remove(0);
    let mut stream = nomad.stream("default").await;
    next_about(&mut stream, "retagged").await;
    let after = nomad.run("retagged", &["v2"], 1).await.remove(0);
    let (line, told) = next_about(&mut stream, "retagged").await;
    assert_eq!(told, NomadEvent::Registered(after.clone()));
    assert_eq!(line.index, after.modify_index);
    assert_eq!(
        (&after.id, after.create_index),
        (&before.id, before.create_index)
    );
    assert!(after.modify_index > before.modify_index);
}

async fn the_same_again_says_nothing(nomad: &Nomad) {
    let before = nomad.run("same", &["v1"], 1).await;
    let index = nomad.list("default").await.index;
    let after = nomad.run("same", &["v1"], 1).await;
    sleep(A_WHILE).await;
    assert_eq!(after, before);
    assert_eq!(nomad.list("default").await.index, index);
}

async fn a_deletion_tells_the_last_state(nomad: &Nomad) {
    let rows = nomad.run("deleted", &["v1"], 2).await;
    let mut stream = nomad.stream("default").await;
    next_about(&mut stream, "deleted").await;
    next_about(&mut stream, "deleted").await;
    let target = format!("/v1/service/deleted/{}", rows[0].id);
    assert_eq!(nomad.ask("DELETE", &target).await.status, 200);

    let (line, told) = next_about(&mut stream, "deleted").await;
    assert_eq!(
        told,
        NomadEvent::Deregistered(rows[0].clone()),
        "as it was, its own indexes too"
    );
    assert!(line.index > rows[1].modify_index);
    let read = nomad.read(&key("deleted")).await;
    assert_eq!(read.value, rows[1..]);
    assert_eq!(read.index, line.index);
    let again = nomad.ask("DELETE", &target).await;
    assert_eq!(
        (again.status, again.body.as_str()),
        (500, "service registration not found")
    );
}

async fn a_stop_tells_every_deletion(nomad: &Nomad) {
    let rows = nomad.run("stopped", &["v1"], 2).await;
    let mut stream = nomad.stream("default").await;
    next_about(&mut stream, "stopped").await;
    next_about(&mut stream, "stopped").await;
    nomad.stop("stopped").await;
    let mut told = Vec::new();
    while told.len() < 2 {
        match next_about(&mut stream, "stopped").await.1 {
            NomadEvent::Deregistered(row) => told.push(row),
            NomadEvent::Registered(row) => panic!("{row:?}"),
        }
    }
    told.sort_by(|one, other| one.id.cmp(&other.id));
    assert_eq!(told, rows);
    assert_eq!(nomad.read(&key("stopped")).await.value, []);
}

async fn a_stream_begins_with_what_is_buffered(nomad: &Nomad) {
    let row = nomad.run("buffered", &["v1"], 1).await.remove(0);
    let mut stream = nomad.stream("default").await;
    let (_, told) = next_about(&mut stream, "buffered").await;
    assert_eq!(told, NomadEvent::Registered(row.clone()));
    let mut stream = nomad.raw_stream(row.modify_index).await;
    assert_eq!(stream.line().await, "{}");
    assert_eq!(stream.batch().await["Index"], row.modify_index, "inclusive");
}

async fn an_index_beyond_the_tail_tells_the_tail_again(nomad: &Nomad) {
    let rows = nomad.run("tail", &["v1"], 1).await;
    let target = format!("/v1/service/tail/{}", rows[0].id);
    assert_eq!(nomad.ask("DELETE", &target).await.status, 200);
    let last = nomad.list("default").await.index;
    let mut stream = nomad.raw_stream(last + 1000).await;
    assert_eq!(stream.line().await, "{}");
    match stream.next(A_WHILE).await {
        Said::Line(line) => assert!(line.ends_with(&format!("\"Index\":{last}}}")), "{line}"),
        // A real agent has published something else meanwhile.
        Said::Nothing => assert!(matches!(nomad, Nomad::Real(_))),
        Said::End(rest) => panic!("it ended: {rest}"),
    }
}

async fn a_blocking_query_is_held_until_the_change(nomad: &Nomad) {
    let rows = nomad.run("held", &["v1"], 2).await;
    let index = nomad.list("default").await.index;
    let target = format!("/v1/service/held?index={index}&wait=60s");
    let change = async {
        sleep(A_WHILE).await;
        let target = format!("/v1/service/held/{}", rows[0].id);
        assert_eq!(nomad.ask("DELETE", &target).await.status, 200);
    };
    let began = Instant::now();
    let held = async { (nomad.get(&target).await, began.elapsed()) };
    let ((held, took), ()) = tokio::join!(held, change);
    assert!(took >= A_WHILE, "{took:?}");
    assert!(held.index() > index);
    assert_eq!(held.json().as_array().expect("a list").len(), 1);
    let target = format!("/v1/service/listed?index={index}&wait=60s");
    let moved = timeout(Duration::from_secs(5), nomad.get(&target)).await;
    assert_eq!(
        moved.expect("it comes at once").index(),
        held.index(),
        "the index has moved: no reason to wait"
    );
}

async fn a_blocking_query_ends_with_its_wait(nomad: &Nomad) {
    let index = nomad.list("default").await.index;
    for ahead in [0, 1000] {
        let began = Instant::now();
        let target = format!("/v1/services?namespace=*&wait=1s&index={}", index + ahead);
        assert_eq!(nomad.get(&target).await.index(), index);
        assert!(began.elapsed() >= Duration::from_secs(1));
    }
}

async fn nonsense_is_refused(nomad: &Nomad) {
    for (method, target, status, body) in [
        ("GET", "/v1/services?index=x", 400, "Invalid index"),
        (
            "GET",
            "/v1/services?index=1&wait=x",
            400,
            "Invalid wait time",
        ),
        ("PUT", "/v1/services", 405, "Invalid method"),
        ("GET", "/v1/service/a%2Fb", 405, "Invalid method"),
        ("GET", "/v1/service/", 400, "missing service name"),
        ("GET", "/v1/nothing", 404, ""),
    ] {
        let reply = nomad.ask(method, target).await;
        assert_eq!(
            (reply.status, reply.body.as_str()),
            (status, body),
            "{method} {target}"
        );
    }
}

async fn an_unknown_namespace_has_a_stream(nomad: &Nomad) {
    let mut stream = nomad.stream("nowhere").await;
    assert_eq!(
        stream.next().await.expect("the stream is open"),
        Line::default()
    );
    assert!(timeout(A_WHILE, stream.next()).await.is_err());
}

async fn a_namespace_made_later_is_not_on_an_open_stream(nomad: &Nomad) {
    let mut old = nomad.stream("*").await;
    nomad.create_namespace("later").await;
    let mut new = nomad.stream("*").await;
    nomad.run_in("later", "unheard", &[], 1).await;
    nomad.run("heard", &[], 1).await;
    next_about(&mut new, "unheard").await;
    loop {
        let line = old.next().await.expect("the stream is open");
        let names: Vec<&str> = line.events.iter().map(name_of).collect();
        assert!(!names.contains(&"unheard"));
        if names.contains(&"heard") {
            return;
        }
    }
}

async fn grants_what_the_contract_says(nomad: &Nomad) {
    nomad.create_namespace("other").await;
    nomad.run("web", &["v1"], 1).await;
    nomad.run_in("other", "web", &["v1"], 1).await;
    let nothing = nomad.issue("nothing", &[]).await;
    let one = nomad.issue("one", &["default"]).await;
    let all = nomad.issue("all", &["*"]).await;
    let unknown = "11111111-2222-3333-4444-555555555555";

    for token in ["", &nothing] {
        let mut client = nomad.client_as(token);
        let everywhere = client.list("*", None).await;
        assert!(
            matches!(
                everywhere.as_ref().map_err(Failed::last),
                Err(Error::NotBelievable(Doubt::IndexZero))
            ),
            "no right is an empty list: {everywhere:?}"
        );
    }
    for token in ["", unknown, &nothing] {
        let mut client = nomad.client_as(token);
        assert_denied(client.list("default", None).await.map(drop));
        assert_denied(client.read(&key("web"), None).await.map(drop));
    }
    assert_denied(nomad.client_as(unknown).list("*", None).await.map(drop));

    let mut client = nomad.client_as(&one);
    assert_eq!(
        client
            .list("default", None)
            .await
            .expect("it may")
            .value
            .len(),
        1
    );
    assert_eq!(
        client.list("*", None).await.expect("it may").value.len(),
        1,
        "only what it may see"
    );
    assert_denied(client.list("other", None).await.map(drop));
    assert_denied(
        client
            .read(&ServiceKey::new("other", "web"), None)
            .await
            .map(drop),
    );
    assert!(client.open_stream("default").await.is_ok());

    let mut client = nomad.client_as(&all);
    assert_eq!(client.list("*", None).await.expect("it may").value.len(), 2);
    assert!(client.open_stream("*").await.is_ok());
    assert_eq!(
        client.list("unknown", None).await.expect("it may").value,
        []
    );

    // All at once: a denial by silence takes its time.
    let clients = ["", unknown, &nothing, &one].map(|token| nomad.client_as(token));
    let [nobody, stranger, powerless, one] = &clients;
    let (nobody, stranger, powerless, everywhere) = tokio::join!(
        nobody.open_stream("default"),
        stranger.open_stream("default"),
        powerless.open_stream("default"),
        one.open_stream("*"),
    );
    assert_stream_denied(nobody);
    assert_stream_denied(stranger);
    assert_stream_denied(powerless);
    assert_stream_denied(everywhere);
}

fn assert_denied(result: Result<(), Failed<Error>>) {
    match result.map_err(Failed::into_last) {
        Err(Error::Denied { status: 403, body }) => assert_eq!(body, "Permission denied"),
        Err(error) => panic!("{error:?}"),
        Ok(()) => panic!("it was allowed"),
    }
}

/// Up to 1.11.1 by a 403, later by silence.
fn assert_stream_denied(result: Result<EventStream, Failed<StreamError>>) {
    match result.map_err(Failed::into_last) {
        Err(StreamError::Silent | StreamError::Empty) => {}
        Err(StreamError::Refused(Error::Denied { status: 403, body })) => {
            assert_eq!(body, "Permission denied");
        }
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it was allowed"),
    }
}

fn key(service: &str) -> ServiceKey {
    ServiceKey::new("default", service)
}

fn name_of(event: &NomadEvent) -> &str {
    &event.registration().service.name
}

/// The next event about a service. What a single line says of it is one event here.
async fn next_about(stream: &mut EventStream, service: &str) -> (Line, NomadEvent) {
    let wait = async {
        loop {
            let line = stream.next().await.expect("the stream is open");
            let event = line
                .events
                .iter()
                .find(|event| name_of(event) == service)
                .cloned();
            if let Some(event) = event {
                return (line, event);
            }
        }
    };
    let event = timeout(SCHEDULED, wait).await;
    event.unwrap_or_else(|_| panic!("no event about {service}"))
}
