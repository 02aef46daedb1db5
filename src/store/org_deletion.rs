//! Deletes an organisation's rows, in small steps that continue after a restart.

use uuid::Uuid;

use super::engine::{Row, Tx, args};
use super::page::END_OF_TIME;
use super::retention::delete_deliveries;
use super::{Result, System, orgs};
use crate::domain::{Org, OrgId, Timestamp};

/// Rows of one kind that a step deletes at most, so that none holds its locks for long.
const DELETED_PER_STEP: usize = 2_000;

/// The tables that hold an organisation's rows, each with its key, in the order they are emptied: what
/// other rows are found by comes last. Deliveries with their attempts, and events, which have partitions, have
/// statements of their own.
const TABLES: [(&str, &str, Rows); 21] = [
    // First, so that no replay plans deliveries meanwhile.
    ("replays", "id", Rows::LockedAlone),
    ("erasures", "id", Rows::LockedAlone),
    ("dead_letters", "id", Rows::LockedTogether),
    ("change_log", "seq", Rows::LockedAlone),
    ("change_streams", "org_id", Rows::LockedAlone),
    ("dedup_keys", "org_id, event_id", Rows::LockedAlone),
    ("payload_removals", "org_id", Rows::LockedAlone),
    ("payloads_in_use", "org_id, received_at, event_id", Rows::LockedAlone),
    ("erasure_tombstones", "org_id, subject", Rows::LockedAlone),
    ("org_usage", "org_id, month", Rows::LockedAlone),
    // Deltas first: what is folded meanwhile is there before the rollups are looked for.
    ("rollup_deltas", "id", Rows::LockedTogether),
    ("rollup_hours", "org_id, account_id, hour", Rows::LockedAlone),
    ("rollup_delivery_hours", "org_id, endpoint_id, hour", Rows::LockedAlone),
    ("accounts", "org_id, account_id", Rows::LockedAlone),
    ("event_types", "org_id, event_type", Rows::LockedAlone),
    ("rollup_months", "org_id, month", Rows::LockedAlone),
    ("idempotency_keys", "key_id, name", Rows::LockedAlone),
    ("portal_settings", "org_id", Rows::LockedAlone),
    ("endpoints", "id", Rows::LockedTogether),
    ("api_keys", "id", Rows::LockedTogether),
    ("audit_log", "id", Rows::LockedAlone),
];

/// The place of events among these tables.
const EVENTS_COME_AT: usize = 3;

/// How other transactions lock the rows of a table while their organisation is being deleted.
#[derive(Clone, Copy)]
enum Rows {
    /// One at a time, if at all.
    LockedAlone,
    /// Several, in key order, as outcomes lock endpoints: so a step does, too.
    LockedTogether,
}

impl System<'_> {
    /// Does one bounded step of the deletion that was begun first, and returns that organisation as it
    /// is now: with [`OrgDeletion::done_at`](crate::domain::OrgDeletion) when nothing of it is left but its
    /// row. `None` when there is nothing to delete, or another server does a step right now.
    pub async fn delete_step(self, now: Timestamp) -> Result<Option<Org>> {
        let mut tx = self.0.engine.begin_long().await?;
        // Skipped while another server works on it; batches that look it up do not wait.
        let lock = tx.dialect().lock(" FOR NO KEY UPDATE SKIP LOCKED");
        let sql = format!(
            "SELECT id FROM orgs
             WHERE deleting_since IS NOT NULL AND deleted_at IS NULL
             ORDER BY deleting_since, id LIMIT 1{lock}"
        );
        let found: Option<OrgId> = tx.find(sql, args![], |row| row.get("id")).await?;
        let Some(org) = found else { return Ok(None) };
        let deleted = delete_some(&mut tx, org).await?;
        let done_at = (deleted == 0).then_some(now);
        let sql = format!(
            "UPDATE orgs SET deleted_rows = deleted_rows + $2, deleted_at = $3,
                    name = CASE WHEN $2 = 0 THEN '' ELSE name END
             WHERE id = $1 RETURNING {}",
            orgs::COLUMNS
        );
        let org = orgs::read(&tx.one(sql, args![org, deleted, done_at]).await?)?;
        tx.commit().await?;
        Ok(Some(org))
    }
}

/// Deletes some rows of the first table that has any, and returns how many.
async fn delete_some(tx: &mut Tx<'_>, org: OrgId) -> Result<u64> {
    for table in ["pending_deliveries", "deliveries"] {
        let all = (org, END_OF_TIME);
        let deliveries = delete_deliveries(tx, table, all, DELETED_PER_STEP).await?;
        if deliveries > 0 {
            return Ok(deliveries);
        }
    }
    // Replays and dead letters come before the events that they name.
    for (number, (table, key, rows)) in TABLES.into_iter().enumerate() {
        if number == EVENTS_COME_AT {
            let events = delete_events(tx, org).await? + delete_held_events(tx, org).await?;
            if events > 0 {
                return Ok(events);
            }
        }
        let some = format!("SELECT {key} FROM {table} WHERE org_id = $1 LIMIT $2");
        let some = match (&*tx, rows) {
            (Tx::Postgres(_), Rows::LockedTogether) => format!(
                "SELECT {key} FROM {table} WHERE {key} IN ({some}) ORDER BY {key} FOR UPDATE"
            ),
            (Tx::Postgres(_) | Tx::Sqlite(..), _) => some,
        };
        let sql = format!("DELETE FROM {table} WHERE ({key}) IN ({some})");
        let deleted = tx.execute(sql, args![org, DELETED_PER_STEP]).await?;
        if deleted > 0 {
            return Ok(deleted);
        }
    }
    Ok(0)
}

/// Deletes some events. The span of their times leaves the partitions of other days out of the second statement.
async fn delete_events(tx: &mut Tx<'_>, org: OrgId) -> Result<u64> {
    let sql = "SELECT id, received_at FROM events WHERE org_id = $1
               ORDER BY received_at, id LIMIT $2";
    let read = |row: &Row| Ok((row.get::<Uuid>("id")?, row.get::<Timestamp>("received_at")?));
    let keys = tx.list(sql, args![org, DELETED_PER_STEP], read).await?;
    let (Some((_, oldest)), Some((_, newest))) = (keys.first(), keys.last()) else { return Ok(0) };
    let (oldest, newest) = (*oldest, *newest);
    let ids: Vec<Uuid> = keys.into_iter().map(|(id, _)| id).collect();
    let (dialect, org_id) = (tx.dialect(), tx.dialect().not_indexed("org_id"));
    let sql = format!(
        "DELETE FROM events
         WHERE {} AND received_at BETWEEN $2 AND $3 AND {org_id} = $4",
        dialect.any("id", "$1")
    );
    tx.execute(sql, args![ids, oldest, newest, org]).await
}

/// Deletes some events of days that were dropped, which only PostgreSQL does.
async fn delete_held_events(tx: &mut Tx<'_>, org: OrgId) -> Result<u64> {
    if let Tx::Sqlite(..) = tx {
        return Ok(0);
    }
    let sql = "DELETE FROM held_events WHERE (id, received_at) IN (
                   SELECT id, received_at FROM held_events WHERE org_id = $1 LIMIT $2)";
    tx.execute(sql, args![org, DELETED_PER_STEP]).await
}
