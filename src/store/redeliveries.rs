//! Redeliveries: new deliveries that repeat an old one, or an event.
//!
//! They are due at once, start with no attempts, and name the delivery that they repeat. The dead letter
//! of that delivery is marked as replayed.

use uuid::Uuid;

use super::deliveries::{endpoint_of, endpoint_refusal};
use super::engine::{Row, Tx, args};
use super::filter::Filter;
use super::replay_chunk::REPLAYS_PER_STEP;
use super::{AuditRecord, DeliveryRefusal, Result, Store, audit};
use crate::domain::{
    Actor, Delivery, DeliveryId, DeliveryStatus, EndpointId, EventId, OrgId, Timestamp,
};

/// An event that is delivered once more.
#[derive(Clone, Debug)]
pub struct ReplayedEvent {
    /// The new deliveries.
    pub deliveries: Vec<Delivery>,
    /// Endpoints that get none: disabled, removed, or beyond the [`REPLAYS_PER_STEP`]th.
    pub skipped: usize,
}

/// A new delivery that repeats an old one.
pub(super) struct Redelivery {
    id: DeliveryId,
    event_id: EventId,
    event_received_at: Timestamp,
    endpoint_id: EndpointId,
    /// `None` for an endpoint that the event was not planned for.
    replay_of: Option<DeliveryId>,
}

impl Redelivery {
    fn read(row: &Row, id: DeliveryId) -> Result<Self> {
        Ok(Self {
            id,
            event_id: row.get("event_id")?,
            event_received_at: row.get("event_received_at")?,
            endpoint_id: row.get("endpoint_id")?,
            replay_of: Some(row.get("id")?),
        })
    }

    /// The new delivery as it is stored.
    fn delivery(&self, org: OrgId, now: Timestamp) -> Delivery {
        Delivery {
            id: self.id,
            org_id: org,
            event_id: self.event_id,
            endpoint_id: self.endpoint_id,
            status: DeliveryStatus::Pending,
            attempts: 0,
            next_attempt_at: Some(now),
            created_at: now,
            finished_at: None,
            replay_of: self.replay_of,
        }
    }
}

impl Store {
    /// Repeats one delivery, whatever its status.
    pub async fn replay_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>> {
        let mut tx = self.begin_in(org).await?;
        let endpoint = endpoint_of(&mut tx, org, id).await?;
        let refusal = endpoint.as_ref().map(endpoint_refusal).transpose()?.flatten();
        if let Some(refusal) = refusal {
            return Ok(Err(refusal));
        }
        let found = find(&mut tx, org, &[id.uuid()], now).await?;
        let Some(redelivery) = found.first() else {
            // Of a delivery that exists, only the endpoint can be missing.
            let sql = "SELECT 1 AS one FROM deliveries WHERE id = $1 AND org_id = $2";
            let exists = tx.optional(sql, args![id, org]).await?.is_some();
            return Ok(Err(if exists && endpoint.is_none() {
                DeliveryRefusal::EndpointRemoved
            } else {
                DeliveryRefusal::NotFound
            }));
        };
        plan(&mut tx, org, &found, now).await?;
        let delivery = redelivery.delivery(org, now);
        audit::commit(tx, &AuditRecord::delivery_replayed(id, &delivery), by, now).await?;
        Ok(Ok(delivery))
    }

    /// Delivers an event once more: to every endpoint that it was planned for, or to `endpoint`
    /// alone, whether it was planned for that or not. Endpoints that are disabled or removed are
    /// skipped and counted, unless `endpoint` is one, which is refused.
    pub async fn replay_event(
        &self,
        org: OrgId,
        id: EventId,
        endpoint: Option<EndpointId>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<ReplayedEvent, DeliveryRefusal>> {
        let mut tx = self.begin_in(org).await?;
        let sql = "SELECT received_at FROM events WHERE id = $1 AND org_id = $2
                   ORDER BY received_at DESC LIMIT 1";
        let Some(event) = tx.optional(sql, args![id, org]).await? else {
            return Ok(Err(DeliveryRefusal::NotFound));
        };
        let event_received_at = event.get("received_at")?;
        if let Some(endpoint) = endpoint
            && let Some(refusal) = target_refusal(&mut tx, org, endpoint).await?
        {
            return Ok(Err(refusal));
        }
        let newest = newest_of_each(&mut tx, org, id, event_received_at, endpoint).await?;
        let planned_for: usize = match newest.first() {
            Some(row) => row.get("count")?,
            None => 0,
        };
        let newest: Vec<Uuid> = newest.iter().map(|row| row.get("id")).collect::<Result<_, _>>()?;
        let mut redeliveries = find(&mut tx, org, &newest, now).await?;
        let skipped = planned_for - redeliveries.len();
        if let Some(endpoint_id) = endpoint.filter(|_| redeliveries.is_empty()) {
            redeliveries.push(Redelivery {
                id: DeliveryId::mint(now),
                event_id: id,
                event_received_at,
                endpoint_id,
                replay_of: None,
            });
        }
        plan(&mut tx, org, &redeliveries, now).await?;
        let deliveries = redeliveries.iter().map(|new| new.delivery(org, now)).collect();
        let replayed = ReplayedEvent { deliveries, skipped };
        if !redeliveries.is_empty() {
            let record =
                AuditRecord::event_replayed(org, id, endpoint, (redeliveries.len(), skipped));
            audit::write(&mut tx, &record, by, now).await?;
        }
        tx.commit().await?;
        Ok(Ok(replayed))
    }
}

/// Why an event is not sent to the endpoint that the caller names. That stays as it is until the end of
/// the transaction.
async fn target_refusal(
    tx: &mut Tx<'_>,
    org: OrgId,
    endpoint: EndpointId,
) -> Result<Option<DeliveryRefusal>> {
    let lock = tx.dialect().lock(" FOR SHARE");
    let sql =
        format!("SELECT id, disabled_reason FROM endpoints WHERE id = $1 AND org_id = $2{lock}");
    match tx.optional(sql, args![endpoint, org]).await? {
        Some(row) => endpoint_refusal(&row),
        None => Ok(Some(DeliveryRefusal::EndpointRemoved)),
    }
}

/// The newest delivery of an event to each endpoint, or to one, as `id`; their number is in each row as
/// `count`, those beyond the limit included.
async fn newest_of_each(
    tx: &mut Tx<'_>,
    org: OrgId,
    event: EventId,
    received_at: Timestamp,
    endpoint: Option<EndpointId>,
) -> Result<Vec<Row>> {
    let mut conditions = Filter::after(1);
    conditions.and("event_id = ?", event);
    conditions.and("event_received_at = ?", received_at);
    conditions.and("org_id = ?", org);
    conditions.and_some("endpoint_id = ?", endpoint);
    let sql = format!(
        "SELECT id, count(*) OVER () AS count FROM (
             SELECT id, row_number() OVER
                 (PARTITION BY endpoint_id ORDER BY created_at DESC, id DESC) AS age
             FROM deliveries WHERE {conditions}
         ) d
         WHERE age = 1 LIMIT $1"
    );
    let mut args = args![REPLAYS_PER_STEP];
    args.extend(conditions.into_args());
    tx.all(sql, args).await
}

