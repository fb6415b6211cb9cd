//! Whatever is not there or not as it should be at the start is named, with what to do about it, and waited for: the
//! sidecar never exits.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixStream},
    path::Path,
};

use crate::support::{
    fake_nomad::Token,
    sidecar::{Sidecar, soon},
    toy::Toy,
    world::{BOTH, World, config, on_every_line},
};

const TOKEN: &str = "11111111-2222-3333-4444-555555555555";

/// Registers one instance of each service, runs a sidecar that lacks something until it has logged `words`, and after
/// `mend` until it serves both.
fn is_waited_for(
    world: &mut World,
    settings: &[(&str, &str)],
    words: &[&str],
    mend: impl FnOnce(&mut World),
) {
    let toy = Toy::start("only");
    for service in BOTH {
        world.register(service, &toy);
    }
    let mut sidecar: Sidecar = world.sidecar_with(settings);
    let line = sidecar.logged(words);
    eprintln!("{}: {line}", world.version());
    let (status, body) = sidecar.get("/ready");
    assert_eq!(status, 503, "{body}");
    assert_eq!(sidecar.get("/live").0, 200);
    assert!(sidecar.ended().is_none(), "it ended: {}", sidecar.log());
    mend(world);
    for service in BOTH {
        world.until_served_by(service, &[&toy]);
    }
    sidecar.until_ready();
    assert_eq!(
        sidecar.count(words[0]),
        1,
        "said more than once: {}",
        sidecar.log()
    );
}

/// The same with the socket at `path`, that is not as it should be; `says` of its path what is.
fn socket_is_waited_for(
    world: &mut World,
    path: &Path,
    says: impl Fn(&str) -> String,
    mend: impl FnOnce(&mut World),
) {
    let socket = path.to_str().expect("a path of ours is text");
    is_waited_for(
        world,
        &[("HAPROXY_SOCKET", socket)],
        &[
            "HAProxy cannot be used; trying again for ever",
            &says(socket),
        ],
        mend,
    );
}

#[test]
fn a_socket_that_is_not_there_yet() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        world.haproxy.kill9();
        let path = world.haproxy.socket();
        fs::remove_file(&path).expect("a killed HAProxy leaves its socket");
        let says = |socket: &str| {
            format!(
                "{socket} does not exist: start HAProxy, or name its stats socket with --haproxy-socket"
            )
        };
        socket_is_waited_for(&mut world, &path, says, |world| world.haproxy.restart());
    });
}

#[test]
fn a_socket_that_nobody_listens_on() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        world.haproxy.kill9();
        let path = world.haproxy.socket();
        let says = |socket: &str| {
            format!(
                "nobody listens on {socket}: HAProxy is not running, or is just being restarted"
            )
        };
        socket_is_waited_for(&mut world, &path, says, |world| world.haproxy.restart());
    });
}

#[test]
fn a_socket_without_level_admin() {
    on_every_line(|bin| {
        for level in ["user", "operator"] {
            let line =
                |level: &str| format!("  stats socket @DIR@/other.sock mode 600 level {level}\n");
            let mut world = World::start_with(bin, &(line(level) + &config()));
            let path = world.haproxy.directory().join("other.sock");
            let says = |socket: &str| {
                format!(
                    "the stats socket {socket} answers at level \"{level}\": write `level admin` on its `stats socket` line"
                )
            };
            socket_is_waited_for(&mut world, &path, says, |world| {
                world.haproxy.write_config(&(line("admin") + &config()));
                world.haproxy.reload();
            });
        }
    });
}

#[test]
fn the_socket_of_the_master() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let (master, link) = (
            world.haproxy.master_socket(),
            world.haproxy.directory().join("link.sock"),
        );
        // It refuses connections for a moment after its start.
        soon("the master listens", || UnixStream::connect(&master).ok());
        symlink(master, &link).expect("the directory is ours");
        let says = |socket: &str| {
            format!(
                "{socket} is the socket of HAProxy's master (-S): name the one of a `stats socket` line with --haproxy-socket"
            )
        };
        socket_is_waited_for(&mut world, &link, says, |world| {
            // At once, or the log would have a second reason.
            let new = world.haproxy.directory().join("new.sock");
            symlink(world.haproxy.socket(), &new).expect("the directory is ours");
            fs::rename(&new, &link).expect("the directory is ours");
        });
    });
}

#[test]
fn a_nomad_that_is_not_reachable_yet() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        world.nomad.stop();
        let url = world.nomad.url();
        is_waited_for(
            &mut world,
            &[],
            &[
                "is the agent running? set NOMAD_ADDR to where it answers; HAProxy stays as it is",
                &format!("nomad at {url}: "),
            ],
            |world| world.nomad.resume(),
        );
    });
}

#[test]
fn a_token_that_is_denied_at_the_start() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        world.nomad.enable_acl();
        is_waited_for(
            &mut world,
            &[("NOMAD_TOKEN", TOKEN)],
            &[
                "HAProxy stays as it is",
                "denied (403",
                r#"it needs the policy `namespace "default" { capabilities = ["read-job"] }`"#,
            ],
            |world| {
                let rights = Token::Client(vec!["default".to_owned()]);
                world.nomad.issue(TOKEN, rights);
            },
        );
    });
}

#[test]
fn one_of_several_namespaces_that_is_denied_at_the_start() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        world.nomad.create_namespace("shop");
        world.nomad.enable_acl();
        let rights =
            |names: &[&str]| Token::Client(names.iter().map(ToString::to_string).collect());
        world.nomad.issue(TOKEN, rights(&["default"]));
        is_waited_for(
            &mut world,
            &[
                ("NOMAD_TOKEN", TOKEN),
                ("SIDECAR_NAMESPACES", "default,shop"),
            ],
            &[
                "HAProxy stays as it is",
                "denied (403",
                r#"it needs the policy `namespace "shop" { capabilities = ["read-job"] }`"#,
            ],
            |world| {
                world.nomad.issue(TOKEN, rights(&["default", "shop"]));
            },
        );
    });
}
