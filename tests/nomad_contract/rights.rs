//! Who may ask what, and the exact answers to who may not.

use std::time::Duration;

use haproxy_nomad_sidecar::{
    model::ServiceKey,
    nomad::{
        client::{Doubt, Error},
        route::Failed,
        stream::{EventStream, StreamError},
    },
};

use crate::{
    A_WHILE,
    blocking::{delete_one_later, timed},
    key,
    support::any_nomad::{Door, Nomad},
};

/// A token that nobody has issued.
const UNKNOWN: &str = "11111111-2222-3333-4444-555555555555";
/// What looks like no token at all.
const NONSENSE: &str = "nonsense";

pub(crate) async fn keep(nomad: &Nomad) {
    nomad.create_namespace("other").await;
    nomad.run("web", &["v1"], 2).await;
    nomad.run_in("other", "web", &["v1"], 1).await;
    let nothing = nomad.issue("nothing", &[]).await;
    nobody_else_may_read(nomad, &nothing).await;
    a_token_reads_what_its_policy_says(nomad).await;
    an_identity_reads_every_single_namespace_without_a_policy(nomad).await;
    Box::pin(an_identity_is_held_without_a_policy(nomad)).await;
    a_stream_takes_a_policy(nomad, &nothing).await;
}

async fn nobody_else_may_read(nomad: &Nomad, nothing: &str) {
    for token in ["", UNKNOWN, NONSENSE, nothing] {
        let mut client = nomad.client_as(token);
        let denied = denial(nomad, token);
        let list = client.list("default", None).await.map(drop);
        assert_eq!(refusal(list), denied, "list as {token:?}");
        let list = client.list("unknown", None).await.map(drop);
        assert_eq!(refusal(list), denied, "list of nothing as {token:?}");
        let read = client.read(&key("web"), None).await.map(drop);
        assert_eq!(refusal(read), denied, "read as {token:?}");
        let everywhere = client.list("*", None).await.map(drop);
        // A token without rights, and where none is asked for at the door none at all, may read nothing of everything.
        if token == nothing || (token.is_empty() && nomad.door != Door::TaskApi) {
            assert_is_index_zero(&everywhere);
        } else {
            assert_eq!(refusal(everywhere), denied, "list of * as {token:?}");
        }
    }
}

async fn a_token_reads_what_its_policy_says(nomad: &Nomad) {
    let one = nomad.issue("one", &["default"]).await;
    let all = nomad.issue("all", &["*"]).await;
    let in_other = ServiceKey::new("other", "web");

    let mut client = nomad.client_as(&one);
    let list = client.list("default", None).await.expect("it may").value;
    assert!(list.iter().any(|service| service.key == key("web")));
    let list = client.list("*", None).await.expect("it may").value;
    assert!(
        list.iter()
            .all(|service| &*service.key.namespace == "default"),
        "only what it may see: {list:?}"
    );
    let denied = denial(nomad, &one);
    assert_eq!(refusal(client.list("other", None).await.map(drop)), denied);
    assert_eq!(
        refusal(client.read(&in_other, None).await.map(drop)),
        denied
    );
    assert!(client.open_stream("default").await.is_ok());
    assert_stream_denied(nomad, &one, client.open_stream("*").await);

    let mut client = nomad.client_as(&all);
    let list = client.list("*", None).await.expect("it may").value;
    assert!(list.iter().any(|service| service.key == in_other));
    assert!(client.open_stream("*").await.is_ok());
    assert_eq!(
        client.list("unknown", None).await.expect("it may").value,
        []
    );
}

async fn an_identity_reads_every_single_namespace_without_a_policy(nomad: &Nomad) {
    let mut client = nomad.client_as(&nomad.identity());
    for namespace in ["default", "other"] {
        let list = client.list(namespace, None).await.expect("it may").value;
        let web = ServiceKey::new(namespace, "web");
        assert!(list.iter().any(|service| service.key == web));
        assert!(
            !client
                .read(&web, None)
                .await
                .expect("it may")
                .value
                .is_empty()
        );
    }
    assert_eq!(
        client.list("unknown", None).await.expect("it may").value,
        []
    );
    let read = client.read(&ServiceKey::new("*", "web"), None).await;
    assert_eq!(read.expect("it may").value, [], "no such namespace");
    assert_is_index_zero(&client.list("*", None).await.map(drop));
}

