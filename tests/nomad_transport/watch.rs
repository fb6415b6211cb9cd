//! The watch as its listener sees it, on a paused clock: what becomes known, and the texts that an operator reads.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use haproxy_nomad_sidecar::{
    catalog::{FailureKind, How, Scope},
    model::{Registration, ServiceKey},
    nomad::{
        settings::{Endpoint, Settings, TokenSource},
        transport::Dial,
        watch::{self, Control, Event},
    },
    redacted::Redacted,
};
use tokio::{sync::mpsc, time::timeout};

use crate::script::{Refusing, Reply, Script, ScriptDial, json, recorded, route, settings, stream};

/// A running watch.
struct Listener {
    control: mpsc::Sender<Control>,
    events: mpsc::Receiver<Event>,
}

impl Listener {
    fn to(settings: Settings, dial: impl Dial + 'static) -> Self {
        let (control, commands) = mpsc::channel(1);
        let (sender, events) = mpsc::channel(64);
        tokio::spawn(watch::run(route(settings, dial), commands, sender));
        Self { control, events }
    }

    /// The next event that `pick` takes.
    async fn next<T>(&mut self, pick: impl Fn(Event) -> Option<T>) -> T {
        let looking = async {
            loop {
                let event = self.events.recv().await.expect("the watch never ends");
                if let Some(picked) = pick(event) {
                    return picked;
                }
            }
        };
        timeout(Duration::from_mins(10), looking)
            .await
            .expect("it comes within ten minutes")
    }

    async fn synced(&mut self) -> Vec<String> {
        self.next(|event| match event {
            Event::Synced(synced) => Some(synced.services.values().flatten().map(short).collect()),
            _ => None,
        })
        .await
    }

    async fn changed(&mut self) -> (String, Vec<String>, Option<u64>) {
        self.next(|event| match event {
            Event::Changed {
                key,
                registrations,
                event_index,
                ..
            } => Some((
                key.name.to_string(),
                registrations.iter().map(short).collect(),
                event_index,
            )),
            _ => None,
        })
        .await
    }

    async fn trouble(&mut self) -> (Scope, FailureKind, String) {
        self.next(|event| match event {
            Event::Trouble { scope, kind, text } => Some((scope, kind, text)),
            _ => None,
        })
        .await
    }

    async fn following(&mut self) -> (How, String) {
        self.next(|event| match event {
            Event::Following { how, text, .. } => Some((how, text)),
            _ => None,
        })
        .await
    }
}

/// The first letters of the allocation, and the tags.
fn short(registration: &Registration) -> String {
    format!(
        "{} {}",
        &registration.alloc_id[..8],
        registration.tags.join(" ")
    )
}

const NOTHING: &str = "[]";

