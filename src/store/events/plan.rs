//! Fan-out: decides, without touching the store, which deliveries some events need and which events of a batch may
//! be stored together. Either engine then writes the result.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{
    DeliveryId, Endpoint, EndpointId, EndpointKind, Event, EventId, Lease, LeasedDelivery, OrgId,
    Timestamp,
};

use super::subscription::{Subscription, wants};
use super::{EventBatch, OrgEndpoints};
use crate::store::type_key::type_key;

/// A delivery to be stored if its event turns out to be new.
#[derive(Clone, Debug)]
pub struct PlannedDelivery {
    /// Its id, minted once; it has the time of the event's acceptance.
    pub id: DeliveryId,
    /// The event.
    pub event: Arc<Event>,
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Whether it is to be stored under the lease of the batch. The store leaves ordered deliveries and those to
    /// disabled endpoints unleased all the same.
    pub leased: bool,
}

/// Plans a delivery for every endpoint that wants an event, in the order of the events, none of them leased.
#[expect(clippy::implicit_hasher, reason = "the map of an EventBatch")]
pub fn plan_deliveries(
    events: &[Arc<Event>],
    endpoints: &HashMap<OrgId, Arc<OrgEndpoints>>,
) -> Vec<PlannedDelivery> {
    let mut planned = Vec::new();
    for event in events {
        let of_org = endpoints.get(&event.org_id);
        let event_type = event.event_type.as_str();
        for endpoint in of_org.iter().flat_map(|of_org| of_org.candidates(event_type)) {
            let Endpoint { event_types, account_id, cancel_before, .. } = &**endpoint;
            if wants(event_types, account_id.as_deref(), *cancel_before, event) {
                planned.push(PlannedDelivery {
                    id: DeliveryId::mint(event.received_at),
                    event: Arc::clone(event),
                    endpoint: Arc::clone(endpoint),
                    leased: false,
                });
            }
        }
    }
    planned
}

impl OrgEndpoints {
    /// Whether some endpoint wants an event.
    pub(super) fn want(&self, event: &Event) -> bool {
        let is_wanted = |endpoint: &Arc<Endpoint>| {
            let Endpoint { event_types, account_id, cancel_before, .. } = &**endpoint;
            wants(event_types, account_id.as_deref(), *cancel_before, event)
        };
        self.candidates(event.event_type.as_str()).any(is_wanted)
            || self.subscriptions().any(|(_, subscription)| subscription.wants(event))
    }

    /// What the unreadable endpoints subscribe to.
    fn subscriptions(&self) -> impl Iterator<Item = (EndpointId, &Subscription)> {
        self.unreadable.iter().filter_map(|known| Some((known.id, known.subscription.as_ref()?)))
    }
}

/// A row of `pending_deliveries` to be inserted if its event turns out to be new.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingRow<'a> {
    pub(super) id: DeliveryId,
    pub(super) event: &'a Event,
    pub(super) endpoint: EndpointId,
    pub(super) ordered: bool,
    pub(super) leased: bool,
    /// Whether it goes to an inbox.
    pub(super) is_pull: bool,
}

impl<'a> PendingRow<'a> {
    /// The row of a planned delivery, leased if that is asked for and possible.
    pub(super) fn of(planned: &'a PlannedDelivery, may_lease: bool) -> Self {
        let PlannedDelivery { id, event, endpoint, leased } = planned;
        let ordered = endpoint.policy.ordered;
        let is_sent = endpoint.disabled_reason.is_none() && endpoint.kind == EndpointKind::Webhook;
        let leased = may_lease && *leased && !ordered && is_sent;
        let is_pull = endpoint.kind == EndpointKind::Pull;
        Self { id: *id, event, endpoint: endpoint.id, ordered, leased, is_pull }
    }

