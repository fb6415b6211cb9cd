//! One server: admin state, operational state, health. Follows `srv_update_status` and `set_server_check_status` of
//! HAProxy's sources as far as runs have shown it.

use std::{net::SocketAddr, time::Duration};

use super::{Check, Conduct, Line, ServerLine, traffic::Session};

/// Admin bits.
pub(super) const MAINT: u8 = 1;
pub(super) const CONFIG_DISABLED: u8 = 4;
pub(super) const DRAIN: u8 = 8;

/// `srv_op_state`.
pub(super) const STOPPED: u8 = 0;
pub(super) const RUNNING: u8 = 2;

/// What a check said last: `srv_check_status` and the word of `show stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckStatus {
    Initializing,
    Connected,
    Refused,
    Ok,
    WrongStatus,
}

impl CheckStatus {
    pub(super) const ALL: [Self; 5] = [
        Self::Initializing,
        Self::Connected,
        Self::Refused,
        Self::Ok,
        Self::WrongStatus,
    ];

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Initializing => 1,
            Self::Connected => 6,
            Self::Refused => 8,
            Self::Ok => 15,
            Self::WrongStatus => 17,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Initializing => "INI",
            Self::Connected => "L4OK",
            Self::Refused => "L4CON",
            Self::Ok => "L7OK",
            Self::WrongStatus => "L7STS",
        }
    }
}

/// Whether a server would be given new requests, and since when; for whoever judges what was done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// It would.
    In { since: Duration },
    /// It would not.
    Out { since: Option<Duration> },
}

#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are HAProxy's flags, independent of each other"
)]
pub(super) struct Server {
    pub(super) id: u32,
    pub(super) name: String,
    pub(super) dynamic: bool,
    /// Its line names a host.
    pub(super) is_named: bool,
    pub(super) referenced: bool,
    pub(super) backup: bool,
    pub(super) address: SocketAddr,
    /// Changes that were answered and are not in force yet.
    pub(super) pending: Vec<(Duration, SocketAddr)>,
    pub(super) admin: u8,
    pub(super) oper: u8,
    pub(super) weight: u16,
    pub(super) initial_weight: u16,
    pub(super) maxconn: u32,
    /// `init-state fully-down`: leaving maintenance leaves it DOWN.
    pub(super) fully_down: bool,
    pub(super) check: Option<Check>,
    pub(super) check_enabled: bool,
    /// The port of its agent. What an agent says the model does not know.
    pub(super) agent: Option<u16>,
    pub(super) agent_enabled: bool,
    pub(super) check_paused: bool,
    pub(super) next_check: Option<Duration>,
    /// 0 none, 2 failed, 3 passed.
    pub(super) check_result: u8,
    pub(super) check_status: CheckStatus,
    pub(super) health: u16,
    /// A check has passed since it was added or has its address.
    pub(super) has_passed: bool,
    /// To whom it leaked at its address: to all, or to those with its cookie.
    pub(super) leaked: Vec<Option<String>>,
    pub(super) changed: Duration,
    /// The cookie that sends a client back to it.
    pub(super) cookie: Option<String>,
    pub(super) sessions: Vec<Session>,
    /// Idle connections, by where they lead.
    pub(super) idle: Vec<SocketAddr>,
    pub(super) total_sessions: u64,
    /// When it was ready last.
    pub(super) left_ready: Duration,
    /// Its check found it DOWN, and has not found it UP since.
    pub(super) found_down: bool,
    pub(super) rotation: Rotation,
}

impl Server {
    /// What `add server <name> <address>` alone makes.
    pub(super) fn added(id: u32, name: &str, address: SocketAddr, now: Duration) -> Self {
        Self {
            id,
            name: name.to_owned(),
            dynamic: true,
            is_named: false,
            referenced: false,
            backup: false,
            address,
            pending: Vec::new(),
            admin: MAINT,
            oper: STOPPED,
            weight: 1,
            initial_weight: 1,
            maxconn: 0,
            fully_down: false,
            check: None,
            check_enabled: false,
            agent: None,
            agent_enabled: false,
            check_paused: false,
            next_check: None,
            check_result: 0,
            check_status: CheckStatus::Initializing,
            health: 0,
            has_passed: false,
            leaked: Vec::new(),
            changed: now,
            cookie: None,
            sessions: Vec::new(),
            idle: Vec::new(),
            total_sessions: 0,
            left_ready: now,
            found_down: false,
            rotation: Rotation::Out { since: None },
        }
    }

    /// `srv_agent_state`: an agent's (16), configured (2), enabled (4).
    pub(super) fn agent_state(&self) -> u8 {
        let state = if self.agent_enabled { 22 } else { 18 };
        self.agent.map_or(0, |_| state)
    }

    /// What a line of the configuration makes. The checks of a starting
    /// process are spread over the `count` servers of a backend by their `position`.
    pub(super) fn configured(
        id: u32,
        line: &ServerLine,
        version: Line,
        (position, count): (u32, u32),
        now: Duration,
    ) -> Self {
        let initial_health = if line.disabled || version >= Line(3, 4) {
            0
        } else {
            line.check.map_or(2, |check| check.rise)
        };
        Self {
            dynamic: false,
            is_named: line.is_named,
            referenced: line.is_referenced,
            backup: line.backup,
            admin: if line.disabled {
                MAINT | CONFIG_DISABLED
            } else {
                0
            },
            oper: if line.disabled { STOPPED } else { RUNNING },
            weight: line.weight,
            initial_weight: line.weight,
            maxconn: line.maxconn,
            cookie: line.cookie.clone(),
            agent: line.agent,
            agent_enabled: line.agent.is_some(),
            check: line.check,
            check_enabled: line.check.is_some(),
            check_paused: line.disabled,
            next_check: line.check.map(|check| now + check.inter * position / count),
            health: initial_health,
            ..Self::added(id, &line.name, line.address, now)
        }
    }

