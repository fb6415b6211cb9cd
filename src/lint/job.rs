//! A job as far as it matters here, whatever it was written in. What its reader could not evaluate is kept as such, so
//! that nothing is guessed.

use std::time::Duration;

/// What a file says of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Its ID where it is written, else its name.
    pub name: String,
    /// Its namespace, if it names one.
    pub namespace: Option<Text>,
    /// Its groups.
    pub groups: Vec<Group>,
    /// What may hold more groups, tasks or services, and could not be evaluated.
    pub unread: Vec<Unread>,
    /// What Nomad refuses about its blocks.
    pub misfits: Vec<Misfit>,
}

/// A task group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// How long it waits after its services were deregistered.
    pub shutdown_delay: Delay,
    /// What its `network` blocks declare.
    pub ports: Ports,
    /// Its own services.
    pub services: Vec<Service>,
    /// Its tasks.
    pub tasks: Vec<Task>,
    /// What Nomad refuses about its blocks.
    pub misfits: Vec<Misfit>,
}

/// A task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// How long it waits after its services were deregistered.
    pub shutdown_delay: Delay,
    /// Whether it has a `lifecycle`: it is none of the tasks that serve.
    pub has_lifecycle: bool,
    /// What the `network` blocks in its `resources` declare, as jobs did before Nomad 0.12.
    pub ports: Ports,
    /// Its own services.
    pub services: Vec<Service>,
    /// What Nomad refuses about its blocks.
    pub misfits: Vec<Misfit>,
}

/// A service of a group or a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The line of its block.
    pub line: Option<usize>,
    /// Its name.
    pub name: Option<Text>,
    /// Who registers it.
    pub provider: Option<Text>,
    /// Its port's label, or a number.
    pub port: Option<Text>,
    /// Its address, where it names one.
    pub address: Option<Text>,
    /// Whose address is registered, where it says so.
    pub address_mode: Option<Text>,
    /// Its tags.
    pub tags: List,
    /// Its tags while it is a canary.
    pub canary_tags: List,
    /// What Nomad refuses about it.
    pub misfits: Vec<Misfit>,
}

/// The ports that `network` blocks declare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Their labels.
    pub labels: Vec<String>,
    /// Whether there may be others: Nomad makes some, or there are very many.
    pub may_be_more: bool,
}

/// A text, as far as it could be evaluated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// All of it, or what stands before the first thing that could not be evaluated.
    pub known: String,
    /// Whether that is all.
    pub is_whole: bool,
    /// As it is written, for whoever looks for it.
    pub written: String,
    /// Where.
    pub line: Option<usize>,
}

/// A list of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct List {
    /// Its elements; `None` when not even these could be told apart.
    pub texts: Option<Vec<Text>>,
    /// The line where it begins, if it is there.
    pub line: Option<usize>,
}

/// A duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// So long; zero when nothing is written.
    Known(Duration),
    /// It could not be evaluated.
    Unknown,
}

/// Something for which Nomad refuses the job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    /// Where.
    pub line: Option<usize>,
    /// What is wrong, and what to do.
    pub text: String,
}

/// A block that makes others, and could not be evaluated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// Its line.
    pub line: Option<usize>,
    /// What it makes.
    pub what: String,
}

impl Default for Delay {
    fn default() -> Self {
        Self::Known(Duration::ZERO)
    }
}

impl Delay {
    /// Both, one after the other.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Known(one), Self::Known(other)) => Self::Known(one.saturating_add(other)),
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
        }
    }

    /// A duration as Nomad writes it: `8s`, `1m30s`.
    pub(super) fn parse(text: &str) -> Self {
        humantime::parse_duration(text).map_or(Self::Unknown, Self::Known)
    }
}

impl Ports {
    /// No more are compared with what services name.
    const MAX: usize = 500;

    /// Those with these labels.
    pub(super) fn of(labels: impl IntoIterator<Item = String>, may_be_more: bool) -> Self {
        let mut labels = labels.into_iter();
        Self {
            labels: labels.by_ref().take(Self::MAX).collect(),
            may_be_more: may_be_more || labels.next().is_some(),
        }
    }
}

impl Text {
    /// A text that Nomad may still interpolate, where the job runs.
    pub(super) fn new(text: String, line: Option<usize>) -> Self {
        let known = match text.find("${") {
            Some(interpolation) => text[..interpolation].to_owned(),
            None => text.clone(),
        };
        Self {
            is_whole: known.len() == text.len(),
            known,
            written: text,
            line,
        }
    }

    /// The text, if it is known.
    #[must_use]
    pub fn whole(&self) -> Option<&str> {
        self.is_whole.then_some(&*self.known)
    }

    /// Whether it can turn out to begin with `start`.
    #[must_use]
    pub fn may_begin_with(&self, start: &str) -> bool {
        self.known.starts_with(start) || !self.is_whole && start.starts_with(&self.known)
    }
}

impl List {
    /// A list of which all elements are there.
    pub(super) fn of(texts: Vec<Text>, line: Option<usize>) -> Self {
        Self {
            texts: Some(texts),
            line,
        }
    }

