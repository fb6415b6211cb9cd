//! What can go wrong with the stats socket: before a session ([`ConnectError`]) and within one ([`SessionError`]).

use std::{
    io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::haproxy::{parse::ParseError, reply::UnknownReply};

/// `ENFILE` and `EMFILE`: none for anybody, or none for this process.
const NO_DESCRIPTOR: [i32; 2] = [23, 24];

/// The longest path of a Unix socket, in bytes.
pub(super) const MAX_PATH: usize = 107;

/// Why there is no session. The texts say what an operator can do; all but [`Self::PathTooLong`] may pass by themselves.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// There is no such file: HAProxy never ran, or the path is wrong.
    #[error("{} does not exist: start HAProxy, or name its stats socket with --haproxy-socket", .0.display())]
    Missing(PathBuf),
    /// Nobody listens: HAProxy is down or being restarted.
    #[error("nobody listens on {}: HAProxy is not running, or is just being restarted", .0.display())]
    Refused(PathBuf),
    /// The socket, or a folder above it, is closed to this user.
    #[error(
        "{} cannot be opened: {reason}; write `mode 660 level admin` and a `group` that the sidecar is in on its \
         `stats socket` line", path.display()
    )]
    Forbidden {
        /// The socket.
        path: PathBuf,
        /// Who may open it, and who wants to.
        reason: String,
    },
    /// Another kind of file.
    #[error("{} is not a socket: name HAProxy's stats socket with --haproxy-socket", .0.display())]
    NotASocket(PathBuf),
    /// The kernel takes no more than 107 bytes.
    #[error(
        "the path {} has {} bytes, a socket's cannot have more than {MAX_PATH}: put the stats socket elsewhere",
        .0.display(), .0.as_os_str().len()
    )]
    PathTooLong(PathBuf),
    /// Connected, but no answer came in time.
    #[error(
        "{} does not answer within {deadline:?}: HAProxy is stuck, or 10 connections are open already (close some, or \
         raise `stats maxconn`)", path.display()
    )]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        deadline: Duration,
    },
    /// A socket that cannot change anything.
    #[error(
        "the stats socket {} answers at level {level:?}: write `level admin` on its `stats socket` line", path.display()
    )]
    NotAdmin {
        /// The socket.
        path: PathBuf,
        /// Its level.
        level: String,
    },
    /// HAProxy's master process.
    #[error(
        "{} is the socket of HAProxy's master (-S): name the one of a `stats socket` line with --haproxy-socket",
        .0.display()
    )]
    Master(PathBuf),
    /// Somebody else's socket.
    #[error(
        "{} does not answer as HAProxy does, but with {said:?}: name HAProxy's stats socket with --haproxy-socket",
        path.display()
    )]
    NotHaproxy {
        /// The socket.
        path: PathBuf,
        /// The beginning of the answer.
        said: String,
    },
    /// `show info` cannot be read.
    #[error("the answer of {} to show info cannot be read", path.display())]
    Unreadable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: ParseError,
    },
    /// The process that answered is on its way out; its successor answers in a moment.
    #[error("the HAProxy behind {} is stopping, a reload is going on", .0.display())]
    Stopping(PathBuf),
    /// The other side closed before it had answered.
    #[error("{} closed the connection: HAProxy is just being restarted, or it is not HAProxy", .0.display())]
    Closed(PathBuf),
    /// The process may open no more files.
    #[error(
        "there is no file descriptor left to connect to {}: raise the sidecar's limit (ulimit -n), or see who keeps \
         connections to its admin listener open", .0.display()
    )]
    NoDescriptor(PathBuf),
    /// Another error of the operating system.
    #[error("connect to {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
}

impl ConnectError {
    /// What the operating system's refusal to connect means.
    pub(super) fn from_connect(path: &Path, source: io::Error, deadline: Duration) -> Self {
        let metadata = std::fs::metadata(path);
        let path = path.to_owned();
        if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&source.kind()) {
            return Self::Missing(path);
        }
        if source.kind() == io::ErrorKind::PermissionDenied {
            let reason = forbidden(metadata.ok());
            return Self::Forbidden { path, reason };
        }
        if source.kind() == io::ErrorKind::ConnectionRefused {
            return if metadata.is_ok_and(|file| !file.file_type().is_socket()) {
                Self::NotASocket(path)
            } else {
                Self::Refused(path)
            };
        }
        if source
            .raw_os_error()
            .is_some_and(|code| NO_DESCRIPTOR.contains(&code))
        {
            return Self::NoDescriptor(path);
        }
        // The queue of connections that wait to be accepted is full.
        if source.kind() == io::ErrorKind::WouldBlock {
            return Self::NoAnswer { path, deadline };
        }
        Self::Io { path, source }
    }

    /// What an error on a connection means that has not answered yet.
    pub(super) fn from_greeting(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if is_closed(&source) {
            Self::Closed(path)
        } else {
            Self::Io { path, source }
        }
    }

    /// Whether HAProxy will most likely be back in a moment.
    pub(super) fn is_of_a_restart(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Stopping(_))
    }
}

