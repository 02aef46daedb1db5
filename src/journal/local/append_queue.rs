//! The queue of appends that wait for the writer.
//!
//! Appenders copy their record, framed, to the end of one buffer under a mutex; the writer swaps that buffer for
//! an empty one and writes it as it is. An append costs one short lock and one copy: no message, no allocation,
//! and no notification of a writer that is at work.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::RecordOwner;
use super::format::{FRAME_HEADER_BYTES, peek_frame, push_frame};
use super::group_commit::{AppendFuture, CommitGroup, CommitResult, PreviousGroup};
use super::shares::{OrgBytes, QueuedAppends, ShareUsedUp, Shares, add_frame};
use crate::domain::OrgId;
use crate::journal::AppendError;

/// Capacity that a buffer keeps between groups; one that a flood of large records grew is given back.
const BUFFER_KEPT_BYTES: usize = 1024 * 1024;
/// The value of [`State::notify_at`] while the writer is at work.
const NEVER: usize = usize::MAX;

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    /// Appends not yet synced.
    pub(super) appends: usize,
    /// Bytes of appends not yet synced. One append may always wait, whatever its size.
    pub(super) bytes: usize,
    /// Bytes of one record.
    pub(super) record_bytes: usize,
}

/// Whether appends are admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum QueueState {
    /// Yes.
    Open,
    /// Not until there is space on disk.
    Full,
    /// Not until a segment is prepared.
    NoSegment,
    /// No longer: the journal is closing.
    Closed,
    /// No longer: a write or a sync has failed.
    Poisoned,
}

/// Appends on their way to the writer.
pub(super) struct AppendQueue {
    limits: QueueLimits,
    owner: RecordOwner,
    state: Mutex<State>,
    filled: Condvar,
    /// Cancelled when the queue is poisoned.
    poisoned: CancellationToken,
}

struct State {
    admission: QueueState,
    batch: AppendBatch,
    shares: Shares,
    /// Appends in the batch that the writer is writing.
    writing_appends: usize,
    /// Bytes in that batch.
    writing_bytes: usize,
    /// The number of appends at which the sleeping writer is notified; [`NEVER`] while it is at work. Each
    /// notification of a `Condvar` is a system call, so the writer is notified only when it matters.
    notify_at: usize,
}

/// Appends that are written together.
pub(super) struct AppendBatch {
    /// Their frames, not finalized.
    pub(super) frames: Vec<u8>,
    /// Their number.
    pub(super) appends: usize,
    group: Arc<CommitGroup>,
    previous: PreviousGroup,
}

impl AppendBatch {
    fn new(appends_expected: usize) -> Self {
        let group = Arc::new(CommitGroup::new(appends_expected));
        Self { frames: Vec::new(), appends: 0, group, previous: PreviousGroup::none() }
    }

    /// An empty batch with the buffer of one that was written.
    fn reusing(written: Option<Self>) -> Self {
        let Some(mut written) = written else { return Self::new(0) };
        let mut next = Self::new(written.appends);
        next.frames = std::mem::take(&mut written.frames);
        next.frames.clear();
        next.frames.shrink_to(BUFFER_KEPT_BYTES);
        next
    }

    /// Resolves every append: the first `durable` appends with the seqs from `first_seq` on, the others with
    /// `failure`.
    pub(super) fn complete(&self, first_seq: u64, durable: usize, failure: AppendError) {
        self.group.complete(CommitResult { first_seq, durable, failure });
        self.previous.wake_all();
    }
}

impl Drop for AppendBatch {
    /// A batch that nobody completed was not written: its appenders must not wait for ever.
    fn drop(&mut self) {
        self.complete(0, 0, AppendError::Poisoned);
    }
}

/// Why an append is refused, and whether that is to be logged.
struct AppendRefusal {
    error: AppendError,
    is_first: bool,
}

