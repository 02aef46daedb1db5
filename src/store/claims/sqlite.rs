//! Claims deliveries in SQLite.

use std::collections::HashMap;

use sqlx::{AssertSqlSafe, SqliteConnection};
use uuid::Uuid;

use super::due_scan::{ClaimPlan, DueIndex, SCAN_MAX, ScannedEndpoint, WINDOW};
use super::{ClaimRequest, Claimed, columns, leased};
use crate::domain::{Lease, LeasedDelivery, Timestamp};
use crate::store::Result;
use crate::store::crypto::Keyring;
use crate::store::engine::{Row, SqliteEngine, id_list};

/// Plans beside the writer, so that polling an idle store never waits for it, and checks again
/// what it found once it can write.
pub(super) async fn claim(
    engine: &SqliteEngine,
    keyring: &Keyring,
    request: ClaimRequest<'_>,
) -> Result<Claimed> {
    let plan = request.plan(engine).await?;
    if plan.is_empty() {
        return Ok(plan.claimed(Vec::new()));
    }
    let (permit, mut tx) = engine.begin_long().await?;
    let mut ids = heads(&mut tx, &plan.heads, request.now).await?;
    ids.extend(next_in_turn(&mut tx, &plan, request.now).await?);
    ids.truncate(request.deliveries_max);
    let due = read(&mut tx, &ids, request.lease, keyring).await?;
    // A lease may have lapsed after its endpoint was disabled.
    let (parked, due): (Vec<_>, Vec<_>) =
        due.into_iter().partition(|delivery| delivery.endpoint.disabled_reason.is_some());
    schedule(&mut tx, &parked, None, None).await?;
    let token = request.lease.token.uuid();
    schedule(&mut tx, &due, Some(request.lease.until), Some(token)).await?;
    tx.commit().await?;
    drop(permit);
    Ok(plan.claimed(due))
}

async fn scan(
    engine: &SqliteEngine,
    sql: &'static str,
    after: Uuid,
    now: Timestamp,
) -> Result<Vec<ScannedEndpoint>> {
    let found: Vec<(Uuid, bool)> = sqlx::query_as(sql)
        .bind(after)
        .bind(now.micros())
        .bind(i64::try_from(SCAN_MAX).unwrap_or(i64::MAX))
        .fetch_all(&engine.readers)
        .await?;
    Ok(found.into_iter().map(|(endpoint, ready)| ScannedEndpoint { endpoint, ready }).collect())
}

/// Scans the endpoints of an index: each step is a seek.
macro_rules! steps {
    ($index:literal, $which:literal, $ready:literal) => {
        concat!(
            "WITH RECURSIVE step (endpoint_id, number) AS (
                 SELECT (SELECT d.endpoint_id FROM deliveries d INDEXED BY ",
            $index,
            "            WHERE ",
            $which,
            "              AND d.endpoint_id > ?1
                         ORDER BY d.endpoint_id LIMIT 1), 1
                 UNION ALL
                 SELECT (SELECT d.endpoint_id FROM deliveries d INDEXED BY ",
            $index,
            "            WHERE ",
            $which,
            "              AND d.endpoint_id > step.endpoint_id
                         ORDER BY d.endpoint_id LIMIT 1), number + 1
                 FROM step WHERE step.endpoint_id IS NOT NULL AND number < ?3
             )
             SELECT step.endpoint_id, ",
            $ready,
            " FROM step WHERE step.endpoint_id IS NOT NULL"
        )
    };
}

impl DueIndex for SqliteEngine {
    async fn due_longest(&self, now: Timestamp) -> Result<Vec<(Uuid, i64)>> {
        let found = sqlx::query_as(
            "SELECT endpoint_id, count(*) FROM
                 (SELECT endpoint_id, due_at FROM deliveries INDEXED BY deliveries_due
                  WHERE status = 'pending' AND ordered = 0 AND due_at <= ?1
                  ORDER BY due_at LIMIT ?2)
             GROUP BY endpoint_id ORDER BY min(due_at)",
        )
        .bind(now.micros())
        .bind(i64::try_from(WINDOW).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await?;
        Ok(found)
    }

    async fn scan(&self, after: Uuid, now: Timestamp) -> Result<Vec<ScannedEndpoint>> {
        let sql = steps!(
            "deliveries_pending",
            "d.status = 'pending'",
            "EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_pending
                     WHERE d.status = 'pending' AND d.endpoint_id = step.endpoint_id
                       AND d.ordered = 0 AND d.due_at <= ?2)"
        );
        scan(self, sql, after, now).await
    }

