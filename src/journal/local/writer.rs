//! The writer: the one thread that appends to the segments. What arrives while it syncs one group
//! is the next.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::AppendError;
use super::append_queue::{Batch, Queue};
use super::file_system::{Disk, DiskFile, write_all};
use super::format::{
    JournalId, SEGMENT_HEADER_BYTES, pushed_frame, seal_frame, segment_header, segment_name,
};
use super::segments::{NoSegment, Segment, Segments};
use crate::runtime::Stopwatch;
use crate::telemetry::Metrics;

/// How long the writer waits for a group to become as large as the last one, at most; and no
/// longer than the last group took to write.
///
/// The appenders of a group come back one after the other. Were the first of them synced at once,
/// the others would wait a whole sync for nothing: on a disk that takes 3 ms, groups of 64 appenders
/// grow from 35 appends to 60 by this, and where a sync takes 0.05 ms nothing changes.
const LINGER_MAX: Duration = Duration::from_millis(1);

/// The writer's state.
pub(super) struct Writer {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) id: JournalId,
    pub(super) segment_bytes: u64,
    pub(super) queue: Arc<Queue>,
    pub(super) segments: Arc<Segments>,
    pub(super) metrics: Arc<Metrics>,
    /// What the next record gets.
    pub(super) next_seq: u64,
    /// The segment it writes to; none before the first append.
    pub(super) open: Option<OpenSegment>,
}

/// The segment that grows.
pub(super) struct OpenSegment {
    file: Arc<dyn DiskFile>,
    /// Behind the last synced record.
    offset: u64,
}

/// Frames that go to disk in one write.
struct Sealed {
    bytes: usize,
    appends: usize,
    items: u64,
}

impl Writer {
    /// Works until the queue is closed and empty, or a write or sync fails.
    pub(super) fn run(mut self) {
        let _guard =
            EndGuard { queue: Arc::clone(&self.queue), segments: Arc::clone(&self.segments) };
        let mut used = None;
        let mut linger = Duration::ZERO;
        while let Some(mut batch) = self.queue.take(used.take(), linger) {
            let watch = Stopwatch::start();
            self.append(&mut batch);
            linger = watch.elapsed().min(LINGER_MAX);
            used = Some(batch);
        }
    }

    fn append(&mut self, batch: &mut Batch) {
        let first_seq = self.next_seq;
        let failure = match self.write(&mut batch.frames) {
            Ok(()) => None,
            Err(NoSegment::Full) => {
                self.refuse_until_room();
                Some(AppendError::Full)
            }
            Err(NoSegment::Broken) => {
                self.queue.poison();
                Some(AppendError::Poisoned)
            }
        };
        let durable = usize::try_from(self.next_seq - first_seq).unwrap_or(usize::MAX);
        batch.complete(first_seq, durable, failure.unwrap_or(AppendError::Poisoned));
        // Behind the appenders: they wait for the sync, the reader only follows it.
        self.segments.wake_reader();
    }

    /// Writes and syncs the frames: at once, or in two groups where a segment ends between them.
    fn write(&mut self, frames: &mut [u8]) -> Result<(), NoSegment> {
        let mut rest = frames;
        while !rest.is_empty() {
            let (next_bytes, _) = pushed_frame(rest);
            let room = self.room();
            if room < next_bytes as u64 {
                self.open_next()?;
                continue;
            }
            let sealed = self.seal(rest, room);
            let (group, behind) = rest.split_at_mut(sealed.bytes);
            self.write_group(group, &sealed)?;
            rest = behind;
        }
        Ok(())
    }

    fn room(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| self.segment_bytes - open.offset)
    }

    /// Gives the frames that fit into `room` their place.
    fn seal(&self, frames: &mut [u8], room: u64) -> Sealed {
        let mut sealed = Sealed { bytes: 0, appends: 0, items: 0 };
        while sealed.bytes < frames.len() {
            let frame = &mut frames[sealed.bytes..];
            let (bytes, items) = pushed_frame(frame);
            if (sealed.bytes + bytes) as u64 > room {
                break;
            }
            let back = u32::try_from(sealed.appends).unwrap_or(u32::MAX);
            seal_frame(frame, self.id, self.next_seq + u64::from(back), back);
            sealed.bytes += bytes;
            sealed.appends += 1;
            sealed.items += u64::from(items);
        }
        sealed
    }

    fn write_group(&mut self, group: &[u8], sealed: &Sealed) -> Result<(), NoSegment> {
        let Some(open) = &mut self.open else { return Err(NoSegment::Broken) };
        let watch = Stopwatch::start();
        // The room was there when the segment was made: also a full disk is a broken one here.
        write_all(&*open.file, group, open.offset)
            .and_then(|()| open.file.sync_data())
            .map_err(|error| broken("write to the journal", &error))?;
        self.metrics.journal_sync_seconds.observe(watch.seconds());
        #[expect(clippy::cast_precision_loss, reason = "far below the 52 bits that are exact")]
        self.metrics.journal_group_appends.observe(sealed.appends as f64);
        open.offset += group.len() as u64;
        self.next_seq += sealed.appends as u64;
        let waiting = self.segments.publish(open.offset, self.next_seq, sealed.items);
        self.metrics.event_queue_size.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Makes a spare the segment to write to. Everything before it has been synced.
    fn open_next(&mut self) -> Result<(), NoSegment> {
        let spare = self.segments.take_spare()?;
        let name = segment_name(self.next_seq, self.id);
        let file = self
            .start_segment(&spare, &name)
            .map_err(|error| broken("start a journal segment", &error))?;
        self.segments.add(Segment {
            first_seq: self.next_seq,
            name,
            end: SEGMENT_HEADER_BYTES,
            bytes: self.segment_bytes,
        });
        self.open = Some(OpenSegment { file, offset: SEGMENT_HEADER_BYTES });
        Ok(())
    }

    /// The header is durable before the name, so that a segment's header is never torn.
    fn start_segment(&self, spare: &str, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(spare);
        let file = self.disk.open(&path)?;
        write_all(&*file, &segment_header(self.next_seq, self.id), 0)?;
        file.sync_data()?;
        self.disk.rename(&path, &self.dir.join(name))?;
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }

    fn refuse_until_room(&self) {
        self.queue.set_full();
        // The keeper opens the gate after it has put down a spare. Had it done so before the gate
        // was shut, nobody would open it again.
        if !self.segments.lock().spares.is_empty() {
            self.queue.reopen();
        }
    }
}

fn broken(what: &str, error: &io::Error) -> NoSegment {
    tracing::error!(%error, "cannot {what}; nothing more is accepted until a restart");
    NoSegment::Broken
}

/// Leaves nobody waiting, however the thread ends.
struct EndGuard {
    queue: Arc<Queue>,
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
