//! What a mirroring client relies on, each clause a function over any Nomad: the fake always, and real agents where
//! `nomad` is on PATH, with and without ACLs, through every door. Asked through the product's own client wherever it
//! has the call. Where versions differ, the clause says how.

#[expect(dead_code, reason = "each test program uses a part of the support")]
#[path = "../support/mod.rs"]
mod support;

mod blocking;
mod following;
mod reading;
mod rights;
mod streaming;

use std::time::Duration;

use haproxy_nomad_sidecar::model::ServiceKey;
use support::{
    any_nomad::{Door, Nomad},
    fake_nomad::Version,
};
use tokio::task::JoinSet;

/// Long enough to see that nothing comes.
const A_WHILE: Duration = Duration::from_millis(500);

#[tokio::test]
async fn the_fake_keeps_the_contract() {
    // All at once: they wait for most of their time.
    let mut all = JoinSet::new();
    for version in [Version::V2_0_5, Version::V1_10_5] {
        for door in Door::ALL {
            for acl in [false, true] {
                all.spawn(async move {
                    keeps_the_contract(&Nomad::fake(version, door, acl).await).await;
                });
            }
        }
    }
    all.join_all().await;
}

#[tokio::test]
async fn a_real_agent_without_acls_keeps_the_contract() {
    for door in Door::ALL {
        if let Some(nomad) = Nomad::real(door, false).await {
            keeps_the_contract(&nomad).await;
        }
    }
}

#[tokio::test]
async fn a_real_agent_with_acls_keeps_the_contract() {
    for door in Door::ALL {
        if let Some(nomad) = Nomad::real(door, true).await {
            keeps_the_contract(&nomad).await;
        }
    }
}

async fn keeps_the_contract(nomad: &Nomad) {
    reading::keep(nomad).await;
    streaming::keep(nomad).await;
    blocking::keep(nomad).await;
    following::by_the_stream(nomad).await;
    if nomad.acl {
        rights::keep(nomad).await;
        following::without_a_policy_until_it_is_granted(nomad).await;
        rights::a_granted_policy_opens_the_stream_to_the_identity(nomad).await;
    }
}

fn key(service: &str) -> ServiceKey {
    ServiceKey::new("default", service)
}
