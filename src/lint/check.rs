//! What is wrong with a job. Whether a tag, a name or an address can be used is asked of [`contribution`], which makes
//! servers of what the catalog says: here it is given what the catalog would say.

use std::{collections::BTreeSet, iter};

use super::{
    Finding, Place, Report, Rule,
    job::{Delay, Group, Job, List, Service, Task, Text},
    port::{self, Port},
    shown,
};
use crate::{
    model::{BackendName, Registration, ServiceKey},
    reconcile::{
        Policy, TooSoon,
        desired::{self, Reason, contribution},
        tags::{self, TagProblem},
    },
    spelling,
};

/// No service is looked at after so many findings.
const MAX_FINDINGS: usize = 1_000;
/// So many tags of a service are judged.
const MAX_TAGS: usize = 200;
/// For what Nomad will put in.
const ANY_ADDRESS: &str = "192.0.2.1";

/// Looks at every service of a job that is written in `namespace`, unless it says otherwise.
#[must_use]
pub fn check(job: &Job, policy: &Policy, namespace: &str) -> Report {
    let mut check = Check {
        policy,
        namespace: namespace_of(job, namespace),
        report: Report {
            job: job.name.clone(),
            ..Report::default()
        },
    };
    for unread in &job.unread {
        let text = format!(
            "the blocks of dynamic {} are made by Nomad: without it they are not judged",
            shown(&unread.what)
        );
        check.add(Rule::NotJudged, unread.line, &Place::default(), text);
    }
    for located in services(job) {
        if check.report.findings.len() >= MAX_FINDINGS {
            check.report.is_cut = true;
            break;
        }
        check.service(&located);
    }
    check.report.findings.sort_by_key(|finding| finding.line);
    check.report
}

/// A service and where it is.
struct Located<'a> {
    group: &'a Group,
    task: Option<&'a Task>,
    service: &'a Service,
    name: Text,
    place: Place,
}

fn services(job: &Job) -> impl Iterator<Item = Located<'_>> {
    let owners = job.groups.iter().flat_map(|group| {
        let tasks = group.tasks.iter().map(Some);
        iter::once(None).chain(tasks).map(move |task| (group, task))
    });
    owners.flat_map(move |(group, task)| {
        let services = task.map_or(&group.services, |task| &task.services);
        services.iter().map(move |service| {
            let name = service_name(job, group, task, service);
            let place = Place {
                group: Some(group.name.clone()),
                task: task.map(|task| task.name.clone()),
                service: Some(name.written.clone()),
            };
            Located {
                group,
                task,
                service,
                name,
                place,
            }
        })
    })
}

/// A service, and the backend that it goes to.
pub(super) struct Claimant<'a> {
    pub(super) service: &'a Service,
    pub(super) name: Text,
    pub(super) place: Place,
    /// In words.
    pub(super) backend: String,
}

/// Every service of the job, whether or not it opts in.
pub(super) fn claimants<'a>(job: &'a Job, policy: &Policy, namespace: &str) -> Vec<Claimant<'a>> {
    let policy = Policy {
        expose_by_default: true,
        ..policy.clone()
    };
    let claimant = |located: Located<'a>| {
        let tags = whole(&located.service.tags);
        let namespace = namespace_of(job, namespace);
        let registration = registration(namespace, &located.name, tags);
        Claimant {
            service: located.service,
            backend: backend(&registration, &policy),
            name: located.name,
            place: located.place,
        }
    };
    services(job).map(claimant).collect()
}

fn namespace_of<'a>(job: &'a Job, otherwise: &'a str) -> &'a str {
    let written = job.namespace.as_ref().and_then(Text::whole);
    written.unwrap_or(otherwise)
}

/// The tags that are known, as far as they are judged.
fn whole(list: &List) -> Vec<String> {
    let texts = list.texts().iter().filter_map(Text::whole);
    texts.take(MAX_TAGS).map(str::to_owned).collect()
}

/// Whether a list of tags opts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opts {
    In,
    Out,
    /// It says nothing, but has tags for the sidecar.
    Forgot,
    /// It has nothing to do with the sidecar.
    Nothing,
    /// It could not be evaluated.
    Unknown,
}

struct Check<'a> {
    policy: &'a Policy,
    namespace: &'a str,
    report: Report,
}

