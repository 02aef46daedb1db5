//! The segment manager: a thread that prepares the next segment before the writer needs it, writes the checkpoint,
//! and frees acknowledged segments. Those that are kept for a replay are in [`super::retention`].
//!
//! A segment is prepared when every byte of it has been written once: a sync of existing blocks costs a third of
//! one that must also record new blocks (0.13 ms, against 0.3 to 0.4 ms). Acknowledged segments are reused for the
//! same reason.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::append_queue::AppendQueue;
use super::checkpoint::CheckpointFile;
use super::file_system::{DirHandle, DirLock, FileHandle, FileSystem, is_no_space, write_all};
use super::format::{Checkpoint, JournalId};
use super::quarantine::Quarantine;
use super::segment_summary::SUMMARY_OFFSET;
use super::segments::{
    FinishedSegment, KeptSegment, Phase, Segment, SegmentUnavailable, Segments, Spare, State,
};
use super::write_watch::WriteWatch;
use super::{SPARE_PREFIX, clamped};
use crate::journal::metrics::JournalMetrics;
use crate::runtime::{Clock, Stopwatch};

/// The checkpoint file is written at most this often, unless a segment waits for it.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(200);
/// The wait after a spare could not be prepared, or the checkpoint could not be written.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often the lock on the directory is checked.
const LOCK_INTERVAL: Duration = Duration::from_secs(1);
/// Most spare files; further acknowledged segments are deleted.
pub(super) const SPARES_MAX: usize = 2;
/// Zeros written in one call.
const FILL_BYTES: usize = 1024 * 1024;
/// Zeros written before they are synced, so that the writer's syncs do not queue behind many.
const FILL_SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// The segment manager's state.
pub(super) struct SegmentManager {
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) dir: PathBuf,
    /// The same directory, open.
    pub(super) open_dir: Arc<dyn DirHandle>,
    pub(super) id: JournalId,
    pub(super) segment_bytes: u64,
    pub(super) segments: Arc<Segments>,
    pub(super) queue: Arc<AppendQueue>,
    pub(super) metrics: Arc<JournalMetrics>,
    /// Asked in every round, so that a stall is logged also when nobody else asks.
    pub(super) watch: Arc<WriteWatch>,
    /// Knows which segments are held.
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) checkpoint: CheckpointFile,
    /// The number of the newest spare.
    pub(super) spare_number: u64,
    pub(super) last_checkpoint: Option<Stopwatch>,
    /// When the checkpoint could not be written, if the last attempt failed.
    pub(super) checkpoint_failed: Option<Stopwatch>,
    /// When a spare could not be prepared, if the last attempt failed. Separate from the other, so that a failing
    /// checkpoint never keeps the writer waiting for a spare.
    pub(super) spare_failed: Option<Stopwatch>,
    /// When a segment could not be freed, if the last attempt failed.
    pub(super) free_failed: Option<Stopwatch>,
    /// When a kept segment could not be given up, if the last attempt failed. Separate from the other: the writer may
    /// wait for the space of a kept segment while another one cannot be freed.
    pub(super) give_up_failed: Option<Stopwatch>,
    /// How long segments are kept once their records are stored.
    pub(super) retention: Duration,
    pub(super) clock: Clock,
    /// Whether kept segments are to be removed because the disk is short of space.
    pub(super) needs_space: bool,
    pub(super) disk_checked: Option<Stopwatch>,
    /// The lock on the directory.
    pub(super) lock: Arc<dyn DirLock>,
    pub(super) lock_checked: Stopwatch,
}

enum Task {
    Prepare,
    Checkpoint { acked: u64, synced: u64 },
    Summarize(FinishedSegment),
    Free(Segment),
    GiveUp(KeptSegment),
    CheckLock,
    Reopen,
    Stop,
}