    /// The type of the event, for a row of an inbox.
    pub(super) fn event_type(&self) -> Option<&'a str> {
        self.is_pull.then(|| self.event.event_type.as_str())
    }

    /// The key by which it is listed by event type.
    pub(super) fn type_key(&self) -> i64 {
        type_key(self.event.org_id, self.event.event_type.as_str())
    }

    /// The size of the event's payload.
    pub(super) fn payload_bytes(&self) -> i64 {
        i64::try_from(self.event.payload.len()).unwrap_or(i64::MAX)
    }
}

/// The rows of some events to the endpoints of their organisations whose rows cannot be read.
pub(super) fn unreadable_rows<'a>(
    events: &'a [Arc<Event>],
    endpoints: &HashMap<OrgId, Arc<OrgEndpoints>>,
) -> Vec<PendingRow<'a>> {
    if endpoints.values().all(|of_org| of_org.unreadable.is_empty()) {
        return Vec::new();
    }
    let mut rows = Vec::new();
    for event in events {
        let of_org = endpoints.get(&event.org_id);
        for (endpoint, subscription) in of_org.iter().flat_map(|of_org| of_org.subscriptions()) {
            if subscription.wants(event) {
                let id = DeliveryId::mint(event.received_at);
                let (ordered, is_pull) = (subscription.ordered, subscription.is_pull);
                rows.push(PendingRow { id, event, endpoint, ordered, leased: false, is_pull });
            }
        }
    }
    rows
}

/// The plan of a batch as the storing transaction knows it.
pub(super) struct BatchPlan<'a> {
    batch: EventBatch<'a>,
    /// Organisations whose endpoints have changed since the batch was planned, as they are now.
    stale: HashMap<OrgId, Arc<OrgEndpoints>>,
    /// Their deliveries.
    replanned: Vec<PlannedDelivery>,
}

impl<'a> BatchPlan<'a> {
    /// The plan of a batch, with new deliveries for the organisations in `stale`.
    pub(super) fn new(batch: EventBatch<'a>, stale: HashMap<OrgId, Arc<OrgEndpoints>>) -> Self {
        let replanned =
            if stale.is_empty() { Vec::new() } else { plan_deliveries(batch.events, &stale) };
        Self { batch, stale, replanned }
    }

    /// The rows of every delivery.
    pub(super) fn rows(&self) -> Vec<PendingRow<'_>> {
        let EventBatch { events, endpoints, deliveries, lease } = self.batch;
        let is_current =
            |planned: &&PlannedDelivery| !self.stale.contains_key(&planned.event.org_id);
        let current = deliveries.iter().filter(is_current);
        let mut rows: Vec<_> = current.map(|new| PendingRow::of(new, lease.is_some())).collect();
        rows.extend(self.replanned.iter().map(|new| PendingRow::of(new, false)));
        rows.extend(unreadable_rows(events, &self.stale));
        let not_stale = |row: &PendingRow<'_>| !self.stale.contains_key(&row.event.org_id);
        rows.extend(unreadable_rows(events, endpoints).into_iter().filter(not_stale));
        rows
    }

    /// The deliveries of these ids as the caller holds them, leased.
    pub(super) fn leased(&self, ids: &HashSet<DeliveryId>) -> Vec<LeasedDelivery> {
        let Some(lease) = self.batch.lease.filter(|_| !ids.is_empty()) else { return Vec::new() };
        let is_leased = |planned: &&PlannedDelivery| ids.contains(&planned.id);
        self.batch
            .deliveries
            .iter()
            .filter(is_leased)
            .map(|planned| leased(planned, lease))
            .collect()
    }

    /// The organisations that were planned again.
    pub(super) fn into_stale(self) -> Vec<(OrgId, Arc<OrgEndpoints>)> {
        self.stale.into_iter().collect()
    }
}

fn leased(planned: &PlannedDelivery, lease: Lease) -> LeasedDelivery {
    let PlannedDelivery { id, event, endpoint, leased: _ } = planned;
    LeasedDelivery {
        id: *id,
        event: Arc::clone(event),
        endpoint: Arc::clone(endpoint),
        attempts: 0,
        ordered: false,
        lease,
    }
}

/// Events with no two of one key, in the order they came.
pub(super) type DedupPass = Vec<Arc<Event>>;

