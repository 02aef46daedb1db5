//! Redeliveries: new deliveries that repeat an old one, or an event.
//!
//! They are due at once, start with no attempts, and name the delivery that they repeat. The dead letter
//! of that delivery is marked as replayed.

use std::borrow::Cow;

use uuid::Uuid;

use super::deliveries::{endpoint_of, endpoint_refusal, missing};
use super::engine::{Row, Tx, args};
use super::replay_chunk::REPLAYS_PER_STEP;
use super::type_key::type_key;
use super::{AuditRecord, DeliveryRefusal, Result, Store, audit};
use crate::domain::{
    Actor, Delivery, DeliveryId, DeliveryStatus, Endpoint, EndpointId, EndpointKind, EventId,
    LastAttempt, OrgId, ReplayTargets, Timestamp,
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
    payload_bytes: i64,
    endpoint_id: EndpointId,
    /// `None` for an endpoint that the event was not planned for.
    replay_of: Option<DeliveryId>,
    event_type: String,
    kind: EndpointKind,
    endpoint_url: String,
}

impl Redelivery {
    fn read(row: &Row, id: DeliveryId) -> Result<Self> {
        Ok(Self {
            id,
            event_id: row.get("event_id")?,
            event_received_at: row.get("event_received_at")?,
            payload_bytes: row.get("payload_bytes")?,
            endpoint_id: row.get("endpoint_id")?,
            replay_of: Some(row.get("id")?),
            event_type: row.get("event_type")?,
            kind: row.parse("kind")?,
            endpoint_url: row.get("url")?,
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
            created_at: self.id.created_at(),
            finished_at: None,
            replay_of: self.replay_of,
            event_type: Some(self.event_type.clone()),
            endpoint_url: Endpoint::shown_destination(&self.endpoint_url),
            last: LastAttempt::default(),
            held_by: None,
        }
    }
}

impl Store {
    /// The account that an event names, `Some(None)` if it names none; `None` when there is no such event.
    pub async fn account_of_event(
        &self,
        org: OrgId,
        id: EventId,
    ) -> Result<Option<Option<String>>> {
        self.newest_event(org, id, "account_id", |row| row.get_opt("account_id")).await
    }

