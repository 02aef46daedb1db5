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
        // Any so many, since sorting all that waits would cost every step as much; then locked in key
        // order, as outcomes take them.
        let cancelled = sqlx::query(
            "WITH chosen AS MATERIALIZED (
                 SELECT id, event_received_at FROM deliveries
                 WHERE endpoint_id = $1 AND status = 'pending' AND org_id = $2
                   AND created_at <= $3
                 LIMIT $5
             ), held AS (
                 SELECT d.id, d.event_received_at
                 FROM (SELECT * FROM chosen ORDER BY id) s
                 CROSS JOIN LATERAL (
                     SELECT id, event_received_at FROM deliveries
                     WHERE id = s.id AND event_received_at = s.event_received_at
                       AND status = 'pending'
                     FOR UPDATE
                 ) d
             )
             UPDATE deliveries d
             SET status = 'cancelled', due_at = NULL, lease_token = NULL, finished_at = $4
             FROM held h
             WHERE d.id = h.id AND d.event_received_at = h.event_received_at",
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
