//! Endpoints: creating, changing and deleting them, rotating their secrets, testing them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::reach::CallerReach;
use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use super::views::{CancelledDeliveries, EndpointDetail, SecretsView, TestEvent};
use crate::domain::{
    Actor, Endpoint, EndpointChange, EndpointId, EndpointKind, Event, EventId, EventType,
    NewEndpoint, OrgId, Page, PageRequest, SecretChoice, SecretRotationRefusal, Secrets, TraceId,
    Violation,
};
use crate::store::{AddRefusal, InboxBacklog, PendingCancellation};

/// The payload of a test event.
const TEST_PAYLOAD: &[u8] = br#"{"test":true}"#;

/// Creates an endpoint, its secret generated if need be.
///
/// # Errors
/// When its values contradict each other, the organisation's quota is reached, or the organisation does
/// not exist.
pub async fn create(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    mut new: NewEndpoint,
    by: &Actor,
) -> Result<Endpoint, Refusal> {
    let reach = reach.into();
    let org = reach.org();
    if let Some(account) = reach.account() {
        if new.kind == EndpointKind::Pull {
            let rule = "must be webhook: the inboxes of an account are opened by its sender";
            return Err(located(Violation::new("kind", "kind", rule)).into());
        }
        new.account_id = Some(account.to_owned());
    }
    new.check().map_err(located)?;
    let endpoint = new.into_endpoint(org, subsystems.clock.now()).map_err(Refusal::Random)?;
    let added = subsystems.store.insert_endpoint(org, &endpoint, by).await?;
    let version = added.map_err(|refusal| match (refusal, reach.account()) {
        // How many the organisation has is not the account's to know.
        (AddRefusal::OverQuota(_), Some(_)) => {
            let rule = "no more endpoints can be added; ask whoever sends the webhooks";
            Refusal::Invalid(located(Violation::new("url", "quota", rule)))
        }
        (refusal, _) => Refusal::add(org, "endpoints", refusal),
    })?;
    subsystems.endpoints_changed(org).await;
    Ok(Endpoint { version, ..endpoint })
}

/// A page of the endpoints in reach, newest first; with `account` those that receive its events alone.
///
/// # Errors
/// When the store fails.
pub async fn list(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    account: Option<&str>,
    page: PageRequest,
) -> Result<Page<Endpoint>, Refusal> {
    let reach = reach.into();
    if account.is_some() && !reach.includes(account) {
        return Ok(Page { data: Vec::new(), next_cursor: None });
    }
    let account = account.or(reach.account());
    Ok(subsystems.store.endpoints(reach.org(), account, page).await?)
}

/// An organisation's endpoints that fail or are disabled, at most so many; those that fail first, and the longest ago.
///
/// # Errors
/// When the store fails.
pub async fn failing_or_disabled(
    subsystems: &Subsystems,
    org: OrgId,
    limit: u32,
) -> Result<Vec<Endpoint>, Refusal> {
    Ok(subsystems.store.failing_or_disabled_endpoints(org, limit).await?)
}

/// One endpoint.
///
/// # Errors
/// When it does not exist.
pub async fn one(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EndpointId,
) -> Result<Endpoint, Refusal> {
    let reach = reach.into();
    let endpoint = subsystems.store.endpoint(reach.org(), id).await?;
    let endpoint = endpoint.filter(|endpoint| reach.has(endpoint));
    endpoint.ok_or(Refusal::NotFound(Missing::Endpoint(reach.org(), id)))
}

/// An endpoint as its owner reads it, with what waits for it.
///
/// # Errors
/// When the store fails.
pub async fn detail(
    subsystems: &Subsystems,
    endpoint: &Endpoint,
) -> Result<EndpointDetail, Refusal> {
    let pending = subsystems.store.pending_count(endpoint.org_id, endpoint.id).await?;
    Ok(EndpointDetail::new(endpoint, pending, subsystems.paused_until(endpoint.id)))
}

/// What waits in an inbox.
///
/// # Errors
/// When the store fails.
pub async fn backlog(subsystems: &Subsystems, inbox: &Endpoint) -> Result<InboxBacklog, Refusal> {
    let now = subsystems.clock.now();
    Ok(subsystems.store.inbox_backlog(inbox.org_id, inbox.id, now).await?)
}

/// Changes an endpoint. Its waiting deliveries follow the change at once.
///
/// # Errors
/// When it does not exist, or its kind does not have what is changed.
pub async fn change(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EndpointId,
    change: &EndpointChange,
    by: &Actor,
) -> Result<Endpoint, Refusal> {
    let reach = reach.into();
    let org = reach.org();
    let kind = one(subsystems, reach, id).await?.kind;
    change.check(kind).map_err(located)?;
    let now = subsystems.clock.now();
    let changed = subsystems.store.update_endpoint(org, id, change, by, now).await?;
    let changed = changed.ok_or(Refusal::NotFound(Missing::Endpoint(org, id)))?;
    subsystems.endpoints_changed(org).await;
    Ok(changed)
}

