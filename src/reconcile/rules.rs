//! Which namespace may claim what: backends, hosts, profiles, weights. Made from the policy file, or, without one, from
//! the sidecar's own namespace alone.
//!
//! A rule only says what may be claimed. Who of several that may gets it, is decided where the claims are compared.

use std::{fmt, sync::Arc};

use super::tags::shown;
use crate::model::{BackendName, ServiceKey};

/// HAProxy's weights go up to this.
pub const MAX_WEIGHT: u16 = 256;

/// What each namespace may claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The sidecar's own namespace.
    own: Arc<str>,
    /// The policy file, as it is named in refusals.
    file: Option<Arc<str>>,
    /// The most specific first.
    sections: Vec<Section>,
}

/// What the namespaces that match a name or glob may claim. A key that is `None` was not written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// The namespaces.
    pub namespaces: Glob,
    /// Hosts, for routes.
    pub hosts: Option<Vec<Glob>>,
    /// Backends, beside `<namespace>.<service>`.
    pub backends: Option<Vec<Glob>>,
    /// `defaults` sections for backends that are made at runtime.
    pub profiles: Option<Vec<Glob>>,
    /// Server profiles.
    pub server_profiles: Option<Vec<Glob>>,
    /// The heaviest weight.
    pub max_weight: Option<u16>,
    /// Whether a domain may be a regular expression. It can match any host.
    pub regex: Option<bool>,
}

/// A pattern in which `*` stands for any text, and every other character for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Glob(String);

/// A claim that the rules do not allow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    namespace: Arc<str>,
    /// What it may not, in words.
    claim: String,
    /// The rule, in words.
    rule: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            claim,
            rule,
        } = self;
        write!(f, "the namespace {namespace} may not {claim}: {rule}")
    }
}

// === impl Rules ===

impl Default for Rules {
    fn default() -> Self {
        Self::without_file("default")
    }
}

impl Rules {
    /// The rules without a policy file: the sidecar's own namespace may use any backend, others only
    /// `<namespace>.<service>`.
    #[must_use]
    pub fn without_file(own: &str) -> Self {
        Self {
            own: own.into(),
            file: None,
            sections: Vec::new(),
        }
    }

    /// The rules of a policy file.
    #[must_use]
    pub fn new(own: &str, file: &str, mut sections: Vec<Section>) -> Self {
        sections.sort_by(|one, other| {
            let specific = |section: &Section| section.namespaces.specificity();
            specific(other)
                .cmp(&specific(one))
                .then_with(|| one.namespaces.cmp(&other.namespaces))
        });
        Self {
            own: own.into(),
            file: Some(file.into()),
            sections,
        }
    }

    /// The sidecar's own namespace.
    #[must_use]
    pub fn own_namespace(&self) -> &Arc<str> {
        &self.own
    }

    /// Whether `service` is in the sidecar's own namespace: its claims go before those of others.
    #[must_use]
    pub fn is_own(&self, service: &ServiceKey) -> bool {
        service.namespace == self.own
    }

    /// Whether `service` may have servers in `backend`, or have it made. Its own, `<namespace>.<service>`, it always may.
    ///
    /// # Errors
    ///
    /// When it may not: which rule says so.
    pub fn backend(&self, service: &ServiceKey, backend: &BackendName) -> Result<(), Refusal> {
        let is_its_own = backend
            .as_str()
            .strip_prefix(&*service.namespace)
            .and_then(|rest| rest.strip_prefix('.'))
            .is_some_and(|rest| rest == &*service.name);
        if is_its_own && !service.name.contains('.') {
            return Ok(());
        }
        let otherwise = self.is_own(service);
        self.list(
            service,
            "backends",
            backend.as_str(),
            otherwise,
            |section| section.backends.as_deref(),
        )
        .map_err(|rule| refusal(service, format!("use the backend {backend}"), rule))
    }

