//! The answers themselves: bytes recorded from real agents (`tests/fixtures/nomad-*/http`), and the heads of the two
//! that carry a catalog, written as recorded. `tests/fake_nomad.rs` compares both with the recordings.

use super::{Version, Via};

/// When every answer was given. A constant: nothing reads it, and recordings can be compared byte by byte.
const DATE: &str = "Tue, 24 Nov 2026 15:38:05 GMT";

/// An error with `$text`, as agents write one (`command/agent/http.go:761-797`).
macro_rules! error {
    ($status:literal, $length:literal, $text:literal) => {
        concat!(
            "HTTP/1.1 ",
            $status,
            "\r\nContent-Type: text/plain; charset=utf-8\r\n",
            "Vary: Accept-Encoding\r\nDate: Tue, 24 Nov 2026 15:38:05 GMT\r\nContent-Length: ",
            $length,
            "\r\n\r\n",
            $text
        )
    };
}

macro_rules! recorded {
    (
        $(#[$doc:meta] $name:ident = $path:literal;)*
        by its source: $(#[$read_doc:meta] $read_name:ident = $status:literal $length:literal $text:literal;)*
    ) => {
        /// An answer that is always the same.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
        pub(crate) enum Recorded { $(#[$doc] $name,)* $(#[$read_doc] $read_name,)* }

        impl Recorded {
            fn bytes(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("../../fixtures/", $path)),)*
                    $(Self::$read_name => error!($status, $length, $text),)*
                }
            }
        }
    };
}

recorded! {
    /// A named namespace or a service that the token may not read.
    PermissionDenied = "nomad-2.0.5/http/list-denied-403.http";
    /// `index` is no number.
    InvalidIndex = "nomad-2.0.5/http/error-bad-index-400.http";
    /// `wait` is no Go duration.
    InvalidWait = "nomad-2.0.5/http/error-bad-wait-400.http";
    /// The same at the gate of the Task API, which answers twice in one.
    TaskApiInvalidIndex = "nomad-2.0.5/http/task-api-bad-index-400.http";
    /// The same at the gate of the Task API.
    TaskApiInvalidWait = "nomad-2.0.5/http/task-api-bad-wait-400.http";
    /// Anything but what the path takes.
    InvalidMethod = "nomad-2.0.5/http/error-method-405.http";
    /// `index` of a stream is no number.
    StreamInvalidIndex = "nomad-2.0.5/http/error-stream-bad-index-400.http";
    /// A topic with two colons.
    StreamInvalidTopic = "nomad-2.0.5/http/error-stream-bad-topic-400.http";
    /// No such path.
    NotFound = "nomad-2.0.5/http/unknown-path-404.http";
    /// `/v1/service/` and nothing behind it.
    NameMissing = "nomad-2.0.5/http/service-name-missing-400.http";
    /// A registration that is not there was to be deleted.
    DeleteMissing = "nomad-2.0.5/http/service-delete-missing-500.http";
    /// A read while the agent shuts down: the false empty.
    ShuttingDown = "nomad-2.0.5/http/client-agent-shutdown-false-empty.http";
    /// The list of `*` for a token without a right.
    NoRightAnywhere = "nomad-2.0.5/http/list-star-no-right-index-0.http";
    /// The server is away, or the token is no token; the Task API does not say which.
    ServerErrorAuthenticating = "nomad-2.0.5/http/task-api-malformed-token-500.http";
    /// A client agent whose server is away.
    ConnectionRefused = "nomad-2.0.5/http/server-away-500-2.http";
    /// A client agent whose server has just come back.
    RpcNotReady = "nomad-2.0.5/http/server-away-500-3.http";
    /// A server that has just started.
    NotReady = "nomad-1.10.5/http/list-first-after-server-restart.http";
    /// The 101st connection of one address.
    TooManyConnections = "nomad-2.0.5/http/too-many-connections-429.http";
    /// The 81st stream through one client agent.
    TooManyStreams = "nomad-2.0.5/http/stream-refused-client-agent-81st.http";
    /// The Task API without a token.
    Unauthorized = "nomad-2.0.5/http/task-api-no-token-401.http";
    /// The Task API with a token that nobody has issued.
    Forbidden = "nomad-2.0.5/http/task-api-unknown-token-403.http";
    /// An allocation that the token may not read.
    AllocationDenied = "nomad-2.0.5/http/allocation-denied-500.http";
    /// No such allocation, whoever asks.
    NoSuchAllocation = "nomad-2.0.5/http/allocation-unknown-404.http";
    /// The stream without the right, up to 1.11.1.
    StreamDenied = "nomad-1.10.5/http/stream-denied.http";

    by its source:

    /// A client agent that knows no server (v2.0.5 `client/client.go:352`).
    NoServers = "500 Internal Server Error" 10 "no servers";
    /// A cluster without a leader, after 5 s (v2.0.5 `nomad/rpc.go:585-661`).
    NoLeader = "500 Internal Server Error" 17 "No cluster leader";
    /// The stream without the right, up to 1.9.5 (v1.9.5 `nomad/event_endpoint.go:82-89`).
    StreamPermissionDenied = "500 Internal Server Error" 17 "Permission denied";
    /// The stream where the servers publish no events, up to 1.11.1 (v1.11.1 `nomad/event_endpoint.go`).
    BrokerOff = "500 Internal Server Error" 26 "EventBroker not configured";
}

/// What was recorded for `answer`. The Task API compresses nothing, so it says nothing of encodings.
pub(crate) fn recorded(answer: Recorded, via: Via) -> Vec<u8> {
    match via {
        Via::Agent => answer.bytes().into(),
        Via::TaskApi => answer
            .bytes()
            .replace("Vary: Accept-Encoding\r\n", "")
            .into(),
    }
}

/// What hides an allocation from a token that may not read it.
pub(crate) fn allocation_denied(id: &str, via: Via) -> Vec<u8> {
    let recorded = recorded(Recorded::AllocationDenied, via);
    let text = String::from_utf8(recorded).expect("a recorded text");
    let (head, other) = text.split_once("allocation \"").expect("its ID is named");
    assert_eq!(other.len(), id.len() + 1, "an ID is a UUID");
    format!("{head}allocation \"{id}\"").into()
}

/// A list or a read that succeeded. Go says the length only of what fits into its buffer.
pub(crate) fn catalog(index: u64, body: &str, via: Via) -> Vec<u8> {
    let head = catalog_head(index, via);
    let length = body.len();
    if length > 2048 {
        return format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
        )
        .into();
    }
    format!("{head}Content-Length: {length}\r\n\r\n{body}").into()
}

