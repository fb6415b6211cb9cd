//! With 64 MB of memory: 10,000 registrations fit, and what does not fit is refused alone, said, and costs no server.

use std::{fs, net::Ipv4Addr, time::Duration};

use crate::support::{
    fake_nomad::{Deletion, ServiceRegistration},
    haproxy::{HaproxyBin, binaries},
    sidecar::{Sidecar, within},
    world::{DEFAULTS, World, instance, section},
};

/// Counts writable memory of one's own, and no address space that is only reserved.
const LIMIT: &str = "--data=67108864";
const PATIENCE: Duration = Duration::from_mins(2);

fn sidecar(world: &World) -> Sidecar {
    world.with_settings(&[], |settings| {
        Sidecar::start_behind(&["prlimit", LIMIT], settings)
    })
}

fn memory(sidecar: &Sidecar) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", sidecar.pid()));
    let status = status.expect("it runs");
    let wanted = ["VmData", "VmHWM", "VmRSS"];
    let lines = status
        .lines()
        .filter(|line| wanted.iter().any(|one| line.starts_with(one)));
    lines.collect::<Vec<_>>().join("; ")
}

fn newest() -> HaproxyBin {
    binaries().pop().expect("there is one")
}

#[test]
fn ten_thousand_registrations_fit() {
    let names: Vec<_> = (0..100).map(|number| format!("service{number}")).collect();
    let sections = names.iter().map(|name| section(name, ""));
    let config = DEFAULTS.to_owned() + &sections.collect::<String>();
    let world = World::start_with(&newest(), &config);
    world.nomad.register_all(names.iter().flat_map(|name| {
        (0..100).map(move |number| {
            let address = (Ipv4Addr::new(127, 1, 0, 1), 20_000 + number);
            let mut one = instance(name, address.into());
            one.tags
                .get_or_insert_default()
                .extend((0..4).map(|n| format!("traefik.http.routers.{name}.rule{n}=Host(`x`)")));
            one
        })
    }));
    let sidecar = sidecar(&world);
    within(PATIENCE, "everything is applied", || {
        let (status, _) = sidecar.get("/ready");
        (status == 200).then_some(())
    });
    let owned = sidecar.metric(r#"servers_owned{state="down"}"#);
    eprintln!("{} {owned:?}", memory(&sidecar));
}

#[test]
fn what_is_too_much_is_refused_alone_and_the_rest_is_served_on() {
    let world = World::start(&newest());
    let toys = world.serve("dynamic", 2);
    let [one, two] = [&toys[0], &toys[1]];
    let mut sidecar = sidecar(&world);
    world.until_served_by("dynamic", &[one, two]);
    sidecar.until_ready();

    // A list and a line of 12 MB, a line that has no end, and a flood of large events.
    let mut large = instance("slots", (Ipv4Addr::LOCALHOST, 9).into());
    large
        .tags
        .get_or_insert_default()
        .push("x".repeat(12 << 20));
    let giant = large.key();
    world.nomad.register(large);
    let refused =
        "a line of the event stream is longer than 4 MiB, or would take more than 16 MiB of memory";
    sidecar.logged_within(
        PATIENCE,
        &[
            " WARN ",
            "scope=namespace default",
            "the answer is longer than 8 MiB",
            "give its services fewer and shorter tags, or spread them over several namespaces",
        ],
    );
    world.deregister(&giant);
    world.nomad.say(&"{".repeat(6 << 20));
    sidecar.logged_within(PATIENCE, &[refused]);
    let mut flooding = instance("slots", (Ipv4Addr::LOCALHOST, 9).into());
    let flood = flooding.key();
    for number in 0..150 {
        let tag = format!("{number}{}", "y".repeat(300 << 10));
        flooding.tags = Some(vec!["haproxy.enable=true".to_owned(), tag]);
        world.nomad.register(flooding.clone());
    }
    world.deregister(&flood);

    // A service with more registrations than there is room for, and a list with more services.
    let all = (0..25_000).map(|number| {
        let host = Ipv4Addr::from(0x7F02_0000 + number / 60);
        instance(
            "slots",
            (host, 1_024 + u16::try_from(number).unwrap_or(0)).into(),
        )
    });
    let all: Vec<_> = all.collect();
    let keys: Vec<_> = all.iter().map(ServiceRegistration::key).collect();
    world.nomad.register_together(all);
    sidecar.logged_within(
        PATIENCE,
        &[
            " WARN ",
            "service default/slots",
            "is not read; what is known stays",
        ],
    );
    assert!(sidecar.ended().is_none());
    world.until_served_within(PATIENCE, "dynamic", &[one, two]);
    eprintln!("with too much: {}", memory(&sidecar));

    // When that is over, everything is followed again.
    world
        .nomad
        .deregister(&keys, Deletion::ServiceDeregistration);
    let more = world.serve("dynamic", 1);
    world.until_served_within(PATIENCE, "dynamic", &[one, two, &more[0]]);
    let late = world.serve("slots", 1);
    world.until_served_within(PATIENCE, "slots", &[&late[0]]);
    assert!(sidecar.ended().is_none());
    eprintln!("in the end: {}", memory(&sidecar));
}
