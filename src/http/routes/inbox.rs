//! Inboxes: receiving, acknowledging and giving back.

use std::pin::pin;
use std::time::Duration;

use axum::extract::State;
use axum::http::Method;
use axum::response::IntoResponse;

use super::events::answer;
use crate::api::inbox::{self, Receive, ReceivedPage};
use crate::api::views::{InboxPage, SettledEvents};
use crate::domain::{
    Actor, EndpointId, EventId, EventTypeFilter, Inbox, InboxSettings, OrgId, PageRequest,
    SettleStatus, Settled, Violation,
};
use crate::http::byte_budget::Owner;
use crate::http::charges;
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Consumer, Id};
use crate::http::held_answer::{self, ChangedState};
use crate::http::request::{
    BodyAndParameters, EmptyBodyAndParameters, EventIds, Number, PageLimit, Parameters, Whole,
    json_fields, query_fields,
};
use crate::http::respond::{Json, WrittenAnswer};
use crate::http::server::RequestDeadline;
use crate::http::state::AppState;

/// Bytes of payloads in an answer at most, unless it is one event.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Seconds that a request waits for an event at most.
const WAIT_SECONDS_MAX: u32 = 30;
/// Seconds for which an event that is given back can be held back at most.
const DELAY_SECONDS_MAX: u32 = 43_200;

type Visibility = Number<
    { *InboxSettings::VISIBILITY_SECONDS.start() },
    { *InboxSettings::VISIBILITY_SECONDS.end() },
>;

query_fields! {
    /// What is received.
    pub(in crate::http) struct InboxQuery {
        /// Events at most.
        limit: PageLimit,
        /// Seconds for which what is received is hidden from other consumers; unset follows the inbox.
        visibility_seconds: Visibility,
        /// Of this type: `user.login`, or a prefix such as `user.*`. Not of an ordered inbox.
        r#type: EventTypeFilter,
        /// Seconds to wait for an event if there is none.
        wait: Number<0, WAIT_SECONDS_MAX>,
        /// The endpoint of kind `pull`; unset means the default inbox.
        inbox: EndpointId,
    }
}

query_fields! {
    /// Of which inbox.
    pub(in crate::http) struct InboxChoice {
        /// The endpoint of kind `pull`; unset means the default inbox.
        inbox: EndpointId,
    }
}

json_fields! {
    /// Events that were handled.
    pub(in crate::http) struct Acknowledged {
        /// Their ids.
        required ids: EventIds,
    }
}

json_fields! {
    /// Events that are given back.
    pub(in crate::http) struct GivenBack {
        /// Their ids.
        required ids: EventIds,
        /// Seconds until they may be received again; 0 if unset.
        nullable delay_seconds: Whole<0, DELAY_SECONDS_MAX>,
    }
}

/// `GET /api/inbox`: 200 with what was received, at once or after a wait. The first one opens the default inbox.
pub(in crate::http) async fn receive(
    State(app): State<AppState>,
    method: Method,
    Consumer(tenant): Consumer,
    deadline: RequestDeadline,
    Parameters(query): Parameters<InboxQuery>,
) -> Result<WrittenAnswer<Json<InboxPage>>, ApiError> {
    if method == Method::HEAD {
        // Its answer has no body, so what it received would be lost.
        return Ok(Json(InboxPage::default()).into_response().into());
    }
    let (org, owner) = (tenant.org_id, Owner::Org(tenant.org_id));
    charges::require_some_left(&app, app.limiter.reads(org))?;
    let wait = Duration::from_secs(query.wait.map_or(0, |wait| wait.0.into()));
    let inbox = open(&app, org, query.inbox, &tenant.actor()).await?;
    let wanted = wanted(&inbox, query)?;
    let mut events = receive_now(&app, org, &inbox, &wanted).await?;
    if events.data.is_empty() {
        // Nothing comes of it, so it need not be refused.
        let _ = charges::take_read(&app, &tenant.principal);
        if !wait.is_zero() {
            let permit = charges::open_stream(&app, owner)?;
            deadline.lift();
            events = wait_for_events(&app, org, &inbox, &wanted, wait).await?;
            drop(permit);
        }
    }
    let bytes = events.payload_bytes();
    let mut response = answer(&app, events, bytes).await?.into_response();
    response.extensions_mut().insert(ChangedState);
    Ok(response.into())
}

async fn open(
    app: &AppState,
    org: OrgId,
    id: Option<EndpointId>,
    by: &Actor,
) -> Result<Inbox, ApiError> {
    let _permit = charges::use_inbox(app, org).await?;
    Ok(inbox::open(app.subsystems(), org, id, by).await?)
}

fn wanted(inbox: &Inbox, query: InboxQuery) -> Result<Receive, ApiError> {
    let InboxQuery { limit, visibility_seconds, r#type, wait: _, inbox: _ } = query;
    if inbox.ordered && r#type.is_some() {
        let rule = "cannot be chosen: an ordered inbox gives its events out in their order";
        return Err(ApiError::invalid(Violation::new("type", "ordered", rule)));
    }
    Ok(Receive {
        events_max: limit.map_or(PageRequest::LIMIT_DEFAULT, |limit| limit.0),
        bytes_max: PAGE_BYTES_MAX,
        event_type: r#type,
        visibility_seconds: visibility_seconds.map(|seconds| seconds.0),
    })
}

