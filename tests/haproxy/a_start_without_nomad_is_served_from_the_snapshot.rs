//! HAProxy and the sidecar are both gone, and so is Nomad: what was last known is served again, by HAProxy's checks, until
//! Nomad says what is true now.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use haproxy_nomad_sidecar::snapshot;
use tempfile::TempDir;

use crate::support::{
    fake_nomad::{Mode, Token, Which},
    haproxy::now,
    sidecar::{Sidecar, soon, within},
    toy::Toy,
    world::{BOTH, World, instance, on_every_line},
};

const TOKEN: &str = "11111111-2222-3333-4444-555555555555";

/// A directory for the snapshot, and what a sidecar is told of it.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        let directory =
            TempDir::with_prefix("snapshot").expect("the temporary directory is writable");
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("snapshot")
    }

    fn sidecar(&self, world: &World) -> Sidecar {
        self.sidecar_with(world, &[])
    }

    fn sidecar_with(&self, world: &World, more: &[(&str, &str)]) -> Sidecar {
        let path = self.path();
        let path = path.to_str().expect("a path of ours is text");
        let settings = [&[("SIDECAR_SNAPSHOT_FILE", path)], more].concat();
        world.sidecar_with(&settings)
    }

    /// Lets a sidecar bring one in and write it down. Then it is gone, and Nomad is.
    fn leave_one(&self, world: &World) -> Toy {
        let good = Toy::start("good");
        world.register("dynamic", &good);
        let mut sidecar = self.sidecar(world);
        world.until_served_by("dynamic", &[&good]);
        self.until_written(&format!("\"port\":{}", good.address().port()), "");
        sidecar.until_ready();
        sidecar.kill9();
        world.nomad.stop();
        good
    }

    /// Waits until what is written has this text in it, and not that.
    fn until_written(&self, wanted: &str, unwanted: &str) {
        soon(
            &format!("{wanted} is in the snapshot, and {unwanted:?} is not"),
            || {
                let text = fs::read_to_string(self.path()).ok()?;
                let lacks = unwanted.is_empty() || !text.contains(unwanted);
                (text.contains(wanted) && lacks).then_some(())
            },
        );
    }
}

/// Writes a snapshot with this body and a first line that is right.
fn sign(path: &Path, body: &str) {
    fs::write(path, snapshot::sign(body.as_bytes())).expect("the directory is ours");
}

/// The body of the snapshot there.
fn body(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("it was written");
    let (_, body) = text.split_once('\n').expect("it has two lines");
    body.to_owned()
}

#[test]
fn after_both_died_without_nomad_everything_is_served_again_and_then_follows_nomad() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let place = Place::new();
        let stay = BOTH.map(|service| world.serve(service, 1));
        let leaves = Toy::start("leaves");
        let keys = BOTH.map(|service| world.register(service, &leaves));
        let mut sidecar = place.sidecar(&world);
        for (service, stays) in BOTH.iter().zip(&stay) {
            world.until_served_by(service, &[&stays[0], &leaves]);
        }
        for address in [leaves.address(), stay[0][0].address(), stay[1][0].address()] {
            place.until_written(&format!("\"port\":{}", address.port()), "");
        }
        let mode = fs::metadata(place.path())
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        // Everything dies, and meanwhile the catalog changes.
        world.nomad.stop();
        sidecar.kill9();
        world.haproxy.kill9();
        let joins = Toy::start("joins");
        for (service, key) in BOTH.iter().zip(&keys) {
            world.deregister(key);
            world.register(service, &joins);
        }
        world.haproxy.restart();
        let begun = now();
        let sidecar = place.sidecar(&world);
        for (service, stays) in BOTH.iter().zip(&stay) {
            world.until_served_by(service, &[&stays[0], &leaves]);
        }
        eprintln!(
            "HAProxy {}: served from the snapshot {:.1?} after the start without Nomad",
            world.version(),
            begun.elapsed()
        );
        let line = sidecar.logged(&[
            "WARN",
            "Nomad gives no catalog at the start: serving from the snapshot of the last good one",
            "nothing is removed until Nomad is back",
            "services=2",
            "registrations=4",
        ]);
        eprintln!("{}: {line}", world.version());
        sidecar.until_ready();
        let (_, ready) = sidecar.get("/ready");
        assert!(
            ready.starts_with("ready\nserving from a snapshot of the catalog that is "),
            "{ready}"
        );
        assert!(
            ready.contains(" s old, until Nomad is back: nomad at http://127.0.0.1:"),
            "{ready}"
        );
        sidecar.until_metric("snapshot_in_use", 1);
        assert_eq!(sidecar.count("the first sync is applied"), 0);
        let age = sidecar
            .metric("catalog_age_seconds")
            .expect("it is always there");
        assert!(age >= 2.0, "{age}");

        // Nobody drains before that is proven.
        world.nomad.resume();
        for (service, stays) in BOTH.iter().zip(&stay) {
            world.until_served_within(Duration::from_secs(40), service, &[&stays[0], &joins]);
        }
        sidecar.logged(&["Nomad is back: its catalog replaces the snapshot"]);
        sidecar.logged(&["the first sync is applied"]);
        sidecar.until_metric("snapshot_in_use", 0);
        let (_, ready) = sidecar.get("/ready");
        assert!(ready.starts_with("ready\n"), "{ready}");
        assert!(!ready.contains("snapshot"), "{ready}");
        let gone = format!("\"port\":{}", leaves.address().port());
        place.until_written(&format!("\"port\":{}", joins.address().port()), &gone);
    });
}

