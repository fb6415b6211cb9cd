//! Answers that are late, cut, endless or refusals: nothing of them is believed, nothing is removed, and what was missed is
//! read as soon as that works.

use std::time::Duration;

use haproxy_nomad_sidecar::catalog::FailureKind;

use crate::{
    support::fake_nomad::{FakeNomad, Kind, Mode, Recorded, Token, Version, Via, Which},
    weather::{DEAD, RECOVERED, SECRET, STREAMING, Weather, lost, trouble, web},
};

const A_WHILE: Duration = Duration::from_secs(65);

impl Weather {
    /// While lists and reads are answered by `mode`, and there is no stream, everything stays; `reason` is said; then all is well.
    async fn endures(&mut self, mode: Mode, kind: FailureKind, reason: &str) {
        self.nomad.mode(Which::Streams, Mode::Hold);
        self.nomad.mode(Which::Lists, mode);
        self.nomad.mode(Which::Reads, mode);
        self.nomad.cut_streams();
        self.change(3, 1);
        self.pass(A_WHILE).await;
        assert_eq!(self.webs(), [1, 2], "{mode:?}");
        assert_eq!(
            self.said(),
            [lost("the event stream ended"), trouble(kind, reason)],
            "{mode:?}"
        );
        self.nomad.thaw();
        self.settled().await;
        self.pass(A_WHILE).await;
        assert_eq!(self.said(), [RECOVERED], "{mode:?}");
        assert!(self.streams(), "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_short_is_none() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    let broke = "the connection broke: error reading a body from connection: end of file before message length reached";
    weather
        .endures(Mode::CutShort, FailureKind::Unreachable, broke)
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stalls_or_trickles_is_given_up() {
    let late = "no answer within 15 s: the agent or its servers hang, or are overloaded";
    for mode in [
        Mode::Stall,
        Mode::Hang,
        Mode::Trickle(Duration::from_secs(1)),
    ] {
        let mut weather = Weather::fair(Version::V2_0_5).await;
        weather.endures(mode, FailureKind::Timeout, late).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_two_gibibytes_is_not_read() {
    let long = "the answer is longer than 8 MiB, or would take more than 16 MiB of memory, and is not read; what is known stays: give its services fewer and shorter tags, or spread them over several namespaces (--namespaces a,b)";
    for mode in [Mode::Huge, Mode::Endless] {
        let mut weather = Weather::fair(Version::V2_0_5).await;
        weather.endures(mode, FailureKind::TooLong, long).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_is_told_in_nomads_own_words() {
    for (answer, reason) in [
        (
            Recorded::ConnectionRefused,
            "status 500: rpc error: failed to get conn: dial tcp 127.0.0.1:14947: connect: connection refused",
        ),
        (
            Recorded::RpcNotReady,
            "status 500: rpc error: Not ready to serve consistent reads",
        ),
        (
            Recorded::NotReady,
            "status 500: Not ready to serve consistent reads",
        ),
        (Recorded::NoLeader, "status 500: No cluster leader"),
        (Recorded::NoServers, "status 500: no servers"),
    ] {
        let mut weather = Weather::fair(Version::V2_0_5).await;
        weather
            .endures(Mode::Answer(answer), FailureKind::ServerError, reason)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_too_many_is_refused_before_it_asks() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    let refused = Mode::Answer(Recorded::TooManyConnections);
    weather.nomad.mode(Which::Connections, refused);
    weather.nomad.cut();
    weather.change(3, 1);
    weather.pass(A_WHILE).await;
    assert_eq!(weather.webs(), [1, 2]);
    let limited = "too many connections or requests (429: Your IP is issuing too many concurrent connections, please rate limit your calls): see limits.http_max_conns_per_client of the agent";
    assert_eq!(
        weather.said(),
        [
            lost("the event stream ended"),
            trouble(FailureKind::Limited, limited)
        ]
    );
    weather.nomad.thaw();
    weather.settled().await;
    weather.pass(A_WHILE).await;
    assert_eq!(weather.said(), [RECOVERED]);
}

#[tokio::test(start_paused = true)]
async fn a_client_agent_that_has_just_started_holds_every_read() {
    let nomad = FakeNomad::in_memory(Version::V2_0_5);
    nomad.issue(SECRET, Token::Client(vec!["default".into()]));
    nomad.register_all([web(1), web(2)]);
    nomad.mode(Which::Lists, Mode::Hold);
    nomad.mode(Which::Reads, Mode::Hold);
    let mut weather = Weather::over(nomad, Via::Agent, &["default"]);
    weather.pass(Duration::from_secs(10)).await;
    assert_eq!(weather.said(), [STREAMING]);
    assert!(weather.known.is_empty());
    weather.nomad.thaw();
    weather.settled().await;
    assert_eq!(
        weather.started.elapsed().as_secs(),
        10,
        "the held one is enough"
    );
    weather.pass(A_WHILE).await;
    assert_eq!(weather.said(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_within_a_line_is_opened_anew() {
    for (version, end) in [
        (
            Version::V1_10_5,
            "the event stream broke: error reading a body from connection: end of file before message length reached",
        ),
        (Version::V2_0_5, "the event stream ended within a line"),
    ] {
        let mut weather = Weather::fair(version).await;
        weather.nomad.cut_streams_within(
            r#"{"Events":[{"FilterKeys":["web","web"],"Index":203,"Key":"_nomad"}]}"#,
        );
        weather.change(3, 1);
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert_eq!(weather.said(), [lost(end)], "{version:?}");
        assert!(weather.streams());
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_trickles_is_dead_when_a_line_takes_too_long() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    let trickle = Mode::Trickle(Duration::from_millis(250));
    weather.nomad.mode(Which::Streams, trickle);
    weather.nomad.cut_streams();
    weather.change(3, 1);
    weather.settled().await;
    weather.pass(A_WHILE).await;
    assert_eq!(
        weather.said(),
        [lost("the event stream ended"), lost(DEAD)],
        "a line of the past takes longer"
    );
    weather.change(4, 2);
    weather.settled().await;
    weather.nomad.thaw();
    weather.pass(A_WHILE).await;
    weather.said();
    weather.change(5, 3);
    weather.settled().await;
    assert!(weather.streams());
}

#[tokio::test(start_paused = true)]
async fn nonsense_on_a_stream_ends_it() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    weather.nomad.say(r#"{"Index":"none"}"#);
    weather.change(3, 1);
    weather.settled().await;
    weather.pass(A_WHILE).await;
    let reason = r#"a line of the event stream cannot be understood: invalid type: string "none", expected u64 at line 1 column 15"#;
    assert_eq!(weather.said(), [lost(reason)]);
}

#[tokio::test(start_paused = true)]
async fn the_task_api_says_what_is_wrong_with_a_token() {
    let socket = "nomad at unix:///secrets/api.sock: ";
    for (answer, kind, reason) in [
        (
            Recorded::Unauthorized,
            FailureKind::BadToken,
            "denied (401: Unauthorized): nomad knows no such token: replace NOMAD_TOKEN",
        ),
        (
            Recorded::Forbidden,
            FailureKind::Denied,
            "denied (403: Forbidden): the token may not read services in namespace default, or nomad does not know it: it needs the policy `namespace \"default\" { capabilities = [\"read-job\"] }`",
        ),
        (
            Recorded::ServerErrorAuthenticating,
            FailureKind::BadToken,
            "the token could not be authenticated (500: Server error authenticating request): the token is not valid, or the agent has no server to ask; the token is read again and everything stays as it is",
        ),
    ] {
        let nomad = FakeNomad::in_memory(Version::V2_0_5);
        nomad.issue(SECRET, Token::Workload(vec!["default".into()]));
        nomad.register_all([web(1), web(2)]);
        let mut weather = Weather::over(nomad, Via::TaskApi, &["default"]);
        weather.settled().await;
        weather.pass(Duration::from_secs(1)).await;
        assert_eq!(weather.said(), [STREAMING]);
        weather.nomad.mode(Which::Every, Mode::Answer(answer));
        weather.nomad.cut();
        weather.change(3, 1);
        weather.pass(A_WHILE).await;
        assert_eq!(weather.webs(), [1, 2]);
        let lost = format!("stream lost: {socket}the event stream ended");
        let refused = format!("{kind}, namespace default: {socket}{reason}");
        assert_eq!(weather.said(), [lost, refused]);
        weather.nomad.thaw();
        weather.settled().await;
        weather.pass(A_WHILE).await;
        assert!(weather.streams());
    }
}

#[tokio::test(start_paused = true)]
async fn the_socket_of_the_task_api_goes_with_its_agent_and_comes_back() {
    let nomad = FakeNomad::in_memory(Version::V2_0_5);
    nomad.issue(SECRET, Token::Workload(vec!["default".into()]));
    nomad.register_all([web(1), web(2)]);
    let mut weather = Weather::over(nomad, Via::TaskApi, &["default"]);
    weather.settled().await;
    weather.said();
    weather.nomad.shut_down().await;
    weather.change(3, 1);
    weather.pass(A_WHILE).await;
    assert_eq!(weather.webs(), [1, 2]);
    let said = weather.said();
    let gone = "cannot connect: entity not found: is the agent running, and is this its socket? in a job it is ${NOMAD_SECRETS_DIR}/api.sock";
    assert!(said.iter().any(|text| text.ends_with(gone)), "{said:#?}");
    weather.nomad.resume().await;
    weather.settled().await;
}

#[tokio::test(start_paused = true)]
async fn neither_stale_nor_compressed_answers_are_asked_for() {
    let mut weather = Weather::fair(Version::V1_10_5).await;
    weather.resync().await;
    weather.pass(A_WHILE).await;
    assert_eq!(weather.said(), [""; 0]);
    let seen = weather.nomad.seen();
    assert!(seen.iter().any(|seen| seen.kind == Kind::Stream));
    for seen in seen {
        assert_eq!(seen.request.parameter("stale"), None, "a young server lies");
        assert!(!seen.request.headers.contains_key("accept-encoding"));
    }
}
