//! Stored events: reading and replaying them.

use super::deliveries;
use super::reach::CallerReach;
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use super::views::{DeliveryView, EventDetail, EventView, ReplayedEvent};
use crate::domain::{
    Actor, DeliveryFilter, EndpointId, EventFilter, EventId, OrgId, Page, PageRequest,
    ReplayTargets, Violation,
};
use crate::store::DeliveryRefusal;

/// Deliveries shown with an event at most; the list of deliveries has all of them.
const DELIVERIES_SHOWN_MAX: u32 = 100;

/// A page of the events in reach. With payloads it may end early, see
/// [`PageRequest::PAYLOAD_BYTES_MAX`].
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    filter: &EventFilter,
    page: PageRequest,
    with_payloads: bool,
) -> Result<Page<EventView>, Refusal> {
    let reach = reach.into();
    if filter.account_id.is_some() && !reach.includes(filter.account_id.as_deref()) {
        return Ok(Page { data: Vec::new(), next_cursor: None });
    }
    let account_id = filter.account_id.clone().or(reach.account().map(str::to_owned));
    let filter = EventFilter { account_id, ..filter.clone() };
    let bytes_max = with_payloads.then_some(PageRequest::PAYLOAD_BYTES_MAX);
    list_within(subsystems, reach.org(), &filter, page, bytes_max).await
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
pub async fn one(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EventId,
) -> Result<EventDetail, Refusal> {
    let reach = reach.into();
    let org = reach.org();
    let event = subsystems.store.event(org, id).await?;
    let event = event.filter(|event| reach.includes(event.account_id.as_deref()));
    let event = event.ok_or(Refusal::NotFound(Missing::Event(org, id)))?;
    let newest = PageRequest::first(DELIVERIES_SHOWN_MAX);
    let deliveries = if reach.account().is_none() {
        let mut page = subsystems.store.deliveries_of_event(&event, newest).await?;
        subsystems.add_local_holds(org, &mut page.data);
        page
    } else {
        let filter = DeliveryFilter { event_id: Some(id), ..DeliveryFilter::default() };
        deliveries::list(subsystems, reach, &filter, newest).await?
    };
    let Page { data, next_cursor: deliveries_next_cursor } = deliveries;
    let deliveries: Vec<_> = data.into_iter().map(DeliveryView::from).collect();
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

/// Sends an event again: to one endpoint, or to every endpoint in reach that received it.
///
/// # Errors
/// When the event or the endpoint does not exist, or the endpoint is disabled, or of another account.
pub async fn replay(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EventId,
    endpoint: Option<EndpointId>,
    by: &Actor,
) -> Result<ReplayedEvent, Refusal> {
    let (reach, now) = (reach.into(), subsystems.clock.now());
    let org = reach.org();
    let targets = targets(subsystems, &reach, id, endpoint).await?;
    let replayed = subsystems.store.replay_event(org, id, targets, by, now).await?;
    let replayed = replayed.map_err(|refusal| match refusal {
        DeliveryRefusal::NotFound => Refusal::NotFound(Missing::Event(org, id)),
        other => Refusal::Delivery(other),
    })?;
    subsystems.wake_dispatcher();
    let data = replayed.deliveries.into_iter().map(DeliveryView::from).collect();
    Ok(ReplayedEvent { data, skipped: replayed.skipped })
}

/// Which endpoints an event is sent to again.
async fn targets(
    subsystems: &Subsystems,
    reach: &CallerReach,
    id: EventId,
    endpoint: Option<EndpointId>,
) -> Result<ReplayTargets, Refusal> {
    let (org, store) = (reach.org(), &subsystems.store);
    let of_account = reach.endpoints(subsystems, endpoint).await?;
    if let (Some(endpoint), Some(of_account)) = (endpoint, &of_account)
        && !of_account.contains(&endpoint)
    {
        return Err(Refusal::Delivery(DeliveryRefusal::EndpointRemoved));
    }
    let target = match endpoint {
        Some(endpoint) => store.endpoint(org, endpoint).await?,
        None => None,
    };
    let bound_to = target.as_ref().and_then(|target| target.account_id.as_deref());
    if of_account.is_some() || bound_to.is_some() {
        // Neither an event nor the account of an endpoint ever changes.
        let account = store.account_of_event(org, id).await?;
        let account = account.filter(|account| reach.includes(account.as_deref()));
        let account = account.ok_or(Refusal::NotFound(Missing::Event(org, id)))?;
        if bound_to.is_some_and(|bound| account.as_deref() != Some(bound)) {
            let rule = "receives the events of another account alone";
            return Err(Violation::new("endpoint_id", "account", rule).into());
        }
    }
    match (endpoint, of_account) {
        (Some(endpoint), _) => Ok(ReplayTargets::One(endpoint)),
        (None, Some(of_account)) => Ok(ReplayTargets::Among(of_account)),
        (None, None) => Ok(ReplayTargets::All),
    }
}
