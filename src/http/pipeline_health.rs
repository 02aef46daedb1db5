//! Pipeline health: whether events get through, not only whether the process is up.
//!
//! Three stages must make progress: accepted events become deliveries, due deliveries are attempted, and outcomes
//! are recorded.
//! Waiting work is no fault while anything makes progress, so a backlog, a receiver that is down or an
//! open circuit breaker, whose due deliveries wait, do not make the server unhealthy. A stage is
//! stalled when work waits and nothing at all makes progress.

use std::time::Duration;

use crate::api::views::StageHealth;

/// How long events have waited at each stage, and how long ago each stage made progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct PipelineHealth {
    /// Age of the oldest accepted event that has no deliveries yet; `None` when none waits.
    pub(super) oldest_unplanned: Option<Duration>,
    /// Time since events last became deliveries.
    pub(super) planning: Duration,
    /// Age of the oldest due delivery that no server has leased.
    pub(super) oldest_due: OldestDue,
    /// Time since the store last answered a claim or recorded outcomes.
    pub(super) delivering: Duration,
    /// Time since the dispatcher last completed a loop.
    pub(super) dispatcher: Duration,
    /// How long the outcomes at hand have been waiting to be recorded; `None` when there are none.
    pub(super) recording: Option<Duration>,
}

/// Due deliveries that no server has leased.
#[derive(Clone, Copy, Debug)]
pub(super) enum OldestDue {
    /// There is none.
    None,
    /// Age of the oldest.
    Waits(Duration),
    /// The store does not answer.
    Unknown,
}

impl PipelineHealth {
    /// Whether accepted events become deliveries.
    pub(super) fn planning(&self, stall_after: Duration) -> StageHealth {
        let waits = self.oldest_unplanned.is_some_and(|age| age > stall_after);
        if waits && self.planning > stall_after {
            StageHealth::IngestStalled
        } else {
            StageHealth::Ok
        }
    }

    /// Whether due deliveries are attempted.
    pub(super) fn delivery(&self, stall_after: Duration) -> StageHealth {
        let waits = match self.oldest_due {
            OldestDue::None => false,
            OldestDue::Waits(age) => age > stall_after,
            // Claims then fail for the same reason.
            OldestDue::Unknown => true,
        };
        if self.dispatcher > stall_after {
            StageHealth::DispatcherStalled
        } else if waits && self.delivering > stall_after {
            StageHealth::DeliveryStalled
        } else {
            StageHealth::Ok
        }
    }
}

impl PipelineHealth {
    /// Whether outcomes are recorded.
    pub(super) fn recorder(&self, stall_after: Duration) -> StageHealth {
        if self.recording.is_some_and(|age| age > stall_after) {
            StageHealth::RecorderStalled
        } else {
            StageHealth::Ok
        }
    }
}

impl OldestDue {
    /// The age of the oldest, if known.
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
    const FINE: PipelineHealth = PipelineHealth {
        oldest_unplanned: None,
        planning: Duration::ZERO,
        oldest_due: OldestDue::None,
        delivering: Duration::ZERO,
        dispatcher: Duration::ZERO,
        recording: None,
    };

    #[test]
    fn idle_process_is_healthy() {
        let idle = PipelineHealth { planning: LONG, ..FINE };
        assert_eq!(
            (idle.planning(STALL), idle.delivery(STALL)),
            (StageHealth::Ok, StageHealth::Ok)
        );
    }

    #[test]
    fn backlog_is_healthy_while_something_makes_progress() {
        let behind = PipelineHealth {
            oldest_unplanned: Some(LONG),
            oldest_due: OldestDue::Waits(LONG),
            planning: STALL,
            delivering: STALL,
            ..FINE
        };
        assert_eq!(
            (behind.planning(STALL), behind.delivery(STALL)),
            (StageHealth::Ok, StageHealth::Ok)
        );
    }

    #[test]
    fn waiting_work_without_progress_is_stalled() {
        let stuck = PipelineHealth { oldest_unplanned: Some(LONG), planning: LONG, ..FINE };
        assert_eq!(stuck.planning(STALL), StageHealth::IngestStalled);
        for oldest_due in [OldestDue::Waits(LONG), OldestDue::Unknown] {
            let stuck = PipelineHealth { oldest_due, delivering: LONG, ..FINE };
            assert_eq!(stuck.delivery(STALL), StageHealth::DeliveryStalled, "{oldest_due:?}");
        }
        let fresh = OldestDue::Waits(Duration::from_secs(1));
        let fresh = PipelineHealth { oldest_due: fresh, delivering: LONG, ..FINE };
        assert_eq!(fresh.delivery(STALL), StageHealth::Ok);
    }

    #[test]
    fn outcomes_that_the_store_does_not_take_stall_the_recorder() {
        let busy = PipelineHealth { recording: Some(STALL), ..FINE };
        assert_eq!(busy.recorder(STALL), StageHealth::Ok);
        let stuck = PipelineHealth { recording: Some(LONG), ..FINE };
        assert_eq!(stuck.recorder(STALL), StageHealth::RecorderStalled);
    }

    #[test]
    fn dispatcher_without_heartbeat_is_stalled_even_when_nothing_is_due() {
        let dead = PipelineHealth { dispatcher: LONG, ..FINE };
        assert_eq!(dead.delivery(STALL), StageHealth::DispatcherStalled);
    }
}
