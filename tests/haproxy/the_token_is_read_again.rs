//! A token in a file may be replaced at any time. SIGHUP reads it and everything else again, and no token is ever shown:
//! every test searches what its sidecars told and wrote, and one that shows a secret fails.

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
};

use tempfile::TempDir;

use crate::support::{
    fake_nomad::{Kind, Token},
    sidecar::soon,
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

const OLD: &str = "aaaaaaaa-1111-2222-3333-444444444444";
const NEW: &str = "bbbbbbbb-1111-2222-3333-444444444444";
const USER: &str = "somebody:pass-phrase";

#[test]
fn sighup_reads_the_token_file_again_and_syncs() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let readable = || Token::Client(vec!["default".to_owned()]);
        world.nomad.issue(OLD, readable());
        let directory = TempDir::new().expect("the temporary directory is writable");
        let file = directory.path().join("token");
        fs::write(&file, OLD).expect("the directory is ours");
        let file_name = file.to_str().expect("a path of ours is text");
        let sidecar = world.sidecar_with(&[
            ("NOMAD_TOKEN_FILE", file_name),
            ("NOMAD_HTTP_AUTH", USER),
            ("SIDECAR_LOG_LEVEL", "trace"),
        ]);
        sidecar.until_ready();

        world.nomad.issue(NEW, readable());
        fs::write(&file, format!("{NEW}\n")).expect("the directory is ours");
        let toy = Toy::start("joins");
        for service in BOTH {
            world.register(service, &toy);
        }
        let lists = world.nomad.count(Kind::List);
        sidecar.signal("HUP");
        sidecar.logged(&[
            "SIGHUP: the configuration is the same; the token is read again and everything is synced",
        ]);
        soon("everything is listed again", || {
            (world.nomad.count(Kind::List) > lists).then_some(())
        });
        soon("the new token is sent", || {
            let seen = world.nomad.seen();
            let last = seen.iter().rev().find(|seen| seen.kind == Kind::List)?;
            (last.request.headers.get("x-nomad-token")? == NEW).then_some(())
        });
        world.nomad.revoke(OLD);
        for service in BOTH {
            world.until_served_by(service, &[&toy]);
        }
    });
}

#[test]
fn a_token_is_never_shown_not_even_when_it_is_refused() {
    on_every_line(|bin| {
        let world = World::start(bin);
        world.nomad.enable_acl();
        let sidecar = world.sidecar_with(&[
            ("NOMAD_TOKEN", NEW),
            ("NOMAD_HTTP_AUTH", USER),
            ("SIDECAR_LOG_LEVEL", "trace"),
        ]);
        sidecar.logged(&["denied (403"]);
        let sent = world.nomad.seen();
        assert!(
            sent.iter().any(|seen| seen
                .request
                .headers
                .get("x-nomad-token")
                .is_some_and(|token| token == NEW)),
            "the token was not sent"
        );
    });
}

#[test]
fn a_sidecar_that_shows_a_secret_fails_its_test() {
    on_every_line(|bin| {
        let world = World::start(bin);
        for (secret, place) in [
            ("foreign servers are never touched", "the log"),
            ("initial_sync_duration", "/metrics"),
            ("tag_prefix", "/status"),
            ("namespace default: followed", "/status"),
            ("\"holds\":[", "snapshot"),
        ] {
            let file = world.haproxy.directory().join("snapshot");
            let settings = [
                ("NOMAD_TOKEN", secret),
                (
                    "SIDECAR_SNAPSHOT_FILE",
                    file.to_str().expect("a path of ours is text"),
                ),
            ];
            let sidecar = world.sidecar_with(&settings);
            sidecar.until_ready();
            soon("the snapshot is written", || file.exists().then_some(()));
            let dropped = catch_unwind(AssertUnwindSafe(|| drop(sidecar)));
            let panic = dropped.expect_err("it shows a secret");
            let text = panic.downcast_ref::<String>().expect("it says so");
            assert!(
                text.contains(&format!("shows the secret {secret}")),
                "{text}"
            );
            assert!(
                text.lines().next().is_some_and(|line| line.contains(place)),
                "{text}"
            );
        }
    });
}
