//! Lists and reads: what is believed, what a failure does, and how absence is proven.

use std::collections::BTreeSet;

use super::*;

#[test]
fn a_service_that_the_list_lacks_is_read_before_it_is_believed_gone() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.wait(Duration::from_mins(1));
    rig.list(listing(110, &[]));
    assert_eq!(rig.reads(), ["web"]);
    assert_eq!(rig.web(), ["a"]);
    rig.read("web", reading(110, &[]));
    assert_eq!(rig.web(), [""; 0]);
    assert!(matches!(
        rig.told().as_slice(),
        [Tell::Changed { registrations, event_index: None, .. }] if registrations.is_empty()
    ));
}

#[test]
fn a_failed_list_changes_nothing_and_is_told_when_it_begins_and_when_it_ends() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.wait(Duration::from_mins(1));
    for kind in [
        FailureKind::ServerError,
        FailureKind::ServerError,
        FailureKind::Denied,
    ] {
        rig.list(failure(kind));
        rig.wait_for_deadline();
    }
    assert_eq!(rig.web(), ["a"]);
    let kinds: Vec<FailureKind> = rig
        .told()
        .into_iter()
        .map(|tell| match tell {
            Tell::Trouble { failure, .. } => failure.kind,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(kinds, [FailureKind::ServerError, FailureKind::Denied]);
    rig.list(listing(100, &["web"]));
    assert!(matches!(rig.told().as_slice(), [Tell::Recovered { .. }]));
}

#[test]
fn a_connection_that_breaks_during_the_reads_fails_the_round() {
    let mut rig = Rig::new();
    rig.open_stream();
    rig.list(listing(100, &["api", "web"]));
    rig.read("api", reading(100, &[]));
    rig.read("web", failure(FailureKind::Unreachable));
    assert!(
        !rig.told()
            .iter()
            .any(|tell| matches!(tell, Tell::Synced(_)))
    );
    rig.wait_for_deadline();
    rig.list(listing(100, &["api", "web"]));
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.reads(), ["api"]);
}

#[test]
fn one_service_that_cannot_be_read_blocks_the_others_for_three_rounds_only() {
    let mut rig = Rig::new();
    rig.open_stream();
    for round in 0..3 {
        assert_eq!(rig.web(), [""; 0]);
        rig.list(listing(110, &["bad", "web"]));
        rig.read("bad", failure(FailureKind::ServerError));
        rig.read("web", reading(110, &[web("b", 105)]));
        if round < 2 {
            rig.wait_for_deadline();
        }
    }
    assert_eq!(rig.web(), ["b"]);
    let bad = Scope::Service(ServiceKey::new("default", "bad"));
    let told = rig.told();
    assert!(
        matches!(told.as_slice(), [Tell::Following { .. }, Tell::Trouble { scope, .. }, Tell::Synced(_)] if *scope == bad),
        "{told:?}"
    );
    // It is tried again, and told when it can be read.
    rig.wait(Duration::from_secs(8));
    rig.read("bad", reading(110, &[]));
    let told = rig.told();
    assert!(
        matches!(
            told.as_slice(),
            [Tell::Recovered { scope }, Tell::Changed { key, .. }] if *scope == bad && &*key.name == "bad"
        ),
        "what was unproven is proven now: {told:?}"
    );
}

#[test]
fn a_service_that_cannot_be_read_does_not_hold_up_the_audit_of_others() {
    let mut rig = Rig::new();
    rig.open_stream();
    rig.list(listing(100, &["bad", "web"]));
    rig.read(
        "bad",
        reading(100, &[registration("bad", "b", 40, &[ENABLE])]),
    );
    rig.read("web", reading(100, &[web("a", 50)]));
    rig.wait(Duration::from_mins(1));
    rig.list(listing(110, &["bad", "web"]));
    let end = rig.now + Duration::from_mins(10);
    let mut was_read = false;
    while !was_read && rig.now < end {
        rig.wait(Duration::from_secs(1));
        was_read = rig.reads().contains(&"web");
        if rig.reads().contains(&"bad") {
            rig.read("bad", failure(FailureKind::Denied));
        }
        if rig.lists() {
            rig.list(listing(110, &["bad", "web"]));
        }
    }
    assert!(was_read);
}

