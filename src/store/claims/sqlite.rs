//! Leases deliveries in SQLite.

use std::collections::HashMap;

use uuid::Uuid;

use super::due_scan::ClaimPlan;
use super::{ClaimRequest, columns, leased};
use crate::domain::{Lease, LeasedDelivery, Timestamp};
use crate::store::Result;
use crate::store::crypto::Keyring;
use crate::store::engine::{Engine, Row, Tx, args};

/// Leases the due deliveries of the plan's endpoints. The plan was made beside the writer, so that polling an
/// idle store never waits for it; what it found is checked again here.
pub(super) async fn lease(
    engine: &Engine,
    keyring: &Keyring,
    plan: &ClaimPlan,
    request: &ClaimRequest<'_>,
) -> Result<Vec<LeasedDelivery>> {
    let mut tx = engine.begin_long().await?;
    let mut ids = heads(&mut tx, &plan.heads, request.now).await?;
    ids.extend(unordered_due(&mut tx, plan, request.now).await?);
    ids.truncate(request.deliveries_max);
    let due = read(&mut tx, ids, request.lease, keyring).await?;
    // A lease may have lapsed after its endpoint was disabled.
    let (parked, due): (Vec<_>, Vec<_>) =
        due.into_iter().partition(|delivery| delivery.endpoint.disabled_reason.is_some());
    schedule(&mut tx, &parked, None, None).await?;
    let token = request.lease.token.uuid();
    schedule(&mut tx, &due, Some(request.lease.until), Some(token)).await?;
    tx.commit().await?;
    Ok(due)
}

/// The oldest ordered delivery to each endpoint, where it is due and no other is in flight.
async fn heads(tx: &mut Tx<'_>, endpoints: &[Uuid], now: Timestamp) -> Result<Vec<Uuid>> {
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT h.id
         FROM (SELECT unhex(value) AS endpoint_id FROM json_each($1)) t
         CROSS JOIN deliveries h
         WHERE h.id = (SELECT d.id FROM deliveries d INDEXED BY deliveries_ordered
                       WHERE d.status = 'pending' AND d.ordered = 1
                         AND d.endpoint_id = t.endpoint_id
                       ORDER BY d.event_received_at, d.id LIMIT 1)
           AND h.due_at <= $2
           AND NOT EXISTS (SELECT 1 FROM deliveries d INDEXED BY deliveries_pending
                           WHERE d.status = 'pending' AND d.endpoint_id = t.endpoint_id
                             AND d.ordered = 1 AND d.due_at > $2
                             AND d.lease_token IS NOT NULL)";
    tx.list(sql, args![endpoints.to_vec(), now], |row| row.get("id")).await
}

/// The unordered deliveries that a plan's endpoints give, the longest due first.
async fn unordered_due(tx: &mut Tx<'_>, plan: &ClaimPlan, now: Timestamp) -> Result<Vec<Uuid>> {
    if plan.shares.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT d.id, d.endpoint_id
         FROM (SELECT unhex(value) AS endpoint_id FROM json_each($1)) t
         CROSS JOIN deliveries d
         WHERE d.id IN (SELECT x.id FROM deliveries x INDEXED BY deliveries_pending
                        WHERE x.status = 'pending' AND x.endpoint_id = t.endpoint_id
                          AND x.ordered = 0 AND x.due_at <= $2
                        ORDER BY x.due_at LIMIT $3)
         ORDER BY d.due_at";
    let endpoints: Vec<Uuid> = plan.shares.iter().map(|(endpoint, _)| *endpoint).collect();
    let ids = |row: &Row| Ok((row.get("id")?, row.get("endpoint_id")?));
    let found: Vec<(Uuid, Uuid)> = tx.list(sql, args![endpoints, now, plan.each], ids).await?;
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
    tx: &mut Tx<'_>,
    ids: Vec<Uuid>,
    lease: Lease,
    keyring: &Keyring,
) -> Result<Vec<LeasedDelivery>> {
    let sql = format!(
        "SELECT d.id AS delivery_id, d.attempts, {}
         FROM (SELECT unhex(value) AS id FROM json_each($1)) c
         CROSS JOIN deliveries d ON d.id = c.id
         CROSS JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
         CROSS JOIN endpoints p ON p.id = d.endpoint_id
         ORDER BY d.due_at",
        columns()
    );
    leased(&tx.all(sql, args![ids]).await?, lease, keyring)
}

async fn schedule(
    tx: &mut Tx<'_>,
    deliveries: &[LeasedDelivery],
    due_at: Option<Timestamp>,
    token: Option<Uuid>,
) -> Result<()> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.id.uuid()).collect();
    let sql = "UPDATE deliveries SET due_at = $1, lease_token = $2
               WHERE id IN (SELECT unhex(value) FROM json_each($3))";
    tx.execute(sql, args![due_at, token, ids]).await?;
    Ok(())
}
