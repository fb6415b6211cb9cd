//! Requests that last, through a real HAProxy and through its model: which server has them, what the counters say, and
//! what becomes of them and of their connections when the server is drained, stopped, moved, or closed.

#![expect(
    clippy::unwrap_used,
    reason = "a test; most of it is no function with the attribute"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use crate::{
    haproxy::{HaproxyBin, binaries, free_port, wait_for},
    haproxy_model::{Backend, Conduct, Config, Dispatch, ServerLine, Wish},
    pair::Pair,
    toy::Toy,
};

/// Two servers with a cookie each, two web servers behind them, and one more to move to.
struct Stage {
    pair: Pair,
    toys: [Toy; 3],
    port: u16,
    last_id: u64,
}

/// A request that both have taken in: on its connection, and by its number.
struct Request {
    client: BufReader<TcpStream>,
    id: u64,
    /// The server that the model gave it to.
    server: Option<String>,
}

impl Stage {
    fn new(bin: &HaproxyBin) -> Self {
        let toys = ["a", "b", "c"].map(Toy::start);
        let [a, b, _] = toys.each_ref().map(Toy::address);
        let config = Config {
            backends: vec![
                Backend::new("web")
                    .server(ServerLine::new("a", a))
                    .server(ServerLine::new("b", b))
                    .sticky(),
            ],
        };
        let port = free_port();
        // One thread, so that an idle connection is there for whoever comes next.
        let global = "global\n  nbthread 1\n";
        let frontend = format!("frontend in\n  bind 127.0.0.1:{port}\n  default_backend web\n");
        Self {
            pair: Pair::start_with(bin, &config, [global, &frontend], |_, _| Conduct::Serves),
            toys,
            port,
            last_id: 0,
        }
    }

    fn say(&mut self, line: &str) {
        let real = self.pair.prompt.send(&[line]).remove(0);
        let model = self.pair.model.execute(self.pair.time, line);
        assert_eq!(real, model, "{}: {line}", self.version());
        self.pair.time += Duration::from_millis(10);
        self.pair.model.advance(self.pair.time);
    }

    fn version(&self) -> String {
        self.pair.real.bin().version.clone()
    }

    /// A request for `path`, on a new connection, that HAProxy has given to a server, or answered itself.
    fn begin(&mut self, cookie: Option<&str>, path: &str) -> Request {
        let client = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        self.begin_on(BufReader::new(client), false, cookie, path)
    }

    fn begin_on(
        &mut self,
        client: BufReader<TcpStream>,
        reuses: bool,
        cookie: Option<&str>,
        path: &str,
    ) -> Request {
        let before: Vec<u64> = self.toys.iter().map(Toy::requests).collect();
        let line = cookie.map_or(String::new(), |cookie| format!("Cookie: id={cookie}\r\n"));
        let text = format!("GET {path} HTTP/1.1\r\nHost: h\r\n{line}\r\n");
        client.get_ref().write_all(text.as_bytes()).unwrap();
        self.last_id += 1;
        let wish = Wish {
            id: self.last_id,
            backend: "web",
            cookie,
            keeps_connection: true,
            reuses,
            turn: 0,
        };
        let dispatch: Option<Dispatch> = self.pair.model.open(self.pair.time, &wish);
        if let Some(dispatch) = &dispatch {
            let at = self.toy_at(dispatch.to);
            let version = self.version();
            let toys = &self.toys;
            wait_for("the request at its server", || {
                let now: Vec<u64> = toys.iter().map(Toy::requests).collect();
                let arrived = (0..3).find(|one| now[*one] > before[*one])?;
                assert_eq!(arrived, at, "{version}: {dispatch:?}");
                Some(())
            });
            let to = dispatch.to;
            let old = to != dispatch.address;
            // Only 2.6 uses a connection to where a server was before.
            assert_eq!(old, old && version.starts_with("2.6"), "{version}");
        }
        Request {
            client,
            id: self.last_id,
            server: dispatch.map(|dispatch| dispatch.server),
        }
    }

