//! What happens to a service in its ordinary life. Each begins with instances in rotation, and ends with some.

use std::{thread, time::Duration};

use tokio::time::Instant;

use crate::job::{Alloc, Job};

/// One of them.
pub(crate) struct Scenario {
    /// With `-slots` or `-dynamic` the name of the service.
    pub(crate) name: &'static str,
    /// The instances to begin with.
    pub(crate) count: usize,
    pub(crate) play: Play,
}

/// Gets the running allocations and returns those that run at the end. Where nothing ran meanwhile, it says when.
type Play = fn(&Job, Vec<Alloc>, &mut Vec<Window>) -> Vec<Alloc>;

/// A time in which no instance ran.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

const fn scenario(name: &'static str, count: usize, play: Play) -> Scenario {
    Scenario { name, count, play }
}

pub(crate) const ORDINARY: &[Scenario] = &[
    scenario("rolling", 3, rolling_update),
    scenario("single", 1, update_of_one),
    scenario("blind", 1, update_of_one_that_nomad_calls_healthy_too_early),
    scenario("promoted", 3, canary_that_is_promoted),
    scenario("rolled-back", 3, canary_that_is_rolled_back),
    scenario("scaled", 3, scaled_down_and_up),
    scenario("slow", 1, instance_that_registers_long_before_it_listens),
    scenario("sick", 2, instance_that_accepts_but_fails_its_check),
    scenario("weights", 3, weights_that_change_everywhere),
    scenario("keywords", 3, keywords_that_change_everywhere),
    scenario("returns", 2, registration_that_returns_during_its_drain),
    scenario(
        "returns-alone",
        1,
        registration_that_returns_during_its_hold,
    ),
    scenario("zero", 1, scaled_to_zero_and_back),
];

/// Played again and again while the sidecar is killed and started again.
pub(crate) const WITH_KILLS: &[Scenario] = &[
    scenario("killed-rolling", 3, rolling_update),
    scenario("killed-single", 1, update_of_one),
    scenario(
        "killed-blind",
        1,
        update_of_one_that_nomad_calls_healthy_too_early,
    ),
    scenario("killed-promoted", 3, canary_that_is_promoted),
    scenario("killed-scaled", 3, scaled_down_and_up),
    scenario("killed-keywords", 3, keywords_that_change_everywhere),
    scenario(
        "killed-returns",
        2,
        registration_that_returns_during_its_drain,
    ),
];

/// `max_parallel = 1`: one after the other, and the next one only when the last one is healthy.
fn rolling_update(job: &Job, mut allocs: Vec<Alloc>, _: &mut Vec<Window>) -> Vec<Alloc> {
    for alloc in &mut allocs {
        job.stop(alloc);
        *alloc = job.place(&[]);
        job.until_healthy(alloc);
    }
    allocs
}

/// `count = 1` with `canary = 1` and `auto_promote`. Without a canary it cannot be without loss, whatever a load balancer
/// does: Nomad registers and starts the new one only after the old one has ended.
fn update_of_one(job: &Job, mut allocs: Vec<Alloc>, _: &mut Vec<Window>) -> Vec<Alloc> {
    let old = allocs.remove(0);
    let mut new = job.place(&["haproxy.canary=true"]);
    job.until_healthy(&new);
    promote_and_stop(job, &mut new, &old);
    vec![new]
}

/// The same where Nomad has no check to go by (`health_check = "task_states"`): the old one is deregistered before the
/// new one listens, and only its hold keeps the service alive. `shutdown_delay` covers the boot, as it has to.
fn update_of_one_that_nomad_calls_healthy_too_early(
    job: &Job,
    mut allocs: Vec<Alloc>,
    _: &mut Vec<Window>,
) -> Vec<Alloc> {
    let old = allocs.remove(0);
    let new = job.place_booting(&[], Duration::from_secs(3));
    job.deregister(&old);
    thread::sleep(Duration::from_secs(5));
    old.app.terminate();
    job.tell(format!("{} gets SIGTERM", old.app.name()));
    job.until("it has ended", || old.app.has_ended());
    vec![new]
}

/// One canary beside three; once it is promoted, the first of them is stopped, and the others are replaced.
fn canary_that_is_promoted(job: &Job, mut allocs: Vec<Alloc>, _: &mut Vec<Window>) -> Vec<Alloc> {
    let mut canary = job.place(&["haproxy.canary=true"]);
    job.until_healthy(&canary);
    // It gets its share before somebody decides.
    thread::sleep(Duration::from_secs(1));
    let first = allocs.remove(0);
    promote_and_stop(job, &mut canary, &first);
    let mut allocs = rolling_update(job, allocs, &mut Vec::new());
    allocs.push(canary);
    allocs
}

/// The deployment failed, or an operator did not like it.
fn canary_that_is_rolled_back(job: &Job, allocs: Vec<Alloc>, _: &mut Vec<Window>) -> Vec<Alloc> {
    for _ in 0..2 {
        let canary = job.place(&["haproxy.canary=true"]);
        job.until_healthy(&canary);
        thread::sleep(Duration::from_secs(1));
        job.stop(&canary);
    }
    allocs
}

