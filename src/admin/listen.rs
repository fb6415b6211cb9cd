//! Where the admin listener listens: at an address, or on a Unix socket, which the commands of the same machine find.

use std::{
    fmt,
    fs::{self, Permissions},
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

/// For the user and the group: whoever may use HAProxy's socket may see this.
const MODE: u32 = 0o660;
/// Between two attempts to listen.
const RETRY: Duration = Duration::from_secs(1);
/// For a sidecar that lives to accept a connection.
const ALIVE: Duration = Duration::from_millis(500);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At this address.
    Tcp(SocketAddr),
    /// On this socket.
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => addr.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// What listens. A socket of ours is removed when this is dropped.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// On a socket, at this path.
    Unix(UnixListener, PathBuf),
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Whoever comes next removes it otherwise.
            drop(fs::remove_file(path));
        }
    }
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    /// The next connection, and whose it is. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Stream>, String)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Box::new(stream), peer.to_string()))
            }
            Self::Unix(listener, path) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), path.display().to_string()))
            }
        }
    }
}

/// Listens, trying again until it works: what is taken is said once and never ends the daemon.
pub async fn bind_forever(listen: Listen) -> Listener {
    let mut said = None;
    loop {
        let bound = match &listen {
            Listen::Tcp(addr) => TcpListener::bind(addr).await.map(|listener| {
                // With port 0 the kernel has chosen one.
                let addr = listener.local_addr().unwrap_or(*addr);
                info!(%addr, "the admin listener answers /live, /ready, /status, /events and /metrics, and browsers at /");
                Listener::Tcp(listener)
            }),
            Listen::Unix(path) => bind_unix(path).await.inspect(|_| {
                info!(path = %path.display(), "`status` and `explain` are answered on this socket");
            }),
        };
        match bound {
            Ok(listener) => return listener,
            Err(error) if said == Some(error.kind()) => {
                debug!(addr = %listen, %error, "still not listening");
            }
            Err(error) => {
                said = Some(error.kind());
                warn!(
                    addr = %listen, %error,
                    "the admin listener cannot listen and tries again every second: free the address, or set --admin-listen to another one or to off"
                );
            }
        }
        sleep(RETRY).await;
    }
}

async fn bind_unix(path: &Path) -> io::Result<Listener> {
    let bound = UnixListener::bind(path);
    let listener = match bound {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // What a sidecar that was killed has left is removed, one that is in use never, and no other file.
            let is_socket = fs::symlink_metadata(path)?.file_type().is_socket();
            let answer = timeout(ALIVE, UnixStream::connect(path)).await;
            let is_dead = matches!(answer, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused);
            if !(is_socket && is_dead) {
                return Err(error);
            }
            fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    Ok(Listener::Unix(listener, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_taken_over_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidecar.sock");
        // Without the clean end.
        drop(UnixListener::bind(&path).unwrap());
        let first = bind_unix(&path).await.unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let error = bind_unix(&path).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());

        fs::write(&path, "mine").unwrap();
        assert!(bind_unix(&path).await.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
    #[tokio::test(start_paused = true)]
    async fn a_taken_address_is_waited_for() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = taken.local_addr().unwrap();
        let mut bound = pin!(bind_forever(Listen::Tcp(addr)));
        assert!(timeout(RETRY * 3, &mut bound).await.is_err());

        drop(taken);
        let bound = bound.await;
        let Listener::Tcp(listener) = &bound else {
            panic!("another kind");
        };
        assert_eq!(listener.local_addr().unwrap(), addr);
    }
}
