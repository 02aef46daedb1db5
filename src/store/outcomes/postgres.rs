//! Records outcomes in PostgreSQL, in one statement over arrays.

use sqlx::postgres::PgArguments;
use sqlx::{Arguments, Encode, Postgres, Type};
use uuid::Uuid;

use super::endpoint_health::{EndpointHealth, TIME_RESOLUTION};
use super::operational_events;
use super::row::{OutcomeRow, rows};
use crate::domain::{DeadReason, ErrorClass, Outcome, Timestamp};
use crate::store::engine::{PgSession, PostgresEngine, answered, column, timestamptz};
use crate::store::rollups::delta;
use crate::store::{Result, Store, changes, storable};

/// Takes finished deliveries out of the pending ones and inserts them as finished ones. The parameters are
/// [`outcome_arguments`].
///
/// `held` has the outcomes whose delivery still has their token, each row locked in the order of the array, which is
/// that of the keys. `place` is where the row is: a row that is leased stays there, since only the holder of its
/// lease and what ends the lease write to it. The condition on the token is in a form that chooses no index: the one on
/// tokens would read all of a lease for each of its outcomes. What `counted` puts together is in the order in which it reads
/// `held`: records and labels alike.
macro_rules! finish {
    ($after:literal) => {
        concat!(
            "held AS MATERIALIZED (
                 SELECT d.*, v.status, v.made, v.retry_at, v.dead_reason, v.decided_at,
                        v.started_at, v.duration_ms, v.status_code, v.error_class, v.error,
                        v.response_excerpt, v.record, v.labels
                 FROM unnest($1::uuid[], $2::timestamptz[], $3::uuid[], $4::uuid[], $5::text[],
                             $6::bigint[], $7::timestamptz[], $8::text[], $9::timestamptz[],
                             $10::timestamptz[], $11::bigint[], $12::bigint[], $13::text[],
                             $14::text[], $15::text[], $16::bytea[], $17::bytea[])
                     AS v (org_id, created_at, id, token, status, made, retry_at, dead_reason,
                           decided_at, started_at, duration_ms, status_code, error_class, error,
                           response_excerpt, record, labels)
                 CROSS JOIN LATERAL (
                     SELECT d.ctid AS place, d.org_id, d.created_at, d.id, d.event_id,
                            d.event_received_at, d.endpoint_id, d.replay_of, d.attempts,
                            d.type_key
                     FROM pending_deliveries d
                     WHERE d.org_id = v.org_id AND d.created_at = v.created_at AND d.id = v.id
                       AND d.lease_token IS NOT DISTINCT FROM v.token
                     FOR UPDATE
                 ) d",
            $after,
            "
             ), counted AS (
                 INSERT INTO rollup_deltas (org_id, body, labels)
                 SELECT org_id, string_agg(record, ''::bytea), string_agg(labels, ''::bytea)
                 FROM held
                 WHERE length(record) > 0 GROUP BY org_id
             ), taken AS (
                 DELETE FROM pending_deliveries d USING held h
                 WHERE d.ctid = h.place AND h.retry_at IS NULL
                 RETURNING h.*
             ), finished AS (
                 INSERT INTO deliveries
                     (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of,
                      status, attempts, finished_at, started_at, duration_ms, status_code,
                      error_class, error, response_excerpt, type_key)
                 SELECT org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of,
                        status, attempts + made, decided_at, started_at, duration_ms, status_code,
                        error_class, error, response_excerpt, type_key
                 FROM taken
                 RETURNING 1
             )"
        )
    };
}

/// Records outcomes and returns how many counted: one statement where every attempt succeeded. Otherwise
/// endpoints come first, by statements of their own.
pub(super) async fn record(
    store: &Store,
    engine: &PostgresEngine,
    outcomes: &[Outcome],
    newest: Timestamp,
) -> Result<usize> {
    let health = EndpointHealth::of(outcomes);
    let rows = rows(outcomes);
    let logged = store.logged_outcomes(outcomes);
    if logged.is_empty() && health.is_quiet() && rows.iter().all(OutcomeRow::is_final) {
        let mut session = engine.for_statement().await?;
        let counted = record_successes(&mut session, &rows, &health, newest).await?;
        session.commit().await?;
        return Ok(counted);
    }
    let mut tx = store.engine.begin().await?;
    let mut events = health.write(&mut tx).await?;
    let (counted, exhausted) = write(tx.postgres()?, &rows).await?;
    events.extend(operational_events::exhausted(&mut tx, &rows, exhausted).await?);
    store.publish(&mut tx, events, newest).await?;
    changes::log(&mut tx, logged, newest).await?;
    tx.commit().await?;
    Ok(counted)
}

/// Records outcomes that are all successes. The endpoints that recover, or whose last success was a while ago, are
/// locked before the first delivery is: the condition on their number makes it wait for them.
async fn record_successes(
    session: &mut PgSession,
    rows: &[OutcomeRow<'_>],
    health: &EndpointHealth,
    newest: Timestamp,
) -> Result<usize> {
    let statement = concat!(
        "WITH touched AS MATERIALIZED (
             SELECT p.id FROM endpoints p
             WHERE p.id = ANY ($18) AND p.removed_at IS NULL
               AND (p.failing_since IS NOT NULL OR p.last_success_at IS NULL
                    OR p.last_success_at <= $20)
             ORDER BY p.id
             FOR NO KEY UPDATE
         ), recovered AS (
             UPDATE endpoints p SET failing_since = NULL, last_success_at = $19
             WHERE p.id = ANY (ARRAY(SELECT id FROM touched))
         ), ",
        finish!(" WHERE (SELECT count(*) FROM touched) >= 0"),
        " SELECT count(*) FROM finished"
    );
    let (counted,): (i64,) = answered(
        session.host(),
        sqlx::query_as_with(statement, outcome_arguments(rows)?)
            .bind(health.endpoints())
            .bind(timestamptz(newest))
            .bind(timestamptz(newest.minus(TIME_RESOLUTION)))
            .persistent(session.is_prepared())
            .fetch_one(session.connection()?),
    )
    .await?;
    Ok(usize::try_from(counted).unwrap_or(0))
}