impl AppendRefusal {
    /// The error, logged outside of the lock if it is the first one of an organisation.
    fn logged(self, owner: Option<OrgId>) -> AppendError {
        if self.is_first
            && let Some(org) = owner
        {
            tracing::warn!(
                %org,
                "the organisation's events wait to be stored and use up its share of the journal; its further \
                 events are refused"
            );
        }
        self.error
    }
}

impl From<AppendError> for AppendRefusal {
    fn from(error: AppendError) -> Self {
        Self { error, is_first: false }
    }
}

impl From<ShareUsedUp> for AppendRefusal {
    fn from(used_up: ShareUsedUp) -> Self {
        match used_up {
            ShareUsedUp::Queue => AppendError::Busy.into(),
            ShareUsedUp::Journal { is_first } => Self { error: AppendError::ShareUsedUp, is_first },
        }
    }
}

impl AppendQueue {
    /// An empty queue that admits appends.
    pub(super) fn new(limits: QueueLimits, shares: Shares) -> Self {
        let owner = shares.owner();
        let state = State {
            admission: QueueState::Open,
            batch: AppendBatch::new(0),
            shares,
            writing_appends: 0,
            writing_bytes: 0,
            notify_at: NEVER,
        };
        let (state, filled) = (Mutex::new(state), Condvar::new());
        Self { limits, owner, state, filled, poisoned: CancellationToken::new() }
    }

    /// Queues a record for the writer. The future resolves when the record is durable or the append has failed.
    pub(super) fn push(&self, record: &[u8], items: u32) -> Result<AppendFuture, AppendError> {
        if record.len() > self.limits.record_bytes {
            return Err(AppendError::TooLarge);
        }
        // The one part of an append whose cost grows with the record is done before the lock.
        let crc = crc32c::crc32c(record);
        let owner = (self.owner)(record);
        let mut state = self.lock();
        if let Err(refusal) = self.admit(&mut state, owner, FRAME_HEADER_BYTES + record.len()) {
            drop(state);
            return Err(refusal.logged(owner));
        }
        push_frame(&mut state.batch.frames, record, crc, items);
        let future = AppendFuture::new(&state.batch.group, state.batch.appends);
        state.batch.appends += 1;
        if state.batch.appends >= state.notify_at {
            state.notify_at = NEVER;
            drop(state);
            self.filled.notify_one();
        }
        Ok(future)
    }

    fn admit(
        &self,
        state: &mut State,
        owner: Option<OrgId>,
        frame_bytes: usize,
    ) -> Result<(), AppendRefusal> {
        match state.admission {
            QueueState::Open => {}
            QueueState::Full => return Err(AppendError::Full.into()),
            QueueState::NoSegment => return Err(AppendError::NoSegment.into()),
            QueueState::Closed => return Err(AppendError::Closed.into()),
            QueueState::Poisoned => return Err(AppendError::Poisoned.into()),
        }
        let appends = state.batch.appends + state.writing_appends;
        let bytes = state.batch.frames.len() + state.writing_bytes;
        let over = appends >= self.limits.appends || bytes + frame_bytes > self.limits.bytes;
        if over && appends > 0 {
            return Err(AppendError::Busy.into());
        }
        let Some(org) = owner else { return Ok(()) };
        let waiting = QueuedAppends { appends: appends as u64, bytes: bytes as u64 };
        let free = QueuedAppends {
            appends: self.limits.appends.saturating_sub(appends) as u64,
            bytes: self.limits.bytes.saturating_sub(bytes) as u64,
        };
        Ok(state.shares.take(org, frame_bytes as u64, waiting, free)?)
    }

    /// Gives back bytes that are stored. Returns those that are not.
    pub(super) fn give_back(&self, bytes: &OrgBytes) -> u64 {
        let shares = &mut self.lock().shares;
        shares.give_back(bytes);
        shares.unstored()
    }

    /// Gives back the frames of a batch that were not written: those behind the first `written`.
    pub(super) fn give_back_unwritten(&self, batch: &AppendBatch, written: usize) {
        let mut bytes = OrgBytes::new();
        let mut rest = batch.frames.as_slice();
        for number in 0..batch.appends {
            let (frame, behind) = rest.split_at(peek_frame(rest).0);
            rest = behind;
            if number >= written {
                add_frame(&mut bytes, (self.owner)(&frame[FRAME_HEADER_BYTES..]), frame.len());
            }
        }
        self.give_back(&bytes);
    }