    async fn scan_ordered(&self, after: Uuid, now: Timestamp) -> Result<Vec<ScannedEndpoint>> {
        let sql = steps!(
            "deliveries_ordered",
            "d.status = 'pending' AND d.ordered = 1",
            "coalesce((SELECT d.due_at FROM deliveries d INDEXED BY deliveries_ordered
                       WHERE d.status = 'pending' AND d.ordered = 1
                         AND d.endpoint_id = step.endpoint_id
                       ORDER BY d.event_received_at, d.id LIMIT 1) <= ?2, 0)"
        );
        scan(self, sql, after, now).await
    }
}

/// The oldest ordered delivery to each endpoint, where it is due and no other is in flight.
async fn heads(
    connection: &mut SqliteConnection,
    endpoints: &[Uuid],
    now: Timestamp,
) -> Result<Vec<Uuid>> {
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    let found = sqlx::query_scalar(
        "SELECT h.id
         FROM (SELECT unhex(value) AS endpoint_id FROM json_each(?1)) t
         CROSS JOIN deliveries h
         WHERE h.id = (SELECT d.id FROM deliveries d INDEXED BY deliveries_ordered
                       WHERE d.status = 'pending' AND d.ordered = 1
                         AND d.endpoint_id = t.endpoint_id
                       ORDER BY d.event_received_at, d.id LIMIT 1)
           AND h.due_at <= ?2
           AND NOT EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_pending
                           WHERE d.status = 'pending' AND d.endpoint_id = t.endpoint_id
                             AND d.ordered = 1 AND d.due_at > ?2
                             AND d.lease_token IS NOT NULL)",
    )
    .bind(id_list(endpoints.iter().copied()))
    .bind(now.micros())
    .fetch_all(connection)
    .await?;
    Ok(found)
}

/// The unordered deliveries that a plan's endpoints give, the longest due first.
async fn next_in_turn(
    connection: &mut SqliteConnection,
    plan: &ClaimPlan,
    now: Timestamp,
) -> Result<Vec<Uuid>> {
    if plan.shares.is_empty() {
        return Ok(Vec::new());
    }
    let found: Vec<(Uuid, Uuid)> = sqlx::query_as(
        "SELECT d.id, d.endpoint_id
         FROM (SELECT unhex(value) AS endpoint_id FROM json_each(?1)) t
         CROSS JOIN deliveries d
         WHERE d.id IN (SELECT x.id FROM deliveries x INDEXED BY deliveries_pending
                        WHERE x.status = 'pending' AND x.endpoint_id = t.endpoint_id
                          AND x.ordered = 0 AND x.due_at <= ?2
                        ORDER BY x.due_at LIMIT ?3)
         ORDER BY d.due_at",
    )
    .bind(id_list(plan.shares.iter().map(|(endpoint, _)| *endpoint)))
    .bind(now.micros())
    .bind(i64::try_from(plan.each).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    let mut left: HashMap<Uuid, usize> = plan.shares.iter().copied().collect();
    let mut take = |endpoint: &Uuid| {
        let left = left.get_mut(endpoint)?;
        *left = left.checked_sub(1)?;
        Some(())
    };
    Ok(found.iter().filter_map(|(id, endpoint)| take(endpoint).map(|()| *id)).collect())
}

/// Deliveries with their events and endpoints, the longest due first.
async fn read(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
    lease: Lease,
    keyring: &Keyring,
) -> Result<Vec<LeasedDelivery>> {
    let sql = format!(
        "SELECT d.id AS delivery_id, d.attempts, {}
         FROM (SELECT unhex(value) AS id FROM json_each(?1)) c
         CROSS JOIN deliveries d ON d.id = c.id
         CROSS JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
         CROSS JOIN endpoints p ON p.id = d.endpoint_id
         ORDER BY d.due_at",
        columns()
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(id_list(ids.iter().copied()))
        .fetch_all(connection)
        .await?;
    leased(rows.into_iter().map(Row::Sqlite), lease, keyring)
}

async fn schedule(
    connection: &mut SqliteConnection,
    deliveries: &[LeasedDelivery],
    due_at: Option<Timestamp>,
    token: Option<Uuid>,
) -> Result<()> {
    if deliveries.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "UPDATE deliveries SET due_at = ?1, lease_token = ?2
         WHERE id IN (SELECT unhex(value) FROM json_each(?3))",
    )
    .bind(due_at.map(Timestamp::micros))
    .bind(token)
    .bind(id_list(deliveries.iter().map(|delivery| delivery.id.uuid())))
    .execute(connection)
    .await?;
    Ok(())
}
