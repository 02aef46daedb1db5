//! Calling deliveries off.

use async_trait::async_trait;

use super::SqliteStore;
use crate::domain::{Delivery, DeliveryId, DeliveryStatus, EndpointId, OrgId, Timestamp};
use crate::store::{
    CANCELS_PER_STEP, CancelStore, DeliveryRefusal, DeliveryStore, StoreError, rows,
};

#[async_trait]
impl CancelStore for SqliteStore {
    async fn cancel_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError> {
        let mut tx = self.write().await?;
        let row = sqlx::query(
            "UPDATE deliveries
             SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = ?3
             WHERE id = ?1 AND org_id = ?2 AND status = 'pending'
             RETURNING id, org_id, event_id, endpoint_id, status, attempts, due_at, lease_token,
                       created_at, finished_at, replay_of",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .bind(now.micros())
        .fetch_optional(&mut *tx)
        .await?;
        tx.commit().await?;
        if let Some(row) = row {
            return Ok(Ok(rows::delivery(&row)?));
        }
        Ok(match self.delivery(org, id).await? {
            None => Err(DeliveryRefusal::NotFound),
            Some(delivery) if delivery.status == DeliveryStatus::Cancelled => Ok(delivery),
            Some(_) => Err(DeliveryRefusal::Finished),
        })
    }

    async fn cancel_pending(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut tx = self.write().await?;
        let cancelled = sqlx::query(
            "UPDATE deliveries
             SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = ?4
             WHERE id IN (SELECT id FROM deliveries INDEXED BY deliveries_pending
                          WHERE endpoint_id = ?1 AND status = 'pending' AND org_id = ?2
                            AND created_at <= ?3
                          LIMIT ?5)",
        )
        .bind(endpoint.uuid())
        .bind(org.uuid())
        .bind(until.micros())
        .bind(now.micros())
        .bind(CANCELS_PER_STEP.cast_signed())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(cancelled.rows_affected())
    }
}
