//! The ordinary life of a service costs no request: rolling updates, canaries, scaling, changed tags, slow and failing
//! instances, routes that move, a sidecar that is killed. Under load at a constant rate, on every HAProxy of `HAPROXY_BINS`,
//! with slots, dynamic servers and, from 3.4 on, backends that are made at runtime, between the real program and a fake Nomad that plays the order and the times of a real one.
//!
//! All scenarios of a day run at once, each with services and backends of its own, in one HAProxy with one sidecar. A
//! failure prints the seed and what happened when; `SEED=… cargo test --test load` plays that day again, `SCENARIOS=…`
//! plays those whose names contain one of these words, and `SOAK_MINUTES=…` goes on with other seeds for so long.

#[expect(dead_code, reason = "each test program uses a part of the support")]
#[path = "../support"]
mod support {
    pub(crate) mod app;
    pub(crate) mod fake_nomad;
    pub(crate) mod haproxy;
    pub(crate) mod http;
    pub(crate) mod load;
    pub(crate) mod sidecar;
    pub(crate) mod tap;
    pub(crate) mod toy;
    pub(crate) mod world;
}

mod a_reload_with_a_state_file_costs_no_request;
mod config;
mod day;
mod job;
mod scenarios;
mod the_generator_tells_what_failed;
mod what_breaks_a_rule_is_caught;

use std::{
    env,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use config::MADE;
use day::{ADVISED, Day, Setup, ZERO_TOUCH};
use scenarios::Scenario;
use support::{
    haproxy::{binaries, now},
    load::report::MEANS_NOTHING,
};

#[test]
fn the_ordinary_life_of_a_service_costs_no_request() {
    let _alone = alone();
    for_as_long_as_asked(scenarios::ORDINARY, &[ADVISED, ZERO_TOUCH]);
}

#[test]
fn a_sidecar_that_is_killed_during_rolling_updates_costs_no_request() {
    let with_kills = |setup| Setup {
        kills: 20,
        // Long enough for a few sidecars in a row that hardly live.
        shutdown_delay: Duration::from_secs(5),
        // A sidecar that starts between the two, and finds a slot of unknown origin at an address that another service
        // has, must think that the address is that service's now.
        between_services: Duration::from_millis(1),
        ..setup
    };
    let setups = [ADVISED, ZERO_TOUCH].map(with_kills);
    for_as_long_as_asked(scenarios::WITH_KILLS, &setups);
}

/// Held by a day without kills: more than two at a time would measure the machine.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A day that failed is over, too.
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a day found. One during which the machine stood still says nothing of the product, and is played again, twice at
/// most: then the machine is too slow for this.
fn judged(play: impl Fn() -> Vec<String>) -> Vec<String> {
    for _ in 0..2 {
        let found = play();
        if !found.iter().any(|problem| problem.contains(MEANS_NOTHING)) {
            return found;
        }
        eprintln!(
            "PLAYED AGAIN, the machine was too slow: {}",
            found.join("\n")
        );
    }
    play()
}

/// Plays one day on each HAProxy, one after the other; and then others, if it is asked to go on.
fn for_as_long_as_asked(scenarios: &[Scenario], setups: &[Setup]) {
    let number = |name| env::var(name).ok().and_then(|text| text.parse().ok());
    let minutes = Duration::from_secs(60 * number("SOAK_MINUTES").unwrap_or(0));
    let words = env::var("SCENARIOS").unwrap_or_default();
    let scenarios: Vec<_> = scenarios
        .iter()
        .filter(|scenario| words.split(',').any(|word| scenario.name.contains(word)))
        .collect();
    if scenarios.is_empty() {
        eprintln!("SCENARIOS={words} is none of these");
        return;
    }
    let (bins, end) = (binaries(), now() + minutes);
    let first = number("SEED").unwrap_or(1);
    for seed in first.. {
        let mut problems = Vec::new();
        let days = bins.iter().flat_map(|bin| {
            let can = |setup: &&Setup| bin.makes_backends() || !setup.servers.contains(&MADE);
            setups.iter().filter(can).map(move |setup| (bin, *setup))
        });
        for (bin, setup) in days {
            let found = judged(|| Day::begin(bin, seed, setup, &scenarios).play());
            if !found.is_empty() {
                problems.push(format!("with HAProxy {}:", bin.version));
                problems.extend(found);
            }
        }
        assert!(problems.is_empty(), "SEED={seed}\n{}", problems.join("\n"));
        if now() >= end {
            return;
        }
    }
}
