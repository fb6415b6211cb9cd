//! A generator that does not see a failure proves nothing. Here it has to do with servers that fail in each of the ways.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use tokio::runtime::{self, Runtime};

use crate::support::{
    haproxy::free_port,
    load::{Kind, Load, Order, Outcome, Report, Target},
    sidecar::soon,
};

const RATE: u32 = 50;

#[test]
fn every_way_to_fail_is_told_apart() {
    let own = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let cut = "HTTP/1.1 200 OK\r\nX-Instance: a\r\nContent-Length: 4\r\n\r\nbu";
    let reading_first = |answer: &'static str| {
        move |mut stream: TcpStream| {
            read(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap_or_default();
        }
    };
    assert_eq!(
        outcome(Kind::Close, reading_first(own)),
        Outcome::HaproxyAnswered { status: 503 }
    );
    for kind in [Kind::Close, Kind::KeepAlive, Kind::Tcp] {
        assert_eq!(
            outcome(kind, reading_first("")),
            Outcome::ClosedWithoutAnswer
        );
    }
    assert_eq!(outcome(Kind::Close, reading_first(cut)), Outcome::Cut);
    assert_eq!(outcome(Kind::Tcp, reading_first("half")), Outcome::Cut);
    assert_eq!(
        outcome(Kind::Close, reading_first("hello\r\n\r\n")),
        Outcome::Garbled
    );
    // What was not read when a connection is closed resets it.
    let reset = |stream: TcpStream| {
        stream.peek(&mut [0]).unwrap_or_default();
    };
    assert_eq!(outcome(Kind::Close, reset), Outcome::Reset);
    assert_eq!(outcome(Kind::Tcp, reset), Outcome::Reset);
    // Until the client gives up.
    let silent = |mut stream: TcpStream| while read(&mut stream) > 0 {};
    assert_eq!(outcome(Kind::Close, silent), Outcome::TimedOut);
}

#[test]
fn a_refused_connection_has_failed() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let outcomes = outcomes(&run(order(Kind::KeepAlive, nobody), 3));
    let refused = Outcome::NotConnected(std::io::ErrorKind::ConnectionRefused);
    assert!(outcomes.iter().all(|outcome| *outcome == refused));
}

#[test]
fn what_an_application_answers_has_not_failed() {
    let sorry =
        "HTTP/1.1 503 Service Unavailable\r\nX-Instance: a\r\nContent-Length: 4\r\n\r\nbusy";
    let addr = serve(|mut stream| {
        read(&mut stream);
        stream.write_all(sorry.as_bytes()).unwrap_or_default();
    });
    let report = run(order(Kind::Close, addr), 3);
    assert_eq!(report.failed().count(), 0, "{:?}", report.failures());
    assert_eq!(report.instances().into_iter().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn a_kept_connection_that_was_closed_is_asked_again_and_no_other() {
    // It closes after each answer, and does not say so.
    let addr = serve(|mut stream| {
        read(&mut stream);
        stream.write_all(ANSWER.as_bytes()).unwrap_or_default();
    });
    let report = run(order(Kind::KeepAlive, addr), 10);
    assert_eq!(report.failed().count(), 0, "{:?}", report.failures());
    assert!(report.retried() > 0, "no connection was used again");
}

#[test]
fn who_is_no_longer_listed_is_asked_no_more() {
    let named = |answer: &'static str| {
        serve(move |mut stream| {
            while read(&mut stream) > 0 {
                stream.write_all(answer.as_bytes()).unwrap_or_default();
            }
        })
    };
    let (a, b) = (named(ANSWER), named(ANSWER_OF_B));
    let dir = tempfile::tempdir().expect("there is a place for files");
    let (list, new) = (dir.path().join("list"), dir.path().join("new"));
    let write = |text: String| {
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &list))
            .expect("it can be written");
    };
    let target = Target::Listed(list.clone());
    let runtime = Runtime::new().expect("threads can be had");
    let load = Load::start(
        runtime.handle(),
        Order {
            target,
            ..order(Kind::KeepAlive, a)
        },
    );
    soon("nobody is listed", || (load.count() >= 3).then_some(()));
    write(format!("{a}\n"));
    let count = load.count();
    soon("a is asked", || (load.count() > count + 5).then_some(()));
    write(format!("{b}\n"));
    let count = load.count();
    soon("b is asked", || (load.count() > count + 5).then_some(()));
    let mut told = outcomes(&runtime.block_on(load.stop()));
    told.dedup();
    let nobody = Outcome::NotConnected(std::io::ErrorKind::AddrNotAvailable);
    let by = |name: &str| Outcome::Answered {
        status: 200,
        by: name.to_owned(),
    };
    assert_eq!(told, [nobody, by("a"), by("b")]);
}

