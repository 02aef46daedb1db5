//! Finds endpoints with due deliveries in either engine, without locks and beside its writers.

use uuid::Uuid;

use super::due_scan::{DueEndpoint, DueIndex, DueWindow, SCAN_MAX, ScannedEndpoint, WINDOW};
use crate::domain::Timestamp;
use crate::store::Result;
use crate::store::engine::{Dialect, Engine, Row, args};

/// What an endpoint `p` must be for anything to be leased.
pub(super) const IS_SENT_TO: &str =
    "p.disabled_reason IS NULL AND p.removed_at IS NULL AND p.kind = 'webhook'";

/// `pending_deliveries` under an alias, by the index that is named.
pub(in crate::store) fn pending(dialect: Dialect, alias: &str, index: &str) -> String {
    match dialect {
        Dialect::Sqlite => format!("pending_deliveries {alias} INDEXED BY {index}"),
        Dialect::Postgres => format!("pending_deliveries {alias}"),
    }
}

/// The [`WINDOW`] unordered deliveries of webhooks that are due longest at `$1`: their endpoints as `due`, each with their number
/// and the first due time.
pub(super) fn window(dialect: Dialect) -> String {
    format!(
        "due AS (
             SELECT endpoint_id, count(*) AS count, min(due_at) AS due_at FROM
                 (SELECT d.endpoint_id, d.due_at FROM {}
                  WHERE d.lease_token IS NULL AND {} AND d.event_type IS NULL AND d.due_at <= $1
                  ORDER BY d.due_at LIMIT {WINDOW}) d
             GROUP BY endpoint_id
         )",
        pending(dialect, "d", "pending_due"),
        is_unordered(dialect),
    )
}

const fn is_unordered(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "d.ordered = 0",
        Dialect::Postgres => "NOT d.ordered",
    }
}

/// The condition that an endpoint `p` has an unleased delivery that is due at `now`, a parameter, and not being
/// cancelled. What is being cancelled may be all that comes first by due time, so it is skipped by the time of
/// creation.
fn has_due(dialect: Dialect, ordered: bool, now: &str) -> String {
    format!(
        "CASE WHEN p.cancel_before IS NULL
              THEN EXISTS (SELECT 1 FROM {}
                           WHERE d.lease_token IS NULL AND d.endpoint_id = p.id
                             AND d.ordered = {ordered} AND d.due_at <= {now})
              ELSE EXISTS (SELECT 1 FROM {}
                           WHERE d.lease_token IS NULL AND d.ordered = {ordered}
                             AND d.due_at <= {now})
         END",
        pending(dialect, "d", "pending_claims"),
        kept(dialect, "p.id", "p.cancel_before"),
    )
}

/// The deliveries of an endpoint that are not being cancelled, in the order of their creation, as `d`.
pub(super) fn kept(dialect: Dialect, endpoint: &str, cancel_before: &str) -> String {
    let order = match dialect {
        Dialect::Sqlite => "",
        // Keeps the conditions of the outer query, and so the other indexes, out.
        Dialect::Postgres => " ORDER BY d.created_at OFFSET 0",
    };
    format!(
        "(SELECT d.* FROM {}
          WHERE d.endpoint_id = {endpoint} AND d.created_at > {cancel_before}{order}) d",
        pending(dialect, "d", "pending_by_endpoint"),
    )
}

/// The condition that an ordered endpoint `p` has none in flight and its oldest delivery is due at `now`. Of deliveries
/// that are being cancelled, it looks past a few; the others must be gone first.
fn has_due_head(dialect: Dialect, now: &str) -> String {
    format!(
        "coalesce((SELECT d.due_at <= {now} AND d.lease_token IS NULL FROM {} ), false)
         AND NOT EXISTS (SELECT 1 FROM {} WHERE {} AND d.lease_token IS NOT NULL
                                            AND d.endpoint_id = p.id)",
        head(dialect, "p.id", "p.cancel_before"),
        pending(dialect, "d", "pending_ordered_leases"),
        is_ordered(dialect),
    )
}

/// The condition that a delivery `d` is ordered, as the indexes on those have it.
pub(in crate::store) const fn is_ordered(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "d.ordered = 1",
        Dialect::Postgres => "d.ordered",
    }
}

/// Ordered deliveries that are being cancelled and that a look at the oldest one passes at most.
const CANCELLED_HEADS_MAX: usize = 1_000;

/// The oldest ordered delivery of an endpoint, as `d`.
pub(in crate::store) fn head(dialect: Dialect, endpoint: &str, cancel_before: &str) -> String {
    format!(
        "(SELECT d.* FROM
             (SELECT d.* FROM {} WHERE {} AND d.endpoint_id = {endpoint}
              ORDER BY d.position, d.event_received_at, d.id LIMIT {CANCELLED_HEADS_MAX}) d
          WHERE {cancel_before} IS NULL OR d.created_at > {cancel_before}
          ORDER BY d.position, d.event_received_at, d.id LIMIT 1) d",
        pending(dialect, "d", "pending_ordered"),
        is_ordered(dialect),
    )
}

