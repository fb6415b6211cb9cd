//! What the core tells the shell, for logs, metrics and `/ready`: facts, no orders.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::model::{Allocation, BackendName, Command, ProcessInfo, ServerName, ServiceKey};

use super::{
    desired::Rejection,
    guards::{Extent, Guard, Removals},
    hands::{ByHand, Hand, HandsCount},
    hold::{HoldBegun, HoldEnded},
    plan::{Hindrance, Step, Why},
    routes::{RouteFact, RoutesCount},
    turn::Turn,
};

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// The servers of a HAProxy process were read for the first time.
    Found(Found),
    /// Another process answers on the socket: what was made at runtime is gone.
    Restarted {
        /// The process that was there before.
        before: Box<ProcessInfo>,
        /// The one that is there now.
        now: Box<ProcessInfo>,
    },
    /// Everything that was planned for a backend was acknowledged and read back.
    Applied {
        /// The backend.
        backend: BackendName,
        /// Commands by reason.
        commands: Vec<(Why, u32)>,
        /// Since the catalog's change, or since the first command when there was none.
        took: Duration,
        /// An event of the catalog was among the causes.
        by_event: bool,
    },
    /// A command that is being sent.
    Sent(Step),
    /// In observing mode: what would have been sent.
    WouldSend {
        /// The backend.
        backend: BackendName,
        /// All of it.
        steps: Vec<Step>,
        /// What of it was not told before.
        new: Vec<Command>,
    },
    /// Something about routes.
    Routes(RouteFact),
    /// HAProxy did something and had a remark.
    Noticed(BackendName, String),
    /// A batch did not come through; the backend is tried again after the delay.
    Failed {
        /// The backend; `None` when everything was being read.
        backend: Option<BackendName>,
        /// What went wrong.
        problem: String,
        /// Until the next try.
        again_in: Duration,
    },
    /// Something is in the way of a registration.
    Hindered(BackendName, Hindrance),
    /// It no longer is.
    Unhindered(BackendName, Hindrance),
    /// An operator has changed a server that is the sidecar's: it stays so.
    ByHand(BackendName, ByHand),
    /// He has undone that, or the registration is gone.
    NoLongerByHand(BackendName, ByHand),
    /// A server stays in rotation although its registration is gone.
    Held(BackendName, HoldBegun),
    /// It no longer does for that reason.
    HoldEnded(BackendName, HoldEnded),
    /// So much was deregistered at once that what passes its checks is held.
    MassBegan(Extent),
    /// That is over.
    MassEnded {
        /// How long it lasted.
        lasted: Duration,
        /// Registrations of it that are still gone.
        gone: usize,
    },
    /// Nomad said what becomes of the allocation of a registration that is gone, or that is not served.
    SecondOpinion(Allocation),
    /// Removals are stopped: at the begin, and each minute.
    Frozen {
        /// For how long already.
        lasts: Duration,
        /// Servers that would be taken out.
        waiting: usize,
    },
    /// They are allowed again.
    Thawed {
        /// How long they were not.
        lasted: Duration,
        /// Servers that are taken out now.
        waiting: usize,
    },
    /// So many servers wait because of the limit, after a time when none did; or none do any more.
    Limited {
        /// Servers that wait.
        waiting: usize,
    },
    /// A server may not be taken out now.
    Waits(BackendName, ServerName, Removals),
    /// A registration is not served, or not as its tags ask.
    Rejected(ServiceKey, Rejection),
    /// It is now, or it is gone.
    Unrejected(ServiceKey, Rejection),
    /// The first sync since the start is applied.
    FirstSync {
        /// Since the start.
        took: Duration,
        /// Services with at least one server.
        services: usize,
        /// Their servers.
        servers: usize,
    },
    /// A HAProxy process has everything that is wanted and can be had.
    InSync {
        /// Since the process was found.
        took: Duration,
        /// Registrations that something is in the way of.
        blocked: usize,
    },
    /// The server of a registration is in rotation for the first time.
    Arrived(BackendName, Arrival),
    /// And HAProxy's checks have admitted it, as far as that was waited for.
    Admitted {
        /// Since everything was applied.
        waited: Duration,
    },
    /// HAProxy's verdict on a server is another one.
    Turned(BackendName, Turn),
    /// A HAProxy process has everything that a predecessor knew of, while Nomad was not heard yet.
    SnapshotApplied {
        /// Since the process was found.
        took: Duration,
    },
    /// Something about the state file.
    Restoring(Restoring),
    /// 30 s after a sync began not everything is in rotation, for reasons that are not HAProxy's verdict nor an
    /// operator's hand.
    SyncFailed {
        /// Registrations that are not.
        missing: usize,
        /// Of how many.
        wanted: usize,
    },
}

/// A registration that an event brought has its server in rotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The registration.
    pub registration: Arc<str>,
    /// Its server.
    pub server: ServerName,
    /// Since the catalog's change.
    pub took: Duration,
}

