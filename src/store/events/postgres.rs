//! Persists batches of events in PostgreSQL: one statement over arrays per batch, whatever its size.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::postgres::types::PgInterval;
use sqlx::{Arguments, Encode, Postgres, Type};
use uuid::Uuid;

use super::plan::{self, BatchPlan, DedupPass, PendingRow};
use super::{EventBatch, OrgEndpoints, Persisted, org_endpoints};
use crate::domain::{DeliveryId, Event, Lease, OrgId, Timestamp};
use crate::store::changes::{self, ChangesByOrg};
use crate::store::engine::{PgSession, PostgresEngine, column, timestamptz};
use crate::store::{Result, Store, StoreError};

/// The organisations in `$11`, in key order, held until the batch is stored, so that a deletion begins before it
/// or after it. `$12` has the versions of their endpoints that the batch was planned with, NULL where that does
/// not matter.
macro_rules! held {
    () => {
        "held AS (
             SELECT o.id, o.deleting_since IS NOT NULL AS deleting,
                    o.deleting_since IS NULL AND o.endpoints_version <> v.version AS stale
             FROM unnest($11::uuid[], $12::bigint[]) AS v (id, version)
             CROSS JOIN LATERAL (
                 SELECT id, deleting_since, endpoints_version FROM orgs WHERE id = v.id
                 FOR KEY SHARE
             ) o
         )"
    };
}

/// Inserts events of organisations that stay, given as [`event_arguments`]; none if an organisation is stale.
macro_rules! insert_events {
    () => {
        "INSERT INTO events (id, org_id, event_type, payload, dedup_id, account_id, user_id,
                             occurred_at, received_at, trace_id, trace_text)
         SELECT e.*
         FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[], $6::text[],
                     $7::text[], $8::timestamptz[], $9::timestamptz[], $10::uuid[], $13::text[])
             AS e (id, org_id, event_type, payload, dedup_id, account_id, user_id, occurred_at,
                   received_at, trace_id, trace_text)
         WHERE NOT EXISTS (SELECT 1 FROM held WHERE stale)
           AND e.org_id NOT IN (SELECT id FROM held WHERE deleting)"
    };
}

/// The one statement of a pass, with or without a clause for events that are there already.
macro_rules! write_pass {
    ($on_conflict:literal) => {
        concat!(
            "WITH ",
            held!(),
            ", taken AS (
                 INSERT INTO dedup_keys (org_id, event_id, received_at, content_hash)
                 SELECT org_id, id, received_at, content_hash
                 FROM unnest($1::uuid[], $2::uuid[], $5::text[], $9::timestamptz[], $27::bigint[])
                     AS e (id, org_id, dedup_id, received_at, content_hash)
                 WHERE dedup_id IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM held WHERE stale)
                   AND org_id NOT IN (SELECT id FROM held WHERE deleting)
                 ON CONFLICT (org_id, event_id) DO UPDATE
                     SET received_at = greatest(dedup_keys.received_at, excluded.received_at),
                         content_hash = CASE WHEN dedup_keys.received_at > excluded.received_at
                             THEN dedup_keys.content_hash ELSE excluded.content_hash END,
                         duplicates = CASE WHEN dedup_keys.received_at >= excluded.received_at
                             THEN dedup_keys.duplicates END,
                         conflicts = CASE WHEN dedup_keys.received_at >= excluded.received_at
                             THEN dedup_keys.conflicts END
                     WHERE dedup_keys.received_at = excluded.received_at
                        OR dedup_keys.received_at <= excluded.received_at - $14::interval
                        OR dedup_keys.received_at >= excluded.received_at + $14::interval
                 RETURNING event_id
             ), stored AS (
                 ",
            insert_events!(),
            " AND (e.dedup_id IS NULL OR e.id IN (SELECT event_id FROM taken))
",
            $on_conflict,
            "
                 RETURNING id
             ), planned AS (
                 INSERT INTO pending_deliveries
                     (org_id, created_at, id, event_id, event_received_at, endpoint_id, ordered,
                      payload_bytes, due_at, lease_token, position, type_key, event_type)
                 SELECT c.org_id, c.created_at, c.id, c.event_id, c.event_received_at,
                        c.endpoint_id, c.ordered, c.payload_bytes,
                        CASE WHEN c.leased THEN $25::timestamptz ELSE $24::timestamptz END,
                        CASE WHEN c.leased THEN $26::uuid END,
                        CASE WHEN c.ordered THEN nextval('pending_position') ELSE 0 END,
                        c.type_key, c.event_type
                 FROM unnest($15::uuid[], $16::timestamptz[], $17::uuid[], $18::uuid[],
                             $19::timestamptz[], $20::uuid[], $21::boolean[], $22::bigint[],
                             $23::boolean[], $28::bigint[], $29::text[])
                     AS c (org_id, created_at, id, event_id, event_received_at, endpoint_id,
                           ordered, payload_bytes, leased, type_key, event_type)
                 WHERE c.event_id IN (SELECT id FROM stored) OR c.event_id IS NULL
                 RETURNING id, lease_token
             )
             SELECT (SELECT count(*) FROM stored),
                    (SELECT count(*) FROM planned),
                    (SELECT count(*) FROM unnest($2::uuid[]) AS e (org_id)
                     WHERE e.org_id IN (SELECT id FROM held WHERE deleting)),
                    ARRAY(SELECT id FROM planned WHERE lease_token IS NOT NULL),
                    EXISTS (SELECT 1 FROM held WHERE stale)"
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
    /// Organisations in key order, each with the version that its endpoints must have.
    orgs: &'a [(OrgId, Option<i64>)],
    lease: Option<Lease>,
    now: Timestamp,
    dedup_window: Duration,
    stored_before: StoredBefore,
}

