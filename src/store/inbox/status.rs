//! What became of events that a consumer could not settle.

use std::collections::HashMap;

use uuid::Uuid;

use crate::domain::{DeliveryStatus, EndpointId, EventId, OrgId, SettleStatus, Timestamp};
use crate::store::engine::{Dialect, Row, args};
use crate::store::page::START_OF_TIME;
use crate::store::{Result, Store};

/// What waits in an inbox; of more than [`PENDING_COUNTED_MAX`](crate::store::PENDING_COUNTED_MAX), the oldest so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct InboxBacklog {
    /// Events that are not settled.
    pub waiting: u64,
    /// Those of them that a consumer has received and not settled, or has given back for later.
    pub in_flight: u64,
    /// When the oldest one came.
    pub oldest: Option<Timestamp>,
}

impl Store {
    /// What waits in an inbox.
    pub async fn inbox_backlog(
        &self,
        org: OrgId,
        inbox: EndpointId,
        now: Timestamp,
    ) -> Result<InboxBacklog> {
        let sql = "SELECT count(*) AS waiting, min(created_at) AS oldest,
                          count(CASE WHEN due_at > $4 THEN 1 END) AS in_flight
                   FROM (SELECT d.created_at, d.due_at FROM pending_deliveries d
                         WHERE d.endpoint_id = (SELECT id FROM endpoints WHERE id = $1 AND org_id = $2)
                           AND d.created_at > coalesce((SELECT cancel_before FROM endpoints WHERE id = $1), $5)
                         ORDER BY d.created_at LIMIT $3) d";
        let most = crate::store::PENDING_COUNTED_MAX + 1;
        let args = args![inbox, org, most, self.due(now), START_OF_TIME];
        let row = self.engine.one(sql, args).await?;
        Ok(InboxBacklog {
            waiting: row.get("waiting")?,
            in_flight: row.get("in_flight")?,
            oldest: row.get_opt("oldest")?,
        })
    }

    /// What became of the deliveries of some events to an inbox: the newest one's status counts. Events that the inbox
    /// never had, or whose deliveries are deleted, are left out.
    pub async fn inbox_statuses(
        &self,
        org: OrgId,
        inbox: EndpointId,
        events: &[EventId],
    ) -> Result<HashMap<EventId, SettleStatus>> {
        let received = self.received_at(org, events).await?;
        let times = || received.iter().map(|(_, at)| *at);
        let (Some(oldest), Some(newest)) = (times().min(), times().max()) else {
            return Ok(HashMap::new());
        };
        let sql = statuses_sql(self.engine.dialect());
        let ids: Vec<Uuid> = received.iter().map(|(id, _)| id.uuid()).collect();
        let at: Vec<i64> = times().map(Timestamp::micros).collect();
        let read = |row: &Row| {
            let at: Timestamp = row.get("created_at")?;
            Ok((row.get("event_id")?, at, row.parse::<DeliveryStatus>("status")?))
        };
        let mut found: Vec<(EventId, Timestamp, DeliveryStatus)> =
            self.engine.list(sql, args![org, inbox, ids, at, oldest, newest], read).await?;
        found.sort_unstable_by_key(|(event, at, _)| (*event, *at));
        let status = |status| match status {
            DeliveryStatus::Pending => SettleStatus::NotReceived,
            DeliveryStatus::Delivered => SettleStatus::Acked,
            DeliveryStatus::Dead => SettleStatus::Dead,
            DeliveryStatus::Cancelled => SettleStatus::Cancelled,
        };
        Ok(found.into_iter().map(|(event, _, last)| (event, status(last))).collect())
    }

    /// When events were received, to the millisecond, as far as that is known: an id with its time in it tells it, the
    /// id of a dedup id as long as its key is kept.
    async fn received_at(
        &self,
        org: OrgId,
        events: &[EventId],
    ) -> Result<Vec<(EventId, Timestamp)>> {
        let minted = events.iter().filter_map(|id| Some((*id, id.minted_at()?.floor_ms())));
        let mut received: Vec<_> = minted.collect();
        let named = events.iter().filter(|id| id.minted_at().is_none());
        let named: Vec<Uuid> = named.map(|id| id.uuid()).collect();
        if !named.is_empty() {
            let sql = format!(
                "SELECT event_id, received_at FROM dedup_keys WHERE org_id = $1 AND {}",
                self.engine.dialect().any("event_id", "$2")
            );
            let read = |row: &Row| {
                let at: Timestamp = row.get("received_at")?;
                Ok((row.get("event_id")?, at.floor_ms()))
            };
            received.extend(self.engine.list(sql, args![org, named], read).await?);
        }
        Ok(received)
    }
}

/// The deliveries of events `$3`, received at `$4`, to an inbox: those that were planned, by the primary key, and
/// redeliveries, by an index of their own. The `OFFSET` keeps PostgreSQL from reading all that waits instead of looking
/// each of them up.
fn statuses_sql(dialect: Dialect) -> String {
    let parts =
        [("pending_deliveries", "'pending'"), ("deliveries", "d.status")].map(|(table, status)| {
            match dialect {
                Dialect::Sqlite => format!(
                    "SELECT d.event_id, d.created_at, {status} AS status
                 FROM wanted w CROSS JOIN {table} d
                      ON d.org_id = $1 AND d.created_at = w.at AND d.event_id = w.id
                 WHERE +d.endpoint_id = $2 AND d.created_at BETWEEN $5 AND $6
                 UNION ALL
                 SELECT d.event_id, d.created_at, {status} AS status
                 FROM wanted w CROSS JOIN {table} d
                      ON d.event_id = w.id AND d.created_at > d.event_received_at
                 WHERE +d.org_id = $1 AND +d.endpoint_id = $2"
                ),
                Dialect::Postgres => format!(
                    "SELECT d.event_id, d.created_at, {status} AS status
                 FROM wanted w CROSS JOIN LATERAL (
                     SELECT * FROM {table} d
                     WHERE d.org_id = $1 AND d.created_at = w.at AND d.event_id = w.id
                       AND d.created_at BETWEEN $5 AND $6
                       AND d.endpoint_id IS NOT DISTINCT FROM $2
                     OFFSET 0
                 ) d
                 UNION ALL
                 SELECT d.event_id, d.created_at, {status} AS status
                 FROM {table} d
                 WHERE d.event_id = ANY ($3) AND d.created_at > d.event_received_at
                   AND d.created_at > $5
                   AND d.org_id IS NOT DISTINCT FROM $1 AND d.endpoint_id IS NOT DISTINCT FROM $2"
                ),
            }
        });
    let wanted = dialect.keys("$3", "$4");
    format!("WITH wanted AS MATERIALIZED ({wanted}) {}", parts.join(" UNION ALL "))
}
