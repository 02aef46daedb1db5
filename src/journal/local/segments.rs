//! The state that the writer, the reader and the segment manager share: which segments there are, and how far
//! their records are synced and acknowledged.
//!
//! One mutex, held for a few instructions at a time and never across a call to the file system.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::ack_window::Acked;
use super::file_system::FileHandle;
use super::format::{Checkpoint, SEGMENT_HEADER_BYTES};
use super::shares::FreeBytes;

/// The newest segments, which are almost certainly in the page cache.
const CACHED_SEGMENTS: usize = 2;

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

/// The shared state.
pub(super) struct Segments {
    state: Mutex<State>,
    /// Notifies the segment manager of work.
    for_manager: Condvar,
    /// Notifies the writer of a spare segment, or that there will be none.
    for_writer: Condvar,
    /// Notifies the reader of records, or that there will be none.
    for_reader: Notify,
    files_max: u64,
    segment_bytes: u64,
    free: FreeBytes,
}

/// The state behind the mutex.
pub(super) struct State {
    /// Segments with records, oldest first.
    pub(super) live: VecDeque<Segment>,
    /// Whether the writer writes to the last of `live`.
    pub(super) last_is_open: bool,
    /// The spare files.
    pub(super) spares: Vec<Spare>,
    /// Files of a segment's size on disk: live, spare, and changing from one to the other.
    pub(super) files: u64,
    /// Whether the segment manager is preparing a spare.
    pub(super) preparing: bool,
    /// Why the last spare could not be prepared.
    pub(super) prepare_error: Option<SegmentUnavailable>,
    /// Every record below this seq is acknowledged.
    pub(super) acked: u64,
    /// The value of `acked` in the checkpoint file.
    pub(super) persisted: u64,
    /// Every record below this seq has been synced.
    pub(super) synced: u64,
    /// Items that are synced and not acknowledged.
    pub(super) items_waiting: u64,
    /// The phase of the shutdown.
    pub(super) phase: Phase,
}

