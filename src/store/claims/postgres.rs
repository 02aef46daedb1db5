//! Leases deliveries in PostgreSQL.
//!
//! Two statements: the lease, in the pending deliveries only, and then the events, whose days are constants by
//! then, so that partitions of other days cost nothing.

use std::collections::HashMap;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::due_index::{IS_SENT_TO, head, kept};
use super::{
    Claimed, EventKey, LeaseRequest, LeasedRow, LeasedRows, claimed, event_keys, if_readable,
};
use crate::store::engine::{
    Args, Dialect, Engine, PgSession, Row, Tx, answered, args, column, timestamptz,
};
use crate::store::{Result, events};

/// Leases the due deliveries of the granted endpoints.
pub(super) async fn lease(engine: &Engine, request: LeaseRequest<'_>) -> Result<Claimed> {
    let mut tx = engine.begin().await?;
    let leased = leases(&mut tx, &request).await?;
    let events = events(tx.postgres()?, &event_keys(&leased.rows)).await?;
    tx.commit().await?;
    Ok(claimed(leased, &events, request.lease))
}

/// [`lease`] without reading the events.
pub(super) async fn lease_only(engine: &Engine, request: LeaseRequest<'_>) -> Result<LeasedRows> {
    let mut tx = engine.begin().await?;
    let leased = leases(&mut tx, &request).await?;
    tx.commit().await?;
    Ok(leased)
}

async fn leases(tx: &mut Tx<'_>, request: &LeaseRequest<'_>) -> Result<LeasedRows> {
    let mut heads: Vec<Uuid> = request.grants(true).map(|grant| grant.endpoint.uuid()).collect();
    if !heads.is_empty() {
        // One instance at a time decides which delivery is next at an ordered endpoint, and reads once it has the
        // lock: it then sees everything that the others have done.
        let lock = "SELECT id FROM endpoints WHERE id = ANY ($1) ORDER BY id
                    FOR NO KEY UPDATE SKIP LOCKED";
        heads = tx.list(lock, args![heads], |row| row.get("id")).await?;
    }
    let args = lease_args(heads, request);
    let mut leased = LeasedRows::default();
    for row in tx.all(lease_sql(), args).await? {
        if let Some(bytes) = row.get_opt("too_large")? {
            leased.too_large.insert(row.get("endpoint_id")?, bytes);
        } else {
            leased.rows.extend(if_readable(LeasedRow::read(&row)));
        }
    }
    Ok(leased)
}