#[test]
fn a_service_that_the_list_lacks_later_is_served_until_it_was_read() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let place = Place::new();
        let (only, other) = (Toy::start("only"), Toy::start("other"));
        let key = world.register("dynamic", &only);
        world.register("slots", &other);
        let mut sidecar = place.sidecar(&world);
        world.until_served_by("dynamic", &[&only]);
        world.until_served_by("slots", &[&other]);
        place.until_written(&format!("\"port\":{}", only.address().port()), "");
        world.nomad.stop();
        sidecar.kill9();
        world.haproxy.kill9();
        world.deregister(&key);
        world.haproxy.restart();
        let _sidecar = place.sidecar_with(&world, &[("SIDECAR_HOLD", "2s")]);
        world.until_served_by("dynamic", &[&only]);

        // The list is back; the reads are not.
        let read = || Which::Service("dynamic".to_owned());
        world.nomad.mode(read(), Mode::Hang);
        world.nomad.resume();
        world.tap.forget();
        world.until_asked_again();
        world.until_asked_again();
        let drains = || {
            let changes = world.tap.changes();
            let drains = changes
                .into_iter()
                .filter(|line| line.ends_with("state drain") && line.contains("dynamic/"));
            drains.count()
        };
        assert_eq!(drains(), 0);
        world.nomad.mode(read(), Mode::Normal);
        within(Duration::from_secs(40), "it is proven to be gone", || {
            (drains() == 1).then_some(())
        });
    });
}

#[test]
fn what_was_held_is_held_again() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let place = Place::new();
        let last = Toy::start("last");
        let keys = BOTH.map(|service| world.register(service, &last));
        let hold = [("SIDECAR_HOLD", "1m")];
        let mut sidecar = place.sidecar_with(&world, &hold);
        for service in BOTH {
            world.until_served_by(service, &[&last]);
        }
        for key in &keys {
            world.deregister(key);
        }
        sidecar.until_metric("servers_held", 2);
        place.until_written("\"until\":", "\"services\":[{");
        world.nomad.stop();
        sidecar.kill9();
        world.haproxy.kill9();
        world.haproxy.restart();
        let sidecar = place.sidecar_with(&world, &hold);
        for service in BOTH {
            world.until_served_by(service, &[&last]);
        }
        sidecar.until_metric("servers_held", 2);
        sidecar.logged(&["serving from the snapshot", "registrations=0", "held=2"]);

        // With Nomad comes a replacement.
        let new = Toy::start("new");
        for service in BOTH {
            world.register(service, &new);
        }
        world.nomad.resume();
        for service in BOTH {
            world.until_served_within(Duration::from_secs(40), service, &[&new]);
        }
        sidecar.logged(&["no longer held: 1 of its service are UP"]);
    });
}

