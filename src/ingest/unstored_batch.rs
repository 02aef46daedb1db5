//! A batch of records that was read together, until the last of its events is stored.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::org_order::BatchPlace;
use crate::domain::{Event, OrgId, Timestamp};
use crate::journal::Ack;

/// What is not stored of a batch. It is acknowledged once everything is.
pub(super) struct UnstoredBatch {
    place: BatchPlace,
    accepted_at: Timestamp,
    unstored: Mutex<Unstored>,
}

struct Unstored {
    /// Events, by organisation.
    events: HashMap<OrgId, usize>,
    ack: Option<Ack>,
}

impl UnstoredBatch {
    /// A batch of these events, the first of which was accepted at `accepted_at`. One without events is acknowledged.
    pub(super) fn new(
        place: BatchPlace,
        ack: Ack,
        accepted_at: Timestamp,
        events: &[Arc<Event>],
    ) -> Self {
        Self::of(place, Some(ack), accepted_at, events)
    }

    /// A batch that nobody waits for.
    #[cfg(test)]
    pub(super) fn unacknowledged(place: BatchPlace, at: Timestamp, events: &[Arc<Event>]) -> Self {
        Self::of(place, None, at, events)
    }

    /// Whether all of its events are stored.
    #[cfg(test)]
    pub(super) fn is_stored(&self) -> bool {
        self.unstored.lock().unwrap().events.is_empty()
    }

    fn of(
        place: BatchPlace,
        ack: Option<Ack>,
        accepted_at: Timestamp,
        events: &[Arc<Event>],
    ) -> Self {
        let mut unstored = Unstored { events: HashMap::new(), ack };
        for event in events {
            *unstored.events.entry(event.org_id).or_default() += 1;
        }
        place.set_orgs(unstored.events.keys().copied());
        unstored.ack_if_stored();
        Self { place, accepted_at, unstored: Mutex::new(unstored) }
    }

    /// When its first record was accepted.
    pub(super) const fn accepted_at(&self) -> Timestamp {
        self.accepted_at
    }

    /// Whether it was read before another batch.
    pub(super) const fn is_before(&self, other: &Self) -> bool {
        self.place.is_before(&other.place)
    }

    /// Whether everything that earlier batches have of an organisation is stored.
    pub(super) fn is_first_of(&self, org: OrgId) -> bool {
        self.place.is_first_of(org)
    }

    /// Some of its events are stored.
    pub(super) fn stored(&self, events: &[Arc<Event>]) {
        let mut unstored = self.unstored.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            if let Some(left) = unstored.events.get_mut(&event.org_id) {
                *left = left.saturating_sub(1);
                if *left == 0 {
                    unstored.events.remove(&event.org_id);
                    self.place.stored(event.org_id);
                }
            }
        }
        unstored.ack_if_stored();
    }
}

impl Unstored {
    fn ack_if_stored(&mut self) {
        if self.events.is_empty()
            && let Some(ack) = self.ack.take()
        {
            ack.ack();
        }
    }
}