/// Receives what is there.
async fn receive_now(
    app: &AppState,
    org: OrgId,
    inbox: &Inbox,
    wanted: &Receive,
) -> Result<InboxPage, ApiError> {
    let _permit = charges::use_inbox(app, org).await?;
    // Reserved before anything is received: as it is read, and as it is written.
    let bytes = 2 * PAGE_BYTES_MAX.max(app.settings().event_bytes_max);
    let _reading = held_answer::reserve(app, Owner::Org(org), bytes)?;
    let ReceivedPage { events, dead } =
        inbox::receive(app.subsystems(), org, inbox, wanted).await?;
    let metrics = &app.metrics.http;
    metrics.hookgate_inbox_received_total.inc_by(events.len() as u64);
    metrics.hookgate_inbox_exhausted_total.inc_by(dead as u64);
    Ok(events.into())
}

/// Waits until something is received, for as long as `wait`, or until the server stops. It holds nothing of the store
/// meanwhile.
async fn wait_for_events(
    app: &AppState,
    org: OrgId,
    inbox: &Inbox,
    wanted: &Receive,
    wait: Duration,
) -> Result<InboxPage, ApiError> {
    let Some(inboxes) = app.inboxes() else { return Ok(InboxPage::default()) };
    let waiter = inboxes.wakes.wait_for(inbox.id);
    let mut is_over = pin!(tokio::time::sleep(wait));
    loop {
        // Looked at before the first wait, too: something may have come before it was waited for.
        let events = receive_now(app, org, inbox, wanted).await?;
        if !events.data.is_empty() {
            return Ok(events);
        }
        tokio::select! {
            biased;
            () = app.shutdown.requested() => return Ok(events),
            () = &mut is_over => return Ok(events),
            () = waiter.woken() => {}
        }
    }
}

/// `POST /api/ack/{id}`: 200 with the event, whether its lease is over or not.
pub(in crate::http) async fn ack_one(
    State(app): State<AppState>,
    Consumer(tenant): Consumer,
    Id(event): Id<EventId>,
    EmptyBodyAndParameters(InboxChoice { inbox }): EmptyBodyAndParameters<InboxChoice>,
) -> Result<Json<Settled>, ApiError> {
    let settled = ack_events(&app, tenant.org_id, inbox, &[event]).await?;
    match settled.into_iter().next() {
        Some(settled @ Settled { status: SettleStatus::Acked, .. }) => Ok(Json(settled)),
        None | Some(Settled { status: SettleStatus::Unknown, .. }) => Err(ApiError::NotFound),
        Some(Settled { status, .. }) => Err(ApiError::NotAcknowledged(status)),
    }
}

/// `POST /api/ack`: 200 with what became of each event.
pub(in crate::http) async fn ack(
    State(app): State<AppState>,
    Consumer(tenant): Consumer,
    BodyAndParameters(Acknowledged { ids }, InboxChoice { inbox }): BodyAndParameters<
        Acknowledged,
        InboxChoice,
    >,
) -> Result<Json<SettledEvents>, ApiError> {
    let data = ack_events(&app, tenant.org_id, inbox, &ids.0).await?;
    Ok(Json(SettledEvents { data }))
}

async fn ack_events(
    app: &AppState,
    org: OrgId,
    id: Option<EndpointId>,
    events: &[EventId],
) -> Result<Vec<Settled>, ApiError> {
    let _permit = charges::use_inbox(app, org).await?;
    let subsystems = app.subsystems();
    let inbox = inbox::find(subsystems, org, id).await?;
    let settled = inbox::ack(subsystems, org, inbox.id, events).await?;
    let is_acked = |settled: &&Settled| settled.status == SettleStatus::Acked;
    let acked = settled.iter().filter(is_acked).count();
    app.metrics.http.hookgate_inbox_acked_total.inc_by(acked as u64);
    Ok(settled)
}

/// `POST /api/nack`: 200 with what became of each event.
pub(in crate::http) async fn nack(
    State(app): State<AppState>,
    Consumer(tenant): Consumer,
    BodyAndParameters(GivenBack { ids, delay_seconds }, InboxChoice { inbox }): BodyAndParameters<
        GivenBack,
        InboxChoice,
    >,
) -> Result<Json<SettledEvents>, ApiError> {
    let (org, subsystems) = (tenant.org_id, app.subsystems());
    let _permit = charges::use_inbox(&app, org).await?;
    let inbox = inbox::find(subsystems, org, inbox).await?;
    let delay = Duration::from_secs(delay_seconds.map_or(0, |delay| delay.0.into()));
    let data = inbox::give_back(subsystems, org, &inbox, &ids.0, delay).await?;
    let is_returned = |settled: &&Settled| settled.status == SettleStatus::Returned;
    let returned = data.iter().filter(is_returned).count();
    app.metrics.http.hookgate_inbox_returned_total.inc_by(returned as u64);
    Ok(Json(SettledEvents { data }))
}
