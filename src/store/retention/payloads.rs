//! Removes payloads, and the excerpts of responses to them, earlier than the rows that they are in.
//!
//! How far an organisation's payloads are removed is a row of `payload_removals`, so that a round reads what has become
//! too old since the round before. Events that a pending delivery needs at that time are noted in `payloads_in_use`,
//! and looked at in each round until it is finished. So are events that were stored late, after a round had passed them.

use uuid::Uuid;

use super::in_use::is_needed;
use super::rows::{EventKey, event_keys, is_one_of};
use super::{OrgRetention, Round};
use crate::domain::{DeadReason, OrgId, Timestamp};
use crate::runtime::Stopwatch;
use crate::store::Result;
use crate::store::engine::{Dialect, Row, Tx, Value, args};
use crate::store::event_deliveries::{DeliveryOrigin, RowKeys, delete_by_key};
use crate::store::page::START_OF_TIME;

/// An event may have many deliveries whose excerpts go with its payload, so a step has this part of its rows.
const PART_OF_ROWS: usize = 2;
/// Events in use that are looked at by one statement.
const LOOKED_AT_ONCE: usize = 1_000;

impl Round<'_> {
    /// Removes the payloads of events that were accepted before `before`.
    pub(super) async fn remove_payloads(
        &mut self,
        kept: OrgRetention,
        before: Timestamp,
    ) -> Result<()> {
        let org = kept.org;
        let mut after = (self.payloads_removed_until(org).await?, Uuid::nil());
        while after.0 < before {
            let step = Stopwatch::start();
            let Some(mut tx) = self.begin_step_of(kept).await? else { return Ok(()) };
            lock_mark(&mut tx, org).await?;
            let max = (self.rows_per_step() / PART_OF_ROWS).max(1);
            let keys = event_keys(&mut tx, org, (after, before), max).await?;
            after = keys.last().copied().unwrap_or((before, Uuid::nil()));
            let unneeded = note_needed(&mut tx, org, keys).await?;
            remove(&mut tx, org, &unneeded).await?;
            let sql = "UPDATE payload_removals SET until = $2 WHERE org_id = $1";
            tx.execute(sql, args![org, after.0]).await?;
            tx.commit().await?;
            self.report.payloads += unneeded.len() as u64;
            self.pause(&step).await;
        }
        self.remove_payloads_in_use(kept, before).await?;
        self.remove_records(kept, before).await
    }

    /// Until when payloads are removed. From now on there is a row that says so.
    async fn payloads_removed_until(&self, org: OrgId) -> Result<Timestamp> {
        let sql = "SELECT until FROM payload_removals WHERE org_id = $1";
        let read = |row: &Row| row.get("until");
        if let Some(until) = self.store.engine.find(sql, args![org], read).await? {
            return Ok(until);
        }
        let mut tx = self.begin_step().await?;
        let insert = "INSERT INTO payload_removals (org_id, until) VALUES ($1, $2)
                      ON CONFLICT (org_id) DO NOTHING";
        tx.execute(insert, args![org, START_OF_TIME]).await?;
        tx.commit().await?;
        Ok(START_OF_TIME)
    }

    /// Removes the payloads of events that are noted and that nothing needs any more: they were in use when their time
    /// came, or were stored later.
    async fn remove_payloads_in_use(
        &mut self,
        kept: OrgRetention,
        before: Timestamp,
    ) -> Result<()> {
        let org = kept.org;
        let mut after = (START_OF_TIME, Uuid::nil());
        loop {
            let step = Stopwatch::start();
            let dialect = self.store.engine.dialect();
            let sql = format!(
                "SELECT received_at, event_id AS id, {} AS needed FROM payloads_in_use u
                 WHERE org_id = $1 AND (received_at, event_id) > ($2, $3) AND received_at < $5
                 ORDER BY received_at, event_id LIMIT $4",
                is_needed(dialect, "u.org_id", "u.event_id", "u.received_at")
            );
            let read =
                |row: &Row| Ok(((row.get("received_at")?, row.get("id")?), row.get("needed")?));
            let args = args![org, after.0, after.1, LOOKED_AT_ONCE, before];
            let found: Vec<(EventKey, bool)> = self.store.engine.list(sql, args, read).await?;
            let Some((last, _)) = found.last().copied() else { return Ok(()) };
            after = last;
            let unneeded: Vec<EventKey> =
                found.into_iter().filter_map(|(key, needed)| (!needed).then_some(key)).collect();
            for part in unneeded.chunks((self.rows_per_step() / PART_OF_ROWS).max(1)) {
                let Some(mut tx) = self.begin_step_of(kept).await? else { return Ok(()) };
                remove(&mut tx, org, part).await?;
                let keys = RowKeys::of(part);
                let key = ("received_at", "event_id");
                delete_by_key(&mut tx, "payloads_in_use", key, org, &keys).await?;
                tx.commit().await?;
                self.report.payloads += part.len() as u64;
            }
            self.pause(&step).await;
        }
    }

    /// Removes the events in dead letters of the store's refusals.
    async fn remove_records(&mut self, kept: OrgRetention, before: Timestamp) -> Result<()> {
        loop {
            let step = Stopwatch::start();
            let Some(mut tx) = self.begin_step_of(kept).await? else { return Ok(()) };
            let lock = tx.dialect().lock(" FOR UPDATE SKIP LOCKED");
            let sql = format!(
                "UPDATE dead_letters SET record = NULL WHERE id IN (
                     SELECT id FROM dead_letters
                     WHERE org_id = $1 AND reason = $2 AND created_at < $3 AND record IS NOT NULL
                     LIMIT $4{lock})"
            );
            let reason = DeadReason::Unstorable.as_str();
            let removed =
                tx.execute(sql, args![kept.org, reason, before, self.rows_per_step()]).await?;
            tx.commit().await?;
            self.report.payloads += removed;
            if removed == 0 {
                return Ok(());
            }
            self.pause(&step).await;
        }
    }
}

