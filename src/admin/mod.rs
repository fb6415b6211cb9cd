//! The admin listener: the page, `/live`, `/ready`, `/status`, `/events` and `/metrics` over HTTP/1.1.
//!
//! It sees the daemon's published [`Status`], the [`Metrics`] and the [`Pictures`] only, and changes nothing. Each connection is good
//! for one request and lives ten seconds at most, but for a few that listen to events and take what they are told, so whoever
//! can reach the port can keep little of the process busy. One that has asked nothing leaves when another one needs its place.

mod backend_metrics;
mod body;
mod connections;
mod events;
mod feed;
mod guard_metrics;
mod haproxy_metrics;
mod listen;
mod metrics;
mod namespace;
mod nomad_metrics;
mod operator_metrics;
mod page;
mod pictures;
mod process_metrics;
mod register;
mod route_metrics;
mod set_once;
mod snapshot_metrics;
mod state_file_metrics;
mod status;
mod text_format;

use std::{
    iter,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
};
use tokio::sync::{Semaphore, watch};

use body::Answer;
use events::{Events, Patience};

pub use backend_metrics::{BackendCount, BackendMetrics};
pub use connections::serve;
pub use feed::Feed;
pub use guard_metrics::GuardMetrics;
pub use haproxy_metrics::HaproxyMetrics;
pub use listen::{Listen, Listener, bind_forever};
pub use metrics::{Metrics, ServersOwned, SyncFailure};
pub use namespace::{Followed, Namespace, Trouble, WentBack};
pub use nomad_metrics::NomadMetrics;
pub use operator_metrics::OperatorMetrics;
pub use pictures::{Document, Pictures, Question, Shot};
pub use route_metrics::RouteMetrics;
pub use snapshot_metrics::SnapshotMetrics;
pub use state_file_metrics::StateFileMetrics;
pub use status::{Failure, FromSnapshot, Missing, Status};
pub use text_format::to_text_format;

/// Of all connections, so many may listen to events.
const MAX_LISTENERS: usize = 16;

/// For a connection as a whole, the answer read by the other side included.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// So many changes are shown if nobody says how many.
const CHANGES: usize = 100;

/// Where there is something; the page fetches its other files itself.
const PATHS: &str = "there are / (for browsers), /live, /ready, /status, /checks?backend=<name>, /events and /metrics";

const ALLOWED: HeaderValue = HeaderValue::from_static("GET, HEAD");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const TEXT_FORMAT: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// What is answered from.
#[derive(Clone)]
struct Shown {
    status: watch::Receiver<Status>,
    metrics: Arc<Metrics>,
    pictures: Arc<Pictures>,
    /// Of those who listen to events.
    seats: Arc<Semaphore>,
}

/// The answer to a request, on a connection that ends with this patience.
async fn reply(
    mut request: Request<Incoming>,
    shown: &Shown,
    patience: &Arc<Patience>,
) -> Response<Answer> {
    if *request.method() == Method::HEAD {
        // The same without the body, which hyper leaves out.
        *request.method_mut() = Method::GET;
    }
    let pictures = &shown.pictures;
    let drawn = match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") if !wants_plain(&request) => {
            Some(picture(&request, pictures).await)
        }
        (&Method::GET, "/checks") => Some(checks(&request, pictures).await),
        (&Method::GET, "/events") => Some(events(&request, pictures, &shown.seats, patience)),
        (&Method::GET, path) => page::file(path),
        _ => None,
    };
    drawn.unwrap_or_else(|| respond(&request, &shown.status.borrow(), &shown.metrics))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the listener is part of the shell"
)]
fn respond<B>(request: &Request<B>, status: &Status, metrics: &Metrics) -> Response<Answer> {
    let now = Instant::now();
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/live") => live(status, now),
        (&Method::GET, "/ready") => ready(status, now),
        (&Method::GET, "/status") => plain(StatusCode::OK, status.report(now)),
        (&Method::GET, "/metrics") => exposition(request, status, metrics, now),
        (_, "/live" | "/ready" | "/status" | "/checks" | "/events" | "/metrics") => only_get(),
        (_, path) if page::has(path) => only_get(),
        _ => plain(StatusCode::NOT_FOUND, format!("{PATHS}\n")),
    }
}

