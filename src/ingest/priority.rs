//! The two ways from a batch to the store and on to whoever delivers.
//!
//! An organisation with many events in a batch has a backlog, and one moment more matters little to it.
//! One with few waits for just these. They go first, in a short transaction and over a channel of their own:
//! once they are read, they wait behind no large batch of somebody else's. A large batch in which nobody has
//! many is everybody's backlog: there is nothing to overtake, and one transaction costs less than two.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::mpsc::PermitIterator;

use crate::domain::{Event, LeasedDelivery, OrgId};
use crate::store::{Persisted, SHORT_WEIGHT_MAX, weight};

/// What one organisation may have in a batch to have few events, in events with small payloads.
const FEW: usize = SHORT_WEIGHT_MAX / 2;
/// Deliveries leased with one batch at most; more wait in the store.
const LEASES_PER_BATCH_MAX: usize = 1_024;
/// One part in so many of all the room is what a batch may have, so that none waits for all of it.
const ROOM_SHARE: usize = 2;
/// One part in so many of the free room is for a batch whose events have more deliveries than expected.
const SPARE_ROOM_SHARE: usize = 8;
/// How long a batch waits for room in the hand-over: long enough for those before it, were each of the
/// workers on two cores to hand over one.
const ROOM_WAIT: Duration = Duration::from_millis(250);

/// A way.
#[derive(Debug)]
pub(super) struct PriorityPath {
    deliveries: mpsc::Sender<LeasedDelivery>,
    /// Deliveries planned for an event of the last batch.
    fan_out: AtomicUsize,
}

impl PriorityPath {
    pub(super) const fn new(deliveries: mpsc::Sender<LeasedDelivery>) -> Self {
        Self { deliveries, fan_out: AtomicUsize::new(1) }
    }

    /// Room for the deliveries of a batch, reserved before it is leased against, so that a leased delivery
    /// always fits: for as many as the last batch's events had, and part of what is free, should these have
    /// more. Waits for it up to [`ROOM_WAIT`]: the journal keeps events for less than the store keeps
    /// deliveries that nobody takes yet, and what takes longer is left to the store.
    pub(super) async fn room_for(
        &self,
        events: usize,
    ) -> Option<PermitIterator<'_, LeasedDelivery>> {
        let deliveries = &self.deliveries;
        let fan_out = self.fan_out.load(Ordering::Relaxed).max(1);
        let spare = deliveries.capacity() / SPARE_ROOM_SHARE;
        let wanted = events.saturating_mul(fan_out).max(spare);
        let most = deliveries.max_capacity().div_ceil(ROOM_SHARE);
        let wanted = wanted.min(LEASES_PER_BATCH_MAX).min(most);
        match tokio::time::timeout(ROOM_WAIT, deliveries.reserve_many(wanted)).await {
            Ok(permits) => permits.ok(),
            Err(_) => deliveries.try_reserve_many(deliveries.capacity().min(wanted)).ok(),
        }
    }

    /// Notes what became of a batch.
    pub(super) fn learn(&self, persisted: &Persisted) {
        if persisted.stored > 0 {
            self.fan_out.store(persisted.planned.div_ceil(persisted.stored), Ordering::Relaxed);
        }
    }
}

/// What goes by express, no more than is short, those with the fewest first; and the others. Each in the order
/// they came.
pub(super) fn split(events: Vec<Arc<Event>>) -> (Vec<Arc<Event>>, Vec<Arc<Event>>) {
    if weight(&events) <= FEW {
        return (events, Vec::new());
    }
    let mut weights: HashMap<OrgId, usize> = HashMap::new();
    for event in &events {
        *weights.entry(event.org_id).or_default() += weight([event]);
    }
    if weights.values().all(|weight| *weight <= FEW) {
        return (Vec::new(), events);
    }
    let mut few: Vec<(usize, OrgId)> =
        weights.into_iter().map(|(org, weight)| (weight, org)).filter(|few| few.0 <= FEW).collect();
    few.sort_unstable();
    let mut total = 0;
    let fits = |(weight, _): &(usize, OrgId)| {
        total += weight;
        total <= SHORT_WEIGHT_MAX
    };
    let express: HashSet<OrgId> = few.into_iter().take_while(fits).map(|(_, org)| org).collect();
    events.into_iter().partition(|event| express.contains(&event.org_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EventId, Timestamp, TraceId};

    fn event(org_id: OrgId) -> Arc<Event> {
        let at = Timestamp::from_micros(0);
        Arc::new(Event {
            id: EventId::mint(at),
            org_id,
            event_type: "a.b".parse().unwrap(),
            payload: bytes::Bytes::from_static(b"1"),
            dedup_id: None,
            account_id: None,
            user_id: None,
            occurred_at: None,
            received_at: at,
            trace_id: TraceId::mint(),
        })
    }

    #[test]
    fn organisations_with_few_events_are_told_from_those_with_many() {
        let at = Timestamp::from_micros(0);
        let (few, many) = (OrgId::mint(at), OrgId::mint(at));
        let events: Vec<_> =
            (0..=2 * FEW).map(|index| event(if index % 2 == 0 { many } else { few })).collect();
        let (express, bulk) = split(events.clone());
        assert!(express.iter().all(|event| event.org_id == few));
        assert!(bulk.iter().all(|event| event.org_id == many));
        assert_eq!((express.len(), bulk.len()), (FEW, FEW + 1));
        let in_order = bulk.iter().eq(events.iter().filter(|event| event.org_id == many));
        assert!(in_order, "each in the order they came");
    }

    #[test]
    fn small_batch_is_of_organisations_with_few() {
        let org = OrgId::mint(Timestamp::from_micros(0));
        let (express, bulk) = split((0..FEW).map(|_| event(org)).collect());
        assert_eq!((express.len(), bulk.len()), (FEW, 0));
        assert!(split(Vec::new()).0.is_empty());
    }

    #[test]
    fn large_batch_in_which_nobody_has_many_is_everybodys() {
        let orgs = [(); 2].map(|()| OrgId::mint(Timestamp::from_micros(0)));
        let events = orgs.iter().flat_map(|org| (0..FEW).map(|_| event(*org))).collect();
        let (express, bulk) = split(events);
        assert_eq!((express.len(), bulk.len()), (0, 2 * FEW));
    }

    #[test]
    fn express_is_short_and_for_those_with_the_fewest() {
        let orgs = [(); 5].map(|()| OrgId::mint(Timestamp::from_micros(0)));
        let counts = [FEW, FEW - 1, 1, FEW, FEW + 1];
        let events = orgs.iter().zip(counts).flat_map(|(org, n)| (0..n).map(|_| event(*org)));
        let (express, bulk) = split(events.collect());
        assert_eq!((express.len(), bulk.len()), (2 * FEW, 2 * FEW + 1));
        assert!(orgs[1..3].iter().all(|org| bulk.iter().all(|event| event.org_id != *org)));
    }

    #[test]
    fn large_payloads_are_not_few() {
        let org = OrgId::mint(Timestamp::from_micros(0));
        let mut large = Arc::unwrap_or_clone(event(org));
        large.payload = vec![b'1'; 256 * 1024].into();
        let (express, bulk) =
            split(vec![Arc::new(large), event(OrgId::mint(Timestamp::from_micros(1)))]);
        assert_eq!((express.len(), bulk.len()), (1, 1));
    }
}
