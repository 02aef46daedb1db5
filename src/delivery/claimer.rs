//! The claimer: decides when the dispatcher claims due deliveries from the store, and for which endpoints.
//!
//! At most one claim is in flight. Claims run at every poll and every wake, and back to back while the store
//! has more than the lanes could take.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{
    Endpoint, EndpointId, InstanceId, Lease, LeaseToken, LeasedDelivery, Timestamp,
};
use crate::store::{ClaimCursor, ClaimedDelivery, DueEndpoint, LeaseGrant, Store, StoreError};

use super::breaker::Permit;
use super::lanes::Lanes;
use super::throttle::EndpointThrottles;

/// Maximum bytes of payloads per claim.
const CLAIM_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Maximum deliveries per claim.
pub(super) const CLAIM_DELIVERIES_MAX: usize = 512;

/// The result of a claim.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// The deliveries, the longest due first.
    pub(super) leased: Vec<LeasedDelivery>,
    next: ClaimCursor,
    /// Whether there may be more.
    more: bool,
}

/// Claims due deliveries, one claim at a time.
pub(super) struct Claimer {
    store: Store,
    /// The server that claimed deliveries are leased to.
    instance: InstanceId,
    /// How long a claim leases for.
    lease: Duration,
    demand: ClaimDemand,
    /// Where the next claim's scan continues.
    cursor: ClaimCursor,
    in_flight: bool,
    /// Whether the last claim failed.
    failing: bool,
}

/// Whether to claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum ClaimDemand {
    /// Not before the next poll or wake.
    #[default]
    Idle,
    /// The store has more: the last claim came back full, or skipped a lane that has run low since. Claims
    /// when enough capacity is free to be worth a statement.
    More,
    /// A poll or a wake is due. Claims with any free capacity.
    Due,
}

impl Claimer {
    /// A claimer that waits for the first poll.
    pub(super) fn new(store: Store, instance: InstanceId, lease: Duration) -> Self {
        Self {
            store,
            instance,
            lease,
            demand: ClaimDemand::default(),
            cursor: ClaimCursor::default(),
            in_flight: false,
            failing: false,
        }
    }

    /// Requests a claim with any free capacity.
    pub(super) fn request(&mut self) {
        self.demand = ClaimDemand::Due;
    }

    /// Requests a claim as soon as enough capacity is free.
    pub(super) fn request_more(&mut self) {
        if self.demand == ClaimDemand::Idle {
            self.demand = ClaimDemand::More;
        }
    }

    /// Whether a claim is in flight.
    pub(super) fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// Whether to claim now. `free` more deliveries fit into memory; `reserve` of them are kept for claims.
    pub(super) fn should_claim(&self, free: usize, reserve: usize) -> bool {
        let wanted = match self.demand {
            ClaimDemand::Idle => return false,
            ClaimDemand::More => reserve.clamp(1, CLAIM_DELIVERIES_MAX / 2),
            ClaimDemand::Due => 1,
        };
        !self.in_flight && free >= wanted
    }

    /// Starts a claim of at most `deliveries_max` deliveries, with `caps` for single endpoints. Its
    /// result must be given to [`Self::finished`].
    pub(super) fn claim(
        &mut self,
        deliveries_max: usize,
        caps: HashMap<EndpointId, usize>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Claimed, StoreError>> + use<> {
        self.in_flight = true;
        self.demand = ClaimDemand::Idle;
        let from = self.cursor;
        let lease = Lease { token: LeaseToken::mint(self.instance), until: now.plus(self.lease) };
        let store = self.store.clone();
        async move { claim(&store, (deliveries_max, &caps), from, lease, now).await }
    }

    /// Notes the end of a claim and returns what it leased.
    ///
    /// # Errors
    /// The claim's own. It is logged once per outage; the next poll tries again.
    pub(super) fn finished(
        &mut self,
        result: Result<Claimed, StoreError>,
    ) -> Result<Vec<LeasedDelivery>, StoreError> {
        self.in_flight = false;
        match result {
            Ok(claimed) => {
                self.failing = false;
                self.cursor = claimed.next;
                if claimed.more {
                    self.request_more();
                }
                Ok(claimed.leased)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "cannot claim due deliveries; will retry");
                }
                Err(error)
            }
        }
    }
}

/// Leases due deliveries, shared out among the endpoints that have any.
async fn claim(
    store: &Store,
    (deliveries_max, caps): (usize, &HashMap<EndpointId, usize>),
    from: ClaimCursor,
    lease: Lease,
    now: Timestamp,
) -> Result<Claimed, StoreError> {
    if deliveries_max == 0 {
        return Ok(Claimed { next: from, ..Claimed::default() });
    }
    store.system().release_lapsed(now).await?;
    let due = store.system().due_endpoints(from, now).await?;
    let cap = |endpoint| caps.get(&endpoint).copied().unwrap_or(usize::MAX);
    let due_count = due.endpoints.len();
    let mut open: Vec<DueEndpoint> =
        due.endpoints.into_iter().filter(|due| cap(due.endpoint) > 0).collect();
    open.truncate(deliveries_max);
    let each = deliveries_max.div_ceil(open.len().max(1));
    let grant = |due: &DueEndpoint| LeaseGrant {
        endpoint: due.endpoint,
        org: due.org,
        ordered: due.ordered,
        deliveries_max: if due.ordered { 1 } else { each.min(cap(due.endpoint)) },
    };
    let grants: Vec<LeaseGrant> = open.iter().map(grant).collect();
    let claimed = store.system().lease_deliveries(&grants, CLAIM_BYTES_MAX, lease, now).await?;
    let mut orgs: Vec<_> = grants.iter().map(|grant| grant.org).collect();
    orgs.sort_unstable();
    orgs.dedup();
    let known = store.system().org_endpoints(&orgs).await?;
    let endpoints: HashMap<EndpointId, Arc<Endpoint>> = known
        .values()
        .flat_map(|of_org| &of_org.endpoints)
        .map(|endpoint| (endpoint.id, Arc::clone(endpoint)))
        .collect();
    let is_full = claimed.len() >= deliveries_max || open.len() < due_count;
    let more = due.more || is_full && !claimed.is_empty();
    // One whose endpoint was disabled since waits until the lease ends.
    let with_endpoint = |claimed: ClaimedDelivery| {
        let endpoint = Arc::clone(endpoints.get(&claimed.endpoint_id)?);
        let ClaimedDelivery { id, event, endpoint_id: _, attempts, ordered, lease } = claimed;
        Some(LeasedDelivery { id, event, endpoint, attempts, ordered, lease })
    };
    let leased = claimed.into_iter().filter_map(with_endpoint).collect();
    Ok(Claimed { leased, next: due.next, more })
}

/// How many deliveries a claim may bring for endpoints that cannot take everything that is due.
pub(super) fn caps(
    lanes: &mut Lanes<LeasedDelivery>,
    throttles: &EndpointThrottles,
    now: Timestamp,
) -> HashMap<EndpointId, usize> {
    let rate_limited = lanes.first_in_lanes().filter_map(|(first, waiting)| {
        let backlog_max = EndpointThrottles::backlog_max(&first.endpoint)?;
        Some((first.endpoint.id, backlog_max.saturating_sub(waiting)))
    });
    let mut caps: HashMap<EndpointId, usize> = rate_limited.collect();
    caps.extend(lanes.full().into_iter().map(|endpoint| (endpoint, 0)));
    for endpoint in throttles.open() {
        let probe =
            throttles.permit(endpoint, now) == Permit::Probe && lanes.waiting_for(endpoint) == 0;
        caps.insert(endpoint, usize::from(probe));
    }
    caps
}