impl State {
    /// The state after recovery: `acked` and `synced` as in the checkpoint file.
    pub(super) fn new(live: VecDeque<Segment>, spares: Vec<Spare>, checkpoint: Checkpoint) -> Self {
        Self {
            files: (live.len() + spares.len()) as u64,
            live,
            last_is_open: false,
            spares,
            preparing: false,
            prepare_error: None,
            acked: checkpoint.acked,
            persisted: checkpoint.acked,
            synced: checkpoint.synced,
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

    /// Bytes of segment files on disk, of which spares have `segment_bytes` each.
    pub(super) fn bytes(&self, segment_bytes: u64) -> u64 {
        let live: u64 = self.live.iter().map(|segment| segment.bytes).sum();
        live + self.spares.len() as u64 * segment_bytes
    }

    /// The seq below which all records of the `index`th segment are.
    fn seq_end(&self, index: usize) -> u64 {
        self.live.get(index + 1).map_or(self.synced, |next| next.first_seq)
    }
}

impl Segments {
    /// Shares the state that recovery found. At most `files_max` files are kept.
    pub(super) fn new(state: State, files_max: u64, segment_bytes: u64) -> Self {
        let segments = Self {
            free: FreeBytes::default(),
            segment_bytes,
            state: Mutex::new(state),
            for_manager: Condvar::new(),
            for_writer: Condvar::new(),
            for_reader: Notify::new(),
            files_max,
        };
        segments.update_free_bytes(&segments.lock());
        segments
    }

    /// Bytes that are left for frames, kept up to date.
    pub(super) fn free_bytes(&self) -> FreeBytes {
        self.free.clone()
    }

    fn update_free_bytes(&self, state: &State) {
        let live = state.live.len() as u64;
        // A disk without space may hold less than `files_max` promises.
        let empty = match state.prepare_error {
            Some(SegmentUnavailable::NoSpace) => state.spares.len() as u64,
            Some(SegmentUnavailable::Unprepared | SegmentUnavailable::Failed) | None => {
                self.files_max.saturating_sub(live)
            }
        };
        let open = state.live.back().filter(|_| state.last_is_open);
        let left = open.map_or(0, |open| self.segment_bytes.saturating_sub(open.end));
        let frames_bytes = self.segment_bytes.saturating_sub(SEGMENT_HEADER_BYTES);
        self.free.set(empty.saturating_mul(frames_bytes) + left);
    }

    /// Locks the state.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's calls.
impl Segments {
    /// Takes a spare, waiting while the segment manager prepares one.
    pub(super) fn take_spare(&self) -> Result<Spare, SegmentUnavailable> {
        let mut state = self.lock();
        loop {
            if let Some(spare) = state.spares.pop() {
                self.for_manager.notify_one();
                return Ok(spare);
            }
            if let Some(error) = state.prepare_error {
                return Err(error);
            }
            if !state.preparing && !self.may_grow(&state) {
                return Err(SegmentUnavailable::NoSpace);
            }
            state = self.for_writer.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds the segment that the writer continues in.
    pub(super) fn add(&self, segment: Segment) {
        let mut state = self.lock();
        state.live.push_back(segment);
        state.last_is_open = true;
        self.update_free_bytes(&state);
    }

    /// Makes synced records visible to the reader: up to `end` in the open segment, below `seq_end`, with `items`
    /// more items. Returns the items that wait.
    pub(super) fn publish(&self, end: u64, seq_end: u64, items: u64) -> u64 {
        let mut state = self.lock();
        if let Some(open) = state.live.back_mut() {
            open.end = end;
        }
        state.synced = seq_end;
        state.items_waiting += items;
        self.update_free_bytes(&state);
        state.items_waiting
    }

    /// Wakes the reader, if it waits for published records.
    pub(super) fn wake_reader(&self) {
        self.for_reader.notify_one();
    }

    /// Notes that the writer has ended, so that the reader ends at the tail.
    pub(super) fn end_writer(&self) {
        self.lock().phase = Phase::WriterEnded;
        self.for_reader.notify_one();
    }
}

/// The segment manager's calls.
impl Segments {
    /// Whether one more file may be created.
    pub(super) fn may_grow(&self, state: &State) -> bool {
        state.files < self.files_max
    }

    /// Adds a spare for the writer.
    pub(super) fn add_spare(&self, spare: Spare) {
        let mut state = self.lock();
        state.spares.push(spare);
        state.prepare_error = None;
        self.update_free_bytes(&state);
        drop(state);
        self.for_writer.notify_one();
    }

    /// Tells the writer why there is no spare.
    pub(super) fn fail_spare(&self, error: SegmentUnavailable) {
        let mut state = self.lock();
        state.prepare_error = Some(error);
        self.update_free_bytes(&state);
        drop(state);
        self.for_writer.notify_one();
    }

    /// Puts the segment manager to sleep until it is notified, or for `timeout`.
    pub(super) fn sleep_manager<'a>(
        &self,
        state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match timeout {
            None => self.for_manager.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                let waited = self.for_manager.wait_timeout(state, timeout);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Asks the segment manager to end.
    pub(super) fn stop_manager(&self) {
        self.lock().phase = Phase::ManagerStops;
        self.for_manager.notify_one();
    }
}

/// The calls of the reader and of its batches.
impl Segments {
    /// What may be read at `position`.
    pub(super) fn readable(&self, position: Position) -> Readable {
        let state = self.lock();
        let index = state.live.partition_point(|segment| segment.first_seq < position.segment);
        if let Some(here) = state.live.get(index)
            && here.first_seq == position.segment
            && position.offset < here.end
        {
            return Readable::Here {
                end: here.end,
                seq_end: state.seq_end(index),
                is_cached: index + CACHED_SEGMENTS >= state.live.len(),
            };
        }
        match state.live.iter().skip(index).find(|s| s.first_seq > position.segment) {
            Some(next) => Readable::Next(next.clone()),
            None if state.phase >= Phase::WriterEnded => Readable::Ended,
            None => Readable::Nothing,
        }
    }

    /// Resolves when there may be more to read; at once if records were published since the last call.
    pub(super) async fn wait_readable(&self) {
        self.for_reader.notified().await;
    }

    /// Notes acknowledged records. Returns the items that wait.
    pub(super) fn ack(&self, acked: Acked) -> u64 {
        let mut state = self.lock();
        // Acknowledgements may arrive here in another order than in the window.
        let below = acked.below.max(state.acked);
        let manager_knows = state.acked > state.persisted && !state.is_oldest_below(below);
        state.acked = below;
        state.items_waiting = state.items_waiting.saturating_sub(acked.items);
        let waiting = state.items_waiting;
        self.update_free_bytes(&state);
        drop(state);
        if !manager_knows {
            self.for_manager.notify_one();
        }
        waiting
    }
}
