//! Without the right for the stream: blocking queries do its work, through the Task API one for each service and one for the
//! list, over TCP the list alone with reads after it.

use std::time::Duration;

use haproxy_nomad_sidecar::{catalog::FailureKind, model::ServiceKey};
use tokio::time::Instant;

use crate::{
    support::fake_nomad::{
        Deletion, FakeNomad, Kind, Mode, ServiceRegistration, Token, Version, Via, Which,
    },
    weather::{
        AGENT, DENIED, INDEX_0, INDEX_0_OF_STAR, RECOVERED, SECRET, SILENT, STREAMING, Weather,
        trouble, web, without_stream,
    },
};

const AT_ONCE: Duration = Duration::from_secs(1);
const A_WHILE: Duration = Duration::from_secs(65);
/// As long as Nomad holds a query, its jitter included, and what follows on its end.
const HELD: Duration = Duration::from_secs(70);

/// A watch as the identity of a task without any policy, which knows two instances of `web`.
async fn by_right_of_birth(via: Via) -> Weather {
    let nomad = FakeNomad::in_memory(Version::V2_0_5);
    nomad.issue(SECRET, Token::Workload(Vec::new()));
    nomad.register_all([web(1), web(2)]);
    let mut weather = Weather::over(nomad, via, &["default"]);
    weather.settled().await;
    weather.pass(Duration::from_secs(10)).await;
    assert_eq!(weather.said(), [through(via, &without_stream(SILENT))]);
    weather
}

/// The same text about the Nomad behind the Task API.
fn through(via: Via, text: &str) -> String {
    match via {
        Via::Agent => text.to_owned(),
        Via::TaskApi => text.replace(AGENT, "nomad at unix:///secrets/api.sock: "),
    }
}

const BOTH: [Via; 2] = [Via::Agent, Via::TaskApi];

