//! Named scenarios: one fault each, where the dice of a seed would hide it.

mod guards;
mod haproxy;
mod leaving;
mod nomad;
mod sidecar;
mod two_sidecars;

use std::{net::SocketAddr, time::Duration};

use crate::{
    chaos,
    haproxy_model::{Conduct, View},
    world::{Event, World},
};

const VERSIONS: [&str; 5] = chaos::VERSIONS;
const SECOND: Duration = Duration::from_secs(1);

fn address(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 8000))
}

/// A HAProxy and a catalog with three instances of `web` (slots), two of `shop` (dynamic) and one of `cache` (a static
/// balance), all serving; the sidecar is not started.
fn before_start(version: &'static str) -> World {
    let mut world = World::new(1, version, chaos::config(), false);
    let services = [("web", 3), ("shop", 2), ("cache", 1)];
    let mut host = 0;
    for (service, instances) in services {
        for instance in 1..=instances {
            host += 1;
            let id = format!("{service}-{instance}");
            world
                .conducts
                .borrow_mut()
                .insert(address(host), Conduct::Serves);
            world.register(("default", service, &[]), &id, address(host), &[]);
        }
    }
    world
}

/// The same with everything in rotation.
fn settled(version: &'static str) -> World {
    let mut world = before_start(version);
    world.start_sidecar();
    world.run_for(10 * SECOND);
    expect_right(&world);
    world
}

#[track_caller]
fn expect_lawful(world: &World) {
    assert!(world.violation.is_none(), "{}", world.report());
}

#[track_caller]
fn expect_right(world: &World) {
    expect_lawful(world);
    assert_eq!(world.missing(), None, "{}", world.report());
}

/// The servers of a backend that are in rotation, by name.
fn in_rotation(world: &World, backend: &str) -> Vec<View> {
    let mut servers = world.servers();
    servers.retain(|view| view.backend == backend && view.in_rotation);
    servers
}

/// Faults are over: everything becomes right and then nothing is written any more.
#[track_caller]
fn expect_recovery(world: &mut World) {
    world.heal();
    world.expect_rest();
    expect_right(world);
}