#[test]
fn a_service_that_cannot_be_read_again_keeps_what_is_known() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.audit(110);
    for pause in [2, 4, 8] {
        rig.read("web", failure(FailureKind::ServerError));
        assert_eq!(rig.reads(), [""; 0]);
        rig.wait(Duration::from_secs(pause));
    }
    assert_eq!(rig.web(), ["a"]);
    rig.read("web", reading(115, &[]));
    assert_eq!(rig.web(), [""; 0]);
    assert!(matches!(
        rig.told().as_slice(),
        [
            Tell::Trouble { .. },
            Tell::Recovered { .. },
            Tell::Changed { .. }
        ]
    ));
}

#[test]
fn an_event_of_a_service_that_could_never_be_read_is_not_taken_for_all_of_it() {
    let mut rig = Rig::new();
    rig.open_stream();
    for _ in 0..3 {
        rig.list(listing(110, &["web"]));
        rig.read("web", failure(FailureKind::ServerError));
        rig.wait_for_deadline();
    }
    rig.told();
    rig.line(registered(120, web("new", 120)));
    assert_eq!(rig.told(), [], "the others are not known");
    rig.wait(Duration::from_secs(8));
    rig.read("web", reading(120, &[web("new", 120), web("old", 50)]));
    assert_eq!(rig.web(), ["new", "old"]);
}

#[test]
fn what_was_never_read_is_unproven_in_the_first_sync() {
    let mut rig = Rig::new();
    rig.open_stream();
    rig.list(listing(100, &["a/b", "web"]));
    rig.read("a/b", failure(FailureKind::Unreadable));
    rig.read("web", reading(100, &[web("a", 50)]));
    let told = rig.told();
    let Some(Tell::Synced(synced)) = told.last() else {
        panic!("{told:?}");
    };
    let unproven = Scope::Service(ServiceKey::new("default", "a/b"));
    assert!(synced.unproven.iter().eq([&unproven]));
    assert_eq!(synced.services.len(), 1);
}

#[test]
fn whoever_waits_no_longer_has_what_was_read_and_the_rest_is_unproven() {
    let mut rig = Rig::following(&["default", "other"], &Wanted::new("haproxy", false));
    rig.wait(Duration::from_millis(250));
    rig.list(listing(100, &["late", "web"]));
    rig.read("web", reading(100, &[web("a", 50)]));
    assert_eq!(rig.told(), []);
    rig.mirror.give_up(Duration::from_secs(10));
    rig.drain();
    let told = rig.told();
    let troubles = told.iter().filter_map(|tell| match tell {
        Tell::Trouble { scope, failure } => Some((scope.clone(), failure.text.as_str())),
        _ => None,
    });
    let troubles: Vec<_> = troubles.collect();
    let late = Scope::Service(ServiceKey::new("default", "late"));
    let other = Scope::Namespace("other".into());
    let text = "Nomad did not answer within 10 s";
    let of_it = format!("service default/late cannot be read: {text}");
    assert_eq!(
        troubles,
        [(late.clone(), of_it.as_str()), (other.clone(), text)]
    );
    let Some(Tell::Synced(synced)) = told.last() else {
        panic!("{told:?}");
    };
    assert!(synced.unproven.iter().eq([&other, &late]), "{synced:?}");
    assert_eq!(synced.services.len(), 1);
}

#[test]
fn a_denied_namespace_does_not_hold_back_the_others_and_is_unproven() {
    let mut rig = Rig::following(&["default", "other"], &Wanted::new("haproxy", false));
    rig.wait(Duration::from_millis(250));
    let other = rig.lists.remove("other").unwrap();
    rig.hear(Heard::Listed {
        ticket: other,
        result: failure(FailureKind::Denied),
    });
    rig.list(listing(100, &["web"]));
    rig.read("web", reading(100, &[web("a", 50)]));
    let told = rig.told();
    let Some(Tell::Synced(synced)) = told.last() else {
        panic!("{told:?}");
    };
    assert!(
        synced
            .unproven
            .iter()
            .eq([&Scope::Namespace("other".into())])
    );
}

