//! Persists batches of events in PostgreSQL: one statement over arrays per batch, whatever its size.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgArguments;
use sqlx::postgres::types::PgInterval;
use sqlx::{Arguments, Encode, Postgres, Type};
use uuid::Uuid;

use super::late::{self, is_late};
use super::locked_orgs::{OrgStates, org_states, version};
use super::plan::{self, BatchPlan, DedupPass, PendingRow};
use super::postgres_sql::{INSERT, WRITE, WRITE_NEW};
use super::{EventBatch, Persisted, org_endpoints};
use crate::domain::{DeliveryId, Event, Lease, OrgId, Timestamp};
use crate::store::changes::{self, ChangesByOrg};
use crate::store::engine::{PgSession, PostgresEngine, answered, column, timestamptz};
use crate::store::rollups::delta;
use crate::store::{Result, Store, StoreError, erasures};

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
    /// How long events are kept, for the times by which they count.
    kept: Option<Duration>,
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
    /// One round trip, unless the endpoints of an organisation have changed since the batch was planned, a dedup id
    /// is used twice in it, or an event is late.
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
        if !logged.is_empty() || batch.events.iter().any(|event| is_late(event, now)) {
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
            kept: self.event_retention,
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
        let OrgStates { stale, reached } = org_states(tx.postgres()?, &orgs, batch).await?;
        let erased = erasures::erased(&mut tx, batch.events, &reached).await?;
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
            kept: self.event_retention,
        };
        let mut persisted = Persisted::default();
        for pass in passes {
            let is_kept = |event: &&Arc<Event>| !erased.contains(&(event.id, event.received_at));
            let kept: DedupPass = pass.iter().filter(is_kept).cloned().collect();
            persisted.dropped += pass.len() - kept.len();
            let rows = plan::rows_of(&rows, &kept);
            persisted.add(&write_pass(tx.postgres()?, &kept, &rows, options).await?, &plan);
        }
        late::note(&mut tx, batch.events, now).await?;
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

/// Inserts events that are new and have no dedup ids, and deliveries of them, within a transaction.
pub(super) async fn insert_new(
    session: &mut PgSession,
    events: &DedupPass,
    rows: &[PendingRow<'_>],
    now: Timestamp,
    kept: Option<Duration>,
) -> Result<()> {
    let orgs: Vec<_> = plan::orgs_of(events).into_iter().map(|org| (org, None)).collect();
    let options = WriteOptions {
        orgs: &orgs,
        lease: None,
        now,
        dedup_window: Duration::ZERO,
        // A failed statement would abort the whole transaction.
        stored_before: StoredBefore::Possible,
        kept,
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
/// organisation is stale. Ids are unique in a pass.
async fn write(
    session: &mut PgSession,
    events: &[&Event],
    rows: &[PendingRow<'_>],
    options: WriteOptions<'_>,
) -> Result<Written> {
    let WriteOptions { orgs: _, lease, now, dedup_window, stored_before, kept } = options;
    let statement = match stored_before {
        StoredBefore::Unlikely => WRITE_NEW,
        StoredBefore::Possible => WRITE,
    };
    let record = |event: &&Event| delta::of_event(event, kept);
    let records = events.iter().map(record).collect::<Result<Vec<_>>>()?;
    let (stored, planned, dropped, leased, stale): (i64, i64, i64, Vec<Uuid>, bool) = answered(
        session.host(),
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
            .bind(records)
            .bind(column(rows, PendingRow::type_key))
            .bind(column(rows, PendingRow::event_type))
            .persistent(session.is_prepared())
            .fetch_one(session.connection()?),
    )
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
    let deltas = delta::of_events(events.iter().copied(), options.kept)?;
    let (orgs, bodies): (Vec<_>, Vec<_>) =
        deltas.into_iter().map(|(org, body)| (org.uuid(), body)).unzip();
    let stored = answered(
        session.host(),
        sqlx::query_with(INSERT, event_arguments(events, options)?)
            .bind(orgs)
            .bind(bodies)
            .persistent(session.is_prepared())
            .execute(session.connection()?),
    )
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

/// Events, column by column, and their organisations: the first fourteen parameters of a statement.
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
    let spans = column(events, |event| event.accept_span.map(|span| span.bytes().to_vec()));
    add(&mut arguments, spans)?;
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
