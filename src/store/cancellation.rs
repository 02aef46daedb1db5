//! Cancels the pending deliveries of an endpoint, however many there are.
//!
//! Whoever cancels them, or removes the endpoint, writes `cancel_before` on the endpoint's row: from then on claims
//! skip the deliveries that were created until then, and reads show them as cancelled. The first of them become
//! rows of `deliveries` in the same transaction, the others in steps in the background. The row of a
//! removed endpoint is kept until none is left.
//!
//! # Failure
//! A clock that is ahead must not cancel what comes later: `cancel_before` is not later than the schedule time. One that
//! has turned out to be ahead, since both went back, is lowered in the background.

use std::time::Duration;

use super::endpoint_versions::next_version;
use super::engine::{Dialect, Row, Tx, args};
use super::maintenance::MissingDays;
use super::page::END_OF_TIME;
use super::{AuditRecord, Result, Store, System, audit};
use crate::domain::{Actor, EndpointId, OrgId, Revision, Timestamp};

/// Deliveries that are cancelled at most before a caller gets its answer.
pub const CANCELS_INLINE_MAX: u64 = 1_000;
/// Deliveries that one step cancels at most: some ten milliseconds of SQLite's only writer.
pub const CANCELS_PER_STEP: u64 = 500;
/// Endpoints that a step looks at, to find one whose organisation is not locked.
const CANDIDATES_PER_STEP: u32 = 16;
/// How long `cancel_before`, and the row of a removed endpoint, stay at least: events that were accepted before are
/// on their way to the store meanwhile.
const KEPT: Duration = Duration::from_mins(10);
/// How far `cancel_before` may be ahead: more than clocks that are adjusted differ.
const AHEAD_MAX: Duration = Duration::from_mins(1);
/// Why nothing is sent to a removed endpoint.
const REMOVED: &str = "the endpoint was removed";

/// The result of cancelling an endpoint's pending deliveries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PendingCancellation {
    /// Deliveries that were cancelled at once.
    pub cancelled: u64,
    /// Whether more are cancelled in the background. None of them is sent.
    pub in_progress: bool,
}

