//! The writer: the one thread that appends to the segments. Appends that arrive while it syncs one group form the
//! next group.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::append_queue::{AppendBatch, AppendQueue};
use super::file_system::{
    DirHandle, FileHandle, FileSystem, WriteError, is_no_space, is_shortage, write_all, write_whole,
};
use super::format::{
    FRAME_HEADER_BYTES, JournalId, SEGMENT_HEADER_BYTES, finalize_frame, peek_frame,
    segment_header, segment_name,
};
use super::segment_summary::SegmentSummary;
use super::segment_tail::SegmentTail;
use super::segments::{FinishedSegment, Segment, SegmentUnavailable, Segments, Spare};
use super::write_watch::WriteWatch;
use super::{RecordOwner, clamped};
use crate::journal::AppendError;
use crate::journal::metrics::JournalMetrics;
use crate::runtime::Stopwatch;

/// The longest wait for a group to become as large as the previous one; never longer than the previous group took
/// to write.
///
/// The appenders of a group return one after the other. If the first of them were synced at once, the others would
/// wait a whole sync for nothing. On a disk that syncs in 3 ms, this wait makes the groups of 64 appenders grow
/// from 35 appends to 60; where a sync takes 0.05 ms, nothing changes.
const LINGER_MAX: Duration = Duration::from_millis(1);

/// The writer's state.
pub(super) struct Writer {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    /// The same directory, open.
    pub(super) open_dir: Arc<dyn DirHandle>,
    pub(super) id: JournalId,
    pub(super) segment_bytes: u64,
    pub(super) queue: Arc<AppendQueue>,
    pub(super) segments: Arc<Segments>,
    pub(super) metrics: Arc<JournalMetrics>,
    pub(super) owner: RecordOwner,
    pub(super) watch: Arc<WriteWatch>,
    /// The seq of the next record.
    pub(super) next_seq: u64,
    /// The tail that recovery had no space for.
    pub(super) unsettled: Option<SegmentTail>,
    /// The segment it writes to; `None` before the first append.
    pub(super) open: Option<OpenSegment>,
    /// Whether the disk was full at the last write.
    pub(super) disk_is_full: bool,
}

/// The segment that is written to.
pub(super) struct OpenSegment {
    file: Arc<dyn FileHandle>,
    /// The offset behind the last synced record.
    offset: u64,
    summary: SegmentSummary,
}

impl OpenSegment {
    /// Adds the frames of a synced group, the first of which has this seq.
    fn add(&mut self, frames: &[u8], first_seq: u64, owner: RecordOwner) {
        let (mut rest, mut seq) = (frames, first_seq);
        while !rest.is_empty() {
            let (bytes, items) = peek_frame(rest);
            let (frame, behind) = rest.split_at(bytes);
            self.offset += bytes as u64;
            let owner = owner(&frame[FRAME_HEADER_BYTES..]);
            self.summary.add((seq, self.offset), items, owner, bytes);
            (rest, seq) = (behind, seq + 1);
        }
    }
}

/// Frames that are written in one call.
struct WriteGroup {
    bytes: usize,
    appends: usize,
    items: u64,
}

impl Writer {
    /// Works until the queue is closed and empty, or a write or sync fails.
    pub(super) fn run(mut self) {
        let _guard =
            EndGuard { queue: Arc::clone(&self.queue), segments: Arc::clone(&self.segments) };
        let mut written = None;
        let mut linger = Duration::ZERO;
        while let Some(mut batch) = self.queue.take(written.take(), linger) {
            let watch = Stopwatch::start();
            self.append(&mut batch);
            linger = watch.elapsed().min(LINGER_MAX);
            written = Some(batch);
        }
    }

