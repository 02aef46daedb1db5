//! What operators do about a tenant's deliveries with the store directly.
//!
//! A server beside it goes on with what is made due here at its next poll. What is cancelled here and
//! waits in its memory may still be sent once; that changes nothing any more.

use crate::domain::{
    Attempt, Delivery, DeliveryFilter, DeliveryId, OrgId, Page, PageRequest, Replay, ReplayId,
};

use super::{Admin, AdminError};

impl Admin {
    /// A page of an organisation's deliveries, newest first.
    pub async fn deliveries(
        &self,
        org: OrgId,
        filter: &DeliveryFilter,
        page: PageRequest,
    ) -> Result<Page<Delivery>, AdminError> {
        self.require_org(org).await?;
        Ok(self.store.deliveries(org, filter, page).await?)
    }

    /// A delivery and its attempts, first to last.
    pub async fn delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
    ) -> Result<(Delivery, Vec<Attempt>), AdminError> {
        let delivery =
            self.store.delivery(org, id).await?.ok_or_else(|| {
                AdminError::NotFound(format!("delivery {id} of organisation {org}"))
            })?;
        Ok((delivery, self.store.attempts(org, id).await?))
    }

    /// Makes a delivery due now.
    pub async fn retry_delivery(&self, org: OrgId, id: DeliveryId) -> Result<Delivery, AdminError> {
        Ok(self.store.retry_delivery(org, id, self.clock.now()).await??)
    }

    /// Repeats a delivery as a new one.
    pub async fn replay_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
    ) -> Result<Delivery, AdminError> {
        Ok(self.store.replay_delivery(org, id, self.clock.now()).await??)
    }

    /// Cancels a pending delivery.
    pub async fn cancel_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
    ) -> Result<Delivery, AdminError> {
        Ok(self.store.cancel_delivery(org, id, self.clock.now()).await??)
    }

    /// A page of an organisation's replays, newest first.
    pub async fn replays(&self, org: OrgId, page: PageRequest) -> Result<Page<Replay>, AdminError> {
        self.require_org(org).await?;
        Ok(self.store.replays(org, page).await?)
    }

    /// One replay.
    pub async fn replay(&self, org: OrgId, id: ReplayId) -> Result<Replay, AdminError> {
        let replay = self.store.replay(org, id).await?;
        replay.ok_or_else(|| AdminError::NotFound(format!("replay {id} of organisation {org}")))
    }
}
