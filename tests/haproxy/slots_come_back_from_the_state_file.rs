//! With `--state-file` HAProxy comes back from a reload or a restart with its slots filled: there is no gap, and nothing left
//! for the sidecar to do. In the file is what belongs to the sidecar, and nothing when HAProxy has been gone for long.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use crate::support::{
    haproxy::{HaproxyBin, now},
    sidecar::{Sidecar, soon, within},
    toy::Toy,
    world::{DEFAULTS, Server, World, on_every_line, section, slots, under_load},
};

/// Of the configurations here: HAProxy reads the file.
const READS: &str = "  server-state-file @DIR@/state\n";
const FROM_FILE: &str = "  load-server-state-from-file global\n";

fn world(bin: &HaproxyBin, sections: &[String]) -> World {
    World::start_with(
        bin,
        &[READS, DEFAULTS, FROM_FILE, &sections.concat()].concat(),
    )
}

fn path(world: &World) -> PathBuf {
    world.haproxy.directory().join("state")
}

fn sidecar(world: &World) -> Sidecar {
    sidecar_with(world, &[])
}

fn sidecar_with(world: &World, more: &[(&str, &str)]) -> Sidecar {
    let path = path(world);
    let mut settings = vec![("SIDECAR_STATE_FILE", path.to_str().expect("it is text"))];
    settings.extend(more);
    world.sidecar_with(&settings)
}

/// The rows of the file: `backend/server` and the address.
fn rows(world: &World) -> Option<Vec<(String, String)>> {
    let text = fs::read_to_string(path(world)).ok()?;
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("1"), "{text}");
    assert!(lines.next()?.starts_with("# be_id be_name "), "{text}");
    let row = |line: &str| {
        let cells: Vec<_> = line.split(' ').collect();
        assert_eq!(cells.len(), 25, "{line}");
        (
            format!("{}/{}", cells[1], cells[3]),
            format!("{}:{}", cells[4], cells[18]),
        )
    };
    Some(lines.map(row).collect())
}

/// Waits until these are the rows' addresses.
fn until_rows(world: &World, toys: &[&Toy]) {
    let mut expected: Vec<_> = toys.iter().map(|toy| toy.address().to_string()).collect();
    expected.sort();
    let what = format!("the state file of {} has {expected:?}", world.version());
    soon(&what, || {
        let mut addresses: Vec<_> = rows(world)?
            .into_iter()
            .map(|(_, address)| address)
            .collect();
        addresses.sort();
        (addresses == expected).then_some(())
    });
}

fn in_use(world: &World, backend: &str) -> Vec<(String, Server)> {
    let servers = world.servers(backend).into_iter();
    servers
        .filter(|(_, server)| server.address != "127.0.0.1:1")
        .collect()
}

/// Asks from two clients while `work` is done; says how often something else than a web server answered.
fn failures(world: &World, work: impl FnOnce()) -> Vec<String> {
    let answers = under_load(&[(), ()], |()| world.request("slots"), work);
    let failed = answers.into_iter().filter_map(|(answer, times)| {
        let problem = answer.err()?;
        Some(format!("{times} × {problem}"))
    });
    failed.collect()
}

#[test]
fn a_reload_loses_no_request_and_nothing_is_left_to_do() {
    on_every_line(|bin| {
        let world = world(bin, &[section("slots", &slots(8))]);
        let toys = world.serve("slots", 3);
        let toys: Vec<_> = toys.iter().collect();
        let sidecar = sidecar(&world);
        world.until_served_by("slots", &toys);
        until_rows(&world, &toys);
        let before = in_use(&world, "slots");

        for reloads in 1..=2 {
            let failed = failures(&world, || {
                world.tap.forget();
                world.haproxy.reload();
                sidecar.until_metric("haproxy_restarts_total", reloads);
                world.until_read_again(1);
            });
            assert_eq!(failed, Vec::<String>::new(), "HAProxy {}", world.version());
            assert_eq!(world.tap.changes(), Vec::<String>::new());
            assert_eq!(in_use(&world, "slots"), before);
        }
        until_rows(&world, &toys);
    });
}

