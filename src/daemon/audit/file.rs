//! The audit log: a line of JSON for each change, appended. A file that was moved away or deleted is made anew, so a
//! `logrotate` needs no signal. A disk that is full costs lines, never time: the loop waits for nothing here.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::mpsc, task::spawn_blocking};
use tracing::{info, warn};

use crate::picture::Change;

/// Addresses and names, no secrets; but nobody else's business.
const MODE: u32 = 0o640;
/// So many lines are written at once.
const AT_ONCE: usize = 1_000;

/// What is to be written.
pub(in crate::daemon) struct Lines {
    pub(super) changes: mpsc::Receiver<Change>,
    /// How many there was no room for.
    pub(super) lost: Arc<AtomicU64>,
}

/// Writes what comes until the sender is gone.
pub(in crate::daemon) async fn write(path: PathBuf, mut lines: Lines) {
    let mut log = Log {
        path,
        file: None,
        lost: 0,
        trouble: String::new(),
    };
    let mut batch = Vec::new();
    while lines.changes.recv_many(&mut batch, AT_ONCE).await > 0 {
        log.lost += lines.lost.swap(0, Ordering::Relaxed);
        let written = spawn_blocking(move || {
            log.write(&batch);
            (log, batch)
        });
        let Ok((same, mut done)) = written.await else {
            return;
        };
        done.clear();
        (log, batch) = (same, done);
    }
}

struct Log {
    path: PathBuf,
    file: Option<File>,
    /// Changes that are in no file since there was trouble.
    lost: u64,
    trouble: String,
}

impl Log {
    fn write(&mut self, changes: &[Change]) {
        match self.append(changes) {
            Ok(()) => {
                if self.lost > 0 || !self.trouble.is_empty() {
                    info!(path = %self.path.display(), lost = self.lost, "the audit log is written again");
                    self.trouble.clear();
                    self.lost = 0;
                }
            }
            Err(error) => {
                self.file = None;
                self.lost += changes.len() as u64;
                let text = error.to_string();
                if text != self.trouble {
                    warn!(
                        path = %self.path.display(),
                        "the audit log cannot be written: {text}; changes are not in it until it can: make room, let the \
                         sidecar's user write there, or give --audit-log another path"
                    );
                    self.trouble = text;
                }
            }
        }
    }

    fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut text = Vec::new();
        for change in changes {
            serde_json::to_writer(&mut text, change)?;
            text.push(b'\n');
        }
        let mut file = match self.file.take() {
            Some(file) if is_at(&file, &self.path) => file,
            Some(_) | None => OpenOptions::new()
                .append(true)
                .create(true)
                .mode(MODE)
                .open(&self.path)?,
        };
        let before = file.metadata()?.len();
        if let Err(error) = file.write_all(&text) {
            // Never half a line.
            drop(file.set_len(before));
            return Err(error);
        }
        self.file = Some(file);
        Ok(())
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |(one, other): (fs::Metadata, fs::Metadata)| {
        one.dev() == other.dev() && one.ino() == other.ino()
    };
    file.metadata()
        .ok()
        .zip(fs::metadata(path).ok())
        .is_some_and(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(path: &Path) -> Log {
        Log {
            path: path.to_owned(),
            file: None,
            lost: 0,
            trouble: String::new(),
        }
    }

    fn change(number: u64) -> Change {
        Change {
            number,
            ..Change::default()
        }
    }

    #[test]
    fn lines_are_appended_and_a_file_that_was_moved_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let old = folder.path().join("audit.log.1");
        let lines = |path: &Path| fs::read_to_string(path).unwrap().lines().count();
        let mut log = log(&path);
        log.write(&[change(1), change(2)]);
        fs::rename(&path, &old).unwrap();
        log.write(&[change(3)]);
        assert_eq!((lines(&old), lines(&path)), (2, 1));
        fs::remove_file(&path).unwrap();
        log.write(&[change(4)]);
        assert_eq!((lines(&path), log.lost), (1, 0));
        let mut next = self::log(&path);
        next.write(&[change(1)]);
        assert_eq!(lines(&path), 2);
    }

    #[test]
    fn a_full_disk_costs_lines_and_is_over_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let mut log = log(&path);
        log.write(&[change(1)]);
        log.write(&[change(2), change(3)]);
        assert_eq!(log.lost, 3);
        assert!(log.trouble.contains("No space left"), "{}", log.trouble);
        fs::remove_file(&path).unwrap();
        log.write(&[change(4)]);
        assert_eq!((log.lost, log.trouble.as_str()), (0, ""));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