/// New deliveries for those of the old ones whose endpoint is enabled and whose event is stored, in the
/// order in which the events were received; their ids sort in that order.
pub(super) async fn find(
    tx: &mut Tx<'_>,
    org: OrgId,
    old: &[Uuid],
    now: Timestamp,
) -> Result<Vec<Redelivery>> {
    if old.is_empty() {
        return Ok(Vec::new());
    }
    let sql = match tx {
        Tx::Sqlite(..) => {
            "SELECT d.id, d.event_id, d.event_received_at, d.endpoint_id
             FROM json_each($1) o
             CROSS JOIN deliveries d ON d.id = unhex(o.value) AND d.org_id = $2
             CROSS JOIN endpoints p ON p.id = d.endpoint_id AND p.disabled_reason IS NULL
             CROSS JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
             ORDER BY d.event_received_at, d.event_id, d.created_at, d.id"
        }
        // The limits make each a look-up by its key: a planner without statistics would read all
        // deliveries of the organisation instead.
        Tx::Postgres(_) => {
            "SELECT d.id, d.event_id, d.event_received_at, d.endpoint_id
             FROM unnest($1::uuid[]) o (id)
             CROSS JOIN LATERAL (SELECT * FROM deliveries WHERE id = o.id LIMIT 1) d
             CROSS JOIN LATERAL (SELECT 1 FROM endpoints
                                 WHERE id = d.endpoint_id AND disabled_reason IS NULL LIMIT 1) p
             CROSS JOIN LATERAL (SELECT 1 FROM events
                                 WHERE id = d.event_id AND received_at = d.event_received_at
                                 LIMIT 1) e
             WHERE d.org_id = $2
             ORDER BY d.event_received_at, d.event_id, d.created_at, d.id"
        }
    };
    let found = tx.all(sql, args![old.to_vec(), org]).await?;
    let mut ids: Vec<DeliveryId> = found.iter().map(|_| DeliveryId::mint(now)).collect();
    ids.sort_unstable();
    found.iter().zip(ids).map(|(row, id)| Redelivery::read(row, id)).collect()
}

/// Inserts the new deliveries, due at once, and marks the dead letters of those that they repeat.
pub(super) async fn plan(
    tx: &mut Tx<'_>,
    org: OrgId,
    redeliveries: &[Redelivery],
    now: Timestamp,
) -> Result<()> {
    let insert = "INSERT INTO deliveries
                      (id, org_id, event_id, event_received_at, endpoint_id, due_at, created_at,
                       replay_of, ordered)
                  SELECT column1, column2, column3, column4, column5, column6, column6, column7,
                         coalesce((SELECT p.ordered FROM endpoints p WHERE p.id = column5), false)
                  FROM ";
    let rows = redeliveries.iter().map(|new| {
        let Redelivery { id, event_id, event_received_at, endpoint_id, replay_of } = new;
        args![*id, org, *event_id, *event_received_at, *endpoint_id, now, *replay_of]
    });
    tx.execute_values(insert, rows.collect()).await?;
    let old: Vec<Uuid> =
        redeliveries.iter().filter_map(|new| new.replay_of).map(DeliveryId::uuid).collect();
    if old.is_empty() {
        return Ok(());
    }
    let sql =
        format!("UPDATE dead_letters SET replayed_at = $2 WHERE {}", tx.dialect().any("id", "$1"));
    tx.execute(sql, args![old, now]).await?;
    Ok(())
}
