//! Hosts, paths, server names and ports lead to services by their tags, with the frontends of `docs/routes.md`.

use std::{
    collections::BTreeMap, fs, io::Write as _, net::TcpStream, os::unix::net::UnixStream,
    path::Path,
};

use tempfile::TempDir;

use crate::support::{
    fake_nomad::ServiceRegistration,
    haproxy::{HaproxyBin, free_port},
    sidecar::{Sidecar, soon},
    toy::Toy,
    world::{DEFAULTS, ENABLED, World, on_every_line, section, slots},
};

/// The kinds of maps that the page looks up.
const KINDS: [&str; 6] = ["host", "suffix", "prefix", "path", "sni", "port"];

/// A HAProxy with the frontends of the page.
struct Site {
    world: World,
    /// The names of the maps, by kind.
    maps: BTreeMap<&'static str, String>,
    port: u16,
    tls_port: u16,
    _directory: TempDir,
}

impl Site {
    /// Maps are files where HAProxy has no virtual ones; the file of hosts has an entry of the operator's.
    fn start(bin: &HaproxyBin) -> Self {
        let directory = tempfile::tempdir().expect("there is room");
        let (port, tls_port) = (free_port(), free_port());
        let page = include_str!("../../docs/routes.md");
        let (_, config) = page.split_once("```haproxy\n").expect("the page has it");
        let (config, _) = config.split_once("```").expect("it ends");
        let mut config = config
            .replace(
                "bind :80\n",
                "bind @DIR@/www.http mode 600\n  default_backend nobody\n",
            )
            .replace(":5432", &format!("127.0.0.1:{port}"))
            .replace(":443", &format!("127.0.0.1:{tls_port}"));
        let mut maps = BTreeMap::new();
        for kind in KINDS {
            let usual = match kind {
                "suffix" => "virt@suffixes".to_owned(),
                "prefix" => "virt@prefixes".to_owned(),
                "sni" => "virt@sni".to_owned(),
                _ => format!("virt@{kind}s"),
            };
            assert!(config.contains(&usual), "{usual}");
            let file = directory.path().join(kind);
            let is_file = bin.line().starts_with("2.") || (bin.line() == "3.0" && kind == "path");
            let name = if is_file {
                let content = if kind == "host" {
                    "file.example operators\n"
                } else {
                    ""
                };
                fs::write(&file, content).expect("the file is ours");
                file.to_str().expect("a path of ours is text").to_owned()
            } else {
                usual.clone()
            };
            config = config.replace(&usual, &name);
            maps.insert(kind, name);
        }
        let config = [
            DEFAULTS,
            &config,
            &section("slots", &slots(4)),
            &["dynamic", "pre", "paths", "operators"]
                .map(|name| section(name, ""))
                .concat(),
            "\nbackend nobody\n  http-request return status 404\n",
            "\nbackend db\n  mode tcp\n  balance roundrobin\n",
        ]
        .concat();
        Self {
            world: World::start_with(bin, &config),
            maps,
            port,
            tls_port,
            _directory: directory,
        }
    }

    fn sidecar(&self) -> Sidecar {
        let variables = self
            .maps
            .iter()
            .map(|(kind, map)| (format!("SIDECAR_{}_MAP", kind.to_uppercase()), map.as_str()));
        let variables: Vec<_> = variables.collect();
        let settings: Vec<_> = variables
            .iter()
            .map(|(name, map)| (name.as_str(), *map))
            .collect();
        self.world.sidecar_with(&settings)
    }

    fn register(&self, service: &str, tags: &[&str]) -> Toy {
        let toy = Toy::start(service);
        self.register_at(service, &toy, tags);
        toy
    }

    fn register_at(&self, service: &str, toy: &Toy, tags: &[&str]) {
        let port = toy.address().port();
        let tags = [&[ENABLED], tags].concat();
        let registration = ServiceRegistration::new(service, u32::from(port), i64::from(port));
        self.world.nomad.register(registration.tags(&tags));
    }

    /// Everything, once each.
    fn register_all(&self) -> Vec<Toy> {
        let port = format!("haproxy.port={}", self.port);
        vec![
            self.register("dynamic", &["haproxy.domain=a.example,*.sfx.example"]),
            self.register("slots", &["haproxy.domain=*.deep.sfx.example"]),
            self.register(
                "pre",
                &["haproxy.domain.type=prefix", "haproxy.domain=api."],
            ),
            self.register("paths", &["haproxy.domain=p.example", "haproxy.path=/api"]),
            self.register("operators", &["haproxy.path=/static"]),
            self.register("db", &[&port, "haproxy.sni=db.example"]),
        ]
    }

    fn get(&self, host: &str, path: &str) -> String {
        get(&self.world.frontend("www"), host, path)
    }

