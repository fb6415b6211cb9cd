//! What goes in and out of the mirror.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

pub use crate::model::Scope;
use crate::model::{NomadEvent, Registration, ServiceKey};

/// Ties what was heard to what was asked. An answer to something that is no longer asked is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub(super) u64);

/// Something that the mirror wants from Nomad. Each is answered once, a stream by any number of lines; there is no need
/// to answer what was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Open the event stream of `namespace` (or `*`), topic `Service`, index 0.
    OpenStream {
        /// To be repeated in what is heard.
        ticket: Ticket,
        /// The namespace, or `*`.
        namespace: Arc<str>,
    },
    /// List the services of `namespace` (or `*`).
    List {
        /// To be repeated in what is heard.
        ticket: Ticket,
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// As a blocking query: to be held until the namespace has changed after this index.
        after: Option<u64>,
    },
    /// Read the registrations of one service. At most [`super::Mirror::PARALLEL_READS`] that are not blocking queries
    /// are wanted at a time.
    Read {
        /// To be repeated in what is heard.
        ticket: Ticket,
        /// The service.
        key: ServiceKey,
        /// As a blocking query: to be held until the service has changed after this index.
        after: Option<u64>,
    },
    /// Close the stream that was opened, or is being opened, with `ticket`; or give up the list or read.
    Cancel {
        /// The ticket of what is no longer asked.
        ticket: Ticket,
    },
}

/// Something that Nomad said, or failed to say.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The stream is open: its first line came.
    StreamOpened {
        /// The ticket of the stream.
        ticket: Ticket,
    },
    /// One line of the stream.
    StreamLine {
        /// The ticket of the stream.
        ticket: Ticket,
        /// The line.
        line: Line,
    },
    /// The stream could not be opened, or ended.
    StreamEnded {
        /// The ticket of the stream.
        ticket: Ticket,
        /// How.
        end: StreamEnd,
    },
    /// The answer to [`Ask::List`].
    Listed {
        /// The ticket of the list.
        ticket: Ticket,
        /// The list, if it may be believed: 200, an array, index 1 or more, a known leader.
        result: Result<Listing, Failure>,
    },
    /// The answer to [`Ask::Read`].
    Read {
        /// The ticket of the read.
        ticket: Ticket,
        /// The registrations, if they may be believed (as for a list).
        result: Result<Reading, Failure>,
    },
}

/// One line of the event stream. A heartbeat has no events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The Raft index that all events of the line share; 0 in a heartbeat.
    pub index: u64,
    /// The events of topic `Service`.
    pub events: Vec<NomadEvent>,
}

/// The services of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The index of the whole table of registrations.
    pub index: u64,
    /// The services that have instances.
    pub services: Vec<ListedService>,
}

/// One service as a list has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedService {
    /// The service.
    pub key: ServiceKey,
    /// The union of the tags of all its instances.
    pub tags: Vec<String>,
}

/// The registrations of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The index of the whole table of registrations.
    pub index: u64,
    /// All registrations of the service.
    pub registrations: Vec<Registration>,
}

impl Reading {
    /// What it takes in memory, about, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.registrations.iter().map(Registration::weight).sum()
    }
}

/// Why a stream is not, or no longer, there. The text is for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// It could not be opened and an early retry is no use: denied, silent, or not spoken by this Nomad.
    Refused(String),
    /// It could not be opened because Nomad cannot be reached.
    Unreachable(String),
    /// It was open and ended, broke, or fell silent.
    Lost(String),
}

/// A list or read that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What kind of failure it was.
    pub kind: FailureKind,
    /// What an operator should know and do about it.
    pub text: String,
}

/// The kinds of failure that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureKind {
    /// The token may not do this (403).
    Denied,
    /// There is no token, or none that Nomad knows.
    BadToken,
    /// No connection could be made, or it broke.
    Unreachable,
    /// No answer in time.
    Timeout,
    /// Nomad answered with an error.
    ServerError,
    /// An answer that is too long to be read.
    TooLong,
    /// An answer that has every sign of success but one: index 0, no leader, a body of another kind.
    NotBelievable,
    /// Too many connections, or too many requests (429).
    Limited,
    /// The service has a name that Nomad's API cannot be asked about.
    Unreadable,
}

