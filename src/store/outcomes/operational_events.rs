//! The operational events that follow from outcomes: an endpoint was disabled, a delivery has used up its attempts.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::row::OutcomeRow;
use crate::domain::{
    DeliveriesExpired, DeliveryExhausted, EndpointDisabled, EndpointId, Event, EventId, EventType,
    InboxPaused, OrgId, Timestamp, TraceId,
};
use crate::store::engine::{Row, Tx, args};
use crate::store::{Result, StoreError, events};
use crate::telemetry::OrgLines;

/// What the log tells of organisations' endpoints, inboxes and deliveries.
static DISABLED: OrgLines = OrgLines::new();
static PAUSED: OrgLines = OrgLines::new();
static EXPIRED: OrgLines = OrgLines::new();

/// The operational events about deliveries that have used up their attempts, given by the ids of the delivery and
/// of its event. None about the delivery of an operational event: that would make more of them.
pub(super) async fn exhausted(
    tx: &mut Tx<'_>,
    rows: &[OutcomeRow<'_>],
    exhausted: Vec<(Uuid, Uuid)>,
) -> Result<Vec<Arc<Event>>> {
    let event_ids: HashMap<Uuid, Uuid> = exhausted.into_iter().collect();
    let rows = || {
        let with_event = |row| Some((row, *event_ids.get(&OutcomeRow::id(row))?));
        rows.iter().filter_map(with_event).filter(|(row, _)| row.dead_reason.is_some())
    };
    let received_at = || rows().map(|(row, _)| row.outcome.event_received_at);
    let (Some(oldest), Some(newest)) = (received_at().min(), received_at().max()) else {
        return Ok(Vec::new());
    };
    // The span leaves the partitions of other days out.
    let sql = format!(
        "SELECT id, received_at, event_type FROM {}
         WHERE {} AND received_at BETWEEN $2 AND $3",
        events::with_held(tx.dialect()),
        tx.dialect().any("id", "$1")
    );
    let read = |row: &Row| {
        let key: (Uuid, Timestamp) = (row.get("id")?, row.get("received_at")?);
        Ok((key, row.get("event_type")?))
    };
    let ids: Vec<Uuid> = event_ids.values().copied().collect();
    let types: HashMap<(Uuid, Timestamp), String> =
        tx.list(sql, args![ids, oldest, newest], read).await?.into_iter().collect();
    let mut told = Vec::new();
    for (row, event) in rows() {
        let event_type = types.get(&(event, row.outcome.event_received_at));
        let Some(event_type) = event_type.filter(|name| !EventType::is_operational(name)) else {
            continue;
        };
        told.push(delivery_exhausted(row, event, event_type)?);
    }
    Ok(told)
}

/// The operational event that an endpoint was disabled.
pub(super) fn endpoint_disabled(
    endpoint: EndpointId,
    org: OrgId,
    reason: &str,
    at: Timestamp,
) -> Result<Arc<Event>> {
    if let Some(unlogged) = DISABLED.due(org) {
        tracing::warn!(%org, %endpoint, reason, unlogged, "endpoint disabled");
    }
    let payload = EndpointDisabled { endpoint_id: endpoint, reason, disabled_at: at };
    operational(EndpointDisabled::TYPE, org, &payload, at)
}

/// The operational event that an inbox was paused because nobody read it.
pub(in crate::store) fn inbox_paused(
    inbox: EndpointId,
    org: OrgId,
    last_read_at: Timestamp,
    at: Timestamp,
) -> Result<Arc<Event>> {
    if let Some(unlogged) = PAUSED.due(org) {
        tracing::warn!(%org, endpoint = %inbox, %last_read_at, unlogged, "inbox paused: nobody reads it");
    }
    let payload = InboxPaused { endpoint_id: inbox, last_read_at, paused_at: at };
    operational(InboxPaused::TYPE, org, &payload, at)
}

/// The operational event that deliveries were given up because their events are not kept any longer.
pub(in crate::store) fn deliveries_expired(
    org: OrgId,
    deliveries: u64,
    reason: &str,
    at: Timestamp,
) -> Result<Arc<Event>> {
    if let Some(unlogged) = EXPIRED.due(org) {
        tracing::warn!(%org, deliveries, reason, unlogged, "deliveries expired");
    }
    let payload = DeliveriesExpired { deliveries, reason, expired_at: at };
    operational(DeliveriesExpired::TYPE, org, &payload, at)
}

fn delivery_exhausted(row: &OutcomeRow<'_>, event: Uuid, event_type: &str) -> Result<Arc<Event>> {
    let payload = DeliveryExhausted {
        delivery_id: row.outcome.delivery_id,
        event_id: EventId::from_uuid(event),
        event_type,
        endpoint_id: row.outcome.endpoint_id,
        attempts: row.attempt.map(|attempt| attempt.number),
        error: row.detail(),
    };
    operational(DeliveryExhausted::TYPE, row.outcome.org_id, &payload, row.decided_at)
}

fn operational(
    event_type: &str,
    org_id: OrgId,
    payload: &impl Serialize,
    at: Timestamp,
) -> Result<Arc<Event>> {
    let unwritable = |error: serde_json::Error| StoreError::Corrupt(error.to_string());
    let payload = serde_json::to_vec(payload).map_err(unwritable)?;
    Ok(Arc::new(Event {
        id: EventId::mint(at),
        org_id,
        event_type: event_type
            .parse()
            .map_err(|_| StoreError::Corrupt(format!("event type {event_type}")))?,
        payload: payload.into(),
        dedup_id: None,
        account_id: None,
        user_id: None,
        occurred_at: None,
        received_at: at,
        trace_id: TraceId::mint_at(at),
        accept_span: None,
    }))
}
