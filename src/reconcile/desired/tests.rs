//! Which backend, address and keywords a registration asks for.

use super::{super::server_name::is_dynamic_name, *};
use crate::model::{ServerKeywords, ServerProfileName};

fn policy() -> Policy {
    Policy::default()
}

fn registration(
    namespace: &str,
    service: &str,
    address: &str,
    port: i64,
    tags: &[&str],
) -> Registration {
    Registration {
        id: "_nomad-task-1a2b3c4d-group-web-web-http".into(),
        service: ServiceKey::new(namespace, service),
        alloc_id: "1a2b3c4d-0000-0000-0000-000000000000".into(),
        job_id: "web".into(),
        tags: [&["haproxy.enable=true"], tags]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        address: address.to_owned(),
        port,
        create_index: 10,
        modify_index: 10,
    }
}

fn one(registration: &Registration, backends: &[&str]) -> Contribution {
    let backends: BTreeSet<_> = backends
        .iter()
        .map(|name| BackendName::new(name).unwrap())
        .collect();
    contribution(
        &registration.service,
        std::slice::from_ref(registration),
        &backends.into(),
        &policy(),
    )
}

fn reason(registration: &Registration, backends: &[&str]) -> String {
    let contribution = one(registration, backends);
    assert!(
        contribution.servers.values().all(Vec::is_empty),
        "{contribution:?}"
    );
    contribution.rejections.first().unwrap().reason.to_string()
}

fn backend_of(registration: &Registration, backends: &[&str]) -> String {
    let servers = one(registration, backends).servers;
    servers
        .iter()
        .find(|(_, servers)| !servers.is_empty())
        .unwrap()
        .0
        .to_string()
}

#[test]
fn the_backend_is_the_tag_then_the_name_then_the_name_with_underscores() {
    let tagged = registration(
        "default",
        "my-web",
        "10.0.0.1",
        80,
        &["haproxy.backend.name=other"],
    );
    let plain = registration("default", "my-web", "10.0.0.1", 80, &[]);
    assert_eq!(backend_of(&tagged, &["my-web", "other"]), "other");
    assert_eq!(backend_of(&plain, &["my-web", "my_web"]), "my-web");
    assert_eq!(backend_of(&plain, &["my_web"]), "my_web");
    assert_eq!(
        reason(&plain, &["web"]),
        "HAProxy has no backend named my-web or my_web: add one to haproxy.cfg, or name another with the tag \
         backend.name"
    );
}

#[test]
fn another_namespace_gets_its_own_backend_and_no_other() {
    let backends = ["web", "team.web"];
    assert_eq!(
        backend_of(&registration("team", "web", "10.0.0.1", 80, &[]), &backends),
        "team.web"
    );
    assert_eq!(
        reason(
            &registration("team", "web", "10.0.0.1", 80, &["haproxy.backend.name=web"]),
            &backends
        ),
        "the namespace team may not use the backend web: without a policy file only the sidecar's own namespace may use \
         any backend and server profile, others the backend <namespace>.<service>, and nobody a regular expression"
    );
    assert_eq!(
        reason(
            &registration("default", "team.web", "10.0.0.1", 80, &[]),
            &backends
        ),
        "its service's name cannot name a backend: it has a dot in it"
    );
}

#[test]
fn a_registration_that_nothing_can_connect_to_is_rejected_with_the_reason() {
    for (address, port, expected) in [
        (
            "",
            80,
            "it has no address: give the service a port label, or an address",
        ),
        (
            "10.0.0.1",
            0,
            "its port is 0: give the service a port label",
        ),
        (
            "10.0.0.1",
            65536,
            "its port is 65536: give the service a port label",
        ),
        (
            "db.example",
            80,
            "its address \"db.example\" is no IP address of a server, and HAProxy resolves no names at runtime",
        ),
        (
            "10.0.0.1 port 1;shutdown frontend fe",
            80,
            "its address \"10.0.0.1 port 1;shutdown frontend fe\" is no IP address of a server, and HAProxy resolves no \
             names at runtime",
        ),
    ] {
        assert_eq!(
            reason(
                &registration("default", "web", address, port, &[]),
                &["web"]
            ),
            expected
        );
    }
}

#[test]
fn a_service_without_the_tag_is_left_alone() {
    let mut plain = registration("default", "web", "10.0.0.1", 80, &[]);
    plain.tags.clear();
    assert_eq!(
        one(&plain, &["web"])
            .servers
            .values()
            .map(Vec::len)
            .sum::<usize>(),
        0
    );
    assert!(one(&plain, &["web"]).rejections.is_empty());
}

