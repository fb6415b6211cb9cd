//! From HAProxy 3.4 on a service needs no backend in haproxy.cfg: it gets one from a named `defaults` section, and after
//! every restart again; when nothing is registered for it for long enough, it goes.

use std::time::Duration;

use crate::support::{
    fake_nomad::Deletion,
    haproxy::HaproxyBin,
    sidecar::{Sidecar, command_with, soon, within},
    toy::Toy,
    world::{ENABLED, World, instance, on_every_line},
};

const DEFAULTS: &str = "
  mode http
  timeout connect 1s
  timeout client 5s
  timeout server 5s
  timeout check 1s
  retries 0
  option httpchk GET /health
";

/// A section of this name, and a frontend that leads to the backend `web`, if there is one that is published.
fn config(profile: &str) -> String {
    format!(
        "\ndefaults {profile}{DEFAULTS}\nfrontend web-in from {profile}\n  bind @DIR@/web.http mode 600\n  \
         use_backend %[str(web)]\n"
    )
}

const QUICK: [(&str, &str); 2] = [("SIDECAR_HOLD", "0s"), ("SIDECAR_BACKEND_LINGER", "2s")];

fn where_backends_can_be_made(test: impl Fn(&HaproxyBin) + Sync) {
    on_every_line(|bin| {
        if bin.makes_backends() {
            test(bin);
        }
    });
}

fn has_backend(world: &World) -> bool {
    let backends = world.haproxy.ask("show backend");
    backends.lines().any(|name| name == "web")
}

fn changes_of_backends(world: &World) -> Vec<String> {
    let mut lines = world.tap.lines();
    lines.retain(|line| line.contains(" backend ") && !line.starts_with("show"));
    lines
}

fn until_gone(world: &World) {
    within(Duration::from_secs(15), "the backend is removed", || {
        (!has_backend(world)).then_some(())
    });
}

#[test]
fn it_is_made_published_and_there_again_after_every_restart() {
    where_backends_can_be_made(|bin| {
        let mut world = World::start_with(bin, &config("nomad"));
        let sidecar = world.sidecar();
        assert_eq!(world.request("web"), Err("503".to_owned()));
        let toys = world.serve("web", 3);
        let toys: Vec<_> = toys.iter().collect();
        world.until_served_by("web", &toys);
        assert_eq!(
            changes_of_backends(&world),
            [
                "add backend web from nomad guid nomad:web",
                "publish backend web"
            ]
        );
        sidecar.until_metric("backends_made{state=\"published\"}", 1);

        world.haproxy.kill9();
        sidecar.logged(&["the session with HAProxy ended"]);
        world.haproxy.restart();
        world.until_served_by("web", &toys);

        world.haproxy.reload();
        world.until_served_by("web", &toys);

        // Its successor finds everything as it should be.
        drop(sidecar);
        let next = world.sidecar();
        next.until_ready();
        world.until_read_again(2);
        assert_eq!(changes_of_backends(&world), Vec::<String>::new());
    });
}

#[test]
fn it_is_not_published_before_a_server_of_it_has_passed_its_check() {
    where_backends_can_be_made(|bin| {
        let world = World::start_with(bin, &config("nomad"));
        let _sidecar = world.sidecar();
        let toy = Toy::start("ill");
        toy.fail();
        world.register("web", &toy);
        soon("it is made", || has_backend(&world).then_some(()));
        soon("it is checked", || (toy.checks() >= 3).then_some(()));
        assert!(world.haproxy.ask("show stat -1 2 -1").contains(" (UNPUB)"));
        toy.serve();
        world.until_served_by("web", &[&toy]);
    });
}

#[test]
fn when_nothing_is_registered_it_answers_for_a_while_and_is_removed() {
    where_backends_can_be_made(|bin| {
        let world = World::start_with(bin, &config("nomad"));
        let sidecar = world.sidecar_with(&QUICK);
        let toy = Toy::start("only");
        let key = world.register("web", &toy);
        world.until_served_by("web", &[&toy]);
        world.tap.forget();
        world.deregister(&key);
        soon("its server is gone", || {
            world.servers("web").is_empty().then_some(())
        });
        assert!(has_backend(&world));
        sidecar.until_metric("backends_made{state=\"lingering\"}", 1);
        until_gone(&world);
        assert_eq!(
            changes_of_backends(&world),
            ["unpublish backend web", "del backend web"]
        );
        sidecar.logged(&["nothing was registered for it for --backend-linger"]);
        world.register("web", &toy);
        world.until_served_by("web", &[&toy]);
    });
}