/// Locks the mark of an organisation until the end of the step. A transaction that stores late events reads it under a
/// lock, too: either it has ended, and this step finds its events, or it sees where this step has moved the mark.
async fn lock_mark(tx: &mut Tx<'_>, org: OrgId) -> Result<()> {
    let lock = tx.dialect().lock(" FOR UPDATE");
    let sql = format!("SELECT until FROM payload_removals WHERE org_id = $1{lock}");
    tx.optional(sql, args![org]).await?;
    Ok(())
}

/// Notes the events that pending deliveries need, and returns the others.
async fn note_needed(tx: &mut Tx<'_>, org: OrgId, keys: Vec<EventKey>) -> Result<Vec<EventKey>> {
    if keys.is_empty() {
        return Ok(keys);
    }
    let (ids, oldest, newest) = span(&keys);
    let dialect = tx.dialect();
    let sql = format!(
        "SELECT id, received_at FROM events WHERE {} AND {}",
        is_one_of(dialect),
        is_needed(dialect, "events.org_id", "events.id", "events.received_at")
    );
    let read = |row: &Row| Ok((row.get("received_at")?, row.get("id")?));
    let needed: Vec<EventKey> = tx.list(sql, args![ids, oldest, newest, org], read).await?;
    let rows: Vec<Vec<Value<'_>>> = needed.iter().map(|(at, id)| args![org, *at, *id]).collect();
    let insert = "INSERT INTO payloads_in_use (org_id, received_at, event_id)
                  SELECT column1, column2, column3 FROM ";
    tx.execute_values(insert, rows, " WHERE true ON CONFLICT DO NOTHING").await?;
    Ok(keys.into_iter().filter(|key| !needed.contains(key)).collect())
}

/// Removes the payloads of events, and what receivers answered to them.
async fn remove(tx: &mut Tx<'_>, org: OrgId, keys: &[EventKey]) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let (ids, oldest, newest) = span(keys);
    let dialect = tx.dialect();
    let empty = match dialect {
        Dialect::Sqlite => "x''",
        Dialect::Postgres => "''::bytea",
    };
    let is_one = is_one_of(dialect);
    let sql = format!("UPDATE events SET payload = {empty} WHERE {is_one} AND length(payload) > 0");
    tx.execute(sql, args![ids.clone(), oldest, newest, org]).await?;
    let events = RowKeys::of(keys);
    for origin in DeliveryOrigin::ALL {
        let excerpts = "d.response_excerpt IS NOT NULL";
        let found = origin.select(dialect, "deliveries", "d.org_id, d.created_at, d.id", excerpts);
        let sql = match dialect {
            Dialect::Sqlite => format!(
                "UPDATE deliveries SET response_excerpt = NULL
                 WHERE (org_id, created_at, id) IN ({found})"
            ),
            Dialect::Postgres => format!(
                "UPDATE deliveries d SET response_excerpt = NULL FROM ({found}) k
                 WHERE d.org_id = $1 AND d.created_at = k.created_at AND d.id = k.id
                   AND d.created_at >= $3"
            ),
        };
        tx.execute(sql, origin.args(org, &events)).await?;
        let found = origin.select(dialect, "deliveries", "d.id", "d.attempts > 1");
        let until = match origin {
            DeliveryOrigin::Planned => " AND delivery_created_at <= $4",
            DeliveryOrigin::Redelivered => "",
        };
        let sql = format!(
            "UPDATE delivery_attempts SET response_excerpt = NULL
             WHERE response_excerpt IS NOT NULL AND delivery_created_at >= $3{until}
               AND delivery_id IN ({found})"
        );
        tx.execute(sql, origin.args(org, &events)).await?;
    }
    Ok(())
}

/// The ids of events, and the times of the first and the last.
fn span(keys: &[EventKey]) -> (Vec<Uuid>, Timestamp, Timestamp) {
    let times = || keys.iter().map(|(at, _)| *at);
    let (oldest, newest) = (times().min(), times().max());
    let ids = keys.iter().map(|(_, id)| *id).collect();
    (ids, oldest.unwrap_or(START_OF_TIME), newest.unwrap_or(START_OF_TIME))
}
