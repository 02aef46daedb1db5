//! What was used.

use super::{SqliteEngine, id_list};
use crate::domain::{ApiKeyId, Month, OrgId, Timestamp};
use crate::store::rows::fits;
use crate::store::{Holdings, StoreError};

impl SqliteEngine {
    pub(crate) async fn month_events(&self, org: OrgId, month: Month) -> Result<u64, StoreError> {
        let events: Option<i64> =
            sqlx::query_scalar("SELECT events FROM org_usage WHERE org_id = ?1 AND month = ?2")
                .bind(org.uuid())
                .bind(i64::from(month.number()))
                .fetch_optional(&self.readers)
                .await?;
        fits("events", events.unwrap_or(0))
    }

    pub(crate) async fn add_month_events_across_orgs(
        &self,
        month: Month,
        events: &[(OrgId, u64)],
    ) -> Result<Vec<(OrgId, u64)>, StoreError> {
        let mut tx = self.begin().await?;
        let mut totals = Vec::with_capacity(events.len());
        for (org, added) in events {
            let total: Option<i64> = sqlx::query_scalar(
                "INSERT INTO org_usage (org_id, month, events)
                 SELECT id, ?2, ?3 FROM orgs WHERE id = ?1 AND deleting_since IS NULL
                 ON CONFLICT (org_id, month) DO UPDATE SET events = events + excluded.events
                 RETURNING events",
            )
            .bind(org.uuid())
            .bind(month.number())
            .bind(i64::try_from(*added).unwrap_or(i64::MAX))
            .fetch_optional(&mut *tx)
            .await?;
            if let Some(total) = total {
                totals.push((*org, fits("events", total)?));
            }
        }
        tx.commit().await?;
        Ok(totals)
    }

    pub(crate) async fn touch_keys_across_orgs(
        &self,
        keys: &[ApiKeyId],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE api_keys SET last_used_at = ?2
             WHERE id IN (SELECT unhex(value) FROM json_each(?1))
               AND (last_used_at IS NULL OR last_used_at < ?2)",
        )
        .bind(id_list(keys.iter().map(|key| key.uuid())))
        .bind(at.micros())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    pub(crate) async fn holdings(
        &self,
        org: OrgId,
        now: Timestamp,
    ) -> Result<Holdings, StoreError> {
        let (endpoints, keys, in_grace): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM endpoints WHERE org_id = ?1),
                    (SELECT count(*) FROM api_keys
                     WHERE org_id = ?1 AND (expires_at IS NULL OR expires_at > ?2)),
                    (SELECT count(*) FROM api_keys
                     WHERE org_id = ?1 AND replaced_by IS NOT NULL AND expires_at > ?2)",
        )
        .bind(org.uuid())
        .bind(now.micros())
        .fetch_one(&self.readers)
        .await?;
        Ok(Holdings {
            endpoints: endpoints.unsigned_abs(),
            keys: keys.unsigned_abs(),
            keys_in_grace: in_grace.unsigned_abs(),
        })
    }
}
