//! Leases one delivery that somebody asked for, and ends the lease of a batch.

use super::{ClaimedDelivery, LeasedRow, claimed};
use crate::domain::{DeliveryId, Lease, LeaseToken, OrgId, Timestamp};
use crate::store::engine::args;
use crate::store::{Result, System, events};

impl System<'_> {
    /// Leases one delivery, if it is due at `now`, its endpoint is sent to and it may go in any order. Of an ordered
    /// endpoint the oldest is leased by [`Self::lease_deliveries`], whichever is asked for.
    pub async fn lease_delivery(
        self,
        org: OrgId,
        id: DeliveryId,
        lease: Lease,
        now: Timestamp,
    ) -> Result<Option<ClaimedDelivery>> {
        let mut tx = self.0.engine.begin().await?;
        let sql = format!(
            "UPDATE pending_deliveries SET due_at = $5, lease_token = $6
             WHERE org_id = $1 AND created_at = $2 AND id = $3 AND due_at <= $4
               AND lease_token IS NULL
               AND EXISTS (SELECT 1 FROM endpoints p
                           WHERE p.id = pending_deliveries.endpoint_id AND {}
                             AND NOT (p.ordered AND pending_deliveries.ordered)
                             AND (p.cancel_before IS NULL
                                  OR p.cancel_before < pending_deliveries.created_at))
             RETURNING org_id, id, event_id, event_received_at, endpoint_id, attempts,
                       false AS ordered, due_at AS was_due_at",
            super::due_index::IS_SENT_TO
        );
        let args = args![org, id.created_at(), id, now, lease.until, lease.token.uuid()];
        let Some(leased) = tx.find(sql, args, LeasedRow::read).await? else { return Ok(None) };
        let (event, received_at) = leased.event;
        let sql = format!(
            "SELECT * FROM {} WHERE id = $1 AND received_at = $2",
            events::with_held(tx.dialect())
        );
        let events = tx.all(sql, args![event, received_at]).await?;
        tx.commit().await?;
        let claimed = claimed(vec![leased], &events, lease);
        self.expire(&claimed.without_event, lease, now).await;
        Ok(claimed.deliveries.into_iter().next())
    }

    /// Makes the deliveries that are held under one lease due at `now`, and returns how many those were: for
    /// whoever took it and does not know whether that was stored.
    pub async fn release_lease(self, token: LeaseToken, now: Timestamp) -> Result<u64> {
        let mut tx = self.0.engine.begin().await?;
        let sql = "UPDATE pending_deliveries SET due_at = $2, lease_token = NULL
                   WHERE lease_token = $1";
        let released = tx.execute(sql, args![token.uuid(), now]).await?;
        tx.commit().await?;
        Ok(released)
    }
}
