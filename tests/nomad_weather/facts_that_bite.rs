//! The facts about Nomad that bite a client that does not know them, each with what is known and said when it bites.

use std::time::Duration;

use haproxy_nomad_sidecar::{catalog::FailureKind, model::ServiceKey};
use tokio::time::{Instant, sleep};

use crate::{
    support::fake_nomad::{
        Deletion, FakeNomad, Key, Kind, Mode, Recorded, ServiceRegistration, Token, Version, Via,
        Which,
    },
    weather::{
        AGENT, DEAD, DENIED, INDEX_0, INDEX_0_OF_STAR, RECOVERED, SECRET, STREAMING, Weather, lost,
        trouble, web, without_stream,
    },
};

const AT_ONCE: Duration = Duration::from_secs(1);
const A_WHILE: Duration = Duration::from_secs(65);
/// Within this everything is found that no event tells.
const PROMISE: Duration = Duration::from_mins(10);

/// A watch over all namespaces, `default` and `shop` with one instance of `web` each.
async fn everywhere() -> Weather {
    let nomad = FakeNomad::in_memory(Version::V2_0_5);
    nomad.issue(SECRET, Token::Client(vec!["*".into()]));
    nomad.create_namespace("shop");
    nomad.register_all([web(1), web(2).namespace("shop")]);
    let mut weather = Weather::over(nomad, Via::Agent, &["*"]);
    weather.settled().await;
    weather.pass(AT_ONCE).await;
    assert_eq!(weather.said(), [STREAMING.replace("default", "*")]);
    weather
}

