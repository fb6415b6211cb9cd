//! Least rights, tried with real users: HAProxy drops to `nobody`, the sidecar is a user of its own without any
//! capability and on a read-only root, and what lets it in is the socket's mode and group.
//!
//! Only root can become other users: whoever runs this otherwise is told that it was not tried.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    haproxy::HaproxyBin,
    sidecar::Sidecar,
    world::{BOTH, World, config, on_every_line},
};

/// The group that both share, by number, as it has no name here.
const SHARED: &str = "10099";
/// Groups that are not it.
const OTHER: &str = "10001";

/// A HAProxy as Debian starts it, and the path of its shared socket; none without the right to try.
fn world(bin: &HaproxyBin) -> Option<(World, PathBuf)> {
    let user = Command::new("id").arg("-u").output();
    let user = user.expect("`id` is everywhere").stdout;
    if user != b"0\n" {
        eprintln!("NOT TRIED: other users, since this one is not root");
        return None;
    }
    let socket = "  stats socket @DIR@/shared.sock gid 10099 mode 660 level admin\n  uid 65534\n  gid 65534\n";
    let world = World::start_with(bin, &[socket, &config()].concat());
    let directory = world.haproxy.directory();
    // As Nomad's shared directory is: everybody passes through, and may look.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let socket = directory.join("shared.sock");
    Some((world, socket))
}

/// A sidecar that is nobody: user 10001 in this group alone, no capability, none to be had, and nothing that it could write.
fn sidecar_in(group: &str, world: &World, socket: &Path) -> Sidecar {
    let rights = format!(
        "exec setpriv --reuid=10001 --regid={group} --clear-groups --bounding-set=-all --inh-caps=-all --no-new-privs \"$@\""
    );
    let read_only = "mount -o remount,ro,bind / || echo 'NOT TRIED: a read-only root' >&2";
    let script = format!("{read_only}\n{rights}");
    let socket = socket.to_str().expect("a path of ours is text");
    world.with_settings(&[("HAPROXY_SOCKET", socket)], |settings| {
        let before = ["unshare", "--mount", "/bin/sh", "-c", &script, "sidecar"];
        Sidecar::start_behind(&before, settings)
    })
}

#[test]
fn a_user_of_the_sockets_group_serves_without_any_other_right() {
    on_every_line(|bin| {
        let Some((world, socket)) = world(bin) else {
            return;
        };
        let sidecar = sidecar_in(SHARED, &world, &socket);
        let toys = BOTH.map(|service| (service, world.serve(service, 2)));
        let until_served = || {
            for (service, toys) in &toys {
                world.until_served_by(service, &toys.iter().collect::<Vec<_>>());
            }
        };
        until_served();
        sidecar.until_ready();
        let status = fs::read_to_string(format!("/proc/{}/status", sidecar.pid()));
        let status = status.expect("it runs");
        for line in [
            "Uid:\t10001\t10001\t10001\t10001",
            "CapEff:\t0000000000000000",
            "CapBnd:\t0000000000000000",
            "NoNewPrivs:\t1",
        ] {
            assert!(status.contains(line), "{line} is not in {status}");
        }
        // A reload makes the socket anew.
        world.haproxy.reload();
        sidecar.logged(&["HAProxy was restarted or reloaded"]);
        until_served();
    });
}

#[test]
fn a_user_of_another_group_is_told_what_lets_it_in() {
    on_every_line(|bin| {
        let Some((world, socket)) = world(bin) else {
            return;
        };
        let sidecar = sidecar_in(OTHER, &world, &socket);
        let line = sidecar.logged(&["HAProxy cannot be used; trying again for ever"]);
        for words in [
            "cannot be opened",
            "the sidecar runs as user 10001, group 10001",
            "write `mode 660 level admin` and a `group`",
        ] {
            assert!(line.contains(words), "{words} is not in {line}");
        }
        assert_eq!(sidecar.get("/ready").0, 503);
    });
}