    fn append(&mut self, batch: &mut AppendBatch) {
        let first_seq = self.next_seq;
        self.watch.begin();
        let written = self.write(&mut batch.frames);
        self.watch.end();
        let failure = match written {
            Ok(()) => None,
            Err(SegmentUnavailable::NoSpace) => {
                self.queue.set_full();
                self.reopen_if_spare();
                Some(AppendError::Full)
            }
            Err(SegmentUnavailable::DiskFull) => {
                self.queue.set_full();
                self.segments.set_disk_full();
                Some(AppendError::Full)
            }
            Err(SegmentUnavailable::Unprepared) => {
                self.queue.set_no_segment();
                self.reopen_if_spare();
                Some(AppendError::NoSegment)
            }
            Err(SegmentUnavailable::Failed) => {
                self.queue.poison();
                Some(AppendError::Poisoned)
            }
        };
        let durable = usize::try_from(self.next_seq - first_seq).unwrap_or(usize::MAX);
        if matches!(failure, Some(AppendError::Full | AppendError::NoSegment)) {
            self.queue.give_back_unwritten(batch, durable);
        }
        batch.complete(first_seq, durable, failure.unwrap_or(AppendError::Poisoned));
        // After the appenders: they wait for the sync, the reader only follows it.
        self.segments.wake_reader();
    }

    /// Writes and syncs the frames: at once, or in two groups where a segment ends between them.
    fn write(&mut self, frames: &mut [u8]) -> Result<(), SegmentUnavailable> {
        self.settle()?;
        let mut rest = frames;
        while !rest.is_empty() {
            let (next_bytes, _) = peek_frame(rest);
            let space = self.space();
            if space < next_bytes as u64 {
                self.open_next()?;
                continue;
            }
            let group = self.finalize(rest, space);
            let (frames, behind) = rest.split_at_mut(group.bytes);
            self.write_group(frames, &group)?;
            rest = behind;
        }
        Ok(())
    }

    /// Makes the last records of the last run durable, if recovery could not. Nothing is written behind them before.
    fn settle(&mut self) -> Result<(), SegmentUnavailable> {
        let Some(tail) = &self.unsettled else { return Ok(()) };
        match tail.settle(self.id) {
            Ok(()) => {
                self.unsettled = None;
                Ok(())
            }
            Err(error) if is_no_space(&error) => Err(SegmentUnavailable::DiskFull),
            Err(error) => Err(failed("write the journal's last records again", &error)),
        }
    }

