//! Persists batches of events in SQLite: a few multi-row statements per batch.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sqlx::Arguments;
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;

use super::plan::{self, BatchPlan, DedupPass, PendingRow};
use super::sqlite_deltas::{insert_deltas, push_deltas};
use super::{COLUMNS, EventBatch, Persisted, SHORT_WEIGHT_MAX, late, org_endpoints};
use crate::domain::{Event, EventId, Lease, OrgId, Timestamp};
use crate::store::engine::{
    Answer, MultiRow, ROWS_MAX, Row, Script, SqliteEngine, SqliteTx, id_list,
};
use crate::store::{Result, Store, StoreError, changes, erasures};

const DEDUP_COLUMNS: &str = "dedup_keys (org_id, event_id, received_at, content_hash)";
/// The last parameter is the dedup window.
const UNLESS_TAKEN: &str = " ON CONFLICT (org_id, event_id) DO UPDATE
          SET received_at = max(received_at, excluded.received_at),
              content_hash = iif(received_at > excluded.received_at, content_hash, excluded.content_hash),
              duplicates = iif(received_at >= excluded.received_at, duplicates, NULL),
              conflicts = iif(received_at >= excluded.received_at, conflicts, NULL)
      WHERE received_at = excluded.received_at OR abs(received_at - excluded.received_at) >= ?";

static DEDUP_KEYS: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::insert(DEDUP_COLUMNS, 4, UNLESS_TAKEN));

/// The same again, telling which events hold their key: running it twice changes nothing.
static DEDUP_WINNERS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::insert(DEDUP_COLUMNS, 4, &format!("{UNLESS_TAKEN} RETURNING event_id"))
});

static EVENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::insert(&format!("events ({COLUMNS})"), COLUMNS.0.len(), " ON CONFLICT DO NOTHING")
});

static PENDING: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::insert(
        "pending_deliveries
             (org_id, created_at, id, event_id, event_received_at, endpoint_id, ordered,
              payload_bytes, due_at, lease_token, position, type_key, event_type)",
        13,
        " ON CONFLICT DO NOTHING",
    )
});

impl Store {
    pub(super) async fn persist_sqlite(
        &self,
        engine: &SqliteEngine,
        batch: EventBatch<'_>,
        now: Timestamp,
    ) -> Result<Persisted> {
        let is_short = batch.weight() <= SHORT_WEIGHT_MAX;
        let _only = if is_short { None } else { Some(engine.queue.events().await) };
        let mut tx =
            if is_short { self.engine.begin().await? } else { self.engine.begin_long().await? };
        let logged = self.logged_events(batch.events);
        if let Some(persisted) = self.persist_new(tx.sqlite()?, batch, now).await? {
            late::note(&mut tx, batch.events, now).await?;
            changes::log(&mut tx, logged, self.due(now)).await?;
            tx.commit().await?;
            return Ok(persisted);
        }
        let OrgStates { deleting, stale, reached } =
            org_states(tx.sqlite()?, batch.events, batch).await?;
        let erased = erasures::erased(&mut tx, batch.events, &reached).await?;
        let is_dropped = |event: &Event| {
            deleting.contains(&event.org_id) || erased.contains(&(event.id, event.received_at))
        };
        let stale = org_endpoints::load(&mut tx, &self.keyring, &stale).await?;
        let plan = BatchPlan::new(batch, stale);
        let mut persisted = self.persist_plan(tx.sqlite()?, batch, &plan, is_dropped, now).await?;
        late::note(&mut tx, batch.events, now).await?;
        changes::log(&mut tx, logged, self.due(now)).await?;
        tx.commit().await?;
        persisted.stale = plan.into_stale();
        Ok(persisted)
    }

    /// Persists a batch of usual size in one round trip, as if nothing in it were stored already and no
    /// endpoints had changed. `None` when that is not so, with everything taken back.
    async fn persist_new(
        &self,
        tx: &mut SqliteTx,
        batch: EventBatch<'_>,
        now: Timestamp,
    ) -> Result<Option<Persisted>> {
        let plan = BatchPlan::new(batch, HashMap::new());
        let rows = plan.rows();
        let passes = plan::dedup_passes(batch.events, self.dedup_window);
        let [events] = &passes[..] else { return Ok(None) };
        if events.len() < batch.events.len() || events.len().max(rows.len()) > ROWS_MAX {
            return Ok(None);
        }
        let keyed: Vec<&Arc<Event>> =
            events.iter().filter(|event| event.dedup_id.is_some()).collect();
        let first = next_position(tx, &rows).await?;
        let mut script = Script::default();
        push_org_states(&mut script, events)?;
        let mut expected = vec![None];
        if !keyed.is_empty() {
            script.push_rows(&DEDUP_KEYS, &keyed, |to, event| bind_dedup_key(to, event))?;
            script.bind(self.dedup_window_micros())?;
            expected.push(Some(keyed.len()));
        }
        script.push_rows(&EVENTS, events, bind_event)?;
        expected.push(Some(events.len()));
        push_deltas(&mut script, events, self.event_retention)?;
        expected.push(None);
        push_pending(&mut script, &rows, batch.lease, now, first)?;
        expected.push(Some(rows.len()));
        let answers = tx.run(script).await?;
        let is_whole = answers.iter().zip(&expected).all(|(answer, expected)| {
            expected.is_none_or(|expected| answer.changed == expected as u64)
        });
        let states = answers.first().map_or(&[][..], |answer| &answer.rows);
        let states = OrgStates::read(states, batch)?;
        if !is_whole || !states.are_as_expected() {
            tx.roll_back().await?;
            return Ok(None);
        }
        let leased = rows.iter().filter(|row| row.leased).map(|row| row.id).collect();
        Ok(Some(Persisted {
            stored: events.len(),
            planned: rows.len(),
            leased: plan.leased(&leased),
            ..Persisted::default()
        }))
    }