/// The other side closed with something of ours unread, or before we wrote.
fn is_closed(error: &io::Error) -> bool {
    [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind())
}

fn forbidden(socket: Option<std::fs::Metadata>) -> String {
    let Some(socket) = socket else {
        return "a folder above it is closed to this user".to_owned();
    };
    let owner = format!(
        "it belongs to user {}, group {}, with mode {:03o}",
        socket.uid(),
        socket.gid(),
        socket.mode() & 0o777
    );
    // The folder belongs to the process, so to its effective user and group.
    match std::fs::metadata("/proc/self") {
        Ok(own) => format!(
            "{owner}, and the sidecar runs as user {}, group {}",
            own.uid(),
            own.gid()
        ),
        Err(_) => owner,
    }
}

/// Why a session ended, or why a batch got no (full) answer from it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SessionError {
    /// `Stopping: 1`: a reload replaced the process. What is written to it is lost.
    #[error("this HAProxy process is stopping (reloaded or shut down)")]
    Stopping,
    /// `show info` tells of another process than before.
    #[error("another HAProxy process answers now")]
    Replaced,
    /// HAProxy closed the connection: it stopped, or was killed.
    #[error("HAProxy closed the connection")]
    Closed,
    /// No byte of an answer that is due came for so long.
    #[error("HAProxy did not answer within {0:?}")]
    Silent(Duration),
    /// The sidecar was stopped itself (SIGSTOP, a frozen machine): what it planned before is not written any more.
    #[error("this sidecar stood still for {0:.1?}")]
    StoodStill(Duration),
    /// The answer does not tell what became of the request.
    #[error(transparent)]
    UnknownReply(#[from] UnknownReply),
    /// An answer longer than anything that is expected.
    #[error("an answer is longer than {0} bytes")]
    TooLong(usize),
    /// Bytes came that nothing had asked for: answers can no longer be told apart.
    #[error("HAProxy said {0:?} unasked")]
    Unasked(String),
    /// An error of the operating system.
    #[error("the connection to HAProxy failed")]
    Io(#[source] Arc<io::Error>),
    /// Of a batch: there is no connection.
    #[error("there is no connection to HAProxy")]
    NotConnected,
    /// Of a batch: the connection ended for another reason than this batch. What was written of it may be done.
    #[error("the connection to HAProxy ended before the answer")]
    Abandoned,
}

impl From<io::Error> for SessionError {
    fn from(error: io::Error) -> Self {
        if is_closed(&error) {
            Self::Closed
        } else {
            Self::Io(Arc::new(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_socket_says_whose_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("haproxy.sock");
        let denied = || {
            ConnectError::from_connect(
                &path,
                io::ErrorKind::PermissionDenied.into(),
                Duration::ZERO,
            )
            .to_string()
        };
        assert_eq!(
            denied(),
            format!(
                "{} cannot be opened: a folder above it is closed to this user; write `mode 660 level admin` and a \
                 `group` that the sidecar is in on its `stats socket` line",
                path.display()
            )
        );
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let file = std::fs::metadata(&path).unwrap();
        let (user, group, mode) = (file.uid(), file.gid(), file.mode() & 0o777);
        assert_eq!(
            denied(),
            format!(
                "{} cannot be opened: it belongs to user {user}, group {group}, with mode {mode:o}, and the sidecar \
                 runs as user {user}, group {group}; write `mode 660 level admin` and a `group` that the sidecar is in \
                 on its `stats socket` line",
                path.display()
            )
        );
    }

    #[test]
    fn a_process_without_a_free_descriptor_is_told_what_to_raise() {
        for code in NO_DESCRIPTOR {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(
                ConnectError::from_connect(Path::new("/s"), error, Duration::ZERO).to_string(),
                "there is no file descriptor left to connect to /s: raise the sidecar's limit (ulimit -n), or see who keeps \
                 connections to its admin listener open"
            );
        }
    }

    #[test]
    fn a_full_queue_is_no_answer() {
        let error = ConnectError::from_connect(
            Path::new("/s"),
            io::ErrorKind::WouldBlock.into(),
            Duration::from_secs(5),
        );
        assert_eq!(
            error.to_string(),
            "/s does not answer within 5s: HAProxy is stuck, or 10 connections are open already (close some, or raise \
             `stats maxconn`)"
        );
    }
}
