//! Why a snapshot is not used, for an operator.

use std::{fmt, time::Duration};

use super::{MAX_AGE, MAX_LENGTH};

/// Why a snapshot is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none.
    Absent,
    /// Nomad was last current too long ago.
    TooOld(Duration),
    /// It is from so much later than now.
    FromTheFuture(Duration),
    /// It is not what was written.
    Damaged(String),
    /// Its end is missing.
    Truncated,
    /// Another version of the program wrote it.
    UnknownVersion(u32),
    /// It is of another catalog.
    Foreign {
        /// What differs.
        what: &'static str,
        /// As it is in the snapshot.
        there: String,
        /// As it is set now.
        here: String,
    },
    /// The file cannot be read.
    Unreadable(String),
    /// It has more bytes than a snapshot may have.
    TooLarge(usize),
}

impl Refusal {
    /// The label that metrics have for it.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::TooOld(_) => "too_old",
            Self::FromTheFuture(_) => "from_the_future",
            Self::Damaged(_) => "damaged",
            Self::Truncated => "truncated",
            Self::UnknownVersion(_) => "unknown_version",
            Self::Foreign { .. } => "foreign",
            Self::Unreadable(_) => "unreadable",
            Self::TooLarge(_) => "too_large",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("there is none"),
            Self::TooOld(age) => write!(
                f,
                "it is {} s old, and addresses outlive their owners: after {} s they are not used any more",
                age.as_secs(),
                MAX_AGE.as_secs()
            ),
            Self::FromTheFuture(ahead) => write!(
                f,
                "it is from {} s after now: look at this machine's clock",
                ahead.as_secs()
            ),
            Self::Damaged(what) => write!(
                f,
                "it is damaged ({what}): the disk or another program did that; the next good sync replaces it"
            ),
            Self::Truncated => f.write_str(
                "its end is missing, so it was not written to the end or was cut; the next good sync replaces it",
            ),
            Self::UnknownVersion(version) => write!(
                f,
                "its format is version {version}, which this program does not know: another version of it wrote that; the \
                 next good sync replaces it"
            ),
            Self::Foreign { what, there, here } => write!(
                f,
                "it is of another catalog: its {what} is {there}, here it is {here}; give each sidecar a --snapshot-file of \
                 its own"
            ),
            Self::Unreadable(why) => write!(
                f,
                "it cannot be read ({why}): the sidecar's user needs the file, with mode 600, and its directory"
            ),
            Self::TooLarge(length) => write!(
                f,
                "it has {length} bytes, more than the {MAX_LENGTH} that a snapshot may have"
            ),
        }
    }
}
