//! The server's id, kept in the file `instance` of its data directory.
//!
//! Leases carry the id, so that a restart can release the leases of the previous run at once. The lock on the journal
//! keeps two processes from running under one id, so this is read once the journal is open.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::domain::InstanceId;

const FILE_NAME: &str = "instance";

/// The file of the server's id cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot read or write the server's id in {}: {source}", path.display())]
pub struct InstanceError {
    path: PathBuf,
    source: io::Error,
}

/// Reads the id of the server whose data directory this is.
///
/// Without the file, `journal_id` becomes the id, and the file is written: earlier versions used the journal's id, so
/// an upgrade releases the leases of the version before.
pub(super) fn load(data_dir: &Path, journal_id: u64) -> Result<InstanceId, InstanceError> {
    let path = data_dir.join(FILE_NAME);
    let loaded = read(&path).and_then(|known| match known {
        Some(id) => Ok(id),
        None => write(data_dir, &path, journal_id).map(|()| journal_id),
    });
    loaded.map(InstanceId::new).map_err(|source| InstanceError { path, source })
}

fn read(path: &Path) -> io::Result<Option<u64>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match u64::from_str_radix(text.trim(), 16) {
        Ok(id) => Ok(Some(id)),
        // A wrong id only delays deliveries, until the leases of the previous run expire.
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "invalid server id, replacing it");
            Ok(None)
        }
    }
}

/// Writes the file under another name first, so that a crash leaves all of it or nothing.
fn write(dir: &Path, path: &Path, id: u64) -> io::Result<()> {
    let unfinished = path.with_extension("new");
    let mut file = File::create(&unfinished)?;
    writeln!(file, "{id:016x}")?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_of_the_first_start_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path(), 7).unwrap(), InstanceId::new(7));
        assert_eq!(load(dir.path(), 8).unwrap(), InstanceId::new(7), "although the journal is new");
    }

    #[test]
    fn unreadable_id_is_replaced_by_that_of_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE_NAME), "not a number").unwrap();
        assert_eq!(load(dir.path(), 7).unwrap(), InstanceId::new(7));
        assert_eq!(load(dir.path(), 8).unwrap(), InstanceId::new(7));
    }
}
