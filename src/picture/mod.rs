//! How everything stands, as one document: what Nomad has registered, what HAProxy makes of it, and why. `/status` gives it as
//! JSON, `status` and `explain` put it into words. `docs/status.md` describes it.
//!
//! Plain values, which only look something up in themselves. The core fills in what it knows, the shell the rest; times are durations in milliseconds,
//! back from when it was taken. What is empty is left out.

mod explain;
mod route;
mod screen;
mod text;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

pub use explain::{Evidence, Explanation, Served, Subject, explain, find, is_registration};
pub use route::{Route, RouteState};
pub use screen::screen;
pub use text::Text;

/// The version of the document. It grows when something is no longer where it was, not when something is added.
pub const VERSION: u32 = 1;

/// The whole document, but for the changes that come last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Picture {
    /// [`VERSION`].
    pub version: u32,
    /// When it was taken, as RFC 3339 in UTC.
    pub taken_at: String,
    /// The sidecar itself.
    pub sidecar: Sidecar,
    /// Nomad.
    pub nomad: Nomad,
    /// HAProxy.
    pub haproxy: Haproxy,
    /// The services that are followed.
    pub services: Vec<Service>,
    /// The backends that they resolve to.
    pub backends: Vec<Backend>,
    /// The routes that their tags ask for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The last changes of HAProxy, and the last turns of its verdicts, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

impl Picture {
    /// The backend of this name, if a service resolves to it.
    #[must_use]
    pub fn backend(&self, name: &str) -> Option<&Backend> {
        self.backends.iter().find(|backend| *backend.name == *name)
    }
}

impl Backend {
    /// What is in the way of a registration there.
    #[must_use]
    pub fn hindrance(&self, registration: &str) -> Option<&Hindrance> {
        let mut all = self.hindrances.iter();
        all.find(|one| *one.registration == *registration)
    }
}

/// The sidecar itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sidecar {
    /// Its version.
    pub version: String,
    /// For how long it runs.
    pub up_ms: u64,
    /// Whether it acts.
    pub charge: Charge,
    /// Why it does not, when another one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby: Option<String>,
    /// Why this is not its own picture, when a command has read both sides itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unasked: Option<Unasked>,
    /// Its own namespace.
    pub namespace: Text,
    /// What its tags begin with.
    pub tag_prefix: Text,
    /// Services without the tag `enable` are served.
    pub expose_by_default: bool,
    /// Everything wanted was applied once, and HAProxy is there.
    pub ready: bool,
    /// What is missing for that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// What guards hold back.
    pub guards: Guards,
    /// The last panic of a part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Why a sidecar has not shown its own picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Unasked {
    /// In an operator's words.
    pub text: String,
    /// There is one, and it has no answer.
    pub is_there: bool,
}

/// Whether a sidecar writes to HAProxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// It does.
    InCharge,
    /// Another one does.
    Standby,
    /// It was told not to.
    Observing,
    /// There is no daemon: both sides were read once.
    #[default]
    Nobody,
}

/// What guards hold back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Guards {
    /// Removals are stopped by the operator.
    pub frozen: bool,
    /// So much was deregistered at once that servers which pass their checks are held now.
    pub mass: bool,
    /// Servers that wait to be taken out.
    pub waiting: usize,
}

/// Nomad, as far as it is followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Nomad {
    /// The address that is asked first.
    pub address: String,
    /// A catalog was read, from Nomad or from a snapshot.
    pub known: bool,
    /// It is a predecessor's, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// What could not be read so far.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unread: Vec<String>,
    /// What is followed.
    pub namespaces: Vec<Namespace>,
}

/// A namespace that is followed, or `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// `stream`, `blocking` or `none`.
    pub followed: String,
    /// For how long by that.
    pub for_ms: u64,
    /// The highest index that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// What is known was the catalog of then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current_ms: Option<u64>,
    /// What keeps, or kept, it from being read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// Nomad's index went back: its servers were restored from a snapshot, or made anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub went_back: Option<WentBack>,
}

/// How often an index went back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WentBack {
    /// How often, since the start.
    pub times: u64,
    /// When it did last.
    pub last_ms: u64,
}

/// What keeps, or kept, a namespace from being read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trouble {
    /// In an operator's words.
    pub text: String,
    /// When it began.
    pub began_ms: u64,
    /// When it ended, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
}

/// HAProxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Haproxy {
    /// There is a session with it.
    pub connected: bool,
    /// Its servers were read.
    pub read: bool,
    /// As it tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Of the process that serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u64>,
    /// Why there is no session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its namespace.
    pub namespace: Text,
    /// Its name.
    pub name: Text,
    /// All of its registrations that Nomad has.
    pub registrations: Vec<Registration>,
}

/// A registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Registration {
    /// Its ID.
    pub id: Text,
    /// The ID of its allocation.
    pub allocation: Text,
    /// The job's ID.
    pub job: Text,
    /// Address and port, as Nomad has them.
    pub address: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// The index that created it.
    pub create_index: u64,
    /// The index of its last change.
    pub modify_index: u64,
    /// Its tags ask to be served, or nothing has to.
    pub enabled: bool,
    /// Why it is not served.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rejections: Vec<String>,
    /// What of its tags has no effect.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Tags that ask for a route and make none, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unrouted: Vec<String>,
    /// Where it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// How far it is.
    pub stage: Stage,
}

/// Where a registration is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The backend.
    pub backend: Text,
    /// Why this one.
    pub by: By,
    /// Its server there, or the one that it would have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Text>,
}