    fn toy_at(&self, address: SocketAddr) -> usize {
        let mut toys = self.toys.iter();
        toys.position(|toy| toy.address() == address)
            .expect("the model sends to the toys only")
    }

    /// Its answer comes. Gives back the client's connection.
    fn end(&mut self, mut request: Request) -> BufReader<TcpStream> {
        let (status, name) = answer(&mut request.client);
        let version = self.version();
        let Some(server) = request.server else {
            assert_eq!(status, 503, "{version}");
            return request.client;
        };
        assert_eq!(status, 200, "{version}: {server} ({name})");
        assert!(self.pair.model.close(self.pair.time, request.id));
        request.client
    }

    /// Sessions and idle connections of both servers become the same for both.
    fn agree(&mut self, context: &str) {
        let line = "show stat web 6 -1";
        let ours = counters(&self.pair.model.execute(self.pair.time, line));
        let version = self.version();
        let prompt = &mut self.pair.prompt;
        let mut theirs = Vec::new();
        let end = crate::haproxy::now() + Duration::from_secs(5);
        while crate::haproxy::now() < end {
            theirs = counters(&prompt.send(&[line])[0]);
            if theirs == ours {
                return;
            }
            thread::yield_now();
        }
        assert_eq!(
            theirs, ours,
            "{version}: {context} (left: HAProxy, right: the model)"
        );
    }
}

/// Name, sessions, waiting, idle connections, cookie of each server.
fn counters(stat: &str) -> Vec<[String; 5]> {
    let mut lines = stat.lines();
    let header: Vec<&str> = lines
        .next()
        .unwrap()
        .trim_start_matches("# ")
        .split(',')
        .collect();
    let rows = lines.map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        ["svname", "scur", "qcur", "srv_icur", "cookie"].map(|column| {
            let at = header.iter().position(|one| *one == column).unwrap();
            cells[at].to_owned()
        })
    });
    rows.filter(|row| row[0] != "BACKEND").collect()
}

