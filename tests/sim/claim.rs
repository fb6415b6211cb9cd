//! One registration as it was told, and what it makes of a server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use haproxy_nomad_sidecar::{
    model::{Address, BackendName, Registration, ServiceKey},
    reconcile::desired::DesiredServer,
};

#[derive(Clone)]
pub(crate) struct Claim {
    pub(crate) registration: Registration,
    pub(crate) server: Option<(BackendName, DesiredServer)>,
    /// The highest index at which its presence was told.
    pub(crate) index: u64,
    /// Its absence was told since.
    pub(crate) removable: bool,
    /// The mirror has said that it is there.
    pub(crate) told: bool,
    /// Since when it says so, and when it ceased to; and to which sidecar it said so last.
    pub(crate) told_since: Duration,
    pub(crate) gone_since: Option<Duration>,
    /// When it ceased to before it said so last.
    pub(crate) gone_before: Option<Duration>,
    /// When it ceased to the last time, seen there between or not.
    pub(crate) gone_last: Duration,
    pub(crate) generation: u32,
    /// It is there by the snapshot of the sidecar before, and nobody has told otherwise.
    pub(crate) borrowed: bool,
}

/// A registration that a server was or is for, for those who judge what is done to the server.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) service: ServiceKey,
    pub(crate) id: Arc<str>,
    pub(crate) alloc_id: Arc<str>,
    /// Of several with one address the youngest is served.
    pub(crate) create_index: u64,
    pub(crate) address: Address,
    /// It is there as far as the sidecar knows.
    pub(crate) is_there: bool,
    /// The mirror says that it is there, since then.
    pub(crate) told_since: Option<Duration>,
    /// The mirror said so, and ceased to at that time.
    pub(crate) gone_since: Option<Duration>,
    /// The last time that it ceased to, though nobody may have seen it there between.
    pub(crate) gone_last: Duration,
    /// The last sidecar that knew it.
    pub(crate) generation: u32,
    pub(crate) is_canary: bool,
    pub(crate) hold: Option<Duration>,
    pub(crate) min_ready: usize,
    pub(crate) drain_timeout: Option<Duration>,
}

impl Tenant {
    /// The same registration, whatever its tags.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.service == other.service && self.id == other.id
    }
}

impl Claim {
    /// As far as this sidecar knows.
    pub(crate) fn is_there(&self) -> bool {
        self.told || self.borrowed
    }

    /// None if it asks for no server.
    pub(crate) fn tenant(&self) -> Option<Tenant> {
        let (_, server) = self.server.as_ref()?;
        let tag = |key: &str| {
            let mut tags = self.registration.tags.iter();
            tags.find_map(|tag| {
                tag.strip_prefix("haproxy.")?
                    .strip_prefix(key)?
                    .strip_prefix('=')
            })
        };
        let seconds = |key: &str| {
            let number = tag(key)?.strip_suffix('s')?.parse().ok()?;
            Some(Duration::from_secs(number))
        };
        Some(Tenant {
            address: server.address,
            service: self.registration.service.clone(),
            id: self.registration.id.clone(),
            alloc_id: self.registration.alloc_id.clone(),
            create_index: self.registration.create_index,
            is_there: self.is_there(),
            told_since: self.told.then_some(self.told_since),
            gone_since: self.gone_since,
            gone_last: self.gone_last,
            generation: self.generation,
            is_canary: tag("canary") == Some("true"),
            hold: seconds("hold"),
            min_ready: tag("min-ready").map_or(1, |text| text.parse().unwrap()),
            drain_timeout: seconds("drain.timeout"),
        })
    }
}

pub(crate) fn is_at(server: &DesiredServer, address: SocketAddr) -> bool {
    server.address.ip == address.ip() && server.address.port.get() == address.port()
}

pub(crate) fn is_same(one: &Registration, other: &Registration) -> bool {
    one.id == other.id
        && one.address == other.address
        && one.port == other.port
        && one.tags == other.tags
}
