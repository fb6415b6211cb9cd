//! The recorded answers of five HAProxy versions (`tests/fixtures/haproxy-record/record`), read word by word.

use std::path::Path;

use proptest::prelude::*;

use super::{
    tests::{add, address, server},
    *,
};
use crate::{
    haproxy::command::print,
    model::{BackendName, Keyword, Outcome, ProfileName, ServerName, StatRow},
};

const VERSIONS: [&str; 5] = ["2.6.12", "2.8.25", "3.0.11", "3.2.26", "3.4.7"];

/// What a recorded answer must come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Meaning {
    Done,
    Retry,
    Refused,
    NoSuchBackend,
    Empty,
    Denied,
    /// Refused before 3.2.
    Since32,
    /// Unknown before 3.4.
    Since34(&'static Meaning),
    Unknown,
    /// Done in a backend that is only there since 3.4.
    InMade,
    Noticed,
    Made,
    Unpublished,
}
use Meaning::{
    Denied, Done, Empty, InMade, Made, NoSuchBackend, Noticed, Refused, Retry, Since32, Since34,
    Unknown, Unpublished,
};

/// The session that `tests/fixtures/haproxy-record/record` held with each version.
fn recorded_session() -> Vec<(Request, Meaning)> {
    let backend = |name| BackendName::new(name).unwrap();
    let change = |command: Command, meaning| (Request::Change(command), meaning);
    let set = |name, ip, port, meaning| {
        change(
            Command::SetAddress(server(name), address(ip, port)),
            meaning,
        )
    };
    let weight = |name, n, meaning| change(Command::SetWeight(server(name), n), meaning);
    let maxconn = |name, meaning| change(Command::SetMaxconn(server(name), 7), meaning);
    let ready = |name, meaning| change(Command::Ready(server(name)), meaning);
    let maint = |name| change(Command::Maintenance(server(name)), Done);
    let enable = |name, meaning| change(Command::EnableHealth(server(name)), meaning);
    let down = |name, meaning| change(Command::HealthDown(server(name)), meaning);
    let delete = |name, meaning| change(Command::DeleteServer(server(name)), meaning);
    let full = [
        Keyword::Check,
        Keyword::Inter(2000),
        Keyword::FastInter(250),
        Keyword::DownInter(250),
        Keyword::Rise(2),
        Keyword::Fall(3),
        Keyword::Weight(5),
        Keyword::Maxconn(9),
    ];
    vec![
        (Request::ServersState(Some(backend("nope"))), NoSuchBackend),
        (Request::Stat(backend("nope"), None), NoSuchBackend),
        (Request::Stat(backend("empty"), None), Empty),
        (Request::ServersState(Some(backend("empty"))), Empty),
        set("web/nomad1", "127.0.0.2", 81, Done),
        set("web/nomad1", "127.0.0.2", 81, Done),
        set("web/nomad1", "127.0.0.2", 82, Done),
        set("web/nomad1", "127.0.0.3", 82, Done),
        set("web/nomad1", "::1", 83, Done),
        set("web/unix", "127.0.0.1", 81, Refused),
        set("web/host", "127.0.0.1", 81, Refused),
        set("web/nope", "127.0.0.1", 81, Retry),
        set("nope/s", "127.0.0.1", 81, Retry),
        change(Command::Drain(server("web/nomad1")), Done),
        down("web/nomad1", Done),
        ready("web/nomad1", Done),
        maint("web/nomad1"),
        ready("web/nope", Retry),
        down("tracking/t", Refused),
        enable("web/nomad1", Done),
        enable("web/v6", Refused),
        enable("nope/s", Retry),
        weight("web/nomad1", 5, Done),
        weight("web/nomad1", 257, Refused),
        weight("123/s", 5, Refused),
        maxconn("web/nomad1", Done),
        maxconn("web/nope", Retry),
        ready("off/s", Retry),
        enable("off/s", Retry),
        maxconn("off/s", Retry),
        (add("web/d1", &full), Done),
        (add("web/d1", &[]), Retry),
        (add("web/d2", &[Keyword::Weight(257)]), Refused),
        (
            add("web/d3", &[Keyword::Check, Keyword::InitStateFullyDown]),
            Since32,
        ),
        (
            Request::Change(Command::AddServer(
                server("web/d4"),
                address("::1", 81),
                vec![
                    Keyword::ReuseConnections,
                    Keyword::Backup,
                    Keyword::CheckPort(82),
                ],
            )),
            Done,
        ),
        (add("tls/d1", &[Keyword::Check]), Refused),
        (add("123/d1", &[]), Refused),
        (add("nope/d1", &[]), Retry),
        enable("web/d1", Done),
        ready("web/d1", Done),
        delete("web/d1", Retry),
        maint("web/d1"),
        delete("web/d1", Done),
        delete("web/d1", Retry),
        delete("nope/d1", Retry),
        maint("web/cfg"),
        delete("web/cfg", Refused),
        maint("busy/s"),
        delete("busy/s", Retry),
    ]
}