/// Whether lines are asked for, and nothing else.
fn wants_plain<B>(request: &Request<B>) -> bool {
    let accepts = request.headers().get(ACCEPT);
    accepts.is_some_and(|kinds| kinds.as_bytes().starts_with(b"text/plain"))
}

/// The value of a parameter, as it is written.
fn parameter<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    let mut all = request.uri().query()?.split('&');
    all.find_map(|one| one.strip_prefix(name)?.strip_prefix('='))
}

async fn picture<B>(request: &Request<B>, pictures: &Pictures) -> Response<Answer> {
    let changes = parameter(request, "changes").map_or(Ok(CHANGES), str::parse);
    let Ok(changes) = changes else {
        let text = "changes is a number: /status?changes=1000\n".to_owned();
        return plain(StatusCode::BAD_REQUEST, text);
    };
    match pictures.get().await.map(|shot| shot.pieces(changes)) {
        Some(Ok(pieces)) => response(StatusCode::OK, JSON, pieces),
        Some(Err(error)) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        None => no_answer(),
    }
}

async fn checks<B>(request: &Request<B>, pictures: &Pictures) -> Response<Answer> {
    let Some(backend) = parameter(request, "backend") else {
        let text = "of which backend? /checks?backend=<name>\n".to_owned();
        return plain(StatusCode::BAD_REQUEST, text);
    };
    match pictures.checks(backend).await {
        Some(checks) => response(StatusCode::OK, JSON, [Bytes::from(checks)]),
        None => no_answer(),
    }
}