impl Store {
    /// Cancels the pending deliveries of an endpoint that were created until `now`. `None` when there is no such
    /// endpoint. The audit log gets an entry with the number of those that were cancelled at once.
    pub async fn cancel_pending(
        &self,
        org: OrgId,
        id: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<PendingCancellation>> {
        let mut days = MissingDays::default();
        loop {
            match self.cancel_pending_once(org, id, by, now).await {
                Err(error) if days.make(self, &error).await? => {}
                done => return done,
            }
        }
    }

    async fn cancel_pending_once(
        &self,
        org: OrgId,
        id: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Option<PendingCancellation>> {
        let mut tx = self.engine.begin().await?;
        let version = next_version(&mut tx, org).await?;
        let sql = "UPDATE endpoints SET cancel_before = $3, version = $4
                   WHERE id = $1 AND org_id = $2 AND removed_at IS NULL";
        let before = now.min(self.due(now));
        if tx.execute(sql, args![id, org, before, version]).await? == 0 {
            return Ok(None);
        }
        // What is there was created before, whatever the clock of the server that accepted it.
        let done = cancel_first(&mut tx, id, END_OF_TIME, now).await?;
        if done.cancelled > 0 {
            let record = AuditRecord::pending_cancelled(org, id, done.cancelled);
            audit::write(&mut tx, &record, by, now).await?;
        }
        tx.commit().await?;
        Ok(Some(done))
    }

    /// Removes an endpoint and cancels its pending deliveries. `false` when there is none.
    pub async fn delete_endpoint(
        &self,
        org: OrgId,
        id: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool> {
        let mut days = MissingDays::default();
        loop {
            match self.delete_endpoint_once(org, id, by, now).await {
                Err(error) if days.make(self, &error).await? => {}
                deleted => return deleted,
            }
        }
    }

    async fn delete_endpoint_once(
        &self,
        org: OrgId,
        id: EndpointId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<bool> {
        let mut tx = self.engine.begin().await?;
        let version = next_version(&mut tx, org).await?;
        // Its version alone: what cannot be read may be removed all the same.
        let lock = tx.dialect().lock(" FOR NO KEY UPDATE");
        let sql = format!(
            "SELECT version FROM endpoints
             WHERE id = $1 AND org_id = $2 AND removed_at IS NULL{lock}"
        );
        if let Some(version) = tx.find(sql, args![id, org], |row| row.get("version")).await? {
            self.require(&Revision::numbered(version))?;
        }
        let sql = "UPDATE endpoints
                   SET removed_at = $3, cancel_before = $3, disabled_reason = $4, suspended = false,
                       version = $5
                   WHERE id = $1 AND org_id = $2 AND removed_at IS NULL";
        if tx.execute(sql, args![id, org, now, REMOVED, version]).await? == 0 {
            return Ok(false);
        }
        cancel_first(&mut tx, id, END_OF_TIME, now).await?;
        audit::commit(tx, &AuditRecord::endpoint_deleted(org, id), by, now).await?;
        Ok(true)
    }
}

impl System<'_> {
    /// Does one bounded step of what is left to cancel and returns how many rows changed; 0 when there is
    /// nothing to do, or other servers do it.
    pub async fn cancel_step(self, now: Timestamp) -> Result<u64> {
        let mut days = MissingDays::default();
        let cancelled = loop {
            match self.cancel_some(now).await {
                Err(error) if days.make(self.0, &error).await? => {}
                cancelled => break cancelled?,
            }
        };
        if cancelled > 0 {
            return Ok(cancelled);
        }
        Ok(self.lower_one(now).await?
            + self.lift_one(now).await?
            + self.delete_removed(now).await?)
    }

    /// Lowers a `cancel_before` that is ahead, once what it was meant for is cancelled: it would cancel what comes now.
    async fn lower_one(self, now: Timestamp) -> Result<u64> {
        // Beside SQLite the schedule time stays ahead of a clock that was set back.
        let now = match self.0.engine.dialect() {
            Dialect::Sqlite => now,
            Dialect::Postgres => self.0.due(now),
        };
        let which =
            format!("e.cancel_before > $1 AND e.removed_at IS NULL AND NOT EXISTS ({PENDING})");
        let sql =
            format!("SELECT e.id, e.org_id FROM endpoints e WHERE {which} ORDER BY e.id LIMIT 1");
        let ids = |row: &Row| Ok((row.get("org_id")?, row.get("id")?));
        let ahead = now.plus(AHEAD_MAX);
        let found: Option<(OrgId, EndpointId)> = self.0.engine.find(sql, args![ahead], ids).await?;
        let Some((org, id)) = found else { return Ok(0) };
        let mut tx = self.0.engine.begin().await?;
        if !is_unlocked(&mut tx, org, " FOR NO KEY UPDATE SKIP LOCKED").await? {
            return Ok(0);
        }
        let version = next_version(&mut tx, org).await?;
        let sql = format!(
            "UPDATE endpoints AS e SET cancel_before = $2, version = $3 WHERE e.id = $4 AND {which}"
        );
        let lowered = tx.execute(sql, args![ahead, now, version, id]).await?;
        tx.commit().await?;
        if lowered > 0 {
            tracing::warn!(%org, endpoint = %id, "deliveries were cancelled while a clock was ahead; later ones are not");
        }
        Ok(lowered)
    }

    /// Cancels deliveries of the first endpoint that has some to cancel.
    async fn cancel_some(self, now: Timestamp) -> Result<u64> {
        let candidates = format!(
            "SELECT e.id, e.org_id FROM endpoints e
             WHERE e.cancel_before IS NOT NULL AND EXISTS ({PENDING})
             ORDER BY e.id LIMIT $1"
        );
        let ids = |row: &Row| Ok((row.get("org_id")?, row.get("id")?));
        let candidates = self.0.engine.list(candidates, args![CANDIDATES_PER_STEP], ids).await?;
        for (org, id) in candidates {
            let mut tx = self.0.engine.begin_long().await?;
            if !is_unlocked(&mut tx, org, " FOR KEY SHARE SKIP LOCKED").await? {
                continue;
            }
            let lock = tx.dialect().lock(" FOR SHARE");
            let sql = format!(
                "SELECT cancel_before, removed_at FROM endpoints
                 WHERE id = $1 AND cancel_before IS NOT NULL{lock}"
            );
            let Some(endpoint) = tx.optional(sql, args![id]).await? else { continue };
            let before: Timestamp = endpoint.get("cancel_before")?;
            let is_removed = endpoint.get_opt::<Timestamp>("removed_at")?.is_some();
            let until = if is_removed { END_OF_TIME } else { before };
            let cancelled = cancel(&mut tx, id, until, CANCELS_PER_STEP, before).await?;
            if cancelled > 0 && !is_removed {
                let record = AuditRecord::pending_cancelled(org, id, cancelled);
                audit::write(&mut tx, &record, &Actor::SERVER, now).await?;
            }
            tx.commit().await?;
            return Ok(cancelled);
        }
        Ok(0)
    }

    /// Takes `cancel_before` back from an endpoint that has nothing left to cancel.
    async fn lift_one(self, now: Timestamp) -> Result<u64> {
        let sql = format!(
            "SELECT e.id, e.org_id FROM endpoints e
             WHERE e.cancel_before <= $1 AND e.removed_at IS NULL AND NOT EXISTS ({PENDING})
             ORDER BY e.id LIMIT 1"
        );
        let ids = |row: &Row| Ok((row.get("org_id")?, row.get("id")?));
        let found: Option<(OrgId, EndpointId)> =
            self.0.engine.find(sql, args![now.minus(KEPT)], ids).await?;
        let Some((org, id)) = found else { return Ok(0) };
        let mut tx = self.0.engine.begin().await?;
        if !is_unlocked(&mut tx, org, " FOR NO KEY UPDATE SKIP LOCKED").await? {
            return Ok(0);
        }
        let lifted = lift(&mut tx, org, id).await?;
        tx.commit().await?;
        Ok(u64::from(lifted))
    }

    /// Deletes rows of endpoints that were removed and have nothing left to cancel.
    async fn delete_removed(self, now: Timestamp) -> Result<u64> {
        let mut tx = self.0.engine.begin().await?;
        let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
        let sql = format!(
            "DELETE FROM endpoints WHERE id IN (
                 SELECT e.id FROM endpoints e
                 WHERE e.cancel_before IS NOT NULL AND e.removed_at <= $1 AND NOT EXISTS ({PENDING})
                 ORDER BY e.id LIMIT $2{lock})"
        );
        let deleted = tx.execute(sql, args![now.minus(KEPT), CANDIDATES_PER_STEP]).await?;
        tx.commit().await?;
        Ok(deleted)
    }
}

/// A pending delivery of the endpoint `e` that is to be cancelled.
const PENDING: &str = "SELECT 1 FROM pending_deliveries p
     WHERE p.endpoint_id = e.id AND p.created_at <= e.cancel_before
     UNION ALL
     SELECT 1 FROM pending_deliveries p WHERE p.endpoint_id = e.id AND e.removed_at IS NOT NULL";

/// Locks an organisation unless somebody else has; `false` then, and when there is none.
async fn is_unlocked(tx: &mut Tx<'_>, org: OrgId, lock: &'static str) -> Result<bool> {
    let sql = format!("SELECT 1 AS one FROM orgs WHERE id = $1{}", tx.dialect().lock(lock));
    Ok(tx.optional(sql, args![org]).await?.is_some())
}

/// Takes `cancel_before` back from an endpoint, so that deliveries which were created until then can be sent again;
/// `false` when some are still to be cancelled. It locks the organisation.
pub(super) async fn lift(tx: &mut Tx<'_>, org: OrgId, id: EndpointId) -> Result<bool> {
    let version = next_version(tx, org).await?;
    let sql = format!(
        "UPDATE endpoints AS e SET cancel_before = NULL, version = $2
         WHERE e.id = $1 AND e.removed_at IS NULL AND NOT EXISTS ({PENDING})"
    );
    Ok(tx.execute(sql, args![id, version]).await? > 0)
}

/// Cancels the first deliveries of an endpoint that were created by `until`.
async fn cancel_first(
    tx: &mut Tx<'_>,
    id: EndpointId,
    until: Timestamp,
    now: Timestamp,
) -> Result<PendingCancellation> {
    let cancelled = cancel(tx, id, until, CANCELS_INLINE_MAX, now).await?;
    let left = "SELECT 1 AS one FROM pending_deliveries
                WHERE endpoint_id = $1 AND created_at <= $2 LIMIT 1";
    let in_progress =
        cancelled == CANCELS_INLINE_MAX && tx.optional(left, args![id, until]).await?.is_some();
    Ok(PendingCancellation { cancelled, in_progress })
}

/// Moves pending deliveries of an endpoint that were created by `until` to the finished ones, the oldest first, at
/// most `max`, and returns how many. PostgreSQL locks them in key order, as outcomes do.
async fn cancel(
    tx: &mut Tx<'_>,
    endpoint: EndpointId,
    until: Timestamp,
    max: u64,
    finished_at: Timestamp,
) -> Result<u64> {
    match tx {
        Tx::Sqlite(..) => {
            let insert = format!(
                "INSERT INTO deliveries ({FINISHED}) SELECT {CANCELLED}
                 FROM pending_deliveries INDEXED BY pending_by_endpoint
                 WHERE endpoint_id = $1 AND created_at <= $2 ORDER BY created_at, id LIMIT $3"
            );
            let cancelled = tx.execute(insert, args![endpoint, until, max, finished_at]).await?;
            let delete = "DELETE FROM pending_deliveries WHERE (org_id, created_at, id) IN (
                 SELECT org_id, created_at, id
                 FROM pending_deliveries INDEXED BY pending_by_endpoint
                 WHERE endpoint_id = $1 AND created_at <= $2 ORDER BY created_at, id LIMIT $3)";
            tx.execute(delete, args![endpoint, until, max]).await?;
            Ok(cancelled)
        }
        Tx::Postgres(_) => {
            let sql = format!(
                "WITH held AS MATERIALIZED (
                     SELECT org_id, created_at, id FROM pending_deliveries
                     WHERE endpoint_id = $1 AND created_at <= $2
                     ORDER BY created_at, id LIMIT $3 FOR UPDATE
                 ), gone AS (
                     DELETE FROM pending_deliveries p USING held h
                     WHERE p.org_id = h.org_id AND p.created_at = h.created_at AND p.id = h.id
                     RETURNING p.*
                 )
                 INSERT INTO deliveries ({FINISHED}) SELECT {CANCELLED} FROM gone"
            );
            tx.execute(sql, args![endpoint, until, max, finished_at]).await
        }
    }
}

/// The columns of a finished delivery that a cancelled one has. Its attempts, which did not finish it, stay where
/// they are.
pub(super) const FINISHED: &str = "org_id, created_at, id, event_id, event_received_at, endpoint_id, \
     replay_of, attempts, status, finished_at, type_key, error, error_class, status_code";

/// The values of [`FINISHED`] from a pending delivery that is cancelled at `$4`.
pub(super) const CANCELLED: &str = "org_id, created_at, id, event_id, event_received_at, endpoint_id, \
     replay_of, attempts, 'cancelled', $4, type_key, error, error_class, status_code";