/// What follows in it: backends that are made at runtime. The last request of all is on the operator's socket.
fn recorded_backends() -> Vec<(Request, Meaning)> {
    let backend = |name| BackendName::new(name).unwrap();
    let change = |command: Command, meaning| (Request::Change(command), meaning);
    let of_made = || backend("made");
    let make = |name: &str, profile: &str, meaning| {
        let profile = ProfileName::new(profile).unwrap();
        change(
            Command::AddBackend(BackendName::new(name).unwrap(), profile),
            Since34(meaning),
        )
    };
    let publish = |name, meaning| change(Command::PublishBackend(backend(name)), Since34(meaning));
    let delete_made = |meaning| change(Command::DeleteBackend(of_made()), Since34(meaning));
    vec![
        make("made", "nomad", &Done),
        make("made", "nomad", &Refused),
        make("nomad", "nomad", &Refused),
        make("fixed", "sticky", &Noticed),
        make("no", "nope", &Refused),
        make("no", "modeless", &Refused),
        make("dark", "closed", &Done),
        publish("dark", &Refused),
        publish("nope", &Retry),
        change(
            Command::AddServer(server("made/d1"), address("127.0.0.1", 81), vec![]),
            InMade,
        ),
        publish("made", &Done),
        delete_made(&Retry),
        change(Command::UnpublishBackend(of_made()), Since34(&Done)),
        delete_made(&Retry),
        (Request::Guids, Since34(&Made)),
        (Request::Stat(of_made(), None), Since34(&Unpublished)),
        change(Command::Maintenance(server("made/d1")), InMade),
        change(Command::DeleteServer(server("made/d1")), InMade),
        // With what the process had to say since.
        delete_made(&Noticed),
        delete_made(&Retry),
        change(Command::Ready(server("web/nomad2")), Denied),
    ]
}

