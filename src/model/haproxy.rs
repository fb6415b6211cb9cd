//! What HAProxy reports through the runtime API, and what can be asked of it.
//!
//! Text does not appear here: `haproxy::command` prints a [`Request`], `haproxy::reply` and `haproxy::parse` read the
//! answer into a [`Response`].

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::{
    Address, BackendName, CookieValue, MapChange, MapContent, MapName, ProfileName, Protocol,
    ProxyHeader, SectionName, ServerKeywords, ServerName, ServerRef,
};

/// `major.minor.patch` of a HAProxy; what packagers append is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 3 of 3.2.26.
    pub major: u16,
    /// 2 of 3.2.26.
    pub minor: u16,
    /// 26 of 3.2.26.
    pub patch: u16,
}

impl Version {
    /// The version `major.minor.patch`.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }
}

/// A text that does not begin with `major.minor`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not begin with a HAProxy version")]
pub struct InvalidVersion(pub String);

impl std::str::FromStr for Version {
    type Err = InvalidVersion;

    /// Reads `3.0.11-1+deb13u4`, `2.8.25-5cf5d0683`, `3.5-dev4` alike: the leading numbers count, a missing patch is 0.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |part: Option<&str>| -> Option<u16> {
            let part = part?;
            let end = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            part[..end].parse().ok()
        };
        let mut parts = text.split('.');
        let (Some(major), Some(minor)) = (digits(parts.next()), digits(parts.next())) else {
            return Err(InvalidVersion(text.to_owned()));
        };
        Ok(Self {
            major,
            minor,
            patch: digits(parts.next()).unwrap_or(0),
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What `show info` tells of the process behind a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// The version, without the packager's suffix.
    pub version: Version,
    /// The version as HAProxy prints it.
    pub version_text: String,
    /// The worker's process id. With [`Self::start_time`] it identifies the process.
    pub pid: u64,
    /// `Start_time_sec`, seconds since the epoch.
    pub start_time: u64,
    /// `Uptime_sec`. It never falls within a process.
    pub uptime: u64,
    /// `CumConns`: connections since the start. It never falls within a process.
    pub connections: u64,
    /// Whether the process is on its way out after a reload: whatever is written to it is lost.
    pub stopping: bool,
}

impl ProcessInfo {
    /// Whether `later`, read from the same socket, still is this process.
    #[must_use]
    pub fn is_same_process(&self, later: &Self) -> bool {
        self.pid == later.pid
            && self.start_time == later.start_time
            && self.uptime <= later.uptime
            && self.connections <= later.connections
    }
}

/// `srv_op_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperState {
    /// 0: down, or in maintenance.
    Stopped,
    /// 1: up, in slowstart.
    Starting,
    /// 2: up.
    Running,
    /// 3: up, but leaving on its own agent's word.
    Stopping,
}

/// `srv_admin_state`, a set of bits. Never compare it as a whole: the configured `disabled` bit stays for life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdminState(pub u8);

impl AdminState {
    /// Maintenance: forced by the socket (1), inherited from a tracked server (2), or for want of an address (32).
    #[must_use]
    pub fn in_maintenance(self) -> bool {
        self.0 & (1 | 2 | 32) != 0
    }

    /// Drain: forced by the socket (8) or inherited (16).
    #[must_use]
    pub fn in_drain(self) -> bool {
        self.0 & (8 | 16) != 0
    }

    /// The line in the configuration says `disabled` (4). It stays set after the server was made ready.
    #[must_use]
    pub fn is_config_disabled(self) -> bool {
        self.0 & 4 != 0
    }

    /// Neither maintenance nor drain.
    #[must_use]
    pub fn is_ready(self) -> bool {
        !self.in_maintenance() && !self.in_drain()
    }
}

/// `srv_check_state` or `srv_agent_state`, a set of bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckState(pub u8);

impl CheckState {
    /// The server has a health check (2), enabled or not.
    #[must_use]
    pub fn is_configured(self) -> bool {
        self.0 & 2 != 0
    }

    /// The check is enabled (4), paused or not.
    #[must_use]
    pub fn is_enabled(self) -> bool {
        self.0 & 4 != 0
    }
}

