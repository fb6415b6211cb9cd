//! Invariants 6 to 10, as they are kept: judged at each line that HAProxy carries out and at each request of a client.
//!
//! A line is judged by what it does to its server, and by what the core could know when it wanted it. The simulation's
//! own book is behind it, never the core's memory.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use haproxy_nomad_sidecar::model::{Command, ServerName};

use crate::{
    claim::Tenant,
    haproxy_model::{Cut, Dispatch, Model, Rotation, View},
    session::Sent,
    world::World,
};

pub(crate) const MAKE_BEFORE_BREAK: &str = "(6) make before break";
pub(crate) const NOTHING_IS_CUT: &str = "(7) nothing is cut that could finish";
pub(crate) const QUIET_SLOTS: &str = "(8) a slot is used again only when quiet";
pub(crate) const HAPROXY_ADMITS: &str = "(9) HAProxy admits";
pub(crate) const VERDICTS: &str = "(10) a verdict of HAProxy is never overridden";

const MAINTENANCE: u8 = 1;
const DRAIN: u8 = 8;
const UP: u8 = 2;
/// What a reading told may be so old when the core answers to it.
const SEEN_LATE: Duration = Duration::from_millis(20);
/// A replacement that was UP so short a time ago was seen UP.
const UP_LATELY: Duration = Duration::from_secs(1);
/// Sessions of one server at a time are closed, with about a second between.
const CLOSING_PAUSE: Duration = Duration::from_millis(900);
/// After that, without any trouble, the sidecar has done what it was told.
const DONE_BY: Duration = Duration::from_secs(5);

type Name = (String, String);

/// What is known of the servers of this process, beside what the process knows.
pub(crate) struct Book {
    /// Addresses that were sent and not read back yet.
    unread: BTreeMap<Name, SocketAddr>,
    /// Who was made ready there last, when, and by which sidecar.
    tenants: BTreeMap<Name, (Tenant, Duration, u32)>,
    /// When sessions were closed last, by backend.
    closed: BTreeMap<String, Duration>,
    /// When nothing resolved to a backend last: what is in its slots then, a sidecar that has just started leaves alone.
    unfollowed: BTreeMap<String, Duration>,
    /// Backends in which a change came to nobody knows what, and when that was heard.
    pub(crate) not_understood: BTreeMap<String, Duration>,
    /// When the sidecar was hindered last.
    pub(crate) trouble: Duration,
}

impl Book {
    /// Of a process that starts now.
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            unread: BTreeMap::new(),
            tenants: BTreeMap::new(),
            closed: BTreeMap::new(),
            unfollowed: BTreeMap::new(),
            not_understood: BTreeMap::new(),
            trouble: now,
        }
    }

    /// The process that this was about is another one now. Whose slots are that a state file brought back is known.
    pub(crate) fn process_is_new(&mut self, process: &Model, now: Duration) {
        let before = std::mem::replace(self, Self::new(now));
        self.tenants = before.tenants;
        self.tenants.retain(|(backend, name), _| {
            let view = process.server(backend, name);
            view.is_some_and(|view| view.address != placeholder())
        });
    }
}

fn placeholder() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

fn dynamic_name(view: &View) -> Option<&str> {
    view.dynamic.then_some(&*view.name)
}

impl World {
    /// A change was carried out: what it did to its server.
    pub(crate) fn judge_change(
        &mut self,
        command: &Command,
        line: &Sent,
        before: Option<&View>,
        after: Option<&View>,
        cuts: &[Cut],
    ) {
        let Some(before) = before else { return };
        if after.is_none() {
            let name = (before.backend.clone(), before.name.clone());
            self.book.unread.remove(&name);
            self.book.tenants.remove(&name);
        }
        let still_rotates = after.is_some_and(|view| view.in_rotation);
        if before.in_rotation && !still_rotates && !line.is_readied {
            self.judge_break(before, line);
        }
        self.judge_sessions(command, line, before, cuts);
        self.judge_slot(command, before);
        if let Some(after) = after {
            self.judge_verdict(before, after);
        }
        // With cookies a slot gets its address when it is ready already.
        if let Command::SetAddress(_, address) = command
            && before.admin & (MAINTENANCE | DRAIN) == 0
        {
            let address: SocketAddr = address.to_string().parse().unwrap();
            self.note_tenant(before, address);
        } else if matches!(command, Command::Ready(_)) {
            self.note_tenant(before, before.address);
        }
    }

