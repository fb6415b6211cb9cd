//! An operator who does not trust what happens stops all removals, with a flag or with a file and without a restart. Additions go
//! on.

use std::{fs, thread, time::Duration};

use crate::support::{
    sidecar::{plan, soon},
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

#[test]
fn with_the_freeze_file_nothing_leaves_and_what_registers_joins() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let file = world.haproxy.directory().join("sidecar.freeze");
        let path = file.to_str().unwrap();
        let toys = BOTH.map(|service| {
            let toys = [Toy::start("first"), Toy::start("second")];
            let keys: Vec<_> = toys
                .iter()
                .map(|toy| world.register(service, toy))
                .collect();
            (service, toys, keys)
        });
        let sidecar = world.sidecar_with(&[("SIDECAR_FREEZE_FILE", path)]);
        sidecar.until_ready();
        for (service, toys, _) in &toys {
            world.until_served_by(service, &[&toys[0], &toys[1]]);
        }
        fs::write(&file, "").unwrap();
        sidecar.logged(&[
            "WARN",
            "removals are stopped by --freeze or the freeze file",
        ]);
        let kept: Vec<_> = (toys.iter())
            .flat_map(|(service, toys, _)| {
                let name = |toy| format!("{service}/{}", world.server_of(service, toy));
                [name(&toys[0]), name(&toys[1])]
            })
            .collect();
        let before = world.tap.changes().len();
        let newcomers = BOTH.map(|_| Toy::start("third"));
        for ((service, toys, keys), third) in toys.iter().zip(&newcomers) {
            world.deregister(&keys[0]);
            world.register(service, third);
            world.until_served_by(service, &[&toys[0], &toys[1], third]);
        }
        sidecar.until_metric("removals_frozen", 1);
        sidecar.until_metric("servers_guarded{guard=\"frozen\"}", 2);
        for page in ["/ready", "/status"] {
            let (status, text) = sidecar.get(page);
            assert_eq!(status, 200);
            assert!(
                text.contains("removals are stopped: 2 servers wait\n"),
                "{text}"
            );
        }
        // Not after a second look either.
        thread::sleep(Duration::from_secs(1));
        let sent = world.tap.changes().split_off(before);
        let is_about = |line: &&String| kept.iter().any(|server| line.contains(server.as_str()));
        assert_eq!(sent.iter().find(is_about), None);
        // `plan` says the same.
        let settings = [("SIDECAR_FREEZE_FILE", path)];
        let output = world.with_settings(&settings, plan);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(text.matches("removals are stopped").count(), 2, "{text}");

        fs::remove_file(&file).unwrap();
        sidecar.logged(&["INFO", "removals go on", "waiting=2"]);
        for ((service, toys, _), third) in toys.iter().zip(&newcomers) {
            world.until_served_by(service, &[&toys[1], third]);
        }
        sidecar.until_metric("removals_frozen", 0);
    });
}

#[test]
fn the_flag_in_the_configuration_file_is_read_again_with_sighup() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let config = world.haproxy.directory().join("sidecar.toml");
        fs::write(&config, "freeze = true\n").unwrap();
        let (first, second) = (Toy::start("first"), Toy::start("second"));
        let key = world.register("dynamic", &first);
        world.register("dynamic", &second);
        let sidecar = world.sidecar_with(&[("SIDECAR_CONFIG", config.to_str().unwrap())]);
        sidecar.logged(&["WARN", "removals are stopped"]);
        world.until_served_by("dynamic", &[&first, &second]);
        world.deregister(&key);
        sidecar.until_metric("servers_guarded{guard=\"frozen\"}", 1);
        world.until_served_by("dynamic", &[&first, &second]);
        fs::write(&config, "freeze = false\n").unwrap();
        sidecar.signal("HUP");
        soon("the server is gone", || {
            let servers = world.servers("dynamic");
            (servers.len() == 1).then_some(())
        });
    });
}
