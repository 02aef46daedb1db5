//! Reads records again that the reader has returned and that are not acknowledged.

use super::segment_files::{Limits, Reading, Retry, SegmentFiles};
use super::segments::Position;
use crate::journal::{Extent, ReadError, Record};

/// Reads records of a local journal again.
pub(in crate::journal) struct LocalReadAgain {
    pub(super) files: SegmentFiles,
}

impl LocalReadAgain {
    /// Reads, as [`crate::journal::ReadAgain::read`] describes.
    pub(in crate::journal) async fn read(&self, extent: &Extent) -> Result<Vec<Record>, ReadError> {
        let limits = Limits::until(extent.end, extent.seqs.end);
        let mut at = Position {
            segment: extent.first.segment,
            offset: extent.first.offset,
            seq: extent.seqs.start,
        };
        // Closed when all is read: a segment that is freed meanwhile gives its space back.
        let mut reading: Option<Reading> = None;
        let (mut records, mut retry) = (Vec::new(), Retry::new());
        while at.offset < limits.end {
            let on_unreadable = retry.on_unreadable();
            match self.files.read(reading.clone(), at, limits, false, on_unreadable).await {
                Err(error) if retry.applies_to(&error) => retry.wait(&error).await,
                read => {
                    let Some((read, more)) = read? else {
                        self.files.give_up(at, limits);
                        break;
                    };
                    (at.offset, at.seq) = (read.offset(), read.seq());
                    records.extend(more);
                    reading = Some(read);
                }
            }
        }
        Ok(records)
    }
}
