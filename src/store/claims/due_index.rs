//! Finds endpoints with due deliveries in either engine, without locks and beside its writers.
//!
//! Which index answers is fixed: by its name in SQLite, and in PostgreSQL by asking for `status` or for
//! `finished_at`, which say the same (see the schema).

use uuid::Uuid;

use super::due_scan::{DueIndex, SCAN_MAX, ScannedEndpoint, WINDOW};
use crate::domain::Timestamp;
use crate::store::Result;
use crate::store::engine::{Dialect, Engine, Row, args};

/// The unordered pending deliveries, to be continued by a condition on `due_at`.
pub(super) const fn unordered_pending(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => {
            "deliveries INDEXED BY deliveries_due WHERE status = 'pending' AND ordered = 0"
        }
        Dialect::Postgres => "deliveries WHERE finished_at IS NULL AND NOT ordered",
    }
}

impl DueIndex for Engine {
    async fn due_longest(&self, now: Timestamp) -> Result<Vec<(Uuid, i64)>> {
        let sql = format!(
            "SELECT endpoint_id, count(*) AS count FROM
                 (SELECT endpoint_id, due_at FROM {} AND due_at <= $1
                  ORDER BY due_at LIMIT $2) due
             GROUP BY endpoint_id ORDER BY min(due_at)",
            unordered_pending(self.dialect())
        );
        let counted = |row: &Row| Ok((row.get("endpoint_id")?, row.get("count")?));
        self.list(sql, args![now, WINDOW], counted).await
    }

    async fn scan(&self, after: Uuid, now: Timestamp) -> Result<Vec<ScannedEndpoint>> {
        let (deliveries, unordered) = match self.dialect() {
            Dialect::Sqlite => ("deliveries d INDEXED BY deliveries_pending", "d.ordered = 0"),
            Dialect::Postgres => ("deliveries d", "d.ordered = false"),
        };
        let ready = format!(
            "EXISTS (SELECT 1 FROM {deliveries}
                     WHERE d.status = 'pending' AND d.endpoint_id = step.endpoint_id
                       AND {unordered} AND d.due_at <= $2)"
        );
        let sql = steps(deliveries, "d.status = 'pending'", &ready);
        self.list(sql, args![after, now, SCAN_MAX], scanned).await
    }

    async fn scan_ordered(&self, after: Uuid, now: Timestamp) -> Result<Vec<ScannedEndpoint>> {
        let (deliveries, ordered) = match self.dialect() {
            Dialect::Sqlite => (
                "deliveries d INDEXED BY deliveries_ordered",
                "d.status = 'pending' AND d.ordered = 1",
            ),
            Dialect::Postgres => ("deliveries d", "d.finished_at IS NULL AND d.ordered"),
        };
        let ready = format!(
            "coalesce((SELECT d.due_at FROM {deliveries}
                       WHERE {ordered} AND d.endpoint_id = step.endpoint_id
                       ORDER BY d.event_received_at, d.id LIMIT 1) <= $2, false)"
        );
        let sql = steps(deliveries, ordered, &ready);
        self.list(sql, args![after, now, SCAN_MAX], scanned).await
    }
}

/// Scans the endpoints of an index: each step is a seek, in PostgreSQL one in every partition.
fn steps(deliveries: &str, which: &str, ready: &str) -> String {
    format!(
        "WITH RECURSIVE step (endpoint_id, number) AS (
             SELECT (SELECT d.endpoint_id FROM {deliveries}
                     WHERE {which} AND d.endpoint_id > $1
                     ORDER BY d.endpoint_id LIMIT 1), 1
             UNION ALL
             SELECT (SELECT d.endpoint_id FROM {deliveries}
                     WHERE {which} AND d.endpoint_id > step.endpoint_id
                     ORDER BY d.endpoint_id LIMIT 1), number + 1
             FROM step WHERE step.endpoint_id IS NOT NULL AND number < $3
         )
         SELECT step.endpoint_id, {ready} AS ready
         FROM step WHERE step.endpoint_id IS NOT NULL"
    )
}

fn scanned(row: &Row) -> Result<ScannedEndpoint> {
    Ok(ScannedEndpoint { endpoint: row.get("endpoint_id")?, ready: row.get("ready")? })
}
