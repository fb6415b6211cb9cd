//! One service name in two namespaces, two service names that make one backend's, and a policy file that forbids and
//! allows.

use std::fs;

use tempfile::TempDir;

use crate::support::{
    sidecar::soon,
    toy::Toy,
    world::{DEFAULTS, ENABLED, World, instance, on_every_line, section},
};

const SHARED: &str = "haproxy.backend.name=shared";

#[test]
fn a_namespace_gets_what_the_policy_allows_and_the_refusal_names_the_rule() {
    on_every_line(|bin| {
        let config = ["web", "team-a.web", "shared"].map(|name| section(name, ""));
        let world = World::start_with(bin, &[DEFAULTS, &config.concat()].concat());
        let [own, other, sharing] = ["own", "other", "sharing"].map(Toy::start);
        world.register("web", &own);
        // One service name in two namespaces: each has a backend of its own.
        world
            .nomad
            .register(instance("web", other.address()).namespace("team-a"));
        let shared = instance("api", sharing.address()).namespace("team-a");
        let shared = shared.tags(&[ENABLED, SHARED, "haproxy.weight=100"]);
        world.nomad.register(shared);
        let directory = TempDir::new().expect("the temporary directory is writable");
        let policy = directory.path().join("policy.toml");
        let path = policy.to_str().expect("a path of ours is text");
        let write = |text: &str| fs::write(&policy, text).expect("the directory is ours");
        write("[namespace.\"team-*\"]\nbackends = [\"else-*\"]\n");
        let sidecar = world.sidecar_with(&[
            ("SIDECAR_NAMESPACES", "default,team-a"),
            ("SIDECAR_POLICY_FILE", path),
        ]);
        world.until_served_by("web", &[&own]);
        world.until_served_by("team-a.web", &[&other]);
        let rule = format!("backends in [namespace.\"team-*\"] of {path}");
        sidecar.logged(&[
            "not served: the namespace team-a may not use the backend shared: ",
            &rule,
        ]);
        assert!(world.servers("shared").is_empty());

        // A policy that cannot be used changes nothing.
        write("[namespace.team-a]\nbackend = [\"shared\"]\n");
        sidecar.signal("HUP");
        let place = format!("{path}, line 2, column 1: unknown field `backend`");
        sidecar.logged(&["the configuration cannot be used", &place]);

        write("[namespace.team-a]\nbackends = [\"shared\"]\nmax-weight = 9\n");
        sidecar.signal("HUP");
        world.until_served_by("shared", &[&sharing]);
        sidecar.logged(&[
            "the namespace team-a may not have the weight 100: max-weight = 9 in [namespace.team-a] of ",
            "; it is served with the heaviest that is allowed",
        ]);
        let weight = world
            .servers("shared")
            .into_values()
            .next()
            .map(|server| server.weight);
        assert_eq!(weight, Some(9));
        world.until_served_by("web", &[&own]);
        world.until_served_by("team-a.web", &[&other]);
    });
}

#[test]
fn of_two_services_with_one_backends_name_the_first_is_served_and_both_are_told() {
    on_every_line(|bin| {
        let world = World::start_with(bin, &[DEFAULTS, &section("my_web", "")].concat());
        let [first, second] = ["first", "second"].map(Toy::start);
        let key = world.register("my-web", &first);
        let sidecar = world.sidecar_with(&[("SIDECAR_HOLD", "1s")]);
        world.until_served_by("my_web", &[&first]);
        world.register("my_web", &second);
        sidecar.logged(&[
            "not served: the backend my_web is that of the service \"default/my-web\", which was registered first",
            "service=default/my_web",
        ]);
        sidecar.logged(&[
            "the service \"default/my_web\" claims the backend my_web, too, and is not served",
            "service=default/my-web",
        ]);
        assert_eq!(world.servers("my_web").len(), 1);
        world.until_served_by("my_web", &[&first]);

        world.deregister(&key);
        world.until_served_by("my_web", &[&second]);
        soon("the first one's server is gone", || {
            (world.servers("my_web").len() == 1).then_some(())
        });
        assert_eq!(first.checks() > 0, second.checks() > 0);
    });
}
