//! Records outcomes in PostgreSQL, in one statement over arrays.

use sqlx::PgConnection;
use uuid::Uuid;

use super::endpoint_health::{self, EndpointHealth};
use super::row::{OutcomeRow, rows};
use crate::domain::{Attempt, DeadReason, ErrorClass, Outcome, Timestamp};
use crate::store::engine::{PostgresEngine, Row, column, timestamptz};
use crate::store::{Result, Store, storable};

/// Records outcomes and returns how many counted: one statement where every attempt succeeded.
/// Otherwise endpoints come first: what is released to a disabled one is then parked.
pub(super) async fn record(
    store: &Store,
    engine: &PostgresEngine,
    outcomes: &[Outcome],
    newest: Timestamp,
) -> Result<usize> {
    let health = EndpointHealth::of(outcomes);
    if health.is_quiet() {
        let connection = &mut *engine.pool.acquire().await?;
        return Ok(write(connection, outcomes, &health).await?.0);
    }
    let mut tx = store.engine.begin().await?;
    let enabled = lock_failing(tx.postgres()?, &health).await?;
    let mut events = health.write(&mut tx, &enabled).await?;
    let (counted, exhausted) = write(tx.postgres()?, outcomes, &health).await?;
    events.extend(endpoint_health::exhausted(&mut tx, exhausted).await?);
    store.publish(&mut tx, events, newest).await?;
    tx.commit().await?;
    Ok(counted)
}

/// Locks the failing endpoints whose health changes, in key order, and before them their organisations,
/// as [`orgs::hold`](crate::store::orgs::hold) says: audit log and operational events refer to them.
async fn lock_failing(connection: &mut PgConnection, health: &EndpointHealth) -> Result<Vec<Row>> {
    if health.failing.is_empty() {
        return Ok(Vec::new());
    }
    let limits = health.failing.iter().map(|failing| timestamptz(failing.limit));
    let gone = health.failing.iter().map(|failing| failing.gone);
    let rows = sqlx::query(
        "SELECT p.id, p.org_id, p.failing_since
         FROM unnest($1::uuid[], $2::timestamptz[], $3::boolean[]) AS f (id, failing_limit, gone)
         JOIN endpoints p ON p.id = f.id
         CROSS JOIN LATERAL (SELECT 1 FROM orgs o WHERE o.id = p.org_id FOR KEY SHARE) o
         WHERE p.disabled_reason IS NULL
           AND (p.failing_since IS NULL OR p.failing_since <= f.failing_limit OR f.gone)
         ORDER BY p.id
         FOR UPDATE OF p",
    )
    .bind(health.failing_ids())
    .bind(limits.collect::<Vec<_>>())
    .bind(gone.collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(Row::Postgres).collect())
}

