//! How many deliveries are not finished, by what they wait for, and how many are dead letters.
//!
//! Each state is the condition of a partial index, so a count reads as many entries of it as there are, and never more
//! than [`COUNTED_MAX`].

use super::claims::pending;
use super::engine::{Dialect, args};
use super::{DeliveryState, Result, System};
use crate::domain::Timestamp;

/// Deliveries of one state that are counted at most.
pub(super) const COUNTED_MAX: u64 = 100_000;

impl System<'_> {
    /// Counts the deliveries of a state at `now`; those beyond [`COUNTED_MAX`] are not counted.
    pub async fn count_deliveries(self, state: DeliveryState, now: Timestamp) -> Result<u64> {
        let dialect = self.0.engine.dialect();
        // The order is the index's: it keeps the planner to it.
        let (table, condition, order) = match state {
            DeliveryState::Due => (
                pending(dialect, "d", "pending_due"),
                format!("{} AND d.due_at <= $1", unordered(dialect)),
                "d.due_at",
            ),
            DeliveryState::Scheduled => (
                pending(dialect, "d", "pending_due"),
                format!("{} AND d.due_at > $1", unordered(dialect)),
                "d.due_at",
            ),
            DeliveryState::Ordered => (
                pending(dialect, "d", "pending_ordered"),
                format!("{} AND d.lease_token IS NULL", ordered(dialect)),
                "d.endpoint_id",
            ),
            DeliveryState::Leased => (
                pending(dialect, "d", "pending_leases"),
                "d.lease_token IS NOT NULL".to_owned(),
                "d.lease_token",
            ),
            DeliveryState::Inbox => (
                pending(dialect, "d", "pending_inbox_types"),
                "d.lease_token IS NULL AND d.event_type IS NOT NULL".to_owned(),
                "d.endpoint_id",
            ),
            DeliveryState::Dead => {
                (dead_letters(dialect).to_owned(), "d.replayed_at IS NULL".to_owned(), "d.org_id")
            }
        };
        let sql = format!(
            "SELECT count(*) AS count FROM
                 (SELECT 1 AS one FROM {table} WHERE {condition} ORDER BY {order} LIMIT $2) counted
             WHERE $1 IS NOT NULL"
        );
        self.0.engine.one(sql, args![now, COUNTED_MAX]).await?.get("count")
    }
}

const fn dead_letters(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "dead_letters d INDEXED BY dead_letters_unreplayed",
        Dialect::Postgres => "dead_letters d",
    }
}

/// The condition of the index `pending_ordered`.
const fn ordered(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "d.ordered = 1",
        Dialect::Postgres => "d.ordered",
    }
}

/// The condition of the index `pending_due`.
const fn unordered(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::Sqlite => "d.lease_token IS NULL AND d.ordered = 0 AND d.event_type IS NULL",
        Dialect::Postgres => "d.lease_token IS NULL AND NOT d.ordered AND d.event_type IS NULL",
    }
}
