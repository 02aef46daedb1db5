//! Claiming: which deliveries are attempted next.

use std::collections::HashMap;

use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::{SqliteEngine, id_list};
use crate::domain::{Lease, LeasedDelivery, Timestamp};
use crate::store::claim::{Lookout, Plan, STEPS_MAX, Stop, WINDOW};
use crate::store::crypto::Keyring;
use crate::store::rows::endpoint_columns;
use crate::store::{ClaimRequest, Claimed, StoreError, lease};

impl SqliteEngine {
    /// Looks beside the writer, so that polling an idle store never waits for it, and looks again at
    /// what it found once it can write.
    pub(crate) async fn claim(&self, request: ClaimRequest<'_>) -> Result<Claimed, StoreError> {
        let plan = request.plan(self).await?;
        if plan.is_empty() {
            return Ok(plan.claimed(Vec::new()));
        }
        let (_turn, mut tx) = self.begin_long().await?;
        let mut ids = heads(&mut tx, &plan.heads, request.now).await?;
        ids.extend(next_in_turn(&mut tx, &plan, request.now).await?);
        ids.truncate(request.deliveries_max);
        let due = leased(&mut tx, &ids, request.lease, &self.keyring).await?;
        // A lease may have lapsed after its endpoint was disabled.
        let (parked, due): (Vec<_>, Vec<_>) =
            due.into_iter().partition(|delivery| delivery.endpoint.disabled_reason.is_some());
        schedule(&mut tx, &parked, None, None).await?;
        schedule(&mut tx, &due, Some(request.lease.until), Some(request.lease.token.uuid()))
            .await?;
        tx.commit().await?;
        Ok(plan.claimed(due))
    }

    pub(crate) async fn walk(
        &self,
        sql: &'static str,
        after: Uuid,
        now: Timestamp,
    ) -> Result<Vec<Stop>, StoreError> {
        let found: Vec<(Uuid, bool)> = sqlx::query_as(sql)
            .bind(after)
            .bind(now.micros())
            .bind(i64::try_from(STEPS_MAX).unwrap_or(i64::MAX))
            .fetch_all(&self.readers)
            .await?;
        Ok(found.into_iter().map(|(endpoint, ready)| Stop { endpoint, ready }).collect())
    }
}

/// One walk over the endpoints of an index: each step is a seek.
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

impl Lookout for SqliteEngine {
    async fn due_longest(&self, now: Timestamp) -> Result<Vec<(Uuid, i64)>, StoreError> {
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

    async fn steps(&self, after: Uuid, now: Timestamp) -> Result<Vec<Stop>, StoreError> {
        let sql = steps!(
            "deliveries_pending",
            "d.status = 'pending'",
            "EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_pending
                     WHERE d.status = 'pending' AND d.endpoint_id = step.endpoint_id
                       AND d.ordered = 0 AND d.due_at <= ?2)"
        );
        self.walk(sql, after, now).await
    }

    async fn ordered_steps(&self, after: Uuid, now: Timestamp) -> Result<Vec<Stop>, StoreError> {
        let sql = steps!(
            "deliveries_ordered",
            "d.status = 'pending' AND d.ordered = 1",
            "coalesce((SELECT d.due_at FROM deliveries d INDEXED BY deliveries_ordered
                       WHERE d.status = 'pending' AND d.ordered = 1
                         AND d.endpoint_id = step.endpoint_id
                       ORDER BY d.event_received_at, d.id LIMIT 1) <= ?2, 0)"
        );
        self.walk(sql, after, now).await
    }
}

/// The oldest ordered delivery to each endpoint, where it is due and no other is in flight.
async fn heads(
    connection: &mut SqliteConnection,
    endpoints: &[Uuid],
    now: Timestamp,
) -> Result<Vec<Uuid>, StoreError> {
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
    plan: &Plan,
    now: Timestamp,
) -> Result<Vec<Uuid>, StoreError> {
    if plan.turns.is_empty() {
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
    .bind(id_list(plan.turns.iter().map(|(endpoint, _)| *endpoint)))
    .bind(now.micros())
    .bind(i64::try_from(plan.each).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    let mut left: HashMap<Uuid, usize> = plan.turns.iter().copied().collect();
    let mut take = |endpoint: &Uuid| {
        let left = left.get_mut(endpoint)?;
        *left = left.checked_sub(1)?;
        Some(())
    };
    Ok(found.iter().filter_map(|(id, endpoint)| take(endpoint).map(|()| *id)).collect())
}

/// Deliveries with their events and endpoints, the longest due first.
async fn leased(
    connection: &mut SqliteConnection,
    ids: &[Uuid],
    lease: Lease,
    keyring: &Keyring,
) -> Result<Vec<LeasedDelivery>, StoreError> {
    let found = sqlx::query(concat!(
        "SELECT d.id, d.attempts,
                e.id, e.org_id, e.event_type, e.payload, e.dedup_id, e.account_id, e.user_id,
                e.occurred_at, e.received_at, e.trace_id, ",
        endpoint_columns!("p."),
        "
         FROM (SELECT unhex(value) AS id FROM json_each(?1)) c
         CROSS JOIN deliveries d ON d.id = c.id
         CROSS JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
         CROSS JOIN endpoints p ON p.id = d.endpoint_id
         ORDER BY d.due_at"
    ))
    .bind(id_list(ids.iter().copied()))
    .fetch_all(connection)
    .await?;
    lease::leased::<SqliteRow>(&found, lease, keyring)
}

async fn schedule(
    connection: &mut SqliteConnection,
    deliveries: &[LeasedDelivery],
    due_at: Option<Timestamp>,
    token: Option<Uuid>,
) -> Result<(), StoreError> {
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
