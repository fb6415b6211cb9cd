//! The tags about routes: `domain`, `domain.type`, `path`, `sni`, `port`, `route.keep`. Lists, by commas or by repetition.
//!
//! A bad one costs its route, not the registration: whoever is found by another route goes on being served.

use std::collections::BTreeSet;

use crate::model::{MapKind, MapWord};

use super::Route;
use crate::reconcile::tags::boolean;

/// A service has no more routes: hosts times paths grow fast.
const MOST_ROUTES: usize = 1_000;

/// What the tags of one registration say about routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTags {
    domains: Vec<String>,
    kind: Option<MapKind>,
    paths: Vec<String>,
    snis: Vec<String>,
    ports: Vec<String>,
    drop: bool,
}

impl RouteTags {
    /// Takes in one tag; `None` when it is not about routes.
    pub(in crate::reconcile) fn set(
        &mut self,
        key: &str,
        value: &str,
    ) -> Option<Result<(), String>> {
        let texts = match key {
            "domain" => &mut self.domains,
            "path" => &mut self.paths,
            "sni" => &mut self.snis,
            "port" => &mut self.ports,
            "domain.type" => {
                let kind = match value {
                    "exact" => MapKind::Host,
                    "prefix" => MapKind::Prefix,
                    "suffix" => MapKind::Suffix,
                    "regex" => MapKind::Regex,
                    _ => {
                        return Some(Err(
                            "expected one of exact, prefix, suffix, regex".to_owned()
                        ));
                    }
                };
                return Some(match self.kind.replace(kind) {
                    Some(earlier) if earlier != kind => {
                        Err("given twice with different values".to_owned())
                    }
                    Some(_) | None => Ok(()),
                });
            }
            "route.keep" => {
                return Some(boolean(value).map(|keep| self.drop |= !keep));
            }
            _ => return None,
        };
        texts.push(value.to_owned());
        Some(Ok(()))
    }

    /// Whether the routes stay while nothing of the service is registered.
    #[must_use]
    pub fn keep(&self) -> bool {
        !self.drop
    }

    /// The routes, and what makes none: the tag, and why.
    #[must_use]
    pub fn routes(&self) -> (BTreeSet<Route>, Vec<(String, String)>) {
        let mut routes = BTreeSet::new();
        let mut problems = Vec::new();
        let mut problem = |key: &str, value: &str, why: String| {
            problems.push((format!("{key}={value}"), why));
        };
        let (mut hosts, mut others) = (BTreeSet::new(), BTreeSet::new());
        for domain in self.domains() {
            match self.domain(domain) {
                Ok(route) if route.kind == MapKind::Host => drop(hosts.insert(route)),
                Ok(route) => drop(others.insert(route)),
                Err(why) => problem("domain", domain, why),
            }
        }
        let mut paths = BTreeSet::new();
        for text in list(&self.paths) {
            match path(text) {
                Ok(path) => drop(paths.insert(path)),
                Err(why) => problem("path", text, why),
            }
        }
        if self.paths.is_empty() {
            routes.extend(hosts);
            routes.extend(others);
        } else {
            for route in others {
                let why = "a path needs whole hosts: it cannot be combined with a suffix, prefix or regex";
                problem("domain", route.key.as_str(), why.to_owned());
            }
            // Without a host that can be used, the path alone would take everybody's requests.
            let hosts: Vec<_> = if self.domains.is_empty() {
                vec![""]
            } else {
                hosts.iter().map(|host| host.key.as_str()).collect()
            };
            for host in hosts {
                for path in &paths {
                    match MapWord::new(&format!("{host}{path}")) {
                        Ok(key) => drop(routes.insert(Route {
                            kind: MapKind::Path,
                            key,
                        })),
                        Err(why) => problem("path", path, why.to_string()),
                    }
                }
            }
        }
        for text in list(&self.snis) {
            match host(text).and_then(|host| route(MapKind::Sni, &host)) {
                Ok(route) => drop(routes.insert(route)),
                Err(why) => problem("sni", text, why),
            }
        }
        for text in list(&self.ports) {
            match port(text).and_then(|port| route(MapKind::Port, &port)) {
                Ok(route) => drop(routes.insert(route)),
                Err(why) => problem("port", text, why),
            }
        }
        if routes.len() > MOST_ROUTES {
            let why = format!(
                "{} routes are more than {MOST_ROUTES}, it has none",
                routes.len()
            );
            problem("domain", "…", why);
            routes.clear();
        }
        (routes, problems)
    }

