//! Dynamic servers: added and deleted at runtime, known by name alone. What their check needs, how they come in without
//! a request before their first passed check, and what is changed in place.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Address, Capability, Command, Defect, Keyword, ServerName, ServerRef, ServerState,
};

use super::{
    desired::{DesiredServer, Reason},
    fixed_tags::{Cookie, FixedTags},
    hands::{Hand, Unread, hand},
    made::Origin,
    plan::{
        ADMISSION_POLL, ADMISSION_WATCH, Admission, Kind, Obstacle, Plan, Situation, Why, admit,
        is_owned, watch_admissions,
    },
    removal,
    server_name::{is_same_allocation, stable_cookie},
};

/// The weight of a dynamic server without the tag.
const DEFAULT_WEIGHT: u16 = 1;

/// Plans a backend without slots.
pub(super) fn plan(desired: &[&DesiredServer], situation: &Situation<'_>, plan: &mut Plan) {
    let owned: BTreeMap<&ServerName, &ServerState> = situation
        .observed
        .servers
        .iter()
        .filter(|server| is_owned(server, Kind::Dynamic, situation.policy))
        .filter_map(|server| Some((server.name.as_ref()?, server)))
        .collect();
    let mut wanted: BTreeMap<&ServerName, &DesiredServer> = BTreeMap::new();
    for server in desired {
        wanted.insert(&server.name, server);
    }
    let mut replacements = Replacements::new(&wanted, &owned);
    // In one that is only about to be made, that was measured not to happen.
    let may_crash = situation.version.has(Defect::CrashInDisabledBackend)
        && situation.observed.origin != Origin::Missing;
    for (name, server) in &wanted {
        let present = owned.get(name).copied();
        note_tags(server, situation, plan);
        if situation.is_suspended(name, &server.registration, plan) {
            continue;
        }
        match present {
            None if !situation.version.can(Capability::DynamicServers) => {
                plan.hinder(
                    server.registration.clone(),
                    Obstacle::NoDynamicServers(situation.version),
                );
            }
            None if may_crash && situation.observed.stat.is_none() => {
                plan.wants_stat = true;
            }
            None if may_crash
                && !situation
                    .observed
                    .stat
                    .as_ref()
                    .is_some_and(|stat| stat.is_running) =>
            {
                plan.hinder(server.registration.clone(), Obstacle::DisabledBackend);
            }
            None if keep_elder(server, &owned, &wanted, situation, plan) => {}
            None if !replacements.allow(server) => {}
            None => add(server, situation, plan),
            // The name holds the address: whoever changed it, what is there is another server.
            Some(state) if state.address() != Some(server.address) => {
                removal::plan(state, situation, plan);
            }
            Some(state) => keep(server, state, situation, plan),
        }
    }
    // Where an operator holds the successor, nothing comes, and nothing else shall serve at that address.
    let is_held = |server: &DesiredServer| plan.is_out_by_hand(&server.name);
    let on_the_way: BTreeSet<_> = wanted
        .iter()
        .filter(|(name, _)| !owned.get(*name).is_some_and(|state| state.in_rotation()))
        .filter(|(_, server)| !is_held(server))
        .map(|(_, server)| server.address)
        .collect();
    watch_admissions(!on_the_way.is_empty(), situation, plan);
    replacements.report(situation, plan);
    for (name, state) in owned {
        if wanted.contains_key(name) || plan.stays_by_hand(name) {
            continue;
        }
        // The same instance under another name, because a tag changed: it serves until its successor does.
        let successor = state
            .address()
            .is_some_and(|address| on_the_way.contains(&address));
        if successor && state.in_rotation() && replacements.replaces(state) {
            plan.look_within(ADMISSION_POLL);
        } else if replacements.replaces(state) {
            removal::plan_replaced(state, situation, plan);
        } else {
            removal::plan(state, situation, plan);
        }
    }
}

