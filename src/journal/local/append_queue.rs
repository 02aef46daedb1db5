//! What waits for the writer.
//!
//! Appenders copy their record, framed, to the end of one buffer under a mutex; the writer swaps
//! that buffer for an empty one and writes it as it is. No message, no allocation and no wake-up of
//! the writer while it is at work: an append costs one short lock and one copy.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::AppendError;
use super::format::{FRAME_HEADER_BYTES, push_frame};
use super::group_commit::{Group, Outcome, Ticket};

/// Capacity a buffer keeps between groups; one that a flood of large records grew is given back.
const BUFFER_KEPT_BYTES: usize = 1024 * 1024;
/// No number of appends wakes the writer.
const AWAKE: usize = usize::MAX;
/// How long a group may wait for its leader to wake it before a writer without work does.
const LEADER_TIME: Duration = Duration::from_millis(1);

/// How much may wait, at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueLimits {
    /// Appends not yet synced.
    pub(super) appends: usize,
    /// Bytes of appends not yet synced. One append may always wait, whatever its size.
    pub(super) bytes: usize,
    /// Bytes of one record.
    pub(super) record_bytes: usize,
}

/// Whether appends are let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gate {
    /// They are.
    Open,
    /// Not until there is room on disk.
    Full,
    /// Not any more: the journal is closing.
    Closed,
    /// Not any more: a write or a sync has failed.
    Poisoned,
}

/// Appends on their way to the writer.
pub(super) struct Queue {
    limits: QueueLimits,
    state: Mutex<State>,
    filled: Condvar,
}

struct State {
    gate: Gate,
    batch: Batch,
    /// Of the batch in the writer's hands.
    writing_appends: usize,
    writing_bytes: usize,
    /// With how many appends the sleeping writer is to be woken; [`AWAKE`] while it is at work. A
    /// `Condvar` makes a system call at every notification, so it is notified only when it matters.
    wake_at: usize,
}

/// Appends that are written together.
pub(super) struct Batch {
    /// Their frames, not sealed.
    pub(super) frames: Vec<u8>,
    /// How many they are.
    pub(super) appends: usize,
    group: Arc<Group>,
    /// The group written before, whose leader has had a sync's time to wake it.
    before: Option<Arc<Group>>,
}

impl Batch {
    fn new(appends_expected: usize) -> Self {
        let group = Arc::new(Group::new(appends_expected));
        Self { frames: Vec::new(), appends: 0, group, before: None }
    }

    /// A batch to fill, with the buffer of one that is done.
    fn reusing(used: Option<Self>) -> Self {
        let Some(mut used) = used else { return Self::new(0) };
        let mut next = Self::new(used.appends);
        next.frames = std::mem::take(&mut used.frames);
        next.frames.clear();
        next.frames.shrink_to(BUFFER_KEPT_BYTES);
        next
    }

    /// Tells every appender: the first `durable` appends got the seqs from `first_seq` on, the
    /// others `failure`.
    pub(super) fn complete(&self, first_seq: u64, durable: usize, failure: AppendError) {
        self.group.complete(Outcome { first_seq, durable, failure });
        if let Some(before) = &self.before {
            before.wake_all();
        }
    }
}

impl Drop for Batch {
    /// A batch that nobody completed was not written: its appenders must not wait for ever.
    fn drop(&mut self) {
        self.complete(0, 0, AppendError::Poisoned);
    }
}

impl Queue {
    /// An empty queue that lets appends in.
    pub(super) fn new(limits: QueueLimits) -> Self {
        let state = State {
            gate: Gate::Open,
            batch: Batch::new(0),
            writing_appends: 0,
            writing_bytes: 0,
            wake_at: AWAKE,
        };
        Self { limits, state: Mutex::new(state), filled: Condvar::new() }
    }

