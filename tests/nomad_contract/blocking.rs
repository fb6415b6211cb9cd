//! Blocking queries: what holds them, what ends them, what they then say.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::{A_WHILE, key, support::any_nomad::Nomad};

/// What is here at once, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

pub(crate) async fn keep(nomad: &Nomad) {
    a_blocking_read_is_held_until_the_change(nomad).await;
    a_blocking_list_is_held_until_the_change(nomad).await;
    an_index_that_has_moved_is_answered_at_once(nomad).await;
    another_service_does_not_end_a_held_read(nomad).await;
    another_namespace_does_not_end_a_held_list(nomad).await;
    a_blocking_query_ends_with_its_wait(nomad).await;
}

async fn a_blocking_read_is_held_until_the_change(nomad: &Nomad) {
    let rows = nomad.run("held", &["v1"], 2).await;
    let index = nomad.index().await;
    let mut client = nomad.client();
    let key = key("held");
    let ((read, took), ()) = tokio::join!(
        timed(client.read(&key, Some(index))),
        delete_one_later(nomad, "held")
    );
    let read = read.expect("management may");
    assert!(took >= A_WHILE, "{took:?}");
    assert!(read.index > index);
    assert_eq!(read.value, rows[1..]);
}

async fn a_blocking_list_is_held_until_the_change(nomad: &Nomad) {
    for namespace in ["default", "*"] {
        nomad.run("listed-last", &["v1"], 1).await;
        let index = nomad.index().await;
        let mut client = nomad.client();
        let ((list, took), ()) = tokio::join!(
            timed(client.list(namespace, Some(index))),
            delete_one_later(nomad, "listed-last")
        );
        let list = list.expect("management may");
        assert!(took >= A_WHILE, "{took:?}");
        assert!(list.index > index);
        let gone = key("listed-last");
        assert!(list.value.iter().all(|service| service.key != gone));
        nomad.stop("listed-last").await;
    }
}

async fn an_index_that_has_moved_is_answered_at_once(nomad: &Nomad) {
    let index = nomad.index().await;
    nomad.run("moving", &["v1"], 1).await;
    let mut client = nomad.client();
    let moved = timeout(AT_ONCE, client.read(&key("listed"), Some(index))).await;
    let moved = moved.expect("it comes at once").expect("management may");
    assert_eq!(
        moved.index,
        nomad.index().await,
        "although this service is as it was"
    );
}

async fn another_service_does_not_end_a_held_read(nomad: &Nomad) {
    let rows = nomad.run("undisturbed", &["v1"], 2).await;
    nomad.run("disturbing", &["v1"], 1).await;
    let index = nomad.index().await;
    let changes = async {
        sleep(A_WHILE).await;
        delete_one(nomad, "disturbing").await;
        delete_one_later(nomad, "undisturbed").await;
    };
    let mut client = nomad.client();
    let key = key("undisturbed");
    let ((read, took), ()) = tokio::join!(timed(client.read(&key, Some(index))), changes);
    assert!(took >= 2 * A_WHILE, "{took:?}");
    assert_eq!(read.expect("management may").value, rows[1..]);
}

async fn another_namespace_does_not_end_a_held_list(nomad: &Nomad) {
    nomad.create_namespace("elsewhere").await;
    let index = nomad.index().await;
    let target = format!("/v1/services?index={index}&wait=2s");
    let noise = async {
        sleep(A_WHILE).await;
        nomad.run_in("elsewhere", "noise", &["v1"], 1).await
    };
    let ((list, took), rows) = tokio::join!(timed(nomad.get(&target)), noise);
    assert!(took >= Duration::from_secs(2), "{took:?}");
    assert!(
        list.index() >= index && rows[0].create_index > index,
        "the index of an answer is that of the whole table"
    );
}

async fn a_blocking_query_ends_with_its_wait(nomad: &Nomad) {
    let index = nomad.index().await;
    for ahead in [0, 1000] {
        for target in ["/v1/services?namespace=*", "/v1/service/held?"] {
            let target = format!("{target}&wait=1s&index={}", index + ahead);
            let (reply, took) = timed(nomad.get(&target)).await;
            assert_eq!(reply.index(), index, "{target}");
            assert!(took >= Duration::from_secs(1), "{target}: {took:?}");
        }
    }
}

/// What it gives, and after what time.
pub(crate) async fn timed<T>(asked: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (asked.await, began.elapsed())
}

/// Deletes an instance of this service when a query has been held for a while.
pub(crate) async fn delete_one_later(nomad: &Nomad, service: &str) {
    sleep(A_WHILE).await;
    delete_one(nomad, service).await;
}

pub(crate) async fn delete_one(nomad: &Nomad, service: &str) {
    let row = nomad.read(&key(service)).await.value.remove(0);
    let target = format!("/v1/service/{service}/{}", row.id);
    assert_eq!(nomad.ask("DELETE", &target).await.status, 200);
}
