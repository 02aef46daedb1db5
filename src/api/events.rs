//! Stored events: reading and replaying them.

use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use super::views::{DeliveryView, EventDetail, EventView, ReplayedEvent};
use crate::domain::{Actor, EndpointId, EventFilter, EventId, OrgId, Page, PageRequest};
use crate::store::DeliveryRefusal;

/// Deliveries shown with an event at most; the list of deliveries has all of them.
const DELIVERIES_SHOWN_MAX: u32 = 100;

/// A page of an organisation's events. With payloads it may end early, see
/// [`PageRequest::PAYLOAD_BYTES_MAX`].
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    org: OrgId,
    filter: &EventFilter,
    page: PageRequest,
    with_payloads: bool,
) -> Result<Page<EventView>, Refusal> {
    let bytes_max = with_payloads.then_some(PageRequest::PAYLOAD_BYTES_MAX);
    list_within(subsystems, org, filter, page, bytes_max).await
}

/// A page of an organisation's events, with payloads of at most so many bytes, or without.
///
/// # Errors
/// When the store fails.
pub async fn list_within(
    subsystems: &Subsystems,
    org: OrgId,
    filter: &EventFilter,
    page: PageRequest,
    payload_bytes_max: Option<usize>,
) -> Result<Page<EventView>, Refusal> {
    let store = &subsystems.store;
    let page = store.events(org, filter, page).await?;
    let Some(bytes_max) = payload_bytes_max else { return Ok(page.map(EventView::from)) };
    Ok(store.with_payloads(org, page, bytes_max).await?.map(EventView::from))
}

/// An event with its newest deliveries.
///
/// # Errors
/// When it does not exist, or is not stored yet.
pub async fn one(subsystems: &Subsystems, org: OrgId, id: EventId) -> Result<EventDetail, Refusal> {
    let event = subsystems.store.event(org, id).await?;
    let event = event.ok_or(Refusal::NotFound(Missing::Event(org, id)))?;
    let newest = PageRequest::first(DELIVERIES_SHOWN_MAX);
    let deliveries = subsystems.store.deliveries_of_event(&event, newest).await?;
    let Page { data, next_cursor: deliveries_next_cursor } = deliveries;
    let deliveries = data.into_iter().map(|delivery| subsystems.with_pause(delivery).into());
    let deliveries: Vec<DeliveryView> = deliveries.collect();
    let copies = match &event.dedup_id {
        Some(_) => subsystems.store.copies(&event).await?,
        None => None,
    };
    Ok(EventDetail {
        event: EventView::from(event),
        duplicates: copies.map(|copies| copies.duplicates),
        conflicts: copies.map(|copies| copies.conflicts),
        deliveries,
        deliveries_next_cursor,
    })
}

/// Sends an event again: to one endpoint, or to every endpoint that received it.
///
/// # Errors
/// When the event or the endpoint does not exist, or the endpoint is disabled.
pub async fn replay(
    subsystems: &Subsystems,
    org: OrgId,
    id: EventId,
    endpoint: Option<EndpointId>,
    by: &Actor,
) -> Result<ReplayedEvent, Refusal> {
    let now = subsystems.clock.now();
    let replayed = subsystems.store.replay_event(org, id, endpoint, by, now).await?;
    let replayed = replayed.map_err(|refusal| match refusal {
        DeliveryRefusal::NotFound => Refusal::NotFound(Missing::Event(org, id)),
        other => Refusal::Delivery(other),
    })?;
    subsystems.wake_dispatcher();
    let data = replayed.deliveries.into_iter().map(DeliveryView::from).collect();
    Ok(ReplayedEvent { data, skipped: replayed.skipped })
}