#[test]
fn what_a_sidecar_left_behind_is_removed_by_the_next() {
    where_backends_can_be_made(|bin| {
        let world = World::start_with(bin, &config("nomad"));
        let mut sidecar = world.sidecar_with(&QUICK);
        let toy = Toy::start("only");
        let key = world.register("web", &toy);
        world.until_served_by("web", &[&toy]);
        sidecar.kill9();
        world
            .nomad
            .deregister(std::slice::from_ref(&key), Deletion::ServiceDeregistration);
        let _next: Sidecar = world.sidecar_with(&QUICK);
        until_gone(&world);
    });
}

#[test]
fn an_operators_backend_of_that_name_is_used_and_never_changed() {
    where_backends_can_be_made(|bin| {
        let own = "backend web from nomad\n  balance roundrobin\n";
        let world = World::start_with(bin, &(config("nomad") + own));
        let sidecar = world.sidecar_with(&QUICK);
        let toy = Toy::start("only");
        let key = world.register("web", &toy);
        world.until_served_by("web", &[&toy]);
        world.deregister(&key);
        soon("its server is gone", || {
            world.servers("web").is_empty().then_some(())
        });
        world.until_read_again(2);
        assert!(has_backend(&world));
        assert_eq!(changes_of_backends(&world), Vec::<String>::new());
        sidecar.until_metric("backends_made{state=\"published\"}", 0);
    });
}

#[test]
fn a_section_that_is_missing_is_named_and_waited_for() {
    where_backends_can_be_made(|bin| {
        let world = World::start_with(bin, &config("other"));
        let sidecar = world.sidecar();
        let toy = Toy::start("only");
        world.register("web", &toy);
        sidecar.logged(&[
            "blocked: HAProxy has no such backend, and no section `defaults nomad` to make it from: add either to haproxy.cfg",
        ]);
        sidecar.until_ready();
        sidecar.logged(&[
            "everything that is registered, but what is blocked",
            "blocked=1",
        ]);
        let admin = sidecar.admin().to_string();
        let settings = [("SIDECAR_ADMIN_LISTEN", admin.as_str())];
        let says = |command: &[&str], parts: &[&str]| {
            let output = world.with_settings(&settings, |all| command_with(all, command));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        };
        let blocked =
            "HAProxy has no such backend, and no section `defaults nomad` to make it from: ";
        let absent = "backend  web: not there yet, to be made from `defaults nomad`; ";
        says(&["explain", "web"], &[blocked, absent]);
        says(&["status"], &["1 blocked", blocked]);
        // Who has not tried does not know.
        let unknown =
            "not known of web: whether haproxy.cfg has a section `defaults nomad` to make it from";
        says(&["plan"], &[unknown, "+ (backend) "]);
        world.haproxy.write_config(&config("nomad"));
        world.haproxy.reload();
        world.until_served_by("web", &[&toy]);
    });
}

#[test]
fn two_tags_are_enough_for_a_backend_and_its_route_and_both_are_there_after_every_restart() {
    where_backends_can_be_made(|bin| {
        let config = config("nomad").replace(
            "%[str(web)]",
            "%[req.hdr(host),host_only,lower,map_str(virt@hosts)]",
        );
        let mut world = World::start_with(bin, &config);
        let sidecar = world.sidecar_with(&QUICK);
        let toy = Toy::start("only");
        let registration = instance("web", toy.address()).tags(&[ENABLED, "haproxy.domain=test"]);
        let key = registration.key();
        world.nomad.register(registration);
        let until_found = |world: &World| {
            soon("it is found by its host", || {
                // Every request here is to the host `test`.
                (world.request("web") == Ok("only".to_owned())).then_some(())
            });
        };
        until_found(&world);
        let made = &sidecar.json("/status")["backends"][0];
        assert_eq!(
            (&made["name"], &made["made_at_runtime"]),
            (&"web".into(), &true.into())
        );
        world.haproxy.kill9();
        sidecar.logged(&["the session with HAProxy ended"]);
        world.haproxy.restart();
        until_found(&world);
        world.haproxy.reload();
        until_found(&world);

        world.tap.forget();
        world.deregister(&key);
        until_gone(&world);
        assert_eq!(world.haproxy.ask("show map virt@hosts").trim(), "");
        let place = |beginning: &str| {
            let lines = world.tap.lines();
            lines.iter().position(|line| line.starts_with(beginning))
        };
        let removal = [
            "del map virt@hosts test",
            "unpublish backend web",
            "del backend web",
        ]
        .map(place);
        assert!(
            removal.iter().all(Option::is_some) && removal.is_sorted(),
            "{removal:?}"
        );
    });
}
