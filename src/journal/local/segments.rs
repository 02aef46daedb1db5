//! The state that the writer, the reader and the segment manager share: which segments there are, and how far
//! their records are synced and acknowledged.
//!
//! One mutex, held for a few instructions at a time and never across a call to the file system.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::ack_window::Acked;
use super::format::SEGMENT_HEADER_BYTES;
pub(super) use super::segment_state::{
    FinishedSegment, HeldSegments, KeptSegment, Phase, Position, Readable, Segment,
    SegmentUnavailable, Spare, State,
};
use super::shares::FreeBytes;
use crate::runtime::Stopwatch;

/// The newest segments, which are almost certainly in the page cache.
const CACHED_SEGMENTS: usize = 2;

/// The shared state.
pub(super) struct Segments {
    state: Mutex<State>,
    /// Notifies the segment manager of work.
    for_manager: Condvar,
    /// Notifies the writer of a spare segment, or that there will be none.
    for_writer: Condvar,
    /// Notifies the reader of records, or that there will be none.
    for_reader: Notify,
    /// Notifies the caller of acknowledged records to confirm; `None` when nobody does.
    for_confirmation: Option<Notify>,
    files_max: u64,
    segment_bytes: u64,
    free: FreeBytes,
}

impl Segments {
    /// Shares the state that recovery found. There are at most `files_max` files. `confirms` tells whether the caller
    /// confirms acknowledged records before they may be forgotten.
    pub(super) fn new(state: State, files_max: u64, segment_bytes: u64, confirms: bool) -> Self {
        let segments = Self {
            free: FreeBytes::default(),
            segment_bytes,
            state: Mutex::new(state),
            for_manager: Condvar::new(),
            for_writer: Condvar::new(),
            for_reader: Notify::new(),
            for_confirmation: confirms.then(Notify::new),
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
            Some(
                SegmentUnavailable::DiskFull
                | SegmentUnavailable::Unprepared
                | SegmentUnavailable::Failed,
            )
            | None => self.files_max.saturating_sub(live),
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
            if !state.preparing && !self.may_grow(&state) && state.kept.is_empty() {
                return Err(SegmentUnavailable::NoSpace);
            }
            state = self.for_writer.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes that the disk had no space for a write; the segment manager admits appends again after a while.
    pub(super) fn set_disk_full(&self) {
        self.lock().disk_full = Some(Stopwatch::start());
        self.for_manager.notify_one();
    }

    /// Notes that the writer discarded a spare; the segment manager prepares another one after a while.
    pub(super) fn discard_spare(&self) {
        let mut state = self.lock();
        state.files = state.files.saturating_sub(1);
        state.spare_discarded = Some(Stopwatch::start());
        state.prepare_error = Some(SegmentUnavailable::Unprepared);
        drop(state);
        self.for_manager.notify_one();
    }

    /// Adds the segment that the writer continues in, having left another one.
    pub(super) fn add(&self, segment: Segment, finished: Option<FinishedSegment>) {
        let mut state = self.lock();
        state.live.push_back(segment);
        state.finished.extend(finished);
        state.last_is_open = true;
        self.update_free_bytes(&state);
        drop(state);
        self.for_manager.notify_one();
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

    /// Notes that the segment manager is done with a file. The writer looks again, whether it became a spare or not.
    pub(super) fn end_preparing(&self) {
        self.lock().preparing = false;
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
        state.acked = below;
        state.items_waiting = state.items_waiting.saturating_sub(acked.items);
        let waiting = state.items_waiting;
        self.update_free_bytes(&state);
        match &self.for_confirmation {
            Some(caller) => {
                drop(state);
                caller.notify_one();
            }
            None => self.confirm_in(state, below),
        }
        waiting
    }

    /// Lets the records below a seq be forgotten. They are acknowledged.
    pub(super) fn confirm(&self, below: u64) {
        let state = self.lock();
        let below = below.min(state.acked);
        self.confirm_in(state, below);
    }

    fn confirm_in(&self, mut state: MutexGuard<'_, State>, below: u64) {
        let below = below.max(state.confirmed);
        let manager_knows = state.confirmed > state.persisted && !state.is_oldest_below(below);
        state.confirmed = below;
        drop(state);
        if !manager_knows {
            self.for_manager.notify_one();
        }
    }

    /// The seq below which all records are acknowledged, once it is above `above`.
    pub(super) async fn acked_above(&self, above: u64) -> u64 {
        loop {
            let acked = self.lock().acked;
            if acked > above {
                return acked;
            }
            match &self.for_confirmation {
                Some(caller) => caller.notified().await,
                None => std::future::pending().await,
            }
        }
    }
}