/// Why a service is served by a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// It has the service's name.
    Name,
    /// It has the service's name, with `_` for `-`.
    NameWithUnderscores,
    /// It has the name of namespace and service.
    NamespaceAndName,
    /// The tag names it.
    Tag,
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is registered, and not ready in HAProxy.
    #[default]
    Wanted,
    /// It is ready, and has not passed its first check.
    Admitted,
    /// It is ready and UP.
    InRotation,
    /// It is ready, and its checks fail.
    Down,
    /// It finishes its sessions.
    Draining,
    /// It is out of rotation, and about to be removed.
    Gone,
    /// An operator took it out.
    ByHand,
    /// It stays in rotation without a registration.
    Held,
    /// It is somebody else's.
    Foreign,
    /// It is not to be served.
    Unserved,
}

/// A backend that a service resolves to, or did.
#[expect(
    clippy::struct_excessive_bools,
    reason = "a document, whose fields are independent of each other"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backend {
    /// Its name.
    pub name: Text,
    /// Whether it has slots.
    pub kind: Kind,
    /// It is `disabled` in haproxy.cfg.
    pub disabled: bool,
    /// It was made at runtime.
    pub made_at_runtime: bool,
    /// It is not there yet: it is to be made from this `defaults` section.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_be_made_from: Option<String>,
    /// It was made at runtime, and no rule finds it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unpublished: bool,
    /// Everything that can be done was done.
    pub settled: bool,
    /// How many of its servers are to be in rotation.
    pub wanted: usize,
    /// How many of those are.
    pub in_rotation: usize,
    /// The slots of its template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<Slots>,
    /// All of its servers, but for free slots.
    pub servers: Vec<Server>,
    /// What is in the way.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hindrances: Vec<Hindrance>,
    /// Servers that may not be taken out yet.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waiting: Vec<Text>,
    /// Why the last batch failed, and it is left alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Until something is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
    /// Commands that would be sent, under `--observe`.
    pub would_send: usize,
}

/// The kind of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It has `server-template` slots, and only they are used.
    Slots,
    /// Servers are added to it and deleted.
    #[default]
    Dynamic,
}

/// The slots of a template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// All of them.
    pub total: usize,
    /// Those that have an instance, or what one has left.
    pub used: usize,
    /// The others.
    pub free: usize,
}

/// What is in the way of a registration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hindrance {
    /// Of which one; a server's name, when nobody wants that.
    pub registration: Text,
    /// What.
    pub text: String,
}

/// A server in HAProxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Server {
    /// Its name. One with another grammar than the sidecar's has none here.
    pub name: Text,
    /// The registration that it serves, or served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registration: Option<Text>,
    /// Where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// What it was told to do.
    pub admin: Admin,
    /// HAProxy's verdict.
    pub up: bool,
    /// For how long HAProxy has it so.
    pub since_ms: u64,
    /// It has a health check.
    pub checked: bool,
    /// Its weight.
    pub weight: u16,
    /// Its tags make it a backup: it serves when nobody else does.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
    /// Where it is in its life.
    pub stage: Stage,
    /// It stays although its registration is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
    /// It is on its way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// What an operator did to it, and how to undo that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_hand: Option<String>,
}

/// What a server was told to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admin {
    /// To serve.
    #[default]
    Ready,
    /// To finish its sessions.
    Drain,
    /// Nothing.
    Maintenance,
}

/// Why a server stays in rotation without a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// By what.
    pub by: HoldBy,
    /// For how long it is held.
    pub for_ms: u64,
    /// For how long it is held on, at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_ms: Option<u64>,
}

/// What holds a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldBy {
    /// Fewer others of its service than these are UP.
    MinReady(u32),
    /// Too much was deregistered with it.
    Mass,
    /// Its allocation runs on.
    Alive,
    /// The operator has stopped all removals.
    Frozen,
}

/// How a server leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// For how long.
    pub for_ms: u64,
    /// Until it is taken out with what is left on it.
    pub left_ms: u64,
    /// Sessions on it, if they were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
}

/// A change of HAProxy that was sent, or a turn of its verdict on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// Counts them, from the start of the sidecar.
    pub number: u64,
    /// When it was sent, or seen, as RFC 3339 in UTC.
    pub at: Text,
    /// Why.
    pub why: Text,
    /// The index of the catalog that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// The backend.
    pub backend: Text,
    /// The server.
    pub server: Text,
    /// As it was written; empty of a verdict.
    pub command: Text,
    /// What became of it.
    pub outcome: Outcome,
    /// HAProxy's words for that, if they say more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Text>,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// No answer has come yet.
    #[default]
    Sent,
    /// It was done.
    Done,
    /// It was not, and is tried again.
    Later,
    /// It was refused.
    Refused,
    /// The connection broke: nobody knows.
    Unknown,
    /// It is no command: HAProxy's checks found the server UP,
    Up,
    /// or DOWN.
    Down,
}

/// HAProxy's own words about the checks of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// `status` of `show stat`: `UP 1/3`, `DOWN`, `MAINT`.
    pub state: String,
    /// `check_status`: `L7OK`, `L4CON`; empty without a check. After a restart, or in a slot, it may be the former one's.
    pub status: String,
    /// `check_code`, of HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u64>,
    /// `last_chk`: what the operating system or the server said. Hostile.
    pub text: String,
    /// `check_duration`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// `lastchg`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// `addr`.
    pub address: String,
    /// `scur`.
    pub sessions: u64,
}

/// The checks of a backend's servers, by the server's name.
pub type Checks = BTreeMap<String, Check>;

/// A time in milliseconds.
#[must_use]
pub fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Address and port of a registration, as Nomad has them.
#[must_use]
pub fn address(address: &str, port: i64) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}
