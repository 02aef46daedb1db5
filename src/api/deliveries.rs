//! Deliveries: reading, retrying, replaying and cancelling them.
//!
//! Without a server in this process, a running one finds what became due at its next poll, and may
//! still send once what was cancelled while it waited in its memory.

use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use crate::domain::{
    Actor, Attempt, Delivery, DeliveryFilter, DeliveryId, OrgId, Page, PageRequest,
};

/// A page of an organisation's deliveries, newest first.
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    org: OrgId,
    filter: &DeliveryFilter,
    page: PageRequest,
) -> Result<Page<Delivery>, Refusal> {
    Ok(subsystems.store.deliveries(org, filter, page).await?)
}

/// A delivery and its attempts, first to last.
///
/// # Errors
/// When it does not exist.
pub async fn one(
    subsystems: &Subsystems,
    org: OrgId,
    id: DeliveryId,
) -> Result<(Delivery, Vec<Attempt>), Refusal> {
    let delivery = subsystems.store.delivery(org, id).await?;
    let delivery = delivery.ok_or(Refusal::NotFound(Missing::Delivery(org, id)))?;
    Ok((delivery, subsystems.store.attempts(org, id).await?))
}

/// Makes a delivery due now.
///
/// # Errors
/// When it does not exist, an attempt is in flight, or its endpoint is disabled or deleted.
pub async fn retry(
    subsystems: &Subsystems,
    org: OrgId,
    id: DeliveryId,
    by: &Actor,
) -> Result<Delivery, Refusal> {
    let now = subsystems.clock.now();
    let retried = subsystems.store.retry_delivery(org, id, by, now).await?;
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
    org: OrgId,
    id: DeliveryId,
    by: &Actor,
) -> Result<Delivery, Refusal> {
    let now = subsystems.clock.now();
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
    org: OrgId,
    id: DeliveryId,
    by: &Actor,
) -> Result<Delivery, Refusal> {
    let now = subsystems.clock.now();
    let cancelled = subsystems.store.cancel_delivery(org, id, by, now).await?;
    let delivery = cancelled.map_err(|refusal| Refusal::delivery(org, id, refusal))?;
    subsystems.delivery_cancelled(delivery.endpoint_id, id);
    Ok(delivery)
}