    pub(super) fn in_maintenance(&self) -> bool {
        self.admin & MAINT != 0
    }

    pub(super) fn in_drain(&self) -> bool {
        self.admin & DRAIN != 0
    }

    /// It would be given new requests.
    pub(super) fn in_rotation(&self) -> bool {
        !self.in_maintenance() && !self.in_drain() && self.oper != STOPPED && self.weight > 0
    }

    /// A server of the file that was not `disabled` there: it is served from the start.
    pub(super) fn is_operators(&self) -> bool {
        !self.dynamic && self.admin & CONFIG_DISABLED == 0
    }

    /// `srv_check_state`
    pub(super) fn check_state(&self) -> u8 {
        u8::from(self.check.is_some()) * 2
            + u8::from(self.check_enabled) * 4
            + u8::from(self.check_paused) * 8
    }

    /// `rise + fall - 1`, of a server without a check too.
    pub(super) fn full_health(&self) -> u16 {
        let check = self.check.unwrap_or(Check::DEFAULT);
        check.rise + check.fall - 1
    }

    pub(super) fn rise(&self) -> u16 {
        self.check.unwrap_or(Check::DEFAULT).rise
    }

    /// `set server … state maint`
    pub(super) fn enter_maintenance(&mut self, now: Duration) {
        self.leave_ready(now);
        self.admin &= !DRAIN;
        if self.in_maintenance() {
            return;
        }
        self.admin |= MAINT;
        self.oper = STOPPED;
        self.health = 0;
        if self.check_enabled {
            self.check_paused = true;
        }
        self.idle.clear();
    }

    /// `set server … state drain`
    pub(super) fn enter_drain(&mut self, now: Duration) {
        self.leave_ready(now);
        self.leave_maintenance();
        self.admin |= DRAIN;
    }

    /// `set server … state ready`
    pub(super) fn make_ready(&mut self) {
        self.leave_maintenance();
        self.admin &= !DRAIN;
    }

    fn leave_ready(&mut self, now: Duration) {
        if !self.in_maintenance() && !self.in_drain() {
            self.left_ready = now;
        }
    }

    fn leave_maintenance(&mut self) {
        if !self.in_maintenance() {
            return;
        }
        self.admin &= !MAINT;
        if self.check_enabled {
            self.check_paused = false;
            self.health = self.rise();
        }
        self.oper = RUNNING;
        if self.fully_down {
            self.health = 0;
            self.oper = STOPPED;
        }
    }

    /// `set server … health down`
    pub(super) fn force_down(&mut self) {
        self.health = 0;
        self.oper = STOPPED;
    }

    /// `set server … health up`
    pub(super) fn force_up(&mut self) {
        self.health = self.full_health();
        if !self.in_maintenance() {
            self.oper = RUNNING;
        }
    }

    /// An address that was asked for is in force.
    pub(super) fn move_to(&mut self, address: SocketAddr) {
        if self.address != address {
            self.address = address;
            self.has_passed = false;
            self.leaked.clear();
            self.found_down = false;
            // The change closes the idle connections.
            self.idle.clear();
        }
    }

    /// Where the check connects to.
    pub(super) fn check_target(&self) -> SocketAddr {
        let mut target = self.address;
        if let Some(check) = self.check
            && check.port != 0
        {
            target.set_port(check.port);
        }
        target
    }

    /// The check's timer has fired at `now`.
    pub(super) fn check_due(&mut self, now: Duration, httpchk: bool, conduct: Conduct) {
        let Some(check) = self.check else {
            self.next_check = None;
            return;
        };
        if !self.check_enabled || self.check_paused {
            // HAProxy keeps the timer going at `inter`.
            self.next_check = Some(now + check.inter);
            return;
        }
        let (passed, status) = match conduct {
            Conduct::Refuses => (false, CheckStatus::Refused),
            Conduct::Serves | Conduct::Fails if !httpchk => (true, CheckStatus::Connected),
            Conduct::Serves => (true, CheckStatus::Ok),
            Conduct::Fails => (false, CheckStatus::WrongStatus),
        };
        self.check_status = status;
        if passed {
            self.check_passed();
        } else {
            self.check_failed();
        }
        self.next_check = Some(now + self.interval(&check));
    }

    fn check_passed(&mut self) {
        self.check_result = 3;
        self.has_passed = true;
        if self.health < self.full_health() {
            self.health += 1;
            if self.health >= self.rise() {
                self.health = self.full_health();
            }
        }
        if self.health >= self.rise() && !self.in_maintenance() {
            self.oper = RUNNING;
            self.found_down = false;
        }
    }

    fn check_failed(&mut self) {
        self.check_result = 2;
        self.health = self.health.saturating_sub(1);
        if self.health < self.rise() {
            self.health = 0;
            self.oper = STOPPED;
            self.found_down = true;
        }
    }

    /// `srv_getinter`
    pub(super) fn interval(&self, check: &Check) -> Duration {
        if self.health == self.full_health() {
            check.inter
        } else if self.oper == STOPPED && self.health == 0 {
            check.downinter.unwrap_or(check.inter)
        } else {
            check.fastinter.unwrap_or(check.inter)
        }
    }
}
