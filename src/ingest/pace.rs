//! When the next batch is read.
//!
//! As soon as there is something, while little comes. Many small batches cost more than few large
//! ones, the most on PostgreSQL, where each is three round trips; and the background threads' low
//! priority binds SQLite, but not a database server on the same machine. So two waits, one at a time:
//!
//! - Batches that come fast and are not full are given [`GATHER`] to fill.
//! - While those who answer tenants have their hands full, batches are spaced by [`GIVE_WAY`]: what is
//!   accepted is safe in the journal, and is stored when there is less to do, or after [`WAIT_MAX`] at
//!   the full rate all the same.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::runtime::{Clock, Load};

/// Events of a batch from which on the next one is worth waiting for.
const FAST_FROM: u32 = 32;
/// How long a batch is given to fill. Below some 6,000 events a second batches are smaller than
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
pub(super) struct Pace {
    answering: Load,
    clock: Clock,
    pub(super) last: Last,
}

/// The batch that was read last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    /// Events in it.
    pub(super) items: u32,
    /// Whether a limit ended it.
    pub(super) was_full: bool,
    /// When the first of them was accepted.
    pub(super) accepted_at: Timestamp,
}

impl Pace {
    /// A pace that gives way to what `answering` does.
    pub(super) fn new(answering: Load, clock: Clock) -> Self {
        let last = Last { items: 0, was_full: false, accepted_at: clock.now() };
        Self { answering, clock, last }
    }

    /// How long to wait before the next one is read.
    pub(super) fn wait(&mut self) -> Duration {
        let age = self.clock.now().since(self.last.accepted_at);
        wait(self.last.items, self.last.was_full, age, self.answering.share())
    }
}

fn wait(items: u32, was_full: bool, age: Duration, busy: f64) -> Duration {
    if items < FAST_FROM {
        return Duration::ZERO;
    }
    if busy >= BUSY_FROM && age < WAIT_MAX {
        return GIVE_WAY;
    }
    if was_full { Duration::ZERO } else { GATHER }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_secs(1);

    #[test]
    fn a_few_events_wait_for_nothing() {
        assert_eq!(wait(0, false, Duration::ZERO, 1.0), Duration::ZERO);
        assert_eq!(wait(FAST_FROM - 1, false, YOUNG, 1.0), Duration::ZERO);
    }

    #[test]
    fn batches_that_come_fast_are_given_time_to_fill() {
        assert_eq!(wait(FAST_FROM, false, YOUNG, 0.0), GATHER);
    }

    #[test]
    fn a_backlog_is_stored_at_once_while_nobody_is_answered() {
        assert_eq!(wait(500, true, YOUNG, 0.0), Duration::ZERO);
    }

    #[test]
    fn storing_gives_way_to_answering() {
        assert_eq!(wait(500, true, YOUNG, BUSY_FROM), GIVE_WAY);
        assert_eq!(wait(FAST_FROM, false, YOUNG, BUSY_FROM), GIVE_WAY);
    }

    #[test]
    fn storing_gives_way_for_so_long_only() {
        assert_eq!(wait(500, true, WAIT_MAX, 1.0), Duration::ZERO);
        assert_eq!(wait(FAST_FROM, false, WAIT_MAX, 1.0), GATHER);
    }
}
