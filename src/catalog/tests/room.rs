//! The memory for registrations has an end: what has no room is left as it was, is said, and comes when there is room.

use super::*;

/// A registration that takes a lot.
fn large(service: &str, id: &str, index: u64) -> Registration {
    registration(service, id, index, &[ENABLE, &"x".repeat(10_000)])
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.mirror = rig.mirror.limited(25_000);
    rig.open_stream();
    rig.list(listing(100, &["api", "web"]));
    rig.read("web", reading(100, &[large("web", "a", 50)]));
    rig
}

fn said(rig: &mut Rig) -> bool {
    rig.told().iter().any(|tell| {
        matches!(tell, Tell::Trouble { failure, .. }
            if failure.text.starts_with("service default/api has no room beside the others"))
    })
}

#[test]
fn a_service_that_is_too_large_is_left_out_of_a_round_and_the_others_are_told() {
    let mut rig = rig();
    let too_much: Vec<_> = ["b", "c", "d"].map(|id| large("api", id, 60)).into();
    for _ in 0..3 {
        rig.read("api", reading(100, &too_much));
        while rig.reads().is_empty() && rig.web().is_empty() {
            rig.wait_for_deadline();
            if rig.lists() {
                rig.list(listing(100, &["api", "web"]));
                rig.read("web", reading(100, &[large("web", "a", 50)]));
            }
        }
    }
    assert_eq!(rig.web(), ["a"]);
    assert!(said(&mut rig));
    assert!(!rig.known.contains_key(&ServiceKey::new("default", "api")));
}

#[test]
fn an_event_without_room_is_read_again_until_there_is_room() {
    let mut rig = rig();
    rig.read("api", reading(100, &[large("api", "b", 60)]));
    rig.told();
    let api = ServiceKey::new("default", "api");
    let more: Vec<_> = ["b", "c"].map(|id| large("api", id, 60)).into();
    rig.line(registered(120, more[1].clone()));
    assert_eq!(rig.known[&api].len(), 1);
    for _ in 0..3 {
        rig.read("api", reading(120, &more));
        while rig.reads().is_empty() {
            rig.wait_for_deadline();
        }
    }
    assert!(said(&mut rig));
    assert_eq!(rig.known[&api].len(), 1, "what was known stays");
    // Others are followed on, and what goes makes room.
    rig.line(deregistered(130, large("web", "a", 50)));
    assert!(rig.web().is_empty());
    rig.read("api", reading(130, &more));
    assert_eq!(rig.known[&api].len(), 2);
    assert!(
        rig.told()
            .iter()
            .any(|tell| matches!(tell, Tell::Recovered { .. }))
    );
}

#[test]
fn a_full_mirror_can_be_read_anew() {
    let mut rig = rig();
    rig.read("api", reading(100, &[large("api", "b", 60)]));
    rig.told();
    rig.mirror.resync(rig.now);
    rig.streams.clear();
    rig.drain();
    rig.wait_for_deadline();
    rig.list(listing(200, &["api", "web"]));
    rig.read("web", reading(200, &[large("web", "a", 50)]));
    rig.read("api", reading(200, &[large("api", "e", 160)]));
    assert!(!said(&mut rig));
    assert_eq!(&*rig.known[&ServiceKey::new("default", "api")][0].id, "e");
}