/// A list of which 2 GiB are announced, and what it is made of.
pub(crate) fn huge(via: Via) -> (String, String) {
    let (_, more) = endless(via);
    let head = catalog_head(17, via);
    (
        format!("{head}Content-Length: {}\r\n\r\n[", 1_u64 << 31),
        more,
    )
}

/// A list that goes on for ever: the head, the beginning of its only chunk, and what repeats.
pub(crate) fn endless(via: Via) -> (String, String) {
    let service =
        r#"{"Namespace":"default","Services":[{"ServiceName":"sidecar","Tags":["v1"]}]},"#;
    let head = catalog_head(17, via);
    (
        format!(
            "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n[",
            u32::MAX
        ),
        service.repeat(100),
    )
}

fn catalog_head(index: u64, via: Via) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{}X-Nomad-Index: {index}\r\n\
         X-Nomad-Knownleader: true\r\nX-Nomad-Lastcontact: 0\r\nDate: {DATE}\r\n",
        vary(via)
    )
}

/// A deletion that succeeded.
pub(crate) fn deleted(index: u64, via: Via) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\n{}X-Nomad-Index: {index}\r\nDate: {DATE}\r\nContent-Length: 0\r\n\r\n",
        vary(via)
    )
    .into()
}

/// The head of a stream, which from 1.11.2 on does not say whether it was opened or denied.
pub(crate) fn stream_head(version: Version, via: Via) -> Vec<u8> {
    let status = match version {
        Version::V1_9_5 | Version::V1_10_5 => "HTTP/1.1 200 OK\r\n",
        Version::V1_11_2 => "HTTP/0.0 200 OK\r\n",
        Version::V2_0_5 => "HTTP/1.1 200 OK\r\nConnection: close\r\n",
    };
    let framing = match version {
        Version::V1_9_5 | Version::V1_10_5 => {
            format!("Date: {DATE}\r\nTransfer-Encoding: chunked\r\n")
        }
        Version::V1_11_2 | Version::V2_0_5 => String::new(),
    };
    format!(
        "{status}Cache-Control: no-cache\r\nContent-Type: application/json\r\n{}{framing}\r\n",
        vary(via)
    )
    .into()
}

/// `line` as it goes over the wire: up to 1.11.1 its newline is a chunk of its own.
pub(crate) fn stream_line(version: Version, line: &str) -> Vec<u8> {
    match version {
        Version::V1_9_5 | Version::V1_10_5 => {
            format!("{:x}\r\n{line}\r\n1\r\n\n\r\n", line.len()).into()
        }
        Version::V1_11_2 | Version::V2_0_5 => format!("{line}\n").into(),
    }
}

fn vary(via: Via) -> &'static str {
    match via {
        Via::Agent => "Vary: Accept-Encoding\r\n",
        Via::TaskApi => "",
    }
}