/// Deletes an endpoint and cancels its pending deliveries.
///
/// # Errors
/// When it does not exist.
pub async fn delete(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EndpointId,
    by: &Actor,
) -> Result<(), Refusal> {
    let reach = reach.into();
    let org = reach.org();
    reach.require_endpoint(subsystems, Some(id), Missing::Endpoint(org, id)).await?;
    let now = subsystems.clock.now();
    if !subsystems.store.delete_endpoint(org, id, by, now).await? {
        return Err(Missing::Endpoint(org, id).into());
    }
    subsystems.endpoints_changed(org).await;
    Ok(())
}

/// Cancels an endpoint's pending deliveries. Deliveries created meanwhile stay. Where there are many, the last
/// of them are cancelled in the background, and shown as cancelled at once.
///
/// # Errors
/// When the endpoint does not exist.
pub async fn cancel_pending(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EndpointId,
    by: &Actor,
) -> Result<CancelledDeliveries, Refusal> {
    let reach = reach.into();
    let org = reach.org();
    reach.require_endpoint(subsystems, Some(id), Missing::Endpoint(org, id)).await?;
    let now = subsystems.clock.now();
    let cancelled = subsystems.store.cancel_pending(org, id, by, now).await?;
    let PendingCancellation { cancelled, in_progress } =
        cancelled.ok_or(Refusal::NotFound(Missing::Endpoint(org, id)))?;
    subsystems.endpoints_changed(org).await;
    Ok(CancelledDeliveries { cancelled, in_progress })
}

/// Shows an endpoint's secrets, which the audit log records.
///
/// # Errors
/// When it does not exist, is an inbox, or this server cannot read them.
pub async fn show_secrets(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EndpointId,
    by: &Actor,
) -> Result<SecretsView, Refusal> {
    let endpoint = one(subsystems, reach, id).await?;
    let org = endpoint.org_id;
    require_webhook(&endpoint)?;
    let view = secrets_of(subsystems, &endpoint)?;
    subsystems.store.note_secret_shown(org, id, by, subsystems.clock.now()).await?;
    Ok(view)
}

/// Rotates an endpoint's secret. The old one signs beside the new one for `overlap`.
///
/// # Errors
/// When it does not exist, is an inbox, too many secrets are in use, the one in use cannot be read, or the overlap
/// is too long.
pub async fn rotate_secret(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EndpointId,
    choice: SecretChoice,
    overlap: Duration,
    by: &Actor,
) -> Result<SecretsView, Refusal> {
    choice.check()?;
    Secrets::check_overlap(overlap)?;
    let old = one(subsystems, reach, id).await?;
    let org = old.org_id;
    require_webhook(&old)?;
    // A secret signs like the one before, unless its owner says otherwise.
    let scheme = old.secrets.as_ref().map(|secrets| secrets.current().scheme());
    let new = choice.secret(scheme.unwrap_or_default()).map_err(Refusal::Random)?;
    let now = subsystems.clock.now();
    let rotated = subsystems.store.rotate_secret(org, id, &new, overlap, by, now).await?;
    let rotated = rotated.map_err(|refusal| Refusal::secret_rotation(org, id, refusal))?;
    subsystems.endpoints_changed(org).await;
    secrets_of(subsystems, &rotated)
}

/// Sends a test event to one endpoint, whatever its filters say, and to no other.
///
/// It is an event and a delivery like any other, stored before this returns and sent by the real path:
/// the SSRF guard, the signature, the retries and the records are those of every webhook.
///
/// # Errors
/// When the endpoint does not exist, is an inbox or is disabled.
pub async fn send_test(
    subsystems: &Subsystems,
    reach: impl Into<CallerReach>,
    id: EndpointId,
    event_type: EventType,
    trace_id: TraceId,
    by: &Actor,
) -> Result<TestEvent, Refusal> {
    // It is an event of the endpoint's account, if it has one: whoever reads that sees it.
    let endpoint = one(subsystems, reach, id).await?;
    let (org_id, account_id) = (endpoint.org_id, endpoint.account_id);
    let now = subsystems.clock.now();
    let event = Arc::new(Event {
        id: EventId::mint(now),
        org_id,
        event_type,
        payload: Bytes::from_static(TEST_PAYLOAD),
        dedup_id: None,
        account_id,
        user_id: None,
        occurred_at: None,
        received_at: now,
        trace_id,
        accept_span: None,
    });
    let planned = subsystems.store.plan_event(org_id, id, &event, by, now).await?;
    let delivery_id = planned.map_err(|refusal| Refusal::plan(org_id, id, refusal))?;
    subsystems.attempt_now(org_id, id, delivery_id);
    Ok(TestEvent { event_id: event.id, delivery_id, status: "accepted" })
}

/// Refuses what an inbox does not have.
fn require_webhook(endpoint: &Endpoint) -> Result<(), Refusal> {
    match endpoint.kind {
        EndpointKind::Webhook => Ok(()),
        EndpointKind::Pull => Err(Refusal::NotAWebhook),
    }
}

/// A violation with its place in the body.
fn located(mut violation: Violation) -> Violation {
    violation.locate("");
    violation
}

fn secrets_of(subsystems: &Subsystems, endpoint: &Endpoint) -> Result<SecretsView, Refusal> {
    let undecryptable = |_| Refusal::SecretRotation(SecretRotationRefusal::Undecryptable);
    let secrets: &Secrets = endpoint.secrets.as_ref().map_err(undecryptable)?;
    Ok(SecretsView::new(endpoint.id, secrets, subsystems.clock.now()))
}
