//! Claims deliveries in PostgreSQL.

use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::due_scan::{ClaimPlan, DueIndex, SCAN_MAX, ScannedEndpoint, WINDOW};
use super::{ClaimRequest, Claimed, columns, leased};
use crate::domain::{LeasedDelivery, Timestamp};
use crate::store::Result;
use crate::store::crypto::Keyring;
use crate::store::engine::{PostgresEngine, Row, timestamptz};

/// Plans without locks, and then settles the due deliveries of the plan's endpoints.
pub(super) async fn claim(
    engine: &PostgresEngine,
    keyring: &Keyring,
    request: ClaimRequest<'_>,
) -> Result<Claimed> {
    let plan = request.plan(engine).await?;
    if plan.is_empty() {
        return Ok(plan.claimed(Vec::new()));
    }
    if plan.heads.is_empty() {
        let connection = &mut *engine.pool.acquire().await?;
        let leased = settle(connection, &plan, &[], &request, keyring).await?;
        return Ok(plan.claimed(leased));
    }
    let mut tx = engine.pool.begin().await?;
    // One instance at a time decides which delivery is next at an ordered endpoint, and reads once it has the
    // lock: it then sees everything that the others have done.
    let locked: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM endpoints WHERE id = ANY ($1) ORDER BY id
         FOR NO KEY UPDATE SKIP LOCKED",
    )
    .bind(&plan.heads)
    .fetch_all(&mut *tx)
    .await?;
    let leased = settle(&mut tx, &plan, &locked, &request, keyring).await?;
    tx.commit().await?;
    Ok(plan.claimed(leased))
}

async fn scan(
    engine: &PostgresEngine,
    sql: &'static str,
    after: Uuid,
    now: Timestamp,
) -> Result<Vec<ScannedEndpoint>> {
    let found: Vec<(Uuid, bool)> = sqlx::query_as(sql)
        .bind(after)
        .bind(timestamptz(now))
        .bind(i64::try_from(SCAN_MAX).unwrap_or(i64::MAX))
        .fetch_all(&engine.pool)
        .await?;
    Ok(found.into_iter().map(|(endpoint, ready)| ScannedEndpoint { endpoint, ready }).collect())
}

/// Leases deliveries of enabled endpoints, and parks or cancels those that slipped past a change of their
/// endpoint. `locked` are the plan's ordered endpoints that this instance has locked.
///
/// `status` and `finished_at` say the same; which one is asked for decides which index may be used
/// (see the schema).
async fn settle(
    connection: &mut PgConnection,
    plan: &ClaimPlan,
    locked: &[Uuid],
    request: &ClaimRequest<'_>,
    keyring: &Keyring,
) -> Result<Vec<LeasedDelivery>> {
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let endpoints: Vec<Uuid> = plan.shares.iter().map(|(endpoint, _)| *endpoint).collect();
    let most: Vec<i64> = plan.shares.iter().map(|(_, most)| number(*most)).collect();
    let sql = format!(
        "WITH free AS (
             SELECT d.id, d.event_received_at, d.endpoint_id, d.due_at
             FROM unnest($2::uuid[], $3::bigint[]) AS t (endpoint_id, most)
             CROSS JOIN LATERAL (
                 SELECT d.id, d.event_received_at, d.endpoint_id, d.due_at FROM deliveries d
                 WHERE d.status = 'pending' AND d.endpoint_id = t.endpoint_id
                   AND d.ordered = false AND d.due_at <= $1
                 ORDER BY d.due_at LIMIT t.most
                 FOR UPDATE SKIP LOCKED
             ) d
             LIMIT $4
         ), heads AS (
             SELECT d.id, d.event_received_at, d.endpoint_id, d.due_at
             FROM unnest($5::uuid[]) AS t (endpoint_id)
             CROSS JOIN LATERAL (
                 SELECT h.id, h.event_received_at FROM deliveries h
                 WHERE h.finished_at IS NULL AND h.ordered AND h.endpoint_id = t.endpoint_id
                 ORDER BY h.event_received_at, h.id LIMIT 1
             ) h
             CROSS JOIN LATERAL (
                 SELECT d.id, d.event_received_at, d.endpoint_id, d.due_at FROM deliveries d
                 WHERE d.id = h.id AND d.event_received_at = h.event_received_at
                   AND d.status = 'pending' AND d.due_at <= $1
                 FOR UPDATE SKIP LOCKED
             ) d
             WHERE (t.endpoint_id = ANY ($6)
                    OR NOT EXISTS (SELECT 1 FROM endpoints p WHERE p.id = t.endpoint_id))
               AND NOT EXISTS (SELECT 1 FROM deliveries l
                               WHERE l.status = 'pending' AND l.ordered
                                 AND l.endpoint_id = t.endpoint_id AND l.due_at > $1
                                 AND l.lease_token IS NOT NULL)
         ), due AS (
             SELECT * FROM free UNION ALL SELECT * FROM heads
         ), judged AS (
             SELECT due.*, p.id IS NULL AS removed,
                    p.id IS NOT NULL AND p.disabled_reason IS NULL AS enabled
             FROM due LEFT JOIN endpoints p ON p.id = due.endpoint_id
         ), settled AS (
             UPDATE deliveries d
             SET status = CASE WHEN j.removed THEN 'cancelled' ELSE d.status END,
                 due_at = CASE WHEN j.enabled THEN $7::timestamptz END,
                 lease_token = CASE WHEN j.enabled THEN $8::uuid END,
                 finished_at = CASE WHEN j.removed THEN $1::timestamptz END
             FROM judged j
             WHERE d.id = j.id AND d.event_received_at = j.event_received_at
             RETURNING d.id, d.attempts, d.event_id, d.event_received_at, d.endpoint_id,
                       j.due_at, j.enabled
         )
         SELECT s.id AS delivery_id, s.attempts, {}
         FROM settled s
         JOIN events e ON e.id = s.event_id AND e.received_at = s.event_received_at
         JOIN endpoints p ON p.id = s.endpoint_id
         WHERE s.enabled
         ORDER BY s.due_at",
        columns()
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(timestamptz(request.now))
        .bind(endpoints)
        .bind(most)
        .bind(number(request.deliveries_max.saturating_sub(plan.heads.len())))
        .bind(&plan.heads)
        .bind(locked)
        .bind(timestamptz(request.lease.until))
        .bind(request.lease.token.uuid())
        .fetch_all(connection)
        .await?;
    leased(rows.into_iter().map(Row::Postgres), request.lease, keyring)
}

