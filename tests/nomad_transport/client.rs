//! Lists and reads: what is sent, what is believed, and what each recorded refusal is taken for.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use haproxy_nomad_sidecar::{
    catalog::FailureKind,
    model::{Allocation, AllocationId, ServiceKey},
    nomad::{
        client::{Client, Error},
        settings::{Settings, TokenSource},
        traffic::{Kind, Outcome},
    },
    redacted::Redacted,
};

use crate::script::{Reply, Script, ScriptDial, json, recorded, route, settings, stream};

fn client(settings: Settings, script: &Arc<Script>) -> Client {
    Client::on(route(settings, ScriptDial(Arc::clone(script))))
}

#[tokio::test(start_paused = true)]
async fn a_recorded_list_and_read_are_understood() {
    let script = Script::always(recorded("2.0.5/http/list-two-namespaces.http"));
    let list = client(settings(), &script).list("*", None).await.unwrap();
    assert_eq!(list.index, 510);
    let keys: Vec<String> = list
        .value
        .iter()
        .map(|service| service.key.to_string())
        .collect();
    assert_eq!(keys, ["default/web", "late/web"]);

    let script = Script::always(recorded("2.0.5/http/service.http"));
    let key = ServiceKey::new("default", "sidecar");
    let read = client(settings(), &script).read(&key, None).await.unwrap();
    assert_eq!(read.index, 17);
    let [one] = read.value.as_slice() else {
        panic!("{read:?}");
    };
    assert_eq!(
        (&*one.address, one.port, one.create_index),
        ("127.0.0.1", 30501, 17)
    );
    assert_eq!(one.tags, ["v1"]);

    let script = Script::always(recorded("2.0.5/http/service-tags-null.http"));
    let read = client(settings(), &script).read(&key, None).await.unwrap();
    assert!(read.value[0].tags.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_says_who_asks_and_never_asks_for_stale_or_compressed_answers() {
    let script = Script::always(json(7, "[]"));
    let mut settings = settings();
    settings.token = TokenSource::Value(Redacted::new("s3cr3t".to_owned()));
    settings.region = Some("eu west".to_owned());
    settings.http_auth = Some(Redacted::new("user:pass".to_owned()));
    let mut client = client(settings, &script);
    client.list("*", None).await.unwrap();
    client
        .read(&ServiceKey::new("a&b", "sp ace?"), None)
        .await
        .unwrap();
    let seen = script.seen.lock().unwrap().clone();
    assert_eq!(
        seen,
        [
            "dial",
            "GET /v1/services?namespace=%2A&region=eu%20west HTTP/1.1\r\nhost: 127.0.0.1:4646\r\n\
             user-agent: haproxy-nomad-sidecar\r\nx-nomad-token: s3cr3t\r\nauthorization: Basic dXNlcjpwYXNz\r\n\r\n",
            "GET /v1/service/sp%20ace%3F?namespace=a%26b&region=eu%20west HTTP/1.1\r\nhost: 127.0.0.1:4646\r\n\
             user-agent: haproxy-nomad-sidecar\r\nx-nomad-token: s3cr3t\r\nauthorization: Basic dXNlcjpwYXNz\r\n\r\n",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_name_that_the_api_cannot_be_asked_for_is_not_asked_for() {
    let script = Script::always(recorded("2.0.5/http/service.http"));
    let mut client = client(settings(), &script);
    for name in ["a/b", "", ".", ".."] {
        let error = client
            .read(&ServiceKey::new("default", name), None)
            .await
            .unwrap_err()
            .into_last();
        assert_eq!(error.kind(), FailureKind::Unreadable);
    }
    assert!(script.seen.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_recorded_refusal_is_taken_for_what_it_is() {
    let table = [
        (
            "list-denied-403",
            FailureKind::Denied,
            "denied (403: Permission denied)",
        ),
        (
            "task-api-no-token-401",
            FailureKind::BadToken,
            "denied (401: Unauthorized)",
        ),
        (
            "task-api-unknown-token-403",
            FailureKind::Denied,
            "denied (403: Forbidden)",
        ),
        (
            "task-api-malformed-token-500",
            FailureKind::BadToken,
            "the token could not be authenticated (500: Server error authenticating request)",
        ),
        (
            "list-star-no-right-index-0",
            FailureKind::NotBelievable,
            "the answer cannot be believed",
        ),
        (
            "client-agent-shutdown-false-empty",
            FailureKind::NotBelievable,
            "the answer cannot be believed",
        ),
        (
            "too-many-connections-429",
            FailureKind::Limited,
            "too many connections or requests (429: Your IP is issuing too many concurrent connections, please rate limit your calls)",
        ),
    ];
    for (name, kind, text) in table {
        let script = Script::always(recorded(&format!("2.0.5/http/{name}.http")));
        let error = client(settings(), &script)
            .list("default", None)
            .await
            .unwrap_err()
            .into_last();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (kind, text),
            "{name}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_recorded_answer_of_an_allocation_is_taken_for_what_it_is() {
    let ended = |status: &str| Ok(Allocation::Ended(status.into()));
    let denied = Err((FailureKind::Denied, true));
    let nothing = Err((FailureKind::ServerError, false));
    for (name, expected) in [
        ("allocation-running", Ok(Allocation::Running)),
        ("task-api-allocation-running", Ok(Allocation::Running)),
        ("allocation-stopping", Ok(Allocation::Stopping)),
        ("allocation-complete", ended("complete")),
        ("allocation-failed", ended("failed")),
        ("allocation-lost", ended("lost")),
        // Its only task waits for its restart, or its client is away.
        ("allocation-restarting", Ok(Allocation::Unknown)),
        ("allocation-unknown", Ok(Allocation::Unknown)),
        // Collected as garbage, or never there.
        ("allocation-gone-404", nothing.clone()),
        ("task-api-allocation-gone-404", nothing.clone()),
        ("allocation-unknown-404", nothing.clone()),
        ("task-api-allocation-unknown-404", nothing.clone()),
        ("allocation-denied-unknown-404", nothing.clone()),
        ("allocation-no-uuid-500", nothing.clone()),
        ("allocation-server-away-500", nothing),
        ("allocation-denied-500", denied.clone()),
        ("allocation-denied-by-server-500", denied.clone()),
        ("allocation-no-token-500", denied.clone()),
        ("task-api-allocation-denied-500", denied.clone()),
        ("task-api-allocation-unknown-token-403", denied),
        (
            "task-api-allocation-no-token-401",
            Err((FailureKind::BadToken, true)),
        ),
        (
            "task-api-allocation-server-away-500",
            Err((FailureKind::BadToken, true)),
        ),
    ] {
        let script = Script::always(recorded(&format!("2.0.5/http/{name}.http")));
        let asked = AllocationId {
            namespace: "default".into(),
            id: "11111111-2222-3333-4444-555555555555".into(),
        };
        let answer = client(settings(), &script).allocation(&asked).await;
        let answer = answer.map(|answer| answer.value).map_err(|failed| {
            let error = failed.into_last();
            let of_token = matches!(error, Error::Denied { .. } | Error::BadToken { .. });
            (error.kind(), of_token)
        });
        assert_eq!(answer, expected, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_not_every_sign_of_success_is_not_believed() {
    let good = String::from_utf8(json(7, "[]")).unwrap();
    let table = [
        good.replace("X-Nomad-Index: 7\r\n", ""),
        good.replace("X-Nomad-Index: 7", "X-Nomad-Index: many"),
        good.replace("Knownleader: true", "Knownleader: false"),
        good.replace("X-Nomad-Knownleader: true\r\n", ""),
        good.replace("application/json", "text/html"),
        good.replace("[]", "{}"),
    ];
    for answer in table {
        let script = Script::always(answer.clone());
        let error = client(settings(), &script)
            .list("default", None)
            .await
            .unwrap_err()
            .into_last();
        assert_eq!(error.kind(), FailureKind::NotBelievable, "{answer}");
    }
    let script = Script::always(good);
    assert_eq!(
        client(settings(), &script)
            .list("default", None)
            .await
            .unwrap()
            .index,
        7
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_hangs_is_given_up_after_fifteen_seconds() {
    for bytes in [Vec::new(), json(7, "[]")[..60].to_vec()] {
        let script = Arc::new(Script::new(move |_| Reply::Silence(bytes.clone())));
        let started = tokio::time::Instant::now();
        let error = client(settings(), &script)
            .list("default", None)
            .await
            .unwrap_err()
            .into_last();
        assert_eq!(error.to_string(), "no answer within 15 s");
        assert_eq!(started.elapsed().as_secs(), 15);
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocking_query_says_after_which_index_and_has_a_deadline_of_its_own() {
    let script = Arc::new(Script::new(|_| Reply::Silence(Vec::new())));
    let mut client = client(settings(), &script);
    let key = ServiceKey::new("default", "web");
    let started = tokio::time::Instant::now();
    let error = client
        .list("default", Some(7))
        .await
        .unwrap_err()
        .into_last();
    assert_eq!(error.to_string(), "no answer within 78 s");
    assert_eq!(started.elapsed().as_millis(), 78_750);
    let error = client.read(&key, Some(8)).await.unwrap_err().into_last();
    assert_eq!(error.kind(), FailureKind::Timeout);
    assert_eq!(
        script.count("GET /v1/services?namespace=default&index=7&wait=60s "),
        1
    );
    assert_eq!(
        script.count("GET /v1/service/web?namespace=default&index=8&wait=60s "),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_too_many_is_told_from_a_broken_one() {
    let mut script = Script::new(|_| Reply::End(Vec::new()));
    script.greeting = Some(recorded("2.0.5/http/too-many-connections-429.http"));
    let error = client(settings(), &Arc::new(script))
        .list("default", None)
        .await
        .unwrap_err()
        .into_last();
    assert!(matches!(error, Error::Limited { .. }), "{error:?}");

    let script = Arc::new(Script::new(|_| Reply::End(Vec::new())));
    let error = client(settings(), &script)
        .list("default", None)
        .await
        .unwrap_err()
        .into_last();
    assert_eq!(error.to_string(), "the connection broke");
}

#[tokio::test(start_paused = true)]
async fn a_kept_connection_that_was_closed_is_replaced() {
    let list = recorded("2.0.5/http/list.http");
    let script = Arc::new(Script::new(move |_| Reply::End(list.clone())));
    let mut client = client(settings(), &script);
    for _ in 0..3 {
        client.list("default", None).await.unwrap();
    }
    assert_eq!(script.count("dial"), 3);
    assert_eq!(script.count("GET"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_token_file_is_read_again_when_its_token_is_refused() {
    for refusal in [
        "task-api-no-token-401",
        "task-api-unknown-token-403",
        "task-api-malformed-token-500",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nomad_token");
        fs::write(&path, "first").unwrap();
        let refused = Arc::new(AtomicBool::new(false));
        let refusing = Arc::clone(&refused);
        let script = Arc::new(Script::new(move |_| {
            let refuse = refusing.swap(false, Ordering::Relaxed);
            let name = if refuse { refusal } else { "list" };
            Reply::Bytes(recorded(&format!("2.0.5/http/{name}.http")))
        }));
        let mut settings = settings();
        settings.token = TokenSource::File(path.clone());
        let mut client = client(settings, &script);
        client.list("default", None).await.unwrap();
        fs::write(&path, "second\n").unwrap();
        refused.store(true, Ordering::Relaxed);
        client.list("default", None).await.unwrap();
        assert_eq!(script.count("x-nomad-token: first"), 2, "{refusal}");
        assert_eq!(script.count("x-nomad-token: second"), 1, "{refusal}");
        // The same token is not tried twice, and nothing is dialled for it.
        let dials = script.count("dial");
        refused.store(true, Ordering::Relaxed);
        let failed = client.list("default", None).await.unwrap_err();
        assert_ne!(failed.last().kind(), FailureKind::ServerError, "{refusal}");
        assert_eq!(script.count("x-nomad-token: second"), 2, "{refusal}");
        assert_eq!(script.count("dial"), dials, "{refusal}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_file_is_read_again_at_every_connection() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("nomad_token");
    let script = Arc::new(Script::new(|path| {
        if path.starts_with("/v1/event") {
            Reply::End(stream("{}\n"))
        } else {
            Reply::End(json(7, "[]"))
        }
    }));
    let mut settings = settings();
    settings.token = TokenSource::File(path.clone());
    let mut client = client(settings, &script);
    for token in ["first", "second"] {
        fs::write(&path, token).unwrap();
        client.list("default", None).await.unwrap();
        drop(client.open_stream("default").await.unwrap());
        assert_eq!(script.count(&format!("x-nomad-token: {token}")), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_or_a_head_without_end_is_refused() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let many = format!("{head}{}\r\n", "X: y\r\n".repeat(64));
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000)).into_bytes();
    let too_long = "the answer is longer than 8 MiB, or would take more than 16 MiB of memory, and is not read; what is known stays";
    let table = [
        (
            Reply::Silence(format!("{head}Content-Length: 2147483648\r\n\r\n[").into_bytes()),
            too_long,
        ),
        (
            Reply::Flood(
                format!("{head}Transfer-Encoding: chunked\r\n\r\n").into_bytes(),
                chunk,
            ),
            too_long,
        ),
        (
            Reply::Flood(format!("{head}X: ").into_bytes(), vec![b'x'; 1024]),
            "the answer is no HTTP/1",
        ),
        (Reply::Bytes(many.into_bytes()), "the answer is no HTTP/1"),
        (
            Reply::Bytes(b"HTTP/0.0 200 OK\r\n\r\n".to_vec()),
            "the answer is no HTTP/1",
        ),
    ];
    for (reply, text) in table {
        let script = Arc::new(Script::new(move |_| reply.clone()));
        let failed = client(settings(), &script).list("default", None).await;
        assert_eq!(failed.unwrap_err().last().to_string(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_trickles_in_is_ended_by_the_deadline_of_the_whole() {
    let start = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let table = [
        ("HTTP/1.1 200 OK\r\nX: ", "no answer within 15 s", 15),
        (
            &format!("{start}Content-Length: 4000\r\n\r\n["),
            "no answer within 15 s",
            15,
        ),
        (
            "HTTP/1.1 500 Oops\r\nContent-Length: 4000\r\n\r\n",
            "status 500: xxxx",
            5,
        ),
    ];
    for (head, text, seconds) in table {
        let head = head.as_bytes().to_vec();
        let script = Arc::new(Script::new(move |_| Reply::Trickle(head.clone(), b'x')));
        let started = tokio::time::Instant::now();
        let failed = client(settings(), &script).list("default", None).await;
        assert_eq!(failed.unwrap_err().last().to_string(), text);
        assert_eq!(started.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_in_chunks_is_read_and_a_compressed_one_is_not() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Nomad-Index: 7\r\nX-Nomad-Knownleader: true\r\n";
    let chunks = "1\r\n[\r\n1\r\n]\r\n0\r\n\r\n";
    let script = Script::always(format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}"));
    let mut client = client(settings(), &script);
    for _ in 0..2 {
        assert_eq!(client.list("default", None).await.unwrap().index, 7);
    }
    assert_eq!(script.count("dial"), 1);

    let script = Script::always(format!(
        "{head}Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n[]"
    ));
    let mut client = Client::on(route(settings(), ScriptDial(script)));
    let text = "its body is compressed (\"gzip\"), which was not asked for";
    let failed = client.list("default", None).await.unwrap_err();
    assert_eq!(failed.last().kind(), FailureKind::NotBelievable);
    assert!(failed.to_string().ends_with(text), "{failed}");
    let failed = client.open_stream("default").await.err().unwrap();
    assert!(failed.to_string().ends_with(text), "{failed}");
}

#[tokio::test(start_paused = true)]
async fn what_is_asked_and_what_comes_is_counted() {
    let script = Arc::new(Script::new(|path| match path {
        path if path.starts_with("/v1/event") => Reply::Silence(stream("{}\n")),
        path if path.contains("/v1/service/") => {
            Reply::Bytes(recorded("2.0.5/http/task-api-malformed-token-500.http"))
        }
        path if path.contains("index=") => Reply::Silence(Vec::new()),
        _ => Reply::Bytes(json(7, "[]")),
    }));
    let route = route(settings(), ScriptDial(Arc::clone(&script)));
    let mut client = Client::on(Arc::clone(&route));
    let key = ServiceKey::new("default", "web");
    client.list("default", None).await.unwrap();
    client.read(&key, None).await.unwrap_err();
    drop(client.open_stream("default").await.unwrap());
    let held = client.list("default", Some(7));
    let abandoned = tokio::time::timeout(std::time::Duration::from_secs(1), held);
    assert!(abandoned.await.is_err());

    let traffic = route.traffic();
    let counted = [
        (Kind::List, Outcome::Ok),
        (Kind::Read, Outcome::BadToken),
        (Kind::Stream, Outcome::Ok),
        (Kind::BlockingList, Outcome::Cancelled),
    ];
    for kind in Kind::ALL {
        for outcome in Outcome::ALL {
            let expected = u64::from(counted.contains(&(kind, outcome)));
            assert_eq!(
                traffic.requests(kind, outcome),
                expected,
                "{kind:?} {outcome:?}"
            );
        }
    }
    assert_eq!(traffic.received_bytes(Kind::List), 2);
    assert_eq!(traffic.received_bytes(Kind::Stream), 3);
}