impl SegmentManager {
    /// Works until it is asked to stop; its last task is to write the checkpoint.
    pub(super) fn run(mut self) {
        let _guard = EndGuard(Arc::clone(&self.segments));
        loop {
            let task = self.next_task();
            self.watch.is_stalled();
            self.lock_checked = Stopwatch::start();
            if !self.lock.is_held() {
                tracing::error!(
                    dir = %self.dir.display(),
                    "the journal's directory was replaced; nothing more is accepted until a restart"
                );
                self.queue.poison();
                return;
            }
            match task {
                Task::Summarize(finished) => self.summarize(&finished),
                Task::CheckLock => {}
                Task::Prepare => self.prepare(),
                Task::Checkpoint { acked, synced } => self.write_checkpoint(acked, synced),
                Task::Free(segment) => self.free(segment),
                Task::GiveUp(kept) => self.give_up(kept),
                Task::Reopen => self.queue.reopen(),
                Task::Stop => return,
            }
            self.segments.end_preparing();
            self.check_disk();
            let state = self.segments.lock();
            let bytes = state.bytes(self.segment_bytes);
            let (kept, held) = (state.kept_bytes(), state.held.bytes);
            drop(state);
            self.metrics.journal_bytes.set(clamped(bytes));
            self.metrics.hookgate_journal_kept_bytes.set(clamped(kept));
            self.metrics.hookgate_journal_held_bytes.set(clamped(held));
        }
    }

    fn next_task(&self) -> Task {
        let mut state = self.segments.lock();
        loop {
            if let Some(finished) = state.finished.pop() {
                return Task::Summarize(finished);
            }
            let is_freed = state.is_oldest_below(state.persisted);
            let free_in = is_freed.then(|| remaining(self.free_failed, RETRY_INTERVAL));
            if free_in == Some(Duration::ZERO)
                && let Some(segment) = state.live.pop_front()
            {
                state.preparing = true;
                return Task::Free(segment);
            }
            let checkpoint_in = self.checkpoint_in(&state);
            if checkpoint_in == Some(Duration::ZERO) {
                return Task::Checkpoint { acked: state.confirmed, synced: state.synced };
            }
            if state.phase == Phase::ManagerStops {
                return Task::Stop;
            }
            let give_up_in = self.give_up_in(&state);
            if give_up_in == Some(Duration::ZERO)
                && let Some(kept) = state.kept.pop_front()
            {
                state.preparing = true;
                return Task::GiveUp(kept);
            }
            let prepare_in = self.prepare_in(&state);
            if prepare_in == Some(Duration::ZERO) {
                state.preparing = true;
                state.files += 1;
                return Task::Prepare;
            }
            let reopen_in = state.disk_full.map(|since| remaining(Some(since), RETRY_INTERVAL));
            if reopen_in == Some(Duration::ZERO) {
                state.disk_full = None;
                return Task::Reopen;
            }
            let lock_in = remaining(Some(self.lock_checked), LOCK_INTERVAL);
            if lock_in.is_zero() {
                return Task::CheckLock;
            }
            let due = [free_in, checkpoint_in, give_up_in, prepare_in, reopen_in, Some(lock_in)];
            let soonest = due.into_iter().flatten().min();
            state = self.segments.sleep_manager(state, soonest);
        }
    }

    /// The time until the checkpoint is due; `None` when it is up to date.
    fn checkpoint_in(&self, state: &State) -> Option<Duration> {
        let stops = state.phase == Phase::ManagerStops;
        let is_marked = if stops { state.synced <= state.marked } else { state.is_marked() };
        if state.confirmed <= state.persisted && is_marked {
            return None;
        }
        let is_urgent = stops || !is_marked || state.is_oldest_below(state.confirmed);
        match (self.checkpoint_failed, is_urgent) {
            (None, true) => Some(Duration::ZERO),
            (None, false) => Some(remaining(self.last_checkpoint, CHECKPOINT_INTERVAL)),
            (Some(_), _) if stops => None,
            (Some(_), _) => Some(remaining(self.checkpoint_failed, RETRY_INTERVAL)),
        }
    }