    /// Bytes of records with an owner that are not stored.
    pub(super) fn unstored(&self) -> u64 {
        self.lock().shares.unstored()
    }

    /// Waits for appends and takes them all; the buffer of `written`, the previous batch, is filled next. While
    /// there are fewer appends than in the previous batch, it waits for `linger` more. `None` when the queue is
    /// closed and empty.
    pub(super) fn take(
        &self,
        written: Option<AppendBatch>,
        linger: Duration,
    ) -> Option<AppendBatch> {
        let expected = written.as_ref().map_or(0, |batch| batch.appends);
        let mut previous = written
            .as_ref()
            .map_or_else(PreviousGroup::none, |batch| PreviousGroup::new(&batch.group));
        let mut next = AppendBatch::reusing(written);
        let mut state = self.lock();
        state.writing_appends = 0;
        state.writing_bytes = 0;
        while state.batch.appends == 0 {
            if matches!(state.admission, QueueState::Closed | QueueState::Poisoned) {
                drop(state);
                previous.wake_all();
                return None;
            }
            state = self.sleep(state, &mut previous);
        }
        if state.batch.appends < expected {
            state.notify_at = expected;
            let waited = self.filled.wait_timeout(state, linger);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.notify_at = NEVER;
        state.writing_appends = state.batch.appends;
        state.writing_bytes = state.batch.frames.len();
        state.shares.begin_group();
        std::mem::swap(&mut state.batch, &mut next);
        drop(state);
        next.previous = previous;
        Some(next)
    }

    /// Sleeps until there may be appends; at first only for as long as the leader of the previous group may take to
    /// wake its group.
    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        previous: &mut PreviousGroup,
    ) -> MutexGuard<'a, State> {
        state.notify_at = 1;
        let Some(leader_timeout) = previous.leader_timeout() else {
            return self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let slept = self.filled.wait_timeout(state, leader_timeout);
        let (state, slept) = slept.unwrap_or_else(PoisonError::into_inner);
        if !slept.timed_out() {
            return state;
        }
        drop(state);
        previous.wake_all();
        self.lock()
    }

    /// Refuses appends for good; waiting ones are still written.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.admission, QueueState::Open | QueueState::Full | QueueState::NoSegment) {
            state.admission = QueueState::Closed;
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Refuses appends for good and fails those that wait.
    pub(super) fn poison(&self) {
        let mut state = self.lock();
        state.admission = QueueState::Poisoned;
        let waiting = std::mem::replace(&mut state.batch, AppendBatch::new(0));
        drop(state);
        drop(waiting);
        self.filled.notify_one();
        self.poisoned.cancel();
    }

    /// Resolves once the queue is poisoned.
    pub(super) async fn wait_poisoned(&self) {
        self.poisoned.cancelled().await;
    }

    /// Refuses appends until [`Self::reopen`]: there is no space on disk.
    pub(super) fn set_full(&self) {
        self.refuse(QueueState::Full);
    }

    /// Refuses appends until [`Self::reopen`]: no segment could be prepared.
    pub(super) fn set_no_segment(&self) {
        self.refuse(QueueState::NoSegment);
    }

    fn refuse(&self, refusing: QueueState) {
        let mut state = self.lock();
        if state.admission == QueueState::Open {
            state.admission = refusing;
        }
    }

    /// Admits appends again after [`Self::set_full`] and [`Self::set_no_segment`].
    pub(super) fn reopen(&self) {
        let mut state = self.lock();
        if matches!(state.admission, QueueState::Full | QueueState::NoSegment) {
            state.admission = QueueState::Open;
        }
    }

    /// Whether appends are admitted.
    pub(super) fn state(&self) -> QueueState {
        self.lock().admission
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