    /// Waits until requests of each kind are answered by the service that asked for them.
    fn until_all_found(&self) {
        for (host, path, expected) in [
            ("a.example", "/", "dynamic"),
            ("A.Example:8080", "/x", "dynamic"),
            ("a.example.", "/", "dynamic"),
            ("x.sfx.example", "/", "dynamic"),
            ("x.deep.sfx.example", "/", "slots"),
            ("api.anything", "/", "pre"),
            ("p.example", "/api/x", "paths"),
            ("any.host", "/static/x", "operators"),
            ("p.example", "/", "404"),
            ("sfx.example", "/", "404"),
            ("b.example", "/", "404"),
        ] {
            self.until_found(host, path, expected);
        }
        soon("the port leads to db", || {
            let stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
            (exchange(stream, "any", "/") == "db").then_some(())
        });
        let before = self.sessions_of_db();
        soon("the server name leads to db", || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.tls_port)).ok()?;
            stream.write_all(&client_hello("DB.example")).ok()?;
            (self.sessions_of_db() > before).then_some(())
        });
    }

    fn until_found(&self, host: &str, path: &str, expected: &str) {
        let what = format!(
            "{host}{path} leads to {expected} with {}",
            self.world.version()
        );
        soon(&what, || (self.get(host, path) == expected).then_some(()));
    }

    /// Sessions that came to the backend by the frontend of TLS.
    fn sessions_of_db(&self) -> u64 {
        let stat = self.world.haproxy.ask("show stat -1 2 -1");
        let row = stat
            .lines()
            .find(|line| line.starts_with("db,BACKEND,"))
            .expect("it is there");
        row.split(',')
            .nth(7)
            .expect("stot")
            .parse()
            .expect("a number")
    }

    fn map(&self, kind: &str) -> Vec<String> {
        let map = self
            .world
            .haproxy
            .ask(&format!("show map {}", self.maps[kind]));
        let entries = map.lines().filter_map(|line| line.split_once(' '));
        entries.map(|(_, entry)| entry.to_owned()).collect()
    }
}

/// One request: the body, or the status of what is not 200.
fn get(socket: &Path, host: &str, path: &str) -> String {
    UnixStream::connect(socket).map_or_else(
        |error| error.to_string(),
        |stream| exchange(stream, host, path),
    )
}

fn exchange(mut stream: impl std::io::Read + std::io::Write, host: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let done = stream
        .write_all(request.as_bytes())
        .and_then(|()| stream.read_to_string(&mut answer));
    match (done, answer.split_once("\r\n\r\n")) {
        (Ok(_), Some((head, body))) if head.contains(" 200 ") => body.to_owned(),
        (Ok(_), Some((head, _))) => head.split(' ').nth(1).unwrap_or_default().to_owned(),
        (result, _) => format!("{result:?}"),
    }
}

/// A `ClientHello` that asks for this name.
fn client_hello(name: &str) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).expect("short").to_be_bytes();
    let name = [&[0], &length(name.len())[..], name.as_bytes()].concat();
    let names = [&length(name.len())[..], &name].concat();
    let extension = [&[0, 0], &length(names.len())[..], &names].concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0, 0x2f, 1, 0],
        &length(extension.len()),
        &extension,
    ]
    .concat();
    let handshake = [&[1, 0], &length(body.len())[..], &body].concat();
    [&[0x16, 3, 1], &length(handshake.len())[..], &handshake].concat()
}

#[test]
fn every_kind_of_route_leads_to_its_service_and_a_reload_loses_none() {
    on_every_line(|bin| {
        let site = Site::start(bin);
        let toys = site.register_all();
        let sidecar = site.sidecar();
        sidecar.until_ready();
        site.until_all_found();
        sidecar.until_metric("routes{state=\"active\"}", 8);

        site.world.haproxy.reload();
        site.until_all_found();
        drop(sidecar);

        let sidecar = site.sidecar();
        sidecar.until_ready();
        site.world.until_read_again(1);
        let changes = site.world.tap.changes();
        assert_eq!(changes, [""; 0], "a restart of the sidecar writes nothing");
        site.until_all_found();
        drop(toys);
    });
}

#[test]
fn a_route_waits_for_its_server_and_stays_when_that_is_gone() {
    on_every_line(|bin| {
        let site = Site::start(bin);
        let sidecar = site.sidecar();
        let toy = Toy::start("dynamic");
        toy.fail();
        site.register_at("dynamic", &toy, &["haproxy.domain=a.example"]);
        sidecar.until_metric("routes{state=\"waiting\"}", 1);
        assert_eq!(site.get("a.example", "/"), "404");
        toy.serve();
        site.until_found("a.example", "/", "dynamic");
        toy.fail();
        site.until_found("a.example", "/", "503");
        // Another host, once for all.
        toy.serve();
        site.register_at("dynamic", &toy, &["haproxy.domain=b.example"]);
        site.until_found("b.example", "/", "dynamic");
        site.until_found("a.example", "/", "404");
    });
}

