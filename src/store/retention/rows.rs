//! Deletes an organisation's old events and deliveries, in steps by the index that has them in the order of time.

use uuid::Uuid;

use super::in_use::is_needed;
use super::{OrgRetention, Round};
use crate::domain::{DeliveryId, OrgId, Timestamp};
use crate::runtime::Stopwatch;
use crate::store::Result;
use crate::store::engine::{Dialect, Row, Tx, args};
use crate::store::page::START_OF_TIME;

/// The key of an event.
pub(super) type EventKey = (Timestamp, Uuid);

impl Round<'_> {
    /// Deletes events that were accepted, and deliveries that were created, before `before`.
    pub(super) async fn delete_rows(
        &mut self,
        kept: OrgRetention,
        before: Timestamp,
    ) -> Result<()> {
        let org = kept.org;
        loop {
            let step = Stopwatch::start();
            let Some(mut tx) = self.begin_step_of(kept).await? else { return Ok(()) };
            let max = self.rows_per_step();
            let deleted = delete_deliveries(&mut tx, "deliveries", (org, before), max).await?;
            tx.commit().await?;
            if deleted == 0 {
                break;
            }
            self.report.rows += deleted;
            self.pause(&step).await;
        }
        let mut after = (START_OF_TIME, Uuid::nil());
        loop {
            let step = Stopwatch::start();
            let Some(mut tx) = self.begin_step_of(kept).await? else { return Ok(()) };
            let keys = event_keys(&mut tx, org, (after, before), self.rows_per_step()).await?;
            let Some(last) = keys.last().copied() else { return Ok(()) };
            let deleted = delete_unneeded(&mut tx, org, &keys).await?;
            tx.commit().await?;
            self.report.rows += deleted;
            after = last;
            self.pause(&step).await;
        }
    }
}

/// Deletes the oldest finished or pending deliveries of an organisation that were created before a time, at most
/// `max`, with their attempts. PostgreSQL locks the deliveries first: outcomes of theirs may be recorded meanwhile. In
/// SQLite nothing else writes between the statements.
pub(in crate::store) async fn delete_deliveries(
    tx: &mut Tx<'_>,
    table: &'static str,
    (org, before): (OrgId, Timestamp),
    max: usize,
) -> Result<u64> {
    let lock = tx.dialect().lock(" FOR UPDATE");
    let sql = format!(
        "SELECT id FROM {table} WHERE org_id = $1 AND created_at < $2
         ORDER BY created_at, id LIMIT $3{lock}"
    );
    let ids: Vec<DeliveryId> = tx.list(sql, args![org, before, max], |row| row.get("id")).await?;
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(0) };
    let (oldest, newest) = (first.created_at(), last.created_at());
    let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
    // The span leaves the partitions of other days out.
    let attempts = format!(
        "DELETE FROM delivery_attempts
         WHERE {} AND delivery_created_at BETWEEN $2 AND $3",
        tx.dialect().any("delivery_id", "$1")
    );
    let deliveries = format!(
        "DELETE FROM {table} WHERE {} AND created_at BETWEEN $2 AND $3 AND org_id = $4",
        tx.dialect().any("id", "$1")
    );
    let deleted = tx.execute(attempts, args![ids.clone(), oldest, newest]).await?;
    Ok(deleted + tx.execute(deliveries, args![ids, oldest, newest, org]).await?)
}

/// The keys of an organisation's events behind a position and before a time, in order.
pub(super) async fn event_keys(
    tx: &mut Tx<'_>,
    org: OrgId,
    ((from, id), before): (EventKey, Timestamp),
    max: usize,
) -> Result<Vec<EventKey>> {
    let sql = "SELECT id, received_at FROM events
               WHERE org_id = $1 AND received_at >= $2 AND (received_at, id) > ($2, $3)
                 AND received_at < $4
               ORDER BY received_at, id LIMIT $5";
    let read = |row: &Row| Ok((row.get("received_at")?, row.get("id")?));
    tx.list(sql, args![org, from, id, before, max], read).await
}

/// The condition that a row of `events` is one of the ids in `$1`, between `$2` and `$3`, of the organisation `$4`: by
/// the primary key; the times leave the partitions of other days out.
pub(super) fn is_one_of(dialect: Dialect) -> String {
    format!(
        "{} AND received_at BETWEEN $2 AND $3 AND {} = $4",
        dialect.any("id", "$1"),
        dialect.not_indexed("org_id")
    )
}

/// Deletes events, given by their keys in order, unless pending deliveries need them.
async fn delete_unneeded(tx: &mut Tx<'_>, org: OrgId, keys: &[EventKey]) -> Result<u64> {
    let (Some((oldest, _)), Some((newest, _))) = (keys.first(), keys.last()) else { return Ok(0) };
    let ids: Vec<Uuid> = keys.iter().map(|(_, id)| *id).collect();
    let dialect = tx.dialect();
    let sql = format!(
        "DELETE FROM events WHERE {} AND NOT {}",
        is_one_of(dialect),
        is_needed(dialect, "events.org_id", "events.id", "events.received_at")
    );
    tx.execute(sql, args![ids, *oldest, *newest, org]).await
}
