//! Replays of many dead letters, done in the background step by step.

use std::time::Duration;

use uuid::Uuid;

use super::columns::{Columns, columns};
use super::dead_letters;
use super::engine::{Row, Tx, Value, args};
use super::page::START_OF_TIME;
use super::replay_chunk::{ReplayChunk, chunk, chunk_to_discard};
use super::replay_selection::{candidates_after, count};
use super::{AuditRecord, Result, Store, StoreError, System, audit, orgs, redeliveries, storable};
use crate::domain::{
    Actor, Cursor, DeadLetterFilter, DeadReason, ErrorClass, OrgId, Page, PageRequest, Replay,
    ReplayAction, ReplayId, ReplayStatus, Timestamp,
};

/// The result of one step of a replay.
#[derive(Clone, Debug)]
pub struct ReplayStep {
    /// New deliveries.
    pub planned: usize,
    /// Where it stopped: a quarantined event, which the caller tries to store again and then passes.
    pub stopped_at: Option<QuarantinedEvent>,
}

/// An event that the store rejected, and that a replay has come to.
#[derive(Clone, Debug)]
pub struct QuarantinedEvent {
    /// The replay.
    pub replay: ReplayId,
    /// The position of its dead letter in the order of the replay.
    pub position: Cursor,
    /// The event in the journal's form.
    pub record: Vec<u8>,
}

/// The columns of a replay, in the order of the values in [`Store::insert_replay`].
const COLUMNS: Columns<22> = columns! {
    id org_id endpoint_id reason event_type since until total done skipped status detail
    created_at finished_at cursor_at cursor_id stepped_at action error_class status_code
    event_id replayed
};

/// The end of an action whose filter has columns that servers before migration 31 do not read: they cannot read such an
/// action, and so do nothing that its filter leaves out.
const NARROWED: &str = "_narrowed";

/// The values of [`COLUMNS`] for a new replay, which begins behind `cursor`.
fn values(replay: &Replay, cursor: Cursor) -> [Value<'_>; COLUMNS.0.len()] {
    let Replay {
        id,
        org_id,
        action,
        filter,
        total,
        done,
        skipped,
        status,
        detail,
        created_at,
        finished_at,
    } = replay;
    let DeadLetterFilter {
        endpoint_id,
        event_id,
        reason,
        event_type,
        since,
        until,
        replayed,
        error_class,
        status_code,
    } = filter;
    let is_narrowed = event_id.is_some() || replayed.is_some();
    [
        (*id).into(),
        (*org_id).into(),
        (*endpoint_id).into(),
        reason.map(DeadReason::as_str).into(),
        event_type.as_ref().map(ToString::to_string).into(),
        (*since).into(),
        (*until).into(),
        (*total).into(),
        (*done).into(),
        (*skipped).into(),
        status.as_str().into(),
        detail.as_deref().map(storable).into(),
        (*created_at).into(),
        (*finished_at).into(),
        cursor.at.into(),
        cursor.id.into(),
        (*created_at).into(),
        format!("{}{}", action.as_str(), if is_narrowed { NARROWED } else { "" }).into(),
        error_class.map(ErrorClass::as_str).into(),
        status_code.map(u32::from).into(),
        (*event_id).into(),
        (*replayed).into(),
    ]
}

fn read(row: &Row) -> Result<Replay> {
    Ok(Replay {
        id: row.get("id")?,
        org_id: row.get("org_id")?,
        action: read_action(row)?,
        filter: DeadLetterFilter {
            endpoint_id: row.get_opt("endpoint_id")?,
            event_id: row.get_opt("event_id")?,
            reason: row.parse_opt("reason")?,
            event_type: row.parse_opt("event_type")?,
            since: row.get_opt("since")?,
            until: Some(row.get("until")?),
            replayed: row.get_opt("replayed")?,
            error_class: row.parse_opt("error_class")?,
            status_code: row.get_opt("status_code")?,
        },
        total: row.get_opt("total")?,
        done: row.get("done")?,
        skipped: row.get("skipped")?,
        status: row.parse("status")?,
        detail: row.get_opt("detail")?,
        created_at: row.get("created_at")?,
        finished_at: row.get_opt("finished_at")?,
    })
}

fn read_action(row: &Row) -> Result<ReplayAction> {
    let stored: String = row.get("action")?;
    let action = stored.strip_suffix(NARROWED).unwrap_or(&stored);
    action.parse().map_err(|_| StoreError::Corrupt(format!("the action {stored} of a replay")))
}