    fn note_tenant(&mut self, view: &View, address: SocketAddr) {
        let name = (view.backend.clone(), view.name.clone());
        let tenants = self
            .ledger
            .tenants(&view.backend, address, dynamic_name(view));
        let known = tenants.into_iter().filter(|one| one.is_there);
        if let Some(tenant) = known.max_by_key(|one| one.create_index) {
            let entry = (tenant, self.now, self.generation);
            self.book.tenants.insert(name, entry);
        }
    }

    /// Who was made ready there last, if that is known.
    pub(crate) fn admitted(&self, view: &View) -> Option<&Tenant> {
        let name = (view.backend.clone(), view.name.clone());
        self.book.tenants.get(&name).map(|(tenant, ..)| tenant)
    }

    /// Whether another one had its address, too, since somebody was made ready there: which of them it is let to is the core's to say.
    pub(crate) fn was_shared(&self, view: &View) -> bool {
        let name = (view.backend.clone(), view.name.clone());
        let admitted = self.book.tenants.get(&name);
        admitted
            .is_some_and(|(tenant, since, _)| self.ledger.others_at(view.address, tenant, *since))
    }

    // === 6 ===

    /// A server in rotation is taken out of it.
    fn judge_break(&mut self, view: &View, line: &Sent) {
        let Rotation::In { since } = view.rotation else {
            return;
        };
        let tenants = self
            .ledger
            .tenants(&view.backend, view.address, dynamic_name(view));
        if tenants.iter().any(|one| one.told_since.is_some()) {
            // Another law's.
            return;
        }
        let Some((gone, tenant)) = tenants
            .into_iter()
            .filter_map(|one| Some((one.gone_since?, one)))
            .max_by_key(|(gone, _)| *gone)
        else {
            return;
        };
        let held_until = gone + tenant.hold.unwrap_or(Duration::MAX).min(self.ledger.hold());
        let was_down = since > gone;
        let is_claimed = self.ledger.others_at(view.address, &tenant, gone);
        // Where its tags say now.
        let is_there_now = |other: &View| {
            other.address == view.address
                && (other.in_rotation || other.has_passed)
                && self.ledger.moved(&tenant, &view.backend, &other.backend)
        };
        if self.servers().iter().any(is_there_now) {
            return;
        }
        if !is_claimed {
            self.judge_guards(view, &tenant, (since, gone.max(tenant.gone_last)), line);
        }
        if let Some(successor) = self.ledger.successor(&view.backend, &tenant)
            && !is_claimed
        {
            return self.judge_successor(view, &successor, line);
        }
        if self.now >= held_until || was_down || is_claimed {
            return;
        }
        // A sidecar that never knew the service takes any of the backend for a replacement.
        let knows_service = tenant.generation == self.generation
            && self.knows_since.is_some_and(|since| since < gone);
        let seen_since = gone.min(line.wanted_at.saturating_sub(UP_LATELY));
        let replacements = self.servers().into_iter().filter(|other| {
            let was_seen_up = match other.rotation {
                Rotation::In { .. } => true,
                Rotation::Out { since } => since.is_some_and(|at| at >= seen_since),
            };
            let replaces = |one: &Tenant| {
                let is_there = one.told_since.is_some() || one.gone_since > Some(gone);
                is_there
                    && (tenant.is_canary || !one.is_canary)
                    && (one.service == tenant.service || !knows_service)
            };
            other.backend == view.backend
                && other.name != view.name
                && was_seen_up
                && self
                    .ledger
                    .tenants(&other.backend, other.address, dynamic_name(other))
                    .iter()
                    .any(replaces)
        });
        let replacements = replacements.count();
        let min_ready = if knows_service { tenant.min_ready } else { 1 };
        if replacements < min_ready {
            let ago = self.now.saturating_sub(gone);
            let how = format!(
                "{:?} takes out {}/{} at {}, gone for {ago:?}, with {replacements} of {} others of {} UP",
                line.text.trim_end(),
                view.backend,
                view.name,
                view.address,
                min_ready,
                tenant.service,
            );
            self.violated(MAKE_BEFORE_BREAK, &how);
        }
    }

