//! `lint`: what is wrong with a job file as far as the sidecar is concerned, for whoever writes jobs. Its tags are read by
//! the same code that reads them from the catalog.
//!
//! Pure: bytes go in, findings and text come out. Who reads the file and asks Nomad is `daemon::lint`.

mod check;
mod claim;
pub mod connector;
#[cfg(feature = "hcl")]
mod hcl;
pub mod job;
mod json;
mod meant;
#[cfg(feature = "hcl")]
mod misfit;
mod port;
mod print;
pub mod refused;

use std::{fmt, path::PathBuf};

pub use check::check;
pub use print::{print, print_json};

use self::job::Job;
use crate::reconcile::tags::shown;

/// No file is longer than this in bytes. A job is some 10 KB, and Nomad keeps no source above 1 MB.
pub const MAX_FILE: usize = 2 * 1024 * 1024;

/// What `lint` is told.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct Options {
    /// The job in HCL, or in JSON as `nomad job run -output` prints it; - reads the standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Do not ask Nomad to evaluate the HCL; what has a variable or a function in it is not judged
    #[arg(long)]
    pub offline: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Print, too, how the tags of another program are read
    #[arg(long, value_name = "PROGRAM")]
    pub from: Option<From>,
}

/// A program that reads tags of the same prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum From {
    /// The Go connector between Nomad and HAProxy's Data Plane API.
    Connector,
}

/// Why a file cannot be judged.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no JSON, or not that of a job.
    #[error("it is no job in JSON: {0}")]
    Json(String),
    /// It is JSON, but no object.
    #[error(
        "it is {0} in JSON, and a job is an object: give what `nomad job run -output <job file>` prints, {{\"Job\": …}}"
    )]
    OtherJson(&'static str),
    /// It is no HCL.
    #[error("it is no job in HCL: line {line}, column {column}: {problem}")]
    Hcl {
        /// The line, from one.
        line: usize,
        /// The column, from one.
        column: usize,
        /// What is wrong.
        problem: String,
    },
    /// It is something else.
    #[error(
        "there is no job in it: give a job file in HCL, or what `nomad job run -output` prints"
    )]
    NoJob,
    /// There are several.
    #[error("there are {0} jobs in it, and Nomad takes one a file: give each its own")]
    ManyJobs(usize),
    /// It is longer than [`MAX_FILE`].
    #[error("it is longer than {} MiB, which no job is", MAX_FILE / 1024 / 1024)]
    TooLong,
    /// It is no text.
    #[error("it is not UTF-8: save it as UTF-8")]
    NoText,
    /// This program reads no HCL by itself.
    #[error(
        "this program was built without the feature hcl, and reads HCL only with Nomad's help: give what `nomad job run -output` \
         prints"
    )]
    NoHcl,
}

/// What was found in one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The job's name.
    pub job: String,
    /// In the order of the file.
    pub findings: Vec<Finding>,
    /// Whether the rest of the job was not looked at, since there are so many findings already.
    pub is_cut: bool,
    /// How many services were looked at.
    pub services: usize,
    /// How many of these ask for HAProxy.
    pub wanted: usize,
    /// Of how many others that is not known.
    pub perhaps: usize,
}

/// Something that is wrong, or that could not be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind it is.
    pub rule: Rule,
    /// The line in the file, if there is one.
    pub line: Option<usize>,
    /// Where in the job.
    pub place: Place,
    /// What is wrong, and what to do.
    pub text: String,
}

/// Where in a job something is; empty is everywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The group.
    pub group: Option<String>,
    /// The task.
    pub task: Option<String>,
    /// The service.
    pub service: Option<String>,
}

/// What kind a finding is. The names are for machines, and stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Nomad refuses the job.
    Job,
    /// A tag that is misspelt, out of range, or without effect.
    Tag,
    /// Tags, but none that opts in.
    Enable,
    /// Canaries are not served.
    CanaryTags,
    /// Somebody else than Nomad registers it.
    Provider,
    /// It has no port or address that Nomad would register and HAProxy could use.
    Address,
    /// The policy forbids what it asks for, or its name cannot be a backend's.
    Policy,
    /// An instance is stopped too soon.
    ShutdownDelay,
    /// It could not be judged. No finding.
    NotJudged,
}

impl Rule {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Job => "job",
            Self::Tag => "tag",
            Self::Enable => "enable",
            Self::CanaryTags => "canary-tags",
            Self::Provider => "provider",
            Self::Address => "address",
            Self::Policy => "policy",
            Self::ShutdownDelay => "shutdown-delay",
            Self::NotJudged => "not-judged",
        }
    }

    /// Whether it only says that something could not be judged.
    #[must_use]
    pub const fn is_note(self) -> bool {
        matches!(self, Self::NotJudged)
    }
}

impl Report {
    /// How many findings there are, without notes.
    #[must_use]
    pub fn count(&self) -> usize {
        let notes = self
            .findings
            .iter()
            .filter(|finding| finding.rule.is_note());
        self.findings.len() - notes.count()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            ("group", &self.group),
            ("task", &self.task),
            ("service", &self.service),
        ];
        for (kind, name) in parts {
            if let Some(name) = name {
                write!(f, ", {kind} {}", shown(name))?;
            }
        }
        Ok(())
    }
}

/// Whether a file is JSON: HCL begins with a name, which JSON does not, but for three words.
#[must_use]
pub fn is_json(file: &[u8]) -> bool {
    match file.trim_ascii() {
        b"null" | b"true" | b"false" => true,
        text => text
            .first()
            .is_some_and(|first| b"{[\"-0123456789".contains(first)),
    }
}

/// Reads a job in JSON.
///
/// # Errors
///
/// When it is none.
pub fn read_json(json: &[u8]) -> Result<Job, Unreadable> {
    json::read(json)
}

/// Reads a job in HCL without evaluating anything.
///
/// # Errors
///
/// When it is none, or when this program was built without the feature `hcl`.
#[cfg(feature = "hcl")]
pub fn read_hcl(text: &str) -> Result<Job, Unreadable> {
    hcl::read(text)
}

/// Reads no HCL.
///
/// # Errors
///
/// Always.
#[cfg(not(feature = "hcl"))]
pub fn read_hcl(_text: &str) -> Result<Job, Unreadable> {
    Err(Unreadable::NoHcl)
}

/// Reads what Nomad made of the HCL `text`: everything is evaluated there, and the lines come from the text.
///
/// # Errors
///
/// When `json` is no job.
pub fn read_evaluated(json: &[u8], text: &str) -> Result<Job, Unreadable> {
    let mut job = json::read(json)?;
    if let Ok(written) = read_hcl(text) {
        job.take_lines(&written);
    }
    Ok(job)
}