#[test]
fn kill_9_and_a_restart_leave_nothing_to_do() {
    on_every_line(|bin| {
        let mut world = world(bin, &[section("slots", &slots(8))]);
        let toys = world.serve("slots", 3);
        let toys: Vec<_> = toys.iter().collect();
        let sidecar = sidecar(&world);
        world.until_served_by("slots", &toys);
        until_rows(&world, &toys);

        world.haproxy.kill9();
        sidecar.logged(&["the session with HAProxy ended"]);
        world.tap.forget();
        world.haproxy.restart();
        // At once, whatever the sidecar does.
        let first = world.request("slots");
        assert!(first.is_ok(), "HAProxy {}: {first:?}", world.version());
        sidecar.until_metric("haproxy_restarts_total", 1);
        world.until_asked_again();
        assert_eq!(world.tap.changes(), Vec::<String>::new());
    });
}

/// HAProxy would bring it back UP: so it comes back empty, and its check has to pass first.
#[test]
fn what_was_down_gets_no_request_after_a_reload_before_its_check_has_passed() {
    on_every_line(|bin| {
        let world = world(bin, &[section("slots", &slots(8))]);
        let (good, sick) = (Toy::start("good"), Toy::start("sick"));
        world.register("slots", &good);
        world.register("slots", &sick);
        let sidecar = sidecar(&world);
        world.until_served_by("slots", &[&good, &sick]);
        until_rows(&world, &[&good, &sick]);
        sick.fail();
        world.until_served_by("slots", &[&good]);
        until_rows(&world, &[&good]);

        let requests = sick.requests();
        let failed = failures(&world, || {
            world.haproxy.reload();
            sidecar.until_metric("haproxy_restarts_total", 1);
            let address = sick.address().to_string();
            soon("the sick one has a slot again", || {
                let mut servers = world.servers("slots").into_values();
                servers
                    .any(|server| server.address == address && server.admin == 4)
                    .then_some(())
            });
            world.until_asked_again();
        });
        assert_eq!(failed, Vec::<String>::new(), "HAProxy {}", world.version());
        assert_eq!(sick.requests(), requests, "HAProxy {}", world.version());
        sick.serve();
        world.until_served_by("slots", &[&good, &sick]);
    });
}

#[test]
fn what_others_and_operators_have_is_not_in_the_file_but_an_operators_hand_on_a_slot_is() {
    on_every_line(|bin| {
        let toy = Toy::start("foreign");
        let address = toy.address();
        let own = format!(
            "  server fixed {address} check inter 100ms\n  server spare named.invalid:1 disabled init-addr last,127.0.0.1\n"
        );
        let mut world = world(
            bin,
            &[
                section("slots", &(own + &slots(8))),
                section("unfollowed", &slots(2)),
                section("dynamic", ""),
            ],
        );
        for server in ["slots/spare", "unfollowed/nomad1"] {
            let port = address.port();
            let command = format!("set server {server} addr 127.0.0.1 port {port}");
            world.haproxy.ask(&command);
            world
                .haproxy
                .ask(&format!("set server {server} state ready"));
        }
        let toys = world.serve("slots", 2);
        let dynamic = world.serve("dynamic", 1);
        let mut sidecar = sidecar(&world);
        sidecar.until_ready();
        let held = world.server_of("slots", &toys[0]);
        let kept = world.server_of("slots", &toys[1]);
        world.server_of("dynamic", &dynamic[0]);
        until_rows(&world, &[&toys[0], &toys[1]]);
        let names = |world: &World| -> Vec<String> {
            rows(world)
                .into_iter()
                .flatten()
                .map(|(name, _)| name)
                .collect()
        };
        assert_eq!(names(&world), ["slots/nomad1", "slots/nomad2"]);

        // An operator's maintenance survives the reload; the sidecar does not even have to be there.
        world
            .haproxy
            .ask(&format!("set server slots/{held} state maint"));
        world
            .haproxy
            .ask(&format!("set server slots/{kept} weight 7"));
        world.until_read_again(1);
        until_rows(&world, &[&toys[0], &toys[1]]);
        soon("the maintenance is in the file", || {
            let text = fs::read_to_string(path(&world)).ok()?;
            let row = text
                .lines()
                .find(|line| line.contains(&format!(" {held} ")))?;
            (row.split(' ').nth(6)? == "5").then_some(())
        });
        sidecar.kill9();
        world.haproxy.kill9();
        world.haproxy.restart();
        let servers = world.servers("slots");
        assert_eq!(servers[&held].admin & 1, 1, "{servers:?}");
        assert!(servers[&kept].is_in_rotation(), "{servers:?}");
    });
}

