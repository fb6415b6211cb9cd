//! A Unix socket in front of HAProxy's that keeps what was written to it, and can break.
//!
//! It passes bytes on as they come, so it does not change how lines are grouped, only their timing.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tempfile::TempDir;

/// The socket to give to the program under test.
pub(crate) struct Tap {
    directory: TempDir,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: PathBuf,
    is_refusing: AtomicBool,
    is_dropping_replies: AtomicBool,
    streams: Mutex<Vec<UnixStream>>,
    written: Mutex<Vec<Vec<u8>>>,
    /// How many more changing lines reach HAProxy; all of them, if there is no number.
    allowance: Mutex<Option<usize>>,
}

/// Whether HAProxy is another one after this line.
pub(crate) fn is_changing(line: &str) -> bool {
    line != "prompt"
        && !["show ", "dump ", "set timeout cli ", "set severity-output "]
            .iter()
            .any(|harmless| line.starts_with(harmless))
}

impl Tap {
    /// Before the socket `upstream`, which need not be there yet.
    pub(crate) fn before(upstream: &Path) -> Self {
        let directory = TempDir::with_prefix_in("tap", "/tmp").expect("/tmp is writable");
        let tap = Self {
            shared: Arc::new(Shared {
                upstream: upstream.to_owned(),
                is_refusing: AtomicBool::new(false),
                is_dropping_replies: AtomicBool::new(false),
                streams: Mutex::default(),
                written: Mutex::default(),
                allowance: Mutex::new(None),
            }),
            directory,
        };
        let listener = UnixListener::bind(tap.socket()).expect("the directory is ours");
        let shared = Arc::clone(&tap.shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.join(client).unwrap_or_default();
            }
        });
        tap
    }

    /// The path to connect to.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("tap.sock")
    }

    /// Every whole line that was written so far, connection by connection.
    pub(crate) fn lines(&self) -> Vec<String> {
        let written = self.shared.written.lock().expect("no thread panics");
        written
            .iter()
            .flat_map(|bytes| bytes.split_inclusive(|byte| *byte == b'\n'))
            .filter_map(|line| line.strip_suffix(b"\n"))
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect()
    }

    /// Those of the lines that change something.
    pub(crate) fn changes(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| is_changing(line));
        lines
    }

    /// Lets so many more changing lines pass, and nothing that is written after the last of them: as if the writer had
    /// died there. Without a number everything passes again.
    pub(crate) fn allow(&self, changes: Option<usize>) {
        *self.shared.allowance.lock().expect("no thread panics") = changes;
    }

    /// Whether nothing passes any more.
    pub(crate) fn is_closed(&self) -> bool {
        *self.shared.allowance.lock().expect("no thread panics") == Some(0)
    }

    /// Forgets the lines so far.
    pub(crate) fn forget(&self) {
        let mut written = self.shared.written.lock().expect("no thread panics");
        written.iter_mut().for_each(Vec::clear);
    }

    /// Closes all connections; new ones are welcome.
    pub(crate) fn cut(&self) {
        for stream in self
            .shared
            .streams
            .lock()
            .expect("no thread panics")
            .drain(..)
        {
            // It may be closed already.
            stream.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }

    /// Whether new connections are closed at once.
    pub(crate) fn refuse(&self, is_refusing: bool) {
        self.shared.is_refusing.store(is_refusing, Ordering::SeqCst);
    }

    /// Whether what HAProxy says is thrown away; commands still reach it.
    pub(crate) fn drop_replies(&self, is_dropping: bool) {
        self.shared
            .is_dropping_replies
            .store(is_dropping, Ordering::SeqCst);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.refuse(true);
        self.cut();
    }
}

impl Shared {
    fn join(self: &Arc<Self>, client: UnixStream) -> std::io::Result<()> {
        if self.is_refusing.load(Ordering::SeqCst) {
            return Ok(());
        }
        let upstream = UnixStream::connect(&self.upstream)?;
        let (mut from_client, mut to_upstream) = (client.try_clone()?, upstream.try_clone()?);
        let (mut from_upstream, mut to_client) = (upstream.try_clone()?, client.try_clone()?);
        let number = {
            let mut written = self.written.lock().expect("no thread panics");
            written.push(Vec::new());
            written.len() - 1
        };
        let mut streams = self.streams.lock().expect("no thread panics");
        streams.extend([client, upstream]);
        drop(streams);
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let mut line = Vec::new();
            pump(&mut from_client, |bytes| {
                let bytes = shared.allowed(&mut line, bytes);
                shared.written.lock().expect("no thread panics")[number].extend_from_slice(bytes);
                to_upstream.write_all(bytes)
            });
            to_upstream.shutdown(Shutdown::Write).unwrap_or_default();
        });
        let shared = Arc::clone(self);
        thread::spawn(move || {
            pump(&mut from_upstream, |bytes| {
                if shared.is_dropping_replies.load(Ordering::SeqCst) {
                    return Ok(());
                }
                to_client.write_all(bytes)
            });
            to_client.shutdown(Shutdown::Both).unwrap_or_default();
        });
        Ok(())
    }

    /// How much of `bytes` may pass; `line` is what was written since the last line feed.
    fn allowed<'a>(&self, line: &mut Vec<u8>, bytes: &'a [u8]) -> &'a [u8] {
        let mut allowance = self.allowance.lock().expect("no thread panics");
        for (at, byte) in bytes.iter().enumerate() {
            if *allowance == Some(0) {
                return &bytes[..at];
            }
            if *byte != b'\n' {
                line.push(*byte);
                continue;
            }
            let changes = is_changing(&String::from_utf8_lossy(line));
            line.clear();
            if let Some(left) = allowance.as_mut().filter(|_| changes) {
                *left -= 1;
            }
        }
        bytes
    }
}

/// Until one side has had enough.
fn pump(from: &mut UnixStream, mut to: impl FnMut(&[u8]) -> std::io::Result<()>) {
    let mut buffer = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to(&buffer[..count]).is_err() {
            return;
        }
    }
}
