//! What is wrong with a job: each service is looked at, and what its tags claim is asked of [`claim`].

use std::iter;

use super::{
    Finding, Place, Report, Rule,
    claim::{self, Cause, Claim},
    job::{Delay, Group, Job, List, Misfit, Service, Task, Text},
    meant,
    port::{self, Port},
    shown,
};
use crate::{
    model::Registration,
    reconcile::{
        Policy, TooSoon,
        desired::{self, Reason},
        tags::{self, TagProblem},
    },
};

/// No service is looked at after so many findings.
const MAX_FINDINGS: usize = 1_000;
/// So many tags of a service are judged.
const MAX_TAGS: usize = 200;

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
    if let Some(written) = job.namespace.as_ref().filter(|text| !text.is_whole) {
        let text = format!(
            "its namespace is an expression, and is taken to be {}",
            shown(namespace)
        );
        check.add(Rule::NotJudged, written.line, &Place::default(), text);
    }
    for unread in &job.unread {
        let text = format!(
            "the blocks of dynamic {} are made by Nomad: without it they are not judged",
            shown(&unread.what)
        );
        check.add(Rule::NotJudged, unread.line, &Place::default(), text);
    }
    check.owners(job);
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
pub(super) struct Located<'a> {
    group: &'a Group,
    task: Option<&'a Task>,
    pub(super) service: &'a Service,
    pub(super) name: Text,
    pub(super) place: Place,
}

/// Every service of the job, whether or not it opts in.
pub(super) fn services(job: &Job) -> impl Iterator<Item = Located<'_>> {
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

pub(super) fn namespace_of<'a>(job: &'a Job, otherwise: &'a str) -> &'a str {
    let written = job.namespace.as_ref().and_then(Text::whole);
    written.unwrap_or(otherwise)
}

/// The tags that are known, as far as they are judged.
pub(super) fn whole(list: &List) -> Vec<String> {
    let texts = list.texts().iter().filter_map(Text::whole);
    texts.take(MAX_TAGS).map(str::to_owned).collect()
}

/// Whether a list of tags opts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opts {
    In,
    /// So it was meant, but the tag is misspelt. It is judged as it was meant.
    Misspelt,
    Out,
    /// It says nothing, but has tags for the sidecar.
    Forgot,
    /// It has nothing to do with the sidecar.
    Nothing,
    /// It could not be evaluated.
    Unknown,
}

impl Opts {
    const fn is_in(self) -> bool {
        matches!(self, Self::In | Self::Misspelt)
    }
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

    /// What is wrong with the blocks around services.
    fn owners(&mut self, job: &Job) {
        self.misfits(&job.misfits, &Place::default());
        if job.groups.is_empty() && job.misfits.is_empty() && job.unread.is_empty() {
            let text = "Nomad refuses the job: it has no group".to_owned();
            self.add(Rule::Job, None, &Place::default(), text);
        }
        for group in &job.groups {
            let mut place = Place {
                group: Some(group.name.clone()),
                ..Place::default()
            };
            self.misfits(&group.misfits, &place);
            for task in &group.tasks {
                place.task = Some(task.name.clone());
                self.misfits(&task.misfits, &place);
            }
        }
    }