    /// Whether `service` may have a route of `host`: a host in lower case without a port, `*.a.example` for all hosts
    /// that end so, `a.*` for all that begin so, `*` for a route that names none.
    ///
    /// # Errors
    ///
    /// When it may not: which rule says so.
    pub fn host(&self, service: &ServiceKey, host: &str) -> Result<(), Refusal> {
        let otherwise = self.is_own(service) || self.file.is_none();
        self.list(service, "hosts", host, otherwise, |section| {
            section.hosts.as_deref()
        })
        .map_err(|rule| refusal(service, format!("claim the host {}", shown(host)), rule))
    }

    /// Whether a backend of `service` may be made from the `defaults` section `profile`, one of those that the sidecar
    /// may use at all.
    ///
    /// # Errors
    ///
    /// When it may not: which rule says so.
    pub fn profile(&self, service: &ServiceKey, profile: &str) -> Result<(), Refusal> {
        self.list(service, "profiles", profile, true, |section| {
            section.profiles.as_deref()
        })
        .map_err(|rule| {
            let claim = format!("use the backend profile {}", shown(profile));
            refusal(service, claim, rule)
        })
    }

    /// Whether servers of `service` may have the keywords of the server profile `profile`.
    ///
    /// # Errors
    ///
    /// When they may not: which rule says so.
    pub fn server_profile(&self, service: &ServiceKey, profile: &str) -> Result<(), Refusal> {
        let otherwise = self.is_own(service);
        self.list(service, "server-profiles", profile, otherwise, |section| {
            section.server_profiles.as_deref()
        })
        .map_err(|rule| {
            let claim = format!("use the server profile {}", shown(profile));
            refusal(service, claim, rule)
        })
    }

    /// Whether domains of `service` may be regular expressions. They can match any host, so `hosts` does not matter then.
    ///
    /// # Errors
    ///
    /// When they may not: which rule says so.
    pub fn regex(&self, service: &ServiceKey) -> Result<(), Refusal> {
        let section = self.section(service);
        if section.and_then(|section| section.regex) == Some(true) {
            return Ok(());
        }
        let rule = self.rule(section, "regex = true");
        let claim = "claim hosts by a regular expression".to_owned();
        Err(refusal(service, claim, rule))
    }

    /// Whether servers of `service` may have this weight.
    ///
    /// # Errors
    ///
    /// When they may not: which rule says so.
    pub fn weight(&self, service: &ServiceKey, weight: u16) -> Result<(), Refusal> {
        let max = self.max_weight(service);
        if weight <= max {
            return Ok(());
        }
        let rule = self.rule(self.section(service), &format!("max-weight = {max}"));
        Err(refusal(service, format!("have the weight {weight}"), rule))
    }

    /// The heaviest weight that servers of `service` may have.
    #[must_use]
    pub fn max_weight(&self, service: &ServiceKey) -> u16 {
        let section = self.section(service);
        let max = section.and_then(|section| section.max_weight);
        max.unwrap_or(MAX_WEIGHT)
    }

    /// Whether the list under `key` has `claim`. Where nothing is written it is `otherwise`. The error is the rule.
    fn list<'a>(
        &'a self,
        service: &ServiceKey,
        key: &str,
        claim: &str,
        otherwise: bool,
        of: impl Fn(&'a Section) -> Option<&'a [Glob]>,
    ) -> Result<(), String> {
        let section = self.section(service);
        let allowed = match section.and_then(of) {
            Some(globs) => globs.iter().any(|glob| glob.matches(claim)),
            None => otherwise,
        };
        if allowed {
            Ok(())
        } else {
            Err(self.rule(section, key))
        }
    }

    fn section(&self, service: &ServiceKey) -> Option<&Section> {
        let matches = |section: &&Section| section.namespaces.matches(&service.namespace);
        self.sections.iter().find(matches)
    }

    /// What does not allow it.
    fn rule(&self, section: Option<&Section>, key: &str) -> String {
        match (&self.file, section) {
            (Some(file), Some(section)) => {
                format!("{key} in [namespace.{}] of {file}", section.namespaces.key())
            }
            (Some(file), None) => {
                format!("{file} has no section for it that allows it by {key}")
            }
            (None, _) => "without a policy file only the sidecar's own namespace may use any backend and server profile, \
                 others the backend <namespace>.<service>, and nobody a regular expression"
                .to_owned(),
        }
    }
}