/// Whether a server that is not there has an elder, of the same instance with other tags, that an operator has changed by
/// hand. Then it does not come in behind his back: the elder stays as it is.
fn keep_elder(
    server: &DesiredServer,
    owned: &BTreeMap<&ServerName, &ServerState>,
    wanted: &BTreeMap<&ServerName, &DesiredServer>,
    situation: &Situation<'_>,
    plan: &mut Plan,
) -> bool {
    let is_elder = |(name, state): &(&&ServerName, &&ServerState)| {
        state.address() == Some(server.address)
            && is_same_allocation(name, &server.name)
            && !wanted.contains_key(**name)
    };
    // Names of one allocation are next to each other.
    let elders = owned.iter().filter(is_elder);
    for (name, state) in elders {
        let departed = situation
            .memory
            .departed_of(server.address, name, Kind::Dynamic);
        let tags = departed.unwrap_or(server);
        let asked = tags.weight.unwrap_or(DEFAULT_WEIGHT);
        match hand(name, state, asked, situation, plan) {
            Ok(None) => {}
            Ok(Some(hand)) => {
                plan.leave(server, name, hand, true);
                return true;
            }
            Err(Unread) => return true,
        }
    }
    false
}

/// Instances whose tags have changed, and with them the name of their server: only some are replaced at a time.
struct Replacements<'a> {
    /// The servers that are wanted in the place of others, by address.
    successors: BTreeMap<Address, &'a DesiredServer>,
    /// Those that are in HAProxy and not UP yet.
    coming: Vec<&'a DesiredServer>,
    allowed: usize,
    waiting: usize,
}

impl<'a> Replacements<'a> {
    fn new(
        wanted: &BTreeMap<&'a ServerName, &'a DesiredServer>,
        owned: &BTreeMap<&ServerName, &ServerState>,
    ) -> Self {
        let by_address: BTreeMap<Address, &DesiredServer> = wanted
            .values()
            .map(|server| (server.address, *server))
            .collect();
        let mut successors = BTreeMap::new();
        for (name, state) in owned.iter().filter(|(name, _)| !wanted.contains_key(*name)) {
            let Some(address) = state.address().filter(|_| state.in_rotation()) else {
                continue;
            };
            if let Some(successor) = by_address.get(&address)
                && is_same_allocation(name, &successor.name)
            {
                successors.insert(address, *successor);
            }
        }
        let is_coming = |server: &&&DesiredServer| {
            owned
                .get(&server.name)
                .is_some_and(|state| !state.admin.in_maintenance() && !state.in_rotation())
        };
        let coming: Vec<_> = successors.values().filter(is_coming).copied().collect();
        let at_a_time = (wanted.len() / 10).max(1);
        Self {
            allowed: at_a_time.saturating_sub(coming.len()),
            successors,
            coming,
            waiting: 0,
        }
    }

    /// Whether a server that is not there may be brought in now.
    fn allow(&mut self, server: &DesiredServer) -> bool {
        if !self.successors.contains_key(&server.address) {
            return true;
        }
        if self.allowed == 0 {
            self.waiting += 1;
            return false;
        }
        self.allowed -= 1;
        true
    }

    /// Whether `elder` has a successor.
    fn replaces(&self, elder: &ServerState) -> bool {
        elder
            .address()
            .is_some_and(|address| self.successors.contains_key(&address))
    }

    /// Says which of those that come hold up the others.
    fn report(&self, situation: &Situation<'_>, plan: &mut Plan) {
        let since = situation.memory.changed_at.unwrap_or(situation.now);
        if self.waiting == 0 || situation.now.saturating_sub(since) < ADMISSION_WATCH {
            return;
        }
        for server in &self.coming {
            plan.hinder(
                server.registration.clone(),
                Obstacle::ReplacementDown(server.name.clone(), self.waiting),
            );
        }
    }
}