/// Writes deliveries, attempts and dead letters. Returns how many outcomes counted, and the deliveries
/// that have used up their attempts by them, each with its event.
async fn write(
    session: &mut PgSession,
    rows: &[OutcomeRow<'_>],
) -> Result<(usize, Vec<(Uuid, Uuid)>)> {
    let statement = concat!(
        "WITH ",
        finish!(""),
        ", waiting AS (
             UPDATE pending_deliveries d
             SET attempts = d.attempts + h.made, due_at = h.retry_at, lease_token = NULL,
                 error = CASE WHEN h.made > 0 THEN h.error ELSE d.error END,
                 error_class = CASE WHEN h.made > 0 THEN h.error_class ELSE d.error_class END,
                 status_code = CASE WHEN h.made > 0 THEN h.status_code ELSE d.status_code END
             FROM held h
             WHERE d.ctid = h.place AND h.retry_at IS NOT NULL
             RETURNING h.*
         ), attempted AS (
             INSERT INTO delivery_attempts
                 (delivery_id, delivery_created_at, number, org_id, started_at, duration_ms,
                  status_code, error_class, error, response_excerpt)
             SELECT id, created_at, attempts + made, org_id, started_at, duration_ms, status_code,
                    error_class, error, response_excerpt
             FROM waiting WHERE made > 0
             ON CONFLICT DO NOTHING
         ), dead AS (
             INSERT INTO dead_letters
                 (id, org_id, event_id, delivery_id, endpoint_id, reason, detail, created_at,
                  error_class, status_code, attempts)
             SELECT id, org_id, event_id, id, endpoint_id, dead_reason, error, decided_at,
                    error_class, status_code, attempts + made
             FROM taken WHERE dead_reason IS NOT NULL
             ON CONFLICT (id) DO NOTHING
             RETURNING id, event_id, reason
         )
         SELECT (SELECT count(*) FROM finished) + (SELECT count(*) FROM waiting),
                ARRAY(SELECT id FROM dead WHERE reason = $18),
                ARRAY(SELECT event_id FROM dead WHERE reason = $18)"
    );
    let (counted, ids, events): (i64, Vec<Uuid>, Vec<Uuid>) = answered(
        session.host(),
        sqlx::query_as_with(statement, outcome_arguments(rows)?)
            .bind(DeadReason::Exhausted.as_str())
            .persistent(session.is_prepared())
            .fetch_one(session.connection()?),
    )
    .await?;
    Ok((usize::try_from(counted).unwrap_or(0), ids.into_iter().zip(events).collect()))
}

/// Outcomes, column by column: the first seventeen parameters of a statement.
fn outcome_arguments(rows: &[OutcomeRow<'_>]) -> Result<PgArguments> {
    let mut arguments = PgArguments::default();
    add(&mut arguments, column(rows, |row| row.org_id))?;
    add(&mut arguments, column(rows, |row| timestamptz(row.created_at)))?;
    add(&mut arguments, column(rows, |row| row.delivery_id))?;
    add(&mut arguments, column(rows, |row| row.token))?;
    add(&mut arguments, column(rows, |row| row.status))?;
    add(&mut arguments, column(rows, OutcomeRow::attempts_made))?;
    add(&mut arguments, column(rows, |row| row.retry_at.map(timestamptz)))?;
    add(&mut arguments, column(rows, |row| row.dead_reason))?;
    add(&mut arguments, column(rows, |row| timestamptz(row.decided_at)))?;
    let attempts = column(rows, |row| row.attempt);
    add(&mut arguments, column(&attempts, |made| Some(timestamptz((*made)?.started_at))))?;
    add(&mut arguments, column(&attempts, |made| Some(i64::from((*made)?.duration_ms))))?;
    add(&mut arguments, column(&attempts, |made| (*made)?.status_code.map(i64::from)))?;
    add(&mut arguments, column(&attempts, |made| (*made)?.error_class.map(ErrorClass::as_str)))?;
    add(&mut arguments, column(rows, |row| row.detail().map(storable)))?;
    add(
        &mut arguments,
        column(&attempts, |made| (*made)?.response_excerpt.as_deref().map(storable)),
    )?;
    let (mut records, mut labels) =
        (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
    for row in rows {
        let counted = delta::of_outcome(row.outcome)?;
        records.push(counted.record);
        labels.push(counted.labels);
    }
    add(&mut arguments, records)?;
    add(&mut arguments, labels)?;
    Ok(arguments)
}

fn add<'q, T>(arguments: &mut PgArguments, column: T) -> Result<()>
where
    T: Encode<'q, Postgres> + Type<Postgres> + 'q,
{
    arguments.add(column).map_err(|error| sqlx::Error::Encode(error).into())
}