impl Check<'_> {
    fn add(&mut self, rule: Rule, line: Option<usize>, place: &Place, text: String) {
        let finding = Finding {
            rule,
            line,
            place: place.clone(),
            text,
        };
        if !self.report.findings.contains(&finding) {
            self.report.findings.push(finding);
        }
    }

    fn service(&mut self, located: &Located<'_>) {
        let Located {
            group,
            task,
            service,
            name,
            place,
        } = located;
        self.report.services += 1;
        self.spelling_of_the_prefix(&service.tags, place);
        self.spelling_of_the_prefix(&service.canary_tags, place);
        let opts = self.opts(&service.tags);
        let canary = if service.canary_tags.is_empty() {
            Opts::Nothing
        } else {
            self.opts(&service.canary_tags)
        };
        if opts == Opts::Nothing && canary == Opts::Nothing {
            return;
        }
        self.report.wanted += usize::from(opts == Opts::In);
        for (list, what) in [
            (&service.tags, "tags"),
            (&service.canary_tags, "canary_tags"),
        ] {
            self.not_evaluated(list, what, place);
        }
        self.opting_in(service, opts, canary, place);
        self.canaries(service, opts, canary, place);
        self.claims(service, name, &service.tags, opts, place);
        self.claims(service, name, &service.canary_tags, canary, place);
        if matches!(opts, Opts::In | Opts::Unknown) || canary == Opts::In {
            self.provider(service, place);
            self.address(located);
            self.stops(group, *task, service, place);
        }
    }

    fn opts(&self, list: &List) -> Opts {
        let Some(texts) = &list.texts else {
            return Opts::Unknown;
        };
        let prefix = &self.policy.tag_prefix;
        let enables = |tag: &&str| matches!(tags::split(prefix, tag), Some(("enable", _)));
        let enable = texts.iter().filter_map(Text::whole).find(enables);
        if let Some(enable) = enable {
            // What cannot be read as yes or no is reported as such, and was meant as yes.
            let read = tags::read(prefix, &[enable.to_owned()]);
            let is_out = read.is_ok_and(|tags| tags.enable == Some(false));
            return if is_out { Opts::Out } else { Opts::In };
        }
        let enable = format!("{prefix}.enable");
        let mut unknown = texts.iter().filter(|text| !text.is_whole);
        if unknown.any(|text| text.may_begin_with(&enable)) {
            return Opts::Unknown;
        }
        if self.policy.expose_by_default {
            return Opts::In;
        }
        let dotted = format!("{prefix}.");
        if texts.iter().any(|text| text.known.starts_with(&dotted)) {
            Opts::Forgot
        } else {
            Opts::Nothing
        }
    }

    fn opting_in(&mut self, service: &Service, opts: Opts, canary: Opts, place: &Place) {
        let prefix = &self.policy.tag_prefix;
        let text = match (opts, canary) {
            (Opts::Forgot, _) => format!(
                "it has tags for the sidecar but is not served, since {prefix}.enable=true is not among them: add it, or remove \
                 the others"
            ),
            (Opts::Nothing, Opts::In) => format!(
                "only its canaries are served, since {prefix}.enable=true is in canary_tags alone: add it to tags"
            ),
            _ => return,
        };
        self.add(
            Rule::Enable,
            service.tags.line.or(service.line),
            place,
            text,
        );
    }

    fn canaries(&mut self, service: &Service, opts: Opts, canary: Opts, place: &Place) {
        let forgot = matches!(canary, Opts::Forgot | Opts::Nothing);
        if opts != Opts::In || !forgot || service.canary_tags.is_empty() {
            return;
        }
        let prefix = &self.policy.tag_prefix;
        let text = format!(
            "an instance that is a canary is not served, since Nomad takes canary_tags instead of tags: add {prefix}.enable=true \
             to canary_tags"
        );
        self.add(Rule::CanaryTags, service.canary_tags.line, place, text);
    }

    fn not_evaluated(&mut self, list: &List, what: &str, place: &Place) {
        if list.texts.is_none() {
            let text = format!("{what} is made by an expression, and is not judged");
            self.add(Rule::NotJudged, list.line, place, text);
        }
        let dotted = format!("{}.", self.policy.tag_prefix);
        for text in list.texts().iter().take(MAX_TAGS) {
            if !text.is_whole && text.may_begin_with(&dotted) {
                let written = shown(&text.written);
                let note = format!("tag {written}: it has an expression in it, and is not judged");
                self.add(Rule::NotJudged, text.line, place, note);
            }
        }
        if list.texts().len() > MAX_TAGS {
            let text = format!("of {what} only the first {MAX_TAGS} are judged");
            self.add(Rule::NotJudged, list.line, place, text);
        }
    }

    /// What the sidecar would say to a registration with these tags.
    fn claims(&mut self, service: &Service, name: &Text, list: &List, opts: Opts, place: &Place) {
        let prefix = &self.policy.tag_prefix;
        let mut tags = whole(list);
        let mut problems = Vec::new();
        // Tags with a bad value hide what else there is to say.
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
        for problem in problems {
            let mut texts = list.texts().iter();
            let tag = texts.find(|text| text.is_whole && shown(&text.known) == problem.tag);
            let line = tag.map_or(list.line, |tag| tag.line).or(service.line);
            let text = match tag.and_then(|tag| self.meant(&tag.known)) {
                Some(meant) => format!("{problem}: did you mean {meant}?"),
                None => problem.to_string(),
            };
            self.add(Rule::Tag, line, place, text);
        }
        if opts != Opts::In {
            return;
        }
        // Meant, though perhaps misspelt. Its address is judged by itself.
        tags.push(format!("{prefix}.enable=true"));
        let registration = registration(self.namespace, name, tags);
        for reason in reasons(&registration, self.policy) {
            // Tags were told above, with their lines; whether HAProxy has the backend is not known here.
            if !matches!(
                reason,
                Reason::Tags(_) | Reason::Note(_) | Reason::NoSuchBackend(_)
            ) {
                let line = list.line.or(service.line);
                self.add(Rule::Policy, line, place, reason.to_string());
            }
        }
    }

    /// The tag as it was perhaps meant, if its key is unknown.
    fn meant(&self, tag: &str) -> Option<String> {
        let prefix = &self.policy.tag_prefix;
        let (key, _) = tags::split(prefix, tag)?;
        if tags::keys().any(|known| known == key) {
            return None;
        }
        let last_part = || {
            let mut same = tags::keys().filter(|known| known.rsplit('.').next() == Some(key));
            same.next().filter(|_| same.next().is_none())
        };
        let meant = spelling::meant(key, tags::keys()).or_else(last_part)?;
        Some(format!("{prefix}.{meant}"))
    }

    /// A tag that nobody reads because its prefix is misspelt.
    fn spelling_of_the_prefix(&mut self, list: &List, place: &Place) {
        let prefix = &self.policy.tag_prefix;
        for text in list.texts().iter().take(MAX_TAGS) {
            if tags::split(prefix, &text.known).is_some() {
                continue;
            }
            let (tag, _) = text.known.split_once('=').unwrap_or((&text.known, ""));
            let Some(place_of_key) = tag.find(|c: char| !c.is_alphanumeric() && c != ' ') else {
                continue;
            };
            let key = tag[place_of_key..].trim_start_matches(|c: char| !c.is_alphanumeric());
            let word = tag[..place_of_key].trim();
            if spelling::is_near(word, prefix)
                && let Some(key) = spelling::meant(key, tags::keys())
            {
                let problem = TagProblem {
                    tag: shown(&text.written),
                    problem: format!("nobody reads it: did you mean {prefix}.{key}?"),
                };
                self.add(
                    Rule::Tag,
                    text.line.or(list.line),
                    place,
                    problem.to_string(),
                );
            }
        }
    }

    /// Whether HAProxy could reach it.
    fn address(&mut self, located: &Located<'_>) {
        let Located {
            group,
            task,
            service,
            name,
            place,
        } = located;
        let line = |text: &Option<Text>| text.as_ref().and_then(|text| text.line).or(service.line);
        match port::judge(group, *task, service) {
            Port::Fine => {}
            Port::Wrong(text) => self.add(Rule::Address, line(&service.port), place, text),
            Port::NotJudged(text) => self.add(Rule::NotJudged, line(&service.port), place, text),
        }
        let Some(address) = &service.address else {
            return;
        };
        let Some(address) = address.whole() else {
            let text = "its address is an expression, and is not judged".to_owned();
            return self.add(Rule::NotJudged, line(&service.address), place, text);
        };
        let registration = Registration {
            address: address.to_owned(),
            ..registration(self.namespace, name, Vec::new())
        };
        if let Err(reason) = desired::address(&registration) {
            let line = line(&service.address);
            self.add(Rule::Address, line, place, reason.to_string());
        }
    }

    fn provider(&mut self, service: &Service, place: &Place) {
        let line = service.provider.as_ref().and_then(|provider| provider.line);
        let line = line.or(service.line);
        let text = match &service.provider {
            Some(provider) if provider.whole() == Some("nomad") => return,
            Some(provider) if !provider.is_whole => {
                let text = "its provider is an expression, and is not judged".to_owned();
                return self.add(Rule::NotJudged, line, place, text);
            }
            Some(provider) => format!("its provider is {}", shown(&provider.known)),
            None => "it names no provider, and Nomad takes Consul then".to_owned(),
        };
        let text = format!("{text}: only what Nomad registers is served, set provider = \"nomad\"");
        self.add(Rule::Provider, line, place, text);
    }

    fn stops(&mut self, group: &Group, task: Option<&Task>, service: &Service, place: &Place) {
        let Delay::Known(delay) = group.runs_on_for(task) else {
            let text = "its shutdown_delay is an expression, and is not judged".to_owned();
            return self.add(Rule::NotJudged, service.line, place, text);
        };
        let prefix = &self.policy.tag_prefix;
        let mut tags = whole(&service.tags);
        tags.retain(|tag| tags::read(prefix, std::slice::from_ref(tag)).is_ok());
        if let Some(too_soon) = TooSoon::check(delay, &tags, self.policy) {
            let owner = if task.is_some() { "task" } else { "group" };
            let text = format!("{too_soon}, in the {owner}");
            self.add(Rule::ShutdownDelay, service.line, place, text);
        }
    }
}

