//! Leases deliveries in PostgreSQL.

use uuid::Uuid;

use super::due_scan::ClaimPlan;
use super::{ClaimRequest, columns, leased};
use crate::domain::LeasedDelivery;
use crate::store::Result;
use crate::store::crypto::Keyring;
use crate::store::engine::{Args, Engine, args};

/// Leases the due deliveries of the plan's endpoints.
pub(super) async fn lease(
    engine: &Engine,
    keyring: &Keyring,
    plan: &ClaimPlan,
    request: &ClaimRequest<'_>,
) -> Result<Vec<LeasedDelivery>> {
    if plan.heads.is_empty() {
        let rows = engine.all(settle(), settle_args(plan, Vec::new(), request)).await?;
        return leased(&rows, request.lease, keyring);
    }
    let mut tx = engine.begin().await?;
    // One instance at a time decides which delivery is next at an ordered endpoint, and reads once it has the
    // lock: it then sees everything that the others have done.
    let lock = "SELECT id FROM endpoints WHERE id = ANY ($1) ORDER BY id
                FOR NO KEY UPDATE SKIP LOCKED";
    let locked = tx.list(lock, args![plan.heads.clone()], |row| row.get("id")).await?;
    let rows = tx.all(settle(), settle_args(plan, locked, request)).await?;
    let leased = leased(&rows, request.lease, keyring)?;
    tx.commit().await?;
    Ok(leased)
}

/// The statement that leases deliveries of enabled endpoints, and parks or cancels those that slipped past a
/// change of their endpoint.
///
/// `status` and `finished_at` say the same; which one is asked for decides which index may be used
/// (see the schema).
fn settle() -> String {
    format!(
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
    )
}

/// The parameters of [`settle`]. `locked` are the plan's ordered endpoints that this instance has locked.
fn settle_args(plan: &ClaimPlan, locked: Vec<Uuid>, request: &ClaimRequest<'_>) -> Args<'static> {
    let (endpoints, most): (Vec<Uuid>, Vec<usize>) = plan.shares.iter().copied().unzip();
    let most: Vec<i64> =
        most.into_iter().map(|most| i64::try_from(most).unwrap_or(i64::MAX)).collect();
    let unordered_max = request.deliveries_max.saturating_sub(plan.heads.len());
    let (heads, lease) = (plan.heads.clone(), request.lease);
    args![
        request.now,
        endpoints,
        most,
        unordered_max,
        heads,
        locked,
        lease.until,
        lease.token.uuid(),
    ]
}