/// What a pass wrote.
#[derive(Debug)]
struct Written {
    stored: usize,
    planned: usize,
    dropped: usize,
    leased: HashSet<DeliveryId>,
    /// An organisation is stale, and nothing was written.
    stale: bool,
}

impl Store {
    /// One round trip, unless the endpoints of an organisation have changed since the batch was planned, or a
    /// dedup id is used twice in it.
    pub(super) async fn persist_postgres(
        &self,
        engine: &PostgresEngine,
        batch: EventBatch<'_>,
        now: Timestamp,
    ) -> Result<Persisted> {
        let passes = plan::dedup_passes(batch.events, self.dedup_window);
        let logged = self.logged_events(batch.events);
        let [pass] = &passes[..] else {
            return self.persist_passes(batch, &passes, logged, now).await;
        };
        if !logged.is_empty() {
            return self.persist_passes(batch, &passes, logged, now).await;
        }
        let version = |org| batch.endpoints.get(&org).map_or(-1, |known| version(known));
        let orgs: Vec<_> =
            plan::orgs_of(batch.events).into_iter().map(|org| (org, Some(version(org)))).collect();
        let plan = BatchPlan::new(batch, HashMap::new());
        let rows = plan.rows();
        let unlikely = WriteOptions {
            orgs: &orgs,
            lease: batch.lease,
            now,
            dedup_window: self.dedup_window,
            stored_before: StoredBefore::Unlikely,
        };
        let possible = WriteOptions { stored_before: StoredBefore::Possible, ..unlikely };
        let mut session = engine.for_statement().await?;
        let rows = if pass.len() < batch.events.len() { plan::rows_of(&rows, pass) } else { rows };
        // In a transaction, a statement that fails could not be repeated.
        let first = if session.is_prepared() { unlikely } else { possible };
        let written = match write_pass(&mut session, pass, &rows, first).await {
            Err(error) if is_stored_before(&error) => {
                write_pass(&mut session, pass, &rows, possible).await?
            }
            written => written?,
        };
        if written.stale {
            session.rollback().await?;
            return self.persist_passes(batch, &passes, logged, now).await;
        }
        session.commit().await?;
        let mut persisted = Persisted::default();
        persisted.add(&written, &plan);
        persisted.duplicates = batch.events.len() - persisted.stored - persisted.dropped;
        Ok(persisted)
    }

