//! Without a stream: which queries Nomad is given to hold, and what follows from their answers. The rig allows two services
//! a query of their own.

use super::*;

/// A rig that knows `services` at index 100, has no stream because that is denied, and follows by blocking queries.
fn blocking(services: &[&str]) -> Rig {
    let mut rig = Rig::new();
    rig.end_stream(StreamEnd::Refused("denied".to_owned()));
    rig.list(listing(100, services));
    while let Some((key, _)) = rig.reads.first_key_value() {
        let name = key.name.to_string();
        rig.read(&name, reading(100, &[instance(&name, 50)]));
    }
    rig.wait(Duration::from_secs(1));
    rig.told();
    rig
}

fn instance(service: &str, index: u64) -> Registration {
    registration(service, &format!("{service}-1"), index, &[ENABLE])
}

impl Rig {
    /// The index after which a list is held.
    fn held_list(&self) -> Option<u64> {
        self.held.get(self.lists.get("default")?).copied()
    }

    /// The services whose reads are held, with the index after which they are.
    fn held_reads(&self) -> Vec<(&str, u64)> {
        let held = self.reads.iter();
        held.filter_map(|(key, ticket)| Some((&*key.name, *self.held.get(ticket)?)))
            .collect()
    }

    /// The services that are read at once.
    fn plain_reads(&self) -> Vec<&str> {
        let plain = self.reads.iter();
        plain
            .filter(|(_, ticket)| !self.held.contains_key(ticket))
            .map(|(key, _)| &*key.name)
            .collect()
    }
}

#[test]
fn without_a_stream_each_service_has_a_query_of_its_own_and_that_is_said_once() {
    let mut rig = Rig::new();
    rig.end_stream(StreamEnd::Refused("denied".to_owned()));
    rig.list(listing(100, &["web"]));
    rig.read("web", reading(101, &[web("a", 50)]));
    assert!(!rig.lists(), "a stream may still come");
    rig.told();
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.held_list(), Some(100));
    assert_eq!(rig.held_reads(), [("web", 101)]);
    let reason = "denied".to_owned();
    assert!(matches!(
        rig.told().as_slice(),
        [Tell::Following { how, .. }] if *how == How::Blocking { reason }
    ));
    rig.wait(Duration::from_mins(1));
    rig.end_stream(StreamEnd::Refused("silent".to_owned()));
    assert!(rig.told().is_empty());
}

#[test]
fn a_change_is_told_as_soon_as_its_query_is_answered_and_the_query_is_asked_again() {
    let mut rig = blocking(&["web"]);
    rig.wait(Duration::from_secs(5));
    rig.read("web", reading(105, &[web("b", 105)]));
    assert!(matches!(
        rig.told().as_slice(),
        [Tell::Changed { registrations, index: 105, event_index: None, .. }] if registrations.len() == 1
    ));
    assert_eq!(rig.held_reads(), [("web", 105)]);
    // Its last instance goes, and with it the query.
    rig.read("web", reading(106, &[]));
    assert_eq!(rig.web(), [""; 0]);
    assert_eq!(rig.held_reads(), []);
}

#[test]
fn a_query_that_comes_back_early_without_news_waits_a_little() {
    let mut rig = blocking(&["web"]);
    rig.read("web", reading(101, &[instance("web", 50)]));
    assert_eq!(rig.held_reads(), [], "another service moved the index");
    rig.wait(Duration::from_millis(200));
    assert_eq!(rig.held_reads(), [("web", 101)]);
    assert!(rig.told().is_empty());
}

#[test]
fn a_new_service_is_found_by_the_list_and_then_has_a_query() {
    let mut rig = blocking(&["web"]);
    rig.wait(Duration::from_secs(5));
    rig.list(listing(105, &["api", "web"]));
    assert_eq!(rig.plain_reads(), ["api"]);
    rig.read("api", reading(105, &[instance("api", 105)]));
    assert_eq!(rig.held_reads(), [("api", 105), ("web", 100)]);
    assert_eq!(rig.held_list(), Some(105), "after a pause, which is over");
    assert_eq!(rig.told().len(), 1);
}