    /// Lets a record wait for the writer. The ticket resolves when it is durable, or will never be.
    pub(super) fn push(&self, record: &[u8], items: u32) -> Result<Ticket, AppendError> {
        if record.len() > self.limits.record_bytes {
            return Err(AppendError::TooLarge);
        }
        // The one part of an append whose cost grows with the record is done before the lock.
        let crc = crc32c::crc32c(record);
        let mut state = self.lock();
        self.admit(&state, FRAME_HEADER_BYTES + record.len())?;
        push_frame(&mut state.batch.frames, record, crc, items);
        let ticket = Ticket::new(&state.batch.group, state.batch.appends);
        state.batch.appends += 1;
        if state.batch.appends >= state.wake_at {
            state.wake_at = AWAKE;
            drop(state);
            self.filled.notify_one();
        }
        Ok(ticket)
    }

    fn admit(&self, state: &State, frame_bytes: usize) -> Result<(), AppendError> {
        match state.gate {
            Gate::Open => {}
            Gate::Full => return Err(AppendError::Full),
            Gate::Closed => return Err(AppendError::Closed),
            Gate::Poisoned => return Err(AppendError::Poisoned),
        }
        let appends = state.batch.appends + state.writing_appends;
        let bytes = state.batch.frames.len() + state.writing_bytes;
        let over = appends >= self.limits.appends || bytes + frame_bytes > self.limits.bytes;
        if over && appends > 0 { Err(AppendError::Busy) } else { Ok(()) }
    }

    /// Waits for appends and takes them all, leaving `used`, the last batch, to be filled again.
    /// While they are fewer than those of the last batch, it waits for `linger` more. `None` when
    /// the queue is closed and empty.
    pub(super) fn take(&self, used: Option<Batch>, linger: Duration) -> Option<Batch> {
        let expected = used.as_ref().map_or(0, |batch| batch.appends);
        let mut before = used.as_ref().map(|batch| Arc::clone(&batch.group));
        let mut next = Batch::reusing(used);
        let mut state = self.lock();
        state.writing_appends = 0;
        state.writing_bytes = 0;
        while state.batch.appends == 0 {
            if matches!(state.gate, Gate::Closed | Gate::Poisoned) {
                drop(state);
                if let Some(before) = before {
                    before.wake_all();
                }
                return None;
            }
            state = self.sleep(state, &mut before);
        }
        if state.batch.appends < expected {
            state.wake_at = expected;
            let waited = self.filled.wait_timeout(state, linger);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.wake_at = AWAKE;
        state.writing_appends = state.batch.appends;
        state.writing_bytes = state.batch.frames.len();
        std::mem::swap(&mut state.batch, &mut next);
        drop(state);
        next.before = before;
        Some(next)
    }

    /// Sleeps until there may be appends; at first only as long as the group `before` may take to
    /// be woken by its leader.
    fn sleep<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        before: &mut Option<Arc<Group>>,
    ) -> MutexGuard<'a, State> {
        state.wake_at = 1;
        let Some(group) = before.take_if(|group| !group.is_awake()) else {
            return self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let slept = self.filled.wait_timeout(state, LEADER_TIME);
        let (state, slept) = slept.unwrap_or_else(PoisonError::into_inner);
        if !slept.timed_out() {
            *before = Some(group);
            return state;
        }
        drop(state);
        group.wake_all();
        self.lock()
    }

    /// Shuts the gate for good; what waits is still written.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        if matches!(state.gate, Gate::Open | Gate::Full) {
            state.gate = Gate::Closed;
        }
        drop(state);
        self.filled.notify_one();
    }

    /// Shuts the gate for good and fails what waits.
    pub(super) fn poison(&self) {
        let mut state = self.lock();
        state.gate = Gate::Poisoned;
        let waiting = std::mem::replace(&mut state.batch, Batch::new(0));
        drop(state);
        drop(waiting);
        self.filled.notify_one();
    }

    /// Shuts the gate until [`Self::reopen`].
    pub(super) fn set_full(&self) {
        self.change(Gate::Open, Gate::Full);
    }

    /// Opens the gate that [`Self::set_full`] shut.
    pub(super) fn reopen(&self) {
        self.change(Gate::Full, Gate::Open);
    }

    fn change(&self, from: Gate, to: Gate) {
        let mut state = self.lock();
        if state.gate == from {
            state.gate = to;
        }
    }

    /// Whether appends are let in.
    pub(super) fn gate(&self) -> Gate {
        self.lock().gate
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
