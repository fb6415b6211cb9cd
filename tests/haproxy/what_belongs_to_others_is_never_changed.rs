//! Static servers, whatever their names: nobody's but an operator's.

use crate::support::{
    toy::Toy,
    world::{BOTH, DEFAULTS, World, on_every_line, section, slots},
};

/// Nobody follows the first two. In the others there are names like those of slots, which no template has disabled, and a
/// disabled server that is not named like a slot.
const FOREIGN: [(&str, &[&str]); 4] = [
    ("nomad", &["nomad1", "nomad2"]),
    ("unfollowed", &["nomad1", "nomad2"]),
    ("dynamic", &["nomad1", "fixed", "spare"]),
    ("slots", &["nomad99", "fixed", "spare"]),
];

#[test]
fn foreign_servers_are_left_alone_whatever_their_names() {
    on_every_line(|bin| {
        let toy = Toy::start("foreign");
        let address = toy.address();
        let rest = format!(
            "  server fixed {address} check inter 100ms\n  server spare {address} check disabled\n"
        );
        let named = |name: &str| format!("  server {name} {address} check inter 100ms\n");
        let config = [
            DEFAULTS,
            &section("nomad", &(named("nomad1") + &named("nomad2"))),
            &section("unfollowed", &slots(2)),
            &section("dynamic", &(named("nomad1") + &rest)),
            &section("slots", &(named("nomad99") + &rest + &slots(4))),
        ]
        .concat();
        let world = World::start_with(bin, &config);
        world.haproxy.ask("set server dynamic/fixed weight 50%");
        world.haproxy.ask("set server slots/fixed state drain");
        let ours = BOTH.map(|service| world.serve(service, 1));
        let foreign_servers = || {
            FOREIGN.map(|(backend, names)| {
                let mut servers = world.servers(backend);
                servers.retain(|name, _| names.contains(&name.as_str()));
                assert_eq!(servers.len(), names.len(), "{backend}");
                servers
            })
        };
        let before = foreign_servers();

        let sidecar = world.sidecar();
        sidecar.until_ready();
        // 2 + 2 in backends that nobody follows, 3 + 3 next to ours.
        sidecar.logged(&[
            "found; foreign servers are never touched",
            "foreign_servers=10",
        ]);
        for (service, toys) in BOTH.iter().zip(&ours) {
            world.server_of(service, &toys[0]);
        }
        drop(sidecar);
        let sidecar = world.sidecar();
        sidecar.until_ready();
        world.until_read_again(1);
        let key = world.register("slots", &toy);
        world.until_asked_again();
        world.deregister(&key);
        world.until_asked_again();

        assert_eq!(foreign_servers(), before);
        for line in world.tap.changes() {
            let target = line.split(' ').find(|word| word.contains('/'));
            let (backend, server) = target
                .and_then(|target| target.split_once('/'))
                .unwrap_or_else(|| panic!("{line} changes no server"));
            let is_ours = match backend {
                "slots" => ["nomad1", "nomad2", "nomad3", "nomad4"].contains(&server),
                "dynamic" => server.starts_with("nomad-"),
                _ => false,
            };
            assert!(is_ours, "{line}");
        }
    });
}
