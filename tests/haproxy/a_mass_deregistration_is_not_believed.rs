//! A Nomad server that was frozen deletes the registrations of instances that go on serving, all at once. What passes HAProxy's
//! checks is served on for the hold.

use std::{iter, time::Duration};

use crate::support::{
    fake_nomad::{Deletion, Key},
    haproxy::HaproxyBin,
    sidecar::{Sidecar, soon, within},
    toy::Toy,
    world::{DEFAULTS, World, on_every_line, section, slots},
};

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];

struct Shop {
    world: World,
    toys: Vec<(&'static str, Toy, Key)>,
}

impl Shop {
    /// Two services in slots and two of dynamic servers, three instances each, every service a job.
    fn open(bin: &HaproxyBin) -> Self {
        let sections = SERVICES
            .iter()
            .zip([slots(8), slots(8), String::new(), String::new()])
            .map(|(name, servers)| section(name, &servers));
        let config: String = iter::once(DEFAULTS.to_owned()).chain(sections).collect();
        let world = World::start_with(bin, &config);
        let mut toys = Vec::new();
        for service in SERVICES {
            for number in 1..=3 {
                let toy = Toy::start(&format!("{service}-{number}"));
                let key = world.register(service, &toy);
                toys.push((service, toy, key));
            }
        }
        Self { world, toys }
    }

    fn of(&self, service: &str) -> Vec<&Toy> {
        let of_it = self.toys.iter().filter(|(name, ..)| *name == service);
        of_it.map(|(_, toy, _)| toy).collect()
    }

    fn until_all_are_served(&self) {
        for service in SERVICES {
            self.world.until_served_by(service, &self.of(service));
        }
    }

    /// Nomad deletes two of three instances of each service, in one Raft message.
    fn lose_most(&self, sidecar: &Sidecar) {
        let gone = self
            .toys
            .iter()
            .enumerate()
            .filter(|(place, _)| place % 3 != 0);
        let gone: Vec<_> = gone.map(|(_, (_, _, key))| key.clone()).collect();
        self.world.nomad.deregister(&gone, Deletion::PlanResult);
        sidecar.logged(&[
            "WARN",
            "so much was deregistered at once",
            "jobs=",
            "--freeze",
        ]);
    }
}

#[test]
fn living_instances_that_are_deregistered_all_at_once_serve_on_for_the_hold() {
    on_every_line(|bin| {
        let shop = Shop::open(bin);
        let sidecar = shop.world.sidecar_with(&[("SIDECAR_HOLD", "4s")]);
        sidecar.until_ready();
        shop.until_all_are_served();
        shop.lose_most(&sidecar);
        sidecar.until_metric("mass_deregistrations_total", 1);
        soon("the status says so", || {
            let (_, status) = sidecar.get("/status");
            status.contains("mass deregistration: ").then_some(())
        });
        assert_eq!(sidecar.json("/status")["sidecar"]["guards"]["mass"], true);
        // All but what was drained and idle before so much was gone: that of one service at most.
        let held = soon("most are held", || {
            let held = sidecar.metric("servers_guarded{guard=\"mass\"}")?;
            (held >= 6.0).then_some(held)
        });
        sidecar.logged_within(
            Duration::from_secs(20),
            &["the mass deregistration is over"],
        );
        for service in SERVICES {
            shop.world.until_served_by(service, &shop.of(service)[..1]);
        }
        eprintln!("{}: {held} of 8 were held", bin.version);
    });
}

#[test]
fn those_that_die_and_those_that_are_registered_again_are_treated_as_ever() {
    on_every_line(|bin| {
        let shop = Shop::open(bin);
        let sidecar = shop.world.sidecar_with(&[("SIDECAR_HOLD", "60s")]);
        sidecar.until_ready();
        shop.until_all_are_served();
        shop.lose_most(&sidecar);
        // Those that were deregistered stay away from clients once they fail their checks.
        for (place, (_, toy, _)) in shop.toys.iter().enumerate() {
            if place % 3 == 1 {
                toy.fail();
            }
        }
        // And the others come back.
        for (place, (service, toy, _)) in shop.toys.iter().enumerate() {
            if place % 3 == 2 {
                shop.world.register(service, toy);
            }
        }
        for service in SERVICES {
            let of_it = shop.of(service);
            shop.world.until_served_by(service, &[of_it[0], of_it[2]]);
        }
        within(Duration::from_secs(20), "no server is held", || {
            (sidecar.metric("servers_held") == Some(0.0)).then_some(())
        });
    });
}

#[test]
fn where_it_holds_nothing_it_is_not_named_as_in_force() {
    on_every_line(|bin| {
        let shop = Shop::open(bin);
        let sidecar = shop.world.sidecar_with(&[("SIDECAR_HOLD", "60s")]);
        sidecar.until_ready();
        shop.until_all_are_served();
        // This time Nomad is right.
        for (place, (_, toy, _)) in shop.toys.iter().enumerate() {
            if place % 3 != 0 {
                toy.fail();
            }
        }
        for service in SERVICES {
            shop.world.until_served_by(service, &shop.of(service)[..1]);
        }
        sidecar.until_metric("servers_owned{state=\"down\"}", 8);
        shop.lose_most(&sidecar);
        sidecar.until_metric("servers_owned{state=\"in_rotation\"}", 4);
        sidecar.until_metric("servers_owned{state=\"down\"}", 0);
        sidecar.until_metric("servers_guarded{guard=\"mass\"}", 0);
        assert_eq!(sidecar.json("/status")["sidecar"]["guards"]["mass"], false);
        for path in ["/ready", "/status"] {
            let (status, body) = sidecar.get(path);
            assert_eq!(status, 200);
            assert!(!body.contains("mass deregistration"), "{path}: {body}");
        }
    });
}
