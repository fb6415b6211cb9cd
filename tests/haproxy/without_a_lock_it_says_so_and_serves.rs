//! Where the lock file cannot be made or used, that is said with what to do, and HAProxy is served all the same.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    sidecar::{Sidecar, soon},
    world::{World, on_every_line},
};

/// A sidecar between a fake Nomad and HAProxy whose socket is `haproxy.sock` in a folder that `spoil` has spoilt.
fn serves_although(spoil: impl Fn(&Path) + Sync, words: &[&str], mend: impl Fn(&Path) + Sync) {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = world.serve("dynamic", 1);
        let mut lock = world.tap.socket().into_os_string();
        lock.push(".sidecar.lock");
        let lock = PathBuf::from(lock);
        spoil(&lock);
        let sidecar = world.sidecar();
        let text = words.join(&lock.display().to_string());
        let line = sidecar.logged(&[
            " WARN ",
            &text,
            "until then this sidecar acts without a lock, and so would a second one: make sure that there is none",
        ]);
        eprintln!("{}: {line}", bin.version);
        world.until_served_by("dynamic", &[&toys[0]]);
        sidecar.until_ready();
        sidecar.until_metric("in_charge", 1);
        assert_eq!(sidecar.count("acts without a lock"), 1);
        mend(&lock);
        let second = world.sidecar();
        second.logged(&["is in charge of "]);
        sidecar.until_metric("in_charge", 1);
    });
}

#[test]
fn a_directory_has_its_name() {
    serves_although(
        |lock| fs::create_dir(lock).expect("the folder is ours"),
        &[
            "",
            " is a directory and no lock file of a sidecar: remove it; ",
        ],
        |lock| {
            fs::remove_dir(lock).expect("the folder is ours");
            soon("it is locked", || lock.exists().then_some(()));
        },
    );
}

#[test]
fn a_link_to_somebody_elses_file_has_its_name() {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let others = folder.path().join("others");
    fs::write(&others, "precious").expect("the folder is ours");
    serves_although(
        |lock| symlink(&others, lock).expect("the folder is ours"),
        &[
            "",
            " is a symbolic link and no lock file of a sidecar: remove it; ",
        ],
        |lock| {
            fs::remove_file(lock).expect("the folder is ours");
            soon("it is locked", || lock.exists().then_some(()));
        },
    );
    assert_eq!(
        fs::read_to_string(&others).expect("it is there"),
        "precious"
    );
}

#[test]
fn a_file_that_no_sidecar_wrote_is_locked_and_left_as_it_is() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let mut lock = world.tap.socket().into_os_string();
        lock.push(".sidecar.lock");
        fs::write(&lock, b"\0\xff garbage").expect("the folder is ours");
        let first = world.sidecar();
        first.logged(&[
            " WARN ",
            "has something in it that no sidecar wrote, which stays: remove the file; it is locked, and does not say by whom",
        ]);
        first.until_metric("in_charge", 1);
        let second = world.sidecar();
        second.logged(&[
            " WARN ",
            "another process holds the lock of ",
            "and the lock file does not say which: fuser finds it; this one only observes",
        ]);
        second.until_metric("in_charge", 0);
        assert_eq!(fs::read(&lock).expect("it is there"), b"\0\xff garbage");
    });
}

#[test]
fn a_folder_that_the_sidecars_user_may_not_write_to() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let toys = world.serve("dynamic", 1);
        let socket = world.tap.socket();
        let folder = socket.parent().expect("it is in a folder");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).expect("it is ours");
        fs::set_permissions(folder, fs::Permissions::from_mode(0o555)).expect("it is ours");
        let sidecar = world.with_settings(&[], without_rights);
        let made = format!(
            "the lock file {}.sidecar.lock cannot be made (",
            socket.display()
        );
        sidecar.logged(&[
            " WARN ",
            &made,
            "): let the sidecar's user write to this folder; until then this sidecar acts without a lock",
        ]);
        world.until_served_by("dynamic", &[&toys[0]]);
        sidecar.until_ready();
        sidecar.until_metric("in_charge", 1);

        // When it may, it locks.
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777)).expect("it is ours");
        let mut lock = socket.clone().into_os_string();
        lock.push(".sidecar.lock");
        soon("it is locked", || {
            fs::metadata(&lock)
                .is_ok_and(|file| file.len() > 0)
                .then_some(())
        });
        // A sidecar under another user finds it.
        let other = world.sidecar();
        other.logged(&["another sidecar is in charge of "]);
    });
}

/// A sidecar that is not root: it would get into any folder.
fn without_rights(settings: &[(&str, &str)]) -> Sidecar {
    let id = Command::new("id").arg("-u").output();
    if id.expect("`id` is everywhere").stdout == b"0\n" {
        let before = [
            "setpriv",
            "--reuid=10001",
            "--regid=10001",
            "--clear-groups",
        ];
        Sidecar::start_behind(&before, settings)
    } else {
        Sidecar::start(settings)
    }
}
