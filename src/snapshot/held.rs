//! A held server in the snapshot. Its registration is gone, so it is written as one that would ask for it: what is read
//! back is validated by the same functions as Nomad's.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    model::{BackendName, Registration, ServerName, ServiceKey},
    reconcile::{
        HeldServer,
        desired::{self, DesiredServer},
        is_dynamic_name,
        tags::{self, Cookie},
    },
};

/// No hold lasts longer: no setting may say more.
const DAY: Duration = Duration::from_hours(24);
/// Of the tags in the snapshot, whatever that of the catalog is.
const PREFIX: &str = "haproxy";

#[derive(Deserialize, Serialize)]
pub(super) struct HeldWire {
    backend: String,
    /// Its name as a dynamic server.
    name: String,
    registration: String,
    /// Namespace and name.
    service: Option<(String, String)>,
    address: String,
    port: i64,
    tags: Vec<String>,
    created: u64,
    /// When it ends at the latest.
    until: u64,
}

impl HeldWire {
    /// `now` is since the epoch.
    pub(super) fn of(held: &HeldServer, now: Duration) -> Self {
        let server = &held.server;
        let service = held.service.as_ref();
        Self {
            backend: held.backend.to_string(),
            name: server.name.to_string(),
            registration: server.registration.to_string(),
            service: service.map(|key| (key.namespace.to_string(), key.name.to_string())),
            address: server.address.ip.to_string(),
            port: server.address.port.get().into(),
            tags: tags_of(server),
            created: server.create_index,
            until: millis(now.saturating_add(held.left)),
        }
    }

    /// Nothing, when its time is over or anything of it is not valid.
    pub(super) fn into_held(self, now: Duration) -> Option<HeldServer> {
        let left = Duration::from_millis(self.until).checked_sub(now)?;
        let name = ServerName::new(&self.name).ok();
        let name = name.filter(is_dynamic_name)?;
        let tags = tags::read(PREFIX, &self.tags).ok()?;
        let service = self.service;
        let service = service.map(|(namespace, name)| ServiceKey::new(&namespace, &name));
        let unknown = || ServiceKey::new("", "");
        let registration = Registration {
            id: self.registration.into(),
            service: service.clone().unwrap_or_else(unknown),
            alloc_id: "".into(),
            job_id: "".into(),
            tags: Vec::new(),
            address: self.address,
            port: self.port,
            create_index: self.created,
            modify_index: 0,
        };
        let address = desired::address(&registration).ok()?;
        Some(HeldServer {
            backend: BackendName::new(&self.backend).ok()?,
            server: DesiredServer {
                registration: registration.id,
                service: registration.service,
                address,
                name,
                weight: tags.weight,
                maxconn: tags.maxconn,
                canary: tags.canary,
                fixed: tags.fixed,
                leaving: tags.leaving,
                create_index: registration.create_index,
            },
            service,
            left: left.min(DAY),
        })
    }
}

/// The tags that make `server` what it is. How long it is held is not among them.
fn tags_of(server: &DesiredServer) -> Vec<String> {
    let mut tags = Vec::new();
    let mut tag = |key: &str, value: Option<String>| {
        tags.extend(value.map(|value| format!("{PREFIX}.{key}={value}")));
    };
    let on = |is_on: bool| is_on.then(|| "true".to_owned());
    let time = |time: Duration| match time.as_millis() {
        0 => "0s".to_owned(),
        millis => format!("{millis}ms"),
    };
    let interval = |millis: Option<u32>| millis.map(|millis| format!("{millis}ms"));
    let (fixed, leaving) = (&server.fixed, &server.leaving);
    tag("weight", server.weight.map(|weight| weight.to_string()));
    tag("maxconn", server.maxconn.map(|maxconn| maxconn.to_string()));
    tag("canary", on(server.canary));
    tag("backup", on(fixed.backup));
    tag("check.disabled", on(fixed.check_disabled));
    tag("check.port", fixed.check_port.map(|port| port.to_string()));
    tag("check.interval", interval(fixed.inter));
    tag("check.fastinter", interval(fixed.fast_inter));
    tag("check.downinter", interval(fixed.down_inter));
    tag("check.rise", fixed.rise.map(|rise| rise.to_string()));
    tag("check.fall", fixed.fall.map(|fall| fall.to_string()));
    let section = fixed.check_profile.as_ref();
    tag("check.profile", section.map(ToString::to_string));
    tag("maxqueue", fixed.maxqueue.map(|most| most.to_string()));
    tag("slowstart", interval(fixed.slowstart));
    let cookie = fixed.cookie.as_ref().map(|cookie| match cookie {
        Cookie::Auto => "auto".to_owned(),
        Cookie::Value(value) => value.to_string(),
    });
    tag("cookie", cookie);
    tag(
        "send-proxy",
        fixed.send_proxy.map(|header| header.to_string()),
    );
    tag("proto", fixed.proto.map(|protocol| protocol.to_string()));
    tag("agent.port", fixed.agent_port.map(|port| port.to_string()));
    tag("agent.interval", interval(fixed.agent_inter));
    // What it stands for is looked up again.
    tag(
        "tls.profile",
        fixed.tls_profile.as_ref().map(ToString::to_string),
    );
    tag("min-ready", leaving.min_ready.map(|most| most.to_string()));
    tag("drain.timeout", leaving.drain_timeout.map(time));
    let close = leaving.close_sessions.then(|| "close".to_owned());
    tag("drain.sessions", close);
    tags
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