fn scaled_down_and_up(job: &Job, mut allocs: Vec<Alloc>, _: &mut Vec<Window>) -> Vec<Alloc> {
    let stopped = allocs.split_off(1);
    job.stop_together(&stopped);
    job.until_served_by(&allocs);
    allocs.extend((0..4).map(|_| job.place(&[])));
    allocs
}

/// Seconds before its task listens, an instance is in the catalog.
fn instance_that_registers_long_before_it_listens(
    job: &Job,
    mut allocs: Vec<Alloc>,
    _: &mut Vec<Window>,
) -> Vec<Alloc> {
    let slow = job.place_booting(&[], Duration::from_secs(7));
    job.until_healthy(&slow);
    allocs.push(slow);
    allocs
}

/// It accepts connections, and gets no request but its check.
fn instance_that_accepts_but_fails_its_check(
    job: &Job,
    mut allocs: Vec<Alloc>,
    _: &mut Vec<Window>,
) -> Vec<Alloc> {
    let sick = job.place_booting(&[], Duration::from_millis(500));
    sick.app.set_healthy(false);
    job.until("it was checked", || sick.app.checks() >= 20);
    assert_eq!(sick.app.requests(), 0, "{} got requests", sick.app.name());
    sick.app.set_healthy(true);
    job.tell("its check passes");
    job.until("it gets requests", || sick.app.requests() > 0);
    // And out again: HAProxy decides.
    sick.app.set_healthy(false);
    job.tell("its check fails");
    job.until_served_by(&allocs);
    sick.app.set_healthy(true);
    allocs.push(sick);
    allocs
}

/// Changed in place.
fn weights_that_change_everywhere(
    job: &Job,
    mut allocs: Vec<Alloc>,
    _: &mut Vec<Window>,
) -> Vec<Alloc> {
    let before = job.servers_in_rotation();
    for weight in [
        "haproxy.weight=50",
        "haproxy.weight=200",
        "haproxy.weight=1",
    ] {
        for alloc in &mut allocs {
            job.retag(alloc, &[weight]);
        }
        thread::sleep(Duration::from_secs(2));
    }
    assert_eq!(
        before,
        job.servers_in_rotation(),
        "other servers, not other weights"
    );
    allocs
}

/// What no command changes on a dynamic server: each is replaced by another one with the same address. Slots have the
/// keywords of their template.
fn keywords_that_change_everywhere(
    job: &Job,
    mut allocs: Vec<Alloc>,
    _: &mut Vec<Window>,
) -> Vec<Alloc> {
    for fall in ["haproxy.check.fall=5", "haproxy.check.fall=4"] {
        let before = job.servers_in_rotation();
        for alloc in &mut allocs {
            job.retag(alloc, &[fall]);
        }
        if job.services()[0].ends_with("dynamic") {
            job.until("all are others", || {
                let after = job.servers_in_rotation();
                after.len() == before.len() && after.is_disjoint(&before)
            });
            job.tell("all servers are others");
        } else {
            thread::sleep(Duration::from_secs(1));
        }
    }
    allocs
}

fn registration_that_returns_during_its_drain(
    job: &Job,
    allocs: Vec<Alloc>,
    _: &mut Vec<Window>,
) -> Vec<Alloc> {
    for _ in 0..6 {
        job.deregister(&allocs[0]);
        thread::sleep(job.millis(10, 1500));
        job.register(&allocs[0]);
        job.tell("and registered again");
        job.until_served_by(&allocs);
    }
    allocs
}

fn registration_that_returns_during_its_hold(
    job: &Job,
    allocs: Vec<Alloc>,
    windows: &mut Vec<Window>,
) -> Vec<Alloc> {
    registration_that_returns_during_its_drain(job, allocs, windows)
}

/// Between two allocations nothing runs. Until the last one closes its listener it is held, and serves; from then on
/// HAProxy says 503, at once when its check has noticed; until the next one has passed its check.
fn scaled_to_zero_and_back(
    job: &Job,
    mut allocs: Vec<Alloc>,
    windows: &mut Vec<Window>,
) -> Vec<Alloc> {
    let from = job.stop(&allocs.remove(0));
    thread::sleep(Duration::from_secs(3));
    let next = job.place(&[]);
    job.until_healthy(&next);
    job.until_served_by([&next]);
    let until = Instant::now();
    windows.push(Window { from, until });
    vec![next]
}

/// The client of the new allocation says that it is stable, the old one's that it is gone: two clients, so either may
/// be first.
fn promote_and_stop(job: &Job, canary: &mut Alloc, old: &Alloc) {
    if job.random().is_multiple_of(2) {
        job.retag(canary, &[]);
        job.stop(old);
    } else {
        thread::scope(|scope| {
            scope.spawn(|| job.stop(old));
            thread::sleep(Duration::from_millis(400));
            job.retag(canary, &[]);
        });
    }
}