    /// Plans organisations again whose endpoints have changed, writes each pass, and logs changes, in a transaction.
    async fn persist_passes(
        &self,
        batch: EventBatch<'_>,
        passes: &[DedupPass],
        logged: ChangesByOrg,
        now: Timestamp,
    ) -> Result<Persisted> {
        let mut tx = self.engine.begin().await?;
        let orgs = plan::orgs_of(batch.events);
        let stale = stale_orgs(tx.postgres()?, &orgs, batch.endpoints).await?;
        // Read after the versions: an endpoint may be newer than its version, which only costs another look.
        let stale = org_endpoints::load(&mut tx, &self.keyring, &stale).await?;
        let plan = BatchPlan::new(batch, stale);
        let rows = plan.rows();
        let orgs: Vec<_> = orgs.into_iter().map(|org| (org, None)).collect();
        let options = WriteOptions {
            orgs: &orgs,
            lease: batch.lease,
            now,
            dedup_window: self.dedup_window,
            stored_before: StoredBefore::Possible,
        };
        let mut persisted = Persisted::default();
        for pass in passes {
            let rows = plan::rows_of(&rows, pass);
            persisted.add(&write_pass(tx.postgres()?, pass, &rows, options).await?, &plan);
        }
        changes::log(&mut tx, logged, now).await?;
        tx.commit().await?;
        persisted.duplicates = batch.events.len() - persisted.stored - persisted.dropped;
        persisted.stale = plan.into_stale();
        Ok(persisted)
    }
}

impl Persisted {
    fn add(&mut self, written: &Written, plan: &BatchPlan<'_>) {
        self.stored += written.stored;
        self.planned += written.planned;
        self.dropped += written.dropped;
        self.leased.extend(plan.leased(&written.leased));
    }
}

/// Locks organisations until the end of the transaction and returns those whose endpoints have another version than
/// `known`.
async fn stale_orgs(
    session: &mut PgSession,
    orgs: &[OrgId],
    known: &HashMap<OrgId, Arc<OrgEndpoints>>,
) -> Result<Vec<OrgId>> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(
        "SELECT id, endpoints_version FROM orgs WHERE id = ANY ($1) ORDER BY id FOR KEY SHARE",
    )
    .bind(column(orgs, |org| org.uuid()))
    .persistent(session.is_prepared())
    .fetch_all(session.connection())
    .await?;
    let is_stale = |(org, now): (Uuid, i64)| {
        let org = OrgId::from_uuid(org);
        known.get(&org).is_none_or(|known| version(known) != now).then_some(org)
    };
    Ok(rows.into_iter().filter_map(is_stale).collect())
}

fn version(endpoints: &OrgEndpoints) -> i64 {
    i64::try_from(endpoints.version).unwrap_or(i64::MAX)
}