    async fn persist_plan(
        &self,
        tx: &mut SqliteTx,
        batch: EventBatch<'_>,
        plan: &BatchPlan<'_>,
        is_dropped: impl Fn(&Event) -> bool,
        now: Timestamp,
    ) -> Result<Persisted> {
        let mut persisted = Persisted::default();
        let mut passes = plan::dedup_passes(batch.events, self.dedup_window);
        persisted.dropped = batch.events.iter().filter(|event| is_dropped(event)).count();
        if persisted.dropped > 0 {
            for pass in &mut passes {
                pass.retain(|event| !is_dropped(event));
            }
        }
        let rows = plan.rows();
        for pass in passes {
            let held = self.take_dedup_keys(tx, pass).await?;
            let stored = insert_events(tx, &held).await?;
            let of_stored;
            let rows = if stored.len() == batch.events.len() {
                &rows
            } else {
                of_stored = plan::rows_of(&rows, &stored);
                &of_stored
            };
            insert_deltas(tx, &stored, self.event_retention).await?;
            insert_pending(tx, rows, batch.lease, now).await?;
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
    async fn take_dedup_keys(&self, tx: &mut SqliteTx, mut pass: DedupPass) -> Result<DedupPass> {
        let keyed: Vec<Arc<Event>> =
            pass.iter().filter(|event| event.dedup_id.is_some()).map(Arc::clone).collect();
        let taken = self.dedup(tx, &DEDUP_KEYS, &keyed).await?;
        if taken.iter().map(|answer| answer.changed).sum::<u64>() == keyed.len() as u64 {
            return Ok(pass);
        }
        let mut winners = HashSet::new();
        for answer in self.dedup(tx, &DEDUP_WINNERS, &keyed).await? {
            for row in answer.rows {
                winners.insert(row.get::<EventId>("event_id")?);
            }
        }
        pass.retain(|event| event.dedup_id.is_none() || winners.contains(&event.id));
        Ok(pass)
    }

    async fn dedup(
        &self,
        tx: &mut SqliteTx,
        statement: &MultiRow,
        keyed: &[Arc<Event>],
    ) -> Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for chunk in keyed.chunks(ROWS_MAX) {
            let mut script = Script::default();
            script.push_rows(statement, chunk, bind_dedup_key)?;
            script.bind(self.dedup_window_micros())?;
            answers.extend(tx.run(script).await?);
        }
        Ok(answers)
    }

    fn dedup_window_micros(&self) -> i64 {
        i64::try_from(self.dedup_window.as_micros()).unwrap_or(i64::MAX)
    }
}

/// Inserts events that are new, and deliveries of them, due at `now`.
pub(super) async fn insert_new(
    tx: &mut SqliteTx,
    events: &DedupPass,
    rows: &[PendingRow<'_>],
    now: Timestamp,
    kept: Option<Duration>,
) -> Result<()> {
    let batch = EventBatch { events, endpoints: &HashMap::new(), deliveries: &[], lease: None };
    let OrgStates { deleting, .. } = org_states(tx, events, batch).await?;
    let is_kept = |event: &&Arc<Event>| !deleting.contains(&event.org_id);
    let of_others: Vec<_> = events.iter().filter(is_kept).cloned().collect();
    let stored = insert_events(tx, &of_others).await?;
    insert_deltas(tx, &stored, kept).await?;
    insert_pending(tx, &plan::rows_of(rows, &stored), None, now).await
}

/// What the organisations of a batch are now.
struct OrgStates {
    /// They are being deleted.
    deleting: Vec<OrgId>,
    /// Their endpoints have changed since the batch was planned.
    stale: Vec<OrgId>,
    /// One of their erasures may cover an event of the batch.
    reached: Vec<OrgId>,
}

async fn org_states(
    tx: &mut SqliteTx,
    events: &[Arc<Event>],
    batch: EventBatch<'_>,
) -> Result<OrgStates> {
    let mut script = Script::default();
    push_org_states(&mut script, events)?;
    OrgStates::read(&tx.run_one(script).await?.rows, batch)
}

fn push_org_states(script: &mut Script, events: &[Arc<Event>]) -> Result<()> {
    script.push(
        "SELECT id, deleting_since IS NOT NULL AS deleting, endpoints_version, erased_until
         FROM orgs WHERE id IN (SELECT unhex(value) FROM json_each(?))",
    );
    script.bind(id_list(plan::orgs_of(events).into_iter().map(OrgId::uuid)))
}

impl OrgStates {
    fn read(rows: &[Row], batch: EventBatch<'_>) -> Result<Self> {
        let mut states = Self { deleting: Vec::new(), stale: Vec::new(), reached: Vec::new() };
        for row in rows {
            let (org, version): (OrgId, u64) = (row.get("id")?, row.get("endpoints_version")?);
            if row.get("deleting")? {
                states.deleting.push(org);
            } else if batch.endpoints.get(&org).is_none_or(|known| known.version != version) {
                states.stale.push(org);
            }
            if batch.is_reached(org, row.get_opt("erased_until")?) {
                states.reached.push(org);
            }
        }
        Ok(states)
    }

    fn are_as_expected(&self) -> bool {
        self.deleting.is_empty() && self.stale.is_empty() && self.reached.is_empty()
    }
}

/// Inserts events and returns those that were not there before.
async fn insert_events(tx: &mut SqliteTx, events: &[Arc<Event>]) -> Result<Vec<Arc<Event>>> {
    let mut stored = Vec::with_capacity(events.len());
    for chunk in events.chunks(ROWS_MAX) {
        let mut script = Script::default();
        script.push_rows(&EVENTS, chunk, bind_event)?;
        let done = tx.run_one(script).await?;
        if done.changed == chunk.len() as u64 {
            stored.extend(chunk.iter().map(Arc::clone));
            continue;
        }
        if done.changed == 0 {
            continue;
        }
        // The rows of one insert have consecutive rowids, so the new ones are the last so many.
        let mut script = Script::default();
        script.push("SELECT id, received_at FROM events WHERE rowid > ? - ?");
        script.bind(done.last_insert_rowid)?;
        script.bind(done.changed.cast_signed())?;
        let rows = tx.run_one(script).await?.rows;
        let new = rows.iter().map(|row| Ok((row.get("id")?, row.get("received_at")?)));
        let new: HashSet<(EventId, Timestamp)> = new.collect::<Result<_>>()?;
        let is_new = |event: &&Arc<Event>| new.contains(&(event.id, event.received_at));
        stored.extend(chunk.iter().filter(is_new).map(Arc::clone));
    }
    Ok(stored)
}

/// Inserts deliveries; those that are not leased are due at `now`.
async fn insert_pending(
    tx: &mut SqliteTx,
    rows: &[PendingRow<'_>],
    lease: Option<Lease>,
    now: Timestamp,
) -> Result<()> {
    for rows in rows.chunks(ROWS_MAX) {
        let first = next_position(tx, rows).await?;
        let mut script = Script::default();
        push_pending(&mut script, rows, lease, now, first)?;
        if tx.run_one(script).await?.changed < rows.len() as u64 {
            return Err(StoreError::Corrupt("a delivery of a new event".to_owned()));
        }
    }
    Ok(())
}

/// The position of the first ordered delivery among some rows: behind all that wait.
async fn next_position(tx: &mut SqliteTx, rows: &[PendingRow<'_>]) -> Result<i64> {
    if !rows.iter().any(|row| row.ordered) {
        return Ok(0);
    }
    let mut script = Script::default();
    script.push(
        "SELECT max(position) AS last FROM pending_deliveries INDEXED BY pending_positions
         WHERE ordered = 1",
    );
    let answer = tx.run_one(script).await?;
    let last = answer.rows.first().map(|row| row.get_opt::<i64>("last")).transpose()?;
    Ok(last.flatten().unwrap_or(0) + 1)
}

/// Inserts deliveries, of which the first ordered one gets the position `next`.
fn push_pending(
    script: &mut Script,
    rows: &[PendingRow<'_>],
    lease: Option<Lease>,
    now: Timestamp,
    mut next: i64,
) -> Result<()> {
    script.push_rows(&PENDING, rows, |arguments, row| {
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
        arguments.add(lease.map(|lease| lease.token.uuid()))?;
        arguments.add(if row.ordered { next } else { 0 })?;
        arguments.add(row.type_key())?;
        arguments.add(row.event_type())?;
        next += i64::from(row.ordered);
        Ok(())
    })
}

fn bind_dedup_key(arguments: &mut SqliteArguments, event: &Arc<Event>) -> Result<(), BoxDynError> {
    arguments.add(event.org_id.uuid())?;
    arguments.add(event.id.uuid())?;
    arguments.add(event.received_at.micros())?;
    arguments.add(event.content_hash())
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
    arguments.add(&event.trace_id.bytes()[..])?;
    arguments.add(event.stored_trace_text())?;
    arguments.add(event.accept_span.map(|span| span.bytes().to_vec()))
}