impl FailureKind {
    /// Whether the failure says nothing about the one service that was asked for.
    pub(super) const fn concerns_everything(self) -> bool {
        match self {
            Self::BadToken | Self::Unreachable | Self::Limited => true,
            Self::Denied
            | Self::Timeout
            | Self::ServerError
            | Self::TooLong
            | Self::NotBelievable
            | Self::Unreadable => false,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "denied",
            Self::BadToken => "bad token",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::ServerError => "server error",
            Self::TooLong => "too long",
            Self::NotBelievable => "not believable",
            Self::Limited => "limited",
            Self::Unreadable => "unreadable",
        })
    }
}

/// How a namespace is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// By the event stream.
    Stream,
    /// By blocking queries, because of `reason`.
    Blocking {
        /// Why the stream cannot be had.
        reason: String,
    },
}

/// Why services are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Nothing is known yet.
    FirstSync,
    /// The stream was not there, or is another: lines may have been missed.
    StreamBroke,
    /// Nomad's index went back: it was restored or made anew.
    IndexWentBack,
    /// The operator asked for it.
    Resync,
    /// A list has a service that is not known, or lacks one that is.
    List,
    /// A service without a blocking query of its own may have changed, since its namespace did.
    NamespaceMoved,
    /// Every service is looked at in turn, since garbage collection deletes without an event.
    Audit,
    /// HAProxy has servers of a service that no list has.
    Proof,
    /// The last read failed.
    Retry,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::FirstSync,
        Self::StreamBroke,
        Self::IndexWentBack,
        Self::Resync,
        Self::List,
        Self::NamespaceMoved,
        Self::Audit,
        Self::Proof,
        Self::Retry,
    ];

    /// The same as one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstSync => "first_sync",
            Self::StreamBroke => "stream_broke",
            Self::IndexWentBack => "index_went_back",
            Self::Resync => "resync",
            Self::List => "list",
            Self::NamespaceMoved => "namespace_moved",
            Self::Audit => "audit",
            Self::Proof => "proof",
            Self::Retry => "retry",
        }
    }
}

/// Everything that is known: replaces all that was told before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The index of the list that this began with.
    pub index: u64,
    /// Every wanted service that has registrations, those sorted by ID.
    pub services: BTreeMap<ServiceKey, Vec<Registration>>,
    /// What could not be read so far: that a service of these is not in `services` proves nothing.
    pub unproven: BTreeSet<Scope>,
}

/// Something that became known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tell {
    /// A first sync, or one after a gap, is complete.
    Synced(Synced),
    /// All registrations of one service, after a change or when first proven.
    Changed {
        /// The service.
        key: ServiceKey,
        /// All its registrations, sorted by ID.
        registrations: Vec<Registration>,
        /// The index of the table up to which this is proven.
        index: u64,
        /// The index of the event that changed it; none if a read found the difference.
        event_index: Option<u64>,
    },
    /// The mirror of this namespace is the catalog of this moment.
    Current {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// The highest index of the table that is known.
        index: u64,
    },
    /// Services are read again.
    Rereads {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// Why.
        cause: Cause,
        /// How many.
        services: usize,
    },
    /// How the namespace is followed from now on.
    Following {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// How.
        how: How,
    },
    /// The stream was lost; a resync begins.
    StreamLost {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// Why.
        reason: String,
    },
    /// The catalog's index is lower than before, twice: Nomad was restored or made anew. Everything is read again.
    IndexWentBack {
        /// The namespace, or `*`.
        namespace: Arc<str>,
        /// The index that was known.
        from: u64,
        /// The index now.
        to: u64,
    },
    /// A failure began or became another one. What is known stays as it is.
    Trouble {
        /// What it is about.
        scope: Scope,
        /// What happened.
        failure: Failure,
    },
    /// The failure is over.
    Recovered {
        /// What it was about.
        scope: Scope,
    },
}