    /// Its elements, as far as they are known.
    pub(super) fn texts(&self) -> &[Text] {
        self.texts.as_deref().unwrap_or_default()
    }

    /// Where the first element is that is known and is meant.
    pub(super) fn line_of(&self, is_meant: impl Fn(&Text) -> bool) -> Option<usize> {
        let mut texts = self.texts().iter();
        let text = texts.find(|text| text.is_whole && is_meant(text));
        text.map_or(self.line, |text| text.line)
    }

    /// Whether it is certain to have no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.as_ref().is_some_and(Vec::is_empty)
    }
}

impl Group {
    /// How long an instance runs on after a service of the group (`None`), or of this task, was deregistered. Those of a
    /// group are deregistered before the group's delay and its tasks'.
    #[must_use]
    pub fn runs_on_for(&self, task: Option<&Task>) -> Delay {
        if let Some(task) = task {
            return task.shutdown_delay;
        }
        let mains = || self.tasks.iter().filter(|task| !task.has_lifecycle);
        let shortest = mains()
            .map(|task| task.shutdown_delay)
            .reduce(|one, other| match (one, other) {
                (Delay::Known(one), Delay::Known(other)) => Delay::Known(one.min(other)),
                (Delay::Unknown, _) | (_, Delay::Unknown) => Delay::Unknown,
            });
        self.shutdown_delay.and(shortest.unwrap_or_default())
    }
}

impl Job {
    /// Takes the lines over from `written`, the same job before it was evaluated. Where the two differ in number, a place is
    /// unknown.
    pub(super) fn take_lines(&mut self, written: &Self) {
        for group in &mut self.groups {
            let Some(other) = written.groups.iter().find(|other| other.name == group.name) else {
                continue;
            };
            take_service_lines(&mut group.services, &other.services);
            for task in &mut group.tasks {
                if let Some(other) = other.tasks.iter().find(|other| other.name == task.name) {
                    take_service_lines(&mut task.services, &other.services);
                }
            }
        }
    }
}

fn take_service_lines(services: &mut [Service], written: &[Service]) {
    if services.len() != written.len() {
        return;
    }
    for (service, written) in services.iter_mut().zip(written) {
        service.line = written.line;
        let texts = [
            (&mut service.name, &written.name),
            (&mut service.provider, &written.provider),
            (&mut service.port, &written.port),
            (&mut service.address, &written.address),
        ];
        for (text, written) in texts {
            if let (Some(text), Some(written)) = (text, written) {
                text.line = written.line;
            }
        }
        take_tag_lines(&mut service.tags, &written.tags);
        take_tag_lines(&mut service.canary_tags, &written.canary_tags);
    }
}

fn take_tag_lines(tags: &mut List, written: &List) {
    tags.line = written.line;
    let same_length = tags.texts().len() == written.texts().len();
    for (place, tag) in tags.texts.iter_mut().flatten().enumerate() {
        let element = written.texts().get(place).filter(|_| same_length);
        tag.line = element.map_or(written.line, |element| element.line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_known_up_to_what_nomad_puts_in_later() {
        let text = Text::new("haproxy.weight=${meta.weight}".to_owned(), None);
        assert_eq!((text.whole(), &*text.known), (None, "haproxy.weight="));
        assert!(text.may_begin_with("haproxy.weight=1"));
        assert!(!text.may_begin_with("haproxy.enable"));
        let text = Text::new("haproxy.weight=1".to_owned(), None);
        assert!(text.may_begin_with("haproxy.") && !text.may_begin_with("haproxy.weight=10"));
    }

    #[test]
    fn of_very_many_ports_not_all_are_known() {
        let ports = |count: usize| Ports::of((0..count).map(|number| number.to_string()), false);
        assert!(!ports(Ports::MAX).may_be_more);
        let many = ports(Ports::MAX + 1);
        assert_eq!((many.labels.len(), many.may_be_more), (Ports::MAX, true));
    }

    #[test]
    fn a_groups_service_waits_for_the_group_and_its_shortest_main_task() {
        let task = |delay, has_lifecycle| Task {
            shutdown_delay: delay,
            has_lifecycle,
            ..Task::default()
        };
        let seconds = |seconds| Delay::Known(Duration::from_secs(seconds));
        let mut group = Group {
            shutdown_delay: seconds(5),
            tasks: vec![
                task(seconds(3), false),
                task(seconds(2), false),
                task(seconds(1), true),
            ],
            ..Group::default()
        };
        assert_eq!(group.runs_on_for(None), seconds(7));
        assert_eq!(group.runs_on_for(Some(&group.tasks[0])), seconds(3));
        group.tasks[2].shutdown_delay = Delay::Unknown;
        assert_eq!(group.runs_on_for(None), seconds(7));
        group.tasks[1].shutdown_delay = Delay::Unknown;
        assert_eq!(group.runs_on_for(None), Delay::Unknown);
    }

    #[test]
    fn durations_are_those_of_nomad() {
        let seconds = |seconds| Delay::Known(Duration::from_secs(seconds));
        assert_eq!(Delay::parse("1m30s"), seconds(90));
        assert_eq!(Delay::parse("0s"), seconds(0));
        assert_eq!(Delay::parse("soon"), Delay::Unknown);
    }
}
