//! The vocabulary that every other module shares: names and addresses that were validated, what HAProxy reports, what
//! is asked of it, and what Nomad has registered.
//!
//! Only plain values live here: no I/O, no clock, no decision. Terms are Nomad's and HAProxy's own.

mod backoff;
mod capabilities;
mod haproxy;
mod keyword;
mod map;
mod name;
mod nomad;

pub use backoff::{Backoff, SplitMix64};
pub use capabilities::{CAPABILITIES, Capability, DEFECTS, Defect, DefectRow};
pub use haproxy::{
    AdminState, BackendRows, BackendStat, Batch, BatchId, CheckState, Command, InvalidVersion,
    Keyword, OperState, Outcome, ProcessInfo, Request, Response, ServerRow, ServerState, StatRow,
    Verdict, Version,
};
pub use keyword::{InvalidKeywords, Protocol, ProxyHeader, ServerKeywords};
pub use map::{InvalidWord, MapChange, MapContent, MapEntry, MapKind, MapName, MapWord};
pub use name::{
    Address, BackendName, CookieValue, InvalidName, ProfileName, SectionName, ServerName,
    ServerProfileName, ServerRef,
};
pub use nomad::{Allocation, AllocationId, NomadEvent, Registration, Scope, ServiceKey};
