//! HAProxy lets clients that have a server's cookie through to it while it drains, whatever its weight. So they keep theirs to
//! the end of the drain; and in a slot that gets a new instance they must not reach that one before its check has passed.

use crate::support::{
    sidecar::soon,
    toy::Toy,
    world::{Answers, DEFAULTS, World, on_every_line, section, under_load},
};

/// Each slot with a cookie of its own, which a template line cannot give.
const SLOTS: &str = "  cookie SRV insert indirect nocache
  option redispatch 1
  retries 3
  server nomad1 127.0.0.1:1 cookie c1 check inter 50ms rise 2 fall 2 disabled
  server nomad2 127.0.0.1:1 cookie c2 check inter 50ms rise 2 fall 2 disabled
  server nomad3 127.0.0.1:1 cookie c3 check inter 50ms rise 2 fall 2 disabled
";
const ROUNDS: usize = 8;

#[test]
fn clients_with_a_cookie_reach_no_instance_before_its_check_has_passed() {
    on_every_line(|bin| {
        let world = World::start_with(bin, &[DEFAULTS, &section("kept", SLOTS)].concat());
        let good = world.serve("kept", 1).remove(0);
        let sidecar = world.sidecar();
        world.until_served_by("kept", &[&good]);
        let fails = Toy::start("fails");
        fails.fail();
        let answers = while_asked(&world, &["c2", "c3"], || {
            for _ in 0..ROUNDS {
                let checks = fails.checks();
                let key = world.register("kept", &fails);
                soon("HAProxy has checked it", || {
                    (fails.checks() >= checks + 2).then_some(())
                });
                world.deregister(&key);
                soon("its slot is free again", || {
                    let address = fails.address().to_string();
                    let mut servers = world.servers("kept").into_values();
                    servers
                        .all(|server| server.address != address)
                        .then_some(())
                });
            }
        });
        eprintln!("{}: {answers:?}", bin.version);
        assert_eq!(fails.requests(), 0, "{answers:?}");
        assert_eq!(
            answers.keys().collect::<Vec<_>>(),
            [&Ok("kept-1".to_owned())],
            "{answers:?}"
        );
        drop(sidecar);
    });
}

#[test]
fn clients_with_a_cookie_keep_their_server_to_the_end_of_its_drain() {
    on_every_line(|bin| {
        let world = World::start_with(bin, &[DEFAULTS, &section("kept", SLOTS)].concat());
        let (elder, other) = (Toy::start("elder"), Toy::start("other"));
        let key = world.register("kept", &elder);
        let sidecar = world.sidecar_with(&[("SIDECAR_DRAIN_TIMEOUT", "2s")]);
        world.until_served_by("kept", &[&elder]);
        world.register("kept", &other);
        world.until_served_by("kept", &[&elder, &other]);
        let slot = |toy: &Toy| {
            let address = toy.address().to_string();
            let servers = world.servers("kept").into_iter();
            let mut of_toy = servers.filter(|(_, server)| server.address == address);
            of_toy.next().expect("it is in a slot").0
        };
        let cookie = slot(&elder).replace("nomad", "c");
        let answers = while_asked(&world, &[&cookie], || {
            world.deregister(&key);
            sidecar.logged(&["applied", "no longer registered in Nomad", "backend=kept"]);
            let before = elder.requests();
            soon("its clients go on", || {
                (elder.requests() > before + 5).then_some(())
            });
            soon("they go to the other", || {
                (other.requests() > 20).then_some(())
            });
        });
        let names: Vec<_> = answers.keys().cloned().collect();
        assert_eq!(names, [Ok("elder".to_owned()), Ok("other".to_owned())]);
    });
}

fn while_asked(world: &World, cookies: &[&str], work: impl FnOnce()) -> Answers {
    under_load(
        cookies,
        |cookie| world.request_with("kept", &format!("Cookie: SRV={cookie}\r\n")),
        work,
    )
}