    /// The registration is still there, with other tags, and asks for another server.
    fn judge_successor(&mut self, view: &View, successor: &ServerName, line: &Sent) {
        let other = self.current_pid.and_then(|pid| {
            let process = &self.processes[&pid];
            process.server(&view.backend, successor.as_str())
        });
        // An operator may hold it, and then nothing else shall serve there.
        let is_in = other.is_some_and(|other| {
            other.address == view.address
                && (other.has_passed || other.oper == UP || self.is_held(&other))
        });
        if !is_in {
            let how = format!(
                "{:?} takes out {}/{} at {}, whose successor {successor} is not UP",
                line.text.trim_end(),
                view.backend,
                view.name,
                view.address
            );
            self.violated(MAKE_BEFORE_BREAK, &how);
        }
    }

    // === 7 ===

    fn judge_sessions(&mut self, command: &Command, line: &Sent, view: &View, cuts: &[Cut]) {
        let tenants = self
            .ledger
            .tenants(&view.backend, view.address, dynamic_name(view));
        let timeouts = tenants.iter().filter_map(|one| one.drain_timeout);
        let timeout = timeouts.chain([self.policy.drain_timeout]).min();
        let timeout = timeout.unwrap_or_default();
        let is_ready = view.admin & (MAINTENANCE | DRAIN) == 0;
        let drained = if is_ready {
            Duration::ZERO
        } else {
            self.now.saturating_sub(view.left_ready)
        };
        let server = format!("{}/{}", view.backend, view.name);
        let how = match command {
            Command::Maintenance(_) if view.admin & MAINTENANCE == 0 => {
                let seen = line.wanted_at.saturating_sub(SEEN_LATE);
                let oldest = view.oldest_session.filter(|since| *since < seen);
                // Where another one listens by now, nobody shall come any more; what is under way goes on.
                let is_claimed = || {
                    self.ledger.is_anothers(view.address, self.admitted(view))
                        || self.was_shared(view)
                };
                oldest.filter(|_| drained < timeout && !is_claimed()).map(|since| {
                    let lasts = self.now.saturating_sub(since);
                    format!("{server} is put into maintenance {drained:?} after it was ready, under a session of {lasts:?}")
                })
            }
            Command::ShutdownSessions(_) if !cuts.is_empty() => {
                let closed = self.book.closed.insert(view.backend.clone(), self.now);
                let pause = closed.map(|at| self.now.saturating_sub(at));
                if drained < timeout {
                    Some(format!(
                        "{} sessions of {server} are closed {drained:?} after it was ready",
                        cuts.len()
                    ))
                } else if pause.is_some_and(|pause| pause < CLOSING_PAUSE) {
                    Some(format!(
                        "sessions of {server} are closed {pause:?} after those of another"
                    ))
                } else {
                    None
                }
            }
            Command::HealthDown(_)
                if view.admin & MAINTENANCE == 0 && view.oper == UP && view.is_sound =>
            {
                let key = (view.backend.clone(), view.name.clone());
                let recorded = self.book.tenants.get(&key);
                let is_its = |(tenant, since, by): &&(Tenant, Duration, u32)| {
                    *by == self.generation
                        && tenants
                            .iter()
                            .any(|one| one.told_since.is_some() && one.is(tenant))
                        && !self.ledger.others_at(view.address, tenant, *since)
                };
                recorded.filter(is_its).map(|_| {
                    format!("{server} is UP, and its registration has to pass its checks again")
                })
            }
            Command::Maintenance(_)
            | Command::ShutdownSessions(_)
            | Command::HealthDown(_)
            | Command::Drain(_)
            | Command::Ready(_)
            | Command::SetAddress(..)
            | Command::EnableHealth(_)
            | Command::EnableAgent(_)
            | Command::DisableAgent(_)
            | Command::SetWeight(..)
            | Command::SetMaxconn(..)
            | Command::AddServer(..)
            | Command::DeleteServer(_)
            | Command::AddBackend(..)
            | Command::PublishBackend(_)
            | Command::UnpublishBackend(_)
            | Command::DeleteBackend(_) => None,
        };
        if let Some(how) = how {
            self.violated(NOTHING_IS_CUT, &how);
        }
    }

