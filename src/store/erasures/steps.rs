//! The steps of an erasure, each a small transaction that writes how far it has come.
//!
//! First go the events, a few at a time, each after its deliveries, pending ones included, with their attempts and dead
//! letters, and its dedup key. Then what names no event by its key: events in dead letters of the store's refusals,
//! kept answers to requests, and counts.

use uuid::Uuid;

use super::{COLUMNS, Erasure, ErasureSubject, read};
use crate::domain::{Actor, Cursor, DeadReason, ErasureId, ErasureStatus, OrgId, Timestamp};
use crate::store::engine::{Dialect, Row, Tx, args};
use crate::store::page::START_OF_TIME;
use crate::store::rollups::{RollupErasure, erase_some};
use crate::store::{AuditRecord, Result, Store, System, audit};

/// Events that a step erases at most.
const EVENTS_PER_STEP: usize = 64;
/// Deliveries that a step erases at most.
const DELIVERIES_PER_STEP: usize = 256;
/// Records of refused events that a step hands out: each may be as large as an event.
const RECORDS_PER_STEP: usize = 16;
/// Kept answers that a step forgets.
const ANSWERS_PER_STEP: usize = 256;

/// What is erased next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Events,
    Records,
    Answers,
    Counts,
    Done,
}

impl Stage {
    const ALL: [Self; 5] = [Self::Events, Self::Records, Self::Answers, Self::Counts, Self::Done];

    fn from_number(number: u32) -> Self {
        let stage = usize::try_from(number).ok().and_then(|number| Self::ALL.get(number));
        stage.copied().unwrap_or(Self::Done)
    }

    fn next(self) -> Self {
        Self::from_number(self as u32 + 1)
    }
}

/// The event in a dead letter of the store's refusal.
#[derive(Clone, Debug)]
pub struct QuarantinedRecord {
    /// Its place in the order of the erasure.
    pub position: Cursor,
    /// The event in the journal's form.
    pub record: Vec<u8>,
}

/// What a step of an erasure did.
#[derive(Clone, Debug)]
pub enum ErasureStep {
    /// It erased something, and there may be more.
    Continues,
    /// The caller says which of these dead letters go, by [`System::erase_records`].
    Records(Erasure, Vec<QuarantinedRecord>),
    /// The erasure has ended.
    Ended(Erasure),
}

/// What a step has erased.
#[derive(Clone, Copy, Default)]
struct Erased {
    events: u64,
    deliveries: u64,
    dead_letters: u64,
}