#[test]
fn a_haproxy_that_was_gone_for_ten_seconds_gets_no_addresses_back() {
    on_every_line(|bin| {
        let mut world = world(bin, &[section("slots", &slots(8))]);
        let toys = world.serve("slots", 1);
        let first = sidecar(&world);
        until_rows(&world, &[&toys[0]]);
        world.haproxy.stop();
        let gone = now();
        let until_removed = || {
            within(Duration::from_secs(20), "the state file is removed", || {
                (!path(&world).exists()).then_some(())
            });
        };
        until_removed();
        let after = gone.elapsed();
        assert!(after > Duration::from_secs(9), "after {after:?}");
        drop(first);

        // Nor when it was never there, for this sidecar.
        fs::write(path(&world), "1\n# old\n").expect("the directory is ours");
        let second = sidecar(&world);
        until_removed();
        assert!(second.age() > Duration::from_secs(9));
        world.haproxy.restart();
        world.until_served_by("slots", &[&toys[0]]);
        until_rows(&world, &[&toys[0]]);
    });
}

#[test]
fn a_registration_that_ended_meanwhile_is_drained_as_usual() {
    on_every_line(|bin| {
        let mut world = world(bin, &[section("slots", &slots(8))]);
        let (stays, leaves) = (Toy::start("stays"), Toy::start("leaves"));
        world.register("slots", &stays);
        let key = world.register("slots", &leaves);
        let sidecar = sidecar(&world);
        world.until_served_by("slots", &[&stays, &leaves]);
        until_rows(&world, &[&stays, &leaves]);
        world.haproxy.kill9();
        sidecar.logged(&["the session with HAProxy ended"]);
        world.deregister(&key);
        world.haproxy.restart();
        world.until_served_by("slots", &[&stays]);
        until_rows(&world, &[&stays]);
    });
}

#[test]
fn slots_with_literal_addresses_are_left_out_and_named() {
    on_every_line(|bin| {
        let literal = "  server-template nomad 1-4 127.0.0.1:1 disabled check inter 100ms\n";
        let world = world(
            bin,
            &[section("slots", &slots(4)), section("literal", literal)],
        );
        let toy = &world.serve("slots", 1)[0];
        let other = Toy::start("other");
        world.register("literal", &other);
        let sidecar = sidecar(&world);
        world.until_served_by("literal", &[&other]);
        sidecar.logged(&[
            "WARN",
            "not in the state file: HAProxy does not restore the addresses of these slots; declare them with \
             `server-template nomad 1-32 slot.invalid:1 disabled init-addr last,127.0.0.1`",
            "backend=literal",
        ]);
        sidecar.until_metric("backends_not_in_state_file", 1);
        until_rows(&world, &[toy]);
        assert_eq!(sidecar.count("not in the state file"), 1);
    });
}

