//! Calling deliveries off.

use super::{PostgresEngine, audit, moment, orgs};
use crate::domain::{Actor, Delivery, DeliveryId, DeliveryStatus, EndpointId, OrgId, Timestamp};
use crate::store::audit::AuditRecord;
use crate::store::{CANCELS_PER_STEP, DeliveryRefusal, StoreError, rows};

impl PostgresEngine {
    pub(crate) async fn cancel_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError> {
        let mut tx = self.pool.begin().await?;
        orgs::hold(&mut tx, org).await?;
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
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(row) = row {
            let delivery = rows::delivery(&row)?;
            audit::write(&mut tx, &AuditRecord::delivery_cancelled(&delivery), by, now).await?;
            tx.commit().await?;
            return Ok(Ok(delivery));
        }
        tx.rollback().await?;
        Ok(match self.delivery(org, id).await? {
            None => Err(DeliveryRefusal::NotFound),
            Some(delivery) if delivery.status == DeliveryStatus::Cancelled => Ok(delivery),
            Some(_) => Err(DeliveryRefusal::Finished),
        })
    }

    pub(crate) async fn cancel_pending(
        &self,
        org: OrgId,
        endpoint: EndpointId,
        until: Timestamp,
        by: &Actor,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut tx = self.pool.begin().await?;
        orgs::hold(&mut tx, org).await?;
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
        .execute(&mut *tx)
        .await?;
        let cancelled = cancelled.rows_affected();
        if cancelled > 0 {
            let note = AuditRecord::pending_cancelled(org, endpoint, cancelled);
            audit::write(&mut tx, &note, by, now).await?;
        }
        tx.commit().await?;
        Ok(cancelled)
    }
}