fn fixture(version: &str, file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(format!("tests/fixtures/haproxy-{version}"))
        .join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn meaning(read: &Result<Response, UnknownReply>) -> Meaning {
    match read {
        Ok(Response::Changed(Outcome::Done)) => Done,
        Ok(Response::Changed(Outcome::RetryLater(_))) => Retry,
        Ok(Response::Changed(Outcome::Refused(_))) => Refused,
        Ok(Response::Changed(Outcome::Notice(_))) => Noticed,
        Ok(Response::Guids(names)) if names.contains(&BackendName::new("made").unwrap()) => Made,
        Ok(Response::Guids(_)) => Empty,
        Ok(Response::Stat(stat)) if stat.is_unpublished => Unpublished,
        Ok(Response::NoSuchBackend) => NoSuchBackend,
        Ok(Response::Servers(rows)) if rows.is_empty() => Empty,
        Ok(Response::Stat(stat)) if stat.servers.is_empty() => Empty,
        Err(UnknownReply::Denied(_)) => Denied,
        Err(UnknownReply::Text { .. } | UnknownReply::Dump { .. }) => Unknown,
        other => panic!("{other:?}"),
    }
}

#[test]
fn five_versions_are_understood_word_by_word() {
    for version in VERSIONS {
        let text = String::from_utf8(fixture(version, "replies.txt")).unwrap();
        let mut lines = text.lines();
        for (request, expected) in recorded_session().into_iter().chain(recorded_backends()) {
            let sent = lines.next().and_then(|line| line.strip_prefix(">>> "));
            assert_eq!(sent, Some(print(&request).trim_end()), "{version}");
            let answer = lines.next().and_then(|line| line.strip_prefix("<<< "));
            let answer: String = serde_json::from_str(answer.unwrap()).unwrap();
            let got = meaning(&read(&request, answer.as_bytes()));
            let expected = match (expected, version) {
                (Since32, "3.2.26" | "3.4.7") | (InMade, "3.4.7") => Done,
                (Since32, _) => Refused,
                (InMade, _) => Retry,
                (Since34(expected), "3.4.7") => *expected,
                (Since34(Made), "3.0.11" | "3.2.26") => Empty,
                (Since34(Unpublished), _) => NoSuchBackend,
                (Since34(_), _) => Unknown,
                (expected, _) => expected,
            };
            assert_eq!(got, expected, "{version}: {request:?} {answer:?}");
        }
        assert_eq!(lines.next(), None);
    }
}

#[test]
fn five_versions_dump_the_same_servers() {
    let web = BackendName::new("web").unwrap();
    for version in VERSIONS {
        let Ok(Response::Info(info)) = read(&Request::Info, &fixture(version, "show-info.txt"))
        else {
            panic!("{version}")
        };
        assert_eq!(info.version.to_string(), version);
        assert!(!info.stopping && info.pid > 0 && info.start_time > 0);

        let backends = read(&Request::Backends, &fixture(version, "show-backend.txt"));
        let names = ["web", "tracking", "123", "tls", "off", "empty", "busy"];
        assert_eq!(
            backends,
            Ok(Response::Backends(
                names.map(|name| BackendName::new(name).unwrap()).into()
            ))
        );

        let dump = fixture(version, "show-servers-state.txt");
        let Ok(Response::Servers(rows)) = read(&Request::ServersState(None), &dump) else {
            panic!("{version}")
        };
        let shown: Vec<String> = rows
            .iter()
            .map(|row| {
                let state = &row.state;
                let ip = state.ip.map_or("-".to_owned(), |ip| ip.to_string());
                format!(
                    "{}/{} {ip} {} {}{}{}",
                    row.backend,
                    state.name.as_ref().unwrap(),
                    state.port,
                    if state.admin.in_maintenance() {
                        "maint"
                    } else {
                        "ready"
                    },
                    if state.admin.is_config_disabled() {
                        " disabled"
                    } else {
                        ""
                    },
                    if state.check.is_configured() {
                        " check"
                    } else {
                        ""
                    },
                )
            })
            .collect();
        let expected = [
            "web/cfg 127.0.0.1 1 ready check",
            "web/v6 ::1 80 ready",
            "web/unix - 0 ready",
            "web/host - 80 maint",
            "web/nomad1 127.0.0.1 1 maint disabled check",
            "web/nomad2 127.0.0.1 1 maint disabled check",
            "web/nomad3 127.0.0.1 1 maint disabled check",
            "tracking/t 127.0.0.1 1 ready",
            "123/s 127.0.0.1 1 ready",
            "off/s 127.0.0.1 1 ready",
        ];
        let (busy, others) = shown.split_last().unwrap();
        assert_eq!(others, expected, "{version}");
        assert!(busy.starts_with("busy/s 127.0.0.1 "), "{version}: {busy}");

        let dump = fixture(version, "show-stat-web.csv");
        let Ok(Response::Stat(stat)) = read(&Request::Stat(web.clone(), None), &dump) else {
            panic!("{version}")
        };
        let names: Vec<&str> = stat.servers.keys().map(ServerName::as_str).collect();
        assert_eq!(
            names,
            ["cfg", "host", "nomad1", "nomad2", "nomad3", "unix", "v6"]
        );
        assert_eq!(stat.servers.values().next().unwrap().maxconn, Some(9));
        assert!(stat.servers.values().all(StatRow::is_quiet));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        kind in 0..50_usize,
        words in prop_oneof![any::<Vec<u8>>(), ".*(registered|deleted|changed from '|, |\n).*".prop_map(Into::into)],
    ) {
        let kinds = [recorded_session(), recorded_backends()].concat();
        let _ = read(&kinds[kind % kinds.len()].0, &words);
    }
}
