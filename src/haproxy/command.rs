//! Prints requests as lines of the runtime API. Besides the session's fixed greeting, every byte that reaches the socket
//! comes from [`print()`].
//!
//! Nothing is escaped but the backslash of regular expressions, because nothing can need it: names, addresses and words of
//! maps passed their grammar in `model`, the rest are numbers. Source: management guide, section 9.3.

use std::fmt::{self, Display, Formatter, Write as _};

use crate::model::{Command, Keyword, MapChange, MapWord, ProxyHeader, Request};

/// What the guid of a backend that a sidecar made begins with; its name follows.
pub(super) const GUID: &str = "nomad:";
/// Lines are seldom longer.
const USUAL_LINE: usize = 96;

/// The line for `request`, with its line feed: never more than one line.
#[must_use]
pub fn print(request: &Request) -> String {
    match request {
        Request::Info => "show info\n".to_owned(),
        Request::Backends => "show backend\n".to_owned(),
        Request::ServersState(None) => "show servers state\n".to_owned(),
        Request::ServersState(Some(backend)) => format!("show servers state {backend}\n"),
        // 2 asks for backends, 4 for servers, -1 for all of them.
        Request::Stat(_, Some(id)) => format!("show stat {id} 6 -1\n"),
        Request::Stat(backend, None) => format!("show stat {backend} 6 -1\n"),
        Request::BackendRows => "show stat -1 2 -1\n".to_owned(),
        Request::Guids => "dump stats-file\n".to_owned(),
        Request::Verdicts(_, Some(id)) => format!("show stat {id} 4 -1\n"),
        Request::Verdicts(backend, None) => format!("show stat {backend} 4 -1\n"),
        Request::Map(map) => format!("show map {map}\n"),
        Request::ChangeMap(change) => {
            let mut line = String::with_capacity(USUAL_LINE);
            let _ = write_map_change(&mut line, change);
            line.push('\n');
            line
        }
        Request::Change(command) => {
            let mut line = String::with_capacity(USUAL_LINE);
            // A string takes everything.
            let _ = write_change(&mut line, command);
            line.push('\n');
            line
        }
    }
}

fn write_change(line: &mut String, command: &Command) -> fmt::Result {
    match command {
        Command::SetAddress(server, address) => write!(
            line,
            "set server {server} addr {} port {}",
            address.ip, address.port
        ),
        Command::Ready(server) => write!(line, "set server {server} state ready"),
        Command::Drain(server) => write!(line, "set server {server} state drain"),
        Command::Maintenance(server) => write!(line, "set server {server} state maint"),
        Command::HealthDown(server) => write!(line, "set server {server} health down"),
        Command::EnableHealth(server) => write!(line, "enable health {server}"),
        Command::EnableAgent(server) => write!(line, "enable agent {server}"),
        Command::DisableAgent(server) => write!(line, "disable agent {server}"),
        Command::SetWeight(server, weight) => write!(line, "set server {server} weight {weight}"),
        Command::SetMaxconn(server, maxconn) => {
            write!(line, "set maxconn server {server} {maxconn}")
        }
        Command::AddServer(server, address, keywords) => {
            write!(line, "add server {server} {address}")?;
            keywords
                .iter()
                .try_for_each(|keyword| write!(line, " {}", Word(keyword)))
        }
        Command::DeleteServer(server) => write!(line, "del server {server}"),
        Command::ShutdownSessions(server) => write!(line, "shutdown sessions server {server}"),
        Command::AddBackend(backend, profile) => {
            write!(
                line,
                "add backend {backend} from {profile} guid {GUID}{backend}"
            )
        }
        Command::PublishBackend(backend) => write!(line, "publish backend {backend}"),
        Command::UnpublishBackend(backend) => write!(line, "unpublish backend {backend}"),
        Command::DeleteBackend(backend) => write!(line, "del backend {backend}"),
    }
}

