//! Priority paths: splits a batch into a fast path, for organisations with few events in it, and a bulk path. Few
//! means that they are stored in a short time: an event with a large payload, or with many deliveries, is many.
//!
//! For an organisation with many events in a batch, which has a backlog, a short delay matters little. One with few
//! events waits for exactly these. They go first, in a short transaction, so once they are read they wait behind no
//! large batch of another organisation. In a large batch in which no organisation has
//! many events there is nothing to overtake: all of it takes the bulk path, since one transaction costs less than two.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::domain::{Event, OrgId};
use crate::store::{SHORT_WEIGHT_MAX, weight};

/// The largest weight of one organisation's events in a batch that counts as few.
const FEW: usize = SHORT_WEIGHT_MAX / 2;

/// Splits a batch into the events of the fast path and those of the bulk path, each in their order. The fast path gets
/// the organisations with the fewest events, as many as one short transaction holds. `deliveries` tells how many an
/// event has.
pub(super) fn split(
    events: Vec<Arc<Event>>,
    deliveries: impl Fn(&Event) -> usize,
) -> (Vec<Arc<Event>>, Vec<Arc<Event>>) {
    let mut weights: HashMap<OrgId, usize> = HashMap::new();
    for event in &events {
        *weights.entry(event.org_id).or_default() += weight(event, deliveries(event));
    }
    if weights.values().sum::<usize>() <= FEW {
        return (events, Vec::new());
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
    let fast: HashSet<OrgId> = few.into_iter().take_while(fits).map(|(_, org)| org).collect();
    events.into_iter().partition(|event| fast.contains(&event.org_id))
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
            accept_span: None,
        })
    }

    fn one(_: &Event) -> usize {
        1
    }

    #[test]
    fn organisations_with_few_events_take_the_fast_path() {
        let at = Timestamp::from_micros(0);
        let (few, many) = (OrgId::mint(at), OrgId::mint(at));
        let events: Vec<_> =
            (0..=2 * FEW).map(|index| event(if index % 2 == 0 { many } else { few })).collect();
        let (fast, bulk) = split(events.clone(), one);
        assert!(fast.iter().all(|event| event.org_id == few));
        assert!(bulk.iter().all(|event| event.org_id == many));
        assert_eq!((fast.len(), bulk.len()), (FEW, FEW + 1));
        let in_order = bulk.iter().eq(events.iter().filter(|event| event.org_id == many));
        assert!(in_order, "events keep their order");
    }

    #[test]
    fn small_batch_takes_the_fast_path() {
        let org = OrgId::mint(Timestamp::from_micros(0));
        let (fast, bulk) = split((0..FEW).map(|_| event(org)).collect(), one);
        assert_eq!((fast.len(), bulk.len()), (FEW, 0));
        assert!(split(Vec::new(), one).0.is_empty());
    }

    #[test]
    fn large_batch_in_which_no_organisation_has_many_takes_the_bulk_path() {
        let orgs = [(); 2].map(|()| OrgId::mint(Timestamp::from_micros(0)));
        let events = orgs.iter().flat_map(|org| (0..FEW).map(|_| event(*org))).collect();
        let (fast, bulk) = split(events, one);
        assert_eq!((fast.len(), bulk.len()), (0, 2 * FEW));
    }

    #[test]
    fn fast_path_is_short_and_for_the_organisations_with_the_fewest_events() {
        let orgs = [(); 5].map(|()| OrgId::mint(Timestamp::from_micros(0)));
        let counts = [FEW, FEW - 1, 1, FEW, FEW + 1];
        let events = orgs.iter().zip(counts).flat_map(|(org, n)| (0..n).map(|_| event(*org)));
        let (fast, bulk) = split(events.collect(), one);
        assert_eq!((fast.len(), bulk.len()), (2 * FEW, 2 * FEW + 1));
        assert!(orgs[1..3].iter().all(|org| bulk.iter().all(|event| event.org_id != *org)));
    }

    #[test]
    fn large_payloads_take_the_bulk_path() {
        let org = OrgId::mint(Timestamp::from_micros(0));
        let mut large = Arc::unwrap_or_clone(event(org));
        large.payload = vec![b'1'; 256 * 1024].into();
        let (fast, bulk) =
            split(vec![Arc::new(large), event(OrgId::mint(Timestamp::from_micros(1)))], one);
        assert_eq!((fast.len(), bulk.len()), (1, 1));
    }

    #[test]
    fn event_with_many_deliveries_takes_the_bulk_path() {
        let at = Timestamp::from_micros(0);
        let (few, many) = (OrgId::mint(at), OrgId::mint(at));
        let deliveries = |event: &Event| if event.org_id == many { FEW + 1 } else { FEW };
        let (fast, bulk) = split(vec![event(many), event(few)], deliveries);
        assert_eq!((fast[0].org_id, bulk[0].org_id), (few, many));
    }
}