/// Locks the deliveries whose lease still holds, in key order, and then those of their
/// endpoints that are disabled: a concurrent enabling has then committed, or sees what is parked here.
/// Only pending deliveries carry a token, so the token suffices.
///
/// Returns how many outcomes counted, and the deliveries that have used up their attempts by them.
async fn write(
    connection: &mut PgConnection,
    outcomes: &[Outcome],
    health: &EndpointHealth,
) -> Result<(usize, Vec<Uuid>)> {
    let rows = rows(outcomes);
    // Known bounds leave all other days out of the plan.
    let oldest = rows.iter().map(|row| row.event_received_at).min().map(timestamptz);
    let newest = rows.iter().map(|row| row.event_received_at).max().map(timestamptz);
    let (counted, exhausted): (i64, Vec<Uuid>) = sqlx::query_as(
        "WITH held AS (
                 SELECT v.*, d.org_id, d.event_id, d.endpoint_id
                 FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::text[], $5::bigint[],
                             $6::timestamptz[], $7::timestamptz[], $8::text[],
                             $9::timestamptz[], $10::bigint[], $11::timestamptz[],
                             $12::bigint[], $13::bigint[], $14::text[], $15::text[],
                             $16::text[])
                     AS v (id, event_received_at, token, status, attempts_made, retry_at,
                           finished_at, dead_reason, decided_at, number, started_at,
                           duration_ms, status_code, error_class, error, response_excerpt)
                 CROSS JOIN LATERAL (
                     SELECT d.org_id, d.event_id, d.endpoint_id FROM deliveries d
                     WHERE d.id = v.id AND d.event_received_at = v.event_received_at
                       AND d.event_received_at BETWEEN $17 AND $18
                       AND d.lease_token = v.token
                     FOR UPDATE
                 ) d
             ), disabled AS (
                 SELECT p.id FROM endpoints p
                 WHERE p.disabled_reason IS NOT NULL
                   AND p.id IN (SELECT endpoint_id FROM held WHERE retry_at IS NOT NULL)
                 ORDER BY p.id
                 FOR SHARE
             ), attempted AS (
                 INSERT INTO delivery_attempts
                     (delivery_id, org_id, event_received_at, number, started_at, duration_ms,
                      status_code, error_class, error, response_excerpt)
                 SELECT id, org_id, event_received_at, number, started_at, duration_ms,
                        status_code, error_class, error, response_excerpt
                 FROM held WHERE number IS NOT NULL
                 ON CONFLICT DO NOTHING
             ), dead AS (
                 INSERT INTO dead_letters
                     (id, org_id, event_id, delivery_id, endpoint_id, reason, detail, created_at)
                 SELECT id, org_id, event_id, id, endpoint_id, dead_reason, error, decided_at
                 FROM held WHERE dead_reason IS NOT NULL
                 ON CONFLICT (id) DO NOTHING
                 RETURNING id, reason
             ), recovered AS (
                 UPDATE endpoints p SET failing_since = NULL
                 WHERE p.id = ANY ($19) AND p.failing_since IS NOT NULL
             ), done AS (
                 UPDATE deliveries d
                 SET status = h.status,
                     attempts = d.attempts + h.attempts_made,
                     due_at = CASE WHEN off.id IS NULL THEN h.retry_at END,
                     lease_token = NULL,
                     finished_at = h.finished_at
                 FROM held h LEFT JOIN disabled off ON off.id = h.endpoint_id
                 WHERE d.id = h.id AND d.event_received_at = h.event_received_at
                   AND d.event_received_at BETWEEN $17 AND $18
                 RETURNING 1
             )
             SELECT (SELECT count(*) FROM done),
                    ARRAY(SELECT id FROM dead WHERE reason = $20)",
    )
    .bind(column(&rows, |row| row.delivery_id))
    .bind(column(&rows, |row| timestamptz(row.event_received_at)))
    .bind(column(&rows, |row| row.token))
    .bind(column(&rows, |row| row.status))
    .bind(column(&rows, OutcomeRow::attempts_made))
    .bind(column(&rows, |row| row.retry_at.map(timestamptz)))
    .bind(column(&rows, |row| row.finished_at().map(timestamptz)))
    .bind(column(&rows, |row| row.dead_letter().map(|(_, reason)| reason)))
    .bind(column(&rows, |row| timestamptz(row.decided_at)))
    .bind(column(&rows, |row| Some(i64::from(attempt(row)?.number))))
    .bind(column(&rows, |row| Some(timestamptz(attempt(row)?.started_at))))
    .bind(column(&rows, |row| Some(i64::from(attempt(row)?.duration_ms))))
    .bind(column(&rows, |row| attempt(row)?.status_code.map(i64::from)))
    .bind(column(&rows, |row| attempt(row)?.error_class.map(ErrorClass::as_str)))
    .bind(column(&rows, |row| attempt(row)?.error.as_deref().map(storable)))
    .bind(column(&rows, |row| attempt(row)?.response_excerpt.as_deref().map(storable)))
    .bind(oldest)
    .bind(newest)
    .bind(&health.working)
    .bind(DeadReason::Exhausted.as_str())
    .fetch_one(connection)
    .await?;
    Ok((usize::try_from(counted).unwrap_or(0), exhausted))
}

fn attempt<'a>(row: &OutcomeRow<'a>) -> Option<&'a Attempt> {
    row.attempt().map(|(_, attempt)| attempt)
}
