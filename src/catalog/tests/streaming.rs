//! The stream: what its lines do before, during and after a sync, and what follows when it cannot be had.

use super::*;

#[test]
fn the_list_waits_for_the_stream_and_the_reads_for_the_list() {
    let mut rig = Rig::new();
    assert!(!rig.lists());
    rig.open_stream();
    assert!(rig.lists() && rig.reads().is_empty());
    rig.list(listing(100, &["web"]));
    assert_eq!(rig.reads(), ["web"]);
    assert!(
        !rig.told()
            .iter()
            .any(|tell| matches!(tell, Tell::Synced(_)))
    );
    rig.read("web", reading(101, &[web("a", 50)]));
    assert_eq!(rig.web(), ["a"]);
    let told = rig.told();
    assert!(
        matches!(told.as_slice(), [Tell::Synced(synced)] if synced.index == 100 && synced.unproven.is_empty())
    );
}

#[test]
fn what_the_stream_said_during_the_sync_is_replayed_above_the_index_of_the_read() {
    let mut rig = Rig::new();
    rig.open_stream();
    rig.line(registered(15, web("ghost", 15)));
    rig.list(listing(100, &["web"]));
    rig.line(registered(99, web("old", 99)));
    rig.line(deregistered(101, web("a", 50)));
    rig.line(registered(102, web("b", 102)));
    // A service that the list does not have yet.
    rig.line(registered(103, registration("api", "c", 103, &[ENABLE])));
    rig.read("web", reading(101, &[]));
    assert_eq!(rig.web(), ["b"]);
    assert_eq!(rig.known[&ServiceKey::new("default", "api")].len(), 1);
}

#[test]
fn a_read_that_is_older_than_an_applied_event_does_not_undo_it() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.line(registered(120, web("b", 120)));
    assert_eq!(rig.web(), ["a", "b"]);
    rig.audit(120);
    rig.line(deregistered(130, web("a", 50)));
    rig.read("web", reading(121, &[web("a", 50), web("b", 120)]));
    assert_eq!(rig.web(), ["b"]);
}

#[test]
fn an_event_that_a_waiting_read_includes_is_not_told_even_if_the_round_fails() {
    for fails in [false, true] {
        let mut rig = Rig::synced_with(&[web("a", 50)]);
        rig.end_stream(StreamEnd::Lost("cut".to_owned()));
        rig.wait_for_deadline();
        rig.open_stream();
        rig.list(listing(110, &["web", "zoo"]));
        rig.wait(Duration::from_secs(1));
        // Deregistered at 111, and back at 112.
        rig.read("web", reading(112, &[web("a", 112)]));
        rig.line(deregistered(111, web("a", 50)));
        assert_eq!(rig.web(), ["a"], "the past was told");
        rig.line(registered(113, web("b", 113)));
        let zoo = if fails {
            failure(FailureKind::Unreachable)
        } else {
            reading(110, &[])
        };
        rig.wait(Duration::from_secs(1));
        rig.read("zoo", zoo);
        assert_eq!(rig.web(), ["a", "b"]);
        let key = ServiceKey::new("default", "web");
        assert_eq!(rig.known[&key][0].modify_index, 112);
    }
}

#[test]
fn events_change_a_service_at_once() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.line(registered(101, web("b", 101)));
    let told = rig.told();
    assert!(matches!(
        told.as_slice(),
        [Tell::Changed { registrations, event_index: Some(101), .. }] if registrations.len() == 2
    ));
    // The same again says nothing, and a heartbeat neither.
    rig.line(registered(102, web("b", 101)));
    rig.line(Line::default());
    assert!(rig.told().is_empty());
    let both = Line {
        index: 103,
        events: vec![
            NomadEvent::Deregistered(web("a", 50)),
            NomadEvent::Deregistered(web("b", 101)),
        ],
    };
    rig.line(both);
    assert!(matches!(
        rig.told().as_slice(),
        [Tell::Changed { registrations, .. }] if registrations.is_empty()
    ));
}