/// The status of an answer, and its text.
fn answer(client: &mut BufReader<TcpStream>) -> (u16, String) {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut length = 0;
    loop {
        line.clear();
        let read = client.read_line(&mut line).unwrap();
        if read == 0 || line.trim_end().is_empty() {
            break;
        }
        if let Some(number) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = number.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    client.read_exact(&mut body).unwrap();
    (
        status.unwrap_or(0),
        String::from_utf8_lossy(&body).into_owned(),
    )
}

const LASTS: &str = "/sleep/400";

#[test]
fn a_request_counts_as_long_as_it_lasts_and_its_connection_stays() {
    for bin in binaries() {
        let mut stage = Stage::new(&bin);
        stage.agree("nothing yet");
        let request = stage.begin(Some("b"), LASTS);
        stage.agree("under way");
        let client = stage.end(request);
        stage.agree("over");
        // The next one of the same client goes over the same connection.
        let request = stage.begin_on(client, true, Some("b"), LASTS);
        stage.agree("again under way");
        stage.end(request);
        stage.agree("again over");
    }
}

#[test]
fn backends_with_a_cookie_are_told() {
    for bin in binaries() {
        let mut stage = Stage::new(&bin);
        let line = "show stat -1 2 -1";
        let theirs = stage.pair.prompt.send(&[line]).remove(0);
        let ours = stage.pair.model.execute(Duration::ZERO, line);
        let named = |text: &str| -> Vec<String> {
            let mut lines = text.lines();
            let columns = lines.next().unwrap().trim_start_matches("# ").split(',');
            let at = columns.clone().position(|one| one == "cookie").unwrap();
            let rows = lines.map(|line| line.split(',').collect::<Vec<_>>());
            rows.map(|cells| [cells[0], cells[1], cells[at]].join(" "))
                .collect()
        };
        assert_eq!(named(&theirs), named(&ours), "{}", bin.version);
        assert_eq!(named(&ours), ["web BACKEND id"]);
    }
}

#[test]
fn a_drained_server_keeps_its_cookies_and_one_in_maintenance_does_not() {
    for bin in binaries() {
        for leave in ["state drain", "weight 0"] {
            let mut stage = Stage::new(&bin);
            let request = stage.begin(Some("b"), LASTS);
            stage.say(&format!("set server web/b {leave}"));
            stage.agree("drained under a request");
            let client = stage.end(request);
            stage.agree("drained");
            for _ in 0..4 {
                let other = stage.begin(None, "/");
                assert_eq!(other.server.as_deref(), Some("a"), "{leave}");
                stage.end(other);
            }
            let kept = stage.begin_on(client, true, Some("b"), LASTS);
            assert_eq!(kept.server.as_deref(), Some("b"), "{leave}");
            let client = stage.end(kept);
            stage.say("set server web/b state maint");
            let moved = stage.begin_on(client, true, Some("b"), LASTS);
            assert_eq!(moved.server.as_deref(), Some("a"), "{leave}");
            stage.end(moved);
        }
    }
}

#[test]
fn a_server_that_is_down_keeps_no_cookie_and_is_given_nothing() {
    for bin in binaries() {
        let mut stage = Stage::new(&bin);
        stage.say("set server web/b health down");
        let moved = stage.begin(Some("b"), "/");
        assert_eq!(moved.server.as_deref(), Some("a"));
        stage.end(moved);
        stage.say("set server web/a health down");
        let nobodys = stage.begin(Some("a"), "/");
        assert_eq!(nobodys.server, None);
        stage.end(nobodys);
        stage.agree("both down");
    }
}

#[test]
fn maintenance_lets_a_request_finish_and_closes_what_is_idle() {
    for bin in binaries() {
        let mut stage = Stage::new(&bin);
        let request = stage.begin(Some("b"), LASTS);
        stage.end(request);
        stage.agree("idle");
        stage.say("set server web/b state maint");
        stage.agree("idle, in maintenance");
        stage.say("set server web/b state ready");
        let request = stage.begin(Some("b"), LASTS);
        stage.say("set server web/b state maint");
        stage.agree("a request in maintenance");
        stage.end(request);
        stage.agree("its end in maintenance");
        let address = "set server web/b addr 127.0.0.1 port 1";
        stage.say(address);
        stage.agree("moved");
    }
}

#[test]
fn a_server_that_is_moved_under_a_request_is_asked_at_its_old_address_on_2_6_only() {
    for bin in binaries() {
        let mut stage = Stage::new(&bin);
        let request = stage.begin(Some("b"), LASTS);
        let port = stage.toys[2].address().port();
        stage.say(&format!("set server web/b addr 127.0.0.1 port {port}"));
        stage.agree("moved under a request");
        let client = stage.end(request);
        stage.agree("the request is over");
        let request = stage.begin_on(client, true, Some("b"), "/");
        stage.end(request);
        stage.agree("one more");
    }
}

#[test]
fn shutdown_sessions_ends_what_is_under_way_and_nothing_else() {
    for bin in binaries() {
        let mut stage = Stage::new(&bin);
        let mut ended = stage.begin(Some("b"), "/sleep/3000");
        let other = stage.begin(Some("a"), LASTS);
        stage.say("shutdown sessions server web/b");
        let cuts = stage.pair.model.take_cuts();
        assert_eq!(cuts.len(), 1);
        assert_eq!((cuts[0].id, cuts[0].since), (ended.id, Duration::ZERO));
        let mut answered = String::new();
        ended.client.read_line(&mut answered).unwrap_or_default();
        assert!(!answered.contains("200"), "{}: {answered}", bin.version);
        stage.agree("closed");
        stage.end(other);
        stage.agree("the other is over");
        assert!(!stage.pair.model.close(stage.pair.time, ended.id));
    }
}
