//! The recorder's batch: the outcomes that it has at hand, and those that it holds.

use std::collections::HashSet;
use std::time::Duration;

use crate::domain::{Decision, DeliveryId, EndpointId, LeasedDelivery, Outcome};
use crate::runtime::{Clock, Stopwatch};

use super::outcome_report::OutcomeReport;

/// Maximum outcomes per call.
pub(super) const BATCH_OUTCOMES_MAX: usize = 512;
/// The wait after the first failed call; it doubles from then on.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between calls.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// What is being recorded. Kept here, so that a cancelled call continues with it when it is repeated.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) received: Vec<OutcomeReport>,
    pub(super) released: Vec<LeasedDelivery>,
    pub(super) outcomes: Vec<Outcome>,
    /// Outcomes that the store did not take, and has recorded no other since.
    pub(super) held: Vec<Outcome>,
    /// How often those were tried in vain.
    pub(super) held_tries: u32,
    /// Since the last such try.
    pub(super) held_since: Option<Stopwatch>,
    /// Those of the held ones that others of their kind were recorded after: they are at fault alone.
    pub(super) at_fault: HashSet<DeliveryId>,
    /// The endpoints of ordered deliveries in it.
    pub(super) ordered: Vec<EndpointId>,
}

/// What became of the outcomes at hand that are not recorded.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    /// Those that are tried again.
    pub(super) held: Vec<Outcome>,
    /// Those that are set aside.
    pub(super) aside: Vec<DeliveryId>,
    /// Those of the held ones that are at fault alone.
    pub(super) at_fault: HashSet<DeliveryId>,
}

/// Outcomes that are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tried {
    /// For the first time.
    New,
    /// Again, after the store did not take them.
    Held,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.received.is_empty() && self.released.is_empty() && self.outcomes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.received.len() + self.released.len() + self.held.len()
    }

    /// How long held outcomes still wait before they are tried again.
    pub(super) fn retry_wait(&self) -> Duration {
        let wait = BACKOFF_FIRST.saturating_mul(1 << self.held_tries.min(6)).min(BACKOFF_MAX);
        let waited = self.held_since.map_or(Duration::MAX, Stopwatch::elapsed);
        wait.saturating_sub(waited)
    }

    /// Whether held outcomes are tried now: their time has come, or nothing else is at hand.
    pub(super) fn tries_held(&self) -> bool {
        self.outcomes.is_empty() || self.retry_wait().is_zero()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.len() >= BATCH_OUTCOMES_MAX || self.received.iter().any(|report| report.ordered)
    }

    /// Moves what was received to what is recorded.
    pub(super) fn prepare(&mut self, clock: &Clock) {
        for report in self.received.drain(..) {
            if report.ordered {
                self.ordered.push(report.outcome.endpoint_id);
            }
            self.outcomes.push(report.outcome);
        }
        self.outcomes.extend(self.released.drain(..).map(|delivery| released(&delivery, clock)));
    }
}

/// The outcome of a delivery that was not attempted: it is due again at once, for any server.
fn released(delivery: &LeasedDelivery, clock: &Clock) -> Outcome {
    let now = clock.now();
    delivery.outcome(None, Decision::RetryAt(clock.schedule()), now, now)
}
