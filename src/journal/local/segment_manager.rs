//! The keeper: a thread that has the next segment ready before the writer needs it, writes down how
//! far the store is, and takes finished segments away.
//!
//! A segment is ready when every byte of it has been written once: a sync of blocks that exist
//! costs a third of one that must also record new blocks (0.13 ms against 0.3 to 0.4 ms). Finished
//! segments are used again for the same reason.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::append_queue::Queue;
use super::checkpoint::CheckpointFile;
use super::file_system::{Disk, is_no_space, write_all};
use super::format::{Checkpoint, JournalId};
use super::segments::{NoSegment, Phase, Segment, Segments, State};
use super::{SPARE_PREFIX, journal_bytes};
use crate::runtime::Stopwatch;
use crate::telemetry::Metrics;

/// The checkpoint file is written at most this often, unless a segment waits for it.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(200);
/// How long the keeper waits after it could not make a spare, or not write the checkpoint.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Spare files kept; more finished segments than that are deleted.
pub(super) const SPARES_MAX: usize = 2;
/// Zeros written in one call.
const FILL_BYTES: usize = 1024 * 1024;
/// Zeros written before they are synced, so that the writer's syncs do not queue behind many.
const FILL_SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// The keeper's state.
pub(super) struct Keeper {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    pub(super) id: JournalId,
    pub(super) segment_bytes: u64,
    pub(super) segments: Arc<Segments>,
    pub(super) queue: Arc<Queue>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) checkpoint: CheckpointFile,
    /// Above that of every spare there is.
    pub(super) spare_number: u64,
    pub(super) last_checkpoint: Option<Stopwatch>,
    /// Since when the checkpoint could not be written, at the last attempt.
    pub(super) checkpoint_failed: Option<Stopwatch>,
    /// Since when no spare could be made, at the last attempt. Apart from the other, so that trouble
    /// with the one never keeps the writer waiting for the other.
    pub(super) spare_failed: Option<Stopwatch>,
}

enum Task {
    Prepare,
    Checkpoint { finished: u64, synced: u64 },
    Free(Segment),
    Stop,
}

impl Keeper {
    /// Works until it is told to stop; the last thing it does is to write the checkpoint.
    pub(super) fn run(mut self) {
        let _guard = EndGuard(Arc::clone(&self.segments));
        loop {
            match self.next_task() {
                Task::Prepare => self.prepare(),
                Task::Checkpoint { finished, synced } => self.write_checkpoint(finished, synced),
                Task::Free(segment) => self.free(&segment),
                Task::Stop => return,
            }
            self.metrics
                .journal_bytes
                .set(journal_bytes(&self.segments.lock(), self.segment_bytes));
        }
    }

    fn next_task(&self) -> Task {
        let mut state = self.segments.lock();
        loop {
            if state.is_oldest_below(state.persisted)
                && let Some(segment) = state.live.pop_front()
            {
                return Task::Free(segment);
            }
            let checkpoint_in = self.checkpoint_in(&state);
            if checkpoint_in == Some(Duration::ZERO) {
                return Task::Checkpoint { finished: state.finished, synced: state.synced };
            }
            if state.phase == Phase::KeeperStops {
                return Task::Stop;
            }
            let prepare_in = self.prepare_in(&state);
            if prepare_in == Some(Duration::ZERO) {
                state.preparing = true;
                state.files += 1;
                return Task::Prepare;
            }
            let soonest = checkpoint_in.into_iter().chain(prepare_in).min();
            state = self.segments.sleep_keeper(state, soonest);
        }
    }

    /// How long until the checkpoint is to be written; `None` when it says all there is.
    fn checkpoint_in(&self, state: &State) -> Option<Duration> {
        if state.finished <= state.persisted {
            return None;
        }
        let stops = state.phase == Phase::KeeperStops;
        let is_urgent = stops || state.is_oldest_below(state.finished);
        match (self.checkpoint_failed, is_urgent) {
            (None, true) => Some(Duration::ZERO),
            (None, false) => Some(remaining(self.last_checkpoint, CHECKPOINT_INTERVAL)),
            (Some(_), _) if stops => None,
            (Some(_), _) => Some(remaining(self.checkpoint_failed, RETRY_INTERVAL)),
        }
    }