#[test]
fn the_first_sync_waits_for_every_namespace() {
    let mut rig = Rig::following(&["default", "other"], &Wanted::new("haproxy", false));
    rig.wait(Duration::from_millis(250));
    rig.list(listing(100, &["web"]));
    rig.read("web", reading(100, &[web("a", 50)]));
    assert_eq!(rig.told(), [], "half of the catalog is not the catalog");
    let other = rig.lists.remove("other").unwrap();
    rig.hear(Heard::Listed {
        ticket: other,
        result: listing(100, &[]),
    });
    let told = rig.told();
    assert!(
        matches!(told.as_slice(), [Tell::Synced(synced)] if synced.unproven.is_empty() && synced.services.len() == 1),
        "{told:?}"
    );
}

#[test]
fn an_index_that_went_back_is_confirmed_and_then_everything_is_read_again() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.line(registered(120, web("b", 120)));
    rig.told();
    rig.wait(Duration::from_mins(1));
    rig.list(listing(60, &[]));
    assert!(rig.told().is_empty(), "one list alone is not believed");
    rig.wait_for_deadline();
    let stream = rig.stream();
    rig.list(listing(60, &[]));
    assert_ne!(rig.stream(), stream, "the old stream is of another past");
    assert_eq!(rig.reads(), ["web"]);
    assert_eq!(rig.web(), ["a", "b"], "the list removes nothing");
    rig.open_stream();
    rig.line(registered(61, web("c", 61)));
    rig.read("web", reading(60, &[web("a", 50)]));
    assert_eq!(rig.web(), ["a", "c"]);
    assert!(matches!(
        rig.told()[0],
        Tell::IndexWentBack {
            from: 120,
            to: 60,
            ..
        }
    ));
}

#[test]
fn a_stream_that_opens_meanwhile_does_not_put_the_second_look_off() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.end_stream(StreamEnd::Lost("the event stream ended".to_owned()));
    rig.wait(Duration::from_secs(1));
    rig.list(listing(60, &["web"]));
    let first_look = rig.now;
    rig.wait(Duration::from_millis(1_500));
    rig.open_stream();
    rig.list(listing(60, &["web"]));
    rig.told();
    rig.wait_for_deadline();
    rig.list(listing(60, &["web"]));
    assert!(matches!(rig.told()[0], Tell::IndexWentBack { .. }));
    assert_eq!(rig.now, first_look + Duration::from_secs(2));
}

#[test]
fn after_the_index_went_back_no_past_is_applied_to_what_could_not_be_read() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.wait(Duration::from_mins(1));
    rig.list(listing(60, &["web"]));
    rig.wait_for_deadline();
    rig.list(listing(60, &["web"]));
    rig.open_stream();
    rig.read("web", failure(FailureKind::Unreadable));
    rig.line(deregistered(40, web("a", 30)));
    assert_eq!(rig.web(), ["a"]);
}

#[test]
fn one_low_index_is_ignored() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.wait(Duration::from_mins(1));
    rig.list(listing(60, &[]));
    rig.wait_for_deadline();
    rig.list(listing(100, &["web"]));
    assert!(rig.told().is_empty());
}

#[test]
fn a_read_below_the_index_of_the_list_is_not_believed() {
    let mut rig = Rig::new();
    rig.open_stream();
    rig.list(listing(110, &["web"]));
    rig.read("web", reading(109, &[]));
    assert!(
        !rig.told()
            .iter()
            .any(|tell| matches!(tell, Tell::Synced(_)))
    );
}

#[test]
fn what_was_not_asked_for_is_not_taken_from_a_read() {
    let mut rig = Rig::synced_with(&[]);
    rig.wait(Duration::from_mins(1));
    rig.list(listing(110, &["web"]));
    assert_eq!(rig.reads(), ["web"]);
    let foreign = registration("Web", "x", 105, &[ENABLE]);
    rig.read("web", reading(110, &[web("a", 50), foreign]));
    assert_eq!(rig.web(), ["a"]);
}