#[test]
fn an_operators_entries_stay_and_what_is_in_the_way_is_said() {
    on_every_line(|bin| {
        let site = Site::start(bin);
        let hosts = &site.maps["host"];
        let ask = |line: &str| assert_eq!(site.world.haproxy.ask(line).trim(), "", "{line}");
        ask(&format!("add map {hosts} mine.example elsewhere"));
        ask(&format!("add map {hosts} theirs.example elsewhere"));
        ask(&format!(
            "add map {} .example elsewhere",
            site.maps["suffix"]
        ));
        let sidecar = site.sidecar();
        let tags = ["haproxy.domain=mine.example,a.example,*.a.example"];
        let first = site.register("dynamic", &tags);
        site.until_found("a.example", "/", "dynamic");
        // The longer suffix stands before the operator's.
        site.until_found("x.a.example", "/", "dynamic");
        assert_eq!(
            site.map("suffix"),
            [".a.example dynamic", ".example elsewhere"]
        );
        sidecar.logged(&[
            "route blocked: host mine.example is not routed to dynamic",
            "leads to elsewhere",
        ]);
        let second = site.register("pre", &["haproxy.domain=a.example"]);
        sidecar.logged(&["not routed: host a.example belongs to the service default/dynamic"]);
        let status = sidecar.json("/status");
        let routes = status["routes"].as_array().expect("a list");
        let taken = routes.iter().find(|route| route["state"] == "taken");
        let taken = taken.expect("one has it, one has not");
        assert_eq!(taken["taken_by"], "default/dynamic", "{taken}");
        assert_eq!(taken["map"], site.maps["host"].as_str(), "{taken}");
        sidecar
            .logged(&["the service default/pre claims host a.example, too, and does not get it"]);
        let (code, text) = sidecar.get("/status");
        assert!(
            code == 200 && text.contains("route blocked: host mine.example"),
            "{text}"
        );
        site.register_at("dynamic", &first, &["haproxy.domain=c.example"]);
        site.until_found("c.example", "/", "dynamic");
        site.until_found("a.example", "/", "pre");
        let map = site.map("host");
        assert!(
            map.contains(&"mine.example elsewhere".to_owned()),
            "{map:?}"
        );
        assert!(
            map.contains(&"theirs.example elsewhere".to_owned()),
            "{map:?}"
        );
        assert_eq!(site.map("suffix"), [".example elsewhere"]);
        drop(second);
    });
}

#[test]
fn hostile_routes_write_nothing_and_a_missing_map_blocks_its_own_alone() {
    on_every_line(|bin| {
        let site = Site::start(bin);
        let settings = [
            ("SIDECAR_HOST_MAP", site.maps["host"].as_str()),
            ("SIDECAR_SNI_MAP", "/no/such.map"),
            ("SIDECAR_REGEX_MAP", "off"),
        ];
        let sidecar = site.world.sidecar_with(&settings);
        let hostile = [
            "x;shutdown frontend www",
            "x\nshutdown frontend www",
            "x\\",
            "x <<",
            "#1",
            "@1",
            "\u{e9}",
            "a\"b",
            "a b",
            "\0",
            "*",
            "https://a.example",
        ];
        let mut tags = vec![
            "haproxy.sni=db.example".to_owned(),
            "haproxy.domain=good.example".to_owned(),
        ];
        for text in hostile {
            tags.extend(
                ["domain", "path", "sni", "port"].map(|key| format!("haproxy.{key}={text}")),
            );
        }
        let tags: Vec<_> = tags.iter().map(String::as_str).collect();
        let _toy = site.register("dynamic", &tags);
        // With a path in the tags no whole host is routed.
        sidecar.logged(&[
            "route blocked: HAProxy has no map /no/such.map",
            "--sni-map",
        ]);
        sidecar.logged(&["not routed: tag \"haproxy.domain=x;shutdown frontend www\""]);
        let tags = [
            &["haproxy.domain=ok.example"][..],
            &["haproxy.domain=x;shutdown frontend www"],
        ]
        .concat();
        let _other = site.register("pre", &tags);
        site.until_found("ok.example", "/", "pre");
        for line in site.world.tap.changes() {
            let is_plain = line
                .bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' ');
            assert!(
                is_plain && !line.contains([';', '\\']) && !line.contains("<<"),
                "{line:?}"
            );
            if line.contains(" map ") {
                let expected = format!("add map {} ok.example pre", site.maps["host"]);
                assert_eq!(line, expected);
            }
        }
        soon("/ready answers 200", || {
            (sidecar.get("/ready").0 == 200).then_some(())
        });
    });
}
