//! The file of what is known to be by an operator's hand, beside the snapshot: there only while there is something.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use super::{RETRY, file};
use crate::{
    config::Config,
    daemon::report::Chain,
    reconcile::Hands,
    snapshot::{Refusal, decode_hands, encode_hands},
};

/// A disk that hangs does not keep a sidecar from its work.
const PATIENCE: Duration = Duration::from_millis(500);

/// The file, if there is to be one.
pub(in crate::daemon) struct Keeper {
    path: PathBuf,
    wishes: watch::Sender<Hands>,
}

impl Keeper {
    /// `parts` gets the task that writes.
    pub(in crate::daemon) fn new(config: &Config, parts: &mut JoinSet<()>) -> Option<Self> {
        let path = path(config)?;
        let (wishes, seen) = watch::channel(Hands::default());
        parts.spawn(run(path.clone(), seen));
        Some(Self { path, wishes })
    }

    pub(in crate::daemon) fn keep(&self, hands: Hands) {
        self.wishes.send_replace(hands);
    }

    /// What a predecessor knew.
    pub(in crate::daemon) async fn recall(&self) -> Option<Hands> {
        let path = self.path.clone();
        let reading = spawn_blocking(move || read(&path));
        match timeout(PATIENCE, reading).await {
            Ok(Ok(Ok(hands))) => return Some(hands),
            Ok(Ok(Err(Refusal::Absent))) => {}
            Ok(Ok(Err(refusal))) => self.not_known(&refusal.to_string()),
            Ok(Err(panic)) => std::panic::resume_unwind(panic.into_panic()),
            Err(_) => self.not_known("it takes too long to read: see to the disk"),
        }
        None
    }

    fn not_known(&self, why: &str) {
        warn!(
            file = %self.path.display(),
            "what was done by hand before this start is not known, and weight 0 and drains with it are undone: {why}"
        );
    }
}

/// What is known at this moment, for who only looks.
pub(in crate::daemon) fn look(config: &Config) -> Option<Hands> {
    read(&path(config)?).ok()
}

fn path(config: &Config) -> Option<PathBuf> {
    let mut path: OsString = config.snapshot_file.as_ref()?.into();
    path.push(".hands");
    Some(path.into())
}

fn read(path: &Path) -> Result<Hands, Refusal> {
    decode_hands(&file::read(path)?)
}

/// Writes the newest, until it is written.
async fn run(path: PathBuf, mut wishes: watch::Receiver<Hands>) {
    let mut trouble = String::new();
    while wishes.changed().await.is_ok() {
        loop {
            let (to, hands) = (path.clone(), wishes.borrow_and_update().clone());
            let written = spawn_blocking(move || write(&to, &hands)).await;
            let shown = path.display();
            match written.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic())) {
                Ok(()) if trouble.is_empty() => break,
                Ok(()) => {
                    info!(file = %shown, "what is done by hand can be kept for the next start again");
                    trouble.clear();
                    break;
                }
                Err(error) => {
                    let text = Chain(&error).to_string();
                    if trouble != text {
                        warn!(
                            file = %shown,
                            reason = text,
                            "what is done by hand cannot be kept: a sidecar that starts now undoes weight 0, and drains with it; \
                             see to the directory of --snapshot-file and its disk"
                        );
                    }
                    trouble = text;
                }
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                changed = wishes.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn write(path: &Path, hands: &Hands) -> io::Result<()> {
    if !hands.servers.is_empty() {
        let written = file::write(path, &encode_hands(hands));
        if written.is_ok() {
            return Ok(());
        }
        // What it says has been overtaken.
        let _ = fs::remove_file(path);
        return written.map(drop);
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