    /// Bytes left in the open segment.
    fn space(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| self.segment_bytes - open.offset)
    }

    /// Completes the frames that fit into `space`.
    fn finalize(&self, frames: &mut [u8], space: u64) -> WriteGroup {
        let mut group = WriteGroup { bytes: 0, appends: 0, items: 0 };
        while group.bytes < frames.len() {
            let frame = &mut frames[group.bytes..];
            let (bytes, items) = peek_frame(frame);
            if (group.bytes + bytes) as u64 > space {
                break;
            }
            let offset = u32::try_from(group.appends).unwrap_or(u32::MAX);
            finalize_frame(frame, self.id, self.next_seq + u64::from(offset), offset);
            group.bytes += bytes;
            group.appends += 1;
            group.items += u64::from(items);
        }
        group
    }

    fn write_group(&mut self, frames: &[u8], group: &WriteGroup) -> Result<(), SegmentUnavailable> {
        let Some(open) = &mut self.open else { return Err(SegmentUnavailable::Failed) };
        let watch = Stopwatch::start();
        match write_whole(&*open.file, frames, open.offset) {
            Ok(()) => self.disk_is_full = false,
            // The segment is preallocated, but some file systems never overwrite in place. Nothing has changed yet, so
            // nothing is in doubt; a part of a group would be.
            Err(WriteError { has_begun: false, source }) if is_no_space(&source) => {
                if !std::mem::replace(&mut self.disk_is_full, true) {
                    tracing::error!(error = %source, "the journal's disk is full, retrying every second");
                }
                return Err(SegmentUnavailable::DiskFull);
            }
            Err(error) => return Err(failed("write to the journal", &error.source)),
        }
        open.file.sync_data().map_err(|error| failed("sync the journal", &error))?;
        self.metrics.journal_sync_seconds.observe(watch.seconds());
        #[expect(clippy::cast_precision_loss, reason = "far below the 52 bits that are exact")]
        self.metrics.journal_group_appends.observe(group.appends as f64);
        open.add(frames, self.next_seq, self.owner);
        self.next_seq += group.appends as u64;
        let waiting = self.segments.publish(open.offset, self.next_seq, group.items);
        self.metrics.event_queue_size.set(clamped(waiting));
        self.metrics.hookgate_journal_unstored_bytes.set(clamped(self.queue.unstored()));
        Ok(())
    }

    /// Opens a spare as the next segment. Everything before it has been synced.
    fn open_next(&mut self) -> Result<(), SegmentUnavailable> {
        let spare = self.segments.take_spare()?;
        let name = segment_name(self.next_seq, self.id);
        let file = Arc::clone(&spare.file);
        self.start_segment(spare, &name)?;
        let next = Segment {
            first_seq: self.next_seq,
            name,
            end: SEGMENT_HEADER_BYTES,
            bytes: self.segment_bytes,
            summary: None,
        };
        let summary = SegmentSummary::new(self.next_seq);
        let next_open = OpenSegment { file, offset: SEGMENT_HEADER_BYTES, summary };
        let left = self.open.replace(next_open);
        let finished =
            left.map(|OpenSegment { file, summary, .. }| FinishedSegment { file, summary });
        self.segments.add(next, finished);
        Ok(())
    }

    /// Makes the header durable before the name, so that no segment has a torn header.
    fn start_segment(&self, spare: Spare, name: &str) -> Result<(), SegmentUnavailable> {
        let (from, to) = (self.dir.join(&spare.name), self.dir.join(name));
        let header = segment_header(self.next_seq, self.id);
        let written = write_all(&*spare.file, &header, 0)
            .and_then(|()| spare.file.sync_data())
            .and_then(|()| self.fs.rename(&from, &to));
        if let Err(error) = written {
            return Err(self.return_spare(spare, &from, &error));
        }
        self.open_dir.sync().map_err(|error| self.discard_spare(&to, &error))
    }

    /// Returns a spare that has not become a segment. If that was for want of memory or space, it can be tried again:
    /// nothing has changed but the spare's header.
    fn return_spare(&self, spare: Spare, path: &Path, error: &io::Error) -> SegmentUnavailable {
        let unavailable = if is_shortage(error) {
            SegmentUnavailable::Unprepared
        } else if is_no_space(error) {
            SegmentUnavailable::NoSpace
        } else {
            return self.discard_spare(path, error);
        };
        tracing::warn!(%error, "cannot start a journal segment, retrying at the next append");
        self.segments.add_spare(spare);
        unavailable
    }

    /// Discards a file that the disk has failed before it held a record: another one may do.
    fn discard_spare(&self, path: &Path, error: &io::Error) -> SegmentUnavailable {
        tracing::error!(file = %path.display(), %error, "cannot start a journal segment, retrying");
        if let Err(error) = self.fs.remove(path) {
            tracing::warn!(file = %path.display(), %error, "cannot remove a journal file");
        }
        self.segments.discard_spare();
        SegmentUnavailable::Unprepared
    }

    /// Reopens the queue that was just told to refuse appends, if there is a spare by now.
    fn reopen_if_spare(&self) {
        // The segment manager reopens the queue after it has added a spare. If it did so before the line above, nobody
        // would reopen the queue again.
        if !self.segments.lock().spares.is_empty() {
            self.queue.reopen();
        }
    }
}

fn failed(what: &str, error: &io::Error) -> SegmentUnavailable {
    tracing::error!(%error, "cannot {what}; nothing more is accepted until a restart");
    SegmentUnavailable::Failed
}

/// Leaves no appender and no reader waiting, however the thread ends.
struct EndGuard {
    queue: Arc<AppendQueue>,
    segments: Arc<Segments>,
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.queue.poison();
        }
        self.segments.end_writer();
    }
}
