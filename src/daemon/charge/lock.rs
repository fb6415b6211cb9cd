//! The lock file beside HAProxy's socket: an advisory lock of the kernel's, which frees it when the process dies.
//!
//! Other tasks may be able to write to that folder, so whatever is there under this name is looked at before it is used: no
//! link is followed, and nothing is written to a file that no sidecar has made.

use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::holder::Holder;

/// No more of a lock file is read.
const MAX_CONTENT: u64 = 256 * 1024;
/// Whoever gets into the folder may lock: a sidecar under another user too. To read would be enough for that.
const MODE: u32 = 0o666;
/// So many links in a row are followed from the socket's name.
const MAX_LINKS: usize = 8;

/// A lock that this process has.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

/// What came of trying to lock.
#[derive(Debug)]
pub(super) enum Attempt {
    /// It is ours. With who had it before, if that one left its name.
    Locked(Lock, Option<Holder>),
    /// Another process has it; this is who, if that can be read.
    Held(Option<Holder>),
}

/// Why nothing can be locked.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// HAProxy's socket cannot be there either.
    #[error("the folder of {} cannot be found", .0.display())]
    NoFolder(PathBuf),
    /// The folder does not let this user make a file.
    #[error(
        "the lock file {} cannot be made ({source}): {}", path.display(), advice(source)
    )]
    NotMade {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is closed to this user.
    #[error(
        "the lock file {} cannot be opened ({source}): let the sidecar's user read it, or remove it", path.display()
    )]
    NotOpened {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else has the name.
    #[error("{} is {what} and no lock file of a sidecar: remove it", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It was replaced while it was looked at.
    #[error("the lock file {} is being replaced", .0.display())]
    Replaced(PathBuf),
    /// The file system knows no locks.
    #[error("the lock file {} cannot be locked ({source}): put HAProxy's socket on a local file system", path.display())]
    NotLocked {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file that is locked and does not say by whom.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unnamed {
    /// Its content is somebody else's.
    #[error("{} has something in it that no sidecar wrote, which stays: remove the file", .0.display())]
    Foreign(PathBuf),
    /// It cannot be written.
    #[error("{} cannot be written ({source}): see whether the disk is full", path.display())]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What lets a file be made.
fn advice(error: &io::Error) -> &'static str {
    use io::ErrorKind as Kind;
    if matches!(error.kind(), Kind::StorageFull | Kind::QuotaExceeded) {
        "make room on its disk"
    } else {
        "let the sidecar's user write to this folder"
    }
}

impl Lock {
    /// Tries to lock what belongs to `socket`.
    pub(super) fn attempt(socket: &Path) -> Result<Attempt, LockError> {
        let path = path(socket)?;
        let file = open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Ok(Attempt::Held(Holder::read(&content(&file))));
            }
            Err(TryLockError::Error(source)) => return Err(LockError::NotLocked { path, source }),
        }
        let former = Holder::read(&content(&file));
        let lock = Self { file, path };
        // It may have been replaced before it was locked, and another one locked.
        if lock.is_in_place() {
            Ok(Attempt::Locked(lock, former))
        } else {
            Err(LockError::Replaced(lock.path))
        }
    }

    /// Whether whoever comes finds this very file.
    pub(super) fn is_in_place(&self) -> bool {
        let (Ok(own), Ok(there)) = (self.file.metadata(), fs::symlink_metadata(&self.path)) else {
            return false;
        };
        is_same(&own, &there)
    }

    /// Writes who has the lock.
    pub(super) fn name(&mut self, holder: &Holder) -> Result<(), Unnamed> {
        if !Holder::may_replace(&content(&self.file)) {
            return Err(Unnamed::Foreign(self.path.clone()));
        }
        self.write(&holder.content()).map_err(|source| {
            let path = self.path.clone();
            Unnamed::NotWritten { path, source }
        })
    }

    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(content)
    }

    /// Takes the name of the sidecar `id` out of the file, which has ended as it should: nobody has to wait for it.
    pub(super) fn forget(socket: &Path, id: u64) {
        if let Ok(Attempt::Locked(mut lock, Some(former))) = Self::attempt(socket)
            && former.id == id
        {
            // What stays only makes a sidecar that follows something else wait.
            drop(lock.write(&[]));
        }
    }
}

/// The lock file of a socket: one file, by whatever links the socket is named.
fn path(socket: &Path) -> Result<PathBuf, LockError> {
    let missing = || LockError::NoFolder(socket.to_owned());
    let folder = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        Some(_) | None => PathBuf::from("."),
    };
    let mut path = socket.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&path) else {
            break;
        };
        path = folder(&path).join(target);
    }
    let mut name = path.file_name().ok_or_else(missing)?.to_owned();
    name.push(".sidecar.lock");
    let folder = fs::canonicalize(folder(&path)).map_err(|_| missing())?;
    Ok(folder.join(name))
}

fn open(path: &Path) -> Result<File, LockError> {
    let file = match fs::symlink_metadata(path) {
        Ok(there) => {
            let what = if there.is_symlink() {
                Some("a symbolic link")
            } else if there.is_dir() {
                Some("a directory")
            } else if !there.is_file() {
                Some("a special file")
            } else if there.nlink() > 1 {
                Some("a file with other names")
            } else {
                None
            };
            if let Some(what) = what {
                let path = path.to_owned();
                return Err(LockError::NotAFile { path, what });
            }
            existing(path)?
        }
        Err(_) => new(path)?,
    };
    let own = file.metadata();
    let there = fs::symlink_metadata(path);
    match (own, there) {
        (Ok(own), Ok(there)) if is_same(&own, &there) && there.is_file() => Ok(file),
        (_, _) => Err(LockError::Replaced(path.to_owned())),
    }
}

