//! One sidecar is in charge of a socket; another one stands by, shows that, and takes over when the first one is gone.

use std::{fs, path::PathBuf};

use crate::support::{
    haproxy::now,
    sidecar::{Sidecar, soon},
    tap::is_changing,
    world::{BOTH, World, on_every_line},
};

/// What is said of the one that stands by.
const STANDS_BY: &str = "another sidecar is in charge of ";

fn lock_file(world: &World) -> PathBuf {
    let mut name = world.tap.socket().into_os_string();
    name.push(".sidecar.lock");
    name.into()
}

fn changes(world: &World) -> usize {
    let lines = world.tap.lines();
    lines.iter().filter(|line| is_changing(line)).count()
}

/// A sidecar that is in charge and has applied everything, and another one.
fn pair(world: &World, settings: &[(&str, &str)]) -> (Sidecar, Sidecar) {
    let first = world.sidecar();
    first.until_ready();
    first.until_metric("in_charge", 1);
    let second = world.sidecar_with(settings);
    second.logged(&[
        " WARN ",
        STANDS_BY,
        "this one only observes, until that one ends",
    ]);
    (first, second)
}

#[test]
fn the_second_observes_and_takes_over_within_a_second_of_the_firsts_death() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 2));
        let (mut first, second) = pair(&world, &[]);
        second.until_ready();
        let (status, body) = second.get("/ready");
        assert_eq!(status, 200);
        let socket = world.tap.socket();
        let start = format!("ready\nstandby: {STANDS_BY}{}: pid ", socket.display());
        assert!(body.starts_with(&start), "{body}");
        assert!(second.get("/status").1.contains("\nstandby: "));
        second.until_metric("in_charge", 0);

        // What changes is applied once, and followed by both.
        let more = world.serve("dynamic", 1);
        let all: Vec<_> = toys[1].iter().chain(&more).collect();
        world.until_served_by("dynamic", &all);
        let added = "added to backend";
        assert_eq!(second.count(added), 0);
        assert_eq!(second.count("would have been sent"), 0);
        assert_eq!(second.count(" applied backend="), 0, "{}", second.log());

        world.until_read_again(2);
        let before = changes(&world);
        first.kill9();
        let died = now();
        let late = world.serve("slots", 1);
        second.logged(&[
            " INFO ",
            "in charge now: this sidecar takes over",
            "waited=",
        ]);
        let took = died.elapsed();
        eprintln!("{}: in charge {took:.0?} after kill -9", bin.version);
        assert!(took.as_secs_f64() < 1.0, "{took:?}");
        world.until_served_by("slots", &toys[0].iter().chain(&late).collect::<Vec<_>>());
        eprintln!("{}: served by it after {:.0?}", bin.version, died.elapsed());
        second.until_ready();
        second.until_metric("in_charge", 1);
        assert_eq!(second.get("/ready").1, "ready\n");
        assert!(changes(&world) > before);
        for (service, toys) in [
            ("dynamic", all),
            ("slots", toys[0].iter().chain(&late).collect()),
        ] {
            world.until_served_by(service, &toys);
        }
    });
}

#[test]
fn who_ends_by_a_signal_is_followed_at_once_and_who_comes_back_stands_by() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = world.serve("dynamic", 1);
        let (mut first, second) = pair(&world, &[]);
        first.signal("TERM");
        soon("it has ended", || first.ended());
        second.logged(&["in charge now"]);
        let third = world.sidecar();
        third.logged(&[STANDS_BY]);
        third.until_ready();
        third.until_metric("in_charge", 0);
        world.until_served_by("dynamic", &[&toys[0]]);
    });
}

#[test]
fn a_frozen_sidecar_stays_in_charge_and_goes_on_afterwards() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = world.serve("slots", 1);
        let (first, second) = pair(&world, &[]);
        first.signal("STOP");
        let more = world.serve("slots", 1);
        // The one that stands by lets the lock be, for longer than what was planned before stays good.
        for _ in 0..3 {
            world.until_asked_again();
        }
        assert_eq!(second.count("in charge now"), 0);
        first.signal("CONT");
        first.logged(&[
            " WARN ",
            "the session with HAProxy broke; connecting again",
            "this sidecar stood still for ",
        ]);
        world.until_served_by("slots", &[&toys[0], &more[0]]);
        assert_eq!(second.count("in charge now"), 0);
    });
}

#[test]
fn who_follows_other_namespaces_is_refused_and_told_what_to_do() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1));
        let settings = [("SIDECAR_NAMESPACES", "shop")];
        let (mut first, second) = pair(&world, &settings);
        second.logged(&[
            " WARN ",
            "and follows something else: run one sidecar with --namespaces default,shop (each would take out the servers \
             of the other; pid ",
        ]);
        let (_, body) = second.get("/ready");
        assert!(
            body.contains("run one sidecar with --namespaces default,shop"),
            "{body}"
        );
        first.kill9();
        second.logged(&[
            " WARN ",
            "is gone, and followed something else: run one sidecar with --namespaces default,shop (this one would take out \
             its servers, and waits for it to come back; pid ",
            "takes_over_in=120.0s",
        ]);
        // The first one comes back and is not kept out.
        let again = world.sidecar();
        again.until_ready();
        again.until_metric("in_charge", 1);
        second.until_metric("in_charge", 0);
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0]]);
        }
    });
}

#[test]
fn a_lock_file_that_is_deleted_is_made_anew() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let (first, second) = pair(&world, &[]);
        fs::remove_file(lock_file(&world)).expect("it is there");
        let one = || {
            let charge = [&first, &second].map(|one| one.metric("in_charge"));
            let is_one = charge.iter().filter(|one| **one == Some(1.0)).count() == 1;
            (lock_file(&world).exists() && is_one).then_some(())
        };
        soon("one of both is in charge", one);
        world.until_asked_again();
        soon("one of both is in charge", one);
        let toys = world.serve("dynamic", 2);
        world.until_served_by("dynamic", &[&toys[0], &toys[1]]);
    });
}

#[test]
fn plan_and_observe_take_no_lock_and_need_none() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let observer = world.sidecar_with(&[("SIDECAR_OBSERVE", "true")]);
        observer.until_ready();
        assert!(!lock_file(&world).exists());
        let first = world.sidecar();
        first.until_metric("in_charge", 1);
        observer.until_metric("in_charge", 0);
        assert_eq!(observer.count(STANDS_BY), 0);
    });
}
