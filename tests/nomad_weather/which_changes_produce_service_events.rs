//! Which changes of the catalog produce events of topic `Service`, under which type, and which say nothing at all. None of
//! it is a trouble: an operator reads nothing.

use std::time::Duration;

use crate::{
    support::fake_nomad::{Deletion, FakeNomad, Key, ServiceRegistration, Token, Version, Via},
    weather::{RECOVERED, SECRET, STREAMING, Weather, web},
};

/// Longer than any event takes, and shorter than any other way to know.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Within this everything is found that no event tells.
const PROMISE: Duration = Duration::from_mins(10);

impl Weather {
    /// What changed last was told by an event, at once and without a word.
    async fn told_by_event(&mut self, what: &str) {
        self.pass(AT_ONCE).await;
        assert_eq!(self.known, self.catalog(), "{what}");
        assert_eq!(self.told.last(), Some(&Some(self.nomad.index())), "{what}");
        assert_eq!(self.said(), [""; 0], "{what}");
    }
}

fn keys(allocs: &[u32]) -> Vec<Key> {
    allocs.iter().map(|alloc| web(*alloc).key()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_registration_and_each_change_of_it() {
    for version in [Version::V1_10_5, Version::V2_0_5] {
        let mut weather = Weather::fair(version).await;
        weather.nomad.register(web(3));
        weather.told_by_event("new").await;
        for (what, changed) in [
            ("tags", web(3).tags(&["v2"])),
            ("address", web(3).tags(&["v2"]).address("192.0.2.7")),
            (
                "port",
                ServiceRegistration {
                    port: 4711,
                    ..web(3)
                },
            ),
            (
                "datacenter",
                ServiceRegistration {
                    datacenter: "dc2".into(),
                    ..web(3)
                },
            ),
        ] {
            weather.nomad.register(changed);
            weather.told_by_event(what).await;
        }
        assert_eq!(weather.webs(), [1, 2, 3]);
        let (told, index) = (weather.told.len(), weather.nomad.index());
        weather.nomad.register(web(1));
        weather.pass(AT_ONCE).await;
        assert_eq!(weather.nomad.index(), index, "an equal one is no change");
        assert_eq!(weather.told.len(), told, "and no event");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_by_its_client_or_an_operator() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    weather.nomad.register_all([web(3), web(4)]);
    weather.told_by_event("new").await;
    let before = weather.told.len();
    for alloc in [1, 2, 3] {
        weather
            .nomad
            .deregister(&keys(&[alloc]), Deletion::ServiceDeregistration);
    }
    weather.told_by_event("gone").await;
    assert_eq!(weather.told.len(), before + 3, "a line for each");
    assert_eq!(weather.webs(), [4]);
}

#[tokio::test(start_paused = true)]
async fn allocations_that_a_plan_marks_lost() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    weather.nomad.register_all([web(3)]);
    weather.told_by_event("new").await;
    let before = weather.told.len();
    weather
        .nomad
        .deregister(&keys(&[1, 2]), Deletion::PlanResult);
    weather.told_by_event("lost").await;
    assert_eq!(weather.told.len(), before + 1, "many in one line");
    assert_eq!(weather.webs(), [3]);
}

#[tokio::test(start_paused = true)]
async fn an_allocation_that_is_reported_as_ended() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    weather
        .nomad
        .deregister(&keys(&[1]), Deletion::AllocationUpdated);
    weather.told_by_event("ended").await;
    assert_eq!(weather.webs(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_down_before_1_8() {
    // One Raft entry for the node, of another topic, and one for all its services (`DeleteByNodeID`).
    let mut weather = Weather::fair(Version::V1_9_5).await;
    weather.nomad.register(web(3));
    weather.nomad.other_entries(1);
    weather
        .nomad
        .deregister(&keys(&[1, 2]), Deletion::ServiceDeregistration);
    weather.told_by_event("down").await;
    assert_eq!(weather.webs(), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_goes_down_from_1_8_to_1_10_3() {
    let mut weather = Weather::fair(Version::V1_10_5).await;
    weather.nomad.register(web(3));
    weather
        .nomad
        .deregister(&keys(&[1, 2]), Deletion::NodeStreamEvent);
    weather.told_by_event("down").await;
    assert_eq!(weather.webs(), [3]);
}

#[tokio::test(start_paused = true)]
async fn garbage_collection_says_nothing() {
    for version in [Version::V1_10_5, Version::V2_0_5] {
        let mut weather = Weather::fair(version).await;
        let (told, index) = (weather.told.len(), weather.nomad.index());
        weather.nomad.delete_silently(&keys(&[1]));
        assert_eq!(weather.nomad.index(), index + 1, "but the index moves");
        weather.pass(AT_ONCE).await;
        assert_eq!((weather.webs(), weather.told.len()), (vec![1, 2], told));
        weather.pass(PROMISE).await;
        assert_eq!(weather.webs(), [2], "{version:?}");
        assert_eq!(weather.told.last(), Some(&None), "found by reading");
        assert_eq!(weather.said(), [""; 0], "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_restored_snapshot_says_nothing_of_what_it_changed() {
    for version in [Version::V1_10_5, Version::V2_0_5] {
        let mut weather = Weather::fair(version).await;
        let snapshot = weather.nomad.snapshot();
        weather.nomad.register(web(2).tags(&["v2"]));
        weather.change(3, 1);
        weather.settled().await;
        weather.nomad.restore(snapshot);
        weather.pass(PROMISE).await;
        assert_eq!(weather.known, weather.catalog(), "{version:?}");
        assert_eq!(weather.webs(), [1, 2]);
        let went_back = "the index of namespace default went back from 15 to 12";
        assert_eq!(weather.said()[1..], [went_back], "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_node_that_returns() {
    for version in [Version::V1_10_5, Version::V2_0_5] {
        let mut weather = Weather::fair(version).await;
        weather.nomad.register(web(3));
        weather.told_by_event("new").await;
        weather
            .nomad
            .deregister(&keys(&[1, 2]), Deletion::PlanResult);
        weather.told_by_event("lost").await;
        let before = weather.told.len();
        weather
            .nomad
            .haunt(vec![web(1), web(2)], Duration::from_millis(24))
            .await;
        weather.told_by_event("returned").await;
        assert_eq!(weather.told.len(), before + 4, "each comes and goes");
        assert_eq!(weather.webs(), [3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_deleted_says_nothing_of_its_own() {
    let nomad = FakeNomad::in_memory(Version::V2_0_5);
    nomad.issue(SECRET, Token::Client(vec!["default".into(), "late".into()]));
    nomad.create_namespace("late");
    nomad.register_all([web(1), web(2).namespace("late")]);
    let mut weather = Weather::over(nomad, Via::Agent, &["default", "late"]);
    weather.settled().await;
    weather.pass(AT_ONCE).await;
    let other = "following namespace late by its event stream";
    assert_eq!(weather.said(), [STREAMING, other]);
    // It has to be empty.
    let key = web(2).namespace("late").key();
    weather
        .nomad
        .deregister(&[key], Deletion::ServiceDeregistration);
    weather.told_by_event("empty").await;
    weather.nomad.delete_namespace("late");
    weather.pass(PROMISE).await;
    assert_eq!(weather.said(), [""; 0]);
    weather.change(3, 1);
    weather.told_by_event("the others go on").await;
    assert!(!weather.said().contains(&RECOVERED.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_drain_and_a_stopped_job_say_nothing_until_the_client_acts() {
    let mut weather = Weather::fair(Version::V2_0_5).await;
    let told = weather.told.len();
    // The plan: allocations shall stop, and nothing happens to their services.
    weather.nomad.other_entries(2);
    weather.pass(Duration::from_secs(30)).await;
    assert_eq!((weather.webs(), weather.told.len()), (vec![1, 2], told));
    weather
        .nomad
        .deregister(&keys(&[1]), Deletion::ServiceDeregistration);
    weather.told_by_event("the client's own").await;
    assert_eq!(weather.webs(), [2]);
}
