//! Deleting an organisation, step by step.

use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::{PostgresEngine, moment};
use crate::domain::{Org, OrgId, Timestamp};
use crate::store::rows::{self, org_columns};
use crate::store::{DELETED_PER_STEP, StoreError};

/// The tables that hold an organisation's rows, each with its key, in the order they are emptied:
/// what others are found by comes last. Attempts go with their deliveries.
const TABLES: [(&str, &str); 8] = [
    // First, so that they plan nothing any more.
    ("replays", "id"),
    ("dead_letters", "id"),
    ("events", "id, received_at"),
    ("dedup_keys", "org_id, event_id"),
    ("org_usage", "org_id, month"),
    ("endpoints", "id"),
    ("api_keys", "id"),
    ("audit_log", "id"),
];

impl PostgresEngine {
    pub(crate) async fn delete_step(&self, now: Timestamp) -> Result<Option<Org>, StoreError> {
        let mut tx = self.pool.begin().await?;
        // Passed over while another instance is at it; no obstacle to batches that look it up.
        let found: Option<Uuid> = sqlx::query_scalar(
            "SELECT id FROM orgs
             WHERE deleting_since IS NOT NULL AND deleted_at IS NULL
             ORDER BY deleting_since, id LIMIT 1
             FOR NO KEY UPDATE SKIP LOCKED",
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(id) = found else { return Ok(None) };
        let rows = delete_some(&mut tx, OrgId::from_uuid(id)).await?;
        let row = sqlx::query(concat!(
            "UPDATE orgs SET deleted_rows = deleted_rows + $2,
                 deleted_at = CASE WHEN $2 = 0 THEN $3::timestamptz END,
                 name = CASE WHEN $2 = 0 THEN '' ELSE name END
             WHERE id = $1 RETURNING ",
            org_columns!()
        ))
        .bind(id)
        .bind(i64::try_from(rows).unwrap_or(i64::MAX))
        .bind(moment(now))
        .fetch_one(&mut *tx)
        .await?;
        let org = rows::org(&row)?;
        tx.commit().await?;
        Ok(Some(org))
    }
}

/// Deletes some rows of the first table that has any, and returns how many.
async fn delete_some(connection: &mut PgConnection, org: OrgId) -> Result<u64, StoreError> {
    let deliveries = delete_deliveries(connection, org).await?;
    if deliveries > 0 {
        return Ok(deliveries);
    }
    for (table, key) in TABLES {
        let sql = format!(
            "DELETE FROM {table} WHERE ({key}) IN
                 (SELECT {key} FROM {table} WHERE org_id = $1 LIMIT $2)"
        );
        let done = sqlx::query(AssertSqlSafe(sql))
            .bind(org.uuid())
            .bind(DELETED_PER_STEP)
            .execute(&mut *connection)
            .await?;
        if done.rows_affected() > 0 {
            return Ok(done.rows_affected());
        }
    }
    Ok(0)
}

async fn delete_deliveries(connection: &mut PgConnection, org: OrgId) -> Result<u64, StoreError> {
    let deleted: i64 = sqlx::query_scalar(
        "WITH picked AS (
             SELECT id, event_received_at FROM deliveries WHERE org_id = $1 LIMIT $2
             FOR UPDATE
         ), attempts AS (
             DELETE FROM delivery_attempts
             WHERE (delivery_id, event_received_at) IN (SELECT id, event_received_at FROM picked)
             RETURNING 1
         ), gone AS (
             DELETE FROM deliveries
             WHERE (id, event_received_at) IN (SELECT id, event_received_at FROM picked)
             RETURNING 1
         )
         SELECT (SELECT count(*) FROM gone) + (SELECT count(*) FROM attempts)",
    )
    .bind(org.uuid())
    .bind(DELETED_PER_STEP)
    .fetch_one(connection)
    .await?;
    Ok(deleted.unsigned_abs())
}
