//! Calling deliveries off.

use super::{SqliteEngine, audit};
use crate::domain::{Actor, Delivery, DeliveryId, DeliveryStatus, EndpointId, OrgId, Timestamp};
use crate::store::audit::AuditRecord;
use crate::store::{CANCELS_PER_STEP, DeliveryRefusal, StoreError, rows};

impl SqliteEngine {
    pub(crate) async fn cancel_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>, StoreError> {
        let mut tx = self.begin().await?;
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
        let (_turn, mut tx) = self.begin_long().await?;
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
        let cancelled = cancelled.rows_affected();
        if cancelled > 0 {
            let note = AuditRecord::pending_cancelled(org, endpoint, cancelled);
            audit::write(&mut tx, &note, by, now).await?;
        }
        tx.commit().await?;
        Ok(cancelled)
    }
}
