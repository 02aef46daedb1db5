//! Bulk replays of dead letters: starting, watching and cancelling one. The replayer does the work.

use super::endpoints;
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use crate::domain::{
    Actor, DeadLetterFilter, EndpointId, OrgId, Page, PageRequest, Replay, ReplayId, Timestamp,
};
use crate::store::DeliveryRefusal;

/// Starts to replay the dead letters that `filter` names.
///
/// # Errors
/// When the organisation does not exist.
pub async fn start(
    subsystems: &Subsystems,
    org: OrgId,
    filter: &DeadLetterFilter,
    by: &Actor,
) -> Result<Replay, Refusal> {
    let now = subsystems.clock.now();
    started(subsystems, org, subsystems.store.insert_replay(org, filter, by, now).await?)
}

/// Starts to delete the dead letters that `filter` names.
///
/// # Errors
/// When the organisation does not exist.
pub async fn start_discard(
    subsystems: &Subsystems,
    org: OrgId,
    filter: &DeadLetterFilter,
    by: &Actor,
) -> Result<Replay, Refusal> {
    let now = subsystems.clock.now();
    started(subsystems, org, subsystems.store.insert_discard(org, filter, by, now).await?)
}

fn started(subsystems: &Subsystems, org: OrgId, job: Option<Replay>) -> Result<Replay, Refusal> {
    let job = job.ok_or(Refusal::NotFound(Missing::Org(org)))?;
    subsystems.wake_replayer();
    Ok(job)
}

/// Starts to replay an endpoint's dead letters that were given up from `since` on, before `until`.
///
/// # Errors
/// When the endpoint does not exist or is disabled.
pub async fn start_of_endpoint(
    subsystems: &Subsystems,
    org: OrgId,
    id: EndpointId,
    since: Timestamp,
    until: Option<Timestamp>,
    by: &Actor,
) -> Result<Replay, Refusal> {
    let endpoint = endpoints::one(subsystems, org, id).await?;
    if endpoint.disabled_reason.is_some() {
        return Err(Refusal::Delivery(DeliveryRefusal::EndpointDisabled));
    }
    let (endpoint_id, since) = (Some(id), Some(since));
    let filter = DeadLetterFilter { endpoint_id, since, until, ..DeadLetterFilter::default() };
    start(subsystems, org, &filter, by).await
}

/// A page of an organisation's replays, newest first.
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    org: OrgId,
    page: PageRequest,
) -> Result<Page<Replay>, Refusal> {
    Ok(subsystems.store.replays(org, page).await?)
}

/// One replay.
///
/// # Errors
/// When it does not exist.
pub async fn one(subsystems: &Subsystems, org: OrgId, id: ReplayId) -> Result<Replay, Refusal> {
    found(org, id, subsystems.store.replay(org, id).await?)
}

/// Cancels a replay. Deliveries that it has created stay.
///
/// # Errors
/// When it does not exist.
pub async fn cancel(
    subsystems: &Subsystems,
    org: OrgId,
    id: ReplayId,
    by: &Actor,
) -> Result<Replay, Refusal> {
    let now = subsystems.clock.now();
    found(org, id, subsystems.store.end_replay(org, id, None, by, now).await?)
}

fn found(org: OrgId, id: ReplayId, replay: Option<Replay>) -> Result<Replay, Refusal> {
    replay.ok_or(Refusal::NotFound(Missing::Replay(org, id)))
}