    fn domains(&self) -> Vec<&str> {
        if self.kind == Some(MapKind::Regex) {
            // There, a comma is a part of it.
            self.domains.iter().map(String::as_str).collect()
        } else {
            list(&self.domains).collect()
        }
    }

    fn domain(&self, text: &str) -> Result<Route, String> {
        let kind = self.kind.unwrap_or(MapKind::Host);
        match kind {
            MapKind::Regex => route(kind, text),
            MapKind::Prefix => {
                // Not to its end: it may end within a label, or with a dot.
                let text = text.to_ascii_lowercase();
                host(text.strip_suffix(['.', '-']).unwrap_or(&text))?;
                route(kind, &text)
            }
            MapKind::Suffix | MapKind::Host => match text.strip_prefix("*.") {
                Some(domain) => suffix(domain),
                None if kind == MapKind::Suffix => suffix(text.strip_prefix('.').unwrap_or(text)),
                None => route(kind, &host(text)?),
            },
            MapKind::Path | MapKind::Sni | MapKind::Port => Err("not a kind of domain".to_owned()),
        }
    }
}

fn list(texts: &[String]) -> impl Iterator<Item = &str> {
    texts.iter().flat_map(|text| text.split(','))
}

fn route(kind: MapKind, key: &str) -> Result<Route, String> {
    let key = MapWord::new(key).map_err(|why| why.to_string())?;
    Ok(Route { kind, key })
}

fn suffix(domain: &str) -> Result<Route, String> {
    route(MapKind::Suffix, &format!(".{}", host(domain)?))
}

/// A host as a request has it, in lower case, without port and final dot.
fn host(text: &str) -> Result<String, String> {
    let host = match text.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => text,
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if host.is_empty() {
        return Err("a host is needed, such as www.example.com".to_owned());
    }
    if !host.is_ascii() {
        return Err("write the host in its ASCII form, xn--…".to_owned());
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(is_label) {
        return Err(
            "expected a host alone, such as www.example.com: letters, digits, - and _, with dots between them"
                .to_owned(),
        );
    }
    Ok(host)
}

fn path(text: &str) -> Result<String, String> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&()*+=:@%".contains(&byte);
    if text.len() <= 500 && text.starts_with('/') && text.bytes().all(is_allowed) {
        Ok(text.to_owned())
    } else {
        Err(
            "expected the beginning of a path, such as /api/: at most 500 letters, digits and / - . _ ~ ! $ & ( ) * + = : @ %"
                .to_owned(),
        )
    }
}

