//! What was used.

use uuid::Uuid;

use super::{PostgresEngine, moment};
use crate::domain::{ApiKeyId, Month, OrgId, Timestamp};
use crate::store::rows::fits;
use crate::store::{Holdings, StoreError};

impl PostgresEngine {
    pub(crate) async fn month_events(&self, org: OrgId, month: Month) -> Result<u64, StoreError> {
        let events: Option<i64> =
            sqlx::query_scalar("SELECT events FROM org_usage WHERE org_id = $1 AND month = $2")
                .bind(org.uuid())
                .bind(i64::from(month.number()))
                .fetch_optional(&self.pool)
                .await?;
        fits("events", events.unwrap_or(0))
    }

    pub(crate) async fn add_month_events_across_orgs(
        &self,
        month: Month,
        events: &[(OrgId, u64)],
    ) -> Result<Vec<(OrgId, u64)>, StoreError> {
        let mut sorted = events.to_vec();
        sorted.sort_unstable();
        let orgs: Vec<Uuid> = sorted.iter().map(|(org, _)| org.uuid()).collect();
        let counts: Vec<i64> =
            sorted.iter().map(|(_, n)| i64::try_from(*n).unwrap_or(i64::MAX)).collect();
        let found: Vec<(Uuid, i64)> = sqlx::query_as(
            "WITH alive AS (
                 SELECT id FROM orgs WHERE id = ANY ($1) AND deleting_since IS NULL FOR KEY SHARE
             )
             INSERT INTO org_usage (org_id, month, events)
             SELECT u.org_id, $3, u.events FROM unnest($1::uuid[], $2::bigint[]) u (org_id, events)
             WHERE u.org_id IN (SELECT id FROM alive)
             ON CONFLICT (org_id, month) DO UPDATE
                 SET events = org_usage.events + excluded.events
             RETURNING org_id, events",
        )
        .bind(orgs)
        .bind(counts)
        .bind(i64::from(month.number()))
        .fetch_all(&self.pool)
        .await?;
        found.into_iter().map(|(org, n)| Ok((OrgId::from_uuid(org), fits("events", n)?))).collect()
    }

    pub(crate) async fn touch_keys_across_orgs(
        &self,
        keys: &[ApiKeyId],
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let keys: Vec<Uuid> = keys.iter().map(|key| key.uuid()).collect();
        // Locked in the order of their ids, so that instances cannot wait for each other in a circle.
        sqlx::query(
            "UPDATE api_keys k SET last_used_at = $2
             FROM (SELECT id FROM api_keys WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE) used
             WHERE k.id = used.id AND (k.last_used_at IS NULL OR k.last_used_at < $2)",
        )
        .bind(keys)
        .bind(moment(at))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub(crate) async fn holdings(
        &self,
        org: OrgId,
        now: Timestamp,
    ) -> Result<Holdings, StoreError> {
        let (endpoints, keys, in_grace): (i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM endpoints WHERE org_id = $1),
                    (SELECT count(*) FROM api_keys
                     WHERE org_id = $1 AND (expires_at IS NULL OR expires_at > $2)),
                    (SELECT count(*) FROM api_keys
                     WHERE org_id = $1 AND replaced_by IS NOT NULL AND expires_at > $2)",
        )
        .bind(org.uuid())
        .bind(moment(now))
        .fetch_one(&self.pool)
        .await?;
        Ok(Holdings {
            endpoints: endpoints.unsigned_abs(),
            keys: keys.unsigned_abs(),
            keys_in_grace: in_grace.unsigned_abs(),
        })
    }
}
