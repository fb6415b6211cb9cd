//! From registrations to the servers that should be in HAProxy: which backend, which address, which keywords. Whatever
//! cannot be used is rejected alone, with a reason an operator can read.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
};

use crate::model::{Address, BackendName, Registration, ServerName, ServiceKey};

use super::{
    Policy,
    server_name::dynamic_name,
    tags::{self, FixedTags, LeavingTags, Tags},
};

pub use super::reason::{Reason, Rejection};

/// A server that should be in HAProxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredServer {
    /// The registration's ID, unique in its namespace.
    pub registration: Arc<str>,
    /// The service it belongs to.
    pub service: ServiceKey,
    /// Where it listens.
    pub address: Address,
    /// The name that it has as a dynamic server.
    pub name: ServerName,
    /// The tag `weight`.
    pub weight: Option<u16>,
    /// The tag `maxconn`.
    pub maxconn: Option<u32>,
    /// The tag `canary`: it replaces nothing that is stable.
    pub canary: bool,
    /// The tags that cannot be changed on a server that exists.
    pub fixed: FixedTags,
    /// The tags that say how it leaves.
    pub leaving: LeavingTags,
    /// The registration's `CreateIndex`: of two with one address, the younger is served.
    pub create_index: u64,
}

/// Who is wanted at an address, of servers in the order of theirs.
pub(super) fn desired_at(servers: &[DesiredServer], address: Address) -> Option<&DesiredServer> {
    let place = servers.binary_search_by_key(&address, |server| server.address);
    place.ok().map(|place| &servers[place])
}

/// What a server is known by: a slot by its address, a dynamic server by its name.
pub type Identity = (Address, ServerName);

impl DesiredServer {
    /// What its server is known by.
    #[must_use]
    pub fn identity(&self) -> Identity {
        (self.address, self.name.clone())
    }
}

/// What one service contributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contribution {
    /// Servers by backend. A backend is there even when it has none: the service resolves to it.
    pub servers: BTreeMap<BackendName, Vec<DesiredServer>>,
    /// The one that all of its servers there are in by the service's name, not by a tag.
    pub by_name: Option<BackendName>,
    /// What is not served, or not as asked.
    pub rejections: BTreeSet<Rejection>,
}

/// The servers that `registrations`, all those of `service`, ask for.
#[must_use]
pub fn contribution(
    service: &ServiceKey,
    registrations: &[Registration],
    backends: &BTreeSet<BackendName>,
    policy: &Policy,
) -> Contribution {
    let mut contribution = Contribution::default();
    let mut by_tag = BTreeSet::new();
    for registration in registrations {
        let mut reject = |reason| {
            contribution.rejections.insert(Rejection {
                registration: registration.id.clone(),
                reason,
            });
        };
        let tags = match tags::read(&policy.tag_prefix, &registration.tags) {
            Ok(tags) if tags.enable.unwrap_or(policy.expose_by_default) => tags,
            Ok(_) => continue,
            Err(problems) => {
                reject(Reason::Tags(problems));
                continue;
            }
        };
        for note in &tags.notes {
            reject(Reason::Note(note.clone()));
        }
        if let Some(weight) = tags.weight
            && let Err(refusal) = policy.rules.weight(service, weight)
        {
            reject(Reason::Capped(refusal));
        }
        match server(registration, &tags, backends, policy) {
            Ok((backend, server)) => {
                if tags.backend.is_none() {
                    contribution.by_name = Some(backend.clone());
                } else {
                    by_tag.insert(backend.clone());
                }
                let servers = contribution.servers.entry(backend).or_default();
                servers.push(server);
            }
            Err(reason) => reject(reason),
        }
    }
    contribution
        .by_name
        .take_if(|backend| by_tag.contains(backend));
    // By its name the service follows a backend even when nothing of it is registered any more.
    if contribution.servers.is_empty()
        && let Ok(backend) = resolve(service, None, backends, policy)
    {
        contribution.servers.insert(backend, Vec::new());
    }
    contribution
}

fn server(
    registration: &Registration,
    tags: &Tags,
    backends: &BTreeSet<BackendName>,
    policy: &Policy,
) -> Result<(BackendName, DesiredServer), Reason> {
    let address = address(registration)?;
    let backend = resolve(
        &registration.service,
        tags.backend.as_ref(),
        backends,
        policy,
    )?;
    let fixed = with_profile(&tags.fixed, &registration.service, policy)?;
    let heaviest = policy.rules.max_weight(&registration.service);
    let server = DesiredServer {
        registration: registration.id.clone(),
        service: registration.service.clone(),
        address,
        name: dynamic_name(registration, address, &fixed),
        weight: tags.weight.map(|weight| weight.min(heaviest)),
        maxconn: tags.maxconn,
        canary: tags.canary,
        fixed,
        leaving: tags.leaving,
        create_index: registration.create_index,
    };
    Ok((backend, server))
}

