//! Look-ups of deliveries by their ids, and of what belongs to them.

use uuid::Uuid;

use super::deliveries::{IS_IT, read, read_attempt, select_finished, select_pending};
use super::engine::{Dialect, Row, args};
use super::{Result, Store};
use crate::domain::{Attempt, Delivery, DeliveryId, EventSummary, OrgId, Timestamp};

/// Attempts of a delivery that are read at most.
pub const ATTEMPTS_SHOWN_MAX: u32 = 100;

impl Store {
    /// Those of an organisation's deliveries that have one of these ids, in any order.
    pub async fn deliveries_by_id(&self, org: OrgId, ids: &[DeliveryId]) -> Result<Vec<Delivery>> {
        let times = || ids.iter().map(|id| id.created_at());
        let (Some(oldest), Some(newest)) = (times().min(), times().max()) else {
            return Ok(Vec::new());
        };
        let dialect = self.engine.dialect();
        let keys = dialect.keys("$4", "$5");
        // Each by its key: there may be millions between the oldest and the newest. The limit keeps PostgreSQL from reading
        // those, and the span leaves the partitions of other days out.
        let rows = |table: &str| match dialect {
            Dialect::Sqlite => format!(
                "(SELECT d.* FROM ({keys}) k CROSS JOIN {table} d
                       ON d.org_id = $1 AND d.created_at = k.at AND d.id = k.id
                  WHERE +d.created_at BETWEEN $2 AND $3) d"
            ),
            Dialect::Postgres => format!(
                "(SELECT d.* FROM ({keys}) k CROSS JOIN LATERAL (
                      SELECT * FROM {table}
                      WHERE org_id = $1 AND created_at = k.at AND id = k.id
                        AND created_at >= $2 AND created_at <= $3
                      LIMIT 1
                  ) d) d"
            ),
        };
        let sql = format!(
            "{} UNION ALL {}",
            select_pending(&rows("pending_deliveries")),
            select_finished(&rows("deliveries")),
        );
        let micros: Vec<i64> = times().map(Timestamp::micros).collect();
        let ids: Vec<Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let found = self.engine.list(sql, args![org, oldest, newest, ids, micros], read).await?;
        self.with_event_types(org, found).await
    }

    /// The event of a delivery, without its payload.
    pub async fn event_of_delivery(&self, delivery: &Delivery) -> Result<Option<EventSummary>> {
        let sql = format!(
            "SELECT event_received_at FROM pending_deliveries WHERE {IS_IT}
             UNION ALL SELECT event_received_at FROM deliveries WHERE {IS_IT}"
        );
        let Delivery { org_id, id, event_id, .. } = *delivery;
        let key = args![org_id, id.created_at(), id];
        let read = |row: &Row| row.get("event_received_at");
        let Some(received_at) = self.engine.find(sql, key, read).await? else { return Ok(None) };
        self.event_summary(org_id, event_id, received_at).await
    }

    /// The newest [`ATTEMPTS_SHOWN_MAX`] attempts of one delivery, first to last. Each retry that somebody asks for adds one.
    pub async fn attempts(&self, org: OrgId, id: DeliveryId) -> Result<Vec<Attempt>> {
        const COLUMNS: &str =
            "started_at, duration_ms, status_code, error_class, error, response_excerpt";
        // The last one of a finished delivery is in its row.
        let sql = format!(
            "SELECT * FROM (
                 SELECT * FROM (
                     SELECT number, {COLUMNS} FROM delivery_attempts
                     WHERE delivery_id = $3 AND delivery_created_at = $2 AND {} = $1
                     ORDER BY number DESC LIMIT $4
                 ) a
                 UNION ALL
                 SELECT attempts, {COLUMNS} FROM deliveries
                 WHERE {IS_IT} AND started_at IS NOT NULL
                 ORDER BY number DESC LIMIT $4
             ) a
             ORDER BY number",
            self.engine.dialect().not_indexed("org_id"),
        );
        let args = args![org, id.created_at(), id, ATTEMPTS_SHOWN_MAX];
        self.engine.list(sql, args, read_attempt).await
    }
}
