//! Deliveries whose events are too old to be kept for them: they become dead letters of the reason `expired`.

use std::sync::Arc;

use uuid::Uuid;

use super::{OrgRetention, Round};
use crate::domain::{
    DeadReason, DeliveryId, EndpointId, Event, EventId, LeaseToken, OrgId, Timestamp,
};
use crate::runtime::Stopwatch;
use crate::store::cancellation::FINISHED;
use crate::store::engine::{Row, Tx, args};
use crate::store::maintenance::MissingDays;
use crate::store::page::START_OF_TIME;
use crate::store::rollups::delta::{Ended, EndedDelta};
use crate::store::rollups::{LabelsByEvent, labels_statement, read_labels_row};
use crate::store::{Result, Store, StoreError, changes, outcomes};

/// Pending deliveries of an organisation, beyond its retention, whose events are kept for them.
pub(super) const HELD_PER_ORG: u32 = 10_000;
/// Bytes of payloads of these events.
pub(super) const HELD_BYTES_PER_ORG: i64 = 256 * 1024 * 1024;

/// Deliveries without an event that are given up in a transaction.
const MISSING_PER_STEP: usize = 32;

const DETAIL: &str = "the event became older than it is kept before it was delivered";
const DETAIL_MISSING: &str = "the event, or its payload, is not kept any more";

impl Round<'_> {
    /// Gives up the pending deliveries of an organisation that were created before `before`, beyond the first
    /// [`HELD_PER_ORG`]. Those in flight are left for the next round.
    pub(super) async fn expire_overdue(
        &mut self,
        kept: OrgRetention,
        before: Timestamp,
    ) -> Result<()> {
        let org = kept.org;
        let Some(first) = self.first_beyond_bound(org, before).await? else { return Ok(()) };
        let (mut after, mut total) = (first, 0);
        let mut days = MissingDays::default();
        loop {
            let step = Stopwatch::start();
            let expired = match self.expire_some(kept, (after, before)).await {
                Err(error) if days.make(self.store, &error).await? => continue,
                expired => expired?,
            };
            let Some((count, last)) = expired else { break };
            total += count;
            after = last;
            self.pause(&step).await;
        }
        self.report.expired += total;
        self.tell_owner(org, total).await
    }

    /// Publishes that deliveries expired, once for all of a round. A stop before it leaves only the dead letters.
    async fn tell_owner(&self, org: OrgId, deliveries: u64) -> Result<()> {
        if deliveries == 0 {
            return Ok(());
        }
        let event = outcomes::deliveries_expired(org, deliveries, DETAIL, self.now)?;
        let mut days = MissingDays::default();
        loop {
            match self.publish(&event).await {
                Err(error) if days.make(self.store, &error).await? => {}
                published => return published,
            }
        }
    }

    async fn publish(&self, event: &Arc<Event>) -> Result<()> {
        let mut tx = self.begin_step().await?;
        self.store.publish(&mut tx, vec![Arc::clone(event)], self.now).await?;
        tx.commit().await
    }

    /// The first pending delivery that is beyond the bound: the position right before it.
    async fn first_beyond_bound(
        &self,
        org: OrgId,
        before: Timestamp,
    ) -> Result<Option<(Timestamp, Uuid)>> {
        let sql = "SELECT created_at, id, number, bytes FROM (
                       SELECT created_at, id,
                              row_number() OVER ranking AS number,
                              CAST(sum(payload_bytes) OVER ranking AS bigint) AS bytes
                       FROM (SELECT created_at, id, payload_bytes FROM pending_deliveries
                             WHERE org_id = $1 AND created_at < $2
                             ORDER BY created_at, id LIMIT $3 + 1) o
                       WINDOW ranking AS (ORDER BY created_at, id ROWS UNBOUNDED PRECEDING)
                   ) r
                   WHERE number <= $3 AND bytes <= $4
                   ORDER BY created_at DESC, id DESC LIMIT 1";
        let read = |row: &Row| Ok((row.get("created_at")?, row.get("id")?));
        let args = args![org, before, i64::from(HELD_PER_ORG), HELD_BYTES_PER_ORG];
        let last_within = self.store.engine.find(sql, args, read).await?;
        let after = last_within.unwrap_or((START_OF_TIME, Uuid::nil()));
        let sql = "SELECT 1 AS one FROM pending_deliveries
                   WHERE org_id = $1 AND (created_at, id) > ($2, $3) AND created_at < $4 LIMIT 1";
        let beyond = self.store.engine.optional(sql, args![org, after.0, after.1, before]).await?;
        Ok(beyond.map(|_| after))
    }

    /// Gives up some deliveries behind a position. Returns how many, and the position of the last; `None` at the end.
    async fn expire_some(
        &self,
        kept: OrgRetention,
        (after, before): ((Timestamp, Uuid), Timestamp),
    ) -> Result<Option<(u64, (Timestamp, Uuid))>> {
        let org = kept.org;
        let Some(mut tx) = self.begin_step_of(kept).await? else { return Ok(None) };
        let lock = tx.dialect().lock(" FOR UPDATE");
        let sql = format!(
            "SELECT created_at, id, endpoint_id, event_id, event_received_at FROM pending_deliveries
             WHERE org_id = $1 AND (created_at, id) > ($2, $3) AND created_at < $4
               AND lease_token IS NULL
             ORDER BY created_at, id LIMIT $5{lock}"
        );
        let args = args![org, after.0, after.1, before, self.rows_per_step()];
        let overdue: Vec<Overdue> = tx.list(sql, args, Overdue::read).await?;
        let Some(last) = overdue.last().map(|last| (last.created_at, last.id.uuid())) else {
            return Ok(None);
        };
        let count = give_up(self.store, &mut tx, org, &overdue, (DETAIL, self.now)).await?;
        tx.commit().await?;
        Ok(Some((count, last)))
    }
}