/// Scans the endpoints of an index: each step is a seek in every partition.
macro_rules! steps {
    ($which:literal, $ready:literal) => {
        concat!(
            "WITH RECURSIVE step (endpoint_id, number) AS (
                 SELECT (SELECT d.endpoint_id FROM deliveries d
                         WHERE ",
            $which,
            "              AND d.endpoint_id > $1
                         ORDER BY d.endpoint_id LIMIT 1), 1
                 UNION ALL
                 SELECT (SELECT d.endpoint_id FROM deliveries d
                         WHERE ",
            $which,
            "              AND d.endpoint_id > step.endpoint_id
                         ORDER BY d.endpoint_id LIMIT 1), number + 1
                 FROM step WHERE step.endpoint_id IS NOT NULL AND number < $3
             )
             SELECT step.endpoint_id, ",
            $ready,
            " FROM step WHERE step.endpoint_id IS NOT NULL"
        )
    };
}

impl DueIndex for PostgresEngine {
    async fn due_longest(&self, now: Timestamp) -> Result<Vec<(Uuid, i64)>> {
        let found = sqlx::query_as(
            "SELECT endpoint_id, count(*) FROM
                 (SELECT endpoint_id, due_at FROM deliveries
                  WHERE finished_at IS NULL AND NOT ordered AND due_at <= $1
                  ORDER BY due_at LIMIT $2) due
             GROUP BY endpoint_id ORDER BY min(due_at)",
        )
        .bind(timestamptz(now))
        .bind(i64::try_from(WINDOW).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    async fn scan(&self, after: Uuid, now: Timestamp) -> Result<Vec<ScannedEndpoint>> {
        let sql = steps!(
            "d.status = 'pending'",
            "EXISTS (SELECT 1 FROM deliveries d
                     WHERE d.status = 'pending' AND d.endpoint_id = step.endpoint_id
                       AND d.ordered = false AND d.due_at <= $2)"
        );
        scan(self, sql, after, now).await
    }

    async fn scan_ordered(&self, after: Uuid, now: Timestamp) -> Result<Vec<ScannedEndpoint>> {
        let sql = steps!(
            "d.finished_at IS NULL AND d.ordered",
            "coalesce((SELECT d.due_at FROM deliveries d
                       WHERE d.finished_at IS NULL AND d.ordered
                         AND d.endpoint_id = step.endpoint_id
                       ORDER BY d.event_received_at, d.id LIMIT 1) <= $2, false)"
        );
        scan(self, sql, after, now).await
    }
}