impl System<'_> {
    /// Does a step of the erasure whose last step is the longest ago. `None` when none runs, or other servers do their
    /// steps.
    pub async fn erase_step(self, now: Timestamp) -> Result<Option<ErasureStep>> {
        let mut tx = self.0.engine.begin_long().await?;
        let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
        let sql = format!(
            "SELECT {COLUMNS}, stage, cursor_at, cursor_id FROM erasures
             WHERE status = 'running' ORDER BY stepped_at LIMIT 1{lock}"
        );
        let Some(row) = tx.optional(sql, args![]).await? else { return Ok(None) };
        let erasure = read(&row)?;
        let stage = Stage::from_number(row.get("stage")?);
        let after = Cursor {
            at: row.get_opt("cursor_at")?.unwrap_or(START_OF_TIME),
            id: row.get_opt("cursor_id")?.unwrap_or(Uuid::nil()),
        };
        let mut erased = Erased::default();
        let goes_on = match stage {
            Stage::Events => erase_events(&mut tx, &erasure, &mut erased).await?,
            Stage::Records => {
                let records = records(&mut tx, &erasure, after).await?;
                if !records.is_empty() {
                    // It takes its turn again, whatever the caller does.
                    touch(&mut tx, erasure.id, now).await?;
                    tx.commit().await?;
                    return Ok(Some(ErasureStep::Records(erasure, records)));
                }
                false
            }
            Stage::Answers => forget_answers(&mut tx, &erasure).await?,
            Stage::Counts => delete_counts(self.0, &mut tx, &erasure).await?,
            Stage::Done => false,
        };
        let next = if goes_on { stage } else { stage.next() };
        let erasure = advance(&mut tx, erasure.id, next, erased, now).await?;
        if erasure.status == ErasureStatus::Finished {
            audit::write(&mut tx, &AuditRecord::erasure_ended(&erasure), &Actor::SERVER, now)
                .await?;
            tx.commit().await?;
            return Ok(Some(ErasureStep::Ended(erasure)));
        }
        tx.commit().await?;
        Ok(Some(ErasureStep::Continues))
    }

    /// Deletes dead letters of refused events, and moves an erasure behind the last of those that were looked at.
    pub async fn erase_records(
        self,
        erasure: &Erasure,
        dead_letters: Vec<Uuid>,
        last: Cursor,
        now: Timestamp,
    ) -> Result<()> {
        let mut tx = self.0.engine.begin().await?;
        let deleted = delete_dead_letters(&mut tx, erasure.org_id, dead_letters).await?;
        let sql = "UPDATE erasures
                   SET cursor_at = $2, cursor_id = $3, dead_letters = dead_letters + $4, stepped_at = $5
                   WHERE id = $1 AND status = 'running'";
        tx.execute(sql, args![erasure.id, last.at, last.id, deleted, now]).await?;
        tx.commit().await
    }
}

async fn touch(tx: &mut Tx<'_>, id: ErasureId, now: Timestamp) -> Result<()> {
    tx.execute("UPDATE erasures SET stepped_at = $2 WHERE id = $1", args![id, now]).await?;
    Ok(())
}

async fn advance(
    tx: &mut Tx<'_>,
    id: ErasureId,
    stage: Stage,
    erased: Erased,
    now: Timestamp,
) -> Result<Erasure> {
    let is_done = stage == Stage::Done;
    let status = if is_done { ErasureStatus::Finished } else { ErasureStatus::Running };
    let sql = format!(
        "UPDATE erasures
         SET stage = $2, events = events + $3, deliveries = deliveries + $4,
             dead_letters = dead_letters + $5, stepped_at = $6, status = $7, finished_at = $8
         WHERE id = $1 RETURNING {COLUMNS}"
    );
    let Erased { events, deliveries, dead_letters } = erased;
    let finished_at = is_done.then_some(now);
    let args = args![
        id,
        stage as u32,
        events,
        deliveries,
        dead_letters,
        now,
        status.as_str(),
        finished_at
    ];
    read(&tx.one(sql, args).await?)
}

/// Erases some events, or some of their deliveries. `false` when none is left.
async fn erase_events(tx: &mut Tx<'_>, erasure: &Erasure, erased: &mut Erased) -> Result<bool> {
    let org = erasure.org_id;
    if let ErasureSubject::Event(event) = &erasure.filter {
        erased.dead_letters += delete_dead_letters(tx, org, vec![event.uuid()]).await?;
    }
    for table in ["events", "held_events"] {
        if table == "held_events" && tx.dialect() == Dialect::Sqlite {
            continue;
        }
        let keys = keys_in(tx, table, erasure).await?;
        let (Some(oldest), Some(newest)) =
            (keys.iter().map(|(at, _)| *at).min(), keys.iter().map(|(at, _)| *at).max())
        else {
            continue;
        };
        let ids: Vec<Uuid> = keys.into_iter().map(|(_, id)| id).collect();
        let span = Events { org, ids, oldest, newest };
        for deliveries in ["pending_deliveries", "deliveries"] {
            let gone = erase_deliveries(tx, deliveries, &span, erased).await?;
            if gone > 0 {
                erased.deliveries += gone;
                return Ok(true);
            }
        }
        let Events { ids, .. } = span;
        let sql = format!(
            "DELETE FROM dedup_keys WHERE org_id = $2 AND received_at <= $3 AND {}",
            tx.dialect().any("event_id", "$1")
        );
        tx.execute(sql, args![ids.clone(), org, erasure.accepted_until]).await?;
        let sql = format!(
            "DELETE FROM {table} WHERE {} AND received_at BETWEEN $2 AND $3 AND {} = $4",
            tx.dialect().any("id", "$1"),
            tx.dialect().not_indexed("org_id")
        );
        erased.events += tx.execute(sql, args![ids.clone(), oldest, newest, org]).await?;
        let sql = format!(
            "DELETE FROM payloads_in_use
             WHERE org_id = $4 AND received_at BETWEEN $2 AND $3 AND {}",
            tx.dialect().any("event_id", "$1")
        );
        tx.execute(sql, args![ids, oldest, newest, org]).await?;
        return Ok(true);
    }
    Ok(false)
}