fn list_of(names: &[&str]) -> String {
    let services: Vec<String> = names
        .iter()
        .map(|name| format!(r#"{{"ServiceName":"{name}","Tags":["v1"]}}"#))
        .collect();
    format!(
        r#"[{{"Namespace":"default","Services":[{}]}}]"#,
        services.join(",")
    )
}

fn is_stream(path: &str) -> bool {
    path.starts_with("/v1/event/stream")
}

#[tokio::test(start_paused = true)]
async fn a_recorded_node_loss_is_followed() {
    let lines = String::from_utf8(recorded("2.0.5/streams/node-lost.ndjson")).unwrap();
    let script = Arc::new(Script::new(move |path| {
        if is_stream(path) {
            Reply::Silence(stream(&lines))
        } else {
            Reply::Bytes(json(129, NOTHING))
        }
    }));
    let mut listener = Listener::to(settings(), ScriptDial(script));
    assert_eq!(listener.following().await.0, How::Stream);
    let mut web: Vec<(Option<u64>, usize)> = Vec::new();
    // What comes before the list is answered is part of the first sync.
    let mut known = listener.synced().await.len();
    while known > 0 || web.is_empty() {
        let (name, registrations, index) = listener.changed().await;
        if name == "web" {
            known = registrations.len();
            web.push((index, known));
        }
    }
    // Four, of which two are lost in one line, their replacements, two ghosts of the node that returned, and the end.
    let expected = [
        (130, 1),
        (131, 2),
        (132, 3),
        (134, 4),
        (148, 2),
        (151, 3),
        (152, 4),
        (175, 5),
        (177, 6),
        (178, 5),
        (179, 4),
        (190, 3),
        (191, 2),
        (193, 1),
        (194, 0),
    ];
    let expected: Vec<_> = expected.map(|(index, count)| (Some(index), count)).into();
    assert!(expected.ends_with(&web), "{web:?}");
}

#[tokio::test(start_paused = true)]
async fn a_recorded_promotion_changes_the_tags_of_the_same_registration() {
    let lines = String::from_utf8(recorded("2.0.5/streams/canary-promotion.ndjson")).unwrap();
    let promoted: String = lines.split_inclusive('\n').take(5).collect();
    let script = Arc::new(Script::new(move |path| {
        if is_stream(path) {
            Reply::Silence(stream(&promoted))
        } else if path.starts_with("/v1/services") {
            Reply::Bytes(json(188, &list_of(&["web"])))
        } else {
            Reply::Bytes(json(188, NOTHING))
        }
    }));
    let mut listener = Listener::to(settings(), ScriptDial(script));
    let mut known = listener.synced().await;
    while !known.contains(&"5935f8ec v2".to_owned()) {
        known = listener.changed().await.1;
    }
    assert_eq!(known, ["5935f8ec v2", "ba7b65a9 v1", "ce86fee7 v1"]);
}

#[tokio::test(start_paused = true)]
async fn a_recorded_replay_of_the_past_brings_nothing_back() {
    let lines =
        String::from_utf8(recorded("2.0.5/streams/replay-after-server-restart.ndjson")).unwrap();
    let script = Arc::new(Script::new(move |path| {
        if is_stream(path) {
            Reply::Silence(stream(&lines))
        } else if path.starts_with("/v1/services") {
            Reply::Bytes(json(534, &list_of(&["web"])))
        } else {
            Reply::Bytes(json(534, NOTHING))
        }
    }));
    let mut listener = Listener::to(settings(), ScriptDial(script));
    let mut known = listener.synced().await;
    // The two lines that are younger than the list.
    while known.len() < 2 {
        known = listener.changed().await.1;
    }
    assert_eq!(known, ["4707c057 v2", "c2e1597f v2"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_dies_is_opened_anew_and_the_catalog_read_again() {
    let streams = Arc::new(AtomicUsize::new(0));
    let opened = Arc::clone(&streams);
    let script = Arc::new(Script::new(move |path| {
        let gone = opened.load(Ordering::Relaxed) > 1;
        if is_stream(path) {
            opened.fetch_add(1, Ordering::Relaxed);
            Reply::Silence(stream("{}\n"))
        } else if path.starts_with("/v1/services") {
            Reply::Bytes(json(if gone { 18 } else { 17 }, &list_of(&["sidecar"])))
        } else if gone {
            Reply::Bytes(json(18, NOTHING))
        } else {
            Reply::Bytes(recorded("2.0.5/http/service.http"))
        }
    }));
    let mut listener = Listener::to(settings(), ScriptDial(script));
    assert_eq!(listener.synced().await, ["e596c17e v1"]);
    let lost = listener.next(|event| match event {
        Event::StreamLost { text, .. } => Some(text),
        _ => None,
    });
    assert_eq!(
        lost.await,
        "nomad at http://127.0.0.1:4646: the event stream was silent for 40 s"
    );
    // A loss was told, so its end is.
    assert_eq!(listener.following().await.0, How::Stream);
    assert!(listener.synced().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn without_a_stream_the_operator_is_told_once_what_unlocks_it() {
    let policy = "the policy `namespace \"default\" { capabilities = [\"read-job\"] }`";
    let table = [
        (
            recorded("2.0.5/http/stream-denied.http"),
            "the event stream stayed silent for 5 s: denied, or the event broker is disabled",
            policy,
        ),
        (
            recorded("1.10.5/http/stream-denied.http"),
            "denied (403: Permission denied)",
            policy,
        ),
        // No policy helps against this one.
        (
            recorded("1.11.2/http/stream-opened.http"),
            "Nomad 1.11.2",
            "fixed in the next release)",
        ),
    ];
    for (answer, reason, what_to_do) in table {
        let script = Arc::new(Script::new(move |path| {
            if is_stream(path) {
                Reply::Silence(answer.clone())
            } else if path.starts_with("/v1/services") {
                Reply::Bytes(recorded("2.0.5/http/list.http"))
            } else {
                Reply::Bytes(recorded("2.0.5/http/service.http"))
            }
        }));
        let mut listener = Listener::to(settings(), ScriptDial(Arc::clone(&script)));
        let started = tokio::time::Instant::now();
        let (mut how, mut synced) = (None, None);
        while how.is_none() || synced.is_none() {
            let event = listener.next(Some).await;
            if let Event::Following { how: now, text, .. } = event {
                how = Some((now, text));
            } else if let Event::Synced(_) = event {
                synced = Some(started.elapsed());
            }
        }
        assert!(
            synced < Some(Duration::from_secs(1)),
            "the first sync does not wait"
        );
        let (how, text) = how.unwrap();
        assert!(matches!(how, How::Blocking { .. }));
        assert!(
            text.starts_with("following namespace default by blocking queries, because there is no event stream: nomad at"),
            "{text}"
        );
        assert!(text.contains(reason) && text.contains(what_to_do), "{text}");
        let again = timeout(Duration::from_mins(3), listener.following()).await;
        assert!(again.is_err(), "said once");
        assert!(script.count("index=") > 80, "and asked for changes");
        assert!(
            script.count("/v1/event/stream") >= 3,
            "and the stream is tried again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_operator_reads_what_is_wrong_and_what_to_do() {
    const TOKEN: &str = "5ecre7-t0ken";
    let policy = "`namespace \"default\" { capabilities = [\"read-job\"] }`";
    let denied = format!(
        "the token may not read services in namespace default, or nomad does not know it: it needs the policy {policy}"
    );
    let index_0 = format!(
        "it answered with index 0, which is no answer, so nothing of it is believed: the token lacks read-job in namespace default (policy {policy}), or the agent is shutting down"
    );
    let table = [
        ("list-denied-403", FailureKind::Denied, denied.as_str()),
        (
            "task-api-no-token-401",
            FailureKind::BadToken,
            "nomad knows no such token: replace NOMAD_TOKEN",
        ),
        (
            "task-api-malformed-token-500",
            FailureKind::BadToken,
            "the token is not valid, or the agent has no server to ask; the token is read again and everything stays as it is",
        ),
        (
            "list-star-no-right-index-0",
            FailureKind::NotBelievable,
            index_0.as_str(),
        ),
        (
            "client-agent-shutdown-false-empty",
            FailureKind::NotBelievable,
            index_0.as_str(),
        ),
        (
            "too-many-connections-429",
            FailureKind::Limited,
            "see limits.http_max_conns_per_client of the agent",
        ),
    ];
    for (name, kind, advice) in table {
        let mut settings = settings();
        settings.token = TokenSource::Value(Redacted::new(TOKEN.to_owned()));
        let script = Script::always(recorded(&format!("2.0.5/http/{name}.http")));
        let mut listener = Listener::to(settings, ScriptDial(script));
        let (scope, told, text) = listener.trouble().await;
        assert_eq!(
            (scope, told),
            (Scope::Namespace("default".into()), kind),
            "{text}"
        );
        assert!(
            text.starts_with("nomad at http://127.0.0.1:4646: "),
            "{text}"
        );
        assert!(text.ends_with(advice), "{text}");
        assert!(!text.contains(TOKEN), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_nomad_is_told_with_where_to_look() {
    let task_api = Settings::new(Endpoint::Unix("/secrets/api.sock".into()).into());
    let table = [
        (
            settings(),
            io::ErrorKind::ConnectionRefused,
            "nomad at http://127.0.0.1:4646: cannot connect: connection refused: is the agent running? set NOMAD_ADDR to where it answers",
        ),
        (
            task_api.clone(),
            io::ErrorKind::NotFound,
            "nomad at unix:///secrets/api.sock: cannot connect: entity not found: is the agent running, and is this its socket? in a job it is ${NOMAD_SECRETS_DIR}/api.sock",
        ),
        (
            task_api,
            io::ErrorKind::PermissionDenied,
            "nomad at unix:///secrets/api.sock: cannot connect: permission denied: the user of this process may not use the socket: see its mode and group",
        ),
    ];
    for (settings, error, expected) in table {
        let mut listener = Listener::to(settings.clone(), Refusing(error));
        let (_, kind, text) = listener.trouble().await;
        assert_eq!((kind, text.as_str()), (FailureKind::Unreachable, expected));
        let again = timeout(Duration::from_mins(5), listener.trouble()).await;
        assert!(again.is_err(), "said once");
        let once = watch::read_once_with(&settings, Arc::new(Refusing(error))).await;
        assert_eq!(once.unwrap_err().to_string(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_nomad_that_hangs_or_fails_keeps_what_is_known_and_recovers() {
    let lists = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lists);
    let script = Arc::new(Script::new(move |path| {
        if is_stream(path) {
            return Reply::Bytes(recorded("1.10.5/http/stream-denied.http"));
        }
        if !path.starts_with("/v1/services") {
            return Reply::Bytes(recorded("2.0.5/http/service.http"));
        }
        match counted.fetch_add(1, Ordering::Relaxed) {
            1 => Reply::Silence(Vec::new()),
            2 => {
                Reply::Bytes(b"HTTP/1.1 500 Oops\r\nContent-Length: 10\r\n\r\nno servers".to_vec())
            }
            3 => Reply::Bytes(recorded(
                "2.0.5/http/client-agent-shutdown-false-empty.http",
            )),
            _ => Reply::Bytes(recorded("2.0.5/http/list.http")),
        }
    }));
    let mut listener = Listener::to(settings(), ScriptDial(script));
    assert_eq!(listener.synced().await.len(), 1);
    let mut texts = Vec::new();
    loop {
        let event = listener.next(|event| match event {
            Event::Trouble { text, .. } => Some(Some(text)),
            Event::Recovered { .. } => Some(None),
            Event::Changed { key, .. } => panic!("{key} changed"),
            Event::Synced(synced) => panic!("{synced:?}"),
            _ => None,
        });
        match event.await {
            Some(text) => texts.push(text),
            None => break,
        }
    }
    assert_eq!(
        texts[0],
        "nomad at http://127.0.0.1:4646: no answer within 78 s: the agent or its servers hang, or are overloaded"
    );
    assert_eq!(
        texts[1],
        "nomad at http://127.0.0.1:4646: status 500: no servers"
    );
    assert!(texts[2].contains("index 0"), "{}", texts[2]);
    assert_eq!(texts.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_read_is_named_and_the_others_are_served() {
    let script = Arc::new(Script::new(|path| match path {
        path if is_stream(path) => Reply::Silence(stream("{}\n")),
        path if path.starts_with("/v1/services") => {
            Reply::Bytes(json(17, &list_of(&["bad", "sidecar"])))
        }
        path if path.starts_with("/v1/service/bad") => {
            Reply::Bytes(b"HTTP/1.1 500 Oops\r\nContent-Length: 3\r\n\r\nbad".to_vec())
        }
        _ => Reply::Bytes(recorded("2.0.5/http/service.http")),
    }));
    let mut listener = Listener::to(settings(), ScriptDial(script));
    let (scope, kind, text) = listener.trouble().await;
    assert_eq!(scope, Scope::Service(ServiceKey::new("default", "bad")));
    assert_eq!(kind, FailureKind::ServerError);
    assert_eq!(
        text,
        "service default/bad cannot be read: nomad at http://127.0.0.1:4646: status 500: bad"
    );
    assert_eq!(listener.synced().await, ["e596c17e v1"]);
}

#[tokio::test(start_paused = true)]
async fn a_resync_reads_everything_on_new_connections() {
    let script = Arc::new(Script::new(|path| match path {
        path if is_stream(path) => Reply::Silence(stream("{}\n")),
        path if path.starts_with("/v1/services") => Reply::Bytes(recorded("2.0.5/http/list.http")),
        _ => Reply::Bytes(recorded("2.0.5/http/service.http")),
    }));
    let mut listener = Listener::to(settings(), ScriptDial(Arc::clone(&script)));
    listener.synced().await;
    let before = script.count("dial");
    listener.control.send(Control::Resync).await.unwrap();
    listener.synced().await;
    assert!(
        script.count("dial") >= before + 2,
        "a stream and a list at least"
    );
    assert_eq!(script.count("/v1/service/sidecar"), 2);
}

#[tokio::test(start_paused = true)]
async fn the_catalog_can_be_read_once() {
    let script = Arc::new(Script::new(|path| {
        let name = if path.starts_with("/v1/services") {
            "list"
        } else {
            "service"
        };
        Reply::Bytes(recorded(&format!("2.0.5/http/{name}.http")))
    }));
    let dial = Arc::new(ScriptDial(Arc::clone(&script)));
    let read = watch::read_once_with(&settings(), dial).await.unwrap();
    assert_eq!(read.unread.len(), 0);
    let (key, registrations) = read.services.iter().next().unwrap();
    assert_eq!(
        (key.to_string().as_str(), registrations.len()),
        ("default/sidecar", 1)
    );
    assert_eq!(script.count("/v1/event/stream"), 0);
}

/// Lists of the namespaces `default`, with two services of which `broken` fails, and `denied`.
fn one_of_two_fails(path: &str) -> Reply {
    let failure = b"HTTP/1.1 500 Oops\r\nContent-Length: 10\r\n\r\nno servers";
    match path {
        path if path.contains("denied") => {
            Reply::Bytes(recorded("2.0.5/http/list-denied-403.http"))
        }
        path if path.starts_with("/v1/services") => {
            let body = r#"[{"Namespace":"default","Services":[
                {"ServiceName":"broken","Tags":["haproxy.enable=true"]},
                {"ServiceName":"sidecar","Tags":["haproxy.enable=true"]}]}]"#;
            Reply::Bytes(json(9, body))
        }
        path if path.contains("broken") => Reply::Bytes(failure.to_vec()),
        _ => Reply::Bytes(recorded("2.0.5/http/service.http")),
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_be_read_once_is_and_what_cannot_is_named_with_its_reason() {
    let read = async |namespaces: &[&str]| {
        let script = Arc::new(Script::new(one_of_two_fails));
        let mut settings = settings();
        settings.namespaces = namespaces.iter().map(ToString::to_string).collect();
        watch::read_once_with(&settings, Arc::new(ScriptDial(script))).await
    };
    let broken = Scope::Service(ServiceKey::new("default", "broken"));
    let denied = Scope::Namespace("denied".into());
    for (namespaces, unread) in [
        (&["default"][..], &[&broken][..]),
        (&["default", "denied"], &[&denied, &broken]),
    ] {
        let read = read(namespaces).await.unwrap();
        let names: Vec<_> = read.services.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["default/sidecar"]);
        assert!(read.unread.keys().eq(unread.iter().copied()), "{read:?}");
        let why = read.unread[&broken].to_string();
        let begin = "service default/broken cannot be read: nomad at ";
        assert!(
            why.starts_with(begin) && why.contains("status 500: no servers"),
            "{why}"
        );
    }
    let failed = read(&["denied"]).await.unwrap_err();
    assert_eq!((failed.scope, failed.kind), (denied, FailureKind::Denied));
}