#[test]
fn services_without_a_query_are_read_whenever_the_namespace_has_changed() {
    let mut rig = blocking(&["api", "db", "web"]);
    assert_eq!(rig.held_reads().len(), 2);
    rig.wait(Duration::from_secs(5));
    rig.list(listing(105, &["api", "db", "web"]));
    assert_eq!(rig.plain_reads(), ["web"]);
    rig.read("web", reading(105, &[web("b", 105)]));
    assert_eq!(rig.web(), ["b"]);
    rig.wait(Duration::from_mins(1));
    rig.list(listing(105, &["api", "db", "web"]));
    assert_eq!(rig.plain_reads(), [""; 0], "it did not move");
}

#[test]
fn a_read_under_way_does_not_count_for_a_change_that_came_after_it() {
    let mut rig = blocking(&["api", "db", "web"]);
    rig.wait(Duration::from_secs(5));
    rig.list(listing(105, &["api", "db", "web"]));
    rig.wait(Duration::from_secs(1));
    rig.list(listing(106, &["api", "db", "web"]));
    rig.read("web", reading(105, &[web("b", 105)]));
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.plain_reads(), ["web"]);
}

#[test]
fn the_stream_takes_over_when_it_can_be_had() {
    let mut rig = blocking(&["web"]);
    rig.wait(Duration::from_mins(1));
    rig.open_stream();
    assert_eq!(rig.held_reads(), []);
    assert!(rig.lists() && rig.held_list().is_none());
    assert!(matches!(
        rig.told().as_slice(),
        [Tell::Following {
            how: How::Stream,
            ..
        }]
    ));
    rig.list(listing(110, &["web"]));
    rig.read("web", reading(110, &[web("b", 105)]));
    assert_eq!(rig.web(), ["b"]);
    rig.line(registered(111, web("c", 111)));
    assert_eq!(rig.web(), ["b", "c"]);
}

#[test]
fn a_short_break_of_the_stream_is_no_reason_for_queries() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.end_stream(StreamEnd::Lost("end".to_owned()));
    rig.wait(Duration::from_millis(500));
    rig.open_stream();
    rig.list(listing(100, &["web"]));
    rig.wait(Duration::from_secs(5));
    assert!(rig.reads.is_empty() && !rig.lists());
}

#[test]
fn when_the_stream_stays_away_what_was_missed_is_read_and_then_queries_are_held() {
    let mut rig = Rig::synced_with(&[web("a", 50)]);
    rig.end_stream(StreamEnd::Lost("end".to_owned()));
    rig.wait(Duration::from_secs(1));
    rig.end_stream(StreamEnd::Refused("denied".to_owned()));
    rig.list(listing(110, &["web"]));
    assert_eq!(rig.plain_reads(), ["web"]);
    rig.read("web", reading(110, &[web("b", 105)]));
    assert_eq!(rig.web(), ["b"]);
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.held_reads(), [("web", 110)]);
}

#[test]
fn a_false_empty_answer_to_what_is_held_removes_nothing() {
    let mut rig = blocking(&["web"]);
    rig.read("web", failure(FailureKind::NotBelievable));
    rig.list(failure(FailureKind::NotBelievable));
    assert_eq!(rig.web(), ["web-1"]);
    assert_eq!(rig.held_reads(), []);
    rig.wait_for_deadline();
    assert!(rig.lists() && rig.held_list().is_none(), "asked anew");
    rig.list(listing(100, &["web"]));
    rig.wait(Duration::from_secs(2));
    assert_eq!(rig.plain_reads(), ["web"]);
    rig.read("web", reading(100, &[instance("web", 50)]));
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.held_reads(), [("web", 100)]);
    assert_eq!(rig.held_list(), Some(100));
    assert!(matches!(
        rig.told().as_slice(),
        [Tell::Trouble { .. }, Tell::Recovered { .. }]
    ));
}