#[test]
fn a_haproxy_that_does_not_read_the_file_is_told_apart() {
    on_every_line(|bin| {
        let mut world = World::start_with(bin, &[DEFAULTS, &section("slots", &slots(4))].concat());
        let toys = world.serve("slots", 1);
        let sidecar = sidecar(&world);
        until_rows(&world, &[&toys[0]]);
        world.haproxy.kill9();
        world.haproxy.restart();
        sidecar.logged(&[
            "WARN",
            "HAProxy came up without the slots of the state file; it needs `server-state-file <path>` in `global`, \
             `load-server-state-from-file global` in `defaults` or in the backends, and the right to read the file",
        ]);
        world.until_served_by("slots", &[&toys[0]]);
    });
}

#[test]
fn a_file_that_cannot_be_written_is_said_once_and_stops_nothing() {
    on_every_line(|bin| {
        let world = world(bin, &[section("slots", &slots(4))]);
        let toys = world.serve("slots", 1);
        let directory = world.haproxy.directory().join("missing");
        let file = directory.join("state");
        let file = file.to_str().expect("it is text");
        let sidecar = sidecar_with(&world, &[("SIDECAR_STATE_FILE", file)]);
        world.until_served_by("slots", &[&toys[0]]);
        sidecar.logged(&[
            "WARN",
            "the state file cannot be written: No such file or directory (os error 2); create its directory, or give \
             --state-file another path. Until then HAProxy comes back from a reload with empty slots",
        ]);
        soon("it is tried again", || {
            (sidecar.metric("state_file_failures_total")? >= 3.0).then_some(())
        });
        assert_eq!(sidecar.count("the state file cannot be written"), 1);
        fs::create_dir(&directory).expect("the directory is ours");
        sidecar.logged(&["INFO", "the state file can be written again"]);
        assert!(fs::read_to_string(file).is_ok_and(|text| text.lines().count() == 3));
    });
}

/// Each in a mount namespace of the sidecar's own, so that nothing else meets it.
#[test]
fn a_full_disk_and_a_read_only_one_are_named() {
    let user = Command::new("id").arg("-u").output();
    if user.expect("`id` is everywhere").stdout != b"0\n" {
        eprintln!("NOT TRIED: only root can mount");
        return;
    }
    on_every_line(|bin| {
        let world = world(bin, &[section("slots", &slots(4))]);
        let toys = world.serve("slots", 1);
        let directory = world.haproxy.directory().join("disk");
        fs::create_dir(&directory).expect("the directory is ours");
        let at = directory.display();
        for (disk, what) in [
            (
                format!("mount -t tmpfs -o size=4k tmpfs {at} && echo full > {at}/of-others"),
                "the state file cannot be written: No space left on device (os error 28); make room where it is: it has 100 \
                 bytes for each slot in use",
            ),
            (
                format!("mount -t tmpfs -o ro tmpfs {at}"),
                "the state file cannot be written: Read-only file system (os error 30); let the sidecar's user write in its \
                 directory: a new file takes the old one's place",
            ),
        ] {
            let file = directory.join("state");
            let more = [("SIDECAR_STATE_FILE", file.to_str().expect("it is text"))];
            let script = format!("{disk} && exec \"$@\"");
            let before = ["unshare", "-m", "sh", "-c", &script, "sh"];
            let sidecar =
                world.with_settings(&more, |settings| Sidecar::start_behind(&before, settings));
            sidecar.logged(&["WARN", what]);
            world.until_served_by("slots", &[&toys[0]]);
            sidecar.until_ready();
        }
    });
}

#[test]
fn whoever_only_observes_writes_and_removes_no_file() {
    on_every_line(|bin| {
        let mut world = world(bin, &[section("slots", &slots(4))]);
        fs::write(path(&world), "1\n# somebody's\n").expect("the directory is ours");
        world.serve("slots", 1);
        let sidecar = sidecar_with(&world, &[("SIDECAR_OBSERVE", "true")]);
        sidecar.logged(&["this would have been sent"]);
        world.haproxy.stop();
        within(
            Duration::from_secs(20),
            "twelve seconds have passed",
            || (sidecar.age() > Duration::from_secs(12)).then_some(()),
        );
        let text = fs::read_to_string(path(&world));
        assert!(text.is_ok_and(|text| text == "1\n# somebody's\n"));
    });
}
