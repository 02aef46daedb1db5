//! Persists batches of events in SQLite: a few multi-row statements per batch.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, SqliteConnection};
use uuid::Uuid;

use super::plan::{self, BatchPlan, DedupPass, PendingRow};
use super::{COLUMNS, EventBatch, Persisted, SHORT_WEIGHT_MAX, org_endpoints, weight};
use crate::domain::{Event, Lease, OrgId, Timestamp};
use crate::store::engine::{MultiRow, SqliteEngine, Tx, args, id_list, sqlite_arguments};
use crate::store::{Result, Store};

const TAKE_DEDUP_KEYS: &str = "INSERT INTO dedup_keys (org_id, event_id, received_at) VALUES ";
/// The last parameter is the dedup window.
const UNLESS_TAKEN: &str = " ON CONFLICT (org_id, event_id) DO UPDATE
          SET received_at = max(received_at, excluded.received_at)
      WHERE received_at = excluded.received_at OR abs(received_at - excluded.received_at) >= ?";

static DEDUP_KEYS: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::new(TAKE_DEDUP_KEYS, 3, UNLESS_TAKEN));

/// The same again, telling which events hold their key: running it twice changes nothing.
static DEDUP_WINNERS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(TAKE_DEDUP_KEYS, 3, &format!("{UNLESS_TAKEN} RETURNING event_id"))
});

static EVENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    let insert = format!("INSERT INTO events ({COLUMNS}) VALUES ");
    MultiRow::new(&insert, COLUMNS.0.len(), " ON CONFLICT DO NOTHING")
});

static PENDING: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO pending_deliveries
             (org_id, created_at, id, event_id, event_received_at, endpoint_id, ordered,
              payload_bytes, due_at, lease_token)
         VALUES ",
        10,
        "",
    )
});

impl Store {
    pub(super) async fn persist_sqlite(
        &self,
        engine: &SqliteEngine,
        batch: EventBatch<'_>,
        now: Timestamp,
    ) -> Result<Persisted> {
        let is_short = weight(batch.events) <= SHORT_WEIGHT_MAX;
        let _only = if is_short { None } else { Some(engine.queue.events().await) };
        let mut tx =
            if is_short { self.engine.begin().await? } else { self.engine.begin_long().await? };
        let OrgStates { deleting, stale } = org_states(&mut tx, &batch).await?;
        let stale = org_endpoints::load(&mut tx, &self.keyring, &stale).await?;
        let plan = BatchPlan::new(batch, stale);
        let mut persisted = self.persist_plan(tx.sqlite()?, batch, &plan, &deleting, now).await?;
        tx.commit().await?;
        persisted.stale = plan.into_stale();
        Ok(persisted)
    }

    async fn persist_plan(
        &self,
        connection: &mut SqliteConnection,
        batch: EventBatch<'_>,
        plan: &BatchPlan<'_>,
        deleting: &[OrgId],
        now: Timestamp,
    ) -> Result<Persisted> {
        let mut persisted = Persisted::default();
        let mut passes = plan::dedup_passes(batch.events, self.dedup_window);
        if !deleting.is_empty() {
            let is_dropped = |event: &Arc<Event>| deleting.contains(&event.org_id);
            persisted.dropped = batch.events.iter().filter(|event| is_dropped(event)).count();
            for pass in &mut passes {
                pass.retain(|event| !is_dropped(event));
            }
        }
        let rows = plan.rows();
        for pass in passes {
            let held = self.take_dedup_keys(connection, pass).await?;
            let stored = insert_events(connection, &held).await?;
            let of_stored;
            let rows = if stored.len() == batch.events.len() {
                &rows
            } else {
                of_stored = plan::rows_of(&rows, &stored);
                &of_stored
            };
            insert_pending(connection, rows, batch.lease, now).await?;
            let is_leased = |row: &&PendingRow<'_>| row.leased;
            let leased = rows.iter().filter(is_leased).map(|row| row.id).collect();
            persisted.stored += stored.len();
            persisted.planned += rows.len();
            persisted.leased.extend(plan.leased(&leased));
        }
        persisted.duplicates = batch.events.len() - persisted.stored - persisted.dropped;
        Ok(persisted)
    }

    /// The events that hold their dedup key now, and those that have none.
    async fn take_dedup_keys(
        &self,
        connection: &mut SqliteConnection,
        mut pass: DedupPass,
    ) -> Result<DedupPass> {
        let keyed: Vec<Arc<Event>> =
            pass.iter().filter(|event| event.dedup_id.is_some()).map(Arc::clone).collect();
        let mut taken = 0;
        for (sql, chunk) in DEDUP_KEYS.chunks(&keyed) {
            let query = sqlx::query_with(sql, self.dedup_arguments(chunk)?);
            taken += query.execute(&mut *connection).await?.rows_affected();
        }
        if taken == keyed.len() as u64 {
            return Ok(pass);
        }
        let mut winners = HashSet::new();
        for (sql, chunk) in DEDUP_WINNERS.chunks(&keyed) {
            let query = sqlx::query_scalar_with(sql, self.dedup_arguments(chunk)?);
            let ids: Vec<Uuid> = query.fetch_all(&mut *connection).await?;
            winners.extend(ids);
        }
        pass.retain(|event| event.dedup_id.is_none() || winners.contains(&event.id.uuid()));
        Ok(pass)
    }