fn existing(path: &Path) -> Result<File, LockError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match options.open(path) {
        // To lock it, reading is enough.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        result => result,
    }
    .map_err(|source| {
        let path = path.to_owned();
        LockError::NotOpened { path, source }
    })
}

/// Makes it; never through a link.
fn new(path: &Path) -> Result<File, LockError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(MODE);
    match options.open(path) {
        Ok(file) => {
            // The umask took something away. Without it, who has another user cannot lock, and says so.
            drop(file.set_permissions(fs::Permissions::from_mode(MODE)));
            Ok(file)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(LockError::Replaced(path.to_owned()))
        }
        Err(source) => {
            let path = path.to_owned();
            Err(LockError::NotMade { path, source })
        }
    }
}

fn content(mut file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    // What cannot be read names nobody.
    if file.rewind().is_ok() {
        drop(file.take(MAX_CONTENT).read_to_end(&mut content));
    }
    content
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::{super::holder::tests::holder, *};

    fn lock(socket: &Path) -> (Lock, Option<Holder>) {
        match Lock::attempt(socket).unwrap() {
            Attempt::Locked(lock, former) => (lock, former),
            Attempt::Held(by) => panic!("held by {by:?}"),
        }
    }

    fn refusal(socket: &Path) -> String {
        Lock::attempt(socket).unwrap_err().to_string()
    }

    #[test]
    fn the_second_finds_who_has_it_and_gets_it_when_that_one_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("haproxy.sock");
        let (mut first, former) = lock(&socket);
        assert_eq!(former, None);
        let one = holder(1, &["default"]);
        first.name(&one).unwrap();
        let Attempt::Held(Some(by)) = Lock::attempt(&socket).unwrap() else {
            panic!("it is held");
        };
        assert_eq!(by, one);
        drop(first);
        assert_eq!(lock(&socket).1, Some(one));
    }

    #[test]
    fn who_ends_as_it_should_leaves_no_name_and_no_others_name_is_taken_out() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("haproxy.sock");
        lock(&socket).0.name(&holder(1, &["a"])).unwrap();
        Lock::forget(&socket, 2);
        assert!(lock(&socket).1.is_some());
        Lock::forget(&socket, 1);
        assert_eq!(lock(&socket).1, None);
    }

    #[test]
    fn two_ways_to_one_socket_are_one_lock() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        fs::create_dir(&real).unwrap();
        symlink(&real, folder.path().join("folder")).unwrap();
        // The socket itself need not be there.
        symlink("real/haproxy.sock", folder.path().join("link.sock")).unwrap();
        let _lock = lock(&real.join("haproxy.sock"));
        for other in [
            "folder/haproxy.sock",
            "link.sock",
            "real/../real/haproxy.sock",
        ] {
            let attempt = Lock::attempt(&folder.path().join(other)).unwrap();
            assert!(matches!(attempt, Attempt::Held(None)), "{other}");
        }
    }

    #[test]
    fn a_lock_file_that_was_deleted_or_replaced_is_no_longer_in_place() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("haproxy.sock");
        let (first, _) = lock(&socket);
        assert!(first.is_in_place());
        fs::remove_file(&first.path).unwrap();
        assert!(!first.is_in_place());
        let (second, _) = lock(&socket);
        assert!(second.is_in_place() && !first.is_in_place());
    }

    #[test]
    fn nothing_but_a_file_of_its_own_is_locked_or_written() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("haproxy.sock");
        let file = folder.path().canonicalize().unwrap();
        let file = file.join("haproxy.sock.sidecar.lock");
        let name = file.display();

        fs::create_dir(&file).unwrap();
        assert_eq!(
            refusal(&socket),
            format!("{name} is a directory and no lock file of a sidecar: remove it")
        );
        fs::remove_dir(&file).unwrap();

        let others = folder.path().join("others");
        symlink(&others, &file).unwrap();
        let link = format!("{name} is a symbolic link and no lock file of a sidecar: remove it");
        assert_eq!(refusal(&socket), link);
        assert!(!others.exists(), "nothing is made through a link");
        fs::write(&others, "precious").unwrap();
        assert_eq!(refusal(&socket), link);
        fs::remove_file(&file).unwrap();

        fs::hard_link(&others, &file).unwrap();
        assert_eq!(
            refusal(&socket),
            format!("{name} is a file with other names and no lock file of a sidecar: remove it")
        );
        fs::remove_file(&others).unwrap();
        assert_eq!(
            lock(&socket)
                .0
                .name(&holder(1, &["a"]))
                .unwrap_err()
                .to_string(),
            format!(
                "{name} has something in it that no sidecar wrote, which stays: remove the file"
            )
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    }

    #[test]
    fn a_lock_file_that_cannot_be_made_says_what_to_do() {
        for (kind, advice) in [
            (io::ErrorKind::StorageFull, "make room on its disk"),
            (io::ErrorKind::QuotaExceeded, "make room on its disk"),
            (
                io::ErrorKind::ReadOnlyFilesystem,
                "let the sidecar's user write to this folder",
            ),
        ] {
            let error = LockError::NotMade {
                path: "/s.sidecar.lock".into(),
                source: kind.into(),
            };
            let said = format!("the lock file /s.sidecar.lock cannot be made ({kind}): {advice}");
            assert_eq!(error.to_string(), said);
        }
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_no_reason_to_act_without_a_lock() {
        assert!(matches!(
            Lock::attempt(Path::new("/nowhere/at/all.sock")),
            Err(LockError::NoFolder(_))
        ));
    }
}
