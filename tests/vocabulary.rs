//! Every tag that becomes a word on HAProxy's socket, through the whole way: what is written parses back to what was meant,
//! and whatever else stands in a tag is written nowhere.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use haproxy_nomad_sidecar::{
    haproxy::command::print,
    model::{
        BackendName, BackendRows, Command, Outcome, ProcessInfo, Registration, Request, Response,
        ServerKeywords, ServerProfileName, ServiceKey, Version,
    },
    reconcile::{Fact, Input, Mode, Output, Policy, Reconciler},
};
use proptest::prelude::*;

const PROFILE: &str = "ssl verify required ca-file /etc/ssl/ca.pem";
const VERSIONS: [Version; 5] = [
    Version::new(2, 6, 12),
    Version::new(2, 8, 25),
    Version::new(3, 0, 11),
    Version::new(3, 2, 26),
    Version::new(3, 4, 7),
];
const NO_VALUE: [&str; 8] = [
    "check",
    "backup",
    "send-proxy",
    "send-proxy-v2",
    "agent-check",
    "check-ssl",
    "check-send-proxy",
    "ssl",
];

/// A tag's key and value, and the words that it must come to.
type Meant = (String, BTreeMap<String, String>);

fn tag(key: &str, value: &impl ToString, words: &[(&str, String)]) -> Meant {
    let words = words
        .iter()
        .map(|(word, value)| ((*word).to_owned(), value.clone()));
    let value = value.to_string();
    (format!("haproxy.{key}={value}"), words.collect())
}

fn number(key: &'static str, word: &'static str, max: u32) -> BoxedStrategy<Meant> {
    let min = u32::from(key != "maxqueue");
    (min..=max)
        .prop_map(move |number| tag(key, &number, &[(word, number.to_string())]))
        .boxed()
}

fn duration(key: &'static str, word: &'static str) -> BoxedStrategy<Meant> {
    let units = prop_oneof![
        (1..=3_600_000_u32).prop_map(|number| (format!("{number}ms"), number)),
        (1..=3_600_u32).prop_map(|number| (format!("{number}s"), number * 1_000)),
        (1..=60_u32).prop_map(|number| (format!("{number}m"), number * 60_000)),
    ];
    units
        .prop_map(move |(text, ms)| tag(key, &text, &[(word, format!("{ms}ms"))]))
        .boxed()
}

/// Each key that becomes a keyword, with a good value.
fn good() -> Vec<BoxedStrategy<Meant>> {
    vec![
        number("weight", "weight", 256),
        number("maxconn", "maxconn", 1_000_000),
        number("maxqueue", "maxqueue", 1_000_000),
        number("check.port", "port", 65_535),
        number("check.rise", "rise", 100),
        number("check.fall", "fall", 100),
        duration("check.interval", "inter"),
        duration("check.fastinter", "fastinter"),
        duration("check.downinter", "downinter"),
        duration("slowstart", "slowstart"),
        Just(tag("backup", &true, &[("backup", String::new())])).boxed(),
        "[A-Za-z0-9_.:-]{1,100}"
            .prop_filter("words of their own", |value| {
                !["auto", "off", "BACKEND", "FRONTEND"].contains(&&**value)
            })
            .prop_map(|value| tag("cookie", &value, &[("cookie", value.clone())]))
            .boxed(),
        prop_oneof![Just(("v1", "send-proxy")), Just(("v2", "send-proxy-v2"))]
            .prop_map(|(value, word)| tag("send-proxy", &value, &[(word, String::new())]))
            .boxed(),
        prop_oneof![Just("h1"), Just("h2")]
            .prop_map(|value| tag("proto", &value, &[("proto", value.to_owned())]))
            .boxed(),
        (1..=65_535_u32)
            .prop_map(|port| {
                let words = [
                    ("agent-check", String::new()),
                    ("agent-port", port.to_string()),
                ];
                tag("agent.port", &port, &words)
            })
            .boxed(),
        "[A-Za-z0-9_.:-]{1,100}"
            .prop_filter("reserved", |value| {
                value != "BACKEND" && value != "FRONTEND"
            })
            .prop_map(|value| tag("check.profile", &value, &[("healthcheck", value.clone())]))
            .boxed(),
        Just(tag(
            "tls.profile",
            &"internal",
            &[
                ("ssl", String::new()),
                ("verify", "required".to_owned()),
                ("ca-file", "/etc/ssl/ca.pem".to_owned()),
            ],
        ))
        .boxed(),
    ]
}

