//! What is in the way of a registration, in an operator's words: each says what to do.

use std::{fmt, sync::Arc};

use crate::model::{ServerName, Version};

/// What is in the way of a registration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Obstacle {
    /// Every slot of the template is taken.
    NoFreeSlot,
    /// So many slots are free but for sessions of those who had them.
    SlotsNotQuiet(usize),
    /// Its replacement, by changed tags, does not come UP, and so many others wait for that.
    ReplacementDown(ServerName, usize),
    /// The backend is `disabled` in the configuration.
    DisabledBackend,
    /// Below 2.6 there are no dynamic servers, and the backend has no slots.
    NoDynamicServers(Version),
    /// HAProxy refused; tried again later.
    Refused(ServerName, String),
    /// HAProxy does not make the backend from this `defaults` section.
    NotMade(Arc<str>, String),
    /// It does not publish it, made from this section.
    NotPublished(Arc<str>, String),
    /// It does not remove it.
    NotRemoved(String),
    /// Made from this section, it takes no servers.
    TakesNoServers(Arc<str>, String),
    /// An operator has unpublished it.
    UnpublishedByHand,
}

impl Obstacle {
    /// The word for it in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoFreeSlot => "no_free_slot",
            Self::SlotsNotQuiet(_) => "slots_not_quiet",
            Self::ReplacementDown(..) => "replacement_down",
            Self::DisabledBackend => "disabled_backend",
            Self::NoDynamicServers(_) => "no_dynamic_servers",
            Self::Refused(..) => "refused_by_haproxy",
            Self::NotMade(..) => "backend_not_made",
            Self::NotPublished(..) => "backend_not_published",
            Self::NotRemoved(_) => "backend_not_removed",
            Self::TakesNoServers(..) => "backend_takes_no_servers",
            Self::UnpublishedByHand => "backend_unpublished_by_hand",
        }
    }

    /// Whether it is in the way of the backend itself.
    pub(super) fn is_of_backend(&self) -> bool {
        match self {
            Self::NotMade(..)
            | Self::NotPublished(..)
            | Self::NotRemoved(_)
            | Self::TakesNoServers(..)
            | Self::UnpublishedByHand => true,
            Self::NoFreeSlot
            | Self::SlotsNotQuiet(_)
            | Self::ReplacementDown(..)
            | Self::DisabledBackend
            | Self::NoDynamicServers(_)
            | Self::Refused(..) => false,
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DisabledBackend => {
                f.write_str("the backend is disabled: take `disabled` out of it in haproxy.cfg")
            }
            Self::NoFreeSlot => {
                f.write_str("no free slot: raise the number in the backend's server-template line, and reload HAProxy")
            }
            Self::SlotsNotQuiet(slots) => write!(
                f,
                "no free slot: {slots} slots still have sessions of instances that are gone, which are closed one after \
                 the other; raise the number in the backend's server-template line, and reload HAProxy"
            ),
            Self::ReplacementDown(server, waiting) => write!(
                f,
                "server {server}, with its changed tags, does not pass its check; the former one goes on serving, and \
                 {waiting} other instances keep their former tags until then"
            ),
            Self::NoDynamicServers(version) => write!(
                f,
                "HAProxy {version} cannot add servers: declare slots with `server-template nomad 1-32 slot.invalid:1 \
                 disabled init-addr last,127.0.0.1`"
            ),
            Self::Refused(server, text) => {
                write!(f, "HAProxy refused a change of {server}: {text}")
            }
            Self::NotMade(profile, text) if text.starts_with("Cannot find default proxy") => write!(
                f,
                "HAProxy has no such backend, and no section `defaults {profile}` to make it from: add either to haproxy.cfg, or \
                 name another section with --backend-profiles"
            ),
            Self::NotMade(profile, text) if text.starts_with("Mode is required") => write!(
                f,
                "no backend can be made from the section `defaults {profile}`: add `mode http` or `mode tcp` to it in haproxy.cfg"
            ),
            Self::NotMade(_, text) if text.contains("name is already used by other proxy") => {
                let other = text.rsplit_once("other proxy ").map_or("", |(_, other)| other);
                let other = other.trim_end_matches('.');
                write!(
                    f,
                    "no backend of this name can be made, because haproxy.cfg has {other}: rename that, or name another backend with \
                     the tag backend.name"
                )
            }
            Self::NotMade(profile, text) => {
                write!(f, "HAProxy does not make the backend from `defaults {profile}`: {text}")
            }
            Self::NotPublished(profile, text) if text.contains("disabled backend") => write!(
                f,
                "the backend was made disabled: take `disabled` out of the section `defaults {profile}` in haproxy.cfg"
            ),
            Self::NotPublished(_, text) => write!(f, "HAProxy does not publish the backend: {text}"),
            Self::NotRemoved(text) => {
                write!(f, "HAProxy does not remove the backend, which nothing is registered for: {text}")
            }
            Self::TakesNoServers(profile, text) => write!(
                f,
                "the backend takes no servers at runtime: change `balance` in the section `defaults {profile}` of haproxy.cfg, for \
                 example to roundrobin ({text})"
            ),
            Self::UnpublishedByHand => f.write_str(
                "the backend was unpublished by hand and stays so: `publish backend` at the stats socket ends that",
            ),
        }
    }
}