impl Store {
    /// Adds a replay of the dead letters that pass the filter, were given up by `now` and are not
    /// replayed yet. Steps do the work. `None` when there is no such organisation, or it is being deleted.
    pub async fn insert_replay(
        &self,
        org: OrgId,
        filter: &DeadLetterFilter,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>> {
        self.insert_job(org, ReplayAction::Replay, filter, by, now).await
    }

    /// As [`Self::insert_replay`], to delete the dead letters, whether they were replayed or not unless the filter says.
    pub async fn insert_discard(
        &self,
        org: OrgId,
        filter: &DeadLetterFilter,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>> {
        self.insert_job(org, ReplayAction::Discard, filter, by, now).await
    }

    async fn insert_job(
        &self,
        org: OrgId,
        action: ReplayAction,
        filter: &DeadLetterFilter,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>> {
        let mut tx = self.engine.begin().await?;
        if !orgs::hold(&mut tx, org).await? {
            return Ok(None);
        }
        let filter = DeadLetterFilter { until: Some(until(filter, now)), ..filter.clone() };
        let replay = Replay {
            id: ReplayId::mint(now),
            org_id: org,
            action,
            total: count(&mut tx, org, action, &filter).await?,
            filter,
            done: 0,
            skipped: 0,
            status: ReplayStatus::Running,
            detail: None,
            created_at: now,
            finished_at: None,
        };
        let from = Cursor { at: replay.filter.since.unwrap_or(START_OF_TIME), id: Uuid::nil() };
        tx.execute(COLUMNS.insert_into("replays"), values(&replay, from).into()).await?;
        audit::commit(tx, &AuditRecord::replay_started(&replay), by, now).await?;
        Ok(Some(replay))
    }

    /// One replay.
    pub async fn replay(&self, org: OrgId, id: ReplayId) -> Result<Option<Replay>> {
        let sql = format!("SELECT {COLUMNS} FROM replays WHERE id = $1 AND org_id = $2");
        self.engine.find(sql, args![id, org], read).await
    }

    /// The organisation's replays.
    pub async fn replays(&self, org: OrgId, page: PageRequest) -> Result<Page<Replay>> {
        let sql = format!("SELECT {COLUMNS} FROM replays WHERE org_id = $4");
        self.page(page, "created_at", sql, args![org], read).await
    }

    /// Ends a running replay and returns it as it is now; one that has ended stays as it is.
    /// `failure` says why it failed; without it, it was cancelled.
    pub async fn end_replay(
        &self,
        org: OrgId,
        id: ReplayId,
        failure: Option<&str>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<Replay>> {
        let status = match failure {
            Some(_) => ReplayStatus::Failed,
            None => ReplayStatus::Cancelled,
        };
        let mut tx = self.begin_in(org).await?;
        let sql = format!(
            "UPDATE replays SET status = $3, detail = $4, finished_at = $5
             WHERE id = $1 AND org_id = $2 AND status = 'running' RETURNING {COLUMNS}"
        );
        let args = args![id, org, status.as_str(), failure.map(storable), now];
        if let Some(ended) = tx.find(sql, args, read).await? {
            audit::commit(tx, &AuditRecord::replay_ended(&ended), by, now).await?;
            return Ok(Some(ended));
        }
        tx.rollback().await?;
        self.replay(org, id).await
    }

    /// Deals with the next dead letters of a running replay, at most [`REPLAYS_PER_STEP`], in the
    /// order in which they were given up. Each is dealt with once, whichever server does the step and
    /// however often the process dies. `None` when the replay is not running, or another server does a
    /// step of it right now.
    pub async fn step_replay(
        &self,
        org: OrgId,
        id: ReplayId,
        now: Timestamp,
    ) -> Result<Option<ReplayStep>> {
        let mut tx = self.engine.begin_long().await?;
        let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
        let sql = format!(
            "SELECT {COLUMNS} FROM replays
             WHERE id = $1 AND org_id = $2 AND status = 'running'{lock}"
        );
        let Some(row) = tx.optional(sql, args![id, org]).await? else { return Ok(None) };
        let Replay { filter, action, .. } = read(&row)?;
        let cursor = Cursor { at: row.get("cursor_at")?, id: row.get("cursor_id")? };
        let candidates = candidates_after(&mut tx, org, action, &filter, cursor).await?;
        if action == ReplayAction::Discard {
            let chunk = chunk_to_discard(&candidates);
            let discarded = dead_letters::discard(&mut tx, org, &chunk.deliveries).await?;
            let missing = chunk.deliveries.len() - discarded;
            advance(&mut tx, id, &chunk, (discarded, missing), now).await?;
            tx.commit().await?;
            return Ok(Some(ReplayStep { planned: 0, stopped_at: None }));
        }
        let chunk = chunk(&candidates);
        let wanted = unreplayed(&mut tx, &chunk.deliveries).await?;
        let found = redeliveries::find(&mut tx, org, &wanted, now).await?;
        redeliveries::plan(&mut tx, org, &found, (now, self.due(now))).await?;
        let planned = found.len();
        advance(&mut tx, id, &chunk, (planned, wanted.len() - planned), now).await?;
        let stopped_at = match chunk.stopped_at {
            None => None,
            Some(position) => {
                let sql = "SELECT record FROM dead_letters WHERE id = $1";
                let record = tx.find(sql, args![position.id], |row| row.get_opt("record"));
                let record = record.await?.flatten().unwrap_or_default();
                Some(QuarantinedEvent { replay: id, position, record })
            }
        };
        tx.commit().await?;
        Ok(Some(ReplayStep { planned, stopped_at }))
    }

    /// Moves past a quarantined event that a step stopped at. Its dead letter is deleted when the event
    /// is `stored`, and skipped otherwise. Doing it again changes nothing.
    pub async fn pass_quarantined_event(
        &self,
        org: OrgId,
        event: &QuarantinedEvent,
        stored: bool,
        now: Timestamp,
    ) -> Result<()> {
        let Cursor { at, id } = event.position;
        let mut tx = self.engine.begin().await?;
        let sql = "UPDATE replays
                   SET cursor_at = $3, cursor_id = $4, done = done + $5,
                       skipped = skipped + 1 - $5, stepped_at = $6
                   WHERE id = $1 AND org_id = $2 AND status = 'running'
                     AND (cursor_at, cursor_id) < ($3, $4)";
        let args = args![event.replay, org, at, id, i64::from(stored), now];
        if tx.execute(sql, args).await? > 0 && stored {
            let delete = "DELETE FROM dead_letters WHERE id = $1 AND org_id = $2";
            tx.execute(delete, args![id, org]).await?;
        }
        tx.commit().await
    }
}

impl System<'_> {
    /// Lets the other replays go ahead of one whose step has failed.
    pub async fn pass_over_replay(self, org: OrgId, id: ReplayId, now: Timestamp) -> Result<()> {
        let sql = "UPDATE replays SET stepped_at = $3
                   WHERE id = $1 AND org_id = $2 AND status = 'running'";
        let mut tx = self.0.engine.begin().await?;
        tx.execute(sql, args![id, org, now]).await?;
        tx.commit().await
    }

    /// The running replay whose last step is the longest ago.
    pub async fn next_replay(self) -> Result<Option<(OrgId, ReplayId)>> {
        let sql =
            "SELECT org_id, id FROM replays WHERE status = 'running' ORDER BY stepped_at LIMIT 1";
        let ids = |row: &Row| Ok((row.get("org_id")?, row.get("id")?));
        self.0.engine.find(sql, args![], ids).await
    }
}

/// Before when a dead letter must have been given up for a replay that is made at `now`: later ones are
/// not part of it, so that it ends.
fn until(filter: &DeadLetterFilter, now: Timestamp) -> Timestamp {
    let after_now = now.plus(Duration::from_micros(1));
    filter.until.map_or(after_now, |until| until.min(after_now))
}

/// The dead letters that have not been replayed meanwhile, locked until the end of the transaction.
/// Endpoints come first and both in key order, so that replays, retries and removals cannot wait for each
/// other in a circle. In SQLite nothing else writes meanwhile.
async fn unreplayed(tx: &mut Tx<'_>, letters: &[Uuid]) -> Result<Vec<Uuid>> {
    if letters.is_empty() || matches!(tx, Tx::Sqlite(..)) {
        return Ok(letters.to_vec());
    }
    tx.execute(
        "SELECT 1 FROM endpoints
         WHERE id = ANY (ARRAY(SELECT DISTINCT endpoint_id FROM dead_letters WHERE id = ANY ($1)))
         ORDER BY id FOR SHARE",
        args![letters.to_vec()],
    )
    .await?;
    let sql = "SELECT id FROM dead_letters WHERE id = ANY ($1) AND replayed_at IS NULL
               ORDER BY id FOR UPDATE";
    tx.list(sql, args![letters.to_vec()], |row| row.get("id")).await
}

/// Writes how far a replay has come.
async fn advance(
    tx: &mut Tx<'_>,
    id: ReplayId,
    chunk: &ReplayChunk,
    (done, skipped): (usize, usize),
    now: Timestamp,
) -> Result<()> {
    let sql = "UPDATE replays
               SET cursor_at = coalesce($2, cursor_at), cursor_id = coalesce($3, cursor_id),
                   done = done + $4, skipped = skipped + $5, stepped_at = $6,
                   status = CASE WHEN $7 THEN 'finished' ELSE status END,
                   finished_at = CASE WHEN $7 THEN $6 END
               WHERE id = $1";
    let reached = chunk.reached;
    let args = args![
        id,
        reached.map(|position| position.at),
        reached.map(|position| position.id),
        done,
        skipped,
        now,
        chunk.at_end,
    ];
    tx.execute(sql, args).await?;
    Ok(())
}
