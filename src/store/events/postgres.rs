//! Persists batches of events in PostgreSQL: one statement over arrays per batch, whatever its size.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::postgres::types::PgInterval;
use sqlx::{Arguments, AssertSqlSafe, Encode, PgConnection, Postgres, Type};
use uuid::Uuid;

use super::plan::{self, Candidate, DedupPass, Endpoints};
use super::{LeaseBudget, Persisted};
use crate::domain::{Event, OrgId, Timestamp};
use crate::store::crypto::Keyring;
use crate::store::engine::{PostgresEngine, Row, column, timestamptz};
use crate::store::{Result, Store, StoreError, endpoints};

/// Which of the organisations in `$2` are being deleted. They are held until the batch is stored, so
/// that a deletion begins before it or after it.
macro_rules! deleting {
    () => {
        "held AS (
             SELECT id, deleting_since FROM orgs WHERE id = ANY ($2) FOR KEY SHARE
         ), deleting AS (
             SELECT id FROM held WHERE deleting_since IS NOT NULL
         )"
    };
}

/// Inserts events of organisations that stay, given as [`event_arguments`].
macro_rules! insert_events {
    () => {
        "INSERT INTO events (id, org_id, event_type, payload, dedup_id, account_id, user_id,
                             occurred_at, received_at, trace_id)
         SELECT e.*
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[], $6::text[],
                     $7::text[], $8::timestamptz[], $9::timestamptz[], $10::uuid[])
             AS e (id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at,
                   received_at, trace_id)
         WHERE e.org_id NOT IN (SELECT id FROM deleting)"
    };
}

/// The one statement of a pass, with or without a clause for events that are there already.
macro_rules! write_pass {
    ($on_conflict:literal) => {
        concat!(
            "WITH ",
            deleting!(),
            ", taken AS (
                 INSERT INTO dedup_keys (org_id, event_id, received_at)
                 SELECT org_id, id, received_at
                 FROM unnest($1::uuid[], $2::uuid[], $5::text[], $9::timestamptz[])
                     AS e (id, org_id, dedup_id, received_at)
                 WHERE dedup_id IS NOT NULL AND org_id NOT IN (SELECT id FROM deleting)
                 ON CONFLICT (org_id, event_id) DO UPDATE SET received_at = excluded.received_at
                     WHERE dedup_keys.received_at = excluded.received_at
                        OR dedup_keys.received_at <= excluded.received_at - $11::interval
                 RETURNING event_id
             ), stored AS (
                 ",
            insert_events!(),
            " AND (e.dedup_id IS NULL OR e.id IN (SELECT event_id FROM taken))
",
            $on_conflict,
            "
                 RETURNING id, received_at
             ), planned AS (
                 INSERT INTO deliveries (id, org_id, event_id, event_received_at, endpoint_id,
                                         due_at, lease_token, created_at, ordered)
                 SELECT c.id, c.org_id, c.event_id, c.event_received_at, c.endpoint_id,
                        CASE WHEN c.leased THEN $18::timestamptz ELSE $20::timestamptz END,
                        CASE WHEN c.leased THEN $19::uuid END,
                        $20::timestamptz, c.ordered
                 FROM (
                     SELECT c.*,
                            c.leasable AND count(*) FILTER (WHERE c.leasable)
                                OVER (ORDER BY c.place) <= $17::bigint AS leased
                     FROM unnest($12::uuid[], $13::uuid[], $14::uuid[], $15::timestamptz[],
                                 $16::uuid[], $21::boolean[], $22::boolean[])
                         WITH ORDINALITY
                         AS c (id, org_id, event_id, event_received_at, endpoint_id, leasable,
                               ordered, place)
                     WHERE (c.event_id IN (SELECT id FROM stored) OR c.event_id IS NULL)
                       AND (c.endpoint_id IN (SELECT id FROM endpoints WHERE id = ANY ($16)
                                              AND (disabled_reason IS NULL OR suspended))
                            OR c.endpoint_id IS NULL)
                 ) c
                 RETURNING id, lease_token
             )
             SELECT (SELECT count(*) FROM stored),
                    (SELECT count(*) FROM planned),
                    (SELECT count(*) FROM unnest($2::uuid[]) AS e (org_id)
                     WHERE e.org_id IN (SELECT id FROM deleting)),
                    ARRAY(SELECT id FROM planned WHERE lease_token IS NOT NULL)"
        )
    };
}

/// Whether events of a batch may have a row already, as after a crash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StoredBefore {
    /// They would be new to us: a row in the way fails the statement, which is then repeated.
    /// Looking for rows that are not there makes an insert half as slow again.
    Unlikely,
    /// Their rows are passed over.
    Possible,
}