fn refusal(service: &ServiceKey, claim: String, rule: String) -> Refusal {
    Refusal {
        namespace: Arc::clone(&service.namespace),
        claim,
        rule,
    }
}

// === impl Glob ===

impl Glob {
    /// The pattern `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether it stands for `text`. A `*` in `text` is only stood for by a `*` here: so what matches as a pattern
    /// matches with everything that it stands for.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else {
            return self.0 == text;
        };
        let Some(mut left) = text.strip_prefix(first) else {
            return false;
        };
        let (between, last) = rest.rsplit_once('*').unwrap_or(("", rest));
        // The earliest place of each leaves the most for those that follow.
        for part in between.split('*') {
            let Some(place) = left.find(part) else {
                return false;
            };
            left = &left[place + part.len()..];
        }
        left.ends_with(last)
    }

    /// A name goes before any glob, and of globs the one with the most characters of its own.
    fn specificity(&self) -> (bool, usize) {
        let own = self.0.chars().filter(|&character| character != '*').count();
        (!self.0.contains('*'), own)
    }

    /// As a key of TOML.
    fn key(&self) -> String {
        let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.0.is_empty() || !self.0.chars().all(is_bare) {
            shown(&self.0)
        } else {
            self.0.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn globs(texts: &[&str]) -> Vec<Glob> {
        texts.iter().map(|text| Glob::new(text)).collect()
    }

    fn backend(name: &str) -> BackendName {
        BackendName::new(name).unwrap()
    }

    fn of_a_file() -> Rules {
        Rules::new(
            "default",
            "policy.toml",
            vec![
                Section {
                    namespaces: Glob::new("*"),
                    hosts: Some(globs(&[])),
                    ..Section::default()
                },
                Section {
                    namespaces: Glob::new("team-*"),
                    hosts: Some(globs(&["*.teams.example"])),
                    backends: Some(globs(&["shared", "team-*"])),
                    server_profiles: Some(globs(&["tls"])),
                    max_weight: Some(10),
                    ..Section::default()
                },
                Section {
                    namespaces: Glob::new("team-a"),
                    hosts: Some(globs(&["a.example", "shop*.a.example"])),
                    profiles: Some(globs(&["nomad"])),
                    regex: Some(true),
                    ..Section::default()
                },
            ],
        )
    }

    #[test]
    fn without_a_file_others_use_their_own_backend_and_no_rule_keeps_hosts_from_them() {
        let rules = Rules::default();
        let (own, other) = (
            ServiceKey::new("default", "web"),
            ServiceKey::new("team", "web"),
        );
        assert!(rules.is_own(&own) && !rules.is_own(&other));
        for name in ["web", "other", "team.web"] {
            assert_eq!(rules.backend(&own, &backend(name)), Ok(()));
        }
        assert_eq!(rules.backend(&other, &backend("team.web")), Ok(()));
        assert_eq!(rules.host(&other, "a.example"), Ok(()));
        assert_eq!(rules.weight(&other, 256), Ok(()));
        assert_eq!(rules.server_profile(&own, "tls"), Ok(()));
        assert_eq!(
            rules
                .backend(&other, &backend("web"))
                .unwrap_err()
                .to_string(),
            "the namespace team may not use the backend web: without a policy file only the sidecar's own namespace may use \
             any backend and server profile, others the backend <namespace>.<service>, and nobody a regular expression"
        );
        assert!(rules.backend(&other, &backend("team.other")).is_err());
        assert!(rules.server_profile(&other, "tls").is_err());
        assert!(rules.regex(&own).is_err());
    }

    #[test]
    fn a_name_with_a_dot_forges_no_backend_of_another_namespace() {
        let rules = Rules::default();
        // `a.b` of the namespace `x` and `b` of `x.a` would have one backend.
        let forger = ServiceKey::new("x", "a.b");
        assert!(rules.backend(&forger, &backend("x.a.b")).is_err());
    }

    #[test]
    fn the_most_specific_section_decides_alone_and_is_named_in_the_refusal() {
        let rules = of_a_file();
        let a = ServiceKey::new("team-a", "web");
        let b = ServiceKey::new("team-b", "web");
        let stranger = ServiceKey::new("stranger", "web");
        assert_eq!(rules.host(&a, "a.example"), Ok(()));
        assert_eq!(rules.host(&a, "shop1.a.example"), Ok(()));
        assert_eq!(rules.host(&b, "x.teams.example"), Ok(()));
        assert_eq!(rules.backend(&b, &backend("shared")), Ok(()));
        assert_eq!(rules.regex(&a), Ok(()));
        assert_eq!(rules.profile(&b, "anything"), Ok(()));
        for (refused, text) in [
            (
                rules.host(&a, "x.teams.example"),
                "the namespace team-a may not claim the host \"x.teams.example\": hosts in [namespace.team-a] of policy.toml",
            ),
            (
                rules.host(&b, "a.example"),
                "the namespace team-b may not claim the host \"a.example\": hosts in [namespace.\"team-*\"] of policy.toml",
            ),
            (
                rules.backend(&a, &backend("shared")),
                "the namespace team-a may not use the backend shared: backends in [namespace.team-a] of policy.toml",
            ),
            (
                rules.host(&stranger, "b.example"),
                "the namespace stranger may not claim the host \"b.example\": hosts in [namespace.\"*\"] of policy.toml",
            ),
            (
                rules.weight(&b, 11),
                "the namespace team-b may not have the weight 11: max-weight = 10 in [namespace.\"team-*\"] of policy.toml",
            ),
            (
                rules.profile(&a, "tcp"),
                "the namespace team-a may not use the backend profile \"tcp\": profiles in [namespace.team-a] of policy.toml",
            ),
            (
                rules.server_profile(&a, "tls"),
                "the namespace team-a may not use the server profile \"tls\": server-profiles in [namespace.team-a] of policy.toml",
            ),
            (
                rules.regex(&b),
                "the namespace team-b may not claim hosts by a regular expression: regex = true in [namespace.\"team-*\"] of \
                 policy.toml",
            ),
        ] {
            assert_eq!(refused.unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn with_a_file_a_namespace_without_a_section_claims_no_host() {
        let rules = Rules::new("default", "policy.toml", Vec::new());
        assert_eq!(rules.host(&ServiceKey::new("default", "web"), "a"), Ok(()));
        let refusal = rules
            .host(&ServiceKey::new("team", "web"), "a")
            .unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "the namespace team may not claim the host \"a\": policy.toml has no section for it that allows it by hosts"
        );
    }

    #[test]
    fn a_claim_of_many_hosts_needs_a_rule_for_all_of_them() {
        let shop = Glob::new("shop*.a.example");
        assert!(shop.matches("shop.a.example") && shop.matches("shop-1.x.a.example"));
        assert!(!shop.matches("*.a.example") && !shop.matches("*"));
        assert!(Glob::new("*.a.example").matches("*.a.example"));
        assert!(!Glob::new("*.a.example").matches("a.example"));
        assert!(!Glob::new("a.example").matches("a.*") && Glob::new("*").matches("*"));
        assert!(!Glob::new("ab*ba").matches("aba"));
    }

    proptest! {
        #[test]
        fn a_glob_matches_what_a_search_of_all_ways_matches(glob in "[ab*]{0,6}", text in "[ab*]{0,8}") {
            fn all_ways(glob: &[u8], text: &[u8]) -> bool {
                match (glob, text) {
                    ([], []) => true,
                    ([b'*', rest @ ..], _) => {
                        (0..=text.len()).any(|skipped| all_ways(rest, &text[skipped..]))
                    }
                    ([one, glob @ ..], [other, text @ ..]) => one == other && all_ways(glob, text),
                    ([], _) | (_, []) => false,
                }
            }
            prop_assert_eq!(Glob::new(&glob).matches(&text), all_ways(glob.as_bytes(), text.as_bytes()));
        }
    }
}
