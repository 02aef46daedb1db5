//! Records outcomes in PostgreSQL, in one statement over arrays.

use std::borrow::Cow;

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::endpoint_health::{self, EndpointHealth};
use super::row::{OutcomeRow, rows};
use crate::domain::{Attempt, DeadReason, ErrorClass, Outcome, Timestamp};
use crate::store::engine::{PostgresEngine, Row, timestamptz};
use crate::store::{Store, StoreError, storable};

/// Records outcomes and returns how many counted: one statement where every attempt succeeded.
/// Otherwise endpoints come first: what is released to a disabled one is then parked.
pub(super) async fn record(
    store: &Store,
    engine: &PostgresEngine,
    outcomes: &[Outcome],
    newest: Timestamp,
) -> Result<usize, StoreError> {
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
async fn lock_failing(
    connection: &mut PgConnection,
    health: &EndpointHealth,
) -> Result<Vec<Row>, StoreError> {
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
) -> Result<(usize, Vec<Uuid>), StoreError> {
    let rows = rows(outcomes);
    let outcome = OutcomeColumns::new(&rows);
    let attempt = AttemptColumns::new(&rows);
    // Known bounds leave all other days out of the plan.
    let oldest = outcome.event_received_at.iter().min().copied();
    let newest = outcome.event_received_at.iter().max().copied();
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
    .bind(outcome.id)
    .bind(outcome.event_received_at)
    .bind(outcome.token)
    .bind(outcome.status)
    .bind(outcome.attempts_made)
    .bind(outcome.retry_at)
    .bind(outcome.finished_at)
    .bind(outcome.dead_reason)
    .bind(outcome.decided_at)
    .bind(attempt.number)
    .bind(attempt.started_at)
    .bind(attempt.duration_ms)
    .bind(attempt.status_code)
    .bind(attempt.error_class)
    .bind(attempt.error)
    .bind(attempt.response_excerpt)
    .bind(oldest)
    .bind(newest)
    .bind(&health.working)
    .bind(DeadReason::Exhausted.as_str())
    .fetch_one(connection)
    .await?;
    Ok((usize::try_from(counted).unwrap_or(0), exhausted))
}

/// Outcomes, column by column.
struct OutcomeColumns {
    id: Vec<Uuid>,
    event_received_at: Vec<OffsetDateTime>,
    token: Vec<Uuid>,
    status: Vec<&'static str>,
    attempts_made: Vec<i64>,
    retry_at: Vec<Option<OffsetDateTime>>,
    finished_at: Vec<Option<OffsetDateTime>>,
    dead_reason: Vec<Option<&'static str>>,
    decided_at: Vec<OffsetDateTime>,
}

impl OutcomeColumns {
    fn new(rows: &[OutcomeRow<'_>]) -> Self {
        Self {
            id: rows.iter().map(|v| v.delivery_id).collect(),
            event_received_at: rows.iter().map(|v| timestamptz(v.event_received_at)).collect(),
            token: rows.iter().map(|v| v.token).collect(),
            status: rows.iter().map(|v| v.status).collect(),
            attempts_made: rows.iter().map(OutcomeRow::attempts_made).collect(),
            retry_at: rows.iter().map(|v| v.retry_at.map(timestamptz)).collect(),
            finished_at: rows.iter().map(|v| v.finished_at().map(timestamptz)).collect(),
            dead_reason: rows.iter().map(|v| v.dead_letter().map(|(_, reason)| reason)).collect(),
            decided_at: rows.iter().map(|v| timestamptz(v.decided_at)).collect(),
        }
    }
}

/// The attempt of each outcome, column by column; all NULL where there is none.
struct AttemptColumns<'a> {
    number: Vec<Option<i64>>,
    started_at: Vec<Option<OffsetDateTime>>,
    duration_ms: Vec<Option<i64>>,
    status_code: Vec<Option<i64>>,
    error_class: Vec<Option<&'static str>>,
    error: Vec<Option<Cow<'a, str>>>,
    response_excerpt: Vec<Option<Cow<'a, str>>>,
}

impl<'a> AttemptColumns<'a> {
    fn new(rows: &[OutcomeRow<'a>]) -> Self {
        let made: Vec<Option<&'a Attempt>> =
            rows.iter().map(|v| v.attempt().map(|(_, attempt)| attempt)).collect();
        let column = || made.iter().copied();
        Self {
            number: column().map(|a| Some(i64::from(a?.number))).collect(),
            started_at: column().map(|a| Some(timestamptz(a?.started_at))).collect(),
            duration_ms: column().map(|a| Some(i64::from(a?.duration_ms))).collect(),
            status_code: column().map(|a| a?.status_code.map(i64::from)).collect(),
            error_class: column().map(|a| a?.error_class.map(ErrorClass::as_str)).collect(),
            error: column().map(|a| a?.error.as_deref().map(storable)).collect(),
            response_excerpt: column()
                .map(|a| a?.response_excerpt.as_deref().map(storable))
                .collect(),
        }
    }
}
