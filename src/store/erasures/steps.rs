//! The steps of an erasure, each a small transaction that writes how far it has come.
//!
//! First go the counts of an account, while few events have come since. Then go the events, a few at a time (`event_rows`),
//! and what names no event by its key: events in dead letters of the store's refusals, and kept answers to requests. Last
//! go the outcomes of deliveries that ended meanwhile.
//!
//! # Failure
//! A step that fails changes nothing, and its erasure lets the others go first for a while: whatever is wrong with its
//! rows keeps no other waiting.

use std::time::Duration;

use uuid::Uuid;

use super::event_rows::{Erased, delete_dead_letters, erase_events};
use super::{COLUMNS, Erasure, ErasureSubject, read};
use crate::domain::{Actor, Cursor, DeadReason, ErasureId, ErasureStatus, Timestamp};
use crate::store::engine::{Dialect, Row, Tx, args};
use crate::store::page::START_OF_TIME;
use crate::store::rollups::{RollupErasure, erase_outcomes, erase_some};
use crate::store::{AuditRecord, Result, Store, System, audit};

/// How long an erasure whose step has failed lets others go first.
const FAILED_WAIT: Duration = Duration::from_mins(1);
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

/// The erasure that a step is of, which is locked.
struct RunningErasure {
    erasure: Erasure,
    stage: Stage,
    /// Whether the counts of its account are erased.
    are_counts_erased: bool,
    after: Cursor,
}

impl RunningErasure {
    fn read(row: &Row) -> Result<Self> {
        let at = row.get_opt("cursor_at")?.unwrap_or(START_OF_TIME);
        let id = row.get_opt("cursor_id")?.unwrap_or(Uuid::nil());
        Ok(Self {
            erasure: read(row)?,
            stage: Stage::from_number(row.get("stage")?),
            are_counts_erased: row.get("counts_erased")?,
            after: Cursor { at, id },
        })
    }
}

impl System<'_> {
    /// Does a step of the erasure whose last step is the longest ago. `None` when none runs, or other servers do their
    /// steps.
    pub async fn erase_step(self, now: Timestamp) -> Result<Option<ErasureStep>> {
        let mut tx = self.0.engine.begin_long().await?;
        let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
        let sql = format!(
            "SELECT {COLUMNS}, stage, cursor_at, cursor_id, counts_erased FROM erasures
             WHERE status = 'running' ORDER BY stepped_at LIMIT 1{lock}"
        );
        let Some(running) = tx.find(sql, args![], RunningErasure::read).await? else {
            return Ok(None);
        };
        let id = running.erasure.id;
        match self.step_of(tx, running, now).await {
            Ok(step) => Ok(Some(step)),
            Err(error) => {
                if let Err(unmoved) = self.put_back(id, now).await {
                    tracing::debug!(erasure = %id, error = %unmoved, "failed erasure keeps its turn");
                }
                Err(error)
            }
        }
    }

    async fn step_of(
        self,
        mut tx: Tx<'_>,
        running: RunningErasure,
        now: Timestamp,
    ) -> Result<ErasureStep> {
        let RunningErasure { erasure, stage, mut are_counts_erased, after } = running;
        let mut erased = Erased::default();
        let goes_on = match stage {
            // Early, while few events of the account have come since it was asked for; one that another version began
            // has it later.
            Stage::Events | Stage::Counts if !are_counts_erased => {
                are_counts_erased = erase_counts(self.0, &mut tx, &erasure).await?;
                true
            }
            Stage::Events => erase_events(self.0, &mut tx, &erasure, &mut erased).await?,
            Stage::Records => {
                let records = records(&mut tx, &erasure, after).await?;
                if !records.is_empty() {
                    // It takes its turn again, whatever the caller does.
                    touch(&mut tx, erasure.id, now).await?;
                    tx.commit().await?;
                    return Ok(ErasureStep::Records(erasure, records));
                }
                false
            }
            Stage::Answers => forget_answers(&mut tx, &erasure).await?,
            Stage::Counts => !erase_outcomes_of(self.0, &mut tx, &erasure).await?,
            Stage::Done => false,
        };
        let next = if goes_on { stage } else { stage.next() };
        let erasure = advance(&mut tx, erasure.id, (next, are_counts_erased), erased, now).await?;
        if erasure.status == ErasureStatus::Finished {
            audit::write(&mut tx, &AuditRecord::erasure_ended(&erasure), &Actor::SERVER, now)
                .await?;
            tx.commit().await?;
            return Ok(ErasureStep::Ended(erasure));
        }
        tx.commit().await?;
        Ok(ErasureStep::Continues)
    }

    /// Lets other erasures go before one whose step has failed.
    async fn put_back(self, id: ErasureId, now: Timestamp) -> Result<()> {
        let mut tx = self.0.engine.begin().await?;
        touch(&mut tx, id, now.plus(FAILED_WAIT)).await?;
        tx.commit().await
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
    (stage, are_counts_erased): (Stage, bool),
    erased: Erased,
    now: Timestamp,
) -> Result<Erasure> {
    let is_done = stage == Stage::Done;
    let status = if is_done { ErasureStatus::Finished } else { ErasureStatus::Running };
    let sql = format!(
        "UPDATE erasures
         SET stage = $2, events = events + $3, deliveries = deliveries + $4,
             dead_letters = dead_letters + $5, stepped_at = $6, status = $7, finished_at = $8,
             counts_erased = $9
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
        finished_at,
        are_counts_erased
    ];
    read(&tx.one(sql, args).await?)
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

/// Erases some of the counts of an account. `true` when none is left; those of an event go with it.
async fn erase_counts(store: &Store, tx: &mut Tx<'_>, erasure: &Erasure) -> Result<bool> {
    let ErasureSubject::Account(account) = &erasure.filter else { return Ok(true) };
    let erased = erase_some(store, tx, erasure.org_id, account, erasure.accepted_until).await?;
    Ok(erased == RollupErasure::Done)
}

/// Erases some of what was counted of an account since. `true` when none is left.
async fn erase_outcomes_of(store: &Store, tx: &mut Tx<'_>, erasure: &Erasure) -> Result<bool> {
    let ErasureSubject::Account(account) = &erasure.filter else { return Ok(true) };
    Ok(erase_outcomes(store, tx, erasure.org_id, account).await? == RollupErasure::Done)
}