#[tokio::test(start_paused = true)]
async fn the_type_of_an_event_is_no_verb() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    weather.nomad.register_all([web(3), web(4), web(5)]);
    for (alloc, deletion) in [
        (1, Deletion::ServiceDeregistration),
        (2, Deletion::PlanResult),
        (3, Deletion::AllocationUpdated),
        (4, Deletion::NodeStreamEvent),
    ] {
        weather.nomad.deregister(&[web(alloc).key()], deletion);
        weather.pass(AT_ONCE).await;
        assert!(!weather.webs().contains(&alloc), "{deletion:?}");
    }
    // Of a version that nobody has seen.
    let (_, row) = weather.nomad.rows().pop_first().expect("one is left");
    let service = serde_json::to_value(&row).expect("a row is JSON");
    let index = weather.nomad.index() + 1;
    weather.nomad.replay(
        &serde_json::json!({"Index": index, "Events": [{
            "Topic": "Service", "Type": "JobDeregistered", "Payload": {"Service": service},
        }]})
        .to_string(),
    );
    weather.pass(AT_ONCE).await;
    assert_eq!(weather.webs(), [0; 0]);
    assert_eq!(weather.known, weather.catalog());
    assert_eq!(weather.said(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn deletions_by_garbage_collection_send_no_event() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    let api = ServiceRegistration::new("api", 7, 8080);
    weather.nomad.register(api.clone());
    weather.settled().await;
    // While it cannot be read, the list alone takes nothing out.
    let denied = Mode::Answer(Recorded::PermissionDenied);
    weather.nomad.mode(Which::Service("api".into()), denied);
    weather.nomad.delete_silently(&[web(1).key(), api.key()]);
    weather.pass(PROMISE).await;
    assert_eq!(weather.webs(), [2], "one is found,");
    let key = ServiceKey::new("default", "api");
    assert!(weather.known.contains_key(&key), "the other is not proven");
    let unread =
        format!("denied, service default/api: service default/api cannot be read: {AGENT}{DENIED}");
    assert_eq!(weather.said(), [unread]);
    weather.nomad.mode(Which::Every, Mode::Normal);
    weather.settled().await;
    weather.pass(AT_ONCE).await;
    assert_eq!(weather.said(), ["recovered, service default/api"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_star_without_a_right_is_a_false_empty() {
    let mut weather = everywhere().await;
    let before = weather.known.clone();
    weather.nomad.issue(SECRET, Token::Client(Vec::new()));
    weather.nomad.silence_streams();
    weather.change(3, 1);
    weather.pass(PROMISE).await;
    assert_eq!(weather.known, before);
    let mut said = weather.said();
    said.sort();
    assert_eq!(
        said,
        [
            trouble(FailureKind::NotBelievable, INDEX_0_OF_STAR)
                .replace("namespace default", "namespace *"),
            lost(DEAD),
        ]
    );
    weather.nomad.issue(SECRET, Token::Client(vec!["*".into()]));
    weather.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_agent_that_shuts_down_answers_with_nothing() {
    for index in [Recorded::ShuttingDown, Recorded::NoRightAnywhere] {
        let mut weather = Weather::fair(Version::V2_0_5).await;
        // It takes a tenth of a second, and here long enough to be asked.
        for which in [Which::Lists, Which::Reads] {
            weather.nomad.mode(which, Mode::Answer(index));
        }
        weather.nomad.mode(Which::Streams, Mode::Hold);
        weather.nomad.cut_streams();
        weather.change(3, 1);
        weather.pass(A_WHILE).await;
        assert_eq!(weather.webs(), [1, 2], "{index:?}");
        assert_eq!(
            weather.said(),
            [
                lost("the event stream ended"),
                trouble(FailureKind::NotBelievable, INDEX_0)
            ],
            "{index:?}"
        );
        weather.nomad.shut_down().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.webs(), [1, 2], "{index:?}");
        weather.nomad.resume().await;
        weather.settled().await;
        weather.pass(A_WHILE).await;
        let refused = "cannot connect: connection refused: is the agent running? set NOMAD_ADDR to where it answers";
        assert_eq!(
            weather.said(),
            [
                trouble(FailureKind::Unreachable, refused).as_str(),
                RECOVERED
            ]
        );
        assert!(weather.streams());
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_read_knows_no_star() {
    let mut weather = everywhere().await;
    weather.resync().await;
    weather.pass(PROMISE).await;
    let seen = weather.nomad.seen();
    let reads = seen.iter().filter(|seen| seen.kind == Kind::Read);
    let namespaces: Vec<String> = reads.map(|seen| seen.request.namespace()).collect();
    assert!(namespaces.len() >= 4, "{namespaces:?}");
    for namespace in namespaces {
        assert!(["default", "shop"].contains(&namespace.as_str()));
    }
    assert_eq!(weather.known.len(), 2);
    assert_eq!(weather.said(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_server_ends_is_not_closed() {
    // Without a first line it is denied, whether its end comes (it was seen after 1.6 s) or not.
    for (ends, after, reason) in [
        (
            false,
            5,
            "the event stream stayed silent for 5 s: denied, or the event broker is disabled; to follow by events, give the token the policy `namespace \"default\" { capabilities = [\"read-job\"] }`",
        ),
        (
            true,
            1,
            "the event stream ended without a line: denied, or the event broker is disabled; to follow by events, give the token the policy `namespace \"default\" { capabilities = [\"read-job\"] }`",
        ),
    ] {
        let nomad = FakeNomad::in_memory(Version::V2_0_5);
        nomad.issue(SECRET, Token::Workload(Vec::new()));
        nomad.register(web(1));
        let mut weather = Weather::over(nomad, Via::Agent, &["default"]);
        if ends {
            weather.pass(Duration::from_millis(1600)).await;
            weather.nomad.cut();
        }
        weather.hears(&without_stream(reason)).await;
        assert_eq!(weather.started.elapsed().as_secs(), after);
        weather.settled().await;
    }
    // Without a line for 40 s it is dead, whatever the reason was: the last heartbeat came after 30 s.
    let mut weather = Weather::fair(Version::V2_0_5).await;
    weather.pass(Duration::from_secs(31)).await;
    weather.nomad.silence_streams();
    weather.change(3, 1);
    assert_eq!(weather.hears(&lost(DEAD)).await, [lost(DEAD)]);
    assert_eq!(weather.started.elapsed().as_secs(), 70);
    weather.settled().await;
    assert!(weather.started.elapsed() < Duration::from_secs(73));
}

#[tokio::test(start_paused = true)]
async fn nomad_1_11_2_says_http_0_0() {
    let nomad = FakeNomad::in_memory(Version::V1_11_2);
    nomad.issue(SECRET, Token::Client(vec!["default".into()]));
    nomad.register_all([web(1), web(2)]);
    let mut weather = Weather::over(nomad, Via::Agent, &["default"]);
    weather.settled().await;
    weather.pass(A_WHILE).await;
    let reason = "the head of the event stream is no HTTP/1 (Nomad 1.11.2, 1.10.8+ent and 1.8.20+ent send HTTP/0.0; fixed in the next release): invalid HTTP version parsed";
    assert_eq!(weather.said(), [without_stream(reason)]);
    weather.change(3, 1);
    weather.settled().await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_never_reported() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    weather.nomad.stop().await;
    weather.change(3, 1);
    // The ring has room for 100 batches of all topics.
    weather.nomad.other_entries(130);
    weather.nomad.resume().await;
    weather.settled().await;
    weather.pass(A_WHILE).await;
    assert_eq!(weather.webs(), [2, 3]);
    let said = weather.said();
    assert_eq!(said[0], lost("the event stream ended"));
    weather.change(4, 2);
    weather.settled().await;
    assert!(weather.streams());
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_star_does_not_deliver_younger_namespaces() {
    let mut weather = everywhere().await;
    weather.nomad.create_namespace("late");
    weather.nomad.register(web(7).namespace("late"));
    weather.pass(AT_ONCE).await;
    assert_eq!(weather.known.len(), 2, "no event tells of it");
    let waited = Instant::now();
    weather.settled().await;
    assert!(waited.elapsed() <= Duration::from_mins(1), "the list does");
    // From now on by events.
    weather.pass(A_WHILE).await;
    weather.nomad.register(web(8).namespace("late"));
    weather.pass(AT_ONCE).await;
    assert_eq!(weather.known, weather.catalog());
    assert_eq!(weather.told.last(), Some(&Some(weather.nomad.index())));
    assert_eq!(weather.said(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn the_catalog_knows_nothing_of_health() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    // Registered before its task starts, and listed for as long as it does not answer.
    weather.nomad.register(web(3));
    weather.pass(AT_ONCE).await;
    assert_eq!(weather.webs(), [1, 2, 3]);
    weather.pass(PROMISE).await;
    assert_eq!(weather.webs(), [1, 2, 3]);
    // What an operator deletes stays away, though its task runs on: nothing repairs it.
    weather
        .nomad
        .deregister(&[web(3).key()], Deletion::ServiceDeregistration);
    weather.pass(PROMISE).await;
    assert_eq!(weather.webs(), [1, 2]);
    assert_eq!(weather.said(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_index_does_not_protect_from_the_past() {
    for (version, end) in [
        (
            Version::V1_10_5,
            "the event stream broke: error reading a body from connection: unexpected EOF during chunk size line",
        ),
        (Version::V2_0_5, "the event stream ended"),
    ] {
        let mut weather = Weather::fair(version).await;
        weather.change(3, 1);
        weather.nomad.register(web(2).tags(&["v2"]));
        weather.settled().await;
        let known = weather.known.clone();
        weather.nomad.begin_restart();
        weather.pass(Duration::from_secs(3)).await;
        let not_ready = "status 500: Not ready to serve consistent reads";
        assert_eq!(
            weather.said(),
            [lost(end), trouble(FailureKind::ServerError, not_ready)]
        );
        let told = weather.told.len();
        weather.nomad.finish_restart();
        weather.pass(A_WHILE).await;
        assert_eq!(weather.known, known, "{version:?}");
        assert_eq!(weather.told.len(), told, "nothing of the past is told");
        assert_eq!(weather.said(), [RECOVERED]);
        weather.change(4, 2);
        weather.settled().await;
        assert!(weather.streams());
    }
}

#[tokio::test(start_paused = true)]
async fn a_replacement_is_registered_when_its_predecessor_has_ended() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    let keys: Vec<Key> = [1, 2].map(|alloc| web(alloc).key()).into();
    weather
        .nomad
        .deregister(&keys[..1], Deletion::ServiceDeregistration);
    weather
        .nomad
        .deregister(&keys[1..], Deletion::ServiceDeregistration);
    weather.pass(AT_ONCE).await;
    assert!(
        weather.known.is_empty(),
        "told as it is: it is for others to wait"
    );
    weather.pass(Duration::from_millis(4300)).await;
    weather.nomad.register(web(3));
    weather.pass(AT_ONCE).await;
    assert_eq!(weather.webs(), [3]);
    assert_eq!(weather.said(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_that_returns_brings_ghosts() {
    for haunting in [20, 300].map(Duration::from_millis) {
        let mut weather = Weather::fair(Version::V2_0_5).await;
        weather
            .nomad
            .deregister(&[web(1).key()], Deletion::PlanResult);
        weather.settled().await;
        let (told, index) = (weather.told.len(), weather.nomad.index());
        weather.nomad.haunt(vec![web(1)], haunting).await;
        weather.pass(AT_ONCE).await;
        assert_eq!(weather.webs(), [2]);
        // It is told, and gone: nothing waits, because HAProxy admits nobody who does not answer.
        assert_eq!(weather.told[told..], [Some(index + 1), Some(index + 2)]);
        // A resync meanwhile changes nothing of that.
        weather.nomad.register(web(1));
        weather.resync().await;
        sleep(haunting).await;
        weather
            .nomad
            .deregister(&[web(1).key()], Deletion::ServiceDeregistration);
        weather.pass(AT_ONCE).await;
        assert_eq!(weather.webs(), [2]);
        assert_eq!(weather.said(), [""; 0]);
    }
}
