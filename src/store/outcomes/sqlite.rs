//! Records outcomes in SQLite, in parts that end early when a short transaction waits.

use std::ops::Range;
use std::sync::LazyLock;

use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use uuid::Uuid;

use super::endpoint_health::{EndpointHealth, TIME_RESOLUTION};
use super::operational_events;
use super::row::{OutcomeRow, rows};
use crate::domain::{Attempt, DeadReason, ErrorClass, Outcome, Timestamp};
use crate::store::engine::{Answer, MultiRow, ROWS_MAX, Script};
use crate::store::rollups::delta::{self, CountedOutcome};
use crate::store::{Result, Store, changes, storable};

/// The statements of a batch of outcomes, in their order. Each counts only rows that still carry the outcome's
/// token, so the last two, which take the token or the row away, come last.
///
/// The `CROSS JOIN`s keep SQLite from walking all pending deliveries instead of finding each by its key.
struct Statements {
    working: MultiRow,
    attempts: MultiRow,
    dead_letters: MultiRow,
    counted: MultiRow,
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
            working: MultiRow::new(
                "UPDATE endpoints SET failing_since = NULL, last_success_at = o.column2
                 FROM (VALUES ",
                2,
                ") o
                 WHERE endpoints.id = o.column1 AND removed_at IS NULL
                   AND (failing_since IS NOT NULL OR last_success_at IS NULL
                        OR o.column2 - last_success_at >= ?)",
            ),
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
                     (id, org_id, event_id, delivery_id, endpoint_id, reason, detail, created_at,
                      error_class, status_code, attempts)
                 SELECT d.id, d.org_id, d.event_id, d.id, d.endpoint_id, o.column5, o.column6,
                        o.column7, o.column8, o.column9, d.attempts + o.column10
                 FROM (VALUES ",
                10,
                concat!(held!(), " ON CONFLICT (id) DO NOTHING RETURNING id, event_id, reason"),
            ),
            // Records and labels in hexadecimal digits: SQLite puts texts behind one another, not blobs. Both are in
            // the order in which the rows of an organisation are read.
            counted: MultiRow::new(
                "INSERT INTO rollup_deltas (org_id, body, labels)
                 SELECT d.org_id, unhex(group_concat(o.column5, '')),
                        unhex(group_concat(o.column6, ''))
                 FROM (VALUES ",
                6,
                concat!(held!(), " GROUP BY d.org_id"),
            ),
            finished: MultiRow::new(
                "INSERT INTO deliveries
                     (org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of,
                      status, attempts, finished_at, started_at, duration_ms, status_code,
                      error_class, error, response_excerpt, type_key)
                 SELECT d.org_id, d.created_at, d.id, d.event_id, d.event_received_at,
                        d.endpoint_id, d.replay_of, o.column5, d.attempts + o.column6, o.column7,
                        o.column8, o.column9, o.column10, o.column11, o.column12, o.column13,
                        d.type_key
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
                 SET attempts = attempts + o.column5, due_at = o.column6, lease_token = NULL,
                     status_code = CASE WHEN o.column5 > 0 THEN o.column7 ELSE status_code END,
                     error_class = CASE WHEN o.column5 > 0 THEN o.column8 ELSE error_class END,
                     error = CASE WHEN o.column5 > 0 THEN o.column9 ELSE error END
                 FROM (VALUES ",
                9,
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
        let mut script = Script::default();
        // Endpoints first: no outcome of a failing endpoint is known without what it means.
        match health.take() {
            Some(health) if health.is_quiet() => push_working(&mut script, &health)?,
            Some(health) => {
                let events = health.write(&mut tx).await?;
                store.publish(&mut tx, events, newest).await?;
            }
            None => {}
        }
        let mut written = 0;
        loop {
            let part = tx.next_part(left, written);
            let rows = rows(part);
            let positions = push_outcomes(&mut script, &rows)?;
            written += part.len();
            let is_last = part.is_empty() || written == left.len();
            if is_last && positions.dead_letters.is_empty() {
                // Only what this transaction writes: followers never read again what they have passed.
                let logged = store.logged_outcomes(left.get(..written).unwrap_or_default());
                changes::log(&mut tx, logged, store.due(newest)).await?;
                counted += positions.counted(&tx.finish(script).await?);
                break;
            }
            let answers = tx.sqlite()?.run(std::mem::take(&mut script)).await?;
            counted += positions.counted(&answers);
            let exhausted = positions.exhausted(&answers)?;
            let events = operational_events::exhausted(&mut tx, &rows, exhausted).await?;
            store.publish(&mut tx, events, newest).await?;
        }
        left = left.get(written..).unwrap_or_default();
    }
    Ok(counted)
}

/// Notes that endpoints work, where that is not known yet.
fn push_working(script: &mut Script, health: &EndpointHealth) -> Result<()> {
    let resolution = i64::try_from(TIME_RESOLUTION.as_micros()).unwrap_or(i64::MAX);
    for working in health.working().chunks(ROWS_MAX) {
        script.push_rows(&STATEMENTS.working, working, |arguments, (endpoint, at)| {
            arguments.add(*endpoint)?;
            arguments.add(at.micros())
        })?;
        script.bind(resolution)?;
    }
    Ok(())
}

/// Where in a script the statements are whose answers count.
struct Positions {
    /// Those that tell which deliveries are given up.
    dead_letters: Range<usize>,
    /// Those that change a delivery for each outcome that counts.
    outcomes: Range<usize>,
}

/// Appends the statements that write attempts, dead letters and deliveries.
fn push_outcomes(script: &mut Script, rows: &[OutcomeRow<'_>]) -> Result<Positions> {
    let Statements { attempts, dead_letters, counted, finished, taken, waiting, .. } = &*STATEMENTS;
    let earlier: Vec<_> = rows.iter().filter_map(OutcomeRow::earlier_attempt).collect();
    let dead: Vec<_> = rows.iter().filter_map(OutcomeRow::dead_letter).collect();
    let (last, again): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.is_final());
    script.push_rows(attempts, &earlier, bind_attempt)?;
    let before_dead_letters = script.len();
    script.push_rows(dead_letters, &dead, bind_dead_letter)?;
    let after_dead_letters = script.len();
    script.push_rows(counted, &records(rows)?, bind_record)?;
    script.push_rows(finished, &last, |to, row| bind_finished(to, row))?;
    let before_outcomes = script.len();
    script.push_rows(taken, &last, |to, row| bind_key(to, row))?;
    script.push_rows(waiting, &again, |to, row| bind_waiting(to, row))?;
    Ok(Positions {
        dead_letters: before_dead_letters..after_dead_letters,
        outcomes: before_outcomes..script.len(),
    })
}

impl Positions {
    /// How many outcomes counted.
    fn counted(&self, answers: &[Answer]) -> usize {
        let outcomes = answers.get(self.outcomes.clone()).unwrap_or_default();
        let changed = outcomes.iter().map(|answer| answer.changed).sum::<u64>();
        usize::try_from(changed).unwrap_or(usize::MAX)
    }

    /// The deliveries that have used up their attempts, each with its event.
    fn exhausted(&self, answers: &[Answer]) -> Result<Vec<(Uuid, Uuid)>> {
        let mut exhausted = Vec::new();
        let dead_letters = answers.get(self.dead_letters.clone()).unwrap_or_default();
        for row in dead_letters.iter().flat_map(|answer| &answer.rows) {
            if row.get::<String>("reason")? == DeadReason::Exhausted.as_str() {
                exhausted.push((row.get("id")?, row.get("event_id")?));
            }
        }
        Ok(exhausted)
    }
}

fn bind_key(arguments: &mut SqliteArguments, row: &OutcomeRow<'_>) -> Result<(), BoxDynError> {
    arguments.add(row.org_id)?;
    arguments.add(row.created_at.micros())?;
    arguments.add(row.delivery_id)?;
    arguments.add(row.token)
}

/// What an outcome adds to the counts, with the row that it belongs to.
type CountedRow<'r, 'o> = (&'r OutcomeRow<'o>, CountedOutcome);

/// What the outcomes add to the counts, without those that add nothing.
fn records<'r, 'o>(rows: &'r [OutcomeRow<'o>]) -> Result<Vec<CountedRow<'r, 'o>>> {
    let mut records = Vec::with_capacity(rows.len());
    for row in rows {
        let counted = delta::of_outcome(row.outcome)?;
        if !counted.record.is_empty() {
            records.push((row, counted));
        }
    }
    Ok(records)
}

fn bind_record(
    arguments: &mut SqliteArguments,
    (row, CountedOutcome { record, labels }): &CountedRow<'_, '_>,
) -> Result<(), BoxDynError> {
    bind_key(arguments, row)?;
    arguments.add(delta::hex(record))?;
    arguments.add(delta::hex(labels))
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
    bind_failure(arguments, attempt)?;
    arguments.add(attempt.and_then(|made| made.error.as_deref()).map(storable))?;
    arguments.add(attempt.and_then(|made| made.response_excerpt.as_deref()).map(storable))
}

/// Its status and its class of error.
fn bind_failure(
    arguments: &mut SqliteArguments,
    attempt: Option<&Attempt>,
) -> Result<(), BoxDynError> {
    arguments.add(attempt.and_then(|made| made.status_code))?;
    arguments.add(attempt.and_then(|made| made.error_class).map(ErrorClass::as_str))
}

fn bind_dead_letter(
    arguments: &mut SqliteArguments,
    (row, reason): &(&OutcomeRow<'_>, &'static str),
) -> Result<(), BoxDynError> {
    bind_key(arguments, row)?;
    arguments.add(*reason)?;
    arguments.add(row.detail().map(storable))?;
    arguments.add(row.decided_at.micros())?;
    let made = row.attempt;
    arguments.add(made.and_then(|made| made.error_class).map(ErrorClass::as_str))?;
    arguments.add(made.and_then(|made| made.status_code))?;
    arguments.add(row.attempts_made())
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
    arguments.add(row.retry_at.map(Timestamp::micros))?;
    bind_failure(arguments, row.attempt)?;
    arguments.add(row.detail().map(storable))
}