/// Events, with the span of their times.
struct Events {
    org: OrgId,
    ids: Vec<Uuid>,
    oldest: Timestamp,
    newest: Timestamp,
}

/// The keys of some events that are to be erased.
async fn keys_in(
    tx: &mut Tx<'_>,
    table: &'static str,
    erasure: &Erasure,
) -> Result<Vec<(Timestamp, Uuid)>> {
    let key = |row: &Row| Ok((row.get("received_at")?, row.get("id")?));
    let Erasure { org_id, accepted_until, filter, .. } = erasure;
    match filter {
        ErasureSubject::Event(event) => {
            let org = tx.dialect().not_indexed("org_id");
            let sql = format!(
                "SELECT id, received_at FROM {table}
                 WHERE id = $1 AND {org} = $2 AND received_at <= $3 LIMIT $4"
            );
            tx.list(sql, args![*event, *org_id, *accepted_until, EVENTS_PER_STEP], key).await
        }
        ErasureSubject::Account(account) => {
            let sql = format!(
                "SELECT id, received_at FROM {table}
                 WHERE org_id = $2 AND account_id = $1 AND received_at <= $3
                 ORDER BY received_at, id LIMIT $4"
            );
            let args = args![account.as_str(), *org_id, *accepted_until, EVENTS_PER_STEP];
            tx.list(sql, args, key).await
        }
    }
}

/// Erases some deliveries of events, with their attempts and dead letters. An attempt in flight completes, and its
/// outcome finds no row.
async fn erase_deliveries(
    tx: &mut Tx<'_>,
    table: &'static str,
    events: &Events,
    erased: &mut Erased,
) -> Result<u64> {
    let Events { org, ids, oldest, newest } = events;
    let dialect = tx.dialect();
    let of_events = dialect.any("event_id", "$1");
    // Those that were planned with the event, by the primary key, and redeliveries, by an index of their own.
    let which = [
        format!("org_id = $4 AND created_at BETWEEN $2 AND $3 AND {of_events}"),
        format!(
            "{of_events} AND created_at > event_received_at AND event_received_at BETWEEN $2 AND $3
             AND created_at >= $2 AND {} = $4",
            dialect.not_indexed("org_id")
        ),
    ];
    let lock = dialect.lock(" FOR UPDATE");
    for (which, from) in which.into_iter().zip([oldest.floor_ms(), *oldest]) {
        let sql = format!(
            "SELECT created_at, id FROM {table} WHERE {which} ORDER BY created_at, id LIMIT $5{lock}"
        );
        let args = args![ids.clone(), from, *newest, *org, DELIVERIES_PER_STEP];
        let read = |row: &Row| Ok((row.get("created_at")?, row.get("id")?));
        let keys: Vec<(Timestamp, Uuid)> = tx.list(sql, args, read).await?;
        let (Some((first, _)), Some((last, _))) = (keys.first(), keys.last()) else { continue };
        let (first, last) = (*first, *last);
        let found: Vec<Uuid> = keys.iter().map(|(_, id)| *id).collect();
        let sql = format!(
            "DELETE FROM delivery_attempts WHERE {} AND delivery_created_at BETWEEN $2 AND $3",
            dialect.any("delivery_id", "$1")
        );
        tx.execute(sql, args![found.clone(), first, last]).await?;
        let sql = format!(
            "DELETE FROM {table} WHERE org_id = $4 AND created_at BETWEEN $2 AND $3 AND {}",
            dialect.any("id", "$1")
        );
        let gone = tx.execute(sql, args![found.clone(), first, last, *org]).await?;
        erased.dead_letters += delete_dead_letters(tx, *org, found).await?;
        return Ok(gone);
    }
    Ok(0)
}