    fn misfits(&mut self, misfits: &[Misfit], place: &Place) {
        for misfit in misfits.iter().take(MAX_FINDINGS) {
            let text = format!("Nomad refuses the job: {}", misfit.text);
            self.add(Rule::Job, misfit.line, place, text);
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
        self.misfits(&service.misfits, place);
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
        self.report.wanted += usize::from(opts.is_in());
        self.report.perhaps += usize::from(opts == Opts::Unknown);
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
        if opts.is_in() || opts == Opts::Unknown || canary.is_in() {
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
        // What cannot be read as yes or no is reported as such, and was meant as yes.
        let is_out = |enable: String| {
            let read = tags::read(prefix, &[enable]);
            read.is_ok_and(|tags| tags.enable == Some(false))
        };
        let enables = |tag: &&str| matches!(tags::split(prefix, tag), Some(("enable", _)));
        let enable = texts.iter().filter_map(Text::whole).find(enables);
        if let Some(enable) = enable {
            let is_out = is_out(enable.to_owned());
            return if is_out { Opts::Out } else { Opts::In };
        }
        let enable = format!("{prefix}.enable");
        let mut unknown = texts.iter().filter(|text| !text.is_whole);
        if unknown.any(|text| text.may_begin_with(&enable)) {
            return Opts::Unknown;
        }
        let dotted = format!("{prefix}.");
        match self.misspelt_enable(list).map(|(_, meant)| is_out(meant)) {
            Some(true) => Opts::Out,
            _ if self.policy.expose_by_default => Opts::In,
            Some(false) => Opts::Misspelt,
            None if texts.iter().any(|text| text.known.starts_with(&dotted)) => Opts::Forgot,
            None => Opts::Nothing,
        }
    }

    /// The tag that opts in or out but for its spelling, and as it was perhaps meant.
    fn misspelt_enable<'a>(&self, list: &'a List) -> Option<(&'a Text, String)> {
        let mut texts = list.texts().iter().take(MAX_TAGS);
        texts.find_map(|text| {
            let meant = meant::enable(&self.policy.tag_prefix, text.whole()?)?;
            Some((text, meant))
        })
    }

    fn opting_in(&mut self, service: &Service, opts: Opts, canary: Opts, place: &Place) {
        let prefix = &self.policy.tag_prefix;
        let tags = &service.tags;
        let (line, text) = match (opts, canary) {
            (Opts::Misspelt, _) => {
                let Some((tag, _)) = self.misspelt_enable(tags) else {
                    return;
                };
                let text = format!(
                    "it is not served, since {prefix}.enable=true is not among its tags: write it for {}; the rest is judged \
                     as if it were there",
                    shown(&tag.written)
                );
                (tag.line, text)
            }
            (Opts::Forgot, _) => {
                let text = format!(
                    "it has tags for the sidecar but is not served, since {prefix}.enable=true is not among them: add it, or \
                     remove the others"
                );
                (None, text)
            }
            (Opts::Nothing, Opts::In) => {
                let text = format!(
                    "only its canaries are served, since {prefix}.enable=true is in canary_tags alone: add it to tags"
                );
                (None, text)
            }
            _ => return,
        };
        let line = line.or(tags.line).or(service.line);
        self.add(Rule::Enable, line, place, text);
    }

    fn canaries(&mut self, service: &Service, opts: Opts, canary: Opts, place: &Place) {
        let forgot = matches!(canary, Opts::Misspelt | Opts::Forgot | Opts::Nothing);
        if !opts.is_in() || !forgot || service.canary_tags.is_empty() {
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
            let text = format!("its {what} are made by an expression, and are not judged");
            self.add(Rule::NotJudged, list.line, place, text);
        }
        let dotted = format!("{}.", self.policy.tag_prefix);
        for text in list.texts().iter().take(MAX_TAGS) {
            if text.is_whole || !text.may_begin_with(&dotted) {
                continue;
            }
            let tag = format!("tag {}", shown(&text.written));
            if meant::is_unknown(&self.policy.tag_prefix, text) {
                let problem = self.with_meant(format!("{tag}: unknown, it has no effect"), text);
                self.add(Rule::Tag, text.line, place, problem);
            } else {
                let note = format!("{tag}: it has an expression in it, and is not judged");
                self.add(Rule::NotJudged, text.line, place, note);
            }
        }
        if list.texts().len() > MAX_TAGS {
            let text = format!("of {what} only the first {MAX_TAGS} are judged");
            self.add(Rule::NotJudged, list.line, place, text);
        }
    }

    /// With the key that was perhaps meant.
    fn with_meant(&self, problem: String, tag: &Text) -> String {
        let prefix = &self.policy.tag_prefix;
        match meant::key(prefix, &tag.known) {
            Some(meant) => format!("{problem}: did you mean {prefix}.{meant}?"),
            None => problem,
        }
    }

    /// What the sidecar would say to a registration with these tags.
    fn claims(&mut self, service: &Service, name: &Text, list: &List, opts: Opts, place: &Place) {
        let prefix = &self.policy.tag_prefix;
        let (tags, problems) = claim::readable(prefix, whole(list));
        for problem in problems {
            let mut texts = list.texts().iter();
            let tag = texts.find(|text| text.is_whole && shown(&text.known) == problem.tag);
            let line = tag.map_or(list.line, |tag| tag.line).or(service.line);
            let text = match tag {
                Some(tag) => self.with_meant(problem.to_string(), tag),
                None => problem.to_string(),
            };
            self.add(Rule::Tag, line, place, text);
        }
        if !opts.is_in() {
            return;
        }
        // Whether it opts in was told above; it is judged as it was meant. Its address is judged by itself.
        let claim = Claim {
            namespace: self.namespace,
            name,
            tags: &tags,
            policy: self.policy,
        };
        for found in claim.judge() {
            let line = match &found.cause {
                Cause::Tag(tag) => list.line_of(|text| text.known == *tag),
                Cause::Name => name.line.or(service.line),
                Cause::Tags => list.line,
            };
            let rule = if found.is_bad_tag() {
                Rule::Tag
            } else {
                Rule::Policy
            };
            let mut text = found.reason.to_string();
            if matches!(found.reason, Reason::Name(_)) {
                let advice = "rename it, or name its backend with the tag";
                text = format!("{text}: {advice} {prefix}.backend.name");
            }
            self.add(rule, line.or(service.line), place, text);
        }
    }

    /// A tag that nobody reads because its prefix is misspelt.
    fn spelling_of_the_prefix(&mut self, list: &List, place: &Place) {
        let prefix = &self.policy.tag_prefix;
        for text in list.texts().iter().take(MAX_TAGS) {
            let Some(key) = meant::key_behind_another_prefix(prefix, &text.known) else {
                continue;
            };
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

    /// Whether HAProxy could reach it.
    fn address(&mut self, located: &Located<'_>) {
        let Located { service, place, .. } = located;
        let line = |text: &Option<Text>| text.as_ref().and_then(|text| text.line).or(service.line);
        match port::judge(located.group, located.task, service) {
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
            ..claim::registration(self.namespace, &located.name, Vec::new())
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