/// Brings in a server that is not there. With `init-state` the check is enabled last, below it before `health down`:
/// so it is never in maintenance with its check enabled, which only an operator does.
fn add(server: &DesiredServer, situation: &Situation<'_>, plan: &mut Plan) {
    let target = situation.server(&server.name);
    let put_back = situation.was_in_rotation(server);
    let why = if put_back {
        Why::PutBack
    } else {
        Why::Registered
    };
    let starts_down =
        !put_back && !server.fixed.check_disabled && situation.version.can(Capability::InitState);
    plan.step(
        Command::AddServer(
            target.clone(),
            server.address,
            keywords(server, starts_down, situation),
        ),
        why,
    );
    if starts_down {
        plan.step(Command::Ready(target.clone()), why);
        plan.step(Command::EnableHealth(target), why);
    } else {
        let check = !server.fixed.check_disabled;
        admit(
            &target,
            &Admission {
                enable_check: check,
                down: check && !put_back,
                weight: None,
            },
            why,
            plan,
        );
    }
    // Last: an agent can make a server ready.
    if server.fixed.agent_port.is_some() {
        plan.step(Command::EnableAgent(situation.server(&server.name)), why);
    }
}

/// The keywords of `add server`. `default-server` is never inherited, so everything is said.
fn keywords(server: &DesiredServer, starts_down: bool, situation: &Situation<'_>) -> Vec<Keyword> {
    let fixed = &server.fixed;
    let mut keywords = vec![Keyword::Weight(server.weight.unwrap_or(DEFAULT_WEIGHT))];
    if let Some(maxconn) = server.maxconn.filter(|&maxconn| maxconn > 0) {
        keywords.push(Keyword::Maxconn(maxconn));
    }
    if fixed.backup {
        keywords.push(Keyword::Backup);
    }
    keywords.extend(fixed.maxqueue.map(Keyword::Maxqueue));
    keywords.extend(fixed.slowstart.map(Keyword::Slowstart));
    if let Some(cookie) = &fixed.cookie
        && situation.version.can(Capability::ServerCookie)
    {
        keywords.push(Keyword::Cookie(match cookie {
            Cookie::Auto => stable_cookie(&server.service.namespace, &server.registration),
            Cookie::Value(value) => value.clone(),
        }));
    }
    keywords.extend(fixed.send_proxy.map(Keyword::SendProxy));
    keywords.extend(fixed.proto.map(Keyword::Proto));
    keywords.extend(fixed.tls_keywords.clone().map(Keyword::Profile));
    if let Some(port) = fixed.agent_port {
        keywords.push(Keyword::AgentCheck(port));
        keywords.push(Keyword::AgentInter(fixed.agent_inter.unwrap_or(2_000)));
    }
    if situation.version.has(Defect::NoReuseByDynamicServers) {
        keywords.push(Keyword::ReuseConnections);
    }
    if !fixed.check_disabled {
        // A good server is UP after two of the shorter intervals.
        keywords.extend([
            Keyword::Check,
            Keyword::Inter(fixed.inter.unwrap_or(2_000)),
            Keyword::FastInter(fixed.fast_inter.unwrap_or(250)),
            Keyword::DownInter(fixed.down_inter.unwrap_or(250)),
            Keyword::Rise(rise(fixed.rise)),
            Keyword::Fall(fixed.fall.unwrap_or(3)),
        ]);
        // As in a configuration: a check on a port of its own is plain unless the profile says otherwise.
        match fixed.check_port {
            Some(port) => keywords.push(Keyword::CheckPort(port)),
            None => keywords.extend(checked_alike(fixed)),
        }
        let section = fixed.check_profile.clone();
        let section = section.filter(|_| situation.version.can(Capability::HealthcheckSections));
        keywords.extend(section.map(Keyword::Healthcheck));
    }
    if starts_down {
        keywords.push(Keyword::InitStateFullyDown);
    }
    keywords
}

