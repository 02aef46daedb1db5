//! Persists batches of events in SQLite: a few multi-row statements per batch, in parts between which short
//! transactions go first.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};

use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, SqliteConnection};
use uuid::Uuid;

use super::plan::{self, Candidate, DedupPass, Endpoints};
use super::{COLUMNS, LeaseBudget, Persisted, SHORT_WEIGHT_MAX, weight};
use crate::domain::{Event, LeasedDelivery, OrgId, Timestamp};
use crate::store::crypto::Keyring;
use crate::store::engine::{MultiRow, Row, SqliteEngine, id_list, sqlite_arguments};
use crate::store::{Result, Store, endpoints};

const TAKE_DEDUP_KEYS: &str = "INSERT INTO dedup_keys (org_id, event_id, received_at) VALUES ";
/// The last parameter is the dedup window.
const UNLESS_TAKEN: &str =
    " ON CONFLICT (org_id, event_id) DO UPDATE SET received_at = excluded.received_at
      WHERE dedup_keys.received_at = excluded.received_at
         OR dedup_keys.received_at <= excluded.received_at - ?";

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

static DELIVERIES: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "INSERT INTO deliveries (id, org_id, event_id, event_received_at, endpoint_id,
                                 due_at, lease_token, created_at, ordered)
         VALUES ",
        9,
        "",
    )
});

/// The organisations of a batch.
struct Orgs {
    /// Organisations that are being deleted.
    deleting: Vec<OrgId>,
    endpoints: Endpoints,
}

impl Store {
    pub(super) async fn persist_sqlite(
        &self,
        engine: &SqliteEngine,
        events: &[Arc<Event>],
        mut budget: Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted> {
        let is_short = weight(events) <= SHORT_WEIGHT_MAX;
        let _only = if is_short { None } else { Some(engine.queue.events().await) };
        let mut tx =
            if is_short { self.engine.begin().await? } else { self.engine.begin_long().await? };
        let orgs = orgs_of(tx.sqlite()?, &self.keyring, events).await?;
        let mut persisted = Persisted::default();
        while let part @ [_, ..] = tx.next_part(events, persisted.taken) {
            persisted.add(self.persist_part(tx.sqlite()?, part, &orgs, &mut budget, now).await?);
        }
        tx.commit().await?;
        Ok(persisted)
    }

    async fn persist_part(
        &self,
        connection: &mut SqliteConnection,
        events: &[Arc<Event>],
        Orgs { deleting, endpoints }: &Orgs,
        budget: &mut Option<LeaseBudget<'_>>,
        now: Timestamp,
    ) -> Result<Persisted> {
        let mut persisted = Persisted { taken: events.len(), ..Persisted::default() };
        let kept: Vec<Arc<Event>>;
        let events = if deleting.is_empty() {
            events
        } else {
            let is_kept = |event: &&Arc<Event>| !deleting.contains(&event.org_id);
            kept = events.iter().filter(is_kept).cloned().collect();
            persisted.dropped = events.len() - kept.len();
            &kept[..]
        };
        for pass in plan::dedup_passes(events, self.dedup_window) {
            let held = self.take_dedup_keys(connection, pass).await?;
            let stored = insert_events(connection, &held).await?;
            let candidates = plan::candidates(&stored, endpoints, now);
            let lease = budget.filter(|_| plan::may_lease(&candidates));
            let leased = insert_deliveries(connection, &candidates, lease, now).await?;
            if let Some(budget) = budget {
                budget.deliveries_max -= leased.len();
            }
            persisted.stored += stored.len();
            persisted.planned += candidates.len();
            persisted.leased.extend(leased);
        }
        persisted.duplicates = events.len() - persisted.stored;
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

/// See [`Store::publish`].
pub(super) async fn publish(
    connection: &mut SqliteConnection,
    keyring: &Keyring,
    mut events: Vec<Arc<Event>>,
    now: Timestamp,
) -> Result<()> {
    let Orgs { deleting, endpoints } = orgs_of(connection, keyring, &events).await?;
    events.retain(|event| !deleting.contains(&event.org_id) && endpoints.is_wanted(event));
    let stored = insert_events(connection, &events).await?;
    let candidates = plan::candidates(&stored, &endpoints, now);
    insert_deliveries(connection, &candidates, None, now).await?;
    Ok(())
}

/// Inserts an event that is new, and a delivery of it.
pub(super) async fn insert_new(
    connection: &mut SqliteConnection,
    candidate: &Candidate<'_>,
    now: Timestamp,
) -> Result<()> {
    insert_events(connection, std::slice::from_ref(candidate.event)).await?;
    insert_planned(connection, &[candidate], now, None, now).await
}

async fn orgs_of(
    connection: &mut SqliteConnection,
    keyring: &Keyring,
    events: &[Arc<Event>],
) -> Result<Orgs> {
    let orgs = id_list(plan::orgs_of(events).into_iter().map(OrgId::uuid));
    let deleting: Vec<Uuid> = sqlx::query_scalar(
        "SELECT id FROM orgs
         WHERE id IN (SELECT unhex(value) FROM json_each(?1)) AND deleting_since IS NOT NULL",
    )
    .bind(&orgs)
    .fetch_all(&mut *connection)
    .await?;
    let rows = sqlx::query(sqlx::AssertSqlSafe(&**WANTED_ENDPOINTS))
        .bind(&orgs)
        .fetch_all(connection)
        .await?;
    Ok(Orgs {
        deleting: deleting.into_iter().map(OrgId::from_uuid).collect(),
        endpoints: Endpoints::read(rows.into_iter().map(Row::Sqlite), keyring)?,
    })
}

static WANTED_ENDPOINTS: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT {} FROM endpoints
         WHERE org_id IN (SELECT unhex(value) FROM json_each(?1))
           AND (disabled_reason IS NULL OR suspended)",
        endpoints::COLUMNS
    )
});

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

/// Inserts deliveries, the first of them leased as far as the budget goes.
async fn insert_deliveries(
    connection: &mut SqliteConnection,
    candidates: &[Candidate<'_>],
    budget: Option<LeaseBudget<'_>>,
    now: Timestamp,
) -> Result<Vec<LeasedDelivery>> {
    let mut left = budget.map_or(0, |budget| budget.deliveries_max);
    let (first, rest): (Vec<_>, Vec<_>) = candidates.iter().partition(|candidate| {
        let leased = left > 0 && candidate.may_be_leased(budget);
        left -= usize::from(leased);
        leased
    });
    insert_planned(connection, &rest, now, None, now).await?;
    let Some(LeaseBudget { lease, .. }) = budget else { return Ok(Vec::new()) };
    let token = Some(lease.token.uuid());
    insert_planned(connection, &first, lease.until, token, now).await?;
    Ok(first.iter().map(|candidate| candidate.leased(lease)).collect())
}

async fn insert_planned(
    connection: &mut SqliteConnection,
    candidates: &[&Candidate<'_>],
    due_at: Timestamp,
    token: Option<Uuid>,
    now: Timestamp,
) -> Result<()> {
    let bind = |arguments: &mut SqliteArguments, candidate: &&Candidate<'_>| {
        arguments.add(candidate.id.uuid())?;
        arguments.add(candidate.event.org_id.uuid())?;
        arguments.add(candidate.event.id.uuid())?;
        arguments.add(candidate.event.received_at.micros())?;
        arguments.add(candidate.endpoint.id.uuid())?;
        arguments.add(due_at.micros())?;
        arguments.add(token)?;
        arguments.add(now.micros())?;
        arguments.add(candidate.endpoint.policy.ordered)
    };
    DELIVERIES.execute(connection, candidates, bind).await?;
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
