//! Writes the server-state file. The core says what is in it; here is what a disk can do to that.
//!
//! The newest wish counts, and those that came while another one was being carried out are passed over: nothing queues. A
//! new file takes the old one's name, so HAProxy reads the one or the other. It is not synced to the disk: after a power
//! failure there is no HAProxy either that should have its addresses back.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::{debug, info, warn};

use crate::{
    admin::Metrics,
    model::{Backoff, SplitMix64},
    reconcile::StateFile,
};

/// HAProxy may be another user, and there is nothing secret in it.
const MODE: u32 = 0o644;

/// What the file should be.
#[derive(Clone, Debug, Default)]
pub(super) struct Wish {
    content: Option<Content>,
    /// Counts contents.
    number: u64,
}

#[derive(Clone, Debug)]
enum Content {
    Texts(Arc<[Arc<str>]>),
    NoFile,
}

impl Wish {
    /// Takes in what the core wants.
    pub(super) fn take(&mut self, wanted: StateFile) {
        self.content = match wanted {
            StateFile::Write(texts) => Some(Content::Texts(texts)),
            StateFile::Remove => Some(Content::NoFile),
            // Whoever waits for a wish is woken up by the same one, too.
            StateFile::Keep => return,
        };
        self.number += 1;
    }
}

/// Carries wishes out for ever. `seed` drives the jitter of delays.
pub(super) async fn run(
    path: PathBuf,
    mut wishes: watch::Receiver<Wish>,
    metrics: Arc<Metrics>,
    seed: u64,
) {
    let (mut random, mut delays) = (
        SplitMix64::new(seed),
        Backoff::new(Duration::from_secs(1), Duration::from_secs(30)),
    );
    let mut done = 0;
    // What was said last, while it lasts.
    let mut trouble = String::new();
    while wishes.changed().await.is_ok() {
        loop {
            let wish = wishes.borrow_and_update().clone();
            let Some(content) = wish.content else { break };
            let is_new = wish.number != done;
            let file = path.clone();
            let carried_out = spawn_blocking(move || carry_out(&file, &content, is_new)).await;
            let Err(problem) = carried_out.unwrap_or_else(|panic| Err(Problem::other(panic)))
            else {
                done = wish.number;
                metrics.state_file().written();
                if !trouble.is_empty() {
                    info!(path = %path.display(), "the state file can be written again");
                    trouble.clear();
                }
                delays.reset();
                break;
            };
            metrics.state_file().failed();
            let text = problem.to_string();
            if text == trouble {
                debug!(path = %path.display(), "{text}");
            } else {
                warn!(path = %path.display(), "{text}");
                trouble = text;
            }
            tokio::select! {
                () = sleep(delays.next_delay(&mut random)) => {}
                changed = wishes.changed() => if changed.is_err() { return },
            }
        }
    }
}

/// Why the file is not as it should be.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(
        "the state file cannot be written: {source}; {}. Until then HAProxy comes back from a reload with empty slots",
        advice(source)
    )]
    Write { source: io::Error },
    #[error(
        "the state file cannot be written, nor the old one removed: {source}; {}. Until then HAProxy comes back from a \
         reload with slots as they were",
        advice(source)
    )]
    WriteOrRemove { source: io::Error },
    #[error(
        "the state file cannot be removed: {source}; {}. A HAProxy that is started now may send requests to addresses that \
         belong to others by now",
        advice(source)
    )]
    Remove { source: io::Error },
}

impl Problem {
    fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        let source = io::Error::other(error);
        Self::Write { source }
    }
}

/// What an operator can do about it.
fn advice(error: &io::Error) -> &'static str {
    use ErrorKind as Kind;
    let kind = error.kind();
    if kind == Kind::NotFound {
        "create its directory, or give --state-file another path"
    } else if matches!(kind, Kind::PermissionDenied | Kind::ReadOnlyFilesystem) {
        "let the sidecar's user write in its directory: a new file takes the old one's place"
    } else if matches!(kind, Kind::StorageFull | Kind::QuotaExceeded) {
        "make room where it is: it has 100 bytes for each slot in use"
    } else {
        "give --state-file the path of a file that can be written"
    }
}

fn carry_out(path: &Path, content: &Content, is_new: bool) -> Result<(), Problem> {
    match content {
        Content::Texts(_) if !is_new && mark_as_current(path).is_ok() => Ok(()),
        Content::Texts(texts) => write(path, texts).map_err(|source| {
            // What it says has been overtaken, and wrong addresses are worse than none.
            match remove(path) {
                Ok(()) => Problem::Write { source },
                Err(_) => Problem::WriteOrRemove { source },
            }
        }),
        Content::NoFile => remove(path).map_err(|source| Problem::Remove { source }),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shell is where time comes from"
)]
fn mark_as_current(path: &Path) -> io::Result<()> {
    // Anything else that is there by now could hang.
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let file = File::options().write(true).open(path)?;
    file.set_modified(SystemTime::now())
}

fn write(path: &Path, texts: &[Arc<str>]) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // One that was left behind, and never what somebody else has put there for us to write through.
    remove(&new)?;
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(&new)?;
        file.write_all(texts.concat().as_bytes())?;
        // Whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        drop(remove(&new));
    }
    written
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| {
        // Where nothing can be written, not even nothing can be removed.
        let is_gone = fs::symlink_metadata(path).is_err_and(|it| it.kind() == ErrorKind::NotFound);
        if is_gone { Ok(()) } else { Err(error) }
    })
}