    /// Repeats one delivery, whatever its status.
    pub async fn replay_delivery(
        &self,
        org: OrgId,
        id: DeliveryId,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<Delivery, DeliveryRefusal>> {
        let mut tx = self.begin_in(org).await?;
        let Some(endpoint) = endpoint_of(&mut tx, org, id).await? else {
            return Ok(Err(missing(&mut tx, org, id).await?));
        };
        if let Some(refusal) = endpoint_refusal(&endpoint)? {
            return Ok(Err(refusal));
        }
        let found = find(&mut tx, org, &[id.uuid()], now).await?;
        let Some(redelivery) = found.first() else {
            return Ok(Err(DeliveryRefusal::EventRemoved));
        };
        plan(&mut tx, org, &found, (now, self.due(now))).await?;
        let delivery = redelivery.delivery(org, now);
        audit::commit(tx, &AuditRecord::delivery_replayed(id, &delivery), by, now).await?;
        Ok(Ok(delivery))
    }

    /// Delivers an event once more. Endpoints that are disabled or removed are skipped and counted, unless one is named
    /// alone, which is refused.
    pub async fn replay_event(
        &self,
        org: OrgId,
        id: EventId,
        targets: impl Into<ReplayTargets>,
        by: &Actor,
        now: Timestamp,
    ) -> Result<Result<ReplayedEvent, DeliveryRefusal>> {
        let targets = targets.into();
        // Events do not change, so it is found before the transaction.
        let columns =
            "received_at, event_type, CAST(octet_length(payload) AS bigint) AS payload_bytes";
        let read = |row: &Row| {
            Ok((row.get("received_at")?, row.get("event_type")?, row.get("payload_bytes")?))
        };
        let event = self.newest_event(org, id, columns, read).await?;
        let mut tx = self.begin_in(org).await?;
        let Some((event_received_at, event_type, payload_bytes)) = event else {
            return Ok(Err(DeliveryRefusal::NotFound));
        };
        if payload_bytes == 0 {
            return Ok(Err(DeliveryRefusal::EventRemoved));
        }
        let (mut target, mut endpoint) = (None, None);
        if let ReplayTargets::One(one) = targets {
            endpoint = Some(one);
            let endpoint = one;
            match target_of(&mut tx, org, endpoint).await? {
                Ok(found) => target = Some((endpoint, found)),
                Err(refusal) => return Ok(Err(refusal)),
            }
        }
        let newest = newest_of_each(&mut tx, org, id, event_received_at, &targets).await?;
        let planned_for: usize = match newest.first() {
            Some(row) => row.get("count")?,
            None => 0,
        };
        let newest: Vec<Uuid> = newest.iter().map(|row| row.get("id")).collect::<Result<_, _>>()?;
        let mut redeliveries = find(&mut tx, org, &newest, now).await?;
        let skipped = planned_for - redeliveries.len();
        if let Some((endpoint_id, (kind, endpoint_url))) =
            target.filter(|_| redeliveries.is_empty())
        {
            redeliveries.push(Redelivery {
                id: DeliveryId::mint(now),
                event_id: id,
                event_received_at,
                payload_bytes,
                endpoint_id,
                replay_of: None,
                event_type,
                kind,
                endpoint_url,
            });
        }
        plan(&mut tx, org, &redeliveries, (now, self.due(now))).await?;
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

/// The kind and the URL of the endpoint that the caller names, or why an event does not go to it. It stays as it is until
/// the end of the transaction.
async fn target_of(
    tx: &mut Tx<'_>,
    org: OrgId,
    endpoint: EndpointId,
) -> Result<Result<(EndpointKind, String), DeliveryRefusal>> {
    let lock = tx.dialect().lock(" FOR SHARE");
    let sql = format!(
        "SELECT disabled_reason, kind, url FROM endpoints
         WHERE id = $1 AND org_id = $2 AND removed_at IS NULL{lock}"
    );
    let Some(row) = tx.optional(sql, args![endpoint, org]).await? else {
        return Ok(Err(DeliveryRefusal::EndpointRemoved));
    };
    match endpoint_refusal(&row)? {
        Some(refusal) => Ok(Err(refusal)),
        None => Ok(Ok((row.parse("kind")?, row.get("url")?))),
    }
}

/// The newest delivery of an event to each of its targets, as `id`; their number is in each row as `count`, those beyond
/// the limit included.
async fn newest_of_each(
    tx: &mut Tx<'_>,
    org: OrgId,
    event: EventId,
    received_at: Timestamp,
    targets: &ReplayTargets,
) -> Result<Vec<Row>> {
    // Those that were planned, by the primary key, and redeliveries, by an index of their own.
    let mut of_event = Vec::new();
    for table in ["pending_deliveries", "deliveries"] {
        let columns = "id, created_at, endpoint_id";
        of_event.push(format!(
            "SELECT {columns} FROM {table} WHERE org_id = $2 AND created_at = $3 AND event_id = $4"
        ));
        of_event.push(format!(
            "SELECT {columns} FROM {table}
             WHERE event_id = $4 AND created_at > event_received_at AND created_at > $3
               AND {} = $2",
            tx.dialect().not_indexed("org_id")
        ));
    }
    let mut args = args![REPLAYS_PER_STEP, org, received_at.floor_ms(), event];
    let endpoints: Option<Vec<Uuid>> = match targets {
        ReplayTargets::All => None,
        ReplayTargets::Among(some) => Some(some.iter().map(|id| id.uuid()).collect()),
        ReplayTargets::One(endpoint) => Some(vec![endpoint.uuid()]),
    };
    let mut condition = Cow::Borrowed("true");
    if let Some(endpoints) = endpoints {
        args.push(endpoints.into());
        condition = tx.dialect().any("endpoint_id", "$5").into();
    }
    let sql = format!(
        "SELECT id, count(*) OVER () AS count FROM (
             SELECT id, row_number() OVER
                 (PARTITION BY endpoint_id ORDER BY created_at DESC, id DESC) AS age
             FROM ({}) o WHERE {condition}
         ) d
         WHERE age = 1 LIMIT $1",
        of_event.join(" UNION ALL ")
    );
    tx.all(sql, args).await
}

/// New deliveries for those of the old ones whose endpoint is enabled and whose event is kept with its payload, in the
/// order in which the events were received; their ids sort in that order.
pub(super) async fn find(
    tx: &mut Tx<'_>,
    org: OrgId,
    old: &[Uuid],
    now: Timestamp,
) -> Result<Vec<Redelivery>> {
    let created = |id: &Uuid| DeliveryId::from_uuid(*id).created_at();
    let (Some(oldest), Some(newest)) =
        (old.iter().map(created).min(), old.iter().map(created).max())
    else {
        return Ok(Vec::new());
    };
    let sql = match tx {
        Tx::Sqlite(..) => {
            "WITH old AS MATERIALIZED (
                 SELECT unhex(i.value) AS id, t.value AS created_at
                 FROM json_each($1) i JOIN json_each($3) t ON t.key = i.key
             ), found AS MATERIALIZED (
                 SELECT d.id, d.event_id, d.event_received_at, d.endpoint_id, d.created_at
                 FROM old o CROSS JOIN pending_deliveries d
                      ON d.org_id = $2 AND d.created_at = o.created_at AND d.id = o.id
                 UNION ALL
                 SELECT d.id, d.event_id, d.event_received_at, d.endpoint_id, d.created_at
                 FROM old o CROSS JOIN deliveries d
                      ON d.org_id = $2 AND d.created_at = o.created_at AND d.id = o.id
             )
             SELECT d.id, d.event_id, d.event_received_at, d.endpoint_id,
                    octet_length(e.payload) AS payload_bytes, e.event_type, p.kind, p.url
             FROM found d
             CROSS JOIN endpoints p ON p.id = d.endpoint_id AND p.disabled_reason IS NULL
             CROSS JOIN events e ON e.id = d.event_id AND e.received_at = d.event_received_at
             WHERE d.created_at BETWEEN $4 AND $5 AND octet_length(e.payload) > 0
             ORDER BY d.event_received_at, d.event_id, d.created_at, d.id"
        }
        // The limits make each a look-up by its key: a planner without statistics would read all
        // deliveries of the organisation instead. The span leaves the partitions of other days out.
        Tx::Postgres(_) => {
            "SELECT d.id, d.event_id, d.event_received_at, d.endpoint_id, e.payload_bytes,
                    e.event_type, p.kind, p.url
             FROM unnest($1::uuid[], $3::bigint[]) o (id, micros)
             CROSS JOIN LATERAL (
                 SELECT timestamptz 'epoch' + o.micros * interval '1 microsecond' AS created_at
             ) t
             CROSS JOIN LATERAL (
                 SELECT * FROM (
                     SELECT id, event_id, event_received_at, endpoint_id, created_at
                     FROM pending_deliveries
                     WHERE org_id = $2 AND created_at = t.created_at AND id = o.id
                     UNION ALL
                     SELECT id, event_id, event_received_at, endpoint_id, created_at
                     FROM deliveries
                     WHERE org_id = $2 AND created_at = t.created_at AND id = o.id
                       AND created_at BETWEEN $4 AND $5
                 ) u LIMIT 1
             ) d
             CROSS JOIN LATERAL (SELECT kind, url FROM endpoints
                                 WHERE id = d.endpoint_id AND disabled_reason IS NULL LIMIT 1) p
             CROSS JOIN LATERAL (
                 SELECT octet_length(payload)::bigint AS payload_bytes, event_type FROM (
                     SELECT id, received_at, payload, event_type FROM events
                     UNION ALL SELECT id, received_at, payload, event_type FROM held_events
                 ) e
                 WHERE id = d.event_id AND received_at = d.event_received_at LIMIT 1
             ) e
             WHERE e.payload_bytes > 0
             ORDER BY d.event_received_at, d.event_id, d.created_at, d.id"
        }
    };
    let times: Vec<i64> = old.iter().map(|id| created(id).micros()).collect();
    let found = tx.all(sql, args![old.to_vec(), org, times, oldest, newest]).await?;
    let mut ids: Vec<DeliveryId> = found.iter().map(|_| DeliveryId::mint(now)).collect();
    ids.sort_unstable();
    found.iter().zip(ids).map(|(row, id)| Redelivery::read(row, id)).collect()
}

/// Inserts the new deliveries, due at `due`, and marks the dead letters of those that they repeat, at `now`.
pub(super) async fn plan(
    tx: &mut Tx<'_>,
    org: OrgId,
    redeliveries: &[Redelivery],
    (now, due): (Timestamp, Timestamp),
) -> Result<()> {
    let insert = "INSERT INTO pending_deliveries
                      (id, org_id, event_id, event_received_at, payload_bytes, endpoint_id, due_at,
                       created_at, replay_of, type_key, event_type, ordered)
                  SELECT column1, column2, column3, column4, column5, column6, column7, column8,
                         column9, column10, column11,
                         coalesce((SELECT p.ordered FROM endpoints p WHERE p.id = column6), false)
                  FROM ";
    let rows = redeliveries.iter().map(|new| {
        let Redelivery {
            id,
            event_id,
            event_received_at,
            payload_bytes,
            endpoint_id,
            replay_of,
            event_type,
            kind,
            endpoint_url: _,
        } = new;
        let created_at = id.created_at();
        args![
            *id,
            org,
            *event_id,
            *event_received_at,
            *payload_bytes,
            *endpoint_id,
            due,
            created_at,
            *replay_of,
            type_key(org, event_type),
            (*kind == EndpointKind::Pull).then_some(event_type.as_str()),
        ]
    });
    tx.execute_values(insert, rows.collect(), "").await?;
    let old: Vec<Uuid> =
        redeliveries.iter().filter_map(|new| new.replay_of).map(DeliveryId::uuid).collect();
    if old.is_empty() {
        return Ok(());
    }
    // Locked in the order of their ids, as a step of a replay locks them.
    let (lock, is_old) = (tx.dialect().lock(" FOR UPDATE"), tx.dialect().any("id", "$1"));
    let sql = format!(
        "UPDATE dead_letters SET replayed_at = $2
         WHERE id IN (SELECT id FROM dead_letters WHERE {is_old} ORDER BY id{lock})"
    );
    tx.execute(sql, args![old, now]).await?;
    Ok(())
}