/// Gives up deliveries whose event is gone, or has no payload any more: a redelivery may have been planned while that
/// happened. They are leased under `token`, or are received from an inbox, which takes no lease; others are left alone.
/// Those that cannot be given up are when they are claimed or received next.
pub(in crate::store) async fn expire_missing(
    store: &Store,
    mut deliveries: Vec<(OrgId, DeliveryId)>,
    token: Option<LeaseToken>,
    now: Timestamp,
) {
    // In the order of creation, as everybody locks them.
    deliveries.sort_unstable();
    for of_org in deliveries.chunk_by(|one, next| one.0 == next.0) {
        for step in of_org.chunks(MISSING_PER_STEP) {
            if let Err(error) = Box::pin(expire_step(store, step, token, now)).await {
                tracing::warn!(%error, "cannot give up deliveries without an event; will retry");
            }
        }
    }
}

/// Gives up some of an organisation.
async fn expire_step(
    store: &Store,
    deliveries: &[(OrgId, DeliveryId)],
    token: Option<LeaseToken>,
    now: Timestamp,
) -> Result<()> {
    let mut days = MissingDays::default();
    loop {
        match expire_in_transaction(store, deliveries, token, now).await {
            Err(error) if days.make(store, &error).await? => {}
            expired => return expired,
        }
    }
}

async fn expire_in_transaction(
    store: &Store,
    deliveries: &[(OrgId, DeliveryId)],
    token: Option<LeaseToken>,
    now: Timestamp,
) -> Result<()> {
    let Some((org, _)) = deliveries.first() else { return Ok(()) };
    let mut tx = store.engine.begin().await?;
    let lock = tx.dialect().lock(" FOR UPDATE");
    let sql = format!(
        "SELECT created_at, id, endpoint_id, event_id, event_received_at FROM pending_deliveries
         WHERE org_id = $1 AND created_at = $2 AND id = $3 AND lease_token IS NOT DISTINCT FROM $4{lock}"
    );
    let mut expired = 0;
    for (org, id) in deliveries {
        let args = args![*org, id.created_at(), *id, token.map(LeaseToken::uuid)];
        if let Some(overdue) = tx.find(sql.clone(), args, Overdue::read).await? {
            expired += give_up(store, &mut tx, *org, &[overdue], (DETAIL_MISSING, now)).await?;
        }
    }
    if expired > 0 {
        let event = outcomes::deliveries_expired(*org, expired, DETAIL_MISSING, now)?;
        store.publish(&mut tx, vec![event], now).await?;
    }
    tx.commit().await
}

/// A pending delivery that is given up.
struct Overdue {
    created_at: Timestamp,
    id: DeliveryId,
    endpoint: EndpointId,
    event: (EventId, Timestamp),
}

impl Overdue {
    fn read(row: &Row) -> Result<Self> {
        Ok(Self {
            created_at: row.get("created_at")?,
            id: row.get("id")?,
            endpoint: row.get("endpoint_id")?,
            event: (row.get("event_id")?, row.get("event_received_at")?),
        })
    }
}

/// Makes pending deliveries, which are locked and in the order of their creation, dead ones and dead letters.
async fn give_up(
    store: &Store,
    tx: &mut Tx<'_>,
    org: OrgId,
    overdue: &[Overdue],
    (detail, now): (&'static str, Timestamp),
) -> Result<u64, StoreError> {
    let (Some(oldest), Some(newest)) = (overdue.first(), overdue.last()) else { return Ok(0) };
    let (oldest, newest) = (oldest.created_at, newest.created_at);
    let ids: Vec<Uuid> = overdue.iter().map(|delivery| delivery.id.uuid()).collect();
    let which = format!(
        "org_id = $1 AND created_at BETWEEN $2 AND $3 AND {}",
        tx.dialect().any("id", "$4")
    );
    let reason = DeadReason::Expired.as_str();
    let sql = format!(
        "INSERT INTO deliveries ({FINISHED})
         SELECT org_id, created_at, id, event_id, event_received_at, endpoint_id, replay_of, attempts,
                'dead', $5, type_key, error, error_class, status_code
         FROM pending_deliveries WHERE {which}"
    );
    tx.execute(sql, args![org, oldest, newest, ids.clone(), now]).await?;
    let sql = format!(
        "INSERT INTO dead_letters
             (id, org_id, event_id, delivery_id, endpoint_id, reason, detail, created_at, error_class,
              status_code, attempts)
         SELECT id, org_id, event_id, id, endpoint_id, $5, $6, $7, error_class, status_code, attempts
         FROM pending_deliveries WHERE {which}
         ON CONFLICT (id) DO NOTHING"
    );
    tx.execute(sql, args![org, oldest, newest, ids.clone(), reason, detail, now]).await?;
    let mut labels = LabelsByEvent::new();
    let events = overdue.iter().map(|delivery| delivery.event);
    if let Some((sql, args)) = labels_statement(tx.dialect(), events) {
        labels.extend(tx.list(sql, args, read_labels_row).await?);
    }
    let mut counted = EndedDelta::default();
    for Overdue { id, endpoint, event, .. } in overdue {
        counted.push(*endpoint, (*id, Ended::Dead), labels.get(event), now)?;
    }
    counted.append(tx, org).await?;
    let ended = overdue.iter().map(|delivery| (org, delivery.id, true));
    changes::log(tx, store.logged_ends(ended), store.due(now)).await?;
    let sql = format!("DELETE FROM pending_deliveries WHERE {which}");
    tx.execute(sql, args![org, oldest, newest, ids]).await
}
