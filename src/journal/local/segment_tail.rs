//! The tail of the last segment after a crash: it is cut behind its last sound record, and its last group is written
//! again, so that a sync makes it durable. The page cache may hold records that the disk does not.
//!
//! File systems that never overwrite in place need space for that. Without any the journal opens full, and the writer
//! does it before it appends.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::file_system::{FileHandle, is_unreadable, read_patiently, write_all};
use super::format::JournalId;
use super::segment_summary::{SUMMARY_OFFSET, SegmentSummary};

/// Bytes of the last group that are written again in one call.
const REWRITE_BYTES: usize = 1024 * 1024;

/// The tail of a segment.
pub(super) struct SegmentTail {
    pub(super) file: Arc<dyn FileHandle>,
    /// The name of the segment's file.
    pub(super) name: String,
    /// From the offset of the last group to that behind the last record.
    pub(super) last_group: Range<u64>,
    pub(super) summary: SegmentSummary,
}

impl SegmentTail {
    /// Cuts the segment and makes its last group durable. May be tried again.
    pub(super) fn settle(&self, id: JournalId) -> io::Result<()> {
        let (file, name) = (&*self.file, &self.name);
        file.set_len(self.last_group.end)?;
        match rewrite(file, self.last_group.clone()) {
            // It was readable a moment ago. The reader will report it.
            Err(error) if is_unreadable(&error) => {
                tracing::error!(file = name, %error, "cannot read the journal's last records again");
            }
            rewritten => rewritten?,
        }
        if let Err(error) = write_all(file, &self.summary.encode(id), SUMMARY_OFFSET) {
            tracing::warn!(file = name, %error, "cannot write the summary of a journal segment");
        }
        file.sync_all()
    }
}

/// Writes the same bytes again, so that a sync makes them durable.
fn rewrite(file: &dyn FileHandle, bytes: Range<u64>) -> io::Result<()> {
    let mut piece = vec![0; REWRITE_BYTES];
    let mut at = bytes.start;
    while at < bytes.end {
        let wanted = usize::try_from(bytes.end - at).unwrap_or(REWRITE_BYTES).min(REWRITE_BYTES);
        let read = read_patiently(file, &mut piece[..wanted], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        write_all(file, &piece[..read], at)?;
        at += read as u64;
    }
    Ok(())
}
