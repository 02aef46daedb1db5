//! Deliveries: reading, retrying, replaying and cancelling them.
//!
//! Without a server in this process, a running one finds what became due at its next poll, and may
//! still send once what was cancelled while it waited in its memory.

use std::slice;

use super::endpoints;
use super::reach::{CallerReach, merged};
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use super::views::{AttemptView, DeliveryDetail, EndpointAttemptView};
use crate::delivery::sent_request;
use crate::domain::{
    Actor, Attempt, Cursor, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus, EndpointId,
    HeldBy, OrgId, Page, PageRequest,
};
use crate::store::DeliveryRefusal;

/// A page of the deliveries in reach, newest first.
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    filter: &DeliveryFilter,
    page: PageRequest,
) -> Result<Page<Delivery>, Refusal> {
    let (reach, store) = (reach.into(), &subsystems.store);
    let mut page = match reach.endpoints(subsystems, filter.endpoint_id).await? {
        None => store.deliveries(reach.org(), filter, page).await?,
        Some(endpoints) => {
            let mut lists = Vec::with_capacity(endpoints.len());
            for id in endpoints {
                let filter = DeliveryFilter { endpoint_id: Some(id), ..filter.clone() };
                lists.push(store.deliveries(reach.org(), &filter, page).await?);
            }
            let position = |row: &Delivery| Cursor { at: row.created_at, id: row.id.uuid() };
            merged(lists, page, position)
        }
    };
    subsystems.add_local_holds(reach.org(), &mut page.data);
    Ok(page)
}

/// One delivery, if it is in reach.
async fn found(
    subsystems: &Subsystems,
    reach: &CallerReach,
    id: DeliveryId,
) -> Result<Delivery, Refusal> {
    let missing = Missing::Delivery(reach.org(), id);
    let delivery = subsystems.store.delivery(reach.org(), id).await?;
    let delivery = delivery.ok_or(Refusal::NotFound(missing))?;
    reach.require_endpoint(subsystems, Some(delivery.endpoint_id), missing).await?;
    Ok(delivery)
}

/// Checks that a delivery is in reach, if not the whole organisation is.
async fn require(
    subsystems: &Subsystems,
    reach: &CallerReach,
    id: DeliveryId,
) -> Result<(), Refusal> {
    if reach.account().is_some() {
        found(subsystems, reach, id).await?;
    }
    Ok(())
}

/// A delivery and its attempts, first to last, each with its request as far as that is known.
///
/// # Errors
/// When it does not exist.
pub async fn one(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: DeliveryId,
) -> Result<DeliveryDetail, Refusal> {
    let (reach, store) = (reach.into(), &subsystems.store);
    let org = reach.org();
    let mut delivery = found(subsystems, &reach, id).await?;
    subsystems.add_local_holds(org, slice::from_mut(&mut delivery));
    let attempts = store.attempts(org, id).await?;
    let (event, endpoint) = if attempts.is_empty() {
        (None, None)
    } else {
        let event = store.event_of_delivery(&delivery).await?;
        (event, store.endpoint(org, delivery.endpoint_id).await?)
    };
    let request =
        |attempt: &Attempt| sent_request(id, event.as_ref()?, endpoint.as_ref()?, attempt);
    let view = |attempt: Attempt| AttemptView { request: request(&attempt), attempt };
    let attempts = attempts.into_iter().map(view).collect();
    Ok(DeliveryDetail { delivery: delivery.into(), attempts })
}

/// A page of the attempts at the deliveries to an endpoint, in the order of these, each delivery's in the same order.
///
/// # Errors
/// When the endpoint does not exist.
pub async fn attempts_of_endpoint(
    subsystems: &Subsystems,
    org: OrgId,
    id: EndpointId,
    filter: &DeliveryFilter,
    page: PageRequest,
) -> Result<Page<EndpointAttemptView>, Refusal> {
    endpoints::one(subsystems, org, id).await?;
    let filter = DeliveryFilter { endpoint_id: Some(id), ..filter.clone() };
    let page = subsystems.store.endpoint_attempts(org, id, &filter, page).await?;
    Ok(page.map(EndpointAttemptView::from))
}

/// A delivery with its attempts once it has more than `before` of them or is finished; `None` until then.
///
/// # Errors
/// When it does not exist.
pub async fn outcome(
    subsystems: &Subsystems,
    org: OrgId,
    id: DeliveryId,
    before: u32,
) -> Result<Option<DeliveryDetail>, Refusal> {
    let delivery = subsystems.store.delivery(org, id).await?;
    let delivery = delivery.ok_or(Refusal::NotFound(Missing::Delivery(org, id)))?;
    if delivery.attempts <= before && delivery.status == DeliveryStatus::Pending {
        return Ok(None);
    }
    one(subsystems, org, id).await.map(Some)
}

/// A delivery that waits in this server's memory for a slot: it is attempted as soon as it gets one.
async fn queued(
    subsystems: &Subsystems,
    org: OrgId,
    id: DeliveryId,
) -> Result<Option<Delivery>, Refusal> {
    let Some(mut found) = subsystems.store.delivery(org, id).await? else { return Ok(None) };
    let is_leased = found.held_by == Some(HeldBy::InFlight);
    subsystems.add_local_holds(org, slice::from_mut(&mut found));
    Ok((is_leased && found.held_by.is_none()).then_some(found))
}

/// Makes a delivery due now. Nothing changes for one that waits for a slot.
///
/// # Errors
/// When it does not exist, an attempt is in flight, or its endpoint is disabled or deleted.
pub async fn retry(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: DeliveryId,
    by: &Actor,
) -> Result<Delivery, Refusal> {
    let (reach, now) = (reach.into(), subsystems.clock.now());
    let org = reach.org();
    require(subsystems, &reach, id).await?;
    let retried = subsystems.store.retry_delivery(org, id, by, now).await?;
    if matches!(retried, Err(DeliveryRefusal::InProgress))
        && let Some(queued) = queued(subsystems, org, id).await?
    {
        return Ok(queued);
    }
    let delivery = retried.map_err(|refusal| Refusal::delivery(org, id, refusal))?;
    // It may have been cancelled with all that was pending, which does not hold for it any more.
    subsystems.endpoints_changed(org).await;
    subsystems.attempt_now(org, delivery.endpoint_id, id);
    Ok(delivery)
}

/// Repeats a delivery as a new one.
///
/// # Errors
/// When it does not exist, or its endpoint is disabled or deleted.
pub async fn replay(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: DeliveryId,
    by: &Actor,
) -> Result<Delivery, Refusal> {
    let (reach, now) = (reach.into(), subsystems.clock.now());
    let org = reach.org();
    require(subsystems, &reach, id).await?;
    let replayed = subsystems.store.replay_delivery(org, id, by, now).await?;
    let delivery = replayed.map_err(|refusal| Refusal::delivery(org, id, refusal))?;
    subsystems.wake_dispatcher();
    Ok(delivery)
}

/// Cancels a pending delivery.
///
/// # Errors
/// When it does not exist or is finished.
pub async fn cancel(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: DeliveryId,
    by: &Actor,
) -> Result<Delivery, Refusal> {
    let (reach, now) = (reach.into(), subsystems.clock.now());
    let org = reach.org();
    require(subsystems, &reach, id).await?;
    let cancelled = subsystems.store.cancel_delivery(org, id, by, now).await?;
    let delivery = cancelled.map_err(|refusal| Refusal::delivery(org, id, refusal))?;
    subsystems.delivery_cancelled(delivery.endpoint_id, id);
    Ok(delivery)
}