async fn delete_dead_letters(tx: &mut Tx<'_>, org: OrgId, ids: Vec<Uuid>) -> Result<u64> {
    if ids.is_empty() {
        return Ok(0);
    }
    let (lock, is_one) = (tx.dialect().lock(" FOR UPDATE"), tx.dialect().any("id", "$1"));
    let sql = format!(
        "DELETE FROM dead_letters WHERE id IN (
             SELECT id FROM dead_letters WHERE {is_one} ORDER BY id{lock}) AND {} = $2",
        tx.dialect().not_indexed("org_id")
    );
    tx.execute(sql, args![ids, org]).await
}

/// The next events in dead letters of the store's refusals, for an account's erasure: they alone tell whose they are.
async fn records(
    tx: &mut Tx<'_>,
    erasure: &Erasure,
    after: Cursor,
) -> Result<Vec<QuarantinedRecord>> {
    if let ErasureSubject::Event(_) = erasure.filter {
        return Ok(Vec::new());
    }
    let sql = "SELECT id, created_at, record FROM dead_letters
               WHERE org_id = $1 AND reason = $2 AND (created_at, id) > ($3, $4) AND record IS NOT NULL
               ORDER BY created_at, id LIMIT $5";
    let reason = DeadReason::Unstorable.as_str();
    let args = args![erasure.org_id, reason, after.at, after.id, RECORDS_PER_STEP];
    let read = |row: &Row| {
        let position = Cursor { at: row.get("created_at")?, id: row.get("id")? };
        Ok(QuarantinedRecord { position, record: row.get("record")? })
    };
    tx.list(sql, args, read).await
}

/// Forgets kept answers that may tell of what is erased: those with the id of the event, or every one of the
/// organisation from before an account's erasure, since answers name events and not their accounts.
async fn forget_answers(tx: &mut Tx<'_>, erasure: &Erasure) -> Result<bool> {
    let id = match &erasure.filter {
        ErasureSubject::Event(event) => Some(event.to_string()),
        ErasureSubject::Account(_) => None,
    };
    let names = match tx.dialect() {
        Dialect::Sqlite => "instr(body, CAST($4 AS BLOB)) > 0",
        Dialect::Postgres => "position(convert_to($4, 'UTF8') IN body) > 0",
    };
    let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
    let sql = format!(
        "UPDATE idempotency_keys SET body = NULL, object = NULL, location = NULL
         WHERE (key_id, name) IN (
             SELECT key_id, name FROM idempotency_keys
             WHERE org_id = $1 AND claimed_at <= $2 AND body IS NOT NULL
               AND ($4 IS NULL OR {names})
             LIMIT $3{lock})"
    );
    let args = args![erasure.org_id, erasure.accepted_until, ANSWERS_PER_STEP, id];
    Ok(tx.execute(sql, args).await? == ANSWERS_PER_STEP as u64)
}

/// Deletes counts of an account.
async fn delete_counts(store: &Store, tx: &mut Tx<'_>, erasure: &Erasure) -> Result<bool> {
    let ErasureSubject::Account(account) = &erasure.filter else { return Ok(false) };
    Ok(erase_some(store, tx, erasure.org_id, account).await? != RollupErasure::Done)
}
