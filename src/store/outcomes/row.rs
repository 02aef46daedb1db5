//! Turns outcomes into the columns that they change, the same for both engines.

use std::collections::HashSet;

use uuid::Uuid;

use crate::domain::{Attempt, Decision, DeliveryStatus, Outcome, Timestamp};

/// An outcome as columns.
pub(super) struct OutcomeRow<'a> {
    pub(super) delivery_id: Uuid,
    pub(super) event_received_at: Timestamp,
    pub(super) token: Uuid,
    pub(super) status: &'static str,
    /// When the next attempt may start; `None` when there is none.
    pub(super) retry_at: Option<Timestamp>,
    pub(super) decided_at: Timestamp,
    dead_reason: Option<&'static str>,
    attempt: Option<&'a Attempt>,
}

/// The rows in key order. Of several outcomes of one delivery the first counts.
pub(super) fn rows(outcomes: &[Outcome]) -> Vec<OutcomeRow<'_>> {
    let mut seen = HashSet::with_capacity(outcomes.len());
    let mut rows: Vec<OutcomeRow<'_>> = outcomes
        .iter()
        .filter(|outcome| seen.insert(outcome.delivery_id))
        .map(OutcomeRow::new)
        .collect();
    rows.sort_unstable_by_key(|row| row.delivery_id);
    rows
}

impl<'a> OutcomeRow<'a> {
    fn new(outcome: &'a Outcome) -> Self {
        let (status, retry_at, dead_reason) = match &outcome.decision {
            Decision::Delivered => (DeliveryStatus::Delivered, None, None),
            Decision::RetryAt(at) => (DeliveryStatus::Pending, Some(*at), None),
            Decision::Dead(reason) => (DeliveryStatus::Dead, None, Some(reason.as_str())),
        };
        Self {
            delivery_id: outcome.delivery_id.uuid(),
            event_received_at: outcome.event_received_at,
            token: outcome.token.uuid(),
            status: status.as_str(),
            retry_at,
            decided_at: outcome.decided_at,
            dead_reason,
            attempt: outcome.attempt.as_ref(),
        }
    }

    /// The attempt to record, with the row that it belongs to.
    pub(super) fn attempt(&self) -> Option<(&Self, &'a Attempt)> {
        self.attempt.map(|attempt| (self, attempt))
    }

    /// Why the delivery is given up, with the row that it belongs to.
    pub(super) fn dead_letter(&self) -> Option<(&Self, &'static str)> {
        self.dead_reason.map(|reason| (self, reason))
    }

    /// Attempts to add to the count: none when the delivery was released unattempted.
    pub(super) fn attempts_made(&self) -> i64 {
        i64::from(self.attempt.is_some())
    }

    /// When the status became final, if it did.
    pub(super) fn finished_at(&self) -> Option<Timestamp> {
        self.retry_at.is_none().then_some(self.decided_at)
    }

    /// The last error in words, for the dead letter.
    pub(super) fn detail(&self) -> Option<&'a str> {
        self.attempt.and_then(|attempt| attempt.error.as_deref())
    }
}