#[test]
fn a_hostile_snapshot_writes_nothing() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let place = Place::new();
        let good = place.leave_one(&world);
        let hostile = r"x\nshutdown frontend dynamic-in\n";
        let row = |service: &str, address: &str, tag: &str| {
            format!(
                r#"{{"namespace":"default","name":"{service}","registrations":[{{"id":"i","alloc":"{hostile}","job":"{hostile}",
                "tags":["haproxy.enable=true","{tag}"],"address":"{address}","port":80,"created":1,"modified":1}}]}}"#
            )
        };
        let held = |backend: &str, name: &str, address: &str, tag: &str| {
            format!(
                r#"{{"backend":"{backend}","name":"{name}","registration":"{hostile}","service":["default","{hostile}"],
                "address":"{address}","port":80,"tags":["{tag}"],"created":1,"until":99999999999999}}"#
            )
        };
        let services = [
            row(hostile, "127.0.0.1", ""),
            row("slots", &format!("127.0.0.1 {hostile}"), ""),
            row(
                "dynamic-2",
                "127.0.0.1",
                &format!("haproxy.backend.name={hostile}"),
            ),
            row(
                "dynamic_3",
                "127.0.0.1",
                &format!("haproxy.weight=1 {hostile}"),
            ),
        ];
        let name = "nomad-00000000-00000000";
        let holds = [
            held(hostile, name, "127.0.0.1", ""),
            held("dynamic", hostile, "127.0.0.1", ""),
            held("dynamic", name, hostile, ""),
            held(
                "dynamic",
                name,
                "127.0.0.1",
                &format!("haproxy.weight=1 {hostile}"),
            ),
        ];
        let body = body(&place.path());
        let body = body.replace(
            "\"services\":[",
            &format!("\"services\":[{},", services.join(",")),
        );
        let body = body.replace("\"holds\":[", &format!("\"holds\":[{}", holds.join(",")));
        sign(&place.path(), &body);

        world.tap.forget();
        let sidecar = place.sidecar(&world);
        sidecar.logged(&["serving from the snapshot", "registrations=5", "held=0"]);
        sidecar.until_ready();
        world.until_asked_again();
        assert_eq!(world.tap.changes(), [""; 0]);
        assert!(
            world
                .tap
                .lines()
                .iter()
                .all(|line| !line.contains("shutdown"))
        );
        world.until_served_by("dynamic", &[&good]);
    });
}

/// What is said, what makes it so, and settings.
type Case<'a> = (&'a str, Box<dyn Fn() + 'a>, &'a [(&'a str, &'a str)]);

#[test]
fn a_snapshot_that_cannot_be_used_is_named_and_replaced_by_the_next_sync() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let place = Place::new();
        let good = place.leave_one(&world);
        let whole = fs::read(place.path()).expect("it was written");
        let old = body(&place.path());
        let aged = |body: &str, field: &str| {
            let (head, rest) = body.split_once(field).expect("it is there");
            format!("{head}{field}1{rest}")
        };

        let shortened = |body: &str, field: &str| {
            let (head, rest) = body.split_once(field).expect("it is there");
            format!("{head}{field}{}", &rest[1..])
        };
        let current = "\"current\":{\"default\":";
        let cases: [Case<'_>; 7] = [
            (
                "there is no snapshot of a former one",
                Box::new(|| fs::remove_file(place.path()).expect("it is ours")),
                &[],
            ),
            (
                "its end is missing",
                Box::new(|| {
                    fs::write(place.path(), &whole[..whole.len() - 9]).expect("it is ours");
                }),
                &[],
            ),
            (
                "it is damaged (its checksum is another)",
                Box::new(|| {
                    let mut bytes = whole.clone();
                    let last = bytes.len() - 1;
                    bytes[last] = b' ';
                    fs::write(place.path(), bytes).expect("it is ours");
                }),
                &[],
            ),
            (
                "s old, and addresses outlive their owners: after 600 s they are not used any more",
                Box::new(|| sign(&place.path(), &shortened(&old, current))),
                &[],
            ),
            (
                "it is from ",
                Box::new(|| sign(&place.path(), &aged(&old, current))),
                &[],
            ),
            (
                "it is of another catalog: its --tag-prefix is haproxy, here it is lb",
                Box::new(|| fs::write(place.path(), &whole).expect("it is ours")),
                &[("SIDECAR_TAG_PREFIX", "lb")],
            ),
            (
                "it cannot be read (it is not a file)",
                Box::new(|| {
                    fs::remove_file(place.path()).expect("it is ours");
                    fs::create_dir(place.path()).expect("the directory is ours");
                }),
                &[],
            ),
        ];
        for (text, prepare, settings) in cases {
            prepare();
            let sidecar = place.sidecar_with(&world, settings);
            let line = sidecar.logged(&["Nomad gives no catalog at the start, and", text]);
            eprintln!("{}: {line}", world.version());
            let (status, ready) = sidecar.get("/ready");
            assert_eq!(status, 503, "{ready}");
        }
        fs::remove_dir(place.path()).expect("it is empty");
        fs::write(place.path(), "what nobody understands\n").expect("the directory is ours");
        let sidecar = place.sidecar(&world);
        sidecar.logged(&["it is damaged (it does not begin like a snapshot)"]);
        sidecar.until_metric("snapshots_refused_total{reason=\"damaged\"}", 1);
        assert_eq!(
            fs::read(place.path()).expect("it stays"),
            b"what nobody understands\n"
        );
        world.nomad.resume();
        place.until_written(&format!("\"port\":{}", good.address().port()), "");
    });
}