/// What makes a check reach the server as its clients do.
fn checked_alike(fixed: &FixedTags) -> impl Iterator<Item = Keyword> {
    let words = fixed.tls_keywords.as_ref();
    let is_tls = words.is_some_and(|words| {
        let said = ["check-ssl", "no-check-ssl"];
        words.has("ssl") && !said.iter().any(|word| words.has(word))
    });
    let tls = is_tls.then_some(Keyword::CheckSsl);
    let proxied = fixed.send_proxy.map(|_| Keyword::CheckSendProxy);
    tls.into_iter().chain(proxied)
}

/// Tags that this HAProxy, or this backend of it, cannot fulfil.
fn note_tags(server: &DesiredServer, situation: &Situation<'_>, plan: &mut Plan) {
    let fixed = &server.fixed;
    for (given, tag, capability) in [
        (fixed.cookie.is_some(), "cookie", Capability::ServerCookie),
        (
            fixed.check_profile.is_some(),
            "check.profile",
            Capability::HealthcheckSections,
        ),
    ] {
        if given && !situation.version.can(capability) {
            plan.note(server, Reason::NotBefore(tag, capability.since()));
        }
    }
    if fixed.cookie.is_some()
        && situation.version.can(Capability::ServerCookie)
        && !situation.memory.cookies
    {
        plan.note(server, Reason::NoCookieLine);
    }
}

fn rise(tag: Option<u16>) -> u16 {
    tag.unwrap_or(2)
}

/// A server that is there and wanted: finishes what was interrupted, and keeps what can be changed in place.
fn keep(server: &DesiredServer, state: &ServerState, situation: &Situation<'_>, plan: &mut Plan) {
    let target = situation.server(&server.name);
    let weight = server.weight.unwrap_or(DEFAULT_WEIGHT);
    // What an agent makes of it is as good.
    let is_agents = state.agent.is_enabled();
    let new_weight = (weight != state.weight && !is_agents).then_some(weight);
    let enable_check = state.check.is_configured() && !state.check.is_enabled();
    let admission = Admission {
        enable_check,
        down: state.check.is_configured(),
        weight: new_weight,
    };
    let Ok(hand) = hand(&server.name, state, weight, situation, plan) else {
        return;
    };
    let hand = hand.filter(|hand| !is_agents || !matches!(hand, Hand::Weight { .. }));
    if let Some(hand) = hand {
        plan.leave(server, &server.name, hand, false);
        if !state.admin.is_ready() {
            return;
        }
    }
    let passed = state.check_health > i32::from(rise(server.fixed.rise));
    let is_unchecked = state.check.is_configured() && state.is_up() && !passed;
    if enable_check || state.admin.in_maintenance() || (state.admin.in_drain() && is_unchecked) {
        admit(&target, &admission, Why::Resumed, plan);
    } else if state.admin.in_drain() {
        plan.step(Command::Ready(target.clone()), Why::Returned);
        if let Some(weight) = new_weight {
            plan.step(Command::SetWeight(target, weight), Why::Returned);
        }
    } else {
        if let Some(weight) = new_weight.filter(|_| hand.is_none()) {
            plan.step(Command::SetWeight(target.clone(), weight), Why::Weight);
        }
        keep_maxconn(server, target, situation, plan);
    }
    if state.agent.is_configured() && !is_agents {
        plan.step(
            Command::EnableAgent(situation.server(&server.name)),
            Why::Resumed,
        );
    }
}

fn keep_maxconn(
    server: &DesiredServer,
    target: ServerRef,
    situation: &Situation<'_>,
    plan: &mut Plan,
) {
    let Some(stat) = situation.observed.stat_of(&server.name) else {
        plan.wants_stat |= server.maxconn.is_some();
        return;
    };
    let wanted = server.maxconn.unwrap_or(0);
    if stat.maxconn.unwrap_or(0) != u64::from(wanted) {
        plan.step(Command::SetMaxconn(target, wanted), Why::Maxconn);
    }
}
