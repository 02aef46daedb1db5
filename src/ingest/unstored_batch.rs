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
    /// Events, by organisation, as far as the batch is decoded.
    events: HashMap<OrgId, usize>,
    /// Parts that are not decoded.
    undecoded: usize,
    ack: Option<Ack>,
}

impl UnstoredBatch {
    /// A batch of so many parts that are decoded each by itself, the first record of which was accepted at `accepted_at`.
    pub(super) fn new(place: BatchPlace, ack: Ack, accepted_at: Timestamp, parts: usize) -> Self {
        Self::of(place, Some(ack), accepted_at, parts)
    }

    /// A batch that nobody waits for.
    #[cfg(test)]
    pub(super) fn unacknowledged(place: BatchPlace, at: Timestamp, parts: usize) -> Self {
        Self::of(place, None, at, parts)
    }

    /// Whether all of its events are stored.
    #[cfg(test)]
    pub(super) fn is_stored(&self) -> bool {
        self.unstored.lock().unwrap().is_stored()
    }

    fn of(place: BatchPlace, ack: Option<Ack>, accepted_at: Timestamp, parts: usize) -> Self {
        let unstored = Unstored { events: HashMap::new(), undecoded: parts, ack };
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

    /// It is decoded in so many more parts.
    pub(super) fn parted(&self, parts_more: usize) {
        let mut unstored = self.unstored.lock().unwrap_or_else(PoisonError::into_inner);
        unstored.undecoded += parts_more;
    }

    /// A part is decoded: it has these events, and they are all that the batch has of these organisations.
    pub(super) fn decoded(&self, orgs: impl Iterator<Item = OrgId>, events: &[Arc<Event>]) {
        let mut unstored = self.unstored.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            *unstored.events.entry(event.org_id).or_default() += 1;
        }
        unstored.undecoded = unstored.undecoded.saturating_sub(1);
        for org in orgs.filter(|org| !unstored.events.contains_key(org)) {
            self.place.stored(org);
        }
        unstored.ack_if_stored();
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
    fn is_stored(&self) -> bool {
        self.undecoded == 0 && self.events.is_empty()
    }

    fn ack_if_stored(&mut self) {
        if self.events.is_empty() {
            // What is deferred of it may wait for long, and a map that was large keeps its size.
            self.events = HashMap::new();
        }
        if self.is_stored()
            && let Some(ack) = self.ack.take()
        {
            ack.ack();
        }
    }
}
