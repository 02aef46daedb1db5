//! The checkpoint file: how far the store is, and how far the disk was.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::CHECKPOINT_NAME;
use super::file_system::{Disk, DiskFile, read_full, write_all};
use super::format::{CHECKPOINT_SLOT_BYTES, Checkpoint};

/// The open checkpoint file.
pub(super) struct CheckpointFile {
    file: Arc<dyn DiskFile>,
    version: u64,
}

impl CheckpointFile {
    /// Opens the file, making it if need be, and reads the newest slot that is whole.
    pub(super) fn open(disk: &dyn Disk, dir: &Path) -> io::Result<(Self, Option<Checkpoint>)> {
        let path = dir.join(CHECKPOINT_NAME);
        let file = match disk.open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = disk.create(&path)?;
                write_all(&*file, &[0; 2 * CHECKPOINT_SLOT_BYTES], 0)?;
                file.sync_all()?;
                disk.sync_dir(dir)?;
                file
            }
            Err(error) => return Err(error),
        };
        let mut slots = vec![0; 2 * CHECKPOINT_SLOT_BYTES];
        let read = read_full(&*file, &mut slots, 0)?;
        slots.truncate(read);
        let newest = slots
            .chunks(CHECKPOINT_SLOT_BYTES)
            .filter_map(Checkpoint::decode)
            .max_by_key(|checkpoint| checkpoint.version);
        Ok((Self { file, version: newest.map_or(0, |checkpoint| checkpoint.version) }, newest))
    }

    /// Writes over the older slot and syncs. A failure leaves the newer slot as it was.
    pub(super) fn write(&mut self, checkpoint: Checkpoint) -> io::Result<()> {
        let version = self.version + 1;
        let slot = if version.is_multiple_of(2) { 0 } else { CHECKPOINT_SLOT_BYTES as u64 };
        write_all(&*self.file, &Checkpoint { version, ..checkpoint }.encode(), slot)?;
        self.file.sync_data()?;
        self.version = version;
        Ok(())
    }
}
