//! Days on which a rule is broken on purpose cost requests, and the test says so: on the newest HAProxy, since that is
//! about the test.

use crate::{
    alone,
    day::{ADVISED, Day, Setup},
    scenarios::ORDINARY,
    support::haproxy::binaries,
};

#[test]
fn without_holds_the_only_instance_is_missed() {
    let setup = Setup {
        sidecar: &[("SIDECAR_HOLD", "0s")],
        ..ADVISED
    };
    let problems = problems(setup, "blind");
    for servers in ["slots", "dynamic"] {
        for kind in ["KeepAlive", "Close"] {
            assert!(has(&problems, &["blind-", servers, kind, "503 by HAProxy"]));
        }
        assert!(has(
            &problems,
            &["blind-", servers, "Tcp", "closed without an answer"]
        ));
    }
}

#[test]
fn without_checks_requests_go_where_nobody_listens() {
    let setup = Setup {
        check: "",
        ..ADVISED
    };
    let problems = problems(setup, "blind");
    assert!(has(&problems, &["blind-slots", "503 by HAProxy"]));
    assert!(has(&problems, &["blind-slots: HAProxy had to try again"]));
    // Those have their check.
    assert!(!has(&problems, &["blind-dynamic", "by HAProxy"]));
}

#[test]
fn sessions_that_are_cut_are_missed() {
    let setup = Setup {
        tags: &["haproxy.drain.timeout=1ms", "haproxy.drain.sessions=close"],
        tells_of_allocations: false,
        // Some are under way at nearly every removal, none for longer than its instance lives on.
        rate: 25,
        ..ADVISED
    };
    // A day on which the generator was too slow says nothing.
    let is_missed = |seed| {
        let problems = problems_of(seed, setup, "rolling");
        has(&problems, &["rolling-", " failed"])
    };
    assert!((1..=5).any(is_missed));
}

fn problems(setup: Setup, name: &str) -> Vec<String> {
    problems_of(1, setup, name)
}

fn problems_of(seed: u64, setup: Setup, name: &str) -> Vec<String> {
    let bins = binaries();
    let bin = bins.last().expect("there is at least one");
    let scenario = ORDINARY.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.expect("there is one of this name");
    let _alone = alone();
    Day::begin(bin, seed, setup, &[scenario]).play()
}

/// Whether one of the problems has all of these parts.
fn has(problems: &[String], parts: &[&str]) -> bool {
    problems
        .iter()
        .any(|problem| parts.iter().all(|part| problem.contains(part)))
}
