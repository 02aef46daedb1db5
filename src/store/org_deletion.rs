//! Deletes an organisation's rows, in small steps that continue after a restart.

use uuid::Uuid;

use super::engine::{Row, Tx, args};
use super::{Result, System, orgs};
use crate::domain::{DeliveryId, Org, OrgId, Timestamp};

/// Rows of one kind that a step deletes at most, so that none holds its locks for long.
const DELETED_PER_STEP: i64 = 2_000;

/// The tables that hold an organisation's rows, each with its key, in the order they are emptied: what
/// other rows are found by comes last. Deliveries with their attempts, and events, which have partitions, have
/// statements of their own.
const TABLES: [(&str, &str, Rows); 16] = [
    // First, so that no replay plans deliveries meanwhile.
    ("replays", "id", Rows::LockedAlone),
    ("dead_letters", "id", Rows::LockedTogether),
    ("change_log", "seq", Rows::LockedAlone),
    ("change_streams", "org_id", Rows::LockedAlone),
    ("dedup_keys", "org_id, event_id", Rows::LockedAlone),
    ("org_usage", "org_id, month", Rows::LockedAlone),
    // Deltas first: what is folded meanwhile is there before the rollups are looked for.
    ("rollup_deltas", "id", Rows::LockedTogether),
    ("rollup_hours", "org_id, account_id, hour", Rows::LockedAlone),
    ("rollup_delivery_hours", "org_id, endpoint_id, hour", Rows::LockedAlone),
    ("accounts", "org_id, account_id", Rows::LockedAlone),
    ("event_types", "org_id, event_type", Rows::LockedAlone),
    ("rollup_months", "org_id, month", Rows::LockedAlone),
    ("idempotency_keys", "key_id, name", Rows::LockedAlone),
    ("endpoints", "id", Rows::LockedTogether),
    ("api_keys", "id", Rows::LockedTogether),
    ("audit_log", "id", Rows::LockedAlone),
];

/// The place of events among these tables.
const EVENTS_COME_AT: usize = 2;

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
        let deliveries = delete_deliveries(tx, table, org).await?;
        if deliveries > 0 {
            return Ok(deliveries);
        }
    }
    // Replays and dead letters come before the events that they name.
    for (number, (table, key, rows)) in TABLES.into_iter().enumerate() {
        if number == EVENTS_COME_AT {
            let events = delete_events(tx, org).await?;
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

/// Deletes some deliveries with their attempts. PostgreSQL locks the deliveries first: outcomes of theirs
/// may be recorded meanwhile. In SQLite nothing else writes between the statements.
async fn delete_deliveries(tx: &mut Tx<'_>, table: &'static str, org: OrgId) -> Result<u64> {
    let lock = tx.dialect().lock(" FOR UPDATE");
    let sql =
        format!("SELECT id FROM {table} WHERE org_id = $1 ORDER BY created_at, id LIMIT $2{lock}");
    let ids: Vec<DeliveryId> =
        tx.list(sql, args![org, DELETED_PER_STEP], |row| row.get("id")).await?;
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
