//! Turns outcomes into the columns that they change, the same for both engines.

use std::collections::HashSet;

use uuid::Uuid;

use crate::domain::{Attempt, DeadReason, Decision, DeliveryStatus, Outcome, Timestamp};

/// Why a delivery is given up that nobody attempted to send: one to an inbox.
const UNSETTLED: &str = "received max_receives times and not acknowledged";

/// An outcome as columns.
pub(super) struct OutcomeRow<'a> {
    pub(super) org_id: Uuid,
    /// When the delivery was created; with the organisation and its id, the key of its row.
    pub(super) created_at: Timestamp,
    pub(super) delivery_id: Uuid,
    pub(super) token: Uuid,
    pub(super) status: &'static str,
    /// When the next attempt may start; `None` when there is none.
    pub(super) retry_at: Option<Timestamp>,
    pub(super) decided_at: Timestamp,
    pub(super) dead_reason: Option<&'static str>,
    pub(super) attempt: Option<&'a Attempt>,
    pub(super) outcome: &'a Outcome,
}

/// The rows in key order. Of several outcomes of one delivery under one lease the first counts.
pub(super) fn rows(outcomes: &[Outcome]) -> Vec<OutcomeRow<'_>> {
    let mut seen = HashSet::with_capacity(outcomes.len());
    let mut rows: Vec<OutcomeRow<'_>> = outcomes
        .iter()
        .filter(|outcome| seen.insert((outcome.delivery_id, outcome.token)))
        .map(OutcomeRow::new)
        .collect();
    rows.sort_unstable_by_key(|row| (row.org_id, row.created_at, row.delivery_id));
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
            org_id: outcome.org_id.uuid(),
            created_at: outcome.delivery_id.created_at(),
            delivery_id: outcome.delivery_id.uuid(),
            token: outcome.token.uuid(),
            status: status.as_str(),
            retry_at,
            decided_at: outcome.decided_at,
            dead_reason,
            attempt: outcome.attempt.as_ref(),
            outcome,
        }
    }

    /// The id of the delivery.
    pub(super) const fn id(&self) -> Uuid {
        self.delivery_id
    }

    /// Whether the delivery is finished by it.
    pub(super) fn is_final(&self) -> bool {
        self.retry_at.is_none()
    }

    /// The attempt to record apart from the delivery, which goes on, with the row that it belongs to.
    pub(super) fn earlier_attempt(&self) -> Option<(&Self, &'a Attempt)> {
        self.attempt.filter(|_| !self.is_final()).map(|attempt| (self, attempt))
    }

    /// Why the delivery is given up, with the row that it belongs to.
    pub(super) fn dead_letter(&self) -> Option<(&Self, &'static str)> {
        self.dead_reason.map(|reason| (self, reason))
    }

    /// Attempts to add to the count: none when the delivery was released unattempted.
    pub(super) fn attempts_made(&self) -> i64 {
        i64::from(self.attempt.is_some())
    }

    /// The last error in words, for the dead letter.
    pub(super) fn detail(&self) -> Option<&'a str> {
        match (self.attempt, self.dead_reason) {
            (Some(attempt), _) => attempt.error.as_deref(),
            (None, Some(reason)) if reason == DeadReason::Exhausted.as_str() => Some(UNSETTLED),
            (None, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{InstanceId, LeaseToken};

    #[test]
    fn outcomes_of_one_delivery_are_told_apart_by_their_leases() {
        let first = Outcome::delivered(Timestamp::from_micros(1));
        let token = LeaseToken::mint(InstanceId::new(1));
        let second = Outcome { token, ..first.clone() };
        let batch = [first.clone(), second, first];
        assert_eq!(rows(&batch).len(), 2);
    }
}
