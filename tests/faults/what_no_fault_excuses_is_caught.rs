//! The matrix can fail: what would be a bug is told as one.

use std::{thread, time::Duration};

use tokio::time::Instant;

use crate::{
    cell::Cell,
    fault::{Fault, IN_CI},
    kind::{DECLARED, Kind, MADE},
    physics::{self, Served},
    runtime,
    site::Site,
    story::Event,
    support::{
        haproxy::binaries,
        world::{Server, servers_in},
    },
    watch::{Look, Seen},
};

#[test]
fn a_wiped_backend_a_changed_server_of_others_and_a_sick_one_in_service_are_told() {
    let problems = problems(&DECLARED, sabotage);
    for told in [
        "kept: Close: ",
        "failed that need not have; lacking: []",
        "503 by HAProxy",
        "kept: None of [",
        "servers and entries of others were",
        "requests reached an instance that never passed its check",
    ] {
        assert!(problems.contains(told), "not told: {told}\n{problems}");
    }
    assert!(
        !problems.contains("slots: "),
        "slots are as ever\n{problems}"
    );
}

#[test]
fn a_route_that_is_missing_and_a_changed_entry_of_others_are_told() {
    // Where there is none that makes backends, a route to slots is as good.
    let (kinds, name) = match binaries().last() {
        Some(bin) if bin.makes_backends() => (MADE.to_vec(), "made"),
        _ => (DECLARED.to_vec(), "routed"),
    };
    let problems = problems(&kinds, |site| {
        let [hosts, _] = &site.maps;
        site.ask(&format!("set map {hosts} by-hand.example changed"));
        // The sidecar that starts meanwhile puts them back within milliseconds.
        for _ in 0..30 {
            for crew in &site.crews {
                site.ask(&format!("del map {hosts} {}", crew.kind.host()));
            }
            thread::sleep(Duration::from_millis(30));
        }
    });
    for told in [
        &format!("{name}: Close: "),
        "failed that need not have; lacking: []",
        "503 by HAProxy",
        &format!("{name}: None of ["),
        "servers and entries of others were",
    ] {
        assert!(problems.contains(told), "not told: {told}\n{problems}");
    }
    for other in ["made-wild: ", "kept: "] {
        assert!(!problems.contains(other), "{other}is as ever\n{problems}");
    }
}

fn problems(kinds: &[Kind], sabotage: fn(&Site)) -> String {
    let bins = binaries();
    let cell = Cell {
        bin: bins.last().expect("there is one").clone(),
        faults: vec![Fault::KillSidecar],
        kinds: kinds.to_vec(),
        seed: 1,
        lengths: IN_CI,
        sabotage: Some(sabotage),
    };
    cell.play(runtime().handle()).problems.join("\n")
}

fn sabotage(site: &Site) {
    let of_sick = site.crews[2].sick.app.address().to_string();
    let servers = servers_in(&site.ask("show servers state"));
    let all_of_kept: Vec<_> = (1..=8).map(|slot| format!("kept/nomad{slot}")).collect();
    let sick = servers.iter().find(|(_, server)| server.address == of_sick);
    let ((backend, sick), _) = sick.expect("it is registered");
    let occupied = |name: &&String| {
        let key = ("kept".to_owned(), name["kept/".len()..].to_owned());
        servers.get(&key).is_some_and(Server::is_in_rotation)
    };
    site.ask("set server slots/nomad99 state drain");
    for state in ["maint", "ready"] {
        for name in all_of_kept.iter().filter(occupied) {
            site.ask(&format!("set server {name} state {state}"));
        }
        for _ in 0..20 {
            site.ask(&format!("set server {backend}/{sick} health up"));
            thread::sleep(Duration::from_millis(30));
        }
    }
}

#[test]
fn servers_that_are_put_back_too_late_are_told() {
    let begins = Instant::now();
    let at = |millis| begins + Duration::from_millis(millis);
    let events = [
        (begins, Event::SidecarStarts),
        (at(0), Event::Begins),
        (at(100), Event::HaproxyEnds),
        (at(200), Event::HaproxyAnswers),
    ];
    let served = Served {
        kind: DECLARED[2],
        stays: vec!["10.0.0.1:80".to_owned()],
        leaves: "10.0.0.2:80".to_owned(),
    };
    let look = |addresses: &[String]| {
        let in_rotation = addresses.iter().cloned().collect();
        Some(Look {
            pid: "1".to_owned(),
            in_rotation: [("dynamic".to_owned(), in_rotation)].into(),
        })
    };
    let seen = |back| {
        let seen = |millis, look| Seen {
            asked: at(millis),
            answered: at(millis + 1),
            look,
        };
        [
            seen(0, look(&served.stays)),
            seen(110, None),
            seen(210, look(&[])),
            seen(back, look(&served.stays)),
        ]
    };
    let none = Duration::ZERO;
    let soon = physics::of(&served, &events, &seen(500), none);
    assert_eq!(soon.problems, [""; 0]);
    assert_eq!(soon.put_back, Some(Duration::from_millis(300)));
    let late = physics::of(&served, &events, &seen(2500), none);
    assert!(
        late.problems[0].contains("it was put back 2.300s after"),
        "{late:?}"
    );
    // The test itself was slow to hear that HAProxy answers.
    let mut heard_late = events.clone();
    heard_late[3].0 = at(1000);
    let mut instance_leaves = seen(500).to_vec();
    instance_leaves.push(Seen {
        asked: at(3000),
        answered: at(3001),
        look: look(&[served.stays.clone(), vec!["10.0.0.3:80".to_owned()]].concat()),
    });
    let heard_late = physics::of(&served, &heard_late, &instance_leaves, none);
    assert_eq!(heard_late.problems, [""; 0]);
    assert_eq!(heard_late.put_back, Some(none));
    let unexcused = physics::of(&served, &events[..2], &seen(500), none);
    assert_eq!(unexcused.problems.len(), 1, "{unexcused:?}");
}
