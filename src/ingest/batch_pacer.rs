//! When the next batch is read.
//!
//! As soon as there is something, while little comes. Many small batches cost more than few large
//! ones, the most on PostgreSQL, where each is three round trips; and the background threads' low
//! priority binds SQLite, but not a database server on the same machine. So two waits, one at a time:
//!
//! - Batches of many requests that are not full are given [`GATHER`] to fill.
//! - While those who answer tenants have their hands full, batches that come one after the other are spaced
//!   by [`GIVE_WAY`]: what is accepted is safe in the journal, and is stored when there is less to do, or
//!   after [`WAIT_MAX`] at the full rate all the same.
//!
//! What counts is requests, not events: behind one large request of somebody's the next one's events
//! wait for nothing.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::runtime::{Clock, CpuLoad};

/// Requests in a batch from which on the next one is worth waiting for.
const FAST_FROM: usize = 32;
/// Batches in a row that were full, or of so many requests, from which on they are a flood.
const FLOOD_FROM: u32 = 4;
/// How long a batch is given to fill. Below some 6,000 requests a second batches are smaller than
/// [`FAST_FROM`], and none waits.
const GATHER: Duration = Duration::from_millis(5);
/// The share of the answering threads' time from which on they are said to have their hands full. No
/// more than that: beside a busy database server on two cores they do not get a larger one.
const BUSY_FROM: f64 = 0.25;
/// The space between batches then: with the default of 500 events a batch, 25,000 events a second are
/// stored all the same.
const GIVE_WAY: Duration = Duration::from_millis(20);
/// The age of an event from which on storing it gives way no longer.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Decides how long to wait from one batch to the next.
#[derive(Debug)]
pub(super) struct BatchPacer {
    answering: CpuLoad,
    clock: Clock,
    last: Last,
    /// Batches in a row after which another was expected.
    in_a_row: u32,
}

/// The batch that was read last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    /// Requests in it.
    pub(super) requests: usize,
    /// Whether a limit ended it.
    pub(super) was_full: bool,
    /// When the first of them was accepted.
    pub(super) accepted_at: Timestamp,
}

impl BatchPacer {
    /// A pace that gives way to what `answering` does.
    pub(super) fn new(answering: CpuLoad, clock: Clock) -> Self {
        let last = Last { requests: 0, was_full: false, accepted_at: clock.now() };
        Self { answering, clock, last, in_a_row: 0 }
    }

    /// Notes the batch that was read.
    pub(super) fn has_read(&mut self, last: Last) {
        self.in_a_row = if last.is_fast() { self.in_a_row.saturating_add(1) } else { 0 };
        self.last = last;
    }

    /// How long to wait before the next one is read.
    pub(super) fn wait(&mut self) -> Duration {
        let age = self.clock.now().since(self.last.accepted_at);
        wait(self.last, self.in_a_row, age, self.answering.share())
    }
}

impl Last {
    const fn is_fast(self) -> bool {
        self.was_full || self.requests >= FAST_FROM
    }
}

fn wait(last: Last, in_a_row: u32, age: Duration, busy: f64) -> Duration {
    if in_a_row >= FLOOD_FROM && busy >= BUSY_FROM && age < WAIT_MAX {
        return GIVE_WAY;
    }
    if last.is_fast() && !last.was_full { GATHER } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_secs(1);

    fn last(requests: usize, was_full: bool) -> Last {
        Last { requests, was_full, accepted_at: Timestamp::from_micros(0) }
    }

    #[test]
    fn few_requests_wait_for_nothing() {
        assert_eq!(wait(last(0, false), 0, Duration::ZERO, 1.0), Duration::ZERO);
        assert_eq!(wait(last(FAST_FROM - 1, false), 0, YOUNG, 1.0), Duration::ZERO);
    }

    #[test]
    fn batches_of_many_requests_are_given_time_to_fill() {
        assert_eq!(wait(last(FAST_FROM, false), 1, YOUNG, 0.0), GATHER);
    }

    #[test]
    fn backlog_is_stored_at_once_while_nobody_is_answered() {
        assert_eq!(wait(last(500, true), FLOOD_FROM, YOUNG, 0.0), Duration::ZERO);
    }

    #[test]
    fn flood_gives_way_to_answering() {
        assert_eq!(wait(last(500, true), FLOOD_FROM, YOUNG, BUSY_FROM), GIVE_WAY);
        assert_eq!(wait(last(FAST_FROM, false), FLOOD_FROM, YOUNG, BUSY_FROM), GIVE_WAY);
    }

    #[test]
    fn what_comes_behind_a_large_request_does_not() {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut pace = BatchPacer::new(CpuLoad::of(runtime.handle().clone()), clock);
        for _ in 0..2 * FLOOD_FROM {
            pace.has_read(last(1, true));
            pace.has_read(last(3, false));
            assert_eq!((pace.in_a_row, pace.wait()), (0, Duration::ZERO));
        }
        assert_eq!(wait(last(1, true), 1, YOUNG, 1.0), Duration::ZERO);
    }

    #[test]
    fn flood_gives_way_for_so_long_only() {
        assert_eq!(wait(last(500, true), FLOOD_FROM, WAIT_MAX, 1.0), Duration::ZERO);
        assert_eq!(wait(last(FAST_FROM, false), FLOOD_FROM, WAIT_MAX, 1.0), GATHER);
    }
}