#[tokio::test(start_paused = true)]
async fn a_change_is_known_at_once() {
    for via in BOTH {
        let mut weather = by_right_of_birth(via).await;
        for (what, change) in [
            ("new", web(3)),
            ("tags", web(3).tags(&["v2"])),
            ("another service", ServiceRegistration::new("api", 9, 8080)),
        ] {
            weather.nomad.register(change);
            weather.pass(AT_ONCE).await;
            assert_eq!(weather.known, weather.catalog(), "{via:?} {what}");
        }
        for deletion in [Deletion::ServiceDeregistration, Deletion::PlanResult] {
            let (key, _) = weather.nomad.rows().pop_first().expect("there are some");
            weather.nomad.deregister(&[key], deletion);
            weather.pass(AT_ONCE).await;
            assert_eq!(weather.known, weather.catalog(), "{via:?} {deletion:?}");
        }
        assert_eq!(weather.said(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_without_an_event_is_known_at_once() {
    for via in BOTH {
        let mut weather = by_right_of_birth(via).await;
        weather.nomad.delete_silently(&[web(1).key()]);
        weather.pass(AT_ONCE).await;
        assert_eq!(weather.webs(), [2], "{via:?}");
        weather.nomad.delete_silently(&[web(2).key()]);
        weather.pass(AT_ONCE).await;
        assert_eq!(weather.webs(), [0; 0], "the last one as well");
        assert_eq!(weather.said(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_false_empty_that_a_held_query_gets_is_not_believed() {
    let mut weather = by_right_of_birth(Via::Agent).await;
    weather.nomad.shut_down().await;
    weather.change(3, 1);
    weather.pass(A_WHILE).await;
    assert_eq!(weather.webs(), [1, 2]);
    let refused = "cannot connect: connection refused: is the agent running? set NOMAD_ADDR to where it answers";
    assert_eq!(
        weather.said(),
        [
            trouble(FailureKind::NotBelievable, INDEX_0),
            trouble(FailureKind::Unreachable, refused)
        ]
    );
    weather.nomad.resume().await;
    weather.settled().await;
    weather.pass(A_WHILE).await;
    assert_eq!(weather.said(), [RECOVERED]);
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_taken_away_while_a_query_is_held_keeps_everything() {
    for via in BOTH {
        let mut weather = by_right_of_birth(via).await;
        weather.nomad.revoke(SECRET);
        weather.pass(HELD).await;
        let denied = weather.said();
        assert_eq!(denied.len(), 1, "{denied:?}");
        weather.change(3, 1);
        weather.pass(HELD).await;
        assert_eq!(weather.webs(), [1, 2], "{via:?}");
        assert_eq!(weather.said(), [""; 0], "said once");
        if via == Via::Agent {
            assert_eq!(denied, [trouble(FailureKind::Denied, DENIED)]);
        } else {
            // Its gate does not know the token any more.
            let bad = "the token could not be authenticated (500: Server error authenticating request): the token is not valid, or the agent has no server to ask; the token is read again and everything stays as it is";
            assert_eq!(denied, [through(via, &trouble(FailureKind::BadToken, bad))]);
        }
        weather.nomad.issue(SECRET, Token::Workload(Vec::new()));
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [RECOVERED], "{via:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_index_that_goes_back_is_seen_when_the_wait_ends() {
    for via in BOTH {
        let mut weather = by_right_of_birth(via).await;
        let snapshot = weather.nomad.snapshot();
        weather.change(3, 1);
        weather.settled().await;
        weather.nomad.restore(snapshot);
        let restored = Instant::now();
        weather.settled().await;
        assert!(restored.elapsed() < HELD, "{:?}", restored.elapsed());
        assert_eq!(weather.webs(), [1, 2], "{via:?}");
        weather.pass(A_WHILE).await;
        let went_back = "the index of namespace default went back from 14 to 12";
        assert_eq!(weather.said(), [went_back], "{via:?}");
        weather.change(4, 2);
        weather.pass(AT_ONCE).await;
        assert_eq!(weather.known, weather.catalog());
    }
}

#[tokio::test(start_paused = true)]
async fn an_identity_without_a_policy_is_told_to_name_its_namespaces() {
    let nomad = FakeNomad::in_memory(Version::V2_0_5);
    nomad.issue(SECRET, Token::Workload(Vec::new()));
    nomad.register_all([web(1), web(2)]);
    let mut weather = Weather::over(nomad, Via::TaskApi, &["*"]);
    weather.pass(A_WHILE).await;
    assert!(weather.known.is_empty());
    let told = trouble(FailureKind::NotBelievable, INDEX_0_OF_STAR);
    let told = told.replace("namespace default", "namespace *");
    assert_eq!(weather.said(), [through(Via::TaskApi, &told)], "said once");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_becomes_forbidden_keeps_its_servers_and_is_shown() {
    let denied = "nomad at http://127.0.0.1:4646: denied (403: Permission denied): the token may not read services in namespace shop, or nomad does not know it: it needs the policy `namespace \"shop\" { capabilities = [\"read-job\"] }`";
    for (namespaces, before) in [
        (
            &["*"][..],
            "denied, namespace shop: namespace shop can no longer be read, and its servers stay as they are: service shop/web cannot be read: ",
        ),
        (&["default", "shop"], "denied, namespace shop: "),
    ] {
        let nomad = FakeNomad::in_memory(Version::V1_11_2);
        nomad.create_namespace("shop");
        let may = |namespaces: &[&str]| {
            Token::Client(namespaces.iter().map(ToString::to_string).collect())
        };
        nomad.issue(SECRET, may(&["default", "shop"]));
        nomad.register_all([web(1), web(2).namespace("shop")]);
        let mut weather = Weather::over(nomad, Via::Agent, namespaces);
        weather.settled().await;
        weather.pass(A_WHILE).await;
        weather.said();
        weather.nomad.issue(SECRET, may(&["default"]));
        weather.nomad.register(web(3));
        weather
            .nomad
            .deregister(&[web(2).namespace("shop").key()], Deletion::PlanResult);
        weather.pass(HELD).await;
        let shop = ServiceKey::new("shop", "web");
        assert!(weather.known.contains_key(&shop), "{namespaces:?}");
        assert_eq!(weather.webs(), [1, 3], "the other goes on");
        assert_eq!(weather.said(), [format!("{before}{denied}")]);
        weather.nomad.issue(SECRET, may(&["default", "shop"]));
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), ["recovered, namespace shop"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_appears_later_is_followed() {
    for namespaces in [&["*"][..], &["default", "late"]] {
        let nomad = FakeNomad::in_memory(Version::V1_11_2);
        nomad.issue(SECRET, Token::Client(vec!["*".into()]));
        nomad.register(web(1));
        let mut weather = Weather::over(nomad, Via::Agent, namespaces);
        weather.settled().await;
        weather.pass(A_WHILE).await;
        weather.said();
        weather.nomad.create_namespace("late");
        weather.nomad.register(web(7).namespace("late"));
        weather.pass(AT_ONCE).await;
        assert_eq!(weather.known, weather.catalog(), "{namespaces:?}");
        assert_eq!(weather.said(), [""; 0], "{namespaces:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_granted_brings_the_stream_and_ends_the_queries() {
    for via in BOTH {
        let mut weather = by_right_of_birth(via).await;
        weather
            .nomad
            .issue(SECRET, Token::Workload(vec!["default".into()]));
        assert_eq!(weather.hears(STREAMING).await, [STREAMING], "{via:?}");
        assert!(weather.started.elapsed() < Duration::from_mins(2));
        weather.pass(AT_ONCE).await;
        let reads = weather.nomad.count(Kind::Read);
        weather.change(3, 1);
        weather.pass(AT_ONCE).await;
        assert_eq!(weather.known, weather.catalog());
        assert_eq!(weather.told.last(), Some(&Some(weather.nomad.index())));
        assert_eq!(weather.nomad.count(Kind::Read), reads, "no query is held");
        weather.nomad.issue(SECRET, Token::Workload(Vec::new()));
        weather.nomad.silence_streams();
        weather.change(4, 2);
        weather.settled().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_neighbour_does_not_make_it_ask_without_a_pause() {
    for via in BOTH {
        let mut weather = by_right_of_birth(via).await;
        let requests = weather.nomad.seen().len();
        for n in 0..1000_u32 {
            let row = ServiceRegistration::new("busy", 9, 8080).namespace("other");
            weather.nomad.register(row.tags(&[&n.to_string()]));
            weather.pass(Duration::from_millis(20)).await;
        }
        let requests = weather.nomad.seen().len() - requests;
        assert!(requests <= 20 * 8, "{via:?}: {requests} in 20 s");
        weather.change(3, 1);
        weather.pass(AT_ONCE).await;
        assert_eq!(weather.webs(), [2, 3]);
        assert_eq!(weather.said(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_held_query_that_is_never_answered_is_given_up() {
    for via in BOTH {
        let mut weather = by_right_of_birth(via).await;
        weather.nomad.mode(Which::Lists, Mode::Hang);
        weather.nomad.mode(Which::Reads, Mode::Hang);
        weather.change(3, 1);
        weather.pass(Duration::from_mins(3)).await;
        assert_eq!(weather.webs(), [1, 2], "{via:?}");
        // The wait, its jitter, and fifteen seconds.
        let late = "no answer within 78 s: the agent or its servers hang, or are overloaded";
        let told = through(via, &trouble(FailureKind::Timeout, late));
        assert_eq!(weather.said(), [told]);
        weather.nomad.thaw();
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [RECOVERED]);
    }
}

#[tokio::test(start_paused = true)]
async fn more_services_than_queries_are_followed_by_their_namespace() {
    let nomad = FakeNomad::in_memory(Version::V2_0_5);
    nomad.issue(SECRET, Token::Workload(Vec::new()));
    let rows = (0..100).map(|n| ServiceRegistration::new(&format!("s{n:03}"), n, 8080));
    nomad.register_all(rows.clone());
    let mut weather = Weather::over(nomad, Via::TaskApi, &["default"]);
    weather.settled().await;
    weather.pass(Duration::from_secs(10)).await;
    assert_eq!(
        weather.said(),
        [through(Via::TaskApi, &without_stream(SILENT))]
    );
    assert!(
        weather.nomad.connections() < 80,
        "{}",
        weather.nomad.connections()
    );
    let requests = weather.nomad.seen().len();
    weather.pass(Duration::from_mins(1)).await;
    let at_rest = weather.nomad.seen().len() - requests;
    assert!(at_rest <= 120, "{at_rest} requests in a minute at rest");
    for row in rows.step_by(33) {
        let changed = Instant::now();
        weather.nomad.register(row.tags(&["v2"]));
        weather.settled().await;
        assert!(
            changed.elapsed() < Duration::from_secs(3),
            "{:?}",
            changed.elapsed()
        );
    }
    assert_eq!(weather.said(), [""; 0]);
}