/// What comes back from a state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restoring {
    /// Slots of this backend would come back without their addresses: it has no lines in the file.
    NotPossible(BackendName),
    /// It has now.
    Possible(BackendName),
    /// A HAProxy that was started did not take the file up.
    NotDone,
}

/// What a HAProxy process was found to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The process.
    pub process: ProcessInfo,
    /// Followed backends with slots.
    pub slot_backends: usize,
    /// Followed backends for dynamic servers.
    pub dynamic_backends: usize,
    /// Servers that are the sidecar's.
    pub owned: usize,
    /// Servers that it will never touch.
    pub foreign: usize,
    /// Services wanted by the catalog.
    pub services: usize,
    /// Backends that no followed service resolves to but that have servers named like ours: left alone.
    pub unclaimed: BTreeSet<BackendName>,
}

/// The state of things, counted.
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are independent of each other"
)]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overview {
    /// A catalog was read.
    pub catalog_known: bool,
    /// It is a predecessor's: Nomad was not heard yet.
    pub from_snapshot: bool,
    /// HAProxy was connected and read.
    pub haproxy_read: bool,
    /// Everything wanted was applied to this process.
    pub in_sync: bool,
    /// Followed backends whose servers came into an empty HAProxy and wait for its checks; `None` once that is over.
    pub admitting: Option<Vec<BackendName>>,
    /// Followed backends that have not been applied yet.
    pub unsettled: Vec<BackendName>,
    /// Followed backends.
    pub backends: usize,
    /// Services with a registration that is wanted.
    pub services: usize,
    /// Registrations wanted and valid.
    pub wanted: usize,
    /// Backends where something is in the way of a registration.
    pub blocked: usize,
    /// Registrations that are not served.
    pub rejected: usize,
    /// Servers that stay in rotation although their registration is gone.
    pub held: usize,
    /// Backends that were made at runtime.
    pub made: Made,
    /// Backends with slots that the state file does not bring back.
    pub unrestorable: usize,
    /// Those of them that a guard keeps, by which one.
    pub guarded: BTreeMap<Guard, usize>,
    /// Servers that are not taken out now, because of the limit or because removals are stopped.
    pub waiting: usize,
    /// Removals are stopped.
    pub frozen: bool,
    /// So much was deregistered at once that servers which pass their checks are held now.
    pub mass: bool,
    /// Servers of followed backends that are the sidecar's.
    pub owned: Owned,
    /// What became of those that were made ready.
    pub admissions: Admissions,
    /// Those of them that stay as an operator left them.
    pub by_hand: HandsCount,
    /// Servers that stay as they are by an operator's hand, or in rotation by a hold.
    pub staying: Vec<Staying>,
    /// Routes to followed backends.
    pub routes: RoutesCount,
    /// They were not applied yet.
    pub routes_unsettled: bool,
    /// What in HAProxy is in the way of routes, in words.
    pub route_obstacles: Vec<String>,
    /// In observing mode: what would be sent now.
    pub would: Would,
    /// Followed backends, each by itself.
    pub tallies: Vec<Tally>,
    /// Instances that cannot be served as they ask, by what is in the way.
    pub obstacles: BTreeMap<&'static str, usize>,
}

/// One backend, counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The backend.
    pub backend: BackendName,
    /// Registrations that want a server in it.
    pub wanted: usize,
    /// Those of them whose server is READY and UP.
    pub in_rotation: usize,
    /// Its slots; none where servers are added.
    pub slots: usize,
    /// Slots that have another address than the placeholder.
    pub slots_used: usize,
}

/// A server that stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Staying {
    /// The backend.
    pub backend: BackendName,
    /// The server.
    pub server: ServerName,
    /// Why.
    pub what: Stays,
    /// Since when, as far as this sidecar saw it, on its clock.
    pub since: Duration,
}

/// Why a server stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stays {
    /// An operator did that.
    ByHand(Hand),
    /// It has no registration any more, and is held; by a guard, or for want of others.
    Held(Option<Guard>),
}

/// Backends that were made at runtime, by how they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// Published, and wanted.
    pub published: usize,
    /// Not published yet.
    pub unpublished: usize,
    /// Wanted by nobody: to be removed after a while.
    pub lingering: usize,
}

/// What is not sent, because the sidecar only observes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Would {
    /// Backends that would be changed.
    pub backends: usize,
    /// By so many commands.
    pub commands: usize,
}

/// Servers that were made ready, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admissions {
    /// They wait for HAProxy's check.
    pub waiting: usize,
    /// They came into rotation, since the start.
    pub passed: u64,
    /// They were taken out before that, or are gone, since the start.
    pub left: u64,
}

/// The sidecar's servers, by what they are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// READY and UP.
    pub in_rotation: usize,
    /// READY and not UP.
    pub down: usize,
    /// In drain.
    pub draining: usize,
    /// In maintenance although a registration wants them.
    pub maintenance: usize,
    /// In maintenance, wanted by nobody.
    pub free: usize,
}
