//! Each change of HAProxy, with its cause and what became of it, and each turn of its verdicts: in `/status`, and in the file of
//! `--audit-log`.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{
    sidecar::{command_with, soon},
    toy::Toy,
    world::{BOTH, World, on_every_line},
};

#[test]
fn in_the_status_and_in_the_audit_log() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let folder = tempfile::tempdir().expect("the temporary directory is writable");
        let file = folder.path().join("audit.log");
        let path = file.to_str().expect("a path of ours is text");
        let toys = BOTH.map(|service| world.serve(service, 1));
        let mut sidecar = world.sidecar_with(&[("SIDECAR_AUDIT_LOG", path)]);
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0]]);
        }
        sidecar.until_ready();
        let sent = || world.tap.changes();
        soon("the status has all changes", || {
            let status = sidecar.json("/status");
            let commands = commands(status["changes"].as_array().expect("a list"));
            (commands == sent()).then_some(())
        });
        let status = sidecar.json("/status?changes=1");
        let last = status["changes"].as_array().expect("a list");
        // One of each kind.
        let [change, verdict] = &last[..] else {
            panic!("{last:?}");
        };
        assert_eq!(change["outcome"], "done");
        assert_eq!(change["why"], "registered in Nomad, not in HAProxy");
        assert!(change["index"].as_u64() > Some(0), "{change:?}");
        assert_eq!(verdict["why"], "HAProxy's check: UP for the first time");

        // logrotate moves it away.
        soon("the file has all changes", || {
            (commands(&lines(&file)) == sent()).then_some(())
        });
        let old = folder.path().join("audit.log.1");
        fs::rename(&file, &old).expect("the folder is ours");
        let before = sent();
        let joins = Toy::start("joins");
        world.register("dynamic", &joins);
        world.until_served_by("dynamic", &[&toys[1][0], &joins]);
        soon("a new file has the new ones", || {
            let (old, new) = (commands(&lines(&old)), commands(&lines(&file)));
            (old == before && [old, new].concat() == sent()).then_some(())
        });
        // What is changed last is written before the end.
        sidecar.signal("TERM");
        soon("it has ended", || sidecar.ended());
        assert_eq!(
            commands(&lines(&old)).len() + commands(&lines(&file)).len(),
            sent().len()
        );
    });
}

#[test]
fn who_goes_down_and_comes_up_by_haproxys_checks_is_written_down_too() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let folder = tempfile::tempdir().expect("the temporary directory is writable");
        let file = folder.path().join("audit.log");
        let path = file.to_str().expect("a path of ours is text");
        let toys = BOTH.map(|service| world.serve(service, 2));
        let sidecar = world.sidecar_with(&[("SIDECAR_AUDIT_LOG", path)]);
        sidecar.until_ready();
        for (service, toys) in BOTH.iter().zip(&toys) {
            world.until_served_by(service, &[&toys[0], &toys[1]]);
        }
        let servers: Vec<_> = (BOTH.iter().zip(&toys))
            .map(|(service, toys)| world.server_of(service, &toys[0]))
            .collect();
        let of = |place: usize, changes: &[Value]| -> Vec<Value> {
            let is_its = |one: &&Value| one["server"] == *servers[place] && one["command"] == "";
            changes.iter().filter(is_its).cloned().collect()
        };
        // Each is in both.
        let until = |place: usize, whys: &[&str]| {
            soon("it is written down", || {
                let status = sidecar.json("/status");
                let shown = of(place, status["changes"].as_array().expect("a list"));
                let is_there = shown.iter().map(|one| &one["why"]).eq(whys);
                (is_there && of(place, &lines(&file)) == shown).then_some(shown)
            })
        };
        let first = "HAProxy's check: UP for the first time";
        let [down, up] = ["HAProxy's check: DOWN", "HAProxy's check: UP again"];
        for (place, toys) in toys.iter().enumerate() {
            let new = until(place, &[first]);
            assert_eq!(new[0]["outcome"], "up");
            says(&new[0], "L7OK");
            toys[0].fail();
            let ill = &until(place, &[first, down])[1];
            assert_eq!(ill["outcome"], "down");
            says(ill, "L7STS");
            assert_eq!(ill["backend"], BOTH[place]);
            assert!(ill["index"].is_null(), "{ill}");
            toys[0].serve();
            until(place, &[first, down, up]);
        }
        let admin = sidecar.admin().to_string();
        let told = world.with_settings(&[("SIDECAR_ADMIN_LISTEN", &admin)], |settings| {
            command_with(settings, &["explain", &format!("slots/{}", servers[0])])
        });
        let told = String::from_utf8(told.stdout).expect("text");
        let mut lines_of_it = told.lines().filter(|line| line.contains(up));
        let is_change = |line: &str| line.trim_start().starts_with("change ");
        assert!(lines_of_it.next().is_some_and(is_change), "{told}");

        // What is over before HAProxy is read again left its mark, too.
        let moment = "HAProxy's check: DOWN for a moment, and UP again";
        world.until_read_again(1);
        world.until_read_again(1);
        let is_up = || world.servers("slots")[&servers[0]].is_in_rotation();
        toys[0][0].fail();
        soon("it is DOWN", || (!is_up()).then_some(()));
        toys[0][0].serve();
        soon("it is UP", || is_up().then_some(()));
        until(0, &[first, down, up, moment]);
    });
}

/// A verdict has HAProxy's words, which may have no more than the status while the next check runs.
fn says(verdict: &Value, status: &str) {
    let words = verdict["reply"].as_str().unwrap_or_default();
    assert!(words.starts_with(status), "{verdict}");
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    lines.collect()
}

/// The commands among what is written down.
fn commands(changes: &[Value]) -> Vec<String> {
    let commands = changes
        .iter()
        .map(|change| change["command"].as_str().expect("a text"));
    let commands = commands.filter(|command| !command.is_empty());
    commands.map(str::to_owned).collect()
}
