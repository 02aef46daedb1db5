//! Deliveries and their attempts.

use super::{ClaimRequest, Claimed, Store, StoreError, on_engine};
use crate::domain::{
    Actor, Attempt, Delivery, DeliveryFilter, DeliveryId, InstanceId, OrgId, Outcome, Page,
    PageRequest, Timestamp,
};

/// Why something cannot be done to a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeliveryRefusal {
    /// There is no such delivery, or no such event.
    #[error("there is no such delivery")]
    NotFound,
    /// Its endpoint was removed.
    #[error("the delivery's endpoint was removed")]
    EndpointRemoved,
    /// Its endpoint is disabled.
    #[error("the delivery's endpoint is disabled; enable it first")]
    EndpointDisabled,
    /// An attempt is in flight.
    #[error("an attempt is in flight; wait for its outcome")]
    InProgress,
    /// It is delivered or dead: there is nothing to cancel.
    #[error("the delivery is finished; only a pending one can be cancelled")]
    Finished,
}

impl Store {
    /// Leases deliveries that are due, shared out among the endpoints that have any; each gives
    /// those that are due longest first. Two callers never hold one delivery. Of ordered
    /// deliveries to one endpoint only the oldest is leased, and only while no other one is.
    pub async fn claim_deliveries_across_orgs(
        &self,
        request: ClaimRequest<'_>,
    ) -> Result<Claimed, StoreError> {
        on_engine!(self, claim_deliveries_across_orgs(request))
    }

    /// Records what became of leased deliveries: the attempt, the new standing, and a dead letter
    /// for one that is given up; and what that says of their endpoints: since when one fails, and
    /// that it is disabled, its pending deliveries parked, when it is gone or has failed for too
    /// long, which the audit log tells, too. Whoever subscribes to the operational events of this
    /// gets them, planned here. Outcomes whose lease was lost, or whose delivery was cancelled,
    /// change nothing; the number of those that counted is returned. After an error some may be recorded;
    /// recording them again changes nothing.
    pub async fn record_outcomes_across_orgs(
        &self,
        outcomes: &[Outcome],
    ) -> Result<usize, StoreError> {
        on_engine!(self, record_outcomes_across_orgs(outcomes))
    }

    /// Makes everything that a server has leased due at `now` and returns how much that was: for a
    /// server that starts again, whose earlier leases nobody uses any more.
    pub async fn release_leases_across_orgs(
        &self,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        on_engine!(self, release_leases_across_orgs(instance, now))
    }

    /// One delivery.
    pub async fn delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
    ) -> Result<Option<Delivery>, StoreError> {
        on_engine!(self, delivery(org, id))
    }

    /// The organisation's deliveries that pass the filter.
    pub async fn deliveries(
        &self,
        org: OrgId,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, StoreError> {
        on_engine!(self, deliveries(org, filter, page))
    }

    /// The attempts of one delivery, first to last.
    pub async fn attempts(&self, org: OrgId, id: DeliveryId) -> Result<Vec<Attempt>, StoreError> {
        on_engine!(self, attempts(org, id))
    }

    /// Makes a delivery pending and due at `now`, whatever became of it, and takes back its dead
    /// letter. The count of attempts goes on: one that had used up its schedule gets one more.
    pub async fn retry_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError> {
        on_engine!(self, retry_delivery(org, id, by, now))
    }
}
