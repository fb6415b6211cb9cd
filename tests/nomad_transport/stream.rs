//! The event stream in its framings, and all its ends.

use std::sync::Arc;

use haproxy_nomad_sidecar::nomad::{
    client::Client,
    route::Failed,
    stream::{EventStream, StreamError},
};
use tokio::time::Instant;

use crate::script::{Reply, Script, ScriptDial, TlsScriptDial, recorded, route, settings, stream};

async fn open(reply: Reply) -> Result<EventStream, StreamError> {
    let script = Arc::new(Script::new(move |_| reply.clone()));
    let client = Client::on(route(settings(), ScriptDial(script)));
    let opened = client.open_stream("default").await;
    opened.map_err(Failed::into_last)
}

/// The indexes of the lines, and how the stream ended.
async fn read_to_end(mut stream: EventStream) -> (Vec<u64>, StreamError) {
    let mut indexes = Vec::new();
    loop {
        match stream.next().await {
            Ok(line) => indexes.push(line.index),
            Err(error) => return (indexes, error),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_asks_for_services_from_the_oldest_event_on() {
    let script = Script::always(recorded("2.0.5/http/stream-opened.http"));
    let client = Client::on(route(settings(), ScriptDial(Arc::clone(&script))));
    client.open_stream("*").await.unwrap();
    assert_eq!(
        script.count("GET /v1/event/stream?topic=Service&namespace=%2A&index=0 HTTP/1.1"),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn both_framings_are_read() {
    let chunked = open(Reply::Silence(recorded(
        "1.10.5/http/stream-heartbeats.http",
    )))
    .await
    .unwrap();
    let (indexes, error) = read_to_end(chunked).await;
    assert_eq!(indexes[..3], [0, 21, 0]);
    assert!(matches!(error, StreamError::Dead), "{error:?}");

    let lines = recorded("2.0.5/streams/rolling-count1.ndjson");
    let lines = String::from_utf8(lines).unwrap();
    let hijacked = open(Reply::End(stream(&lines))).await.unwrap();
    let (indexes, error) = read_to_end(hijacked).await;
    assert_eq!(indexes, [0, 15, 27, 29, 38]);
    assert_eq!(error.to_string(), "the event stream ended");
}

#[tokio::test(start_paused = true)]
async fn a_denial_is_known_by_its_status_or_its_silence() {
    let table = [
        (
            Reply::Bytes(recorded("1.10.5/http/stream-denied.http")),
            "denied (403: Permission denied)",
            0,
        ),
        (
            Reply::Silence(recorded("2.0.5/http/stream-denied.http")),
            "the event stream stayed silent for 5 s: denied, or the event broker is disabled",
            5,
        ),
        (
            Reply::End(recorded("2.0.5/http/stream-denied.http")),
            "the event stream ended without a line: denied, or the event broker is disabled",
            0,
        ),
        (
            Reply::Silence(recorded("1.11.2/http/stream-opened.http")),
            "the head of the event stream is no HTTP/1 (Nomad 1.11.2, 1.10.8+ent and 1.8.20+ent send HTTP/0.0; fixed in the next release)",
            0,
        ),
        (Reply::Silence(Vec::new()), "no answer within 15 s", 15),
    ];
    for (reply, text, seconds) in table {
        let started = Instant::now();
        let Err(error) = open(reply).await else {
            panic!("opened, but expected: {text}");
        };
        assert_eq!(error.to_string(), text);
        assert_eq!(started.elapsed().as_secs(), seconds, "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_that_never_ends_is_silence() {
    let start = stream("{}\n{\"Index\":");
    let mut opened = open(Reply::Trickle(start, b' ')).await.unwrap();
    opened.next().await.unwrap();
    let started = Instant::now();
    let error = opened.next().await.unwrap_err();
    assert_eq!(error.to_string(), "the event stream was silent for 40 s");
    assert_eq!(started.elapsed().as_secs(), 40);

    let Err(error) = open(Reply::Trickle(stream("{"), b' ')).await else {
        panic!("it has no first line");
    };
    assert!(matches!(error, StreamError::Silent), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_denial_over_tls_that_just_ends_is_one() {
    let head = recorded("2.0.5/http/stream-denied.http");
    let script = Arc::new(Script::new(move |_| Reply::End(head.clone())));
    let client = Client::on(route(settings(), TlsScriptDial(script)));
    let result = client
        .open_stream("default")
        .await
        .map_err(Failed::into_last);
    assert!(matches!(result, Err(StreamError::Empty)));
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_with_its_reason() {
    let long = format!("{{}}\n{{\"Index\":\"{}\"}}\n{{}}\n", "x".repeat(1 << 24));
    let table = [
        (
            Reply::Silence(recorded("1.10.5/http/stream-end-token-deleted.http")),
            "the event stream ended: subscription closed by server, client should resubscribe",
        ),
        (
            Reply::Silence(stream(&long)),
            "a line of the event stream is longer than 4 MiB, or would take more than 16 MiB of memory: it is passed over, and everything is read again",
        ),
        (
            Reply::End(stream("{}\n{\"Index\":12,\"Ev")),
            "the event stream ended within a line",
        ),
        (
            Reply::Silence(stream("{}\n")),
            "the event stream was silent for 40 s",
        ),
    ];
    for (reply, text) in table {
        let (indexes, error) = read_to_end(open(reply).await.unwrap()).await;
        assert_eq!(
            (indexes.as_slice(), error.to_string().as_str()),
            (&[0][..], text)
        );
    }
}
