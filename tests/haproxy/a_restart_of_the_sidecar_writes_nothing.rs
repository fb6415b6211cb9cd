//! A sidecar that finds HAProxy as it should be reads and changes nothing; one that stops leaves it serving.

use std::time::Duration;

use crate::support::{
    haproxy::now,
    sidecar::{Sidecar, soon},
    world::{BOTH, World, on_every_line},
};

#[test]
fn a_restart_over_a_correct_haproxy_sends_no_changing_command() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 3));
        let served = || {
            for (service, toys) in BOTH.iter().zip(&toys) {
                world.until_served_by(service, &toys.iter().collect::<Vec<_>>());
            }
        };
        let mut sidecar = world.sidecar();
        sidecar.until_ready();
        served();

        for (signal, readings) in [("TERM", 2), ("INT", 1), ("KILL", 1)] {
            let servers = BOTH.map(|backend| world.servers(backend));
            end(&mut sidecar, signal);
            served();
            world.tap.forget();
            sidecar = world.sidecar();
            sidecar.until_ready();
            let at_the_start = world.tap.changes();
            world.until_read_again(readings);
            let later = world.tap.changes();
            assert!(
                at_the_start.is_empty() && later.is_empty(),
                "{}, after {signal}: {at_the_start:?}, {later:?}",
                bin.version
            );
            assert_eq!(BOTH.map(|backend| world.servers(backend)), servers);
            served();
        }
    });
}

/// SIGTERM and SIGINT end it well, and soon.
fn end(sidecar: &mut Sidecar, signal: &str) {
    let sent = now();
    sidecar.signal(signal);
    let status = soon("it ends", || sidecar.ended());
    if signal == "KILL" {
        return;
    }
    let took = sent.elapsed();
    assert!(took < Duration::from_secs(2), "{signal}: {took:?}");
    assert_eq!(status.code(), Some(0), "{signal}: {status}");
    sidecar.logged(&["stopping; HAProxy goes on serving as it is"]);
}
