//! The support of the tests with a real HAProxy does what it says.

#[path = "support/haproxy.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod haproxy;
#[path = "support/tap.rs"]
mod tap;
#[path = "support/toy.rs"]
mod toy;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    time::Duration,
};

use haproxy::{Haproxy, binaries, wait_for};
use tap::Tap;
use toy::Toy;

const BACKEND: &str = "defaults\n  timeout connect 1s\n  timeout client 1s\n  timeout server 1s\n\
                       backend b\n  balance roundrobin\n";

#[test]
fn a_haproxy_that_was_killed_or_stopped_starts_again_where_it_was() {
    for bin in binaries() {
        let mut haproxy = Haproxy::start_single(&bin, BACKEND);
        let first = haproxy.pid();
        let socket = haproxy.socket();
        assert!(socket.starts_with(haproxy.directory()));
        haproxy.kill9();
        assert_eq!(haproxy.pid(), None);
        haproxy.restart();
        assert_ne!(haproxy.pid(), first);
        haproxy.stop();
        haproxy.write_config("backend another\n");
        haproxy.restart();
        assert_eq!(haproxy.ask("show backend"), "# name\nanother");
    }
}

#[test]
fn a_tap_keeps_the_lines_and_can_lose_replies_and_connections() {
    let bin = binaries().remove(0);
    let haproxy = Haproxy::start(&bin, BACKEND);
    let tap = Tap::before(&haproxy.socket());
    let mut client = UnixStream::connect(tap.socket()).unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut ask = |line: &str| {
        client.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = [0; 4096];
        client.read(&mut answer).map(|count| count > 0)
    };
    assert!(ask("prompt").unwrap());
    assert!(ask("show backend").unwrap());
    assert_eq!(tap.lines(), ["prompt", "show backend"]);
    tap.forget();
    tap.drop_replies(true);
    let lost = ask("show servers state").unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::WouldBlock);
    assert_eq!(tap.lines(), ["show servers state"]);
    tap.refuse(true);
    tap.cut();
    assert!(!ask("").is_ok_and(|has_answer| has_answer));
    let mut refused = UnixStream::connect(tap.socket()).unwrap();
    assert_eq!(refused.read(&mut [0]).unwrap_or_default(), 0);
}

#[test]
fn a_tap_lets_so_many_changes_pass_and_then_nothing_that_is_written() {
    let bin = binaries().remove(0);
    let haproxy = Haproxy::start(&bin, BACKEND);
    let tap = Tap::before(&haproxy.socket());
    let mut client = UnixStream::connect(tap.socket()).unwrap();
    tap.allow(Some(2));
    client
        .write_all(b"prompt\nset map m a b\nshow info\ndel map m a\nshow backend\ndel map m b\n")
        .unwrap();
    wait_for("the second change", || tap.is_closed().then_some(()));
    client.write_all(b"show info\n").unwrap();
    wait_for("what was written", || {
        (tap.lines().len() == 4).then_some(())
    });
    assert_eq!(tap.changes(), ["set map m a b", "del map m a"]);
    tap.allow(None);
    client.write_all(b"show backend\n").unwrap();
    wait_for("the next line", || {
        (tap.lines().last()? == "show backend").then_some(())
    });
}

#[test]
fn a_toy_serves_fails_and_refuses_on_one_port() {
    let toy = Toy::start("toy");
    let get = |path: &str| {
        let mut stream = TcpStream::connect(toy.address()).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = [0; 4096];
        let count = stream.read(&mut answer).unwrap();
        Some(String::from_utf8_lossy(&answer[..count]).into_owned())
    };
    let starts = |answer: Option<String>, status: &str| {
        answer.is_some_and(|text| text.starts_with(&format!("HTTP/1.1 {status} ")))
    };
    let body = format!("\r\n\r\n{}", toy.name());
    assert!(get("/sleep/1").is_some_and(|text| text.ends_with(&body)));
    assert!(starts(get("/health"), "200"));
    toy.fail();
    assert!(starts(get("/health"), "503") && starts(get("/"), "200"));
    toy.refuse();
    assert_eq!(get("/"), None);
    toy.serve();
    wait_for("the toy to listen again", || get("/health"));
    assert_eq!((toy.requests(), toy.checks()), (2, 3));
}