/// How a pass is written.
#[derive(Clone, Copy)]
struct WriteOptions<'a> {
    budget: Option<LeaseBudget<'a>>,
    now: Timestamp,
    dedup_window: Duration,
    stored_before: StoredBefore,
}

impl Store {
    /// Two round trips: the endpoints, then everything else. A second pass, which a
    /// dedup id used twice in one batch makes, brings a transaction around them.
    pub(super) async fn persist_postgres(
        &self,
        engine: &PostgresEngine,
        events: &[Arc<Event>],
        budget: Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted> {
        let dedup_window = self.dedup_window;
        let passes = plan::dedup_passes(events, dedup_window);
        let mut connection = engine.pool.acquire().await?;
        let orgs = plan::orgs_of(events);
        let endpoints = wanted_endpoints(&mut connection, &self.keyring, &orgs).await?;
        let mut persisted = Persisted::default();
        let unlikely =
            WriteOptions { budget, now, dedup_window, stored_before: StoredBefore::Unlikely };
        let possible = WriteOptions { stored_before: StoredBefore::Possible, ..unlikely };
        if let [pass] = &passes[..] {
            match write_pass(&mut connection, pass, &endpoints, unlikely, &mut persisted).await {
                Err(error) if is_stored_before(&error) => {
                    write_pass(&mut connection, pass, &endpoints, possible, &mut persisted).await?;
                }
                result => result?,
            }
        } else {
            let mut tx = sqlx::Connection::begin(&mut *connection).await?;
            for pass in &passes {
                write_pass(&mut tx, pass, &endpoints, possible, &mut persisted).await?;
            }
            tx.commit().await?;
        }
        persisted.taken = events.len();
        persisted.duplicates = events.len() - persisted.stored - persisted.dropped;
        Ok(persisted)
    }
}

/// See [`Store::publish`].
pub(super) async fn publish(
    connection: &mut PgConnection,
    keyring: &Keyring,
    mut events: DedupPass,
    now: Timestamp,
) -> Result<()> {
    let orgs = plan::orgs_of(&events);
    let endpoints = wanted_endpoints(connection, keyring, &orgs).await?;
    events.retain(|event| endpoints.is_wanted(event));
    let options = WriteOptions {
        budget: None,
        now,
        // They have no dedup ids.
        dedup_window: Duration::ZERO,
        // A failed statement would abort the whole transaction.
        stored_before: StoredBefore::Possible,
    };
    write_pass(connection, &events, &endpoints, options, &mut Persisted::default()).await
}

/// Inserts an event that is new and has no dedup id, and a delivery of it.
pub(super) async fn insert_new(
    connection: &mut PgConnection,
    candidate: Candidate<'_>,
    now: Timestamp,
) -> Result<()> {
    let events = [candidate.event.as_ref()];
    let options = WriteOptions {
        budget: None,
        now,
        dedup_window: Duration::ZERO,
        stored_before: StoredBefore::Unlikely,
    };
    write(connection, &events, &[candidate], options).await?;
    Ok(())
}

async fn write_pass(
    connection: &mut PgConnection,
    pass: &DedupPass,
    endpoints: &Endpoints,
    mut options: WriteOptions<'_>,
    persisted: &mut Persisted,
) -> Result<()> {
    // Planned in the order of the batch, so that leases go to the oldest; written in key order.
    let candidates = plan::candidates(pass, endpoints, options.now);
    let mut sorted: Vec<&Event> = pass.iter().map(Arc::as_ref).collect();
    sorted.sort_unstable_by_key(|event| (event.org_id, event.id));
    let is_plain = candidates.is_empty() && sorted.iter().all(|e| e.dedup_id.is_none());
    if is_plain && options.stored_before == StoredBefore::Unlikely {
        let stored = insert(connection, &sorted).await?;
        persisted.stored += stored;
        // No row was in the way, or the statement had failed.
        persisted.dropped += sorted.len() - stored;
        return Ok(());
    }
    options.budget = options.budget.filter(|_| plan::may_lease(&candidates));
    if let Some(budget) = &mut options.budget {
        budget.deliveries_max = budget.deliveries_max.saturating_sub(persisted.leased.len());
    }
    let (stored, planned, dropped, leased) =
        write(connection, &sorted, &candidates, options).await?;
    persisted.stored += usize::try_from(stored).unwrap_or(0);
    persisted.planned += usize::try_from(planned).unwrap_or(0);
    persisted.dropped += usize::try_from(dropped).unwrap_or(0);
    if let Some(budget) = options.budget {
        let mut by_id: HashMap<Uuid, &Candidate<'_>> =
            candidates.iter().map(|candidate| (candidate.id.uuid(), candidate)).collect();
        let taken = leased.iter().filter_map(|id| by_id.remove(id));
        persisted.leased.extend(taken.map(|candidate| candidate.leased(budget.lease)));
    }
    Ok(())
}

/// Takes dedup keys, stores the events that hold theirs, and plans deliveries of those that
/// are new to endpoints that are still enabled. Answers how many events were stored, how many
/// deliveries were planned, how many events were dropped, and which deliveries are leased.
///
/// Ids are unique in a pass. The ORs, never true, keep PostgreSQL from turning each IN, a
/// look-up in a hash table, into a join row by row (see `SETTINGS`).
async fn write(
    connection: &mut PgConnection,
    events: &[&Event],
    candidates: &[Candidate<'_>],
    WriteOptions { budget, now, dedup_window, stored_before }: WriteOptions<'_>,
) -> Result<(i64, i64, i64, Vec<Uuid>)> {
    let leased_max = budget.map_or(0, |budget| budget.deliveries_max);
    let statement = match stored_before {
        StoredBefore::Unlikely => write_pass!(""),
        StoredBefore::Possible => write_pass!("ON CONFLICT DO NOTHING"),
    };
    let row = sqlx::query_as_with(statement, event_arguments(events)?)
        .bind(interval(dedup_window))
        .bind(column(candidates, |c| c.id.uuid()))
        .bind(column(candidates, |c| c.event.org_id.uuid()))
        .bind(column(candidates, |c| c.event.id.uuid()))
        .bind(column(candidates, |c| timestamptz(c.event.received_at)))
        .bind(column(candidates, |c| c.endpoint.id.uuid()))
        .bind(i64::try_from(leased_max).unwrap_or(i64::MAX))
        .bind(budget.map(|budget| timestamptz(budget.lease.until)))
        .bind(budget.map(|budget| budget.lease.token.uuid()))
        .bind(timestamptz(now))
        .bind(column(candidates, |c| c.may_be_leased(budget)))
        .bind(column(candidates, |c| c.endpoint.policy.ordered))
        .fetch_one(connection)
        .await?;
    Ok(row)
}

/// Stores events without deliveries and without dedup ids: a plain insert, against which the whole statement
/// is measured.
async fn insert(connection: &mut PgConnection, events: &[&Event]) -> Result<usize> {
    let stored = sqlx::query_with(
        concat!("WITH ", deleting!(), " ", insert_events!()),
        event_arguments(events)?,
    )
    .execute(connection)
    .await?;
    Ok(usize::try_from(stored.rows_affected()).unwrap_or(usize::MAX))
}

/// Whether a statement failed on a row that is there already.
fn is_stored_before(error: &StoreError) -> bool {
    match error {
        StoreError::Refused(sqlx::Error::Database(error)) => error.is_unique_violation(),
        StoreError::Refused(_) | StoreError::Unavailable(_) | StoreError::Corrupt(_) => false,
    }
}

/// The endpoints of some organisations that events are planned for.
async fn wanted_endpoints(
    connection: &mut PgConnection,
    keyring: &Keyring,
    orgs: &[OrgId],
) -> Result<Endpoints> {
    let orgs: Vec<Uuid> = orgs.iter().copied().map(OrgId::uuid).collect();
    let sql = format!(
        "SELECT {} FROM endpoints WHERE org_id = ANY($1) AND (disabled_reason IS NULL OR suspended)",
        endpoints::COLUMNS
    );
    let rows = sqlx::query(AssertSqlSafe(sql)).bind(orgs).fetch_all(connection).await?;
    Endpoints::read(rows.into_iter().map(Row::Postgres), keyring)
}

/// Events, column by column: the first ten parameters of a statement.
fn event_arguments(events: &[&Event]) -> Result<PgArguments> {
    let mut arguments = PgArguments::default();
    add(&mut arguments, column(events, |event| event.id.uuid()))?;
    add(&mut arguments, column(events, |event| event.org_id.uuid()))?;
    add(&mut arguments, column(events, |event| event.event_type.as_str()))?;
    add(&mut arguments, column(events, |event| &event.payload[..]))?;
    add(&mut arguments, column(events, |event| event.dedup_id.as_deref()))?;
    add(&mut arguments, column(events, |event| event.account_id.as_deref()))?;
    add(&mut arguments, column(events, |event| event.user_id.as_deref()))?;
    add(&mut arguments, column(events, |event| event.occurred_at.map(timestamptz)))?;
    add(&mut arguments, column(events, |event| timestamptz(event.received_at)))?;
    add(&mut arguments, column(events, |event| Uuid::from_bytes(*event.trace_id.bytes())))?;
    Ok(arguments)
}

fn add<'q, T>(arguments: &mut PgArguments, column: T) -> Result<()>
where
    T: Encode<'q, Postgres> + Type<Postgres> + 'q,
{
    arguments.add(column).map_err(|error| sqlx::Error::Encode(error).into())
}

fn interval(span: Duration) -> PgInterval {
    let microseconds = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    PgInterval { months: 0, days: 0, microseconds }
}