/// Nomad's own, when none is written (`api/services.go`).
fn service_name(job: &Job, group: &Group, task: Option<&Task>, service: &Service) -> Text {
    let default = || match task {
        Some(task) => format!("{}-{}-{}", job.name, group.name, task.name),
        None => format!("{}-{}", job.name, group.name),
    };
    let name = service.name.clone();
    name.unwrap_or_else(|| Text::new(default(), None))
}

/// What Nomad would register, as far as it is known. What is not known is something that can be used.
fn registration(namespace: &str, name: &Text, tags: Vec<String>) -> Registration {
    Registration {
        id: "lint".into(),
        service: ServiceKey::new(namespace, name.whole().unwrap_or("service")),
        alloc_id: "00000000-0000-0000-0000-000000000000".into(),
        job_id: "lint".into(),
        tags,
        address: ANY_ADDRESS.to_owned(),
        port: 1,
        create_index: 1,
        modify_index: 1,
    }
}

/// Why the sidecar would not serve a registration, or not as it asks, if HAProxy had whatever backend it goes to.
fn reasons(registration: &Registration, policy: &Policy) -> Vec<Reason> {
    let reasons = reasons_with(registration, &[], policy);
    let missing: Vec<_> = reasons.iter().flat_map(missing).cloned().collect();
    if missing.is_empty() {
        reasons
    } else {
        reasons_with(registration, &missing, policy)
    }
}

