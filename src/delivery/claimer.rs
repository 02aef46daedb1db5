//! The claimer: decides when the dispatcher claims due deliveries from the store, and for which endpoints.
//!
//! At most one claim is in flight. Claims run at every poll and every wake, and back to back while the store
//! has more than the lanes could take.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::{EndpointId, InstanceId, Lease, LeaseToken, LeasedDelivery, Timestamp};
use crate::runtime::Monotonic;
use crate::store::{ClaimCursor, ClaimRequest, Claimed, Store, StoreError};

use super::breaker::Permit;
use super::lanes::Lanes;
use super::throttle::EndpointThrottles;

/// Maximum deliveries per claim.
pub(super) const CLAIM_DELIVERIES_MAX: usize = 512;

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
        async move {
            let request = ClaimRequest { lease, deliveries_max, caps: &caps, from, now };
            store.system().claim_deliveries(request).await
        }
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

/// How many deliveries a claim may bring for endpoints that cannot take everything that is due.
pub(super) fn caps(
    lanes: &mut Lanes<LeasedDelivery>,
    throttles: &EndpointThrottles,
    now: Monotonic,
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