/// Events for as long as somebody reads them, after the last one that it has heard.
fn events<B>(
    request: &Request<B>,
    pictures: &Arc<Pictures>,
    seats: &Arc<Semaphore>,
    patience: &Arc<Patience>,
) -> Response<Answer> {
    let Ok(seat) = Arc::clone(seats).try_acquire_owned() else {
        let text =
            format!("{MAX_LISTENERS} listen already, which is as many as may: ask /status\n");
        return plain(StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let last = request.headers().get("last-event-id");
    let last = last.and_then(|id| id.to_str().ok());
    let events = Events::new(Arc::clone(pictures), last, Arc::clone(patience), seat);
    let mut response = response(StatusCode::OK, EVENT_STREAM, Answer::Events(events));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // For nginx, which would keep them back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

fn no_answer() -> Response<Answer> {
    let text = "no answer: HAProxy is away, or the core starts afresh; see /ready\n".to_owned();
    plain(StatusCode::SERVICE_UNAVAILABLE, text)
}

fn only_get() -> Response<Answer> {
    let mut response = plain(
        StatusCode::METHOD_NOT_ALLOWED,
        "only GET and HEAD\n".to_owned(),
    );
    response.headers_mut().insert(ALLOW, ALLOWED);
    response
}

fn live(status: &Status, now: Instant) -> Response<Answer> {
    match status.silent_for(now) {
        None => plain(StatusCode::OK, "ok\n".to_owned()),
        Some(silence) => plain(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "the daemon's loop was last seen {} s ago\n",
                silence.as_secs()
            ),
        ),
    }
}

fn ready(status: &Status, now: Instant) -> Response<Answer> {
    let snapshot = status.snapshot.iter().map(|snapshot| snapshot.line(now));
    let besides = snapshot
        .chain(status.standby_line())
        .chain([status.guard_lines()]);
    if status.is_ready() {
        let lines = iter::once("ready\n".to_owned()).chain(besides);
        return plain(StatusCode::OK, lines.collect());
    }
    let lines = status.missing.iter().map(|missing| format!("{missing}\n"));
    plain(
        StatusCode::SERVICE_UNAVAILABLE,
        lines.chain(besides).collect(),
    )
}

fn exposition<B>(
    request: &Request<B>,
    status: &Status,
    metrics: &Metrics,
    now: Instant,
) -> Response<Answer> {
    let accepted = request.headers().get_all(ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    let takes_open_metrics = accepted.any(|value| value.contains("application/openmetrics-text"));
    match metrics.render(status, now) {
        Ok(text) if takes_open_metrics => response(StatusCode::OK, OPEN_METRICS, text),
        Ok(text) => response(StatusCode::OK, TEXT_FORMAT, to_text_format(&text)),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn plain(status: StatusCode, body: String) -> Response<Answer> {
    response(status, PLAIN, body)
}

fn response(status: StatusCode, kind: HeaderValue, body: impl Into<Answer>) -> Response<Answer> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A listener with a status that the test can change.
    pub(super) async fn listening(status: Status) -> (SocketAddr, watch::Sender<Status>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (sender, receiver) = watch::channel(status);
        let (metrics, pictures) = (Arc::new(Metrics::new()), Arc::default());
        tokio::spawn(serve(Listener::Tcp(listener), receiver, metrics, pictures));
        (addr, sender)
    }

    #[expect(clippy::disallowed_methods, reason = "the listener's clock is real")]
    pub(super) fn starting() -> Status {
        Status::starting(Instant::now())
    }

    /// What the listener answers to `request`, until it closes the connection.
    pub(super) async fn exchange(addr: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Status line, content type and body.
    pub(super) async fn ask(addr: SocketAddr, method_and_path: &str) -> (String, String, String) {
        let request =
            format!("{method_and_path} HTTP/1.1\r\nhost: sidecar\r\naccept: text/plain\r\n\r\n");
        parts(&exchange(addr, &request).await)
    }

    fn parts(answer: &str) -> (String, String, String) {
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let kind = head
            .lines()
            .find_map(|line| line.strip_prefix("content-type: "))
            .unwrap();
        let status = head.lines().next().unwrap();
        let status = status.strip_prefix("HTTP/1.1 ").unwrap();
        (status.to_owned(), kind.to_owned(), body.to_owned())
    }

    fn plain_answer(status: &str, body: &str) -> (String, String, String) {
        let kind = "text/plain; charset=utf-8";
        (status.to_owned(), kind.to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn live_while_the_loop_comes_round() {
        let (addr, status) = listening(starting()).await;
        assert_eq!(ask(addr, "GET /live").await, plain_answer("200 OK", "ok\n"));

        status.send_modify(|status| status.alive_at -= Duration::from_secs(45));
        assert_eq!(
            ask(addr, "GET /live").await,
            plain_answer(
                "503 Service Unavailable",
                "the daemon's loop was last seen 45 s ago\n"
            )
        );
    }

    #[tokio::test]
    async fn ready_when_nothing_is_missing_and_otherwise_it_says_what_is() {
        let (addr, status) = listening(starting()).await;
        assert_eq!(
            ask(addr, "GET /ready").await,
            plain_answer(
                "503 Service Unavailable",
                "haproxy: not connected: not tried yet\nnomad: no list was accepted yet: not tried yet\n"
            )
        );

        status.send_modify(|status| status.missing.clear());
        assert_eq!(
            ask(addr, "GET /ready").await,
            plain_answer("200 OK", "ready\n")
        );
    }

    #[tokio::test]
    async fn ready_and_the_status_say_who_else_is_in_charge_and_what_failed() {
        let (addr, status) = listening(starting()).await;
        status.send_modify(|status| {
            status.missing.clear();
            status.standby = Some("another\nsidecar".to_owned());
            status.failure = Some(Failure {
                part: "core",
                reason: "no way".to_owned(),
                times: 2,
                at: status.started,
            });
        });
        assert_eq!(
            ask(addr, "GET /ready").await,
            plain_answer("200 OK", "ready\nstandby: another sidecar\n")
        );
        assert_eq!(
            ask(addr, "GET /status").await.2,
            "nomad: asked at nowhere yet\nstandby: another sidecar\n\
             failed: 2 times since the start, a bug; the last time 0 s ago, in the core: no way\n"
        );
        status.send_modify(|status| {
            let reason = "no way".to_owned();
            status.missing = vec![Missing::Core { reason }];
        });
        assert_eq!(
            ask(addr, "GET /ready").await,
            plain_answer(
                "503 Service Unavailable",
                "core: it failed and starts afresh: no way\nstandby: another sidecar\n"
            )
        );
    }

    #[tokio::test]
    async fn the_status_is_a_line_for_each_namespace() {
        let (addr, status) = listening(starting()).await;
        status.send_modify(|status| {
            status.nomad = "unix:///secrets/api.sock".to_owned();
            let names = ["api", "web"].iter();
            let namespaces = names.map(|name| Namespace::new(name, status.started));
            status.namespaces = namespaces.collect();
        });
        assert_eq!(
            ask(addr, "GET /status").await,
            plain_answer(
                "200 OK",
                "nomad: asked at unix:///secrets/api.sock\n\
                 namespace api: not followed for 0 s; no index; never read\n\
                 namespace web: not followed for 0 s; no index; never read\n"
            )
        );
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_text_for_who_asks_for_it_and_the_older_format_for_others() {
        let (addr, _status) = listening(starting()).await;
        let (_, kind, body) = ask(addr, "GET /metrics").await;
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        assert!(body.contains("\n# TYPE haproxy_nomad_sidecar_syncs_total counter\n"));
        assert!(body.contains("\nhaproxy_nomad_sidecar_ready 0\n"), "{body}");
        let request = "GET /metrics HTTP/1.1\r\nhost: sidecar\r\naccept: text/plain;q=0.5,application/openmetrics-text;version=1.0.0\r\n\r\n";
        let (status, kind, body) = parts(&exchange(addr, request).await);
        assert_eq!(status, "200 OK");
        assert_eq!(
            kind,
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        );
        assert!(body.contains("\nhaproxy_nomad_sidecar_ready 0\n"), "{body}");
        assert!(body.ends_with("\n# EOF\n"), "{body}");
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        let (addr, _status) = listening(starting()).await;
        assert_eq!(
            ask(addr, "GET /page").await,
            plain_answer("404 Not Found", &format!("{PATHS}\n"))
        );
        for path in ["/ready", "/checks", "/page.js"] {
            assert_eq!(
                ask(addr, &format!("DELETE {path}")).await,
                plain_answer("405 Method Not Allowed", "only GET and HEAD\n")
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn head_is_get_without_the_body() {
        let (addr, _status) = listening(starting()).await;
        let head = |answer: &str| -> Vec<String> {
            let head = answer.split_once("\r\n\r\n").unwrap().0;
            let lines = head.lines().filter(|line| !line.starts_with("date: "));
            lines.map(str::to_owned).collect()
        };
        let of = |method, path| format!("{method} {path} HTTP/1.1\r\nhost: sidecar\r\n\r\n");
        for path in [
            "/",
            "/page.css",
            "/page.js",
            "/live",
            "/ready",
            "/status",
            "/checks",
            "/metrics",
            "/nowhere",
        ] {
            let get = exchange(addr, &of("GET", path)).await;
            let answer = exchange(addr, &of("HEAD", path)).await;
            assert!(answer.ends_with("\r\n\r\n"), "{path}: {answer}");
            // A sample or two is longer a moment later.
            let is_same =
                |line: &&String| path != "/metrics" || !line.starts_with("content-length");
            let [get, answer] = [get, answer].map(|answer| head(&answer));
            assert!(
                answer.iter().filter(is_same).eq(get.iter().filter(is_same)),
                "{path}: {answer:?}"
            );
            assert!(
                answer
                    .iter()
                    .any(|line| line.starts_with("content-length: "))
            );
        }
        // Nobody listens there.
        for _ in 0..=MAX_LISTENERS {
            let answer = exchange(addr, &of("HEAD", "/events")).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(
                answer.contains("content-type: text/event-stream\r\n"),
                "{answer}"
            );
            assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        }
    }
}