/// Any key of the vocabulary, with a value that is none, or was made to be something else to HAProxy.
fn bad() -> impl Strategy<Value = String> {
    let key = proptest::sample::select(vec![
        "enable",
        "backend",
        "backend.name",
        "backend.profile",
        "weight",
        "maxconn",
        "maxqueue",
        "backup",
        "slowstart",
        "cookie",
        "send-proxy",
        "proto",
        "agent.port",
        "agent.interval",
        "tls.profile",
        "check.disabled",
        "check.type",
        "check.port",
        "check.interval",
        "check.rise",
        "check.path",
        "check.method",
        "check.host",
        "check.profile",
        "canary",
        "hold",
        "min-ready",
        "drain.timeout",
        "drain.sessions",
        "domain",
        "domain.type",
        "path",
        "sni",
        "port",
        "route.keep",
        "unheard-of",
    ]);
    let evil = prop_oneof![
        Just(";shutdown frontend fe".to_owned()),
        Just("1\nshutdown frontend fe".to_owned()),
        Just("1 shutdown".to_owned()),
        Just("x\\".to_owned()),
        Just("<<".to_owned()),
        Just("x <<\n\nshutdown".to_owned()),
        Just("\0shutdown".to_owned()),
        Just("/etc/ssl/key.pem shutdown".to_owned()),
        "[ ;]shutdown[ -~\r\n\t\0é;]{0,40}",
        any::<String>().prop_map(|text| format!("{text} shutdown")),
    ];
    (key, evil).prop_map(|(key, value)| format!("haproxy.{key}={value}"))
}

fn registration(tags: Vec<String>) -> Registration {
    Registration {
        id: "_nomad-task-1a2b3c4d-group-web-web-http".into(),
        service: ServiceKey::new("default", "web"),
        alloc_id: "1a2b3c4d-0000-0000-0000-000000000000".into(),
        job_id: "web".into(),
        tags,
        address: "10.0.0.1".to_owned(),
        port: 80,
        create_index: 10,
        modify_index: 10,
    }
}

/// The lines that a core writes to a HAProxy with an empty backend `web` for this registration, and what it says of it.
fn written(version: Version, registration: Registration) -> (Vec<String>, Vec<Fact>) {
    let profile = ("internal", PROFILE);
    let policy = Policy {
        server_profiles: [(
            ServerProfileName::new(profile.0).unwrap(),
            ServerKeywords::new(profile.1).unwrap(),
        )]
        .into(),
        ..Policy::default()
    };
    let web = BackendName::new("web").unwrap();
    let mut core = Reconciler::new(policy, Mode::Act, 1);
    let info = ProcessInfo {
        version,
        version_text: version.to_string(),
        pid: 1,
        start_time: 1,
        uptime: 1,
        connections: 1,
        stopping: false,
    };
    let services = [(registration.service.clone(), vec![registration])].into();
    let (mut lines, mut facts) = (Vec::new(), Vec::new());
    let inputs = [
        Input::Connected(info),
        Input::Synced {
            services,
            unproven: BTreeSet::new(),
        },
    ];
    for input in inputs {
        core.handle(Duration::ZERO, input);
        // Until it has written, and no further: this HAProxy does nothing.
        for _ in 0..20 {
            match core.poll() {
                Some(Output::Run(batch)) => {
                    let answers = batch.requests.iter().map(|request| {
                        lines.push(print(request));
                        match request {
                            Request::Verdicts(..) => Response::NoSuchBackend,
                            Request::Backends => Response::Backends(vec![web.clone()]),
                            Request::BackendRows => Response::BackendRows(BackendRows {
                                cookies: [web.clone()].into(),
                                ..BackendRows::default()
                            }),
                            Request::Guids => Response::Guids(BTreeSet::new()),
                            Request::Stat(..) => {
                                Response::Stat(haproxy_nomad_sidecar::model::BackendStat {
                                    is_running: true,
                                    ..Default::default()
                                })
                            }
                            Request::Map(_) => Response::NoSuchMap,
                            Request::Change(_) | Request::ChangeMap(_) => {
                                Response::Changed(Outcome::Done)
                            }
                            Request::Info | Request::ServersState(_) => {
                                Response::Servers(Vec::new())
                            }
                        }
                    });
                    let answers = answers.collect();
                    let changes = |request: &Request| {
                        matches!(request, Request::Change(Command::AddServer(..)))
                    };
                    if batch.requests.iter().any(changes) {
                        return (lines, facts);
                    }
                    core.handle(Duration::ZERO, Input::Answered(batch.id, answers));
                }
                Some(Output::Tell(fact)) => facts.push(fact),
                Some(_) => {}
                None => break,
            }
        }
    }
    (lines, facts)
}

