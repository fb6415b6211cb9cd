//! The file of the snapshot: whole or not there, for its owner alone.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use crate::snapshot::{MAX_LENGTH, Refusal};

/// The bytes of the file at `path`.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Refusal> {
    let unreadable = |error: io::Error| {
        if error.kind() == io::ErrorKind::NotFound {
            Refusal::Absent
        } else {
            Refusal::Unreadable(error.to_string())
        }
    };
    // A pipe would keep whoever opens it waiting.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Refusal::Unreadable("it is not a file".to_owned()));
    }
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if length > MAX_LENGTH {
        return Err(Refusal::TooLarge(length));
    }
    let mut bytes = Vec::with_capacity(length);
    let file = File::open(path).map_err(unreadable)?;
    // It may grow, and one byte more is too many for `decode`.
    let limit = MAX_LENGTH as u64 + 1;
    file.take(limit)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Ok(bytes)
}

/// Replaces the file at `path`, whatever it is; gives its length. A crash leaves the old one or the new one.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<usize> {
    if bytes.len() > MAX_LENGTH {
        let problem = format!(
            "it would have {} bytes, more than the {MAX_LENGTH} that a snapshot may have",
            bytes.len()
        );
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    // One that a killed sidecar left, or a link that somebody put there: it is not followed.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let written = replace(path, temporary, bytes);
    if written.is_err() {
        // A full disk wants its bytes back. What is in the way then is said already.
        let _ = fs::remove_file(temporary);
    }
    written.map(|()| bytes.len())
}

fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    // The new name has to last, too.
    let directory = path.parent().filter(|parent| *parent != Path::new(""));
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::snapshot::{Snapshot, Source, encode};

    fn snapshot(index: u64) -> Vec<u8> {
        encode(&Snapshot {
            source: Source {
                addresses: Vec::new(),
                region: None,
                namespaces: Vec::new(),
                own_namespace: String::new(),
                tag_prefix: String::new(),
                expose_by_default: false,
            },
            index,
            current: [].into(),
            written: std::time::Duration::ZERO,
            remembered: crate::reconcile::Remembered::default(),
        })
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("snapshot");
        assert_eq!(read(&path), Err(Refusal::Absent));
        // What a crash left behind, and a link to somebody else's file.
        let other = directory.path().join("other");
        fs::write(&other, "precious").unwrap();
        symlink(&other, directory.path().join("snapshot.new")).unwrap();
        for index in [1, 2] {
            let length = write(&path, &snapshot(index)).unwrap();
            let bytes = read(&path).unwrap();
            assert_eq!((bytes.len(), &bytes), (length, &snapshot(index)));
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_no_snapshot_file_is_said_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let of_type = read(directory.path()).unwrap_err();
        assert_eq!(
            of_type.to_string(),
            "it cannot be read (it is not a file): the sidecar's user needs the file, with mode 600, and its directory"
        );
        write(directory.path(), &snapshot(1)).unwrap_err();
        assert!(directory.path().is_dir());

        let large = directory.path().join("large");
        let file = File::create(&large).unwrap();
        file.set_len(MAX_LENGTH as u64 + 1).unwrap();
        assert_eq!(read(&large), Err(Refusal::TooLarge(MAX_LENGTH + 1)));

        let missing = directory.path().join("missing/snapshot");
        let error = write(&missing, &snapshot(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_disk_that_is_full_leaves_the_former_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("snapshot");
        write(&path, &snapshot(1)).unwrap();
        let temporary = Path::new("/dev/full");
        let mut full = OpenOptions::new().write(true).open(temporary).unwrap();
        let error = full.write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(read(&path).unwrap(), snapshot(1));
    }
}
