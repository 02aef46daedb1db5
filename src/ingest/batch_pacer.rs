//! Batch pacing: decides how long to wait before the next batch is read.
//!
//! At low rates a batch is read as soon as there is a record. Many small batches cost more than few large ones,
//! most of all on PostgreSQL, where each takes three round trips; and the low priority of the background threads
//! affects SQLite, but not a database server on the same machine. So there are two waits, one at a time:
//!
//! - Batches of many requests that are not full linger for [`LINGER`].
//! - While the request threads are busy, consecutive batches are spaced by [`YIELD`]: accepted events are safe in the
//!   journal, and are stored when there is less to do, or at the full rate once they are [`YIELD_AGE_MAX`] old.
//!
//! Requests count, not events: one large request of a tenant must not make the events behind it wait.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::runtime::{Clock, CpuLoad};

/// Requests in a batch that make a linger before the next one worthwhile.
const BUSY_BATCH_REQUESTS: usize = 32;
/// Consecutive busy batches that make a flood.
const FLOOD_BATCHES: u32 = 4;
/// The time for a batch to fill. Below about 6,000 requests per second batches have fewer than
/// [`BUSY_BATCH_REQUESTS`] requests, and none waits.
const LINGER: Duration = Duration::from_millis(5);
/// The busy share of the request threads' time from which on storing yields to them. It is low because, beside a busy
/// database server on two cores, they do not get a larger share.
const YIELD_LOAD: f64 = 0.25;
/// The space between batches while storing yields. With the default of 500 events per batch, 25,000 events per second
/// are still stored.
const YIELD: Duration = Duration::from_millis(20);
/// The age of an event from which on storing it no longer yields.
const YIELD_AGE_MAX: Duration = Duration::from_secs(10);

/// Decides how long to wait from one batch to the next.
#[derive(Debug)]
pub(super) struct BatchPacer {
    answering: CpuLoad,
    clock: Clock,
    last: LastBatch,
    /// Consecutive busy batches.
    busy_batches: u32,
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
        Self { answering, clock, last, busy_batches: 0 }
    }

    /// Notes the batch that was read.
    pub(super) fn observe(&mut self, last: LastBatch) {
        self.busy_batches = if last.is_busy() { self.busy_batches.saturating_add(1) } else { 0 };
        self.last = last;
    }

    /// How long to wait before the next batch is read.
    pub(super) fn wait(&mut self) -> Duration {
        let age = self.clock.now().since(self.last.accepted_at);
        wait(self.last, self.busy_batches, age, self.answering.share())
    }
}

impl LastBatch {
    const fn is_busy(self) -> bool {
        self.was_full || self.requests >= BUSY_BATCH_REQUESTS
    }
}

fn wait(last: LastBatch, busy_batches: u32, age: Duration, busy: f64) -> Duration {
    if busy_batches >= FLOOD_BATCHES && busy >= YIELD_LOAD && age < YIELD_AGE_MAX {
        return YIELD;
    }
    if last.is_busy() && !last.was_full { LINGER } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_secs(1);

    fn last(requests: usize, was_full: bool) -> LastBatch {
        LastBatch { requests, was_full, accepted_at: Timestamp::from_micros(0) }
    }

    #[test]
    fn batches_of_few_requests_do_not_wait() {
        assert_eq!(wait(last(0, false), 0, Duration::ZERO, 1.0), Duration::ZERO);
        assert_eq!(wait(last(BUSY_BATCH_REQUESTS - 1, false), 0, YOUNG, 1.0), Duration::ZERO);
    }

    #[test]
    fn batches_of_many_requests_linger() {
        assert_eq!(wait(last(BUSY_BATCH_REQUESTS, false), 1, YOUNG, 0.0), LINGER);
    }

    #[test]
    fn backlog_is_stored_at_once_while_request_threads_are_idle() {
        assert_eq!(wait(last(500, true), FLOOD_BATCHES, YOUNG, 0.0), Duration::ZERO);
    }

    #[test]
    fn flood_yields_to_busy_request_threads() {
        assert_eq!(wait(last(500, true), FLOOD_BATCHES, YOUNG, YIELD_LOAD), YIELD);
        assert_eq!(wait(last(BUSY_BATCH_REQUESTS, false), FLOOD_BATCHES, YOUNG, YIELD_LOAD), YIELD);
    }

    #[test]
    fn events_behind_a_large_request_do_not_wait() {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut pacer = BatchPacer::new(CpuLoad::of(runtime.handle().clone()), clock);
        for _ in 0..2 * FLOOD_BATCHES {
            pacer.observe(last(1, true));
            pacer.observe(last(3, false));
            assert_eq!((pacer.busy_batches, pacer.wait()), (0, Duration::ZERO));
        }
        assert_eq!(wait(last(1, true), 1, YOUNG, 1.0), Duration::ZERO);
    }

    #[test]
    fn flood_of_old_events_does_not_yield() {
        assert_eq!(wait(last(500, true), FLOOD_BATCHES, YIELD_AGE_MAX, 1.0), Duration::ZERO);
        assert_eq!(
            wait(last(BUSY_BATCH_REQUESTS, false), FLOOD_BATCHES, YIELD_AGE_MAX, 1.0),
            LINGER
        );
    }
}