/// The keywords of an `add server` line, as HAProxy reads them: words between blanks, each with its value.
fn keywords(line: &str) -> BTreeMap<String, String> {
    let words: Vec<_> = line.trim_end().split(' ').collect();
    assert!(words.len() <= 64, "HAProxy takes no more words: {line}");
    assert_eq!(words[..2], ["add", "server"]);
    assert_eq!(words[3], "10.0.0.1:80");
    let mut words = words[4..].iter();
    let mut found = BTreeMap::new();
    while let Some(word) = words.next() {
        let value = if NO_VALUE.contains(word) {
            ""
        } else {
            words.next().unwrap()
        };
        let twice = found.insert((*word).to_owned(), value.to_owned());
        assert_eq!(twice, None, "{word} twice in {line}");
    }
    found
}

proptest! {
    #[test]
    fn what_is_written_parses_back_to_what_was_meant(
        meant in proptest::sample::subsequence(good(), 0..=17).prop_flat_map(|chosen| chosen),
        version in proptest::sample::select(VERSIONS.to_vec()),
    ) {
        let mut tags: Vec<_> = meant.iter().map(|(tag, _)| tag.clone()).collect();
        tags.insert(0, "haproxy.enable=true".to_owned());
        let (lines, facts) = written(version, registration(tags));
        let add = lines.iter().find(|line| line.starts_with("add server"));
        let add = add.unwrap_or_else(|| panic!("{facts:?}"));
        let found = keywords(add);
        // Who has them is checked as its clients reach it, unless that is at another port.
        let has = |word: &str| found.contains_key(word);
        prop_assert_eq!(has("check-ssl"), has("ssl") && !has("port"));
        let is_proxied = has("send-proxy") || has("send-proxy-v2");
        prop_assert_eq!(has("check-send-proxy"), is_proxied && !has("port"));
        for (tag, words) in &meant {
            for (word, value) in words {
                let is_too_old = (word == "cookie" && version < Version::new(2, 8, 0))
                    || (word == "healthcheck" && version < Version::new(3, 4, 0));
                let expected = (!is_too_old).then_some(value);
                prop_assert_eq!(found.get(word), expected, "{} in {}", tag, add);
            }
        }
    }

    #[test]
    fn a_hostile_tag_is_written_nowhere(
        tags in proptest::collection::vec(bad(), 1..4),
        version in proptest::sample::select(VERSIONS.to_vec()),
    ) {
        let enabled = ["haproxy.enable=true".to_owned()].into_iter();
        let (lines, _) = written(version, registration(enabled.chain(tags).collect()));
        prop_assert!(!lines.is_empty());
        for line in lines {
            let text = line.strip_suffix('\n').unwrap();
            prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{:?}", text);
            prop_assert!(!text.contains("shutdown") && !text.contains([';', '\\', '<']), "{:?}", text);
            prop_assert!(!text.contains(".pem"), "{:?}", text);
        }
    }
}
