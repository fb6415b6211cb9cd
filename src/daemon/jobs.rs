//! Looks at the jobs behind the services, where the token may: whoever stops an instance should leave it running for long
//! enough after its deregistration. Only told, never acted on, and asked so slowly that nobody minds.
//! On the same connection it asks for the allocations that the core wants to know of.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::{now, questions::Questions};
use crate::{
    admin::Metrics,
    catalog::FailureKind,
    model::{Allocation, AllocationId, Registration, ServiceKey},
    nomad::{client::Client, route::Route, types::JobService},
    reconcile::{Policy, Question, TooSoon},
};

/// Between two jobs that are read.
const PAUSE: Duration = Duration::from_secs(5);
/// A job whose registrations have changed is not read again before this time.
const AGAIN: Duration = Duration::from_mins(1);
/// Where the token may not read jobs, it is tried again after this time.
const DENIED: Duration = Duration::from_hours(1);
/// For an answer about an allocation. Later it is of no use.
const ANSWER: Duration = Duration::from_secs(2);

/// A job: its namespace and its ID.
type JobKey = (Arc<str>, Arc<str>);

/// Which jobs are to be read, and what was found. No clock, no I/O.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    known: BTreeMap<JobKey, Job>,
    denied_until: BTreeMap<Arc<str>, Duration>,
}

#[derive(Debug)]
struct Job {
    services: BTreeMap<Arc<str>, Instances>,
    read_at: Option<Duration>,
    is_due: bool,
    short: Vec<Short>,
}

/// The registrations that a job has of one service.
#[derive(Debug, PartialEq, Eq)]
struct Instances {
    /// Of their IDs.
    hash: u64,
    /// Of one of them.
    tags: Vec<String>,
}

/// What is registered of a service, by job.
#[derive(Debug)]
pub(super) struct Seen {
    service: ServiceKey,
    jobs: BTreeMap<Arc<str>, Instances>,
}

impl Seen {
    /// These are all registrations of `service` now.
    pub(super) fn new(service: &ServiceKey, registrations: &[Registration]) -> Self {
        let mut jobs = BTreeMap::new();
        for registration in registrations {
            let instances = jobs
                .entry(Arc::clone(&registration.job_id))
                .or_insert_with(|| Instances {
                    hash: 0,
                    tags: registration.tags.clone(),
                });
            let mut hasher = DefaultHasher::new();
            registration.id.hash(&mut hasher);
            // In whatever order they come.
            instances.hash ^= hasher.finish();
        }
        Self {
            service: service.clone(),
            jobs,
        }
    }
}

/// A service whose instances stop too soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Short {
    service: JobService,
    why: TooSoon,
}

impl Jobs {
    fn see(&mut self, seen: Seen) {
        let Seen { service, jobs } = seen;
        for ((namespace, id), job) in &mut self.known {
            if *namespace == service.namespace && !jobs.contains_key(id) {
                job.services.remove(&service.name);
            }
        }
        self.known.retain(|_, job| !job.services.is_empty());
        for (id, instances) in jobs {
            // Nomad takes what follows on a slash for a part of its own path.
            if id.is_empty() || id.contains('/') {
                continue;
            }
            let key = (Arc::clone(&service.namespace), id);
            let job = self.known.entry(key).or_insert_with(|| Job {
                services: BTreeMap::new(),
                read_at: None,
                is_due: true,
                short: Vec::new(),
            });
            job.is_due |= job.services.get(&service.name) != Some(&instances);
            job.services.insert(Arc::clone(&service.name), instances);
        }
    }

    /// The next job to read, if one is due.
    fn next(&self, now: Duration) -> Option<JobKey> {
        let due = self.known.iter().find(|((namespace, _), job)| {
            let may_be_read = self
                .denied_until
                .get(namespace)
                .is_none_or(|until| *until <= now);
            let rested = job.read_at.is_none_or(|at| now.saturating_sub(at) >= AGAIN);
            job.is_due && may_be_read && rested
        });
        due.map(|(key, _)| key.clone())
    }

