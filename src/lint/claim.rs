//! What the sidecar would make of a service. That is asked of [`contribution`], which makes servers of what the catalog
//! says: here it is given what the catalog would say.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    check::{Located, whole},
    job::Text,
    shown,
};
use crate::{
    model::{BackendName, Registration, ServiceKey},
    reconcile::{
        Policy,
        desired::{Reason, contribution},
        made::Places,
        routes::RouteReason,
        tags::{self, TagProblem},
    },
};

/// The name of a service that is not known.
const ANYBODY: &str = "service";
/// No more is told of one thing.
const MAX_FOUND: usize = 1_000;
/// For what Nomad will put in.
const ANY_ADDRESS: &str = "192.0.2.1";
/// Keys of tags that say which backend.
const BACKEND: &[&str] = &["backend", "backend.name"];
/// Keys of tags that make routes.
const ROUTES: &[&str] = &["domain", "domain.type", "path", "sni", "port"];

/// The tags that can be read, and what is wrong with any: a bad value hides what else there is to say.
pub(super) fn readable(prefix: &str, mut tags: Vec<String>) -> (Vec<String>, Vec<TagProblem>) {
    let mut problems = Vec::new();
    while let Err(bad) = tags::read(prefix, &tags) {
        let before = tags.len();
        tags.retain(|tag| !bad.iter().any(|bad| bad.tag == shown(tag)));
        problems.extend(bad);
        if tags.len() == before {
            break;
        }
    }
    let notes = tags::read(prefix, &tags).map(|tags| tags.notes);
    problems.extend(notes.unwrap_or_default());
    (tags, problems)
}

/// What Nomad would register, as far as it is known. What is not known is something that can be used.
pub(super) fn registration(namespace: &str, name: &Text, tags: Vec<String>) -> Registration {
    Registration {
        id: "lint".into(),
        service: ServiceKey::new(namespace, name.whole().unwrap_or(ANYBODY)),
        alloc_id: "00000000-0000-0000-0000-000000000000".into(),
        job_id: "lint".into(),
        tags,
        address: ANY_ADDRESS.to_owned(),
        port: 1,
        create_index: 1,
        modify_index: 1,
    }
}

/// Something for which the sidecar would not serve a service, or not as it asks.
pub(super) struct Found {
    pub(super) reason: Reason,
    pub(super) cause: Cause,
}

/// What a reason is about.
pub(super) enum Cause {
    Tag(String),
    Name,
    Tags,
}

impl Found {
    /// Whether it is a tag that is wrong, rather than not allowed.
    pub(super) fn is_bad_tag(&self) -> bool {
        matches!(
            self.reason,
            Reason::Route(RouteReason::Tag(_))
                | Reason::NoSuchServerProfile(..)
                | Reason::UnknownProfile(..)
        )
    }
}

/// What a service asks for, as far as it is known.
#[derive(Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a Text,
    /// Those that can be read.
    pub(super) tags: &'a [String],
    pub(super) policy: &'a Policy,
}

