//! The event stream: its frame, its order, where it begins.

use haproxy_nomad_sidecar::{catalog::Line, model::NomadEvent, nomad::stream::EventStream};
use tokio::time::{sleep, timeout};

use crate::{
    A_WHILE, key,
    support::{
        any_nomad::{Nomad, SCHEDULED},
        raw_http::Said,
    },
};

pub(crate) async fn keep(nomad: &Nomad) {
    a_stream_is_framed_as_its_version_does_it(nomad).await;
    an_event_has_the_index_of_the_row_and_is_readable(nomad).await;
    a_changed_tag_keeps_the_id(nomad).await;
    the_same_again_says_nothing(nomad).await;
    a_deletion_tells_the_last_state(nomad).await;
    a_stop_tells_every_deletion(nomad).await;
    a_stream_begins_with_what_is_buffered(nomad).await;
    an_index_beyond_the_tail_tells_the_tail_again(nomad).await;
    an_unknown_namespace_has_a_stream(nomad).await;
    a_namespace_made_later_is_not_on_an_open_stream(nomad).await;
}

async fn a_stream_is_framed_as_its_version_does_it(nomad: &Nomad) {
    let mut stream = nomad.raw_stream(0).await;
    let (framing, connection) = if nomad.ends_streams_by_silence() {
        (None, Some("close"))
    } else {
        (Some("chunked"), None)
    };
    assert!(stream.head.starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(stream.header("Transfer-Encoding"), framing);
    assert_eq!(stream.header("Connection"), connection);
    assert_eq!(stream.header("Content-Type"), Some("application/json"));
    assert_eq!(stream.header("Content-Length"), None);
    assert_eq!(stream.line().await, "{}", "at once");
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
        Said::Nothing => assert!(nomad.is_real()),
        Said::End(rest) => panic!("it ended: {rest}"),
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