    fn dedup_arguments(&self, events: &[Arc<Event>]) -> Result<SqliteArguments> {
        let window = i64::try_from(self.dedup_window.as_micros()).unwrap_or(i64::MAX);
        let mut arguments = sqlite_arguments(events, bind_dedup_key)?;
        arguments.add(window).map_err(sqlx::Error::Encode)?;
        Ok(arguments)
    }
}

/// Inserts events that are new, and deliveries of them, due at `now`.
pub(super) async fn insert_new(
    connection: &mut SqliteConnection,
    events: &DedupPass,
    rows: &[PendingRow<'_>],
    now: Timestamp,
) -> Result<()> {
    let sql = "SELECT id FROM orgs
               WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND deleting_since IS NOT NULL";
    let orgs = id_list(plan::orgs_of(events).into_iter().map(OrgId::uuid));
    let deleting: Vec<Uuid> =
        sqlx::query_scalar(sql).bind(&orgs).fetch_all(&mut *connection).await?;
    let is_kept = |event: &&Arc<Event>| !deleting.contains(&event.org_id.uuid());
    let kept: Vec<_> = events.iter().filter(is_kept).cloned().collect();
    let stored = insert_events(connection, &kept).await?;
    insert_pending(connection, &plan::rows_of(rows, &stored), None, now).await
}

/// What the organisations of a batch are now.
struct OrgStates {
    /// They are being deleted.
    deleting: Vec<OrgId>,
    /// Their endpoints have changed since the batch was planned.
    stale: Vec<OrgId>,
}

async fn org_states(tx: &mut Tx<'_>, batch: &EventBatch<'_>) -> Result<OrgStates> {
    let sql = "SELECT id, deleting_since IS NOT NULL AS deleting, endpoints_version FROM orgs
               WHERE id IN (SELECT unhex(value) FROM json_each($1))";
    let orgs: Vec<Uuid> = plan::orgs_of(batch.events).into_iter().map(OrgId::uuid).collect();
    let mut states = OrgStates { deleting: Vec::new(), stale: Vec::new() };
    for row in tx.all(sql, args![orgs]).await? {
        let (org, version): (OrgId, u64) = (row.get("id")?, row.get("endpoints_version")?);
        if row.get("deleting")? {
            states.deleting.push(org);
        } else if batch.endpoints.get(&org).is_none_or(|known| known.version != version) {
            states.stale.push(org);
        }
    }
    Ok(states)
}

/// Inserts events and returns those that were not there before.
async fn insert_events(
    connection: &mut SqliteConnection,
    events: &[Arc<Event>],
) -> Result<Vec<Arc<Event>>> {
    let mut stored = Vec::with_capacity(events.len());
    for (sql, chunk) in EVENTS.chunks(events) {
        let query = sqlx::query_with(sql, sqlite_arguments(chunk, bind_event)?);
        let done = query.execute(&mut *connection).await?;
        if done.rows_affected() == chunk.len() as u64 {
            stored.extend(chunk.iter().map(Arc::clone));
            continue;
        }
        if done.rows_affected() == 0 {
            continue;
        }
        // The rows of one insert have consecutive rowids, so the new ones are the last so many.
        let new: Vec<(Uuid, i64)> =
            sqlx::query_as("SELECT id, received_at FROM events WHERE rowid > ?1 - ?2")
                .bind(done.last_insert_rowid())
                .bind(done.rows_affected().cast_signed())
                .fetch_all(&mut *connection)
                .await?;
        let new: HashSet<(Uuid, i64)> = new.into_iter().collect();
        let is_new =
            |event: &&Arc<Event>| new.contains(&(event.id.uuid(), event.received_at.micros()));
        stored.extend(chunk.iter().filter(is_new).map(Arc::clone));
    }
    Ok(stored)
}

/// Inserts deliveries; those that are not leased are due at `now`.
async fn insert_pending(
    connection: &mut SqliteConnection,
    rows: &[PendingRow<'_>],
    lease: Option<Lease>,
    now: Timestamp,
) -> Result<()> {
    let bind = |arguments: &mut SqliteArguments, row: &PendingRow<'_>| {
        let lease = lease.filter(|_| row.leased);
        arguments.add(row.event.org_id.uuid())?;
        arguments.add(row.id.created_at().micros())?;
        arguments.add(row.id.uuid())?;
        arguments.add(row.event.id.uuid())?;
        arguments.add(row.event.received_at.micros())?;
        arguments.add(row.endpoint.uuid())?;
        arguments.add(row.ordered)?;
        arguments.add(row.payload_bytes())?;
        arguments.add(lease.map_or(now, |lease| lease.until).micros())?;
        arguments.add(lease.map(|lease| lease.token.uuid()))
    };
    PENDING.execute(connection, rows, bind).await?;
    Ok(())
}

fn bind_dedup_key(arguments: &mut SqliteArguments, event: &Arc<Event>) -> Result<(), BoxDynError> {
    arguments.add(event.org_id.uuid())?;
    arguments.add(event.id.uuid())?;
    arguments.add(event.received_at.micros())
}

fn bind_event(arguments: &mut SqliteArguments, event: &Arc<Event>) -> Result<(), BoxDynError> {
    arguments.add(event.id.uuid())?;
    arguments.add(event.org_id.uuid())?;
    arguments.add(event.event_type.as_str())?;
    arguments.add(&event.payload[..])?;
    arguments.add(event.dedup_id.as_deref())?;
    arguments.add(event.account_id.as_deref())?;
    arguments.add(event.user_id.as_deref())?;
    arguments.add(event.occurred_at.map(Timestamp::micros))?;
    arguments.add(event.received_at.micros())?;
    arguments.add(&event.trace_id.bytes()[..])
}
