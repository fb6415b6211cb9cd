//! The product's core, mirror, printers and parsers against models of Nomad and HAProxy, under faults, in simulated
//! time: minutes of outages in milliseconds, and the same seed gives the same run.
//!
//! [`weather`] plays Nomad's faults alone, and counts them; [`kindness`] asks what a thousand sidecars are for a server.
//! Here all of it plays together:
//!
//! `SEED=7 cargo test --test sim one_seed -- --nocapture` plays one seed and shows everything;
//! `SIM_SEEDS=10000 cargo test --release --test sim seeds -- --nocapture` plays that many.

#![expect(
    clippy::unwrap_used,
    reason = "a test; most of it is no function with the attribute"
)]

mod chaos;
mod claim;
mod clients;
mod guards;
mod hands;
#[expect(
    dead_code,
    reason = "the other half is for the test that holds it against real ones"
)]
mod haproxy_model;
mod invariants;
mod kindness;
mod laws;
mod ledger;
mod link;
mod matrix;
mod nomad_model;
mod random;
mod routes;
mod rules;
mod sabotage;
mod scenarios;
mod seats;
mod session;
mod trace;
mod weather;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use sabotage::Sabotage;
use world::World;

/// Played in the ordinary run of the tests.
const SEEDS: u64 = 12;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|value| value.parse().expect("a number"))
}

/// Plays one seed; a panic of the product is a failure like any other.
fn play(world: &mut World) -> Result<(), String> {
    play_as(world, World::play)
}

fn play_matrix(world: &mut World) -> Result<(), String> {
    play_as(world, World::play_matrix)
}

fn play_as(world: &mut World, play: fn(&mut World)) -> Result<(), String> {
    let played = catch_unwind(AssertUnwindSafe(|| play(world)));
    if played.is_err() {
        world.violated("nothing panics", "see above");
    }
    match world.violation {
        Some(_) => Err(world.report()),
        None => Ok(()),
    }
}

#[test]
fn one_seed() {
    let Some(seed) = variable("SEED") else { return };
    let mut world = World::of_seed(seed);
    if let Some(invariant) = variable("SABOTAGE") {
        world = world.sabotaged(Sabotage::of(invariant));
    }
    world.trace_everything();
    let result = play(&mut world);
    println!("{}", world.report());
    assert!(result.is_ok());
}

#[test]
fn whatever_goes_wrong_for_a_while_the_laws_hold_for_many_seeds() {
    if variable("SEED").is_some() {
        return;
    }
    let seeds = variable("SIM_SEEDS").unwrap_or(SEEDS);
    let first = variable("SIM_FIRST").unwrap_or(1);
    let mut most = [0; 5];
    let mut tally = clients::Tally::default();
    let mut failures = std::collections::BTreeMap::<String, Vec<u64>>::new();
    for seed in first..first + seeds {
        let mut world = World::of_seed(seed).muted();
        if play(&mut world).is_err() {
            let law = world.violation.clone().unwrap();
            let law = law.split(':').next().unwrap().to_owned();
            if failures.is_empty() {
                // The same again, with its trace.
                let mut again = World::of_seed(seed);
                println!("{}", play(&mut again).unwrap_err());
            }
            println!("seed {seed}: {}", world.violation.as_deref().unwrap());
            failures.entry(law).or_default().push(seed);
        }
        tally.add(&world.clients.tally);
        for (most, here) in most.iter_mut().zip(world.load.most) {
            *most = here.max(*most);
        }
    }
    println!(
        "{seeds} seeds; at most {most:?} timeouts, ticks, batches, questions, lines within a second\n{tally:?}"
    );
    assert!(failures.is_empty(), "{failures:?}");
}
