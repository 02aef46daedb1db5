//! Batch pacing: decides how long to wait before the next batch is read.
//!
//! Many small batches cost more than few large ones: each is a transaction, on PostgreSQL a round trip, and as many
//! outcomes. So a batch is read [`LINGER`] after the one before at the earliest. A server that was idle for that long
//! does not wait.
//!
//! While the request threads are busy, consecutive batches of many requests are spaced by [`YIELD`]: accepted events
//! are safe in the journal, and are stored when there is less to do, or at the full rate once they are
//! [`YIELD_AGE_MAX`] old. Requests count, not events: one large request of a tenant must not make the events behind it
//! wait.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::runtime::{Clock, CpuLoad, Stopwatch};

/// Requests in a batch that make it one of a flood.
const BUSY_BATCH_REQUESTS: usize = 32;
/// Consecutive busy batches that make a flood.
const FLOOD_BATCHES: u32 = 4;
/// The time for a batch to fill.
const LINGER: Duration = Duration::from_millis(4);
/// The busy share of the request threads' time from which on storing yields to them. It is low because, beside a busy
/// database server on two cores, they do not get a larger share.
const YIELD_LOAD: f64 = 0.25;
/// The space between batches while storing yields. With the default of 500 events per batch, 25,000 events per second
/// are still stored.
const YIELD: Duration = Duration::from_millis(20);
/// The age of an event from which on storing it no longer yields.
const YIELD_AGE_MAX: Duration = Duration::from_secs(1);

/// Decides how long to wait from one batch to the next.
#[derive(Debug)]
pub(super) struct BatchPacer {
    answering: CpuLoad,
    clock: Clock,
    last: LastBatch,
    /// Consecutive busy batches.
    busy_batches: u32,
    /// When the last batch was read.
    read: Option<Stopwatch>,
}

/// The batch that was read last.
#[derive(Clone, Copy, Debug)]
pub(super) struct LastBatch {
    /// Requests in it.
    pub(super) requests: usize,
    /// Whether a limit ended it.
    pub(super) was_full: bool,
    /// When the first request was accepted.
    pub(super) accepted_at: Timestamp,
}

impl BatchPacer {
    /// A pacer that yields to the threads of `answering`.
    pub(super) fn new(answering: CpuLoad, clock: Clock) -> Self {
        let last = LastBatch { requests: 0, was_full: false, accepted_at: clock.now() };
        Self { answering, clock, last, busy_batches: 0, read: None }
    }

    /// Notes the batch that was read.
    pub(super) fn observe(&mut self, last: LastBatch) {
        self.busy_batches = if last.is_busy() { self.busy_batches.saturating_add(1) } else { 0 };
        self.last = last;
        self.read = Some(Stopwatch::start());
    }

    /// How long to wait before the next batch is read.
    pub(super) fn wait(&mut self) -> Duration {
        let age = self.clock.now().since(self.last.accepted_at);
        let since_read = self.read.map_or(LINGER, Stopwatch::elapsed);
        wait(self.last, self.busy_batches, age, self.answering.share(), since_read)
    }
}

impl LastBatch {
    const fn is_busy(self) -> bool {
        self.was_full || self.requests >= BUSY_BATCH_REQUESTS
    }
}

fn wait(
    last: LastBatch,
    busy_batches: u32,
    age: Duration,
    busy: f64,
    since_read: Duration,
) -> Duration {
    if busy_batches >= FLOOD_BATCHES && busy >= YIELD_LOAD && age < YIELD_AGE_MAX {
        return YIELD;
    }
    if last.was_full { Duration::ZERO } else { LINGER.saturating_sub(since_read) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_millis(100);

    fn last(requests: usize, was_full: bool) -> LastBatch {
        LastBatch { requests, was_full, accepted_at: Timestamp::from_micros(0) }
    }

    #[test]
    fn batches_linger_unless_the_server_was_idle() {
        assert_eq!(wait(last(1, false), 0, YOUNG, 0.0, LINGER), Duration::ZERO);
        assert_eq!(wait(last(1, false), 0, YOUNG, 0.0, LINGER / 4), LINGER * 3 / 4);
        assert_eq!(wait(last(500, false), 1, YOUNG, 0.0, Duration::ZERO), LINGER);
    }

    #[test]
    fn backlog_is_stored_at_once_while_request_threads_are_idle() {
        let zero = Duration::ZERO;
        assert_eq!(wait(last(500, true), FLOOD_BATCHES, YOUNG, 0.0, zero), Duration::ZERO);
    }

    #[test]
    fn flood_yields_to_busy_request_threads() {
        let wait = |requests, full| {
            wait(last(requests, full), FLOOD_BATCHES, YOUNG, YIELD_LOAD, Duration::ZERO)
        };
        assert_eq!(wait(500, true), YIELD);
        assert_eq!(wait(BUSY_BATCH_REQUESTS, false), YIELD);
    }

    #[test]
    fn events_behind_a_large_request_make_no_flood() {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut pacer = BatchPacer::new(CpuLoad::of(runtime.handle().clone()), clock);
        for _ in 0..2 * FLOOD_BATCHES {
            pacer.observe(last(1, true));
            pacer.observe(last(3, false));
            assert_eq!(pacer.busy_batches, 0);
            assert!(pacer.wait() <= LINGER);
        }
        assert_eq!(wait(last(1, true), 1, YOUNG, 1.0, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn flood_of_old_events_does_not_yield() {
        let wait = |full| wait(last(500, full), FLOOD_BATCHES, YIELD_AGE_MAX, 1.0, LINGER);
        assert_eq!((wait(true), wait(false)), (Duration::ZERO, Duration::ZERO));
    }
}