impl Claim<'_> {
    /// Why the sidecar would not serve it, or not as it asks, if HAProxy had whatever backend it goes to. Its name, its
    /// routes and its profiles are looked at one by one, since what is wrong with one hides the others.
    pub(super) fn judge(self) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        let mut add = |reasons: Vec<Reason>, cause: &dyn Fn(&Reason) -> Cause| {
            for reason in reasons.into_iter().take(MAX_FOUND) {
                if !found.iter().any(|found| found.reason == reason) {
                    let cause = cause(&reason);
                    found.push(Found { reason, cause });
                }
            }
        };
        let of_key = |key: &str, otherwise| {
            let tag = self.tags.iter().find(|tag| self.key(tag) == Some(key));
            tag.map_or(otherwise, |tag| Cause::Tag(tag.clone()))
        };
        let own_name = exposed(self.namespace, self.name, self.with(BACKEND), self.policy);
        add(reasons(&own_name, false, self.policy), &|_| {
            of_key("backend.name", Cause::Name)
        });
        let routes = self.routes();
        if !routes.is_empty() {
            let by_reason = self.route_tags();
            add(routes, &|reason| {
                let alone = by_reason.get(reason).copied();
                let tag = alone.or_else(|| self.tag_of_both(reason));
                tag.map_or(Cause::Tags, |tag| Cause::Tag(tag.clone()))
            });
        }
        for key in ["tls.profile", "weight"] {
            add(self.by_itself(self.with(&[key])), &|_| {
                of_key(key, Cause::Tags)
            });
        }
        // Without any section nothing is made, and that is no mistake of the job.
        let may_make = !self.policy.backend_profiles.is_empty();
        let key = "backend.profile";
        if may_make && self.tags.iter().any(|tag| self.key(tag) == Some(key)) {
            let tags = self.with(&["backend", key]);
            let reasons = reasons(&self.anybody(tags), true, self.policy);
            add(reasons, &|_| of_key(key, Cause::Tags));
        }
        // Whatever else there may be.
        let whole = exposed(self.namespace, self.name, self.tags.to_vec(), self.policy);
        add(reasons(&whole, false, self.policy), &|_| Cause::Tags);
        found
    }

    fn key<'t>(&self, tag: &'t str) -> Option<&'t str> {
        tags::split(&self.policy.tag_prefix, tag).map(|(key, _)| key)
    }

    fn is_of(&self, tag: &str, keys: &[&str]) -> bool {
        self.key(tag).is_some_and(|key| keys.contains(&key))
    }

    /// The tags with these keys.
    fn with(&self, keys: &[&str]) -> Vec<String> {
        let tags = self.tags.iter().filter(|tag| self.is_of(tag, keys));
        tags.cloned().collect()
    }

    /// What is wrong with the routes.
    fn routes(&self) -> Vec<Reason> {
        self.by_itself(self.with(ROUTES))
    }

    /// What is wrong with these tags, whatever the service's name is.
    fn by_itself(&self, tags: Vec<String>) -> Vec<Reason> {
        reasons(&self.anybody(tags), false, self.policy)
    }

    /// A service of this namespace with these tags, and with a backend that the rules always allow.
    fn anybody(&self, mut tags: Vec<String>) -> Registration {
        let (prefix, namespace) = (&self.policy.tag_prefix, self.namespace);
        tags.push(format!("{prefix}.backend.name={namespace}.{ANYBODY}"));
        exposed(namespace, &Text::default(), tags, self.policy)
    }

    /// What is wrong with each tag's routes alone, and the tag.
    fn route_tags(&self) -> BTreeMap<Reason, &String> {
        let mut by_reason = BTreeMap::new();
        let kinds = self.with(&["domain.type"]);
        for tag in self.tags.iter().filter(|tag| self.is_of(tag, ROUTES)) {
            let mut tags = kinds.clone();
            tags.push(tag.clone());
            for reason in self.by_itself(tags).into_iter().take(MAX_FOUND) {
                by_reason.entry(reason).or_insert(tag);
            }
        }
        by_reason
    }

    /// The first tag that has the key of what is wrong with hosts and paths together.
    fn tag_of_both(&self, reason: &Reason) -> Option<&String> {
        let Reason::Route(RouteReason::Tag(problem)) = reason else {
            return None;
        };
        self.tags.iter().find(|tag| {
            let start = tag.split('=').next().unwrap_or_default();
            problem.tag[1..].starts_with(&format!("{start}="))
        })
    }
}

