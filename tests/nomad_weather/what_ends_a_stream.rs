//! What ends a stream, and what is said and known then: the versions differ. Before 1.11.2 Nomad says why; since then most
//! streams fall silent, and the end of the connection comes late or never.

use std::time::Duration;

use haproxy_nomad_sidecar::catalog::FailureKind;
use tokio::time::sleep;

use crate::{
    support::fake_nomad::{FakeNomad, Mode, Recorded, Token, Version, Via, Which},
    weather::{
        DEAD, DENIED, RECOVERED, SECRET, SILENT, STREAMING, Weather, lost, trouble, web,
        without_stream,
    },
};

/// A minute, and what comes late in it.
const A_WHILE: Duration = Duration::from_secs(65);

fn may_read() -> Token {
    Token::Client(vec!["default".into()])
}

#[tokio::test(start_paused = true)]
async fn a_right_that_is_missing_denies_it() {
    for (version, reason) in [
        // What a valid token without the right got there.
        (Version::V1_9_5, "status 500: Permission denied"),
        (Version::V1_10_5, "denied (403: Permission denied)"),
        (Version::V1_11_2, "invalid HTTP version parsed"),
        (
            Version::V2_0_5,
            "the event stream stayed silent for 5 s: denied, or the event broker is disabled",
        ),
    ] {
        let nomad = FakeNomad::in_memory(version);
        nomad.issue(SECRET, Token::Workload(Vec::new()));
        nomad.register_all([web(1), web(2)]);
        let mut weather = Weather::over(nomad, Via::Agent, &["default"]);
        weather.settled().await;
        assert!(
            weather.started.elapsed() < Duration::from_secs(1),
            "{version:?}: the catalog does not wait for the stream"
        );
        weather.pass(Duration::from_secs(10)).await;
        let said = weather.said();
        let [text] = said.as_slice() else {
            panic!("{version:?}: {said:#?}");
        };
        assert!(text.starts_with(&without_stream("")), "{text}");
        assert!(text.contains(reason), "{text}");
        let policy = "the policy `namespace \"default\" { capabilities = [\"read-job\"] }`";
        assert_eq!(
            text.ends_with(policy),
            version != Version::V1_11_2,
            "no right helps against 1.11.2: {text}"
        );
        weather.change(3, 1);
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [""; 0], "{version:?}: said once");

        weather
            .nomad
            .issue(SECRET, Token::Workload(vec!["default".into()]));
        if version != Version::V1_11_2 {
            assert_eq!(weather.hears(STREAMING).await, [STREAMING], "{version:?}");
        }
        weather.change(4, 2);
        weather.settled().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_token_ends_it() {
    for (version, end) in [
        (
            Version::V1_10_5,
            "the event stream ended: subscription closed by server, client should resubscribe",
        ),
        (Version::V2_0_5, DEAD),
    ] {
        let mut weather = Weather::fair(version).await;
        weather.nomad.revoke(SECRET);
        weather.change(3, 1);
        weather.pass(A_WHILE).await;
        assert_eq!(weather.webs(), [1, 2], "a denial removes nothing");
        let mut said = weather.said();
        said.sort();
        assert_eq!(
            said,
            [trouble(FailureKind::Denied, DENIED), lost(end)],
            "{version:?}"
        );
        weather.nomad.issue(SECRET, may_read());
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [RECOVERED], "{version:?}");
        assert!(weather.streams());
    }
}