#[test]
fn a_service_that_lost_its_tag_leaves_the_mirror_when_it_was_read() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.wait(Duration::from_mins(1));
    let untagged = ListedService {
        key: ServiceKey::new("default", "web"),
        tags: vec!["v2".to_owned()],
    };
    rig.list(Ok(Listing {
        index: 110,
        services: vec![untagged],
    }));
    rig.read(
        "web",
        reading(110, &[registration("web", "a", 50, &["v2"])]),
    );
    assert_eq!(rig.web(), [""; 0]);
    assert_eq!(rig.told().len(), 1);
}

#[test]
fn no_more_than_eight_reads_are_asked_at_a_time() {
    let names: Vec<String> = (0..20).map(|number| format!("s{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut rig = Rig::new();
    rig.open_stream();
    rig.list(listing(100, &names));
    let mut most = 0;
    for name in names {
        most = most.max(rig.reads().len());
        rig.read(name, reading(100, &[]));
    }
    assert_eq!(most, Mirror::PARALLEL_READS);
    assert!(matches!(rig.told().last(), Some(Tell::Synced(_))));
}

#[test]
fn a_late_answer_to_a_round_that_failed_is_ignored() {
    let mut rig = Rig::new();
    rig.open_stream();
    rig.list(listing(110, &["api", "web"]));
    rig.told();
    let late = rig
        .reads
        .remove(&ServiceKey::new("default", "api"))
        .unwrap();
    rig.read("web", failure(FailureKind::Unreachable));
    let key = rig.told();
    rig.hear(Heard::Read {
        ticket: late,
        result: reading(110, &[registration("api", "c", 105, &[ENABLE])]),
    });
    assert_eq!(key.len(), 1);
    assert!(rig.told().is_empty());
}

#[test]
fn every_service_is_looked_at_within_ten_minutes_at_less_than_two_requests_a_second() {
    let names: Vec<String> = (0..50).map(|number| format!("s{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let one = |name: &str| registration(name, name, 50, &[ENABLE]);
    let mut rig = Rig::new();
    rig.open_stream();
    rig.list(listing(100, &names));
    for name in &names {
        rig.read(name, reading(100, &[one(name)]));
    }
    let (read, asked) = looked_at_within_ten_minutes(&mut rig, &names);
    assert!(read.iter().eq(&names));
    assert!(asked < 100, "{asked}");
}

#[test]
fn services_that_come_later_are_looked_at_within_ten_minutes_too() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    let names = ["a", "b", "c", "d", "e", "web"];
    for (index, name) in (101..).zip(&names[..5]) {
        rig.line(registered(
            index,
            registration(name, name, index, &[ENABLE]),
        ));
    }
    let (read, _) = looked_at_within_ten_minutes(&mut rig, &names);
    assert!(read.iter().eq(&names), "{read:?}");
}

/// The services that are read, and how many requests there are.
fn looked_at_within_ten_minutes(rig: &mut Rig, names: &[&str]) -> (BTreeSet<String>, u32) {
    let end = rig.now + Duration::from_mins(10);
    let (mut read, mut asked) = (BTreeSet::new(), 0);
    loop {
        rig.wait_for_deadline();
        if rig.now >= end {
            return (read, asked);
        }
        if rig.lists() {
            rig.list(listing(105, names));
            asked += 1;
        }
        while let Some((key, _)) = rig.reads.first_key_value() {
            let name = key.name.to_string();
            let one = registration(&name, &name, 50, &[ENABLE]);
            rig.read(&name, reading(105, &[one]));
            read.insert(name);
            asked += 1;
        }
    }
}

#[test]
fn a_proof_is_read_and_told_although_there_is_nothing() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    let gone = ServiceKey::new("default", "gone");
    let foreign = ServiceKey::new("elsewhere", "gone");
    let known = ServiceKey::new("default", "web");
    rig.mirror.prove(rig.now, [gone.clone(), foreign, known]);
    rig.drain();
    assert_eq!(rig.reads(), ["gone"]);
    rig.read("gone", failure(FailureKind::Denied));
    assert!(rig.told().is_empty(), "denied proves nothing");
    rig.wait(Duration::from_secs(2));
    rig.read("gone", reading(110, &[]));
    assert!(matches!(
        rig.told().as_slice(),
        [Tell::Changed { key, registrations, .. }] if *key == gone && registrations.is_empty()
    ));
}
