//! Leases one delivery that somebody asked for, or some whose events are read one by one, and ends the lease of a batch.

use std::collections::HashSet;

use super::{
    ClaimedDeliveries, ClaimedDelivery, EventKey, LeaseGrant, LeaseRequest, LeasedRow, LeasedRows,
    claimed, event_keys,
};
use super::{postgres, sqlite};
use crate::domain::{DeliveryId, Lease, LeaseToken, OrgId, Timestamp};
use crate::store::engine::{Engine, Row, Tx, args};
use crate::store::{Result, System, events, retention};

/// Deliveries that were leased although the events of some cannot be read.
#[derive(Debug, Default)]
pub struct ReadableDeliveries {
    /// Those whose events were read.
    pub claimed: ClaimedDeliveries,
    /// The others. They are not claimed again before the lease ends.
    pub unreadable: Vec<DeliveryId>,
}

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
        let events = event(&mut tx, leased.event).await?;
        tx.commit().await?;
        let leased = LeasedRows { rows: vec![leased], ..LeasedRows::default() };
        let claimed = claimed(leased, &events, lease);
        retention::expire_missing(self.0, claimed.without_event, Some(lease.token), now).await;
        Ok(claimed.claimed.deliveries.into_iter().next())
    }

    /// [`Self::lease_deliveries`] of one endpoint, for a claim that fails although the store can be reached: what is due is
    /// leased first, and then each event is read by itself, so that one that cannot be read holds back its own delivery
    /// only. For few deliveries.
    pub async fn lease_readable(
        self,
        grant: LeaseGrant,
        lease: Lease,
        now: Timestamp,
    ) -> Result<ReadableDeliveries> {
        let engine = &*self.0.engine;
        let request = LeaseRequest { grants: &[grant], lease, now };
        let leased = match engine {
            Engine::Sqlite(_) => Box::pin(sqlite::lease_only(engine, request)).await?,
            Engine::Postgres(_) => Box::pin(postgres::lease_only(engine, request)).await?,
        };
        let (mut events, mut unread) = (Vec::new(), HashSet::new());
        for key in event_keys(&leased.rows) {
            // A transaction each: it ends with the first statement that fails.
            let mut tx = engine.begin().await?;
            match event(&mut tx, key).await {
                Ok(found) => events.extend(found),
                Err(error) if error.is_connection() => return Err(error),
                Err(error) => {
                    tracing::error!(event = %key.0, %error, "cannot read an event; its deliveries wait");
                    unread.insert(key);
                }
            }
        }
        let (unread, rows): (Vec<_>, Vec<_>) =
            leased.rows.into_iter().partition(|row| unread.contains(&row.event));
        let leased = LeasedRows { rows, too_large: leased.too_large };
        let claimed = claimed(leased, &events, lease);
        retention::expire_missing(self.0, claimed.without_event, Some(lease.token), now).await;
        let unreadable = unread.into_iter().map(|row| row.id).collect();
        Ok(ReadableDeliveries { claimed: claimed.claimed, unreadable })
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

/// An event by its key, if it is there.
async fn event(tx: &mut Tx<'_>, (event, received_at): EventKey) -> Result<Vec<Row>> {
    let sql = format!(
        "SELECT * FROM {} WHERE id = $1 AND received_at = $2",
        events::with_held(tx.dialect())
    );
    tx.all(sql, args![event, received_at]).await
}