#[tokio::test(start_paused = true)]
async fn a_revocation_may_miss_it() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    weather.nomad.issue(SECRET, Token::Workload(Vec::new()));
    weather.change(3, 1);
    weather.settled().await;
    weather.pass(A_WHILE * 2).await;
    assert_eq!(
        weather.said(),
        [""; 0],
        "the stream goes on, and so do lists"
    );
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_ends_it_at_the_next_event() {
    for (version, end) in [
        (
            Version::V1_10_5,
            "the event stream ended: ACL token expired",
        ),
        (Version::V2_0_5, DEAD),
    ] {
        let mut weather = Weather::fair(version).await;
        weather.nomad.expire(SECRET);
        weather.pass(A_WHILE).await;
        assert_eq!(
            weather.said(),
            [trouble(FailureKind::Denied, DENIED)],
            "{version:?}: the stream has its heartbeats, the list is denied"
        );
        weather.change(3, 1);
        let said = weather.hears(&lost(end)).await;
        assert_eq!(said, [lost(end)], "{version:?}");
        assert_eq!(
            weather.webs(),
            [1, 2],
            "the event is lost, and nothing else"
        );
        weather.nomad.issue(SECRET, may_read());
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert!(weather.streams(), "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_lags_is_dropped() {
    for (version, end) in [
        (
            Version::V1_10_5,
            "the event stream ended: event dropped from buffer",
        ),
        (Version::V2_0_5, DEAD),
    ] {
        let mut weather = Weather::fair(version).await;
        weather.nomad.overrun_streams();
        weather.change(3, 1);
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [lost(end)], "{version:?}");
        assert!(weather.streams());
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_agent_ends_it() {
    for (version, end) in [
        (
            Version::V1_10_5,
            "the event stream broke: error reading a body from connection: unexpected EOF during chunk size line",
        ),
        (Version::V2_0_5, "the event stream ended"),
    ] {
        let mut weather = Weather::fair(version).await;
        weather.nomad.shut_down().await;
        weather.change(3, 1);
        weather.pass(A_WHILE).await;
        assert_eq!(weather.webs(), [1, 2]);
        let refused = "cannot connect: connection refused: is the agent running? set NOMAD_ADDR to where it answers";
        assert_eq!(
            weather.said(),
            [lost(end), trouble(FailureKind::Unreachable, refused)],
            "{version:?}"
        );
        weather.nomad.resume().await;
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [RECOVERED], "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_server_behind_a_client_agent_ends_it() {
    for (version, end) in [
        (Version::V1_10_5, "the event stream ended: EOF"),
        (Version::V2_0_5, "the event stream ended"),
    ] {
        let mut weather = Weather::fair(version).await;
        weather.nomad.lose_server().await;
        weather.change(3, 1);
        weather.pass(A_WHILE).await;
        assert_eq!(weather.webs(), [1, 2]);
        let refused = "status 500: rpc error: failed to get conn: dial tcp 127.0.0.1:14947: connect: connection refused";
        assert_eq!(
            weather.said(),
            [lost(end), trouble(FailureKind::ServerError, refused)],
            "{version:?}"
        );
        weather.nomad.thaw();
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [RECOVERED], "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restored_snapshot_ends_it() {
    for (version, closes, end) in [
        (
            Version::V1_10_5,
            false,
            "the event stream ended: subscription closed by server, client should resubscribe",
        ),
        // As 2.0.5 did it,
        (Version::V2_0_5, true, "the event stream ended"),
        // and as 1.11.3 did.
        (Version::V2_0_5, false, DEAD),
    ] {
        let mut weather = Weather::fair(version).await;
        let snapshot = weather.nomad.snapshot();
        weather.change(3, 1);
        weather.settled().await;
        assert_eq!(weather.webs(), [2, 3]);
        weather.nomad.restore(snapshot);
        if closes {
            sleep(Duration::from_millis(445)).await;
            weather.nomad.cut_streams();
        }
        weather.settled().await;
        assert_eq!(weather.webs(), [1, 2], "{version:?}");
        weather.pass(A_WHILE).await;
        let went_back = "the index of namespace default went back from 14 to 12";
        assert_eq!(
            weather.said(),
            [lost(end).as_str(), went_back],
            "{version:?}"
        );
        weather.change(4, 2);
        weather.settled().await;
        assert!(weather.streams());
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_blocks_for_40_s_ends_it() {
    for (version, end) in [
        // It waits for ever.
        (Version::V1_10_5, None),
        (
            Version::V2_0_5,
            Some("the event stream ended within a line"),
        ),
    ] {
        let mut weather = Weather::fair(version).await;
        for version in 0..5000 {
            weather.nomad.register(web(1).tags(&[&version.to_string()]));
        }
        // Nobody takes what the watch knows, so it takes no lines, and Nomad is stuck in its write.
        sleep(A_WHILE).await;
        weather.settled().await;
        weather.pass(A_WHILE).await;
        let said = weather.said();
        assert_eq!(said, end.map(lost).as_slice(), "{version:?}");
        weather.change(3, 2);
        weather.settled().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_event_broker_there_is_none() {
    for (version, reason) in [
        (
            Version::V1_10_5,
            "status 500: EventBroker not configured; the servers publish no events: see enable_event_broker in their configuration",
        ),
        (Version::V2_0_5, SILENT),
    ] {
        let nomad = FakeNomad::in_memory(version);
        nomad.issue(SECRET, may_read());
        nomad.switch_broker(false);
        nomad.register_all([web(1), web(2)]);
        let mut weather = Weather::over(nomad, Via::Agent, &["default"]);
        weather.pass(A_WHILE).await;
        weather.change(3, 1);
        weather.settled().await;
        assert_eq!(weather.said(), [without_stream(reason)], "{version:?}");
        weather.nomad.switch_broker(true);
        assert_eq!(weather.hears(STREAMING).await, [STREAMING], "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_known_server_there_is_none() {
    for version in [Version::V1_10_5, Version::V2_0_5] {
        let mut weather = Weather::fair(version).await;
        let none = Mode::Answer(Recorded::NoServers);
        weather.nomad.mode(Which::Every, none);
        weather.nomad.cut_streams();
        weather.change(3, 1);
        weather.pass(A_WHILE).await;
        assert_eq!(weather.webs(), [1, 2]);
        let said = weather.said();
        assert!(said[0].starts_with(&lost("the event stream ")), "{said:?}");
        assert_eq!(
            said[1..],
            [trouble(FailureKind::ServerError, "status 500: no servers")]
        );
        weather.nomad.thaw();
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [RECOVERED], "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_freezes_is_noticed_by_its_missing_heartbeats() {
    for version in [Version::V1_10_5, Version::V2_0_5] {
        let mut weather = Weather::fair(version).await;
        // Right before a heartbeat, so that it takes ten seconds more.
        weather.pass(Duration::from_secs(29)).await;
        weather.nomad.freeze();
        weather.change(3, 1);
        weather.pass(Duration::from_secs(100)).await;
        assert_eq!(weather.webs(), [1, 2]);
        let hangs = "no answer within 15 s: the agent or its servers hang, or are overloaded";
        assert_eq!(
            weather.said(),
            [lost(DEAD), trouble(FailureKind::Timeout, hangs)],
            "{version:?}"
        );
        weather.nomad.thaw();
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [RECOVERED], "{version:?}");
        assert!(weather.streams());
    }
}
