//! Records outcomes in SQLite, in parts that end early when a short transaction waits.

use std::sync::LazyLock;

use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, Row as _, SqliteConnection};
use uuid::Uuid;

use super::endpoint_health::EndpointHealth;
use super::operational_events;
use super::row::{OutcomeRow, rows};
use crate::domain::{Attempt, DeadReason, ErrorClass, Outcome, Timestamp};
use crate::store::engine::{MultiRow, Tx, sqlite_arguments};
use crate::store::{Result, Store, storable};

/// The statements of a batch of outcomes, in their order. Each counts only rows that still carry the outcome's
/// token, so the last two, which take the token or the row away, come last.
///
/// The `CROSS JOIN`s keep SQLite from walking all pending deliveries instead of finding each by its key.
struct Statements {
    attempts: MultiRow,
    dead_letters: MultiRow,
    finished: MultiRow,
    taken: MultiRow,
    waiting: MultiRow,
}

/// An outcome's row of the pending deliveries, by the first four columns of its values.
macro_rules! held {
    () => {
        ") o CROSS JOIN pending_deliveries d
         WHERE d.org_id = o.column1 AND d.created_at = o.column2 AND d.id = o.column3
           AND d.lease_token = o.column4"
    };
}

impl Statements {
    fn new() -> Self {
        Self {
            attempts: MultiRow::new(
                "INSERT INTO delivery_attempts
                     (delivery_id, delivery_created_at, org_id, number, started_at, duration_ms,
                      status_code, error_class, error, response_excerpt)
                 SELECT d.id, d.created_at, d.org_id, d.attempts + 1, o.column5, o.column6,
                        o.column7, o.column8, o.column9, o.column10
                 FROM (VALUES ",
                10,
                concat!(held!(), " ON CONFLICT DO NOTHING"),
            ),
            dead_letters: MultiRow::new(
                "INSERT INTO dead_letters
                     (id, org_id, event_id, delivery_id, endpoint_id, reason, detail, created_at)
                 SELECT d.id, d.org_id, d.event_id, d.id, d.endpoint_id, o.column5, o.column6,
                        o.column7
                 FROM (VALUES ",
                7,
                concat!(held!(), " ON CONFLICT (id) DO NOTHING RETURNING id, event_id, reason"),
            ),
            finished: MultiRow::new(
                "INSERT INTO deliveries
                     (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of,
                      status, attempts, finished_at, started_at, duration_ms, status_code,
                      error_class, error, response_excerpt)
                 SELECT d.org_id, d.created_at, d.id, d.event_id, d.event_received_at,
                        d.endpoint_id, d.replay_of, o.column5, d.attempts + o.column6, o.column7,
                        o.column8, o.column9, o.column10, o.column11, o.column12, o.column13
                 FROM (VALUES ",
                13,
                held!(),
            ),
            taken: MultiRow::new(
                "DELETE FROM pending_deliveries WHERE (org_id, created_at, id) IN
                     (SELECT d.org_id, d.created_at, d.id FROM (VALUES ",
                4,
                concat!(held!(), ")"),
            ),
            waiting: MultiRow::new(
                "UPDATE pending_deliveries
                 SET attempts = attempts + o.column5, due_at = o.column6, lease_token = NULL
                 FROM (VALUES ",
                6,
                ") o
                 WHERE pending_deliveries.org_id = o.column1
                   AND pending_deliveries.created_at = o.column2
                   AND pending_deliveries.id = o.column3
                   AND pending_deliveries.lease_token = o.column4",
            ),
        }
    }
}

static STATEMENTS: LazyLock<Statements> = LazyLock::new(Statements::new);

/// Records outcomes and returns how many counted.
pub(super) async fn record(
    store: &Store,
    outcomes: &[Outcome],
    newest: Timestamp,
) -> Result<usize> {
    let mut health = Some(EndpointHealth::of(outcomes));
    let (mut left, mut counted) = (outcomes, 0);
    while !left.is_empty() {
        let mut tx = store.engine.begin_long().await?;
        // Endpoints first: no outcome of a failing endpoint is known without what it means.
        if let Some(health) = health.take() {
            let events = health.write(&mut tx).await?;
            store.publish(&mut tx, events, newest).await?;
        }
        let mut written = 0;
        while let part @ [_, ..] = tx.next_part(left, written) {
            counted += record_part(store, &mut tx, part, newest).await?;
            written += part.len();
        }
        tx.commit().await?;
        left = left.get(written..).unwrap_or_default();
    }
    Ok(counted)
}

async fn record_part(
    store: &Store,
    tx: &mut Tx<'_>,
    outcomes: &[Outcome],
    now: Timestamp,
) -> Result<usize> {
    let rows = rows(outcomes);
    let (counted, exhausted) = write(tx.sqlite()?, &rows).await?;
    let events = operational_events::exhausted(tx, &rows, exhausted).await?;
    store.publish(tx, events, now).await?;
    Ok(counted)
}

/// Writes attempts, dead letters and deliveries. Returns how many outcomes counted, and the deliveries
/// that have used up their attempts by them, each with its event.
async fn write(
    connection: &mut SqliteConnection,
    rows: &[OutcomeRow<'_>],
) -> Result<(usize, Vec<(Uuid, Uuid)>)> {
    let Statements { attempts, dead_letters, finished, taken, waiting } = &*STATEMENTS;
    let earlier: Vec<_> = rows.iter().filter_map(OutcomeRow::earlier_attempt).collect();
    let dead: Vec<_> = rows.iter().filter_map(OutcomeRow::dead_letter).collect();
    let (last, again): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_final());
    attempts.execute(connection, &earlier, bind_attempt).await?;
    let mut exhausted = Vec::new();
    for (sql, chunk) in dead_letters.chunks(&dead) {
        let query = sqlx::query_with(sql, sqlite_arguments(chunk, bind_dead_letter)?);
        for row in query.fetch_all(&mut *connection).await? {
            if row.try_get::<&str, _>("reason")? == DeadReason::Exhausted.as_str() {
                exhausted.push((row.try_get("id")?, row.try_get("event_id")?));
            }
        }
    }
    finished.execute(connection, &last, |to, row| bind_finished(to, row)).await?;
    let counted = taken.execute(connection, &last, |to, row| bind_key(to, row)).await?
        + waiting.execute(connection, &again, |to, row| bind_waiting(to, row)).await?;
    Ok((counted, exhausted))
}

fn bind_key(arguments: &mut SqliteArguments, row: &OutcomeRow<'_>) -> Result<(), BoxDynError> {
    arguments.add(row.org_id)?;
    arguments.add(row.created_at.micros())?;
    arguments.add(row.delivery_id)?;
    arguments.add(row.token)
}

fn bind_attempt(
    arguments: &mut SqliteArguments,
    (row, attempt): &(&OutcomeRow<'_>, &Attempt),
) -> Result<(), BoxDynError> {
    bind_key(arguments, row)?;
    bind_result(arguments, Some(attempt))
}

/// What an attempt came to, if there was one.
fn bind_result(
    arguments: &mut SqliteArguments,
    attempt: Option<&Attempt>,
) -> Result<(), BoxDynError> {
    arguments.add(attempt.map(|made| made.started_at.micros()))?;
    arguments.add(attempt.map(|made| made.duration_ms))?;
    arguments.add(attempt.and_then(|made| made.status_code))?;
    arguments.add(attempt.and_then(|made| made.error_class).map(ErrorClass::as_str))?;
    arguments.add(attempt.and_then(|made| made.error.as_deref()).map(storable))?;
    arguments.add(attempt.and_then(|made| made.response_excerpt.as_deref()).map(storable))
}

fn bind_dead_letter(
    arguments: &mut SqliteArguments,
    (row, reason): &(&OutcomeRow<'_>, &'static str),
) -> Result<(), BoxDynError> {
    bind_key(arguments, row)?;
    arguments.add(*reason)?;
    arguments.add(row.detail().map(storable))?;
    arguments.add(row.decided_at.micros())
}

fn bind_finished(arguments: &mut SqliteArguments, row: &OutcomeRow<'_>) -> Result<(), BoxDynError> {
    bind_key(arguments, row)?;
    arguments.add(row.status)?;
    arguments.add(row.attempts_made())?;
    arguments.add(row.decided_at.micros())?;
    bind_result(arguments, row.attempt)
}

fn bind_waiting(arguments: &mut SqliteArguments, row: &OutcomeRow<'_>) -> Result<(), BoxDynError> {
    bind_key(arguments, row)?;
    arguments.add(row.attempts_made())?;
    arguments.add(row.retry_at.map(Timestamp::micros))
}