/// The tags with the keywords that the server profile stands for that they name.
pub(super) fn with_profile(
    fixed: &FixedTags,
    service: &ServiceKey,
    policy: &Policy,
) -> Result<FixedTags, Reason> {
    let mut fixed = fixed.clone();
    if let Some(profile) = &fixed.tls_profile {
        let allowed = policy.rules.server_profile(service, profile.as_str());
        allowed.map_err(Reason::Refused)?;
        let keywords = policy.server_profiles.get(profile).ok_or_else(|| {
            let known = policy.server_profiles.keys();
            Reason::NoSuchServerProfile(profile.clone(), known.map(ToString::to_string).collect())
        })?;
        fixed.tls_keywords = Some(keywords.clone());
    }
    Ok(fixed)
}

/// Where a registration says that it listens.
///
/// # Errors
///
/// When HAProxy cannot be told of it.
pub fn address(registration: &Registration) -> Result<Address, Reason> {
    if registration.address.is_empty() {
        return Err(Reason::NoAddress);
    }
    let Ok(ip) = registration.address.parse::<IpAddr>() else {
        return Err(Reason::NotAnIpAddress(tags::shown(&registration.address)));
    };
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(Reason::NotAnIpAddress(tags::shown(&registration.address)));
    }
    let port = u16::try_from(registration.port)
        .ok()
        .and_then(NonZeroU16::new);
    Ok(Address {
        ip,
        port: port.ok_or(Reason::NoPort(registration.port))?,
    })
}

/// The backend of a service: the tag, else the service's name, else that with `-` as `_`, or in another namespace than
/// the sidecar's own `<namespace>.<service>`; if the rules allow it.
fn resolve(
    service: &ServiceKey,
    tag: Option<&BackendName>,
    backends: &BTreeSet<BackendName>,
    policy: &Policy,
) -> Result<BackendName, Reason> {
    if let Some(backend) = tag {
        let allowed = policy.rules.backend(service, backend);
        allowed.map_err(Reason::Refused)?;
        return if backends.contains(backend) {
            Ok(backend.clone())
        } else {
            Err(Reason::NoSuchBackend(vec![backend.to_string()]))
        };
    }
    // With a dot in it, a service of the sidecar's own namespace could pass for one of another.
    if service.name.contains('.') {
        return Err(Reason::Name("it has a dot in it".to_owned()));
    }
    let candidates = if policy.rules.is_own(service) {
        vec![service.name.to_string(), service.name.replace('-', "_")]
    } else {
        vec![format!("{}.{}", service.namespace, service.name)]
    };
    BackendName::new(&candidates[0]).map_err(|error| Reason::Name(error.to_string()))?;
    let known = candidates
        .iter()
        .filter_map(|name| BackendName::new(name).ok())
        .find(|name| backends.contains(name));
    let known = known.ok_or_else(|| {
        let mut names = candidates;
        names.dedup();
        Reason::NoSuchBackend(names)
    })?;
    let allowed = policy.rules.backend(service, &known);
    allowed.map_err(Reason::Refused)?;
    Ok(known)
}

/// The services whose name alone resolves to `backend`: who could have put a server there before the sidecar started.
#[must_use]
pub fn possible_services(backend: &BackendName, policy: &Policy) -> BTreeSet<ServiceKey> {
    match backend.as_str().split_once('.') {
        Some((namespace, service)) => [ServiceKey::new(namespace, service)].into(),
        None => [
            backend.as_str().to_owned(),
            backend.as_str().replace('_', "-"),
        ]
        .iter()
        .map(|name| ServiceKey::new(policy.rules.own_namespace(), name))
        .collect(),
    }
}

/// Of servers with one address only the youngest is served; the others are told so.
#[must_use]
pub fn one_per_address<'a>(
    servers: impl Iterator<Item = &'a DesiredServer>,
) -> (Vec<&'a DesiredServer>, Vec<Rejection>) {
    let mut by_address: BTreeMap<Address, &DesiredServer> = BTreeMap::new();
    let mut rejections = Vec::new();
    for server in servers {
        let Some(other) = by_address.insert(server.address, server) else {
            continue;
        };
        let rank = |server: &DesiredServer| {
            (
                server.create_index,
                server.service.clone(),
                server.registration.clone(),
            )
        };
        let (kept, dropped) = if rank(other) > rank(server) {
            (other, server)
        } else {
            (server, other)
        };
        by_address.insert(kept.address, kept);
        rejections.push(Rejection {
            registration: dropped.registration.clone(),
            reason: Reason::SameAddress(kept.address, kept.registration.clone()),
        });
    }
    (by_address.into_values().collect(), rejections)
}

#[cfg(test)]
mod tests {
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
        let backends = backends
            .iter()
            .map(|name| BackendName::new(name).unwrap())
            .collect();
        contribution(
            &registration.service,
            std::slice::from_ref(registration),
            &backends,
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
                "its address \"db.example\" is not an IP address, and HAProxy resolves no names at runtime",
            ),
            (
                "10.0.0.1 port 1;shutdown frontend fe",
                80,
                "its address \"10.0.0.1 port 1;shutdown frontend fe\" is not an IP address, and HAProxy resolves no \
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
        let web = BackendName::new("web").unwrap();
        let registrations = std::slice::from_ref(&registration);
        let found = contribution(&registration.service, registrations, &[web].into(), &policy);
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
}