    /// How long until a spare is to be made; `None` when none is needed or there is no room.
    fn prepare_in(&self, state: &State) -> Option<Duration> {
        let wanted = state.spares.is_empty()
            && state.phase == Phase::Running
            && self.segments.may_grow(state);
        wanted.then(|| remaining(self.spare_failed, RETRY_INTERVAL))
    }

    fn prepare(&mut self) {
        let name = self.spare_name();
        let made = self.fill(&name);
        let mut state = self.segments.lock();
        state.preparing = false;
        if made.is_err() {
            state.files -= 1;
        }
        drop(state);
        match made {
            Ok(()) => self.settle(name),
            Err(error) => {
                // What is left of it would take the room that is missing.
                let _ = self.disk.remove(&self.dir.join(&name));
                if error.kind() != io::ErrorKind::Interrupted {
                    tracing::error!(file = name, %error, "cannot prepare a journal segment");
                }
                self.spare_failed = Some(Stopwatch::start());
                let full = is_no_space(&error);
                let trouble = if full { NoSegment::Full } else { NoSegment::Broken };
                self.segments.settle_spare(Err(trouble));
            }
        }
    }

    fn fill(&self, name: &str) -> io::Result<()> {
        let file = self.disk.create(&self.dir.join(name))?;
        let zeros = vec![0; FILL_BYTES];
        let mut at = 0;
        while at < self.segment_bytes {
            // Nobody waits for a spare any more.
            if self.segments.lock().phase == Phase::KeeperStops {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let bytes =
                usize::try_from(self.segment_bytes - at).unwrap_or(FILL_BYTES).min(FILL_BYTES);
            write_all(&*file, &zeros[..bytes], at)?;
            at += bytes as u64;
            if at.is_multiple_of(FILL_SYNC_BYTES) {
                file.sync_data()?;
            }
        }
        file.sync_all()?;
        self.disk.sync_dir(&self.dir)
    }

    fn free(&mut self, segment: &Segment) {
        let reuse =
            segment.bytes == self.segment_bytes && self.segments.lock().spares.len() < SPARES_MAX;
        let path = self.dir.join(&segment.name);
        let spare = self.spare_name();
        let freed = if reuse {
            self.disk.rename(&path, &self.dir.join(&spare))
        } else {
            self.disk.remove(&path)
        };
        match freed.and_then(|()| self.disk.sync_dir(&self.dir)) {
            Ok(()) if reuse => self.settle(spare),
            Ok(()) => self.segments.lock().files -= 1,
            // It still takes its place among the files, until the next start frees it.
            Err(error) => {
                tracing::error!(file = segment.name, %error, "cannot free a journal segment");
            }
        }
    }

    fn settle(&mut self, spare: String) {
        self.spare_failed = None;
        self.segments.settle_spare(Ok(spare));
        self.queue.reopen();
    }

    fn write_checkpoint(&mut self, finished: u64, synced: u64) {
        let checkpoint = Checkpoint { id: self.id, version: 0, finished, synced };
        self.last_checkpoint = Some(Stopwatch::start());
        match self.checkpoint.write(checkpoint) {
            Ok(()) => {
                self.checkpoint_failed = None;
                self.segments.lock().persisted = finished;
            }
            // Nothing is lost by an old checkpoint but the time to store records again.
            Err(error) => {
                tracing::error!(%error, "cannot write the journal's checkpoint; trying again");
                self.checkpoint_failed = Some(Stopwatch::start());
            }
        }
    }

    fn spare_name(&mut self) -> String {
        self.spare_number += 1;
        format!("{SPARE_PREFIX}{}", self.spare_number)
    }
}

fn remaining(since: Option<Stopwatch>, interval: Duration) -> Duration {
    since.map_or(Duration::ZERO, |since| interval.saturating_sub(since.elapsed()))
}

/// Lets the writer fail, rather than wait for ever, should the keeper panic.
struct EndGuard(Arc<Segments>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.lock().preparing = false;
        self.0.settle_spare(Err(NoSegment::Broken));
    }
}