async fn an_identity_is_held_without_a_policy(nomad: &Nomad) {
    let identity = nomad.identity();
    let index = nomad.index().await;
    let (mut lists, mut reads) = (nomad.client_as(&identity), nomad.client_as(&identity));
    let key = key("web");
    let ((list, listed), (read, was_read), ()) = tokio::join!(
        timed(lists.list("default", Some(index))),
        timed(reads.read(&key, Some(index))),
        delete_one_later(nomad, "web")
    );
    assert!(list.expect("it may").index > index && listed >= A_WHILE);
    assert!(read.expect("it may").index > index && was_read >= A_WHILE);

    let target = format!("/v1/services?namespace=*&index={index}&wait=2s");
    let (reply, took) = timed(nomad.ask_as(&identity, "GET", &target)).await;
    assert_eq!((reply.index(), reply.body.as_str()), (0, "[]"));
    assert!(
        took >= Duration::from_secs(2),
        "no right is no reason to answer at once: {took:?}"
    );
}

async fn a_stream_takes_a_policy(nomad: &Nomad, nothing: &str) {
    let identity = nomad.identity();
    // All at once: a denial by silence takes its time.
    let open = async |token: &str, namespace: &str| {
        let stream = nomad.client_as(token).open_stream(namespace).await;
        assert_stream_denied(nomad, token, stream);
    };
    tokio::join!(
        open("", "default"),
        open(UNKNOWN, "default"),
        open(NONSENSE, "default"),
        open(nothing, "default"),
        open(&identity, "default"),
        open(&identity, "*"),
    );
}

/// After it was granted for the default namespace.
pub(crate) async fn a_granted_policy_opens_the_stream_to_the_identity(nomad: &Nomad) {
    let mut client = nomad.client_as(&nomad.identity());
    assert!(client.open_stream("default").await.is_ok());
    let list = client.list("*", None).await.expect("it may now").value;
    assert!(
        list.iter()
            .all(|service| &*service.key.namespace == "default")
    );
}

/// What is said to this token where it lacks the right. The Task API looks at the token before anything else.
fn denial(nomad: &Nomad, token: &str) -> (u16, String) {
    let (status, body) = match (nomad.door, token) {
        (Door::TaskApi, "") => (401, "Unauthorized"),
        (Door::TaskApi, UNKNOWN) => (403, "Forbidden"),
        (Door::TaskApi, NONSENSE) => (500, "Server error authenticating request"),
        (Door::Http | Door::Https | Door::TaskApi, _) => (403, "Permission denied"),
    };
    (status, body.to_owned())
}

fn refusal(result: Result<(), Failed<Error>>) -> (u16, String) {
    match result {
        Err(failed) => answer(failed.into_last()),
        Ok(()) => panic!("it was allowed"),
    }
}

fn answer(error: Error) -> (u16, String) {
    if let Error::BadToken { body } = error {
        return (500, body);
    }
    let Error::Denied { status, body } = error else {
        panic!("{error:?}");
    };
    (status, body)
}

fn assert_is_index_zero(result: &Result<(), Failed<Error>>) {
    assert!(
        matches!(
            result.as_ref().map_err(Failed::last),
            Err(Error::NotBelievable(Doubt::IndexZero))
        ),
        "no right is an empty list: {result:?}"
    );
}

/// Up to 1.11.1 by a 403, later by silence; unless the door denies it.
fn assert_stream_denied(
    nomad: &Nomad,
    token: &str,
    result: Result<EventStream, Failed<StreamError>>,
) {
    let denied = denial(nomad, token);
    let at_the_door = denied.1 != "Permission denied";
    match result.map_err(Failed::into_last) {
        Err(StreamError::Silent | StreamError::Empty) => {
            assert!(nomad.ends_streams_by_silence() && !at_the_door, "{token:?}");
        }
        Err(StreamError::Refused(error)) => {
            assert_eq!(answer(error), denied, "{token:?}");
            assert!(!nomad.ends_streams_by_silence() || at_the_door, "{token:?}");
        }
        Err(error) => panic!("{error:?}"),
        Ok(_) => panic!("it was allowed"),
    }
}
