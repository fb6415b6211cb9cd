//! What happens to a service in its ordinary life. Each begins with instances in rotation, and ends with some.

use std::{thread, time::Duration};

use tokio::time::Instant;

use crate::{
    config::{DYNAMIC, MADE},
    day::Setup,
    job::{Alloc, Job},
};

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    /// With `-slots`, `-dynamic` or `-made` the name of the service.
    pub(crate) name: &'static str,
    /// The instances to begin with.
    pub(crate) count: usize,
    pub(crate) play: Play,
    /// If it makes sense with them only.
    only: Option<&'static [&'static str]>,
}

/// Gets the running allocations and returns those that run at the end. Where nothing ran meanwhile, it says when.
type Play = fn(&Job, Vec<Alloc>, &mut Vec<Window>) -> Vec<Alloc>;

impl Scenario {
    /// The kinds of servers that it is played with on such a day.
    pub(crate) fn servers(&self, setup: Setup) -> impl Iterator<Item = &'static str> {
        let kinds = setup.servers.iter().copied();
        kinds.filter(|kind| self.only.is_none_or(|only| only.contains(kind)))
    }
}

/// A time in which requests may fail.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
    /// No instance ran: some must have failed.
    pub(crate) is_empty: bool,
}

const fn scenario(name: &'static str, count: usize, play: Play) -> Scenario {
    Scenario {
        name,
        count,
        play,
        only: None,
    }
}

const fn only(kinds: &'static [&'static str], scenario: Scenario) -> Scenario {
    Scenario {
        only: Some(kinds),
        ..scenario
    }
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
    only(&[MADE], scenario("lingers", 1, stopped_and_back)),
    only(
        &[DYNAMIC, MADE],
        scenario("moves", 2, host_that_moves_by_tags),
    ),
    only(
        &[DYNAMIC, MADE],
        scenario("inherits", 1, host_of_a_service_that_ends),
    ),
];

/// From the SIGTERM of the last instance until its routes are another service's: as long as its longest request, the check that
/// finds it DOWN, an interval and two failures after that, and the change.
const INHERITED_WITHIN: Duration = Duration::from_secs(6);

/// From when an instance listens until it is in rotation and found: an interval of its check, two that pass, and the change.
const BACK_WITHIN: Duration = Duration::from_secs(4);

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
        if job.services()[0].ends_with("slots") {
            thread::sleep(Duration::from_secs(1));
        } else {
            job.until("all are others", || {
                let after = job.servers_in_rotation();
                after.len() == before.len() && after.is_disjoint(&before)
            });
            job.tell("all servers are others");
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
    windows.push(Window {
        from,
        until,
        is_empty: true,
    });
    vec![next]
}

/// The same, again and again: what is back before its backend was removed finds it, what is back later gets another one, and
/// what comes while it is removed has to wait. Once it is found and in rotation, nothing fails.
fn stopped_and_back(job: &Job, allocs: Vec<Alloc>, windows: &mut Vec<Window>) -> Vec<Alloc> {
    (0..4).fold(allocs, |mut allocs, _| {
        let from = job.stop(&allocs.remove(0));
        thread::sleep(job.millis(0, 9000));
        let next = job.place_booting(&[], job.millis(0, 500));
        job.until_healthy(&next);
        let listens = Instant::now();
        job.until_served_by([&next]);
        let until = Instant::now();
        job.has_taken("to be found", until - listens, BACK_WITHIN);
        windows.push(Window {
            from,
            until,
            is_empty: true,
        });
        vec![next]
    })
}

/// Two services claim one host, and one port. The first claim has them until its tags no longer say so, and again when they do.
/// Both services run all the time, so nothing fails.
fn host_that_moves_by_tags(job: &Job, mut allocs: Vec<Alloc>, _: &mut Vec<Window>) -> Vec<Alloc> {
    let next = job.sibling();
    let others = [next.place(&[]), next.place(&[])];
    next.until_in_rotation(&others);
    let asked = || others.iter().map(|other| other.app.requests()).sum::<u64>();
    for _ in 0..3 {
        let before = asked();
        thread::sleep(Duration::from_millis(500));
        assert_eq!(asked(), before, "the second claim was served");
        for alloc in &mut allocs {
            job.give_up_routes(alloc);
        }
        next.until_found();
        job.until("the other service is asked", || asked() > before + 10);
        for alloc in &mut allocs {
            job.retag(alloc, &[]);
        }
        job.until_found();
        // What was under way.
        thread::sleep(Duration::from_secs(2));
    }
    next.stop_together(&others);
    allocs
}

/// The service with the first claim ends, while another one that claims the same runs. Its last server is held, so until it
/// ends nothing fails; then its routes lead to the other service as soon as HAProxy has found it DOWN. It comes back, and
/// is second now, until the other one ends.
fn host_of_a_service_that_ends(
    job: &Job,
    mut allocs: Vec<Alloc>,
    windows: &mut Vec<Window>,
) -> Vec<Alloc> {
    let next = job.sibling();
    let other = next.place(&[]);
    next.until_in_rotation([&other]);
    let mut hand_over = |from, to: &Job| {
        to.until_found();
        let until = Instant::now();
        job.has_taken("to be another's", until - from, INHERITED_WITHIN);
        windows.push(Window {
            from,
            until,
            is_empty: false,
        });
    };
    hand_over(job.stop(&allocs.remove(0)), &next);
    let back = job.place(&[]);
    job.until_in_rotation([&back]);
    thread::sleep(Duration::from_secs(1));
    assert!(next.is_found(), "a second claim has taken the routes");
    hand_over(next.stop(&other), job);
    vec![back]
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
