//! The checkpoint file: how far records are acknowledged, and how far they were synced.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::CHECKPOINT_NAME;
use super::file_system::{FileHandle, FileSystem, read_past_damage, write_all};
use super::format::{CHECKPOINT_SLOT_BYTES, Checkpoint};

/// The open checkpoint file.
pub(super) struct CheckpointFile {
    file: Arc<dyn FileHandle>,
    version: u64,
}

impl CheckpointFile {
    /// Opens the file, creating it if missing, and reads the newest sound slot. An unreadable slot is not sound.
    pub(super) fn open(fs: &dyn FileSystem, dir: &Path) -> io::Result<(Self, Option<Checkpoint>)> {
        let path = dir.join(CHECKPOINT_NAME);
        let file = match fs.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = fs.create(&path)?;
                write_all(&*file, &[0; 2 * CHECKPOINT_SLOT_BYTES], 0)?;
                file.sync_all()?;
                fs.sync_dir(dir)?;
                file
            }
            Err(error) => return Err(error),
        };
        let newest = newest_of(&*file)?;
        if newest.is_none() {
            // A slot that could not be read must not win over a new one, should it be readable again.
            write_all(&*file, &[0; 2 * CHECKPOINT_SLOT_BYTES], 0)?;
            file.sync_data()?;
        }
        Ok((Self { file, version: newest.map_or(0, |checkpoint| checkpoint.version) }, newest))
    }

    /// Reads the newest sound slot of a file that somebody else may write to; `None` without one.
    pub(super) fn read(fs: &dyn FileSystem, dir: &Path) -> io::Result<Option<Checkpoint>> {
        match fs.open(&dir.join(CHECKPOINT_NAME)) {
            Ok(file) => newest_of(&*file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Overwrites the older slot and syncs. A failure leaves the newer slot unchanged.
    pub(super) fn write(&mut self, checkpoint: Checkpoint) -> io::Result<()> {
        let version = self.version + 1;
        let slot = if version.is_multiple_of(2) { 0 } else { CHECKPOINT_SLOT_BYTES as u64 };
        write_all(&*self.file, &Checkpoint { version, ..checkpoint }.encode(), slot)?;
        self.file.sync_data()?;
        self.version = version;
        Ok(())
    }
}

fn newest_of(file: &dyn FileHandle) -> io::Result<Option<Checkpoint>> {
    let mut slots = vec![0; 2 * CHECKPOINT_SLOT_BYTES];
    let read = read_past_damage(file, &mut slots, 0)?;
    slots.truncate(read);
    let sound = slots.chunks(CHECKPOINT_SLOT_BYTES).filter_map(Checkpoint::decode);
    Ok(sound.max_by_key(|checkpoint| checkpoint.version))
}
