//! Which segments there are, how far they are synced, and how far their records are finished: the
//! state that the writer, the reader and the keeper share.
//!
//! One mutex, held for a few instructions at a time and never across a call to the disk.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::format::Checkpoint;

/// The newest segments, which the page cache is sure to hold.
const RECENT_SEGMENTS: usize = 2;

/// One segment file that holds records.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    /// The seq of its first record.
    pub(super) first_seq: u64,
    /// Its file's name.
    pub(super) name: String,
    /// The offset behind its last synced record.
    pub(super) end: u64,
    /// Its length on disk, in bytes.
    pub(super) bytes: u64,
}

/// Where the reader is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Position {
    /// The first seq of the segment it is in.
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
        /// Every record of the segment is below this.
        seq_end: u64,
        /// Whether it was written a moment ago, so that reading it does not wait for the disk.
        is_recent: bool,
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
pub(super) enum NoSegment {
    /// The journal has its size, or the disk is full.
    Full,
    /// The disk fails.
    Broken,
}

/// From work to rest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    /// Both threads work.
    Running,
    /// The writer has ended: no record and no segment will be added.
    WriterEnded,
    /// The keeper shall end.
    KeeperStops,
}

/// The shared state.
pub(super) struct Segments {
    state: Mutex<State>,
    /// Tells the keeper that there is work.
    for_keeper: Condvar,
    /// Tells the writer that there is a spare, or that there will be none.
    for_writer: Condvar,
    /// Tells the reader that there is more, or that there will be none.
    for_reader: Notify,
    files_max: u64,
}

/// What is behind the mutex.
pub(super) struct State {
    /// Oldest first.
    pub(super) live: VecDeque<Segment>,
    /// Whether the writer writes to the last of `live`.
    pub(super) last_is_open: bool,
    /// Names of files that are ready to become segments.
    pub(super) spares: Vec<String>,
    /// Files of a segment's size on disk: live, spare, and on their way from one to the other.
    pub(super) files: u64,
    /// Whether the keeper is making a spare.
    pub(super) preparing: bool,
    /// Why the last spare could not be made.
    pub(super) trouble: Option<NoSegment>,
    /// Every record below it is stored.
    pub(super) finished: u64,
    /// What of that the checkpoint file says.
    pub(super) persisted: u64,
    /// Every record below it has been synced.
    pub(super) synced: u64,
    /// Items synced and not finished.
    pub(super) items_waiting: u64,
    /// How far the journal's end has come.
    pub(super) phase: Phase,
    /// Records below it have been handed to the reader's caller.
    read: u64,
    /// The seqs and items of what was handed out and is not finished, in order.
    handed_out: VecDeque<(u64, u32)>,
}

impl State {
    /// The state after recovery: `finished` and `synced` as in the checkpoint file.
    pub(super) fn new(
        live: VecDeque<Segment>,
        spares: Vec<String>,
        checkpoint: Checkpoint,
    ) -> Self {
        Self {
            files: (live.len() + spares.len()) as u64,
            live,
            last_is_open: false,
            spares,
            preparing: false,
            trouble: None,
            finished: checkpoint.finished,
            persisted: checkpoint.finished,
            synced: checkpoint.synced,
            items_waiting: 0,
            phase: Phase::Running,
            read: checkpoint.finished,
            handed_out: VecDeque::new(),
        }
    }

    /// Starts with the record `seq`: everything below it is stored, or lost.
    pub(super) fn start_at(&mut self, seq: u64) {
        self.finished = self.finished.max(seq);
        self.read = self.finished;
    }

    /// Whether every record of the oldest segment is below `seq` and none will be added.
    pub(super) fn is_oldest_below(&self, seq: u64) -> bool {
        match (self.live.front(), self.live.get(1)) {
            (Some(_), Some(next)) => next.first_seq <= seq,
            (Some(_), None) => !self.last_is_open && self.synced <= seq,
            (None, _) => false,
        }
    }

    /// The seq below which all records of the `index`th segment are.
    fn seq_end(&self, index: usize) -> u64 {
        self.live.get(index + 1).map_or(self.synced, |next| next.first_seq)
    }
}

impl Segments {
    /// Shares the state that recovery found. At most `files_max` files are kept.
    pub(super) fn new(state: State, files_max: u64) -> Self {
        Self {
            state: Mutex::new(state),
            for_keeper: Condvar::new(),
            for_writer: Condvar::new(),
            for_reader: Notify::new(),
            files_max,
        }
    }

