//! Holds: segments that are not given up, since a record of them could be neither decoded nor copied.
//!
//! The block of the segment's header has a mark, in its last sector, that is synced before the record may be
//! acknowledged. So a segment is held that a crash left under its old name, too. Like the summary, the mark of an
//! earlier use of the file counts for nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file_system::{FileSystem, is_shortage, write_all};
use super::format::{JournalId, push_crc, segment_name};

/// Where the mark begins in the segment: behind the longest summary.
const MARK_OFFSET: u64 = 3840;
const MAGIC: &[u8; 8] = b"HGJOHELD";

/// The segments that are held, by their first seqs. At most every segment is.
pub(super) struct Holds {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    held: Mutex<BTreeSet<u64>>,
}

impl Holds {
    /// None yet.
    pub(super) fn new(fs: &Arc<dyn FileSystem>, dir: &Path) -> Self {
        Self { fs: Arc::clone(fs), dir: dir.to_owned(), held: Mutex::default() }
    }

    /// Holds the segment of this first seq. A mark that the disk does not take is missing after a crash alone.
    ///
    /// # Errors
    /// Only for want of file descriptors or memory.
    pub(super) fn hold(&self, segment: u64, id: JournalId) -> io::Result<()> {
        if self.is_held(segment) {
            return Ok(());
        }
        let path = self.dir.join(segment_name(segment, id));
        let marked = self.fs.open(&path).and_then(|file| {
            write_all(&*file, &mark(segment, id), MARK_OFFSET)?;
            file.sync_data()
        });
        match marked {
            Err(error) if is_shortage(&error) => return Err(error),
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "cannot mark a journal segment as held");
            }
            Ok(()) => {}
        }
        tracing::error!(
            file = %path.display(),
            "a record of this segment can be neither decoded nor copied: the segment is held, and not given up"
        );
        self.lock().insert(segment);
        Ok(())
    }

    /// Holds a segment that an earlier run has marked, as the first bytes of its file tell.
    pub(super) fn recover(&self, block: &[u8], segment: u64, id: JournalId) {
        let at = usize::try_from(MARK_OFFSET).unwrap_or(usize::MAX);
        if block.get(at..).is_some_and(|bytes| bytes.starts_with(&mark(segment, id))) {
            self.lock().insert(segment);
        }
    }

    /// Whether a segment is held.
    pub(super) fn is_held(&self, segment: u64) -> bool {
        self.lock().contains(&segment)
    }

    /// Notes that the name of a segment tells that it is held.
    pub(super) fn end(&self, segment: u64) {
        self.lock().remove(&segment);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mark(segment: u64, id: JournalId) -> Vec<u8> {
    let mut mark = MAGIC.to_vec();
    mark.extend_from_slice(&id.0.to_le_bytes());
    mark.extend_from_slice(&segment.to_le_bytes());
    push_crc(&mut mark);
    mark
}
