//! Backends that are made at runtime, from HAProxy 3.4 on: made from a `defaults` section when a registration needs one,
//! published when a server of it is UP, kept for a while when nothing is registered any more, and then removed.
//!
//! What `haproxy.cfg` or an operator has made is used and never changed. The guid tells which is which.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::model::{BackendName, Capability, Command, ProfileName, ServerState, ServiceKey};

use super::{
    Policy, Removals,
    desired::{DesiredServer, Reason},
    dynamic,
    plan::{Obstacle, Plan, Situation, Why},
    tags::Tags,
};

/// How often it is looked whether entries of maps still lead to one that is about to be removed.
const ROUTES_POLL: Duration = Duration::from_secs(1);

/// Whose a backend is, as far as HAProxy told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// It is in `haproxy.cfg`, or was made by somebody at the socket.
    #[default]
    Operator,
    /// There is none.
    Missing,
    /// A sidecar made it.
    Made {
        /// `use_backend` finds it.
        is_published: bool,
    },
}

/// Which backends a HAProxy process has, and whether it can have more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// All of them.
    pub backends: BTreeSet<BackendName>,
    /// Those that a sidecar made, and whether they are published.
    pub made: BTreeMap<BackendName, bool>,
    /// This version can make backends.
    pub can_make: bool,
}

impl From<BTreeSet<BackendName>> for Places {
    /// Backends of an operator's, and no way to make others.
    fn from(backends: BTreeSet<BackendName>) -> Self {
        Self {
            backends,
            ..Self::default()
        }
    }
}

impl Places {
    /// Whose the backend `name` is.
    #[must_use]
    pub fn origin(&self, name: &BackendName) -> Origin {
        match self.made.get(name) {
            Some(&is_published) => Origin::Made { is_published },
            None if self.backends.contains(name) => Origin::Operator,
            None => Origin::Missing,
        }
    }

    /// Takes in that HAProxy carried `command` out.
    pub(super) fn changed(&mut self, command: &Command) {
        match command {
            Command::AddBackend(name, _) => {
                self.backends.insert(name.clone());
                self.made.insert(name.clone(), false);
            }
            Command::PublishBackend(name) | Command::UnpublishBackend(name) => {
                let is_published = matches!(command, Command::PublishBackend(_));
                self.was_read(name, is_published);
            }
            Command::DeleteBackend(name) => {
                self.backends.remove(name);
                self.made.remove(name);
            }
            Command::SetAddress(..)
            | Command::Ready(_)
            | Command::Drain(_)
            | Command::Maintenance(_)
            | Command::HealthDown(_)
            | Command::EnableHealth(_)
            | Command::EnableAgent(_)
            | Command::DisableAgent(_)
            | Command::SetWeight(..)
            | Command::SetMaxconn(..)
            | Command::AddServer(..)
            | Command::DeleteServer(_)
            | Command::ShutdownSessions(_) => {}
        }
    }

    /// Takes in whether a backend is published.
    pub(super) fn was_read(&mut self, name: &BackendName, is_published: bool) {
        if let Some(published) = self.made.get_mut(name) {
            *published = is_published;
        }
    }
}

/// The `defaults` section that a registration wants its backend to be made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wish {
    /// A canary decides nothing as long as there is another.
    pub is_stable: bool,
    /// Of several registrations the newest decides.
    pub create_index: u64,
    /// Which section.
    pub profile: ProfileName,
}

/// The `defaults` section that the backend of a registration is to be made from; `None` when it may not be made.
///
/// # Errors
///
/// When it may not be made from the section that its tag names.
pub(super) fn profile(
    service: &ServiceKey,
    tags: &Tags,
    places: &Places,
    policy: &Policy,
) -> Result<Option<ProfileName>, Reason> {
    if !places.can_make || tags.is_custom {
        return Ok(None);
    }
    let profiles = &policy.backend_profiles;
    let Some(profile) = tags.profile.as_ref().or(profiles.first()) else {
        return Ok(None);
    };
    if !profiles.contains(profile) {
        return Err(Reason::UnknownProfile(profile.clone(), profiles.clone()));
    }
    let allowed = policy.rules.profile(service, profile.as_str());
    allowed.map_err(Reason::Refused)?;
    Ok(Some(profile.clone()))
}