/// Splits a batch into passes to be written one after the other, and leaves out copies.
///
/// Nearly always that is one pass. An id comes again in a later pass only when its `dedup_id` was
/// used again after the window: two rows then, which one statement could not write.
pub(super) fn dedup_passes(events: &[Arc<Event>], dedup_window: Duration) -> Vec<DedupPass> {
    let mut kept: HashMap<(OrgId, EventId), Vec<Timestamp>> = HashMap::with_capacity(events.len());
    let mut passes: Vec<DedupPass> = vec![Vec::with_capacity(events.len())];
    for event in events {
        let earlier = kept.entry((event.org_id, event.id)).or_default();
        if earlier.iter().any(|kept_at| is_copy(event, *kept_at, dedup_window)) {
            continue;
        }
        if passes.len() <= earlier.len() {
            passes.push(Vec::new());
        }
        passes[earlier.len()].push(Arc::clone(event));
        earlier.push(event.received_at);
    }
    passes
}

/// Whether an event of the same id, accepted at `kept_at`, makes this one a copy.
fn is_copy(event: &Event, kept_at: Timestamp, dedup_window: Duration) -> bool {
    let apart = event.received_at.since(kept_at).max(kept_at.since(event.received_at));
    apart.is_zero() || event.dedup_id.is_some() && apart < dedup_window
}

/// The rows whose event is one of `events`, each delivery once: an event that is in a batch twice is planned twice.
pub(super) fn rows_of<'a>(rows: &[PendingRow<'a>], events: &[Arc<Event>]) -> Vec<PendingRow<'a>> {
    let kept: HashSet<(EventId, Timestamp)> =
        events.iter().map(|event| (event.id, event.received_at)).collect();
    let mut seen = HashSet::with_capacity(rows.len());
    let is_first = |row: &&PendingRow<'_>| {
        let event = (row.event.id, row.event.received_at);
        kept.contains(&event) && seen.insert((event, row.endpoint))
    };
    rows.iter().filter(is_first).copied().collect()
}

/// The organisations of some events, each once, in key order.
pub(super) fn orgs_of(events: &[Arc<Event>]) -> Vec<OrgId> {
    let mut orgs: Vec<OrgId> = events.iter().map(|event| event.org_id).collect();
    orgs.sort_unstable();
    orgs.dedup();
    orgs
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::TraceId;

    const WINDOW: Duration = Duration::from_micros(10);

    fn event(org: OrgId, id: EventId, dedup: bool, micros: i64) -> Arc<Event> {
        Arc::new(Event {
            id,
            org_id: org,
            event_type: "a".parse().unwrap(),
            payload: Bytes::from_static(b"1"),
            dedup_id: dedup.then(|| "d".to_owned()),
            account_id: None,
            user_id: None,
            occurred_at: None,
            received_at: Timestamp::from_micros(micros),
            trace_id: TraceId::mint(),
            accept_span: None,
        })
    }

    #[test]
    fn copies_inside_the_window_are_left_out_and_later_ones_get_a_pass_of_their_own() {
        let at = Timestamp::from_micros(1);
        let (org, id) = (OrgId::mint(at), EventId::mint(at));
        let batch = [5, 5, 14, 15, 24, 25].map(|micros| event(org, id, true, micros));
        let passes = dedup_passes(&batch, WINDOW);
        let times: Vec<Vec<i64>> = passes
            .iter()
            .map(|pass| pass.iter().map(|event| event.received_at.micros()).collect())
            .collect();
        assert_eq!(times, [[5], [15], [25]]);
    }

    #[test]
    fn events_without_a_dedup_id_are_copies_only_of_themselves() {
        let at = Timestamp::from_micros(1);
        let (org, id, other) = (OrgId::mint(at), EventId::mint(at), EventId::mint(at));
        let batch =
            [event(org, id, false, 5), event(org, other, false, 5), event(org, id, false, 5)];
        let passes = dedup_passes(&batch, WINDOW);
        assert_eq!(passes.len(), 1);
        assert_eq!(passes[0].len(), 2);
    }
}