    /// Takes in what was read: what is new in it.
    fn read(
        &mut self,
        now: Duration,
        key: &JobKey,
        services: Vec<JobService>,
        policy: &Policy,
    ) -> Vec<Short> {
        let Some(job) = self.known.get_mut(key) else {
            return Vec::new();
        };
        (job.read_at, job.is_due) = (Some(now), false);
        let mut short = Vec::new();
        for service in services {
            let Some(instances) = job.services.get(service.service.as_str()) else {
                continue;
            };
            if let Some(why) = TooSoon::check(service.delay, &instances.tags, policy) {
                short.push(Short { service, why });
            }
        }
        let former = std::mem::replace(&mut job.short, short);
        let new = job.short.iter().filter(|short| !former.contains(short));
        new.cloned().collect()
    }

    /// It could not be read.
    fn failed(&mut self, now: Duration, key: &JobKey, denied: bool) {
        if let Some(job) = self.known.get_mut(key) {
            job.read_at = Some(now);
        }
        if denied {
            self.denied_until
                .insert(Arc::clone(&key.0), now.saturating_add(DENIED));
        }
    }

    fn short(&self) -> usize {
        let jobs = self.known.values();
        jobs.filter(|job| !job.short.is_empty()).count()
    }
}

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let JobService { group, service, .. } = &self.service;
        write!(f, "group {group:?}, service {service:?}: {}", self.why)
    }
}

/// What comes to this part and goes from it.
pub(super) struct Channels {
    /// Services.
    pub(super) seen: mpsc::Receiver<Vec<Seen>>,
    /// Allocations that are asked for.
    pub(super) questions: mpsc::Receiver<Question>,
    /// What becomes of them.
    pub(super) answers: mpsc::Sender<(AllocationId, Allocation)>,
}

/// Reads jobs and allocations for ever.
pub(super) async fn run(
    route: Arc<Route>,
    policy: Policy,
    mut channels: Channels,
    metrics: Arc<Metrics>,
) {
    let started = now();
    let mut questions = Questions::default();
    let mut client = Client::on(route);
    let mut jobs = Jobs::default();
    let mut next = Instant::from_std(started + PAUSE);
    loop {
        let question_at = Instant::from_std(started + questions.next_at().unwrap_or_default());
        tokio::select! {
            question = channels.questions.recv() => {
                let Some(question) = question else { return };
                if let Some(unasked) = questions.add(started.elapsed(), question) {
                    drop(channels.answers.send((unasked, Allocation::Unknown)).await);
                }
                continue;
            }
            () = sleep_until(question_at), if questions.next_at().is_some() => {
                if let Some(allocation) = questions.next(started.elapsed()) {
                    for answer in ask(allocation, &mut client, &mut questions, started).await {
                        drop(channels.answers.send(answer).await);
                    }
                }
                continue;
            }
            service = channels.seen.recv() => match service {
                Some(services) => {
                    for service in services {
                        jobs.see(service);
                    }
                    continue;
                }
                None => return,
            },
            () = sleep_until(next) => {}
        }
        if let Some(key) = jobs.next(started.elapsed()) {
            look_at(&key, &mut client, &mut jobs, &policy, started).await;
        }
        metrics.jobs_short(jobs.short());
        next = Instant::from_std(now() + PAUSE);
    }
}

/// Asks for one allocation: what is known then, of it and of those that will not be asked for any more.
async fn ask(
    allocation: AllocationId,
    client: &mut Client,
    questions: &mut Questions,
    started: std::time::Instant,
) -> Vec<(AllocationId, Allocation)> {
    let namespace = Arc::clone(&allocation.namespace);
    let unknown = |allocation| (allocation, Allocation::Unknown);
    match timeout(ANSWER, client.allocation(&allocation)).await {
        Ok(Ok(answer)) => vec![(allocation, answer.value)],
        Ok(Err(failed)) if failed.last().kind() == FailureKind::Denied => {
            info!(
                %namespace,
                "allocations may not be read (capability read-job), so a deregistration is believed without a second opinion"
            );
            let dropped = questions.deny(&namespace, started.elapsed() + DENIED);
            let all = std::iter::once(allocation).chain(dropped);
            all.map(unknown).collect()
        }
        Ok(Err(failed)) => {
            debug!(%namespace, allocation = shown(&allocation.id), reason = %failed.last(), "an allocation cannot be read");
            vec![unknown(allocation)]
        }
        Err(_) => vec![unknown(allocation)],
    }
}