fn port(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse::<u16>() {
        Ok(port) if is_plain && port > 0 => Ok(text.to_owned()),
        Ok(_) | Err(_) => Err("expected a port from 1 to 65535".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(tags: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut read = RouteTags::default();
        for (key, value) in tags {
            read.set(key, value).unwrap().unwrap();
        }
        let (routes, problems) = read.routes();
        let problems = problems.into_iter();
        (
            routes.iter().map(ToString::to_string).collect(),
            problems.map(|(tag, why)| format!("{tag}: {why}")).collect(),
        )
    }

    fn routes(tags: &[(&str, &str)]) -> Vec<String> {
        let (routes, problems) = read(tags);
        assert_eq!(problems, [""; 0]);
        routes
    }

    #[test]
    fn a_host_is_compared_as_haproxy_does() {
        assert_eq!(
            routes(&[
                ("domain", "WWW.Example.com:8443,a.example."),
                ("domain", "b.example")
            ]),
            ["host a.example", "host b.example", "host www.example.com"]
        );
    }

    #[test]
    fn each_kind_of_domain_has_its_map() {
        assert_eq!(
            routes(&[("domain", "*.a.example,b.example")]),
            ["host b.example", "suffix .a.example"]
        );
        let suffixes = [
            ("domain", "a.example,.b.example,*.c.example"),
            ("domain.type", "suffix"),
        ];
        assert_eq!(
            routes(&suffixes),
            [
                "suffix .a.example",
                "suffix .b.example",
                "suffix .c.example"
            ]
        );
        assert_eq!(
            routes(&[("domain.type", "prefix"), ("domain", "Api.,api-,v1")]),
            ["prefix api-", "prefix api.", "prefix v1"]
        );
        assert_eq!(
            routes(&[("domain", r"^v\d{1,3}\.example$"), ("domain.type", "regex")]),
            [r"regex ^v\d{1,3}\.example$"]
        );
        assert_eq!(
            routes(&[("sni", "DB.example"), ("port", "5432,6432")]),
            ["SNI db.example", "port 5432", "port 6432"]
        );
    }

    #[test]
    fn a_path_goes_with_each_host_or_alone_and_the_host_is_not_routed() {
        assert_eq!(
            routes(&[("domain", "a.example,b.example"), ("path", "/api,/v1/")]),
            [
                "path a.example/api",
                "path a.example/v1/",
                "path b.example/api",
                "path b.example/v1/"
            ]
        );
        assert_eq!(routes(&[("path", "/api")]), ["path /api"]);
        let (found, problems) = read(&[("domain", "*.a.example,b_.-.example"), ("path", "/api")]);
        assert_eq!((found.len(), problems.len()), (0, 2), "{problems:?}");
    }

    #[test]
    fn what_makes_no_route_is_said_and_the_others_are_there() {
        for (key, bad, why) in [
            ("domain", "", "a host is needed, such as www.example.com"),
            (
                "domain",
                "bücher.example",
                "write the host in its ASCII form, xn--…",
            ),
            ("domain", "https://a.example", "expected a host alone"),
            ("domain", "a b", "expected a host alone"),
            (
                "domain",
                "a.example;shutdown frontend fe",
                "expected a host alone",
            ),
            (
                "domain",
                "a.example\nshutdown frontend fe",
                "expected a host alone",
            ),
            ("domain", "*", "expected a host alone"),
            ("domain", "*.*.example", "expected a host alone"),
            ("domain", "a..example", "expected a host alone"),
            ("domain", "[::1]", "expected a host alone"),
            ("sni", "-a.example", "expected a host alone"),
            ("path", "api", "expected the beginning of a path"),
            ("path", "/a b", "expected the beginning of a path"),
            ("path", "/a?b", "expected the beginning of a path"),
            ("path", "/a\\", "expected the beginning of a path"),
            ("path", "/<<", "expected the beginning of a path"),
            ("port", "0", "expected a port from 1 to 65535"),
            ("port", "65536", "expected a port from 1 to 65535"),
            ("port", "080", "expected a port from 1 to 65535"),
            ("port", "+80", "expected a port from 1 to 65535"),
        ] {
            let (routes, problems) = read(&[(key, bad), ("sni", "good.example")]);
            assert_eq!(routes, ["SNI good.example"], "{bad:?}");
            assert!(problems[0].contains(why), "{bad:?}: {problems:?}");
        }
        let many: Vec<_> = (0..40).map(|n| format!("{n}.example")).collect();
        let paths: Vec<_> = (0..40).map(|n| format!("/{n}")).collect();
        let (routes, problems) = read(&[("domain", &many.join(",")), ("path", &paths.join(","))]);
        assert!(routes.is_empty() && problems[0].contains("1600 routes are more than 1000"));
    }

    proptest! {
        #[test]
        fn whatever_the_tags_say_a_key_is_one_harmless_word(texts in proptest::collection::vec((0..4_usize, prop_oneof![any::<String>(), "[a-z*./:;#@ \\\\<-]{1,12}"]), 1..6), kind in 0..5_usize) {
            let mut tags = RouteTags::default();
            if let Some(kind) = ["exact", "prefix", "suffix", "regex"].get(kind) {
                tags.set("domain.type", kind).unwrap().unwrap();
            }
            for (key, text) in &texts {
                tags.set(["domain", "path", "sni", "port"][*key], text).unwrap().unwrap();
            }
            for route in tags.routes().0 {
                let key = route.key.as_str();
                prop_assert!(key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';'), "{key:?}");
                prop_assert!(!key.starts_with(['#', '@']) && !key.contains("<<"), "{key:?}");
                prop_assert!(route.kind == MapKind::Regex || !key.contains('\\'), "{key:?}");
            }
        }
    }
}