/// What a sidecar remembers of a backend that it may have to make.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The `defaults` section that its services want it to be made from; `None` when they do not want it to be made.
    pub profile: Option<ProfileName>,
    /// The one that this sidecar made it from.
    pub made_from: Option<ProfileName>,
    /// It was published: it is again as soon as it was made anew, so that nobody else answers for it.
    pub was_published: bool,
    /// Since when nothing is wanted there, and nothing is there.
    pub empty_since: Option<Duration>,
    /// Entries of maps lead to it: they go before it does.
    pub is_routed: bool,
    /// What HAProxy last refused of it, and when that is tried again.
    pub refused: Option<(Duration, String)>,
    /// It was made and takes no servers, in HAProxy's words.
    pub takes_no_servers: Option<String>,
    /// This process has been seen to have it.
    pub is_seen: bool,
    /// And to publish it: if it does not any more, somebody has unpublished it.
    pub is_seen_published: bool,
    /// It is removed.
    pub is_over: bool,
}

impl Life {
    /// Another process is there: it has none of it.
    pub(super) fn forget_process(&mut self) {
        self.refused = None;
        self.takes_no_servers = None;
        self.is_seen = false;
        self.is_seen_published = false;
    }

    /// Remembers what was accepted.
    pub(super) fn changed(&mut self, command: &Command, remark: Option<&str>) {
        self.refused = None;
        match command {
            Command::AddBackend(_, profile) => {
                self.made_from = Some(profile.clone());
                self.takes_no_servers = remark.map(str::to_owned);
                self.is_over = false;
            }
            Command::PublishBackend(_) => self.was_published = true,
            Command::UnpublishBackend(_) => {
                self.was_published = false;
                self.is_seen_published = false;
            }
            Command::DeleteBackend(_) => {
                *self = Self {
                    profile: self.profile.take(),
                    is_over: true,
                    ..Self::default()
                }
            }
            Command::SetAddress(..)
            | Command::Ready(_)
            | Command::Drain(_)
            | Command::Maintenance(_)
            | Command::HealthDown(_)
            | Command::EnableHealth(_)
            | Command::EnableAgent(_)
            | Command::DisableAgent(_)
            | Command::SetWeight(..)
            | Command::SetMaxconn(..)
            | Command::AddServer(..)
            | Command::DeleteServer(_)
            | Command::ShutdownSessions(_) => {}
        }
    }

    /// Takes in whether anything is wanted there, or is there.
    pub(super) fn see(&mut self, now: Duration, origin: Origin, is_empty: bool) {
        if let Origin::Made { is_published } = origin {
            self.is_seen = true;
            self.is_seen_published |= is_published;
            self.was_published |= is_published;
        } else if self.is_seen && is_empty {
            // Somebody else has removed it, and nothing asks for it.
            *self = Self {
                is_over: true,
                ..Self::default()
            };
        }
        let lasts = match origin {
            Origin::Operator => false,
            Origin::Made { .. } => true,
            // It was there before HAProxy restarted.
            Origin::Missing => self.empty_since.is_some() || self.was_published,
        };
        self.empty_since = (is_empty && lasts).then(|| self.empty_since.unwrap_or(now));
    }

    /// How long it is kept yet although nobody wants anything of it; `None` when somebody does.
    fn left(&self, now: Duration, policy: &Policy) -> Option<Duration> {
        let empty = now.saturating_sub(self.empty_since?);
        Some(policy.backend_linger.saturating_sub(empty))
    }

    /// Whether nothing of it is left, here and in HAProxy.
    pub(super) fn is_gone(&self, now: Duration, origin: Origin, policy: &Policy) -> bool {
        origin == Origin::Missing
            && !self.is_routed
            && (self.is_over || self.is_ending(now, policy))
    }

    /// Whether it is about to be removed, so that nothing may lead to it any more.
    #[must_use]
    pub fn is_ending(&self, now: Duration, policy: &Policy) -> bool {
        self.left(now, policy) == Some(Duration::ZERO)
    }
}

/// Plans a backend that is the sidecar's, or would be.
pub(super) fn plan(desired: &[&DesiredServer], situation: &Situation<'_>, plan: &mut Plan) {
    match situation.observed.origin {
        Origin::Operator => dynamic::plan(desired, situation, plan),
        Origin::Missing => make(desired, situation, plan),
        Origin::Made { is_published } => {
            let life = &situation.memory.life;
            note_profile(desired, life, plan);
            if let Some(text) = &life.takes_no_servers {
                let obstacle = Obstacle::TakesNoServers(profile_of(life), text.clone());
                plan.hinder(whose(desired, situation), obstacle);
                end(is_published, situation, plan);
                return;
            }
            dynamic::plan(desired, situation, plan);
            publish(desired, is_published, situation, plan);
            end(is_published, situation, plan);
        }
    }
}