#[test]
fn a_connection_that_breaks_lets_go_of_everything_and_a_list_tries_again() {
    let mut rig = blocking(&["api", "web"]);
    rig.read("web", failure(FailureKind::Unreachable));
    assert!(rig.reads.is_empty() && !rig.lists());
    rig.wait_for_deadline();
    assert!(rig.lists() && rig.reads.is_empty());
    rig.list(listing(120, &["api", "web"]));
    // Whatever ails Nomad ails others, too: one thing after the other.
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.plain_reads(), ["api"]);
    rig.read("api", reading(120, &[instance("api", 50)]));
    rig.wait(Duration::from_secs(1));
    assert_eq!(rig.plain_reads(), ["web"]);
}

#[test]
fn an_index_that_went_back_is_found_through_a_query_and_everything_is_read_again() {
    let mut rig = blocking(&["web"]);
    rig.wait(Duration::from_mins(1));
    rig.end_stream(StreamEnd::Refused("denied".to_owned()));
    rig.read("web", reading(60, &[]));
    assert_eq!(rig.web(), ["web-1"], "one low index is not believed");
    assert!(rig.lists() && rig.held_list().is_none());
    rig.list(listing(60, &[]));
    rig.wait_for_deadline();
    rig.list(listing(60, &[]));
    assert_eq!(rig.plain_reads(), ["web"]);
    assert_eq!(rig.web(), ["web-1"]);
    rig.read("web", reading(60, &[]));
    assert_eq!(rig.web(), [""; 0]);
}

#[test]
fn a_namespace_that_becomes_forbidden_keeps_its_services_and_is_told_once() {
    let mut rig = Rig::following(&["*"], &Wanted::new("haproxy", false));
    let ticket = rig.streams.remove("*").unwrap();
    let end = StreamEnd::Refused("denied".to_owned());
    rig.hear(Heard::StreamEnded { ticket, end });
    let list = |rig: &mut Rig, services: &[(&str, &str)]| {
        let services = services.iter().map(|(namespace, name)| ListedService {
            key: ServiceKey::new(namespace, name),
            tags: vec![ENABLE.to_owned()],
        });
        let result = Ok(Listing {
            index: 100,
            services: services.collect(),
        });
        let ticket = rig.lists.remove("*").unwrap();
        rig.hear(Heard::Listed { ticket, result });
    };
    let read_all = |rig: &mut Rig, denied: &str| {
        while let Some((key, ticket)) = rig.reads.pop_first() {
            let result = if &*key.namespace == denied {
                failure(FailureKind::Denied)
            } else {
                let mut one = registration(&key.name, "id", 50, &[ENABLE]);
                one.service = key;
                reading(100, &[one])
            };
            rig.hear(Heard::Read { ticket, result });
        }
    };
    list(&mut rig, &[("a", "web"), ("b", "db"), ("b", "web")]);
    read_all(&mut rig, "none");
    let known = rig.known.clone();
    assert_eq!(known.len(), 3);
    rig.told();
    // The list no longer has them, and neither may they be read.
    rig.mirror.resync(rig.now);
    rig.drain();
    let ticket = rig.streams.remove("*").unwrap();
    let end = StreamEnd::Refused("denied".to_owned());
    rig.hear(Heard::StreamEnded { ticket, end });
    for _ in 0..3 {
        list(&mut rig, &[("a", "web")]);
        read_all(&mut rig, "b");
        if !rig.lists.contains_key("*") {
            rig.wait_for_deadline();
        }
    }
    assert_eq!(rig.known, known);
    let told = rig.told();
    let troubles: Vec<_> = told
        .iter()
        .filter_map(|tell| match tell {
            Tell::Trouble { scope, failure } => Some((scope.clone(), failure.text.clone())),
            _ => None,
        })
        .collect();
    let text = "namespace b can no longer be read, and its servers stay as they are: denied";
    assert_eq!(troubles, [(Scope::Namespace("b".into()), text.to_owned())]);
}
