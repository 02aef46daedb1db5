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
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct LastBatch {
    /// Requests in it.
    pub(super) requests: usize,
    /// Whether a limit ended it.
    pub(super) was_full: bool,
}

impl BatchPacer {
    /// A pacer that yields to the threads of `answering`.
    pub(super) fn new(answering: CpuLoad, clock: Clock) -> Self {
        Self { answering, clock, last: LastBatch::default(), busy_batches: 0, read: None }
    }

    /// Notes the batch that was read.
    pub(super) fn observe(&mut self, last: LastBatch) {
        self.busy_batches = if last.is_busy() { self.busy_batches.saturating_add(1) } else { 0 };
        self.last = last;
        self.read = Some(Stopwatch::start());
    }

    /// How long to wait before the next batch is read, which is gathered so many times as long as usual.
    pub(super) fn wait_to_read(&self, slowdown: u32) -> Duration {
        if self.last.was_full {
            return Duration::ZERO;
        }
        let linger = LINGER * slowdown;
        linger.saturating_sub(self.read.map_or(linger, Stopwatch::elapsed))
    }

    /// How long to wait before the next batch of waiting events is stored, the first of which was accepted then.
    pub(super) fn wait_to_store(&mut self, accepted_at: Option<Timestamp>) -> Duration {
        let age = accepted_at.map_or(Duration::ZERO, |at| self.clock.now().since(at));
        let is_flood = self.busy_batches >= FLOOD_BATCHES && age < YIELD_AGE_MAX;
        if is_flood && self.answering.share() >= YIELD_LOAD { YIELD } else { Duration::ZERO }
    }
}

impl LastBatch {
    const fn is_busy(self) -> bool {
        self.was_full || self.requests >= BUSY_BATCH_REQUESTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pacer(clock: &Clock) -> BatchPacer {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        BatchPacer::new(CpuLoad::of(runtime.handle().clone()), clock.clone())
    }

    fn clock() -> Clock {
        Clock::manual(Timestamp::from_micros(0))
    }

    fn last(requests: usize, was_full: bool) -> LastBatch {
        LastBatch { requests, was_full }
    }

    #[test]
    fn batches_linger_unless_the_server_was_idle_or_there_are_more() {
        let mut pacer = pacer(&clock());
        assert_eq!(pacer.wait_to_read(1), Duration::ZERO);
        pacer.observe(last(1, false));
        assert!(pacer.wait_to_read(1) <= LINGER);
        assert!(pacer.wait_to_read(25) <= 25 * LINGER);
        pacer.observe(last(500, true));
        assert_eq!(pacer.wait_to_read(25), Duration::ZERO);
    }

    #[test]
    fn flood_is_a_row_of_batches_with_many_requests() {
        let mut pacer = pacer(&clock());
        for requests in [BUSY_BATCH_REQUESTS, 500] {
            for _ in 0..FLOOD_BATCHES {
                assert!(pacer.busy_batches < FLOOD_BATCHES);
                pacer.observe(last(requests, false));
            }
            assert_eq!(pacer.busy_batches, FLOOD_BATCHES);
            pacer.observe(last(1, false));
            assert_eq!(pacer.busy_batches, 0);
        }
    }
}