fn make(desired: &[&DesiredServer], situation: &Situation<'_>, plan: &mut Plan) {
    let life = &situation.memory.life;
    let left = life.left(situation.now, situation.policy);
    let lingers = left.is_some_and(|left| !left.is_zero());
    if (desired.is_empty() && !lingers) || !situation.version.can(Capability::DynamicBackends) {
        return;
    }
    let Some(profile) = life.profile.as_ref().or(life.made_from.as_ref()) else {
        return;
    };
    if is_refused(desired, situation, plan) {
        return;
    }
    let was_there = life.was_published
        || desired
            .iter()
            .any(|server| situation.was_in_rotation(server));
    let why = if was_there {
        Why::PutBack
    } else {
        Why::NoBackend
    };
    plan.step(
        Command::AddBackend(situation.backend.clone(), profile.clone()),
        why,
    );
    // What was refused before may be again, and then nothing of the following would be understood.
    if life.refused.is_some() {
        return;
    }
    dynamic::plan(desired, situation, plan);
    let is_ready_at_once = |server: &&&DesiredServer| server.fixed.check_disabled;
    if was_there || desired.iter().any(|server| is_ready_at_once(&server)) {
        plan.step(Command::PublishBackend(situation.backend.clone()), why);
    }
}

/// Makes it known to `use_backend` when it has something to serve with.
fn publish(
    desired: &[&DesiredServer],
    is_published: bool,
    situation: &Situation<'_>,
    plan: &mut Plan,
) {
    let life = &situation.memory.life;
    if is_published || life.is_ending(situation.now, situation.policy) {
        return;
    }
    if life.is_seen_published {
        plan.hinder(whose(desired, situation), Obstacle::UnpublishedByHand);
        return;
    }
    let mut servers = situation.observed.servers.iter();
    let is_up = servers.any(ServerState::in_rotation);
    if (!is_up && !life.was_published) || is_refused(desired, situation, plan) {
        return;
    }
    let why = if is_up { Why::FirstUp } else { Why::PutBack };
    plan.step(Command::PublishBackend(situation.backend.clone()), why);
}

/// Removes it when nothing was wanted of it for long enough.
fn end(is_published: bool, situation: &Situation<'_>, plan: &mut Plan) {
    let life = &situation.memory.life;
    let Some(left) = life.left(situation.now, situation.policy) else {
        return;
    };
    if !left.is_zero() {
        plan.look_within(left);
        return;
    }
    if situation.removals == Removals::Frozen {
        return;
    }
    if life.is_routed {
        plan.look_within(ROUTES_POLL);
        return;
    }
    if let Some((_, text)) = &life.refused {
        let name = situation.backend.as_str().into();
        let obstacle = Obstacle::NotRemoved(text.clone());
        plan.hinder(name, obstacle);
    }
    if may_not_yet(situation, plan) {
        return;
    }
    let name = || situation.backend.clone();
    if is_published {
        plan.step(Command::UnpublishBackend(name()), Why::Lingered);
    }
    plan.step(Command::DeleteBackend(name()), Why::Lingered);
}

/// Whether HAProxy has refused to make or to publish it, and is left alone for now. That is in the way of the registrations.
fn is_refused(desired: &[&DesiredServer], situation: &Situation<'_>, plan: &mut Plan) -> bool {
    let life = &situation.memory.life;
    if let Some((_, text)) = &life.refused {
        let profile = profile_of(life);
        let obstacle = if situation.observed.origin == Origin::Missing {
            Obstacle::NotMade(profile, text.clone())
        } else {
            Obstacle::NotPublished(profile, text.clone())
        };
        plan.hinder(whose(desired, situation), obstacle);
    }
    may_not_yet(situation, plan)
}

fn may_not_yet(situation: &Situation<'_>, plan: &mut Plan) -> bool {
    let refused = situation.memory.life.refused.as_ref();
    let Some(left) = refused.and_then(|(until, _)| until.checked_sub(situation.now)) else {
        return false;
    };
    if left.is_zero() {
        return false;
    }
    plan.look_within(left);
    true
}

/// The section that it was made from, or is to be.
fn profile_of(life: &Life) -> Arc<str> {
    let profile = life.made_from.as_ref().or(life.profile.as_ref());
    profile.map_or("", ProfileName::as_str).into()
}

/// Who is told: the oldest registration that wants it.
fn whose(desired: &[&DesiredServer], situation: &Situation<'_>) -> Arc<str> {
    let oldest = desired.iter().min_by_key(|server| server.create_index);
    oldest.map_or_else(
        || situation.backend.as_str().into(),
        |server| Arc::clone(&server.registration),
    )
}

/// A backend keeps the section that it was made from.
fn note_profile(desired: &[&DesiredServer], life: &Life, plan: &mut Plan) {
    let (Some(from), Some(to)) = (&life.made_from, &life.profile) else {
        return;
    };
    let newest = desired.iter().max_by_key(|server| server.create_index);
    if let Some(server) = newest.filter(|_| from != to) {
        plan.note(server, Reason::ProfileLater(from.clone(), to.clone()));
    }
}