    /// The time until a spare is to be prepared; `None` when none is needed or there is no space.
    fn prepare_in(&self, state: &State) -> Option<Duration> {
        let wanted = state.spares.is_empty()
            && state.phase == Phase::Running
            && self.segments.may_grow(state);
        wanted.then(|| {
            let discarded = remaining(state.spare_discarded, RETRY_INTERVAL);
            remaining(self.spare_failed, RETRY_INTERVAL).max(discarded)
        })
    }

    fn prepare(&mut self) {
        let name = self.spare_name();
        let prepared = self.fill(&name);
        if prepared.is_err() {
            self.segments.lock().files -= 1;
        }
        match prepared {
            Ok(file) => {
                if self.spare_failed.is_some() {
                    tracing::info!(file = name, "journal segment prepared");
                }
                self.add_spare(Spare { name, file });
            }
            Err(error) => {
                // A partial file would take the space that is missing.
                let _ = self.fs.remove(&self.dir.join(&name));
                if is_no_space(&error) && !self.segments.lock().kept.is_empty() {
                    self.needs_space = true;
                    return;
                }
                if error.kind() != io::ErrorKind::Interrupted && self.spare_failed.is_none() {
                    tracing::error!(
                        file = name, %error,
                        "cannot prepare a journal segment, retrying every second"
                    );
                }
                self.spare_failed = Some(Stopwatch::start());
                let full = is_no_space(&error);
                // Whatever it is, it concerns no record.
                self.segments.fail_spare(if full {
                    SegmentUnavailable::NoSpace
                } else {
                    SegmentUnavailable::Unprepared
                });
            }
        }
    }

    fn fill(&self, name: &str) -> io::Result<Arc<dyn FileHandle>> {
        let file = self.fs.create(&self.dir.join(name))?;
        let zeros = vec![0; FILL_BYTES];
        let mut at = 0;
        while at < self.segment_bytes {
            // Nobody waits for a spare any longer.
            if self.segments.lock().phase == Phase::ManagerStops {
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
        self.open_dir.sync()?;
        Ok(file)
    }

    /// Writes the summary of a segment. Without one, recovery reads the segment.
    fn summarize(&self, FinishedSegment { file, summary }: &FinishedSegment) {
        // It is freed at once.
        if summary.next_seq <= self.segments.lock().persisted {
            return;
        }
        let written = write_all(&**file, &summary.encode(self.id), SUMMARY_OFFSET);
        if let Err(error) = written.and_then(|()| file.sync_data()) {
            tracing::warn!(%error, "cannot write the summary of a journal segment");
        }
    }

    pub(super) fn add_spare(&mut self, spare: Spare) {
        self.spare_failed = None;
        self.segments.add_spare(spare);
        self.queue.reopen();
    }

    fn write_checkpoint(&mut self, acked: u64, synced: u64) {
        let checkpoint = Checkpoint { id: self.id, version: 0, acked, synced };
        self.last_checkpoint = Some(Stopwatch::start());
        match self.checkpoint.write(checkpoint) {
            Ok(()) => {
                self.checkpoint_failed = None;
                let mut state = self.segments.lock();
                state.persisted = acked;
                state.marked = synced;
            }
            // An old checkpoint costs nothing but the time to store records again.
            Err(error) => {
                tracing::error!(%error, "cannot write the journal's checkpoint, retrying");
                self.checkpoint_failed = Some(Stopwatch::start());
            }
        }
    }

    pub(super) fn spare_name(&mut self) -> String {
        self.spare_number += 1;
        format!("{SPARE_PREFIX}{}", self.spare_number)
    }
}

pub(super) fn remaining(since: Option<Stopwatch>, interval: Duration) -> Duration {
    since.map_or(Duration::ZERO, |since| interval.saturating_sub(since.elapsed()))
}

/// Fails the writer, rather than let it wait for ever, should the segment manager panic.
struct EndGuard(Arc<Segments>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.lock().preparing = false;
        self.0.fail_spare(SegmentUnavailable::Failed);
    }
}
