//! Which segments there are, and how far their records are synced and acknowledged. [`super::segments`] shares it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::file_system::FileHandle;
use super::format::Checkpoint;
use super::segment_summary::SegmentSummary;
use crate::runtime::{Monotonic, Stopwatch};

/// One segment file that holds records.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The seq of its first record.
    pub(super) first_seq: u64,
    /// The name of its file.
    pub(super) name: String,
    /// The offset behind its last synced record.
    pub(super) end: u64,
    /// Its length on disk, in bytes.
    pub(super) bytes: u64,
    /// What it holds, if recovery took it from its summary.
    pub(super) summary: Option<Arc<SegmentSummary>>,
}

/// A segment whose records are all stored, kept for a replay.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeptSegment {
    /// The seq of its first record.
    pub(super) first_seq: u64,
    /// The name of its file.
    pub(super) name: String,
    /// Its length on disk, in bytes.
    pub(super) bytes: u64,
    /// When its time is over.
    pub(super) given_up_at: Monotonic,
}

/// Segments with records that could be neither decoded nor copied. They are never given up, and take their part of the
/// journal's size until somebody removes them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct HeldSegments {
    /// Their number.
    pub(super) files: u64,
    /// Their length on disk, in bytes.
    pub(super) bytes: u64,
}

impl HeldSegments {
    /// Adds one of this length.
    pub(super) const fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// A segment that the writer has left.
pub(super) struct FinishedSegment {
    pub(super) file: Arc<dyn FileHandle>,
    pub(super) summary: SegmentSummary,
}

/// A position of the reader.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position {
    /// The first seq of the segment.
    pub(super) segment: u64,
    /// The offset of the next frame.
    pub(super) offset: u64,
    /// The seq of the next frame.
    pub(super) seq: u64,
}

/// What the reader may do at its position.
#[derive(Debug)]
pub(super) enum Readable {
    /// Read up to `end`.
    Here {
        /// The offset behind the last synced record.
        end: u64,
        /// Every record of the segment is below this seq.
        seq_end: u64,
        /// Whether the page cache probably holds it, so that reading it does not wait for the disk.
        is_cached: bool,
    },
    /// Go on in this segment.
    Next(Segment),
    /// Wait.
    Nothing,
    /// Stop: the writer has ended and everything was read.
    Ended,
}

/// Why there is no segment to write to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SegmentUnavailable {
    /// The journal has reached its size, or the disk is full.
    NoSpace,
    /// There is one, but the disk has no space for another byte. It is tried again.
    DiskFull,
    /// None could be prepared, for want of file descriptors, say. It is tried again.
    Unprepared,
    /// The file system failed.
    Failed,
}

/// A preallocated file that is ready to become a segment. It is open, so that the writer needs no file descriptor.
#[derive(Clone)]
pub(super) struct Spare {
    /// The name of its file.
    pub(super) name: String,
    /// The file.
    pub(super) file: Arc<dyn FileHandle>,
}

/// The phases of a shutdown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    /// Both threads work.
    Running,
    /// The writer has ended: no record and no segment will be added.
    WriterEnded,
    /// The segment manager is asked to end.
    ManagerStops,
}

/// The state.
pub(super) struct State {
    /// Segments with records, oldest first.
    pub(super) live: VecDeque<Segment>,
    /// Segments whose summary is not written yet.
    pub(super) finished: Vec<FinishedSegment>,
    /// Whether the writer writes to the last of `live`.
    pub(super) last_is_open: bool,
    /// The spare files.
    pub(super) spares: Vec<Spare>,
    /// Kept segments, oldest first. They are given up when their space is needed.
    pub(super) kept: VecDeque<KeptSegment>,
    /// Segments that are held.
    pub(super) held: HeldSegments,
    /// Files of a segment's size on disk: live, spare, kept, held, and changing from one to the other.
    pub(super) files: u64,
    /// Whether the segment manager is at work on a file that may become a spare: one that it prepares or frees.
    pub(super) preparing: bool,
    /// Why the last spare could not be prepared.
    pub(super) prepare_error: Option<SegmentUnavailable>,
    /// When the writer last discarded a spare that the disk had failed.
    pub(super) spare_discarded: Option<Stopwatch>,
    /// When the disk had no space for a write to the open segment, until that is tried again.
    pub(super) disk_full: Option<Stopwatch>,
    /// Every record below this seq is acknowledged.
    pub(super) acked: u64,
    /// Every record below this seq may be forgotten: the same, or what the caller has confirmed of it.
    pub(super) confirmed: u64,
    /// The value of `confirmed` in the checkpoint file.
    pub(super) persisted: u64,
    /// Every record below this seq has been synced.
    pub(super) synced: u64,
    /// The value of `synced` in the checkpoint file.
    pub(super) marked: u64,
    /// Items that are synced and not acknowledged.
    pub(super) items_waiting: u64,
    /// The phase of the shutdown.
    pub(super) phase: Phase,
}

impl State {
    /// The state after recovery: `acked` and `synced` as in the checkpoint file.
    pub(super) fn new(
        live: VecDeque<Segment>,
        spares: Vec<Spare>,
        (kept, held): (Vec<KeptSegment>, HeldSegments),
        checkpoint: Checkpoint,
    ) -> Self {
        Self {
            files: (live.len() + spares.len() + kept.len()) as u64 + held.files,
            held,
            live,
            kept: kept.into(),
            finished: Vec::new(),
            last_is_open: false,
            spares,
            preparing: false,
            prepare_error: None,
            spare_discarded: None,
            disk_full: None,
            acked: checkpoint.acked,
            confirmed: checkpoint.acked,
            persisted: checkpoint.acked,
            synced: checkpoint.synced,
            marked: checkpoint.synced,
            items_waiting: 0,
            phase: Phase::Running,
        }
    }

    /// Starts reading at the record `seq`: everything below it is stored, or lost.
    pub(super) fn start_at(&mut self, seq: u64) {
        self.acked = self.acked.max(seq);
    }

    /// Whether every record of the oldest segment is below `seq` and none will be added.
    pub(super) fn is_oldest_below(&self, seq: u64) -> bool {
        match (self.live.front(), self.live.get(1)) {
            (Some(_), Some(next)) => next.first_seq <= seq,
            (Some(_), None) => !self.last_is_open && self.synced <= seq,
            (None, _) => false,
        }
    }

    /// Whether the checkpoint file tells that everything before the open segment was synced.
    pub(super) fn is_marked(&self) -> bool {
        let open = self.live.back().filter(|_| self.last_is_open);
        open.is_none_or(|open| open.first_seq <= self.marked)
    }

    /// Bytes of segment files on disk, of which spares have `segment_bytes` each.
    pub(super) fn bytes(&self, segment_bytes: u64) -> u64 {
        let live: u64 = self.live.iter().map(|segment| segment.bytes).sum();
        live + self.kept_bytes() + self.held.bytes + self.spares.len() as u64 * segment_bytes
    }

    /// Bytes of kept segments on disk.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.kept.iter().map(|segment| segment.bytes).sum()
    }

    /// The seq below which all records of the `index`th segment are.
    pub(super) fn seq_end(&self, index: usize) -> u64 {
        self.live.get(index + 1).map_or(self.synced, |next| next.first_seq)
    }
}
