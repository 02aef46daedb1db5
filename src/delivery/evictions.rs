//! Evictions: leased deliveries that must not start although they have not reached the lanes yet.
//!
//! The dispatcher removes evicted deliveries from its lanes at once. Others are still on their way, in the
//! handoff queues or in a claim, when the eviction is requested. They are recognised when they arrive; once
//! nothing older can arrive, the request is forgotten.

use crate::domain::{DeliveryId, EndpointId};

use super::handle::EvictionSet;
use super::handoff::Priority;

/// The evictions that still apply to deliveries on their way into the lanes.
#[derive(Debug, Default)]
pub(super) struct Evictions {
    set: EvictionSet,
    /// Deliveries, per priority, that were in the handoff queue at the last request and are still in it.
    handoff_left: [usize; Priority::ALL.len()],
    /// Whether a claim was in flight at the last request and still is.
    claim_left: bool,
}

impl Evictions {
    /// Adds a request, made while the handoff queues hold this many deliveries.
    pub(super) fn add(
        &mut self,
        requested: EvictionSet,
        handoff_left: [usize; Priority::ALL.len()],
        claim_in_flight: bool,
    ) {
        self.set.extend(requested);
        self.handoff_left = handoff_left;
        self.claim_left = claim_in_flight;
        self.clear_if_over();
    }

    /// Whether a delivery that arrives must be released.
    pub(super) fn contains(&self, endpoint: EndpointId, delivery: DeliveryId) -> bool {
        self.set.contains(endpoint, delivery)
    }

    /// The first delivery has left the handoff queue of this priority.
    pub(super) fn left_handoff(&mut self, priority: Priority) {
        let left = &mut self.handoff_left[priority as usize];
        *left = left.saturating_sub(1);
    }

    /// The first delivery of the fast queue was moved to this position (from 1) of the bulk queue.
    pub(super) fn moved_to_bulk(&mut self, position: usize) {
        let [fast, bulk] = &mut self.handoff_left;
        if position <= *bulk {
            *bulk += 1;
        } else if *fast > 0 {
            *bulk = position;
        }
        *fast = fast.saturating_sub(1);
    }

    /// The claim that was in flight has been answered.
    pub(super) fn claim_answered(&mut self) {
        self.claim_left = false;
        self.clear_if_over();
    }

    /// Forgets the evictions once no older delivery can arrive.
    pub(super) fn clear_if_over(&mut self) {
        let is_over = self.handoff_left.iter().all(|left| *left == 0) && !self.claim_left;
        if is_over && !self.set.is_empty() {
            self.set = EvictionSet::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_moved_to_bulk_is_still_expected() {
        let with_left = |handoff_left| Evictions { handoff_left, ..Evictions::default() };
        for (before, position, after) in [
            // An old delivery moved among old ones, and behind them all.
            ([2, 5], 3, [1, 6]),
            ([1, 2], 4, [0, 4]),
            ([1, 0], 1, [0, 1]),
            // A new one, which moves old ones back or does not.
            ([0, 5], 3, [0, 6]),
            ([0, 2], 3, [0, 2]),
        ] {
            let mut evictions = with_left(before);
            evictions.moved_to_bulk(position);
            assert_eq!(evictions.handoff_left, after, "{before:?} {position}");
        }
    }
}
