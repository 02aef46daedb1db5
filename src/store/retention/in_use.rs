//! Which events pending deliveries need.

use crate::store::engine::Dialect;

/// The condition that a pending delivery needs an event, given as expressions of its organisation, id and time. The
/// delivery that was planned with it is found by its key, a redelivery by an index of its own.
pub(super) fn is_needed(dialect: Dialect, org: &str, id: &str, received_at: &str) -> String {
    let (planned_at, of_org) = match dialect {
        Dialect::Sqlite => (format!("{received_at} - {received_at} % 1000"), "+p.org_id"),
        Dialect::Postgres => (format!("date_trunc('milliseconds', {received_at})"), "p.org_id"),
    };
    format!(
        "(EXISTS (SELECT 1 FROM pending_deliveries p
                  WHERE p.org_id = {org} AND p.created_at = {planned_at} AND p.event_id = {id})
          OR EXISTS (SELECT 1 FROM pending_deliveries p
                     WHERE p.event_id = {id} AND p.created_at > p.event_received_at
                       AND {of_org} = {org} AND p.event_received_at = {received_at}))"
    )
}
