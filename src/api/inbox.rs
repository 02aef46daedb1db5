//! Inboxes: opening them, and what consumers receive, settle and give back.

use std::collections::HashMap;
use std::time::Duration;

use super::refusal::{Missing, Refusal};
use super::subsystems::Subsystems;
use crate::domain::{
    Actor, EndpointId, EventId, EventTypeFilter, Inbox, InstanceId, Lease, LeaseToken, NewEndpoint,
    OrgId, Outcome, ReceivedEvent, SettleStatus, Settled,
};
use crate::store::{InboxLookup, InboxSettle, ReceiveRequest, ReceivedEvents};

/// The time of the last read is written again when it is older than this.
const READ_TIME_RESOLUTION: Duration = Duration::from_mins(1);
/// How often a request looks because all that it found before was dead: received too often, or without its event.
const LOOKS_MAX: usize = 5;

/// What a consumer asks for.
#[derive(Clone, Debug)]
pub struct Receive {
    /// Events at most.
    pub events_max: u32,
    /// Bytes of payloads at most, unless it is one event.
    pub bytes_max: usize,
    /// Only events of this type.
    pub event_type: Option<EventTypeFilter>,
    /// Seconds for which what is received is hidden; `None` follows the inbox.
    pub visibility_seconds: Option<u32>,
}

/// What a consumer gets.
#[derive(Debug, Default)]
pub struct ReceivedPage {
    /// The events.
    pub events: Vec<ReceivedEvent>,
    /// Events that were received too often and became dead letters.
    pub dead: usize,
}

/// An inbox that somebody reads: the organisation's default one, or the endpoint with this id. The first read opens the
/// default one, and a read resumes one that was paused because nobody read it.
///
/// # Errors
/// When there is no such endpoint, it is for webhooks, or its owner has disabled it.
pub async fn open(
    subsystems: &Subsystems,
    org: OrgId,
    id: Option<EndpointId>,
    by: &Actor,
) -> Result<Inbox, Refusal> {
    let mut inbox = match (subsystems.store.inbox(org, id).await?, id) {
        (InboxLookup::Missing, None) => open_default(subsystems, org, by).await?,
        (found, _) => found_inbox(org, id, found)?,
    };
    let now = subsystems.clock.now();
    if inbox.is_paused() {
        subsystems.store.resume_inbox(org, inbox.id, by, now).await?;
        subsystems.endpoints_changed(org).await;
        inbox = found_inbox(org, id, subsystems.store.inbox(org, Some(inbox.id)).await?)?;
    }
    if let Some(reason) = inbox.disabled_reason {
        return Err(Refusal::InboxDisabled(reason));
    }
    if inbox.last_read_at.is_none_or(|at| now.since(at) >= READ_TIME_RESOLUTION) {
        subsystems.store.note_inbox_read(org, inbox.id, now).await?;
    }
    Ok(inbox)
}

/// An inbox whose events somebody settles or gives back; it may be disabled.
///
/// # Errors
/// When there is none, or the endpoint is for webhooks.
pub async fn find(
    subsystems: &Subsystems,
    org: OrgId,
    id: Option<EndpointId>,
) -> Result<Inbox, Refusal> {
    found_inbox(org, id, subsystems.store.inbox(org, id).await?)
}

async fn open_default(subsystems: &Subsystems, org: OrgId, by: &Actor) -> Result<Inbox, Refusal> {
    let new = NewEndpoint { description: Some("Default inbox".to_owned()), ..NewEndpoint::inbox() };
    let endpoint = new.into_endpoint(org, subsystems.clock.now()).map_err(Refusal::Random)?;
    let opened = subsystems.store.open_default_inbox(org, &endpoint, by).await?;
    let opened = opened.map_err(|refusal| Refusal::add(org, "endpoints", refusal))?;
    subsystems.endpoints_changed(org).await;
    found_inbox(org, None, opened)
}

fn found_inbox(org: OrgId, id: Option<EndpointId>, found: InboxLookup) -> Result<Inbox, Refusal> {
    match (found, id) {
        (InboxLookup::Found(inbox), _) => Ok(inbox),
        (InboxLookup::Webhook, _) => Err(Refusal::NotAnInbox),
        (InboxLookup::Missing, Some(id)) => Err(Missing::Endpoint(org, id).into()),
        (InboxLookup::Missing, None) => Err(Missing::DefaultInbox(org).into()),
    }
}

