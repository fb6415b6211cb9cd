//! `--on-stop drain`: for a HAProxy that is stopped together with its sidecar.

use std::{io::Write as _, os::unix::net::UnixStream, thread};

use crate::support::{
    http,
    sidecar::{Sidecar, soon},
    world::{BOTH, World, on_every_line},
};

fn with_drain(world: &World, timeout: &str) -> Sidecar {
    let sidecar = world.sidecar_with(&[
        ("SIDECAR_ON_STOP", "drain"),
        ("SIDECAR_DRAIN_TIMEOUT", timeout),
    ]);
    sidecar.until_ready();
    sidecar
}

#[test]
fn a_sidecar_that_drains_waits_for_requests_and_the_next_one_takes_over_without_new_checks() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 2));
        let mut sidecar = with_drain(&world, "20s");
        for (backend, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(backend, &[&toys[0], &toys[1]]);
        }
        thread::scope(|scope| {
            let slow = BOTH.map(|backend| {
                let frontend = world.frontend(backend);
                scope.spawn(move || http::get_with(&frontend, "/sleep/1500", ""))
            });
            soon("they are under way", || {
                let requests = toys
                    .each_ref()
                    .map(|toys| toys[0].requests() + toys[1].requests());
                requests.iter().all(|requests| *requests > 4).then_some(())
            });
            sidecar.signal("TERM");
            sidecar.logged(&["draining every server of ours"]);
            soon("it ends", || {
                sidecar.ended().map(|status| assert!(status.success()))
            });
            for slow in slow {
                // Nothing that was under way was cut, and it was waited for.
                assert!(slow.is_finished());
                assert_eq!(slow.join().unwrap().unwrap().0, 200);
            }
        });
        for backend in BOTH {
            let servers = world.servers(backend).into_values();
            let drained: Vec<_> = servers.filter(|server| server.admin & 1 == 0).collect();
            assert_eq!(drained.len(), 2);
            assert!(
                drained
                    .iter()
                    .all(|one| one.admin & 8 == 8 && one.weight == 0)
            );
        }

        world.tap.forget();
        let _next = with_drain(&world, "20s");
        for (backend, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(backend, &[&toys[0], &toys[1]]);
        }
        let changes = world.tap.changes();
        assert!(
            !changes.iter().any(|line| line.contains("health")),
            "{changes:?}"
        );
    });
}

#[test]
fn a_second_signal_a_drain_timeout_or_a_haproxy_that_is_gone_ends_the_wait() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let toys = BOTH.map(|service| world.serve(service, 1));
        for how in ["second signal", "timeout", "gone"] {
            let timeout = if how == "timeout" { "1s" } else { "60s" };
            let mut sidecar = with_drain(&world, timeout);
            world.until_served_by("slots", &[&toys[0][0]]);
            let before = toys[0][0].requests();
            // Longer than anything here takes.
            let mut slow = UnixStream::connect(world.frontend("slots")).unwrap();
            slow.write_all(b"GET /sleep/40000 HTTP/1.1\r\nHost: test\r\n\r\n")
                .unwrap();
            soon("it is under way", || {
                (toys[0][0].requests() > before).then_some(())
            });
            sidecar.signal("TERM");
            sidecar.logged(&["draining every server of ours"]);
            soon("it is drained", || {
                let mut servers = world.servers("slots").into_values();
                servers.all(|one| one.admin & 0b1001 != 0).then_some(())
            });
            match how {
                "second signal" => sidecar.signal("TERM"),
                "gone" => world.haproxy.kill9(),
                _ => {}
            }
            soon("it ends", || {
                sidecar.ended().map(|status| assert!(status.success()))
            });
            drop(slow);
        }
    });
}