/// One line of `show servers state`, without its backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// `srv_name`. `None` for a name outside our grammar: the server is somebody else's for certain.
    pub name: Option<ServerName>,
    /// `srv_addr`; `None` for `-` (no IP address: unresolved, or a Unix socket).
    pub ip: Option<IpAddr>,
    /// `srv_port`; 0 is "mapped from the client's port".
    pub port: u16,
    /// `srv_op_state`.
    pub oper: OperState,
    /// `srv_admin_state`.
    pub admin: AdminState,
    /// `srv_uweight`: the weight in force, 0 to 256.
    pub weight: u16,
    /// `srv_iweight`: the weight of the configuration line, or of `add server`.
    pub initial_weight: u16,
    /// `srv_time_since_last_change`: seconds since it last went up, down, or into maintenance.
    pub since_change: i64,
    /// `srv_check_health`: 0 to rise + fall − 1; UP from `rise` on.
    pub check_health: i32,
    /// `srv_check_state`.
    pub check: CheckState,
    /// `srv_agent_state`: of the agent check.
    pub agent: CheckState,
    /// The whole line, as a server-state file takes it. Only of a server whose configuration line says `disabled` and names
    /// a host (`srv_fqdn`): of one with a literal address HAProxy restores everything but the address.
    pub line: Option<Arc<str>>,
}

impl ServerState {
    /// Address and port, when they are such that an instance can have them.
    #[must_use]
    pub fn address(&self) -> Option<Address> {
        Some(Address {
            ip: self.ip?,
            port: std::num::NonZeroU16::new(self.port)?,
        })
    }

    /// UP, whatever its administrative state.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(self.oper, OperState::Running | OperState::Starting)
    }

    /// READY and UP.
    #[must_use]
    pub fn in_rotation(&self) -> bool {
        self.admin.is_ready() && self.is_up()
    }

    /// In rotation, and with a weight: with 0 only clients that have its cookie reach it.
    #[must_use]
    pub fn is_given_traffic(&self) -> bool {
        self.in_rotation() && self.weight > 0
    }
}

/// One line of `show servers state` with the backend it is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRow {
    /// `be_name`.
    pub backend: BackendName,
    /// `be_id`: the number of the proxy, by which [`Request::Stat`] asks for it.
    pub backend_id: u32,
    /// The rest of the line.
    pub state: ServerState,
}

/// What `show stat` tells of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatRow {
    /// `scur`: sessions now.
    pub sessions: u64,
    /// `qcur`: requests queued for this very server.
    pub queued: u64,
    /// `srv_icur` and, from 3.4, `priv_idle_cur`: idle connections kept to the server.
    pub idle: u64,
    /// `stot`: sessions since the server exists.
    pub total_sessions: u64,
    /// `slim`: `maxconn`; `None` when there is none.
    pub maxconn: Option<u64>,
    /// `check_rise`: passed checks in a row until it is UP; `None` without a check.
    pub rise: Option<i64>,
}

impl StatRow {
    /// Nothing is left on the server: no session, no queue, no idle connection.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.sessions == 0 && self.queued == 0 && self.idle == 0
    }
}

/// What `show stat` tells of the checks of one server, in HAProxy's words. The text can be the server's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// `status`: `UP`, `DOWN 1/2`, `MAINT`.
    pub state: String,
    /// `check_status`: `L7OK`, `L4CON`; empty without a check.
    pub check_status: String,
    /// `check_code`.
    pub code: Option<u64>,
    /// `last_chk`, shortened.
    pub text: String,
    /// `check_duration`, in milliseconds.
    pub took: Option<u64>,
    /// `lastchg`: seconds since it last went up or down.
    pub since_change: Option<u64>,
    /// `addr`.
    pub address: String,
    /// `scur`.
    pub sessions: u64,
}

/// What `show stat` tells of one backend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendStat {
    /// By server. One that is missing was not told of: it is not a quiet one.
    pub servers: BTreeMap<ServerName, StatRow>,
    /// The backend itself has a row: it is not `disabled` in the configuration.
    pub is_running: bool,
    /// That row says that it is not published: `use_backend` passes it over.
    pub is_unpublished: bool,
}

/// What the rows of all backends tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendRows {
    /// Those with a `cookie` line, by which clients stay with a server.
    pub cookies: BTreeSet<BackendName>,
    /// Those that are not published: `use_backend` passes them over.
    pub unpublished: BTreeSet<BackendName>,
}

