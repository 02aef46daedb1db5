//! Whether events get through: not only whether the process is up.
//!
//! Two things must go on: accepted events become deliveries, and due deliveries are attempted. Work
//! that waits is no fault as long as something gets on, so a backlog, a receiver that is down and a
//! breaker that is open, whose deliveries are due and left alone, turn nothing red. What does is work
//! that waits while nothing at all gets on.

use std::time::Duration;

use serde::Serialize;

/// What is known of the way of events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Readings {
    /// How long the oldest event waits to become deliveries; `None` when none waits.
    pub(super) oldest_unplanned: Option<Duration>,
    /// Since an event last did.
    pub(super) planning: Duration,
    /// How long the oldest due delivery waits that nobody holds.
    pub(super) oldest_due: OldestDue,
    /// Since a claim or outcomes were last answered by the store.
    pub(super) delivering: Duration,
    /// Since the dispatcher last went through its loop.
    pub(super) dispatcher: Duration,
}

/// What the store says of due deliveries.
#[derive(Clone, Copy, Debug)]
pub(super) enum OldestDue {
    /// None is due that nobody holds.
    None,
    /// The oldest waits for so long.
    Waits(Duration),
    /// The store does not say.
    Unknown,
}

/// Whether one part of the way goes on, in the words of the probes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub(super) enum Flow {
    /// It does, or nothing waits.
    #[serde(rename = "ok")]
    Ok,
    /// Accepted events wait, and none becomes deliveries.
    #[serde(rename = "nothing is planned")]
    NothingPlanned,
    /// Deliveries are due, and none is claimed or recorded.
    #[serde(rename = "nothing is delivered")]
    NothingDelivered,
    /// The dispatcher gives no sign of life.
    #[serde(rename = "dispatcher stalled")]
    DispatcherStalled,
}

impl Readings {
    /// Whether accepted events become deliveries.
    pub(super) fn planning(&self, stall_after: Duration) -> Flow {
        let waits = self.oldest_unplanned.is_some_and(|age| age > stall_after);
        if waits && self.planning > stall_after { Flow::NothingPlanned } else { Flow::Ok }
    }

    /// Whether due deliveries are attempted.
    pub(super) fn delivery(&self, stall_after: Duration) -> Flow {
        let waits = match self.oldest_due {
            OldestDue::None => false,
            OldestDue::Waits(age) => age > stall_after,
            // Then that claims fail, too, is no chance.
            OldestDue::Unknown => true,
        };
        if self.dispatcher > stall_after {
            Flow::DispatcherStalled
        } else if waits && self.delivering > stall_after {
            Flow::NothingDelivered
        } else {
            Flow::Ok
        }
    }
}

impl OldestDue {
    /// The age, where there is one.
    pub(super) const fn age(self) -> Option<Duration> {
        match self {
            Self::Waits(age) => Some(age),
            Self::None | Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_mins(1);
    const LONG: Duration = Duration::from_secs(61);
    const FINE: Readings = Readings {
        oldest_unplanned: None,
        planning: Duration::ZERO,
        oldest_due: OldestDue::None,
        delivering: Duration::ZERO,
        dispatcher: Duration::ZERO,
    };

    #[test]
    fn idle_process_is_fine_however_long_it_idles() {
        let idle = Readings { planning: LONG, ..FINE };
        assert_eq!((idle.planning(STALL), idle.delivery(STALL)), (Flow::Ok, Flow::Ok));
    }

    #[test]
    fn backlog_is_fine_while_something_gets_on() {
        let behind = Readings {
            oldest_unplanned: Some(LONG),
            oldest_due: OldestDue::Waits(LONG),
            planning: STALL,
            delivering: STALL,
            ..FINE
        };
        assert_eq!((behind.planning(STALL), behind.delivery(STALL)), (Flow::Ok, Flow::Ok));
    }

    #[test]
    fn work_that_waits_while_nothing_gets_on_is_told() {
        let stuck = Readings { oldest_unplanned: Some(LONG), planning: LONG, ..FINE };
        assert_eq!(stuck.planning(STALL), Flow::NothingPlanned);
        for oldest_due in [OldestDue::Waits(LONG), OldestDue::Unknown] {
            let stuck = Readings { oldest_due, delivering: LONG, ..FINE };
            assert_eq!(stuck.delivery(STALL), Flow::NothingDelivered, "{oldest_due:?}");
        }
        let fresh = OldestDue::Waits(Duration::from_secs(1));
        let fresh = Readings { oldest_due: fresh, delivering: LONG, ..FINE };
        assert_eq!(fresh.delivery(STALL), Flow::Ok);
    }

    #[test]
    fn dispatcher_without_a_sign_of_life_is_told_even_when_nothing_is_due() {
        let dead = Readings { dispatcher: LONG, ..FINE };
        assert_eq!(dead.delivery(STALL), Flow::DispatcherStalled);
    }
}