    // === 8 ===

    fn judge_slot(&mut self, command: &Command, view: &View) {
        let name = (view.backend.clone(), view.name.clone());
        let server = format!("{}/{}", view.backend, view.name);
        let how = match command {
            Command::SetAddress(_, address) => {
                let address: SocketAddr = address.to_string().parse().unwrap();
                self.book.unread.insert(name, address);
                let changes = address != view.address;
                if changes && view.sessions > 0 {
                    Some(format!(
                        "{server} gets the address {address} under {} sessions",
                        view.sessions
                    ))
                } else if changes && address != placeholder() && view.idle > 0 {
                    Some(format!(
                        "{server} gets the address {address} with {} idle connections",
                        view.idle
                    ))
                } else {
                    None
                }
            }
            Command::Ready(_) if self.book.unread.contains_key(&name) => Some(format!(
                "{server} is made ready, and its address {} was not read back",
                self.book.unread[&name]
            )),
            Command::Ready(_) if view.is_moving => Some(format!(
                "{server} is made ready before its address is in force"
            )),
            Command::Ready(_)
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
            | Command::ShutdownSessions(_)
            | Command::AddBackend(..)
            | Command::PublishBackend(_)
            | Command::UnpublishBackend(_)
            | Command::DeleteBackend(_) => None,
        };
        if let Some(how) = how {
            self.violated(QUIET_SLOTS, &how);
        }
    }

    /// Addresses are read: those that are as they were asked for are known to be.
    pub(crate) fn addresses_were_read(&mut self, backend: Option<&str>) {
        let Some(process) = self.current_pid.map(|pid| &self.processes[&pid]) else {
            return;
        };
        self.book.unread.retain(|(of, name), address| {
            let is_read = backend.is_none_or(|backend| backend == of);
            let view = process.server(of, name).filter(|_| is_read);
            view.is_none_or(|view| view.address != *address)
        });
    }

    // === 8 and 9 ===

    /// A client's request is sent to a server.
    pub(crate) fn judge_dispatch(&mut self, backend: &str, dispatch: &Dispatch) {
        let server = format!("{backend}/{}", dispatch.server);
        if dispatch.to != dispatch.address {
            let how = format!(
                "a request to {server} at {} goes over an old connection to {}",
                dispatch.address, dispatch.to
            );
            self.violated(QUIET_SLOTS, &how);
        }
        // At the placeholder, where a slot comes in, nobody is.
        if !dispatch.is_admitted
            && dispatch.address != placeholder()
            && !self.may_be_put_back(backend, dispatch.address)
        {
            let how = format!(
                "a request goes to {server} at {} unchecked",
                dispatch.address
            );
            self.violated(HAPROXY_ADMITS, &how);
        }
        if !self.ledger.follows(backend) {
            self.book.unfollowed.insert(backend.to_owned(), self.now);
        }
        let left_alone = self.book.unfollowed.get(backend).copied();
        let calm_since = self.book.trouble.max(self.stalled_until);
        let calm_since = calm_since.max(left_alone.unwrap_or_default());
        // What an operator makes ready is where he left it.
        let by_hand = (backend.to_owned(), dispatch.server.clone());
        if self.sidecar.is_some()
            && !self.operator.touched.contains(&by_hand)
            && self.now >= calm_since + DONE_BY
            && let Some(owner) = self.ledger.stranger_at(
                backend,
                dispatch.to,
                self.now.saturating_sub(DONE_BY),
                (self.generation, self.knows_since),
            )
        {
            let how = format!("a request to {server} reaches {owner} at {}", dispatch.to);
            self.violated(QUIET_SLOTS, &how);
        }
    }

    // === 10 ===

    /// What a line makes of a server that HAProxy has found DOWN.
    pub(crate) fn judge_verdict(&mut self, before: &View, after: &View) {
        let is_raised = before.oper != UP && before.admin & MAINTENANCE == 0 && after.oper == UP;
        if before.found_down && !before.in_rotation && (after.in_rotation || is_raised) {
            let how = format!(
                "{}/{} at {} was DOWN and is made UP",
                after.backend, after.name, after.address
            );
            self.violated(VERDICTS, &how);
        }
    }
}