/// Receives what waits in an inbox; nothing if nothing does. What was received too often becomes a dead letter.
///
/// # Errors
/// When the store fails.
pub async fn receive(
    subsystems: &Subsystems,
    org: OrgId,
    inbox: &Inbox,
    wanted: &Receive,
) -> Result<ReceivedPage, Refusal> {
    let mut page = ReceivedPage::default();
    for _ in 0..LOOKS_MAX {
        let request = request(subsystems, inbox, wanted);
        let received = subsystems.store.receive(org, request).await?;
        let ReceivedEvents { events, exhausted, expired } = received;
        let found_only_dead = events.is_empty() && (expired > 0 || !exhausted.is_empty());
        page.events = events;
        page.dead += record_dead(subsystems, exhausted).await?;
        if !found_only_dead {
            break;
        }
    }
    // The others are woken one after the other, as long as there is enough for them.
    if page.events.len() >= wanted.events_max as usize {
        wake(subsystems, inbox.id);
    }
    Ok(page)
}

/// Settles events that a consumer has received, whether its lease is over or not.
///
/// # Errors
/// When the store fails.
pub async fn ack(
    subsystems: &Subsystems,
    org: OrgId,
    inbox: EndpointId,
    events: &[EventId],
) -> Result<Vec<Settled>, Refusal> {
    let settles = events.iter().map(|event| InboxSettle { org, inbox, event: *event });
    let settles: Vec<_> = settles.collect();
    let now = subsystems.clock.now();
    let settled = match &subsystems.server {
        Some(server) => {
            let settler = &server.delivery.inboxes().settler;
            settler.settle(&subsystems.store, settles, now).await?
        }
        None => subsystems.store.system().settle(&settles, now).await?.into_iter().collect(),
    };
    let is_settled = |event: &EventId| settled.contains(&(inbox, *event));
    statuses(subsystems, org, inbox, events, SettleStatus::Acked, is_settled).await
}

/// Gives events back that a consumer has received: they may be received again after `delay`. What was received as often
/// as it may be becomes a dead letter instead.
///
/// # Errors
/// When the store fails.
pub async fn give_back(
    subsystems: &Subsystems,
    org: OrgId,
    inbox: &Inbox,
    events: &[EventId],
    delay: Duration,
) -> Result<Vec<Settled>, Refusal> {
    let wanted =
        Receive { events_max: 0, bytes_max: 0, event_type: None, visibility_seconds: None };
    let request = request(subsystems, inbox, &wanted);
    let due_at = request.now.plus(delay);
    let (returned, ReceivedEvents { exhausted, .. }) =
        subsystems.store.give_back(org, request, events, due_at).await?;
    record_dead(subsystems, exhausted).await?;
    if delay.is_zero() {
        wake(subsystems, inbox.id);
    }
    let is_back = |event: &EventId| returned.contains(event);
    statuses(subsystems, org, inbox.id, events, SettleStatus::Returned, is_back).await
}

/// The status of each event: `done` where `is_done`, and otherwise what became of it.
async fn statuses(
    subsystems: &Subsystems,
    org: OrgId,
    inbox: EndpointId,
    events: &[EventId],
    done: SettleStatus,
    is_done: impl Fn(&EventId) -> bool,
) -> Result<Vec<Settled>, Refusal> {
    let others: Vec<EventId> = events.iter().filter(|event| !is_done(event)).copied().collect();
    let others = if others.is_empty() {
        HashMap::new()
    } else {
        subsystems.store.inbox_statuses(org, inbox, &others).await?
    };
    let status = |event: &EventId| {
        if is_done(event) {
            return done;
        }
        others.get(event).copied().unwrap_or(SettleStatus::Unknown)
    };
    Ok(events.iter().map(|event| Settled { id: *event, status: status(event) }).collect())
}

fn request<'a>(
    subsystems: &Subsystems,
    inbox: &'a Inbox,
    wanted: &'a Receive,
) -> ReceiveRequest<'a> {
    let Receive { events_max, bytes_max, event_type, visibility_seconds } = wanted;
    let now = subsystems.clock.schedule();
    let visibility = visibility_seconds.unwrap_or_else(|| inbox.settings.visibility_seconds());
    let until = now.plus(Duration::from_secs(visibility.into()));
    let lease = Lease { token: LeaseToken::mint(InstanceId::OF_INBOXES), until };
    let (events_max, bytes_max) = (*events_max, *bytes_max);
    ReceiveRequest { inbox, events_max, bytes_max, event_type: event_type.as_ref(), lease, now }
}

/// Records what was received too often as dead letters, and returns how many those were.
async fn record_dead(
    subsystems: &Subsystems,
    mut exhausted: Vec<Outcome>,
) -> Result<usize, Refusal> {
    if exhausted.is_empty() {
        return Ok(0);
    }
    let now = subsystems.clock.now();
    for outcome in &mut exhausted {
        outcome.decided_at = now;
    }
    Ok(subsystems.store.system().record_outcomes(&exhausted).await?)
}

fn wake(subsystems: &Subsystems, inbox: EndpointId) {
    if let Some(server) = &subsystems.server {
        server.delivery.inboxes().wakes.wake(inbox, 1);
    }
}