#[test]
fn a_snapshot_that_cannot_be_written_is_said_once_and_stops_nothing() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let place = Place::new();
        // Whoever runs the tests may write everywhere.
        let directory = place.directory.path().join("later");
        let path = directory.join("snapshot");
        let path = path.to_str().expect("a path of ours is text");
        let sidecar = world.sidecar_with(&[("SIDECAR_SNAPSHOT_FILE", path)]);
        let toys = world.serve("dynamic", 2);
        world.until_served_by("dynamic", &[&toys[0], &toys[1]]);
        let line = sidecar.logged(&[
            "the snapshot of the catalog cannot be written and is tried again",
            "No such file or directory",
            "set --snapshot-file to another file or to off",
        ]);
        eprintln!("{}: {line}", world.version());
        within(Duration::from_secs(30), "it is tried again", || {
            let failed = sidecar.metric("snapshot_writes_total{outcome=\"failed\"}")?;
            (failed > 1.5).then_some(())
        });
        assert_eq!(sidecar.count("cannot be written"), 1);
        fs::create_dir(&directory).expect("the directory is ours");
        sidecar.logged(&["the snapshot of the catalog can be written again"]);
        assert!(fs::metadata(path).is_ok());
    });
}

#[test]
fn while_nomad_refuses_the_token_the_snapshot_serves_and_ready_says_no() {
    on_every_line(|bin| {
        let mut world = World::start(bin);
        let place = Place::new();
        let good = Toy::start("good");
        world.register("dynamic", &good);
        world
            .nomad
            .issue(TOKEN, Token::Client(vec!["default".to_owned()]));
        let token = [("NOMAD_TOKEN", TOKEN)];
        let mut sidecar = place.sidecar_with(&world, &token);
        world.until_served_by("dynamic", &[&good]);
        place.until_written(&format!("\"port\":{}", good.address().port()), "");
        assert!(!body(&place.path()).contains(TOKEN));
        sidecar.kill9();
        world.haproxy.kill9();
        world.haproxy.restart();
        world.nomad.issue(TOKEN, Token::Client(Vec::new()));
        let sidecar = place.sidecar_with(&world, &token);
        world.until_served_by("dynamic", &[&good]);
        let (status, ready) = soon("/ready names both", || {
            let (status, ready) = sidecar.get("/ready");
            ready
                .contains("serving from a snapshot")
                .then_some((status, ready))
        });
        assert_eq!(status, 503, "{ready}");
        assert!(
            ready.starts_with("nomad: no list was accepted yet: "),
            "{ready}"
        );
        world
            .nomad
            .issue(TOKEN, Token::Client(vec!["default".to_owned()]));
        within(Duration::from_secs(40), "/ready answers 200", || {
            (sidecar.get("/ready") == (200, "ready\n".to_owned())).then_some(())
        });
    });
}

#[test]
fn while_nomad_is_there_or_it_is_switched_off_no_snapshot_is_used() {
    on_every_line(|bin| {
        let world = World::start(bin);
        let place = Place::new();
        let (gone, there) = (Toy::start("gone"), Toy::start("there"));
        let key = world.register("dynamic", &gone);
        let mut sidecar = place.sidecar(&world);
        place.until_written(&format!("\"port\":{}", gone.address().port()), "");
        sidecar.until_ready();
        world.until_served_by("dynamic", &[&gone]);
        sidecar.kill9();
        world.deregister(&key);
        world.nomad.register(instance("dynamic", there.address()));
        let mut sidecar = place.sidecar(&world);
        world.until_served_by("dynamic", &[&there]);
        world.until_asked_again();
        world.until_asked_again();
        assert_eq!(sidecar.count("snapshot"), 0, "{}", sidecar.log());
        sidecar.kill9();

        world.nomad.stop();
        let sidecar = world.sidecar_with(&[("SIDECAR_SNAPSHOT_FILE", "off")]);
        world.until_asked_again();
        world.until_asked_again();
        assert_eq!(sidecar.count("snapshot"), 0, "{}", sidecar.log());
        assert_eq!(sidecar.get("/ready").0, 503);
    });
}
