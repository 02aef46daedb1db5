//! Bulk replays of dead letters: starting, watching and cancelling one. The replayer does the work.

use super::endpoints;
use super::reach::CallerReach;
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use crate::domain::{
    Actor, DeadLetterFilter, EndpointId, OrgId, Page, PageRequest, Replay, ReplayId, Timestamp,
    Violation,
};
use crate::store::DeliveryRefusal;

/// Starts to replay the dead letters that `filter` names.
///
/// # Errors
/// When the organisation does not exist, or the filter asks for what was replayed before.
pub async fn start(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    filter: &DeadLetterFilter,
    by: &Actor,
) -> Result<Replay, Refusal> {
    let (reach, now) = (reach.into(), subsystems.clock.now());
    let org = reach.org();
    if filter.replayed == Some(true) {
        let rule = "must be false: a bulk replay leaves out what was replayed before";
        return Err(Violation::new("replayed", "conflict", rule).into());
    }
    check(subsystems, reach, filter).await?;
    started(subsystems, org, subsystems.store.insert_replay(org, filter, by, now).await?)
}

/// Starts to delete the dead letters that `filter` names.
///
/// # Errors
/// When the organisation does not exist.
pub async fn start_discard(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    filter: &DeadLetterFilter,
    by: &Actor,
) -> Result<Replay, Refusal> {
    let (reach, now) = (reach.into(), subsystems.clock.now());
    let org = reach.org();
    check(subsystems, reach, filter).await?;
    started(subsystems, org, subsystems.store.insert_discard(org, filter, by, now).await?)
}

/// Checks that all that a filter names is in reach. An account's dead letters are found endpoint by endpoint.
async fn check(
    subsystems: &Subsystems,
    reach: CallerReach,
    filter: &DeadLetterFilter,
) -> Result<(), Refusal> {
    match (reach.account(), filter.endpoint_id) {
        (None, _) => Ok(()),
        (Some(_), None) => Err(Violation::new("endpoint_id", "required", "is required").into()),
        (Some(_), Some(id)) => endpoints::one(subsystems, reach, id).await.map(|_| ()),
    }
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
    reach: impl Into<CallerReach>,
    id: EndpointId,
    since: Timestamp,
    until: Option<Timestamp>,
    by: &Actor,
) -> Result<Replay, Refusal> {
    let reach = reach.into();
    let endpoint = endpoints::one(subsystems, reach.clone(), id).await?;
    if endpoint.disabled_reason.is_some() {
        return Err(Refusal::Delivery(DeliveryRefusal::EndpointDisabled));
    }
    let (endpoint_id, since) = (Some(id), Some(since));
    let filter = DeadLetterFilter { endpoint_id, since, until, ..DeadLetterFilter::default() };
    start(subsystems, reach, &filter, by).await
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
pub async fn one(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: ReplayId,
) -> Result<Replay, Refusal> {
    let reach = reach.into();
    let replay = found(reach.org(), id, subsystems.store.replay(reach.org(), id).await?)?;
    let missing = Missing::Replay(reach.org(), id);
    reach.require_endpoint(subsystems, replay.filter.endpoint_id, missing).await?;
    Ok(replay)
}

/// Cancels a replay. Deliveries that it has created stay.
///
/// # Errors
/// When it does not exist.
pub async fn cancel(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: ReplayId,
    by: &Actor,
) -> Result<Replay, Refusal> {
    let (reach, now) = (reach.into(), subsystems.clock.now());
    let org = reach.org();
    if reach.account().is_some() {
        one(subsystems, reach, id).await?;
    }
    found(org, id, subsystems.store.end_replay(org, id, None, by, now).await?)
}

fn found(org: OrgId, id: ReplayId, replay: Option<Replay>) -> Result<Replay, Refusal> {
    replay.ok_or(Refusal::NotFound(Missing::Replay(org, id)))
}
