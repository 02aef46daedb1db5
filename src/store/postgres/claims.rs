//! Claiming: which deliveries are attempted next.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{PostgresEngine, moment};
use crate::domain::{LeasedDelivery, Timestamp};
use crate::store::claim::{Lookout, Plan, STEPS_MAX, Stop, WINDOW};
use crate::store::crypto::Keyring;
use crate::store::rows::endpoint_columns;
use crate::store::{ClaimRequest, Claimed, StoreError, lease};

impl PostgresEngine {
    /// Finds out, without locks, whose turn it is, and then settles what is due of theirs.
    pub(crate) async fn claim(&self, request: ClaimRequest<'_>) -> Result<Claimed, StoreError> {
        let plan = request.plan(self).await?;
        if plan.is_empty() {
            return Ok(plan.claimed(Vec::new()));
        }
        if plan.heads.is_empty() {
            let leased =
                settle(&mut *self.pool.acquire().await?, &plan, &[], &request, &self.keyring)
                    .await?;
            return Ok(plan.claimed(leased));
        }
        let mut tx = self.pool.begin().await?;
        // One instance at a time decides what is next at an ordered endpoint, and looks once it may:
        // what it sees then is all that the others have done.
        let locked: Vec<Uuid> = sqlx::query_scalar(
            "SELECT id FROM endpoints WHERE id = ANY ($1) ORDER BY id
             FOR NO KEY UPDATE SKIP LOCKED",
        )
        .bind(&plan.heads)
        .fetch_all(&mut *tx)
        .await?;
        let leased = settle(&mut tx, &plan, &locked, &request, &self.keyring).await?;
        tx.commit().await?;
        Ok(plan.claimed(leased))
    }

    pub(crate) async fn walk(
        &self,
        sql: &'static str,
        after: Uuid,
        now: Timestamp,
    ) -> Result<Vec<Stop>, StoreError> {
        let found: Vec<(Uuid, bool)> = sqlx::query_as(sql)
            .bind(after)
            .bind(moment(now))
            .bind(i64::try_from(STEPS_MAX).unwrap_or(i64::MAX))
            .fetch_all(&self.pool)
            .await?;
        Ok(found.into_iter().map(|(endpoint, ready)| Stop { endpoint, ready }).collect())
    }
}

/// Leases what has an enabled endpoint, and makes good what slipped past a change of its endpoint by
/// parking or cancelling it. `locked` are those of the plan's ordered endpoints that are ours.
///
/// `status` and `finished_at` say the same; which one is asked for decides which index may be used
/// (see the schema).
async fn settle(
    connection: &mut PgConnection,
    plan: &Plan,
    locked: &[Uuid],
    request: &ClaimRequest<'_>,
    keyring: &Keyring,
) -> Result<Vec<LeasedDelivery>, StoreError> {
    let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let endpoints: Vec<Uuid> = plan.turns.iter().map(|(endpoint, _)| *endpoint).collect();
    let most: Vec<i64> = plan.turns.iter().map(|(_, most)| number(*most)).collect();
    let found = sqlx::query(concat!(
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
         SELECT s.id, s.attempts,
                e.id, e.org_id, e.event_type, e.payload, e.dedup_id, e.account_id, e.user_id,
                e.occurred_at, e.received_at, e.trace_id, ",
        endpoint_columns!("p."),
        "
         FROM settled s
         JOIN events e ON e.id = s.event_id AND e.received_at = s.event_received_at
         JOIN endpoints p ON p.id = s.endpoint_id
         WHERE s.enabled
         ORDER BY s.due_at"
    ))
    .bind(moment(request.now))
    .bind(endpoints)
    .bind(most)
    .bind(number(request.deliveries_max.saturating_sub(plan.heads.len())))
    .bind(&plan.heads)
    .bind(locked)
    .bind(moment(request.lease.until))
    .bind(request.lease.token.uuid())
    .fetch_all(connection)
    .await?;
    lease::leased(&found, request.lease, keyring)
}

/// One walk over the endpoints of an index: each step is a seek in every partition.
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

impl Lookout for PostgresEngine {
    async fn due_longest(&self, now: Timestamp) -> Result<Vec<(Uuid, i64)>, StoreError> {
        let found = sqlx::query_as(
            "SELECT endpoint_id, count(*) FROM
                 (SELECT endpoint_id, due_at FROM deliveries
                  WHERE finished_at IS NULL AND NOT ordered AND due_at <= $1
                  ORDER BY due_at LIMIT $2) due
             GROUP BY endpoint_id ORDER BY min(due_at)",
        )
        .bind(moment(now))
        .bind(i64::try_from(WINDOW).unwrap_or(i64::MAX))
        .fetch_all(&self.pool)
        .await?;
        Ok(found)
    }

    async fn steps(&self, after: Uuid, now: Timestamp) -> Result<Vec<Stop>, StoreError> {
        let sql = steps!(
            "d.status = 'pending'",
            "EXISTS (SELECT 1 FROM deliveries d
                     WHERE d.status = 'pending' AND d.endpoint_id = step.endpoint_id
                       AND d.ordered = false AND d.due_at <= $2)"
        );
        self.walk(sql, after, now).await
    }

    async fn ordered_steps(&self, after: Uuid, now: Timestamp) -> Result<Vec<Stop>, StoreError> {
        let sql = steps!(
            "d.finished_at IS NULL AND d.ordered",
            "coalesce((SELECT d.due_at FROM deliveries d
                       WHERE d.finished_at IS NULL AND d.ordered
                         AND d.endpoint_id = step.endpoint_id
                       ORDER BY d.event_received_at, d.id LIMIT 1) <= $2, false)"
        );
        self.walk(sql, after, now).await
    }
}