async fn look_at(
    key: &JobKey,
    client: &mut Client,
    jobs: &mut Jobs,
    policy: &Policy,
    started: std::time::Instant,
) {
    let (namespace, id) = (&*key.0, shown(&key.1));
    match client.job(namespace, &key.1).await {
        Ok(answer) => {
            for short in jobs.read(started.elapsed(), key, answer.value, policy) {
                warn!(namespace, job = id, "{short}");
            }
        }
        Err(failed) => {
            let denied = failed.last().kind() == FailureKind::Denied;
            jobs.failed(started.elapsed(), key, denied);
            if denied {
                info!(
                    namespace,
                    "jobs may not be read (capability read-job), so their shutdown_delay is not looked at"
                );
            } else {
                debug!(namespace, job = id, reason = %failed.last(), "a job cannot be read");
            }
        }
    }
}

/// An ID of Nomad's may have any characters.
fn shown(id: &str) -> String {
    let short: String = id.chars().take(100).collect();
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn registration(id: &str, tags: &[&str]) -> Registration {
        Registration {
            id: id.into(),
            service: ServiceKey::new("default", "web"),
            alloc_id: "".into(),
            job_id: "shop".into(),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            address: String::new(),
            port: 80,
            create_index: 1,
            modify_index: 1,
        }
    }

    fn services(seconds: u32) -> Vec<JobService> {
        ["web", "other"]
            .map(|service| JobService {
                group: "g".to_owned(),
                service: service.to_owned(),
                delay: seconds * SECOND,
            })
            .to_vec()
    }

    fn see(jobs: &mut Jobs, registrations: &[Registration]) {
        let service = ServiceKey::new("default", "web");
        jobs.see(Seen::new(&service, registrations));
    }

    #[test]
    fn a_delay_that_is_too_short_is_told_once_and_again_when_it_is_another() {
        let (mut jobs, policy) = (Jobs::default(), Policy::default());
        see(&mut jobs, &[registration("1", &[])]);
        let key = jobs.next(SECOND).unwrap();
        let told = jobs.read(SECOND, &key, services(5), &policy);
        assert_eq!((told.len(), jobs.short()), (1, 1));
        assert_eq!(
            told[0].to_string(),
            "group \"g\", service \"web\": an instance is stopped 5s after its deregistration, which can cost requests; set \
             shutdown_delay = \"12s\" (2 s until HAProxy sends it nothing, 10s for what is under way)"
        );
        assert_eq!(jobs.next(100 * SECOND), None);

        // A deployment: it is read again, but not at once.
        see(&mut jobs, &[registration("2", &[])]);
        assert_eq!(jobs.next(2 * SECOND), None);
        assert!(jobs.next(61 * SECOND).is_some());
        assert_eq!(jobs.read(61 * SECOND, &key, services(5), &policy), []);
        see(&mut jobs, &[registration("3", &[])]);
        assert_eq!(jobs.read(200 * SECOND, &key, services(12), &policy), []);
        assert_eq!(jobs.short(), 0);

        see(&mut jobs, &[]);
        assert!(jobs.known.is_empty());
    }

    #[test]
    fn the_drain_timeout_of_the_tags_counts() {
        let (mut jobs, policy) = (Jobs::default(), Policy::default());
        see(
            &mut jobs,
            &[registration("1", &["haproxy.drain.timeout=1s"])],
        );
        let key = jobs.next(SECOND).unwrap();
        assert_eq!(jobs.read(SECOND, &key, services(3), &policy), []);
        assert_eq!(jobs.read(SECOND, &key, services(2), &policy).len(), 1);
    }

    #[test]
    fn where_jobs_may_not_be_read_they_are_left_alone_for_an_hour() {
        let mut jobs = Jobs::default();
        see(&mut jobs, &[registration("1", &[])]);
        let key = jobs.next(SECOND).unwrap();
        jobs.failed(SECOND, &key, true);
        assert_eq!(jobs.next(3_600 * SECOND), None);
        assert!(jobs.next(3_601 * SECOND).is_some());
    }
}