/// The statement that leases. `found` has what may be leased of each endpoint; `summed` adds up its bytes; `held` locks
/// what fits. Of each endpoint the first that does not fit is returned, too, with its size.
fn lease_sql() -> String {
    const KEY: &str = "d.org_id, d.created_at, d.id, d.due_at, d.payload_bytes";
    format!(
        "WITH granted AS MATERIALIZED (
             SELECT g.most, g.bytes_max, p.id, p.ordered, p.cancel_before
             FROM unnest($2::uuid[], $3::bigint[], $4::bigint[]) AS g (endpoint_id, most, bytes_max)
             CROSS JOIN LATERAL (
                 SELECT * FROM endpoints p WHERE p.id = g.endpoint_id AND {IS_SENT_TO} LIMIT 1
             ) p
         ), found AS (
             SELECT d.*, g.id AS endpoint_id, g.most, g.bytes_max, false AS ordered,
                    row_number() OVER (PARTITION BY g.id ORDER BY d.due_at, d.id) AS nth
             FROM granted g
             CROSS JOIN LATERAL (
                 (SELECT {KEY} FROM pending_deliveries d
                  WHERE g.cancel_before IS NULL AND d.lease_token IS NULL
                    AND d.endpoint_id = g.id AND d.ordered = false AND d.due_at <= $1
                  ORDER BY d.due_at LIMIT g.most)
                 UNION ALL
                 (SELECT {KEY} FROM pending_deliveries d
                  WHERE g.cancel_before IS NULL AND NOT g.ordered AND d.lease_token IS NULL
                    AND d.endpoint_id = g.id AND d.ordered = true AND d.due_at <= $1
                  ORDER BY d.due_at LIMIT g.most)
                 UNION ALL
                 (SELECT {KEY} FROM {}
                  WHERE g.cancel_before IS NOT NULL AND d.lease_token IS NULL AND d.due_at <= $1
                    AND (NOT d.ordered OR NOT g.ordered)
                  ORDER BY d.created_at LIMIT g.most)
             ) d
             UNION ALL
             SELECT {KEY}, h.endpoint_id, 1 AS most, h.bytes_max, true AS ordered, 1 AS nth
             FROM unnest($5::uuid[], $6::bigint[]) AS h (endpoint_id, bytes_max)
             JOIN endpoints p ON p.id = h.endpoint_id
             CROSS JOIN LATERAL {}
             WHERE {IS_SENT_TO} AND p.ordered AND d.lease_token IS NULL AND d.due_at <= $1
               AND NOT EXISTS (SELECT 1 FROM pending_deliveries l
                               WHERE l.ordered AND l.lease_token IS NOT NULL
                                 AND l.endpoint_id = h.endpoint_id)
         ), summed AS MATERIALIZED (
             SELECT f.*, sum(f.payload_bytes) OVER (PARTITION BY f.endpoint_id, f.ordered
                                                    ORDER BY f.nth ROWS UNBOUNDED PRECEDING) AS bytes
             FROM found f WHERE f.nth <= f.most
         ), held AS MATERIALIZED (
             SELECT d.place_in_table, f.due_at, f.ordered
             FROM (SELECT * FROM summed WHERE bytes <= bytes_max ORDER BY org_id, created_at, id) f
             CROSS JOIN LATERAL (
                 SELECT d.ctid AS place_in_table FROM pending_deliveries d
                 WHERE d.org_id = f.org_id AND d.created_at = f.created_at AND d.id = f.id
                   AND d.lease_token IS NULL AND d.due_at <= $1
                 FOR UPDATE SKIP LOCKED
             ) d
         ), leased AS (
             UPDATE pending_deliveries d SET due_at = $7, lease_token = $8
             FROM held h
             WHERE d.ctid = h.place_in_table
             RETURNING d.org_id, d.id, d.event_id, d.event_received_at, d.endpoint_id, d.attempts,
                       h.ordered, h.due_at AS was_due_at
         )
         SELECT *, NULL::bigint AS too_large FROM leased
         UNION ALL
         SELECT org_id, id, NULL, NULL, endpoint_id, NULL, ordered, due_at, payload_bytes::bigint
         FROM summed WHERE bytes > bytes_max AND bytes - payload_bytes <= bytes_max",
        kept(Dialect::Postgres, "g.id", "g.cancel_before"),
        head(Dialect::Postgres, "h.endpoint_id", "p.cancel_before"),
    )
}

/// The parameters of [`lease_sql`]. `heads` are the ordered endpoints that this instance has locked.
fn lease_args(heads: Vec<Uuid>, request: &LeaseRequest<'_>) -> Args<'static> {
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let (mut endpoints, mut most, mut bytes): (Vec<Uuid>, Vec<i64>, Vec<i64>) = <_>::default();
    for grant in request.grants(false) {
        endpoints.push(grant.endpoint.uuid());
        most.push(number(grant.deliveries_max));
        bytes.push(number(grant.bytes_max));
    }
    let of_heads: HashMap<Uuid, i64> = request
        .grants(true)
        .map(|grant| (grant.endpoint.uuid(), number(grant.bytes_max)))
        .collect();
    let head_bytes: Vec<i64> =
        heads.iter().map(|head| of_heads.get(head).copied().unwrap_or_default()).collect();
    let lease = request.lease;
    args![request.now, endpoints, most, bytes, heads, head_bytes, lease.until, lease.token.uuid()]
}

/// Events by their keys, those that are there. Those of days that were dropped are held apart.
async fn events(session: &mut PgSession, keys: &[EventKey]) -> Result<Vec<Row>> {
    let mut found = events_in(session, "events", keys).await?;
    if found.len() < keys.len() {
        found.extend(events_in(session, "held_events", keys).await?);
    }
    Ok(found)
}

async fn events_in(
    session: &mut PgSession,
    table: &'static str,
    keys: &[EventKey],
) -> Result<Vec<Row>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT e.* FROM unnest($1::uuid[], $2::timestamptz[]) AS k (id, received_at)
         CROSS JOIN LATERAL (
             SELECT {} FROM {table} e
             WHERE e.id = k.id AND e.received_at = k.received_at
               AND e.received_at BETWEEN $3 AND $4
             LIMIT 1
         ) e",
        events::COLUMNS
    );
    let rows = answered(
        session.host(),
        sqlx::query(AssertSqlSafe(sql))
            .bind(column(keys, |(id, _)| id.uuid()))
            .bind(column(keys, |(_, at)| timestamptz(*at)))
            .bind(keys.iter().map(|(_, at)| *at).min().map(timestamptz))
            .bind(keys.iter().map(|(_, at)| *at).max().map(timestamptz))
            .persistent(session.is_prepared())
            .fetch_all(session.connection()?),
    )
    .await?;
    Ok(rows.into_iter().map(Row::Postgres).collect())
}