/// Inserts events that are new and have no dedup ids, and deliveries of them, within a transaction.
pub(super) async fn insert_new(
    session: &mut PgSession,
    events: &DedupPass,
    rows: &[PendingRow<'_>],
    now: Timestamp,
) -> Result<()> {
    let orgs: Vec<_> = plan::orgs_of(events).into_iter().map(|org| (org, None)).collect();
    let options = WriteOptions {
        orgs: &orgs,
        lease: None,
        now,
        dedup_window: Duration::ZERO,
        // A failed statement would abort the whole transaction.
        stored_before: StoredBefore::Possible,
    };
    write_pass(session, events, rows, options).await?;
    Ok(())
}

/// Stores events of one pass, in key order, with deliveries of those that are new.
async fn write_pass(
    session: &mut PgSession,
    pass: &DedupPass,
    rows: &[PendingRow<'_>],
    options: WriteOptions<'_>,
) -> Result<Written> {
    let mut sorted: Vec<&Event> = pass.iter().map(Arc::as_ref).collect();
    sorted.sort_unstable_by_key(|event| (event.org_id, event.id));
    let is_plain = rows.is_empty() && sorted.iter().all(|event| event.dedup_id.is_none());
    if is_plain && options.stored_before == StoredBefore::Unlikely {
        let stored = insert(session, &sorted, options).await?;
        // No row was in the way, or the statement had failed. Of none, the whole statement tells why.
        if stored > 0 {
            let (dropped, leased) = (sorted.len() - stored, HashSet::new());
            return Ok(Written { stored, planned: 0, dropped, leased, stale: false });
        }
    }
    write(session, &sorted, rows, options).await
}

/// Takes dedup keys, stores the events that hold theirs, and the deliveries of those that are new; unless an
/// organisation is stale.
///
/// Ids are unique in a pass. The ORs, never true, keep PostgreSQL from turning each IN, a
/// look-up in a hash table, into a join row by row (see `SETTINGS`).
async fn write(
    session: &mut PgSession,
    events: &[&Event],
    rows: &[PendingRow<'_>],
    options: WriteOptions<'_>,
) -> Result<Written> {
    let WriteOptions { orgs: _, lease, now, dedup_window, stored_before } = options;
    let statement = match stored_before {
        StoredBefore::Unlikely => write_pass!(""),
        StoredBefore::Possible => write_pass!("ON CONFLICT DO NOTHING"),
    };
    let (stored, planned, dropped, leased, stale): (i64, i64, i64, Vec<Uuid>, bool) =
        sqlx::query_as_with(statement, event_arguments(events, options)?)
            .bind(interval(dedup_window))
            .bind(column(rows, |row| row.event.org_id.uuid()))
            .bind(column(rows, |row| timestamptz(row.id.created_at())))
            .bind(column(rows, |row| row.id.uuid()))
            .bind(column(rows, |row| row.event.id.uuid()))
            .bind(column(rows, |row| timestamptz(row.event.received_at)))
            .bind(column(rows, |row| row.endpoint.uuid()))
            .bind(column(rows, |row| row.ordered))
            .bind(column(rows, PendingRow::payload_bytes))
            .bind(column(rows, |row| row.leased))
            .bind(timestamptz(now))
            .bind(lease.map(|lease| timestamptz(lease.until)))
            .bind(lease.map(|lease| lease.token.uuid()))
            .bind(column(events, |event| event.dedup_id.as_ref().map(|_| event.content_hash())))
            .bind(column(rows, PendingRow::type_key))
            .bind(column(rows, PendingRow::event_type))
            .persistent(session.is_prepared())
            .fetch_one(session.connection())
            .await?;
    Ok(Written {
        stored: usize::try_from(stored).unwrap_or(0),
        planned: usize::try_from(planned).unwrap_or(0),
        dropped: usize::try_from(dropped).unwrap_or(0),
        leased: leased.into_iter().map(DeliveryId::from_uuid).collect(),
        stale,
    })
}

/// Stores events without deliveries and without dedup ids: a plain insert, against which the whole statement
/// is measured.
async fn insert(
    session: &mut PgSession,
    events: &[&Event],
    options: WriteOptions<'_>,
) -> Result<usize> {
    let stored = sqlx::query_with(
        concat!("WITH ", held!(), " ", insert_events!()),
        event_arguments(events, options)?,
    )
    .persistent(session.is_prepared())
    .execute(session.connection())
    .await?;
    Ok(usize::try_from(stored.rows_affected()).unwrap_or(usize::MAX))
}

/// Whether a statement failed on a row that is there already.
fn is_stored_before(error: &StoreError) -> bool {
    match error {
        StoreError::Refused(sqlx::Error::Database(error)) => error.is_unique_violation(),
        _ => false,
    }
}

/// Events, column by column, and their organisations: the first thirteen parameters of a statement.
fn event_arguments(events: &[&Event], options: WriteOptions<'_>) -> Result<PgArguments> {
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
    add(&mut arguments, column(options.orgs, |(org, _)| org.uuid()))?;
    add(&mut arguments, column(options.orgs, |(_, version)| *version))?;
    add(&mut arguments, column(events, |event| event.stored_trace_text()))?;
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
