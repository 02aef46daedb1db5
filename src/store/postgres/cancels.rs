//! Calling deliveries off.

use async_trait::async_trait;

use super::{PostgresStore, moment};
use crate::domain::{Delivery, DeliveryId, DeliveryStatus, EndpointId, OrgId, Timestamp};
use crate::store::{
    CANCELS_PER_STEP, CancelStore, DeliveryRefusal, DeliveryStore, StoreError, rows,
};

#[async_trait]
impl CancelStore for PostgresStore {
    async fn cancel_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError> {
        let row = sqlx::query(
            "UPDATE deliveries
             SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = $3
             WHERE id = $1 AND org_id = $2 AND status = 'pending'
             RETURNING id, org_id, event_id, endpoint_id, status, attempts, due_at, lease_token,
                       created_at, finished_at, replay_of",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .bind(moment(now))
        .fetch_optional(&self.pool)
        .await?;
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
        // In key order, as outcomes take them.
        let cancelled = sqlx::query(
            "UPDATE deliveries d
             SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = $4
             FROM (SELECT id, event_received_at FROM deliveries
                   WHERE endpoint_id = $1 AND status = 'pending' AND org_id = $2
                     AND created_at <= $3
                   ORDER BY id LIMIT $5
                   FOR UPDATE) p
             WHERE d.id = p.id AND d.event_received_at = p.event_received_at",
        )
        .bind(endpoint.uuid())
        .bind(org.uuid())
        .bind(moment(until))
        .bind(moment(now))
        .bind(CANCELS_PER_STEP.cast_signed())
        .execute(&self.pool)
        .await?;
        Ok(cancelled.rows_affected())
    }
}
