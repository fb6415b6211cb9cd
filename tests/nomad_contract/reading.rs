//! Lists and single reads.

use std::collections::BTreeSet;

use haproxy_nomad_sidecar::model::ServiceKey;

use crate::{
    key,
    support::any_nomad::{Door, Nomad},
};

pub(crate) async fn keep(nomad: &Nomad) {
    an_empty_catalog_has_an_index_and_a_leader(nomad).await;
    what_is_registered_is_listed_and_read(nomad).await;
    an_unknown_name_is_an_empty_answer_with_an_index(nomad).await;
    a_read_of_every_namespace_finds_nothing(nomad).await;
    names_are_decoded(nomad).await;
    nonsense_is_refused(nomad).await;
}

async fn an_empty_catalog_has_an_index_and_a_leader(nomad: &Nomad) {
    let list = nomad.list("default").await;
    assert!(list.index >= 1);
    assert_eq!(list.value, []);
    let list = nomad.get("/v1/services").await;
    assert_eq!(list.body, "[]");
    assert_eq!(list.header("x-nomad-knownleader"), Some("true"));
}

async fn what_is_registered_is_listed_and_read(nomad: &Nomad) {
    let rows = nomad.run("listed", &["b", "a"], 2).await;
    let list = nomad.list("*").await;
    let listed = list
        .value
        .into_iter()
        .find(|service| service.key == key("listed"))
        .expect("it is listed");
    assert_eq!(
        BTreeSet::from_iter(listed.tags),
        BTreeSet::from(["a".into(), "b".into()])
    );
    for row in &rows {
        assert!(!row.address.is_empty() && row.port > 0, "{row:?}");
        assert_eq!(row.tags, ["b", "a"]);
        assert!((1..=list.index).contains(&row.create_index), "{row:?}");
        assert_eq!(row.create_index, row.modify_index);
        assert!(row.id.contains(&*row.alloc_id), "{row:?}");
    }
    assert!(rows[0].id < rows[1].id, "in the order of the IDs");
}

async fn an_unknown_name_is_an_empty_answer_with_an_index(nomad: &Nomad) {
    let read = nomad.read(&key("nobody")).await;
    assert_eq!(read.value, []);
    assert_eq!(read.index, nomad.list("default").await.index);
}

async fn a_read_of_every_namespace_finds_nothing(nomad: &Nomad) {
    let read = nomad.read(&ServiceKey::new("*", "listed")).await;
    assert_eq!(read.value, []);
}

async fn names_are_decoded(nomad: &Nomad) {
    let plain = nomad.get("/v1/service/listed?namespace=default").await;
    let encoded = nomad.get("/v1/service/l%69sted?namespace=d%65fault").await;
    assert_eq!(encoded.body, plain.body);
    assert_ne!(plain.body, "[]");
}

async fn nonsense_is_refused(nomad: &Nomad) {
    // The gate of the Task API reads them too, and adds its own.
    let twice = if nomad.door == Door::TaskApi {
        "Bad Request"
    } else {
        ""
    };
    for (method, target, status, body) in [
        (
            "GET",
            "/v1/services?index=x",
            400,
            format!("Invalid index{twice}"),
        ),
        (
            "GET",
            "/v1/services?index=1&wait=x",
            400,
            format!("Invalid wait time{twice}"),
        ),
        ("PUT", "/v1/services", 405, "Invalid method".to_owned()),
        ("GET", "/v1/service/a%2Fb", 405, "Invalid method".to_owned()),
        (
            "GET",
            "/v1/service/",
            400,
            "missing service name".to_owned(),
        ),
        ("GET", "/v1/nothing", 404, String::new()),
    ] {
        let reply = nomad.ask(method, target).await;
        assert_eq!(
            (reply.status, reply.body),
            (status, body),
            "{method} {target}"
        );
    }
}
