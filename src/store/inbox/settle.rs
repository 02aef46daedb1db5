//! Settling what was received, and giving it back.

use uuid::Uuid;

use super::{InboxSettle, Leased, ReceiveRequest, ReceivedEvents, postgres, sqlite};
use crate::domain::{EndpointId, EventId, Lease, OrgId, Timestamp};
use crate::store::engine::{Dialect, Engine, args};
use crate::store::maintenance::MissingDays;
use crate::store::metrics::DbOperation;
use crate::store::{Result, Store, System, claims, timed};

impl System<'_> {
    /// Settles events that consumers have received, whether their leases are over or not, and returns those inboxes and
    /// events of which that was so. The deliveries are finished as delivered at `now`. Of an event that waits in an
    /// inbox several times, after a replay, all that were received are settled. One transaction; settling an event
    /// again changes nothing.
    pub async fn settle(
        self,
        settles: &[InboxSettle],
        now: Timestamp,
    ) -> Result<Vec<(EndpointId, EventId)>> {
        let mut settles = settles.to_vec();
        settles.sort_unstable();
        settles.dedup();
        if settles.is_empty() {
            return Ok(Vec::new());
        }
        let mut days = MissingDays::default();
        let settling = async {
            match &*self.0.engine {
                Engine::Sqlite(_) => Box::pin(sqlite::settle(self.0, &settles, now)).await,
                Engine::Postgres(_) => loop {
                    let settling = postgres::settle(self.0, &settles, now);
                    match Box::pin(settling).await {
                        Err(error) if days.make(self.0, &error).await? => {}
                        settled => break settled,
                    }
                },
            }
        };
        let settled = timed(&self.0.metrics, DbOperation::SettleEvents, settling).await?;
        Ok(settled.into_iter().map(|row| (row.inbox, row.event.0)).collect())
    }
}

impl Store {
    /// Gives events back that a consumer has received: they may be received again at `due_at`. Returns those of which
    /// that was so. What was received as often as it may be is leased to the caller instead, who records it as dead.
    ///
    /// Whoever holds the lease is not known: an event whose lease was over and that another consumer has received by
    /// now is given back all the same.
    pub async fn give_back(
        &self,
        org: OrgId,
        request: ReceiveRequest<'_>,
        events: &[EventId],
        due_at: Timestamp,
    ) -> Result<(Vec<EventId>, ReceivedEvents)> {
        let mut tx = self.engine.begin().await?;
        let sql = give_back_sql(tx.dialect());
        let Lease { token, until } = request.lease;
        let ids: Vec<Uuid> = events.iter().map(|event| event.uuid()).collect();
        let max_receives = request.inbox.settings.max_receives();
        let args = args![request.inbox.id, org, ids, max_receives, due_at, until, token.uuid()];
        let found = tx.list(sql, args, Leased::read).await?;
        tx.commit().await?;
        let (exhausted, returned): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|row| row.is_exhausted);
        let exhausted = self.outcomes_of(&exhausted, org, request).await?;
        let returned = returned.into_iter().map(|row| row.event.0).collect();
        Ok((returned, ReceivedEvents { exhausted, ..ReceivedEvents::default() }))
    }
}

fn give_back_sql(dialect: Dialect) -> String {
    const SET: &str = "due_at = CASE WHEN d.attempts >= $4 THEN $6 ELSE $5 END,
                       lease_token = CASE WHEN d.attempts >= $4 THEN $7 END";
    const RETURNING: &str = "id, event_id, event_received_at, attempts, due_at AS was_due_at,
                             lease_token IS NOT NULL AS is_exhausted";
    let found = format!(
        "FROM {} WHERE d.endpoint_id = $1 AND {} AND d.attempts > 0 AND {}
                   AND d.lease_token IS NULL",
        claims::pending(dialect, "d", "pending_received"),
        dialect.any("d.event_id", "$3"),
        dialect.unindexed("d.org_id", "$2"),
    );
    match dialect {
        Dialect::Sqlite => format!(
            "UPDATE pending_deliveries AS d SET {SET}
             WHERE (org_id, created_at, id) IN (SELECT d.org_id, d.created_at, d.id {found})
             RETURNING {RETURNING}"
        ),
        // By key, not by place: another consumer that receives one of them meanwhile moves its row.
        Dialect::Postgres => format!(
            "WITH held AS MATERIALIZED (
                 SELECT d.org_id AS held_org, d.created_at AS held_at, d.id AS held_id {found}
                 ORDER BY d.org_id, d.created_at, d.id FOR UPDATE
             )
             UPDATE pending_deliveries d SET {SET} FROM held h
             WHERE d.org_id = h.held_org AND d.created_at = h.held_at AND d.id = h.held_id
             RETURNING {RETURNING}"
        ),
    }
}
