//! The recorder's backlog: outcomes of attempts that the store does not have yet.
//!
//! It stops claims. The leases of such outcomes may lapse while the store is away, and a claim would then send again
//! what this server knows to be delivered. Pure, and shared with the simulation.

/// Counts outcomes, and tells whether claims have to wait for them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RecorderBacklog {
    /// Outcomes of attempts that ended, those that wait for room in the recorder's queue included.
    reported: u64,
    /// Of these, those that are recorded or given up, in the order in which they were reported.
    done: u64,
    recording: RecordingState,
    /// Whether the recorder holds more outcomes that the store does not take than may be one damaged row.
    holds_many: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum RecordingState {
    /// The store records outcomes as they come.
    #[default]
    Working,
    /// The last call failed.
    Failing,
    /// The store records again; so many outcomes are to be done until none is left from before.
    CatchingUp { until: u64 },
}

impl RecorderBacklog {
    /// An attempt has ended: its outcome is to be recorded.
    pub(super) fn report(&mut self) {
        self.reported += 1;
    }

    /// The store could not record outcomes.
    pub(super) fn failed(&mut self) {
        self.recording = RecordingState::Failing;
    }

    /// The store has recorded outcomes. Those that were reported by now may have waited for longer than their leases.
    pub(super) fn succeeded(&mut self) {
        if self.recording == RecordingState::Failing {
            self.recording = RecordingState::CatchingUp { until: self.reported };
        }
    }

    /// The oldest `count` outcomes are recorded, held or given up. `true` when claims need not wait any longer.
    pub(super) fn done(&mut self, count: usize, holds_many: bool) -> bool {
        let stopped = self.stops_claims();
        self.done = self.done.saturating_add(count as u64);
        self.holds_many = holds_many;
        let is_over = match self.recording {
            RecordingState::Working => false,
            // Every one was given up, so there may be no further call that succeeds.
            RecordingState::Failing => self.done >= self.reported,
            RecordingState::CatchingUp { until } => self.done >= until,
        };
        if is_over {
            self.recording = RecordingState::Working;
        }
        stopped && !self.stops_claims()
    }

    /// Whether there may be outcomes whose leases have lapsed meanwhile: nothing is to be claimed.
    pub(super) fn stops_claims(&self) -> bool {
        self.holds_many || self.recording != RecordingState::Working
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(reported: usize) -> RecorderBacklog {
        let mut backlog = RecorderBacklog::default();
        (0..reported).for_each(|_| backlog.report());
        backlog
    }

    #[test]
    fn claims_wait_until_all_that_an_outage_held_up_is_recorded() {
        let mut backlog = backlog(1_500);
        assert!(!backlog.stops_claims());
        backlog.failed();
        assert!(backlog.stops_claims());
        for batch in [512, 512] {
            backlog.succeeded();
            assert!(!backlog.done(batch, false) && backlog.stops_claims());
            // What is reported from now on has not waited for the outage.
            backlog.report();
        }
        backlog.succeeded();
        assert!(backlog.done(476, false) && !backlog.stops_claims());
    }

    #[test]
    fn second_failure_holds_up_what_was_reported_meanwhile() {
        let mut backlog = backlog(20);
        backlog.failed();
        backlog.succeeded();
        assert!(!backlog.done(10, false));
        (0..10).for_each(|_| backlog.report());
        backlog.failed();
        backlog.succeeded();
        assert!(!backlog.done(10, false));
        assert!(backlog.done(10, false));
    }

    #[test]
    fn claims_resume_when_the_last_outcome_is_given_up() {
        let mut backlog = backlog(2);
        backlog.failed();
        assert!(!backlog.done(1, false));
        assert!(backlog.done(1, false) && !backlog.stops_claims());
        assert!(!backlog.done(0, false), "it is told once");
    }

    /// So whoever only tries again what is held must not report a failure: under load there is always such an outcome.
    #[test]
    fn outcome_that_is_reported_while_the_store_fails_holds_up_claims() {
        let mut backlog = backlog(1);
        backlog.failed();
        backlog.report();
        assert!(!backlog.done(1, false) && backlog.stops_claims());
        backlog.succeeded();
        assert!(backlog.done(1, false) && !backlog.stops_claims());
    }

    #[test]
    fn claims_wait_while_many_outcomes_are_held() {
        let mut backlog = backlog(20);
        backlog.failed();
        assert!(!backlog.done(20, true) && backlog.stops_claims());
        backlog.failed();
        backlog.succeeded();
        assert!(backlog.done(0, false) && !backlog.stops_claims());
    }
}