    /// Locks the state.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer's calls.
impl Segments {
    /// Takes a spare, waiting while the keeper makes one.
    pub(super) fn take_spare(&self) -> Result<String, NoSegment> {
        let mut state = self.lock();
        loop {
            if let Some(spare) = state.spares.pop() {
                self.for_keeper.notify_one();
                return Ok(spare);
            }
            if let Some(trouble) = state.trouble {
                return Err(trouble);
            }
            if !state.preparing && !self.may_grow(&state) {
                return Err(NoSegment::Full);
            }
            state = self.for_writer.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds the segment that the writer goes on in.
    pub(super) fn add(&self, segment: Segment) {
        let mut state = self.lock();
        state.live.push_back(segment);
        state.last_is_open = true;
    }

    /// Lets the reader see what was synced: up to `end` in the open segment, below `seq_end`, with
    /// `items` more items. Returns the items that wait.
    pub(super) fn publish(&self, end: u64, seq_end: u64, items: u64) -> u64 {
        let mut state = self.lock();
        if let Some(open) = state.live.back_mut() {
            open.end = end;
        }
        state.synced = seq_end;
        state.items_waiting += items;
        state.items_waiting
    }

    /// Wakes the reader, if it waits for what was published.
    pub(super) fn wake_reader(&self) {
        self.for_reader.notify_one();
    }

    /// Notes that the writer has ended, so that the reader ends at the tail.
    pub(super) fn end_writer(&self) {
        self.lock().phase = Phase::WriterEnded;
        self.for_reader.notify_one();
    }
}

/// The keeper's calls.
impl Segments {
    /// Whether one more file may be made.
    pub(super) fn may_grow(&self, state: &State) -> bool {
        state.files < self.files_max
    }

    /// Adds a spare, or the reason why there is none, for the writer to find.
    pub(super) fn settle_spare(&self, spare: Result<String, NoSegment>) {
        let mut state = self.lock();
        match spare {
            Ok(name) => {
                state.spares.push(name);
                state.trouble = None;
            }
            Err(trouble) => state.trouble = Some(trouble),
        }
        drop(state);
        self.for_writer.notify_one();
    }

    /// Puts the keeper to sleep until it is called, or for `timeout`.
    pub(super) fn sleep_keeper<'a>(
        &self,
        state: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match timeout {
            None => self.for_keeper.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(timeout) => {
                let waited = self.for_keeper.wait_timeout(state, timeout);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Tells the keeper to end.
    pub(super) fn stop_keeper(&self) {
        self.lock().phase = Phase::KeeperStops;
        self.for_keeper.notify_one();
    }
}

/// The reader's calls, and its caller's.
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
                is_recent: index + RECENT_SEGMENTS >= state.live.len(),
            };
        }
        match state.live.iter().skip(index).find(|s| s.first_seq > position.segment) {
            Some(next) => Readable::Next(next.clone()),
            None if state.phase >= Phase::WriterEnded => Readable::Ended,
            None => Readable::Nothing,
        }
    }

    /// Resolves when there may be more to read, at once if that was so since the last call.
    pub(super) async fn wait_readable(&self) {
        self.for_reader.notified().await;
    }

    /// Notes that records have been handed out, and that the reader is at `seq_end`.
    pub(super) fn hand_out(&self, records: impl Iterator<Item = (u64, u32)>, seq_end: u64) {
        let mut state = self.lock();
        state.handed_out.extend(records);
        state.read = state.read.max(seq_end);
    }

    /// Notes that every record below `seq` is stored. Returns the items that wait.
    pub(super) fn finish(&self, seq: u64) -> u64 {
        let mut state = self.lock();
        // What was not handed out cannot be stored: a caller's slip must not cost records.
        let finished = seq.min(state.read);
        if finished <= state.finished {
            return state.items_waiting;
        }
        let keeper_knows = state.finished > state.persisted && !state.is_oldest_below(finished);
        state.finished = finished;
        while let Some((_, items)) = state.handed_out.pop_front_if(|(seq, _)| *seq < finished) {
            state.items_waiting = state.items_waiting.saturating_sub(u64::from(items));
        }
        let waiting = state.items_waiting;
        drop(state);
        if !keeper_knows {
            self.for_keeper.notify_one();
        }
        waiting
    }
}