#[test]
fn a_restarted_server_that_replays_the_past_brings_nothing_back() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.line(deregistered(110, web("a", 50)));
    rig.end_stream(StreamEnd::Lost("end".to_owned()));
    rig.wait_for_deadline();
    rig.open_stream();
    rig.told();
    for index in [15, 50, 99, 110] {
        rig.line(registered(index, web("a", index)));
    }
    assert_eq!(rig.web(), [""; 0]);
    assert!(rig.told().is_empty());
}

#[test]
fn only_what_is_wanted_is_mirrored_and_a_service_can_become_so() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.line(registered(101, registration("api", "b", 101, &["v1"])));
    assert!(rig.told().is_empty());
    rig.line(registered(102, registration("api", "b", 101, &[ENABLE])));
    assert_eq!(rig.told().len(), 1);
    // An instance that loses the tag is told with its new tags.
    rig.line(registered(103, registration("web", "a", 50, &["v2"])));
    assert!(matches!(
        rig.told().as_slice(),
        [Tell::Changed { registrations, .. }] if registrations[0].tags == ["v2"]
    ));
}

#[test]
fn after_a_cut_nothing_is_read_when_the_index_did_not_move() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.line(registered(101, web("b", 101)));
    rig.end_stream(StreamEnd::Lost("end".to_owned()));
    rig.wait_for_deadline();
    rig.open_stream();
    rig.told();
    rig.list(listing(101, &["web"]));
    assert!(rig.reads().is_empty() && rig.told().is_empty());
    assert_eq!(rig.web(), ["a", "b"]);
}

#[test]
fn after_a_cut_a_line_of_the_new_stream_does_not_hide_what_was_missed() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.end_stream(StreamEnd::Lost("end".to_owned()));
    rig.wait_for_deadline();
    rig.open_stream();
    // 105, the deregistration of a, fell out of the server's buffer.
    rig.line(registered(110, web("b", 110)));
    rig.list(listing(110, &["web"]));
    rig.wait(Duration::from_secs(1));
    rig.read("web", reading(110, &[web("b", 110)]));
    assert_eq!(rig.web(), ["b"]);
}

#[test]
fn a_stream_that_opens_late_makes_a_second_round() {
    let mut rig = Rig::new();
    rig.wait(Duration::from_millis(250));
    rig.list(listing(100, &["web"]));
    rig.open_stream();
    rig.read("web", reading(100, &[web("a", 50)]));
    assert!(rig.lists(), "the first list was older than the stream");
    // 103, the deregistration, was before the stream.
    rig.line(registered(104, registration("api", "b", 104, &["v1"])));
    rig.list(listing(104, &["web"]));
    // Nomad is slow, so this waits a little.
    rig.wait(Duration::from_secs(1));
    rig.read("web", reading(104, &[]));
    assert_eq!(rig.web(), [""; 0]);
}

#[test]
fn a_late_line_does_not_bring_back_what_a_younger_read_did_not_have() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.audit(110);
    rig.read("web", reading(120, &[]));
    rig.told();
    rig.line(registered(115, web("b", 115)));
    rig.line(deregistered(118, web("b", 115)));
    assert!(rig.told().is_empty());
}

#[test]
fn a_stream_of_all_namespaces_is_opened_anew_for_a_new_namespace() {
    let mut rig = Rig::following(&["*"], &Wanted::new("haproxy", false));
    let ticket = rig.streams["*"];
    let in_namespaces = |names: &[&str]| Listing {
        index: 100,
        services: names
            .iter()
            .map(|name| ListedService {
                key: ServiceKey::new(name, "db"),
                tags: Vec::new(),
            })
            .collect(),
    };
    rig.hear(Heard::StreamOpened { ticket });
    for (names, same) in [(&["a"][..], true), (&["a"], true), (&["a", "late"], false)] {
        let list = rig.lists.remove("*").unwrap();
        rig.hear(Heard::Listed {
            ticket: list,
            result: Ok(in_namespaces(names)),
        });
        assert_eq!(rig.streams["*"] == ticket, same, "{names:?}");
        rig.wait(Duration::from_mins(1));
    }
}

#[test]
fn a_resync_opens_the_streams_anew_and_reads_everything() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    let before = rig.stream();
    rig.mirror.resync(rig.now);
    rig.drain();
    assert_ne!(rig.stream(), before);
    rig.open_stream();
    rig.list(listing(100, &["web"]));
    assert_eq!(rig.reads(), ["web"]);
}
