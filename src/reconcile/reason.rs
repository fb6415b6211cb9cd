//! Why a registration is not served, or not as its tags ask, in an operator's words.

use std::{fmt, sync::Arc};

use super::{
    Refusal,
    routes::RouteReason,
    tags::{self, TagProblem},
};
use crate::model::{Address, BackendName, ProfileName, ServerProfileName, ServiceKey, Version};

/// A registration that is not served, or not as its tags ask.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rejection {
    /// The registration's ID.
    pub registration: Arc<str>,
    /// Why.
    pub reason: Reason,
}

/// Why a registration is not served, or not as its tags ask.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its address is empty.
    NoAddress,
    /// Its address is not an IP address; HAProxy resolves no names at runtime.
    NotAnIpAddress(String),
    /// Its port is 0 or no port at all.
    NoPort(i64),
    /// Tags with unusable values.
    Tags(Vec<TagProblem>),
    /// No backend of any of these names is in HAProxy.
    NoSuchBackend(Vec<String>),
    /// The service's name cannot name a backend.
    Name(String),
    /// The operator's rules do not allow it.
    Refused(Refusal),
    /// Another registration of the same backend has this address and is younger.
    SameAddress(Address, Arc<str>),
    /// Nomad says that its allocation has ended: its client status.
    AllocationEnded(Arc<str>),
    /// Its backend may not be made from this `defaults` section, but from these.
    UnknownProfile(ProfileName, Vec<ProfileName>),
    /// Served, but its backend was made from the first of these sections, and the second takes effect later.
    ProfileLater(ProfileName, ProfileName),
    /// Served, but its backend is an operator's.
    NoProfile(BackendName),
    /// Something about its routes: it is served, but perhaps not found.
    Route(RouteReason),
    /// The operator's rules do not allow a route of it.
    RouteRefused(Refusal),
    /// Served, but a tag has no effect.
    Note(TagProblem),
    /// Its tags name a server profile that the operator did not declare; those that there are.
    NoSuchServerProfile(ServerProfileName, Vec<String>),
    /// The backend's name is another service's, too, and that one was first.
    ClaimedBackend(BackendName, ServiceKey),
    /// Served; another service claims the same backend and is not.
    Claimant(BackendName, ServiceKey),
    /// Served with the heaviest weight that the operator's rules allow.
    Capped(Refusal),
    /// Served, but only from that version on HAProxy can do what the tag asks.
    NotBefore(&'static str, Version),
    /// Served, but in a backend without a `cookie` line.
    NoCookieLine,
    /// Served, but a slot cannot do what the tag asks.
    NotWithSlots(&'static str),
}

impl Reason {
    /// Whether the registration is served all the same.
    #[must_use]
    pub fn is_note(&self) -> bool {
        matches!(
            self,
            Self::Note(_)
                | Self::NotWithSlots(_)
                | Self::SameAddress(..)
                | Self::ProfileLater(..)
                | Self::NoProfile(_)
                | Self::Claimant(..)
                | Self::Capped(_)
                | Self::NotBefore(..)
                | Self::NoCookieLine
                | Self::Route(_)
                | Self::RouteRefused(_)
        )
    }

    /// Whether the service is not found by a route that it asks for.
    #[must_use]
    pub fn costs_a_route(&self) -> bool {
        matches!(self, Self::RouteRefused(_))
            || matches!(self, Self::Route(reason) if !reason.is_note())
    }
}

impl Reason {
    /// The word for it in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoAddress | Self::NotAnIpAddress(_) | Self::NoPort(_) => "no_address",
            Self::Tags(_) | Self::Note(_) | Self::NoSuchServerProfile(..) => "bad_tag",
            Self::UnknownProfile(..) => "no_such_profile",
            Self::ProfileLater(..) | Self::NoProfile(_) => "profile_without_effect",
            Self::NoSuchBackend(_) => "no_such_backend",
            Self::Name(_) => "bad_name",
            Self::Refused(_) | Self::Capped(_) | Self::RouteRefused(_) => "refused_by_policy",
            Self::ClaimedBackend(..) | Self::Claimant(..) => "claimed_twice",
            Self::SameAddress(..) => "same_address",
            Self::AllocationEnded(_) => "allocation_ended",
            Self::NotWithSlots(_) => "not_with_slots",
            Self::NotBefore(..) => "not_with_version",
            Self::NoCookieLine => "no_cookie_line",
            Self::Route(_) => "route",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => {
                f.write_str("it has no address: give the service a port label, or an address")
            }
            Self::NotAnIpAddress(address) => {
                write!(
                    f,
                    "its address {address} is no IP address of a server, and HAProxy resolves no names at runtime"
                )
            }
            Self::NoPort(port) => write!(f, "its port is {port}: give the service a port label"),
            Self::Tags(problems) => {
                let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
                f.write_str(&problems.join("; "))
            }
            Self::NoSuchBackend(names) => write!(
                f,
                "HAProxy has no backend named {}: add one to haproxy.cfg, or name another with the tag backend.name",
                names.join(" or ")
            ),
            Self::Name(why) => write!(f, "its service's name cannot name a backend: {why}"),
            Self::Refused(refusal) | Self::RouteRefused(refusal) => refusal.fmt(f),
            Self::SameAddress(address, other) => {
                write!(
                    f,
                    "its address {address} is served once, for the younger registration {}",
                    tags::shown(other)
                )
            }
            Self::AllocationEnded(status) => write!(
                f,
                "its allocation has ended (ClientStatus {}), and it is not UP: if the registration stays, delete it with `nomad \
                 service delete`",
                tags::shown(status)
            ),
            Self::UnknownProfile(profile, profiles) => {
                let profiles: Vec<_> = profiles.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "its backend cannot be made from the section `defaults {profile}`, which --backend-profiles does not name: it \
                     names {}",
                    profiles.join(", ")
                )
            }
            Self::ProfileLater(from, to) => write!(
                f,
                "its backend was made from the section `defaults {from}` and stays so: {to} takes effect when it is made anew, \
                 which is after a restart of HAProxy, or after nothing was registered for --backend-linger"
            ),
            Self::NoProfile(backend) => write!(
                f,
                "tag backend.profile has no effect: the backend {backend} is in haproxy.cfg, and its own lines decide"
            ),
            Self::NoSuchServerProfile(profile, known) if known.is_empty() => write!(
                f,
                "tag tls.profile: there is no server profile {profile}: declare it with --server-profile \
                 '{profile}=ssl verify required ca-file …'"
            ),
            Self::NoSuchServerProfile(profile, known) => write!(
                f,
                "tag tls.profile: there is no server profile {profile}, but {}: declare it with --server-profile",
                known.join(", ")
            ),
            Self::ClaimedBackend(backend, winner) => write!(
                f,
                "the backend {backend} is that of the service {}, which was registered first: rename one of the two, or give \
                 one another backend by the tag backend.name",
                tags::shown(&winner.to_string())
            ),
            Self::Claimant(backend, loser) => write!(
                f,
                "the service {} claims the backend {backend}, too, and is not served, because this one was registered first: \
                 rename one of the two, or give one another backend by the tag backend.name",
                tags::shown(&loser.to_string())
            ),
            Self::Capped(refusal) => {
                write!(f, "{refusal}; it is served with the heaviest that is allowed")
            }
            Self::NotBefore(tag, version) => write!(
                f,
                "tag {tag} has no effect: HAProxy can do that for servers added at runtime from {}.{} on",
                version.major, version.minor
            ),
            Self::NoCookieLine => f.write_str(
                "tag cookie has no effect: the backend has no `cookie` line in haproxy.cfg, such as `cookie SRV insert \
                 indirect nocache`",
            ),
            Self::Route(reason) => reason.fmt(f),
            Self::Note(problem) => problem.fmt(f),
            Self::NotWithSlots(tag) => write!(
                f,
                "tag {tag} has no effect in a backend of server-template slots: the template line decides"
            ),
        }
    }
}
