//! Keeps the servers of one HAProxy equal to the Nomad service catalog, through the runtime API alone.
//!
//! A pure core decides ([`catalog`], [`reconcile`]: no socket, no clock, no randomness), a thin shell does ([`nomad`],
//! [`haproxy`], [`admin`], [`daemon`]). `docs/architecture.md` has the picture and the rules that are never broken.

pub mod admin;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod haproxy;
pub mod lint;
pub mod model;
pub mod nomad;
pub mod picture;
pub mod reconcile;
pub mod redacted;
pub mod snapshot;
mod spelling;
pub mod telemetry;
