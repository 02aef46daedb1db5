//! Cancels deliveries.

use super::{DeliveryRefusal, Store, StoreError, on_engine};
use crate::domain::{Actor, Delivery, DeliveryId, EndpointId, OrgId, Timestamp};

/// Deliveries cancelled by one step at most.
pub const CANCELS_PER_STEP: u64 = 5_000;

impl Store {
    /// Cancels a pending delivery. An attempt in flight ends, and its outcome counts no more. One
    /// that is cancelled already stays as it is.
    pub async fn cancel_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError> {
        on_engine!(self, cancel_delivery(org, id, by, now))
    }

    /// Cancels pending deliveries to an endpoint that were planned by `until`, at most
    /// [`CANCELS_PER_STEP`] of them, and returns how many: the caller goes on until that is none.
    /// The audit log gets one line with that number.
    pub async fn cancel_pending(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        until: Timestamp,
        by: &Actor,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        on_engine!(self, cancel_pending(org, endpoint, until, by, now))
    }
}