/// What a server is called with these tags, under a policy with the server profile `tls`.
fn name(tags: &[&str]) -> String {
    let registration = registration("default", "web", "10.0.0.1", 80, tags);
    let keywords = ServerKeywords::new("ssl verify none").unwrap();
    let policy = Policy {
        server_profiles: [(ServerProfileName::new("tls").unwrap(), keywords)].into(),
        ..Policy::default()
    };
    let places = BTreeSet::from([BackendName::new("web").unwrap()]).into();
    let registrations = std::slice::from_ref(&registration);
    let found = contribution(&registration.service, registrations, &places, &policy);
    let server = found.servers.into_values().flatten().next();
    server
        .unwrap_or_else(|| panic!("{:?}", found.rejections))
        .name
        .to_string()
}

#[test]
fn names_stay_for_ever_because_another_name_is_another_server() {
    let every_older_tag = [
        "haproxy.backup",
        "haproxy.check.disabled",
        "haproxy.check.port=8081",
        "haproxy.check.interval=1500ms",
        "haproxy.check.fastinter=500ms",
        "haproxy.check.downinter=600ms",
        "haproxy.check.rise=3",
        "haproxy.check.fall=4",
    ];
    let the_rest = [
        "haproxy.check.profile=api",
        "haproxy.maxqueue=5",
        "haproxy.slowstart=10s",
        "haproxy.cookie=auto",
        "haproxy.send-proxy=v2",
        "haproxy.proto=h2",
        "haproxy.agent.port=9000",
        "haproxy.agent.interval=1s",
        "haproxy.tls.profile=tls",
    ];
    for (tags, hash) in [
        (&[][..], "4d5f3c23"),
        (&every_older_tag[..], "e8609428"),
        (&the_rest[..], "241c4c60"),
    ] {
        assert_eq!(name(tags), format!("nomad-1a2b3c4d-{hash}"), "{tags:?}");
    }
}

#[test]
fn the_name_holds_what_cannot_be_changed_and_nothing_else() {
    let plain = name(&[]);
    assert!(
        is_dynamic_name(&ServerName::new(&plain).unwrap()),
        "{plain}"
    );
    for changed_in_place in [
        "haproxy.weight=7",
        "haproxy.maxconn=9",
        "haproxy.cookie=off",
    ] {
        assert_eq!(name(&[changed_in_place]), plain);
    }
    for fixed in [
        "haproxy.backup",
        "haproxy.check.port=81",
        "haproxy.maxqueue=0",
        "haproxy.cookie=a",
        "haproxy.send-proxy=v1",
        "haproxy.tls.profile=tls",
    ] {
        assert_ne!(name(&[fixed]), plain, "{fixed}");
    }
}

#[test]
fn a_server_profile_is_the_operators_and_nobody_elses() {
    let with =
        |namespace, profile: &str| registration(namespace, "web", "10.0.0.1", 80, &[profile]);
    assert_eq!(
        reason(&with("default", "haproxy.tls.profile=tls"), &["web"]),
        "tag tls.profile: there is no server profile tls: declare it with --server-profile 'tls=ssl verify required \
         ca-file …'"
    );
    assert_eq!(
        reason(&with("team", "haproxy.tls.profile=tls"), &["team.web"]),
        "the namespace team may not use the server profile \"tls\": without a policy file only the sidecar's own namespace \
         may use any backend and server profile, others the backend <namespace>.<service>, and nobody a regular expression"
    );
    assert!(
        reason(
            &with("default", "haproxy.tls.profile=/etc/key.pem"),
            &["web"]
        )
        .contains("the name has the character '/'")
    );
}

#[test]
fn names_that_others_chose_are_not_ours() {
    for name in [
        "nomad1",
        "nomad-web",
        "nomad-1a2b3c4d",
        "nomad-1a2b3c4d-XXXXXXXX",
        "x-nomad-1a2b3c4d-00112233",
    ] {
        assert!(!is_dynamic_name(&ServerName::new(name).unwrap()), "{name}");
    }
}

#[test]
fn two_registrations_with_one_address_are_served_once_for_the_younger() {
    let mut servers = Vec::new();
    for (id, index) in [("old", 5), ("new", 9), ("older", 3)] {
        let mut registration = registration("default", "web", "10.0.0.1", 80, &[]);
        registration.id = id.into();
        registration.create_index = index;
        servers.extend(one(&registration, &["web"]).servers.into_values().flatten());
    }
    let (kept, dropped) = one_per_address(servers.iter());
    assert_eq!(
        kept.iter()
            .map(|server| &*server.registration)
            .collect::<Vec<_>>(),
        ["new"]
    );
    assert_eq!(dropped.len(), 2);
}