/// Why the sidecar would not serve a registration, or not as it asks, wherever its backend comes from.
fn reasons(registration: &Registration, can_make: bool, policy: &Policy) -> Vec<Reason> {
    let mut reasons = reasons_with(registration, &[], can_make, policy);
    let missing: Vec<_> = reasons.iter().flat_map(missing).cloned().collect();
    if !missing.is_empty() {
        reasons = reasons_with(registration, &missing, can_make, policy);
    }
    // What is wrong with single tags is told with their lines, and whose the backend will be is not known here.
    reasons.retain(|reason| {
        !matches!(
            reason,
            Reason::Tags(_) | Reason::Note(_) | Reason::NoSuchBackend(_) | Reason::NoProfile(_)
        )
    });
    reasons
}

fn reasons_with(
    registration: &Registration,
    backends: &[String],
    can_make: bool,
    policy: &Policy,
) -> Vec<Reason> {
    let backends = backends
        .iter()
        .filter_map(|name| BackendName::new(name).ok());
    let places = Places {
        can_make,
        ..backends.collect::<BTreeSet<_>>().into()
    };
    let (service, one) = (&registration.service, std::slice::from_ref(registration));
    let contribution = contribution(service, one, &places, policy);
    let rejections = contribution.rejections.into_iter();
    rejections.map(|rejection| rejection.reason).collect()
}

/// The backends that a registration goes to, the first that HAProxy has.
fn missing(reason: &Reason) -> &[String] {
    if let Reason::NoSuchBackend(names) = reason {
        names
    } else {
        &[]
    }
}

/// The tags that make no route, wherever the service goes.
pub(super) fn route_problems(located: &Located<'_>, policy: &Policy) -> Vec<TagProblem> {
    let (tags, _) = readable(&policy.tag_prefix, whole(&located.service.tags));
    let claim = Claim {
        namespace: policy.rules.own_namespace(),
        name: &located.name,
        tags: &tags,
        policy,
    };
    let mut problems = Vec::new();
    for reason in claim.routes() {
        if let Reason::Route(RouteReason::Tag(problem)) = reason {
            problems.push(problem);
        }
    }
    problems
}

/// What Nomad would register if the service opted in, with these of its tags.
fn exposed(namespace: &str, name: &Text, mut tags: Vec<String>, policy: &Policy) -> Registration {
    let prefix = &policy.tag_prefix;
    tags.retain(|tag| !matches!(tags::split(prefix, tag), Some(("enable", _))));
    tags.push(format!("{prefix}.enable=true"));
    registration(namespace, name, tags)
}

/// The backend of a service, in words, whether or not it opts in.
pub(super) fn backend(located: &Located<'_>, namespace: &str, policy: &Policy) -> String {
    let prefix = &policy.tag_prefix;
    let later = |what: &str| format!("not known before Nomad has evaluated {what}");
    let Some(texts) = &located.service.tags.texts else {
        return later("its tags");
    };
    let start = format!("{prefix}.backend.name=");
    let mut unknown = texts.iter().filter(|text| !text.is_whole);
    if let Some(tag) = unknown.find(|text| text.may_begin_with(&start)) {
        return later(&format!("tag {}", shown(&tag.written)));
    }
    let (tags, problems) = readable(prefix, whole(&located.service.tags));
    let names_backend = |tag: &str| tag.starts_with(&start);
    if let Some(problem) = (problems.iter()).find(|problem| problem.tag[1..].starts_with(&start)) {
        return format!("none, before tag {} is mended", problem.tag);
    }
    if !located.name.is_whole && !tags.iter().any(|tag| names_backend(tag)) {
        return later(&format!("its name {}", shown(&located.name.written)));
    }
    let reasons = reasons_with(
        &exposed(namespace, &located.name, tags, policy),
        &[],
        false,
        policy,
    );
    let names = reasons.iter().flat_map(missing);
    let names: Vec<_> = names.map(|name| shown(name)).collect();
    match (&*names, reasons.first()) {
        ([only], _) => only.clone(),
        ([first, others @ ..], _) => format!("{first}; if HAProxy has none, {}", others.join(", ")),
        ([], Some(reason)) => format!("none: {reason}"),
        ([], None) => "none".to_owned(),
    }
}