impl DueIndex for Engine {
    async fn due_longest(&self, now: Timestamp) -> Result<DueWindow> {
        let dialect = self.dialect();
        let sql = format!(
            "WITH {}
             SELECT due.endpoint_id, due.count, p.org_id, false AS ordered
             FROM due {}
             ORDER BY due.due_at",
            window(dialect),
            endpoint_if(
                dialect,
                "due.endpoint_id",
                &format!("(p.cancel_before IS NULL OR {})", has_due(dialect, false, "$1"))
            ),
        );
        let (mut endpoints, mut count) = (Vec::new(), 0);
        for row in self.all(sql, args![now]).await? {
            count += row.get::<usize>("count")?;
            endpoints.extend(due_endpoint(&row)?);
        }
        Ok(DueWindow { endpoints, full: count >= WINDOW })
    }

    async fn scan(&self, after: Uuid, now: Timestamp) -> Result<Vec<ScannedEndpoint>> {
        let dialect = self.dialect();
        let unleased = pending(dialect, "d", "pending_claims");
        let due = has_due(dialect, false, "$2");
        let endpoint = endpoint_if(dialect, "step.endpoint_id", &due);
        let sql = steps(&unleased, "d.lease_token IS NULL", "false", &endpoint);
        self.list(sql, args![after, now, SCAN_MAX], scanned).await
    }

    async fn scan_ordered(&self, after: Uuid, now: Timestamp) -> Result<Vec<ScannedEndpoint>> {
        let dialect = self.dialect();
        let ordered = pending(dialect, "d", "pending_ordered");
        let due = format!(
            "CASE WHEN p.ordered THEN {} ELSE {} END",
            has_due_head(dialect, "$2"),
            has_due(dialect, true, "$2"),
        );
        let endpoint = endpoint_if(dialect, "step.endpoint_id", &due);
        let sql = steps(&ordered, is_ordered(dialect), "p.ordered", &endpoint);
        self.list(sql, args![after, now, SCAN_MAX], scanned).await
    }
}

/// The [`SCAN_MAX`] endpoints after `after`, by id, that something is sent to.
pub(super) async fn enabled(engine: &Engine, after: Uuid) -> Result<Vec<DueEndpoint>> {
    let sql = format!(
        "SELECT p.id AS endpoint_id, p.org_id, p.ordered FROM endpoints p
         WHERE p.id > $1 AND {IS_SENT_TO}
         ORDER BY p.id LIMIT $2"
    );
    let read = |row: &Row| {
        let (endpoint, org) = (row.get("endpoint_id")?, row.get("org_id")?);
        Ok(DueEndpoint { endpoint, org, ordered: row.get("ordered")? })
    };
    engine.list(sql, args![after, SCAN_MAX], read).await
}

/// Joins the endpoint of this id as `p`, where something is sent to it and `condition` holds.
fn endpoint_if(dialect: Dialect, id: &str, condition: &str) -> String {
    match dialect {
        Dialect::Sqlite => {
            format!("LEFT JOIN endpoints p ON p.id = {id} AND {IS_SENT_TO} AND {condition}")
        }
        // The limit makes it a look-up by key whatever the planner thinks of the other side.
        Dialect::Postgres => format!(
            "LEFT JOIN LATERAL (SELECT p.id, p.org_id, p.ordered FROM endpoints p
                                WHERE p.id = {id} AND {IS_SENT_TO} AND {condition}
                                LIMIT 1) p ON true"
        ),
    }
}

/// Scans the endpoints of an index, a seek each, and joins those of which something is due.
fn steps(deliveries: &str, which: &str, ordered: &str, endpoint: &str) -> String {
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
         SELECT step.endpoint_id, p.org_id, {ordered} AS ordered
         FROM step {endpoint}
         WHERE step.endpoint_id IS NOT NULL
         ORDER BY step.number"
    )
}

fn scanned(row: &Row) -> Result<ScannedEndpoint> {
    Ok(ScannedEndpoint { endpoint: row.get("endpoint_id")?, due: due_endpoint(row)? })
}

/// Reads `endpoint_id`, `org_id`, NULL where nothing is due, and `ordered`.
fn due_endpoint(row: &Row) -> Result<Option<DueEndpoint>> {
    let Some(org) = row.get_opt("org_id")? else { return Ok(None) };
    let (endpoint, ordered) = (row.get("endpoint_id")?, row.get("ordered")?);
    Ok(Some(DueEndpoint { endpoint, org, ordered }))
}
