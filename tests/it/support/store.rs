//! Stores events and claims deliveries as the server does, in one call each.

use std::collections::HashMap;
use std::sync::Arc;

use hookgate::domain::{
    Endpoint, EndpointId, Event, InstanceId, Lease, LeaseToken, LeasedDelivery, OrgId, Timestamp,
};
use hookgate::store::{
    ClaimCursor, ClaimedDelivery, DueEndpoint, EventBatch, LeaseGrant, Persisted, Store,
    StoreError, plan_deliveries,
};

/// Bytes of payloads that a claim may bring: more than any test stores.
const BYTES_MAX: usize = 1 << 30;

/// What may be leased.
#[derive(Clone, Copy)]
pub(crate) struct Room<'a> {
    pub(crate) lease: Lease,
    /// How many deliveries at most.
    pub(crate) deliveries_max: usize,
    /// Endpoints of which none are.
    pub(crate) except: &'a [EndpointId],
}

/// Room for so many, under a lease of server 1.
pub(crate) fn room(deliveries_max: usize, until: Timestamp) -> Room<'static> {
    let lease = Lease { token: LeaseToken::mint(InstanceId::new(1)), until };
    Room { lease, deliveries_max, except: &[] }
}

/// Plans and stores events, their first deliveries leased as far as there is room. It asks for a lease of ordered
/// deliveries and of those to disabled endpoints, too, which the store does not give.
pub(crate) async fn persist_events(
    store: &Store,
    events: &[Arc<Event>],
    room: Option<Room<'_>>,
    now: Timestamp,
) -> Result<Persisted, StoreError> {
    let endpoints = store.system().org_endpoints(&orgs(events)).await?;
    let mut deliveries = plan_deliveries(events, &endpoints);
    let mut left = room.map_or(0, |room| room.deliveries_max);
    for planned in &mut deliveries {
        let endpoint = &planned.endpoint;
        let is_open = room.is_some_and(|room| !room.except.contains(&endpoint.id));
        planned.leased = is_open && left > 0;
        if endpoint.disabled_reason.is_none() && !endpoint.policy.ordered {
            left -= usize::from(planned.leased);
        }
    }
    let lease = room.map(|room| room.lease);
    let batch = EventBatch { events, endpoints: &endpoints, deliveries: &deliveries, lease };
    store.system().persist_events(batch, now).await
}

/// Leases what is due, shared out evenly among the endpoints that have anything.
pub(crate) async fn lease_due(
    store: &Store,
    room: Room<'_>,
    now: Timestamp,
) -> Vec<LeasedDelivery> {
    while store.system().release_lapsed(now).await.unwrap() > 0 {}
    let mut due = due_endpoints(store, now).await;
    due.retain(|due| !room.except.contains(&due.endpoint));
    let grants = shared_out(&due, room.deliveries_max);
    let claim = store.system().lease_deliveries(&grants, room.lease, now);
    with_endpoints(store, &due, claim.await.unwrap().deliveries).await
}

/// Every endpoint with something due: a whole round.
pub(crate) async fn due_endpoints(store: &Store, now: Timestamp) -> Vec<DueEndpoint> {
    let (mut from, mut due) = (ClaimCursor::default(), Vec::new());
    loop {
        let found = store.system().due_endpoints(from, now).await.unwrap();
        due.extend(found.endpoints);
        from = found.next;
        if !found.more {
            return due;
        }
    }
}

fn shared_out(due: &[DueEndpoint], deliveries_max: usize) -> Vec<LeaseGrant> {
    let count = due.len().max(1);
    let share = |number| deliveries_max / count + usize::from(number < deliveries_max % count);
    let grant = |(number, due): (usize, &DueEndpoint)| LeaseGrant {
        endpoint: due.endpoint,
        org: due.org,
        ordered: due.ordered,
        deliveries_max: share(number),
        bytes_max: BYTES_MAX,
    };
    due.iter().enumerate().map(grant).collect()
}

/// Claimed deliveries with their endpoints as they are now.
async fn with_endpoints(
    store: &Store,
    due: &[DueEndpoint],
    claimed: Vec<ClaimedDelivery>,
) -> Vec<LeasedDelivery> {
    let orgs: Vec<OrgId> = due.iter().map(|due| due.org).collect();
    let known = store.system().org_endpoints(&orgs).await.unwrap();
    let endpoints: HashMap<EndpointId, Arc<Endpoint>> = known
        .values()
        .flat_map(|of_org| of_org.endpoints.iter().cloned())
        .map(|endpoint| (endpoint.id, endpoint))
        .collect();
    let leased = claimed.into_iter().map(|claimed| {
        let ClaimedDelivery { id, event, endpoint_id, attempts, ordered, lease } = claimed;
        let endpoint = Arc::clone(&endpoints[&endpoint_id]);
        LeasedDelivery { id, event, endpoint, attempts, ordered, lease }
    });
    leased.collect()
}

fn orgs(events: &[Arc<Event>]) -> Vec<OrgId> {
    events.iter().map(|event| event.org_id).collect()
}