/// Something that is asked of HAProxy: a reading, or a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// `show info`
    Info,
    /// `show backend`
    Backends,
    /// `show servers state [<backend>]`
    ServersState(Option<BackendName>),
    /// `show stat <backend's id or name> 6 -1`. By the name of a backend HAProxy up to 3.2 may show a frontend's.
    Stat(BackendName, Option<u32>),
    /// `show stat <backend's id or name> 4 -1`, for people: what checks said.
    Verdicts(BackendName, Option<u32>),
    /// `show stat -1 2 -1`: of the backends, not of their servers.
    BackendRows,
    /// `dump stats-file`, from 3.0 on: the only place where a backend's `guid` is told.
    Guids,
    /// `show map <map>`
    Map(MapName),
    /// A change.
    Change(Command),
    /// A change of a map.
    ChangeMap(MapChange),
}

/// A change of HAProxy's state. `haproxy::command` prints it; nothing else is ever written to the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `set server <s> addr <ip> port <port>`
    SetAddress(ServerRef, Address),
    /// `set server <s> state ready`
    Ready(ServerRef),
    /// `set server <s> state drain`
    Drain(ServerRef),
    /// `set server <s> state maint`
    Maintenance(ServerRef),
    /// `set server <s> health down`. Never for a server without an enabled check: it would stay down.
    HealthDown(ServerRef),
    /// `enable health <s>`
    EnableHealth(ServerRef),
    /// `enable agent <s>`. An agent can make a server ready: only after the server was let in.
    EnableAgent(ServerRef),
    /// `disable agent <s>`. An agent can end a drain.
    DisableAgent(ServerRef),
    /// `set server <s> weight <0-256>`
    SetWeight(ServerRef, u16),
    /// `set maxconn server <s> <n>`
    SetMaxconn(ServerRef, u32),
    /// `add server <s> <address> <keywords>`
    AddServer(ServerRef, Address, Vec<Keyword>),
    /// `del server <s>`
    DeleteServer(ServerRef),
    /// `shutdown sessions server <s>`: what is under way there is cut.
    ShutdownSessions(ServerRef),
    /// `add backend <b> from <defaults> guid nomad:<b>`: by the guid it is known to be the sidecar's.
    AddBackend(BackendName, ProfileName),
    /// `publish backend <b>`: from now on `use_backend` finds it.
    PublishBackend(BackendName),
    /// `unpublish backend <b>`: what is under way there ends as it would.
    UnpublishBackend(BackendName),
    /// `del backend <b>`
    DeleteBackend(BackendName),
}

impl Command {
    /// The server that the command changes; none when it changes the backend.
    #[must_use]
    pub fn server(&self) -> Option<&ServerRef> {
        match self {
            Self::SetAddress(server, _)
            | Self::Ready(server)
            | Self::Drain(server)
            | Self::Maintenance(server)
            | Self::HealthDown(server)
            | Self::EnableHealth(server)
            | Self::EnableAgent(server)
            | Self::DisableAgent(server)
            | Self::SetWeight(server, _)
            | Self::SetMaxconn(server, _)
            | Self::AddServer(server, _, _)
            | Self::DeleteServer(server)
            | Self::ShutdownSessions(server) => Some(server),
            Self::AddBackend(..)
            | Self::PublishBackend(_)
            | Self::UnpublishBackend(_)
            | Self::DeleteBackend(_) => None,
        }
    }

    /// The backend that the command changes, or that its server is in.
    #[must_use]
    pub fn backend(&self) -> &BackendName {
        match self {
            Self::SetAddress(server, _)
            | Self::Ready(server)
            | Self::Drain(server)
            | Self::Maintenance(server)
            | Self::HealthDown(server)
            | Self::EnableHealth(server)
            | Self::EnableAgent(server)
            | Self::DisableAgent(server)
            | Self::SetWeight(server, _)
            | Self::SetMaxconn(server, _)
            | Self::AddServer(server, _, _)
            | Self::DeleteServer(server)
            | Self::ShutdownSessions(server) => &server.backend,
            Self::AddBackend(backend, _)
            | Self::PublishBackend(backend)
            | Self::UnpublishBackend(backend)
            | Self::DeleteBackend(backend) => backend,
        }
    }
}