fn reasons_with(registration: &Registration, backends: &[String], policy: &Policy) -> Vec<Reason> {
    let backends = backends
        .iter()
        .filter_map(|name| BackendName::new(name).ok());
    let places = backends.collect::<BTreeSet<_>>().into();
    let (service, one) = (&registration.service, std::slice::from_ref(registration));
    let contribution = contribution(service, one, &places, policy);
    let rejections = contribution.rejections.into_iter();
    let reasons = rejections.map(|rejection| rejection.reason);
    // Whose the backend will be is not known here.
    reasons
        .filter(|reason| !matches!(reason, Reason::NoProfile(_)))
        .collect()
}

/// The backends that a registration goes to, the first that HAProxy has.
fn missing(reason: &Reason) -> &[String] {
    if let Reason::NoSuchBackend(names) = reason {
        names
    } else {
        &[]
    }
}

fn backend(registration: &Registration, policy: &Policy) -> String {
    let reasons = reasons_with(registration, &[], policy);
    let names: Vec<_> = reasons
        .iter()
        .flat_map(missing)
        .map(|name| shown(name))
        .collect();
    match &*names {
        [] => reasons.first().map(ToString::to_string).unwrap_or_default(),
        [only] => only.clone(),
        [first, others @ ..] => format!("{first}; if HAProxy has none, {}", others.join(", ")),
    }
}