fn write_map_change(line: &mut String, change: &MapChange) -> fmt::Result {
    match change {
        MapChange::Add(map, key, value) => {
            write!(line, "add map {map} {} {}", Escaped(key), Escaped(value))
        }
        MapChange::Set(map, key, value) => {
            write!(line, "set map {map} {} {}", Escaped(key), Escaped(value))
        }
        MapChange::Delete(map, key) => write!(line, "del map {map} {}", Escaped(key)),
        MapChange::Prepare(map) => write!(line, "prepare map {map}"),
        MapChange::AddTo(version, map, key, value) => write!(
            line,
            "add map @{version} {map} {} {}",
            Escaped(key),
            Escaped(value)
        ),
        MapChange::Commit(version, map) => write!(line, "commit map @{version} {map}"),
    }
}

/// A backslash makes HAProxy take the next byte as it is.
struct Escaped<'a>(&'a MapWord);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut parts = self.0.as_str().split('\\');
        f.write_str(parts.next().unwrap_or_default())?;
        parts.try_for_each(|part| write!(f, "\\\\{part}"))
    }
}

struct Word<'a>(&'a Keyword);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Keyword::Check => f.write_str("check"),
            Keyword::Inter(ms) => write!(f, "inter {ms}ms"),
            Keyword::FastInter(ms) => write!(f, "fastinter {ms}ms"),
            Keyword::DownInter(ms) => write!(f, "downinter {ms}ms"),
            Keyword::Rise(checks) => write!(f, "rise {checks}"),
            Keyword::Fall(checks) => write!(f, "fall {checks}"),
            Keyword::CheckPort(port) => write!(f, "port {port}"),
            Keyword::Weight(weight) => write!(f, "weight {weight}"),
            Keyword::Maxconn(maxconn) => write!(f, "maxconn {maxconn}"),
            Keyword::Backup => f.write_str("backup"),
            Keyword::Maxqueue(requests) => write!(f, "maxqueue {requests}"),
            Keyword::Slowstart(ms) => write!(f, "slowstart {ms}ms"),
            Keyword::Cookie(value) => write!(f, "cookie {value}"),
            Keyword::SendProxy(ProxyHeader::V1) => f.write_str("send-proxy"),
            Keyword::SendProxy(ProxyHeader::V2) => f.write_str("send-proxy-v2"),
            Keyword::Proto(protocol) => write!(f, "proto {protocol}"),
            Keyword::AgentCheck(port) => write!(f, "agent-check agent-port {port}"),
            Keyword::AgentInter(ms) => write!(f, "agent-inter {ms}ms"),
            Keyword::CheckSsl => f.write_str("check-ssl"),
            Keyword::CheckSendProxy => f.write_str("check-send-proxy"),
            Keyword::Healthcheck(section) => write!(f, "healthcheck {section}"),
            Keyword::Profile(keywords) => keywords.fmt(f),
            Keyword::InitStateFullyDown => f.write_str("init-state fully-down"),
            Keyword::ReuseConnections => f.write_str("pool-purge-delay 5s pool-max-conn -1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{
        Address, BackendName, CookieValue, MapName, ProfileName, Protocol, SectionName,
        ServerKeywords, ServerName, ServerRef,
    };

    fn server(backend: &str, server: &str) -> ServerRef {
        ServerRef {
            backend: BackendName::new(backend).unwrap(),
            server: ServerName::new(server).unwrap(),
        }
    }

    fn address(ip: &str, port: u16) -> Address {
        Address {
            ip: ip.parse().unwrap(),
            port: NonZeroU16::new(port).unwrap(),
        }
    }

    #[test]
    fn every_request_about_backends_has_its_line() {
        let web = || BackendName::new("web").unwrap();
        let change = Request::Change;
        for (request, line) in [
            (Request::BackendRows, "show stat -1 2 -1"),
            (Request::Guids, "dump stats-file"),
            (
                change(Command::AddBackend(
                    web(),
                    ProfileName::new("http-1").unwrap(),
                )),
                "add backend web from http-1 guid nomad:web",
            ),
            (
                change(Command::PublishBackend(web())),
                "publish backend web",
            ),
            (
                change(Command::UnpublishBackend(web())),
                "unpublish backend web",
            ),
            (change(Command::DeleteBackend(web())), "del backend web"),
        ] {
            assert_eq!(print(&request), format!("{line}\n"));
        }
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "one row for each request")]
    fn every_request_has_its_line() {
        let web = || BackendName::new("web").unwrap();
        let slot = || server("web", "nomad1");
        let change = Request::Change;
        let map = || MapName::new("virt@hosts").unwrap();
        let word = |text| MapWord::new(text).unwrap();
        let keywords = vec![
            Keyword::Check,
            Keyword::Inter(2000),
            Keyword::FastInter(250),
            Keyword::DownInter(250),
            Keyword::Rise(2),
            Keyword::Fall(3),
            Keyword::CheckPort(8080),
            Keyword::Weight(256),
            Keyword::Maxconn(100),
            Keyword::Backup,
            Keyword::InitStateFullyDown,
            Keyword::ReuseConnections,
        ];
        for (request, line) in [
            (Request::Info, "show info"),
            (Request::Backends, "show backend"),
            (Request::ServersState(None), "show servers state"),
            (Request::ServersState(Some(web())), "show servers state web"),
            (Request::Stat(web(), None), "show stat web 6 -1"),
            (Request::Stat(web(), Some(3)), "show stat 3 6 -1"),
            (Request::Verdicts(web(), None), "show stat web 4 -1"),
            (Request::Verdicts(web(), Some(3)), "show stat 3 4 -1"),
            (Request::Map(map()), "show map virt@hosts"),
            (
                Request::ChangeMap(MapChange::Add(map(), word("a.example"), word("web"))),
                "add map virt@hosts a.example web",
            ),
            (
                Request::ChangeMap(MapChange::Set(map(), word(r"^v\d$"), word("web"))),
                r"set map virt@hosts ^v\\d$ web",
            ),
            (
                Request::ChangeMap(MapChange::Delete(map(), word("a.example/api"))),
                "del map virt@hosts a.example/api",
            ),
            (
                Request::ChangeMap(MapChange::Prepare(map())),
                "prepare map virt@hosts",
            ),
            (
                Request::ChangeMap(MapChange::AddTo(3, map(), word(".a.example"), word("web"))),
                "add map @3 virt@hosts .a.example web",
            ),
            (
                Request::ChangeMap(MapChange::Commit(3, map())),
                "commit map @3 virt@hosts",
            ),
            (
                change(Command::SetAddress(slot(), address("10.0.0.1", 80))),
                "set server web/nomad1 addr 10.0.0.1 port 80",
            ),
            (
                change(Command::SetAddress(slot(), address("::1", 80))),
                "set server web/nomad1 addr ::1 port 80",
            ),
            (
                change(Command::Ready(slot())),
                "set server web/nomad1 state ready",
            ),
            (
                change(Command::Drain(slot())),
                "set server web/nomad1 state drain",
            ),
            (
                change(Command::Maintenance(slot())),
                "set server web/nomad1 state maint",
            ),
            (
                change(Command::HealthDown(slot())),
                "set server web/nomad1 health down",
            ),
            (
                change(Command::EnableHealth(slot())),
                "enable health web/nomad1",
            ),
            (
                change(Command::EnableAgent(slot())),
                "enable agent web/nomad1",
            ),
            (
                change(Command::DisableAgent(slot())),
                "disable agent web/nomad1",
            ),
            (
                change(Command::SetWeight(slot(), 7)),
                "set server web/nomad1 weight 7",
            ),
            (
                change(Command::SetMaxconn(slot(), 9)),
                "set maxconn server web/nomad1 9",
            ),
            (
                change(Command::AddServer(slot(), address("10.0.0.1", 80), vec![])),
                "add server web/nomad1 10.0.0.1:80",
            ),
            (
                change(Command::AddServer(slot(), address("::1", 80), keywords)),
                "add server web/nomad1 [::1]:80 check inter 2000ms fastinter 250ms downinter 250ms rise 2 fall 3 \
                 port 8080 weight 256 maxconn 100 backup init-state fully-down pool-purge-delay 5s pool-max-conn -1",
            ),
            (
                change(Command::DeleteServer(slot())),
                "del server web/nomad1",
            ),
            (
                change(Command::ShutdownSessions(slot())),
                "shutdown sessions server web/nomad1",
            ),
        ] {
            assert_eq!(print(&request), format!("{line}\n"));
        }
    }

    #[test]
    fn the_rest_of_the_keywords_have_their_words() {
        let keywords = vec![
            Keyword::Maxqueue(5),
            Keyword::Slowstart(10_000),
            Keyword::Cookie(CookieValue::new("a1").unwrap()),
            Keyword::SendProxy(ProxyHeader::V1),
            Keyword::SendProxy(ProxyHeader::V2),
            Keyword::Proto(Protocol::H2),
            Keyword::AgentCheck(9000),
            Keyword::AgentInter(1000),
            Keyword::CheckSsl,
            Keyword::CheckSendProxy,
            Keyword::Healthcheck(SectionName::new("api").unwrap()),
            Keyword::Profile(ServerKeywords::new("ssl verify none").unwrap()),
        ];
        let add = Command::AddServer(server("web", "d"), address("10.0.0.1", 80), keywords);
        assert_eq!(
            print(&Request::Change(add)),
            "add server web/d 10.0.0.1:80 maxqueue 5 slowstart 10000ms cookie a1 send-proxy send-proxy-v2 proto h2 \
             agent-check agent-port 9000 agent-inter 1000ms check-ssl check-send-proxy healthcheck api ssl verify none\n"
        );
    }

    fn keyword() -> impl Strategy<Value = Keyword> {
        prop_oneof![
            Just(Keyword::Check),
            any::<u32>().prop_map(Keyword::Inter),
            any::<u32>().prop_map(Keyword::FastInter),
            any::<u32>().prop_map(Keyword::DownInter),
            any::<u16>().prop_map(Keyword::Rise),
            any::<u16>().prop_map(Keyword::Fall),
            any::<u16>().prop_map(Keyword::CheckPort),
            any::<u16>().prop_map(Keyword::Weight),
            any::<u32>().prop_map(Keyword::Maxconn),
            Just(Keyword::Backup),
            Just(Keyword::InitStateFullyDown),
            Just(Keyword::ReuseConnections),
            any::<u32>().prop_map(Keyword::Maxqueue),
            any::<u32>().prop_map(Keyword::Slowstart),
            name().prop_filter_map("not a value", |text| CookieValue::new(&text)
                .ok()
                .map(Keyword::Cookie)),
            Just(Keyword::SendProxy(ProxyHeader::V2)),
            Just(Keyword::Proto(Protocol::H1)),
            any::<u16>().prop_map(Keyword::AgentCheck),
            any::<u32>().prop_map(Keyword::AgentInter),
            Just(Keyword::CheckSsl),
            Just(Keyword::CheckSendProxy),
            name().prop_filter_map("not a name", |text| SectionName::new(&text)
                .ok()
                .map(Keyword::Healthcheck)),
            name().prop_filter_map("not keywords", |text| ServerKeywords::new(&text)
                .ok()
                .map(Keyword::Profile)),
        ]
    }

    // Whatever passes the grammar of names, and as much as possible that does not.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            "[A-Za-z0-9_.:-]{1,100}",
            "[ ;\\\\<\n\r\0a-c#/]{1,5}",
            any::<String>(),
        ]
    }

    fn request() -> impl Strategy<Value = Request> {
        let server = (name(), name()).prop_filter_map("not a name", |(backend, server)| {
            let profile = ProfileName::new(&server).ok()?;
            let server = ServerRef {
                backend: BackendName::new(&backend).ok()?,
                server: ServerName::new(&server).ok()?,
            };
            Some((server, profile))
        });
        let address = (any::<std::net::IpAddr>(), 1..=u16::MAX).prop_map(|(ip, port)| Address {
            ip,
            port: NonZeroU16::new(port).unwrap(),
        });
        let parts = (
            server,
            address,
            any::<u32>(),
            proptest::collection::vec(keyword(), 0..4),
        );
        (0..22, parts).prop_map(
            |(kind, ((server, profile), address, number, keywords))| match kind {
                0 => Request::Info,
                1 => Request::Backends,
                2 => Request::ServersState(None),
                3 => Request::ServersState(Some(server.backend)),
                4 => Request::Stat(server.backend, Some(number)),
                15 => Request::Guids,
                kind => Request::Change(match kind {
                    5 => Command::SetAddress(server, address),
                    6 => Command::Ready(server),
                    7 => Command::Drain(server),
                    8 => Command::Maintenance(server),
                    9 => Command::HealthDown(server),
                    10 => Command::EnableHealth(server),
                    11 => Command::SetWeight(server, u16::try_from(number & 0xffff).unwrap()),
                    12 => Command::SetMaxconn(server, number),
                    13 => Command::ShutdownSessions(server),
                    16 => Command::AddBackend(server.backend, profile),
                    17 => Command::PublishBackend(server.backend),
                    18 => Command::UnpublishBackend(server.backend),
                    19 => Command::DeleteBackend(server.backend),
                    20 => Command::EnableAgent(server),
                    21 => Command::DisableAgent(server),
                    _ if number % 2 == 0 => Command::AddServer(server, address, keywords),
                    _ => Command::DeleteServer(server),
                }),
            },
        )
    }

    /// A line as HAProxy takes it apart: words at spaces, a backslash before what is to be taken as it is.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut characters = line.chars();
        while let Some(character) = characters.next() {
            match character {
                ' ' => words.push(String::new()),
                '\\' => words.last_mut().unwrap().extend(characters.next()),
                other => words.last_mut().unwrap().push(other),
            }
        }
        words
    }

    proptest! {
        #[test]
        fn what_is_said_of_a_map_is_what_was_meant(key in "[!-~]{1,40}", value in name(), map in "(virt@|/)[a-z/.]{1,20}", version: u32) {
            let (Ok(key), Ok(value), Ok(map)) = (MapWord::new(&key), BackendName::new(&value), MapName::new(&map)) else {
                return Ok(());
            };
            let value = MapWord::from(&value);
            let number = format!("@{version}");
            let all = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
            let (name, k, v) = (map.to_string(), key.as_str(), value.as_str());
            for (change, expected) in [
                (MapChange::Add(map.clone(), key.clone(), value.clone()), all(&["add", "map", &name, k, v])),
                (MapChange::Set(map.clone(), key.clone(), value.clone()), all(&["set", "map", &name, k, v])),
                (MapChange::Delete(map.clone(), key.clone()), all(&["del", "map", &name, k])),
                (MapChange::AddTo(version, map.clone(), key.clone(), value.clone()), all(&["add", "map", &number, &name, k, v])),
            ] {
                let line = print(&Request::ChangeMap(change));
                let text = line.strip_suffix('\n').expect("ends with a line feed");
                prop_assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
                prop_assert!(!text.contains(';') && !text.contains("<<"), "{text:?}");
                prop_assert_eq!(words(text), expected);
            }
        }

        #[test]
        fn whatever_is_asked_is_one_harmless_line(request in request()) {
            let line = print(&request);
            let text = line.strip_suffix('\n').expect("ends with a line feed");
            prop_assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)), "{text:?}");
            prop_assert!(!text.contains([';', '\\', '#', '"', '\'']) && !text.contains("<<"), "{text:?}");
            prop_assert!(!text.contains("  ") && text.split(' ').count() <= 64 && line.len() <= 4096);
        }
    }
}