#[test]
fn a_generator_that_falls_behind_says_so() {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("threads can be had");
    let addr = serve(answer_all);
    let report = runtime.block_on(async {
        let load = Load::start(runtime.handle(), order(Kind::KeepAlive, addr));
        // Nothing goes on meanwhile: this is the only thread.
        thread::sleep(Duration::from_millis(1500));
        // It catches up, but that is no constant rate.
        while load.count() < 75 {
            tokio::task::yield_now().await;
        }
        load.stop().await
    });
    let fault = report.fault().expect("it sent a third of them late");
    assert!(fault.contains("too late"), "{fault}");
    assert!(run(order(Kind::KeepAlive, addr), 20).fault().is_none());
}

#[test]
fn a_server_that_pauses_costs_every_request_of_the_pause() {
    // One after the other, and one of them takes long.
    let pausing = serve_in_turn(|number, mut stream| {
        if number == 5 {
            thread::sleep(Duration::from_millis(500));
        }
        read(&mut stream);
        stream.write_all(ANSWER.as_bytes()).unwrap_or_default();
    });
    let slow = |addr| {
        let report = run(order(Kind::Close, addr), 50);
        assert_eq!(report.failed().count(), 0, "{:?}", report.failures());
        let records = report.records.into_iter();
        let slow = records.filter(|record| record.latency() > Duration::from_millis(100));
        slow.count()
    };
    // In half a second 25 are due, and the last five of them wait for less than a tenth of it.
    let (paused, not_paused) = (slow(pausing), slow(serve(answer_all)));
    assert!((15..30).contains(&paused), "{paused} were slow");
    assert!(not_paused < 10, "{not_paused} were slow");
}

// === the servers ===

const ANSWER: &str = "HTTP/1.1 200 OK\r\nX-Instance: a\r\nContent-Length: 2\r\n\r\nok";
const ANSWER_OF_B: &str = "HTTP/1.1 200 OK\r\nX-Instance: b\r\nContent-Length: 2\r\n\r\nok";

fn answer_all(mut stream: TcpStream) {
    while read(&mut stream) > 0 {
        stream.write_all(ANSWER.as_bytes()).unwrap_or_default();
    }
}

/// How much there was; nothing when the client is gone.
fn read(stream: &mut TcpStream) -> usize {
    stream.read(&mut [0; 1024]).unwrap_or(0)
}

/// A server that does this with each connection, as long as the test lasts.
fn serve(with: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    serve_in_turn(move |_, stream| {
        let with = with.clone();
        thread::spawn(move || with(stream));
    })
}

fn serve_in_turn(with: impl Fn(usize, TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    let addr = listener.local_addr().expect("it is bound");
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            with(number, stream);
        }
    });
    addr
}

// === the load ===

fn order(kind: Kind, addr: SocketAddr) -> Order {
    Order {
        target: Target::Tcp(addr),
        kind,
        host: "test".to_owned(),
        rate: RATE,
        longest: Duration::ZERO,
        seed: 1,
    }
}

/// Until so many requests have ended.
fn run(order: Order, count: usize) -> Report {
    let runtime = Runtime::new().expect("threads can be had");
    let load = Load::start(runtime.handle(), order);
    soon("enough requests have ended", || {
        (load.count() >= count).then_some(())
    });
    runtime.block_on(load.stop())
}

fn outcomes(report: &Report) -> Vec<Outcome> {
    let records = report.records.iter();
    records.map(|record| record.outcome.clone()).collect()
}

/// What all requests came to.
fn outcome(kind: Kind, with: impl Fn(TcpStream) + Clone + Send + 'static) -> Outcome {
    let mut outcomes = outcomes(&run(order(kind, serve(with)), 3));
    outcomes.dedup();
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    outcomes.remove(0)
}
