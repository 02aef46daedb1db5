//! Dead letters.

use super::{PostgresEngine, audit, moment, orgs};
use crate::domain::{
    Actor, Cursor, DeadLetter, DeadLetterFilter, DeadLetterId, DeadReason, EndpointId, OrgId, Page,
    PageRequest, Timestamp,
};
use crate::store::audit::AuditRecord;
use crate::store::{LetterDeletion, StoreError, rows};

impl PostgresEngine {
    pub(crate) async fn dead_letters(
        &self,
        org: OrgId,
        filter: &DeadLetterFilter,
        page: PageRequest,
    ) -> Result<Page<DeadLetter>, StoreError> {
        let after = rows::place(page);
        let (exact, prefix) = rows::type_wanted(filter.event_type.as_ref());
        let found = sqlx::query(
            "SELECT id, event_id, delivery_id, endpoint_id, reason, detail, created_at, replayed_at
             FROM dead_letters l
             WHERE org_id = $1 AND (created_at, id) < ($2, $3)
               AND ($5::uuid IS NULL OR endpoint_id = $5)
               AND created_at >= $6 AND created_at < $7
               AND ($8::text IS NULL OR reason = $8)
               AND ($9::text IS NULL AND $10::text IS NULL OR EXISTS
                    (SELECT 1 FROM events e
                     WHERE e.id = l.event_id AND e.org_id = l.org_id
                       AND ($9::text IS NULL OR e.event_type = $9)
                       AND ($10::text IS NULL OR starts_with(e.event_type, $10))))
               AND ($11::bool IS NULL OR (replayed_at IS NOT NULL) = $11)
             ORDER BY created_at DESC, id DESC LIMIT $4",
        )
        .bind(org.uuid())
        .bind(moment(after.at))
        .bind(after.id)
        .bind(rows::fetch_limit(page))
        .bind(filter.endpoint_id.map(EndpointId::uuid))
        .bind(moment(filter.since.unwrap_or(rows::START_OF_TIME)))
        .bind(moment(filter.until.unwrap_or(rows::END_OF_TIME)))
        .bind(filter.reason.map(DeadReason::as_str))
        .bind(exact)
        .bind(prefix)
        .bind(filter.replayed)
        .fetch_all(&self.pool)
        .await?;
        let letters = rows::all(&found, rows::dead_letter)?;
        Ok(Page::from_rows(letters, page.limit, |letter| Cursor {
            at: letter.created_at,
            id: letter.id.uuid(),
        }))
    }

    pub(crate) async fn dead_letter(
        &self,
        org: OrgId,
        id: DeadLetterId,
    ) -> Result<Option<DeadLetter>, StoreError> {
        let row = sqlx::query(
            "SELECT id, event_id, delivery_id, endpoint_id, reason, detail, created_at, replayed_at
             FROM dead_letters WHERE id = $1 AND org_id = $2",
        )
        .bind(id.uuid())
        .bind(org.uuid())
        .fetch_optional(&self.pool)
        .await?;
        row.as_ref().map(rows::dead_letter).transpose()
    }

    pub(crate) async fn quarantined_record(
        &self,
        org: OrgId,
        id: DeadLetterId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let record: Option<Option<Vec<u8>>> =
            sqlx::query_scalar("SELECT record FROM dead_letters WHERE id = $1 AND org_id = $2")
                .bind(id.uuid())
                .bind(org.uuid())
                .fetch_optional(&self.pool)
                .await?;
        Ok(record.flatten())
    }

    pub(crate) async fn delete_dead_letter(
        &self,
        org: OrgId,
        id: DeadLetterId,
        why: LetterDeletion,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pool.begin().await?;
        orgs::hold(&mut tx, org).await?;
        let deleted = sqlx::query("DELETE FROM dead_letters WHERE id = $1 AND org_id = $2")
            .bind(id.uuid())
            .bind(org.uuid())
            .execute(&mut *tx)
            .await?;
        if deleted.rows_affected() == 0 {
            return Ok(false);
        }
        audit::write(&mut tx, &AuditRecord::letter_deleted(org, id, why), by, now).await?;
        tx.commit().await?;
        Ok(true)
    }
}