/// A keyword of `add server` (management guide, "add server"). Numbers, and what passed a grammar: no other text gets here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keyword {
    /// `check`
    Check,
    /// `inter <ms>ms`
    Inter(u32),
    /// `fastinter <ms>ms`
    FastInter(u32),
    /// `downinter <ms>ms`
    DownInter(u32),
    /// `rise <n>`
    Rise(u16),
    /// `fall <n>`
    Fall(u16),
    /// `port <n>`: the port of the check
    CheckPort(u16),
    /// `weight <0-256>`
    Weight(u16),
    /// `maxconn <n>`
    Maxconn(u32),
    /// `backup`
    Backup,
    /// `maxqueue <n>`
    Maxqueue(u32),
    /// `slowstart <ms>ms`
    Slowstart(u32),
    /// `cookie <value>`, from 2.8 on
    Cookie(CookieValue),
    /// `send-proxy`, `send-proxy-v2`
    SendProxy(ProxyHeader),
    /// `proto <h1|h2>`
    Proto(Protocol),
    /// `agent-check agent-port <n>`
    AgentCheck(u16),
    /// `agent-inter <ms>ms`
    AgentInter(u32),
    /// `check-ssl`. The check of a server that is added at runtime is plain otherwise, on all versions.
    CheckSsl,
    /// `check-send-proxy`. As for `check-ssl`.
    CheckSendProxy,
    /// `healthcheck <section>`, from 3.4 on
    Healthcheck(SectionName),
    /// What a server profile stands for
    Profile(ServerKeywords),
    /// `init-state fully-down`, from 3.2 on
    InitStateFullyDown,
    /// `pool-purge-delay 5s pool-max-conn -1`: without it 2.6 does not reuse connections of dynamic servers
    ReuseConnections,
}

/// The answer to a [`Request`], of the kind that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To [`Request::Info`].
    Info(ProcessInfo),
    /// To [`Request::Backends`]. Names outside our grammar are left out: no service can resolve to them.
    Backends(Vec<BackendName>),
    /// To [`Request::ServersState`]; rows of backends whose name is outside our grammar are left out.
    Servers(Vec<ServerRow>),
    /// To [`Request::ServersState`], [`Request::Stat`] or [`Request::Verdicts`] of one backend: there is none of that name.
    NoSuchBackend,
    /// To [`Request::Stat`].
    Stat(BackendStat),
    /// To [`Request::BackendRows`].
    BackendRows(BackendRows),
    /// To [`Request::Guids`]: the backends that a sidecar made.
    Guids(BTreeSet<BackendName>),
    /// To [`Request::Verdicts`].
    Verdicts(BTreeMap<ServerName, Verdict>),
    /// To [`Request::Map`].
    Map(MapContent),
    /// To [`Request::Map`]: there is none of that name.
    NoSuchMap,
    /// To [`MapChange::Prepare`]: the version that was begun.
    MapVersion(u32),
    /// To [`Request::Change`], and to any other [`Request::ChangeMap`].
    Changed(Outcome),
}

/// What HAProxy's words mean for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done, or nothing needed to be done.
    Done,
    /// It was done, and HAProxy has a remark.
    Notice(String),
    /// It was not done now, but can be later: connections still there, a name still taken, …
    RetryLater(String),
    /// It will never be done in this form: the message says why.
    Refused(String),
}

/// Tells batches apart. Never reused by one core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(pub u64);

/// Requests that are written one after the other without waiting between them, answered as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a batch does nothing until the session runs it"]
pub struct Batch {
    /// Comes back with the answer.
    pub id: BatchId,
    /// In this order.
    pub requests: Arc<[Request]>,
    /// One request at a time instead of a window: for backends so big that `add server` keeps HAProxy busy
    /// (its cost grows with the backend's servers).
    pub lock_step: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_whatever_the_packager_adds() {
        for (text, version) in [
            ("2.6.12-1+deb12u4", Version::new(2, 6, 12)),
            ("2.8.25-5cf5d0683", Version::new(2, 8, 25)),
            ("3.4.7-1", Version::new(3, 4, 7)),
            ("3.5-dev4", Version::new(3, 5, 0)),
        ] {
            assert_eq!(text.parse::<Version>().unwrap(), version, "{text}");
        }
        assert!("HAProxy".parse::<Version>().is_err());
    }
}
