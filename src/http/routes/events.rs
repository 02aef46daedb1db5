//! Events: reading them back. Taking them in has its own file, `ingest`.
//!
//! An event can be read once it is stored, usually milliseconds after its `202`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::value::RawValue;

use super::deliveries::DeliveryView;
use super::replays::parsed;
use crate::domain::{
    DeliveryFilter, Event, EventFilter, EventId, Page, PageRequest, Timestamp, TraceId,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::json_object::OptionalJsonObject;
use crate::http::query::{Query, rule};
use crate::http::respond;
use crate::http::state::AppState;

pub(in crate::http) use super::post_events::{post_batch, post_one, post_raw};

/// Deliveries shown with an event at most; `/api/deliveries?event_id=` lists them all.
const DELIVERIES_SHOWN_MAX: u32 = 100;
/// Bytes in an account's or user's id at most, as when events are posted.
const LABEL_BYTES_MAX: usize = 255;

/// An event as its owner sees it.
#[derive(Serialize)]
struct EventView<'a> {
    id: EventId,
    r#type: &'a str,
    /// The bytes that were posted.
    payload: &'a RawValue,
    dedup_id: Option<&'a str>,
    account_id: Option<&'a str>,
    user_id: Option<&'a str>,
    /// When it happened, or else when it was accepted: what receivers are told.
    timestamp: Timestamp,
    received_at: Timestamp,
    trace_id: TraceText,
}

/// An event with its newest deliveries.
#[derive(Serialize)]
struct EventDetail<'a> {
    #[serde(flatten)]
    event: EventView<'a>,
    deliveries: Vec<DeliveryView>,
}

/// What a replay of an event answers.
#[derive(Serialize)]
struct Replayed {
    data: Vec<DeliveryView>,
    /// Endpoints it was planned for that get it no more: disabled or removed.
    skipped: usize,
}

/// A trace id, written as text.
struct TraceText(TraceId);

/// `GET /api/events`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    let filter = filter(&mut query);
    query.finish()?;
    let events = app.store.events(tenant.org_id, &filter, page).await?;
    let data: Result<Vec<_>, _> = events.data.iter().map(EventView::of).collect();
    respond::ok(&Page { data: data?, next_cursor: events.next_cursor })
}

/// `GET /api/events/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<EventId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let event = app.store.event(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    let of_event = DeliveryFilter { event_id: Some(id), ..DeliveryFilter::default() };
    let newest = PageRequest { limit: DELIVERIES_SHOWN_MAX, after: None };
    let deliveries = app.store.deliveries(tenant.org_id, &of_event, newest).await?;
    let deliveries = deliveries.data.into_iter().map(DeliveryView::from).collect();
    respond::ok(&EventDetail { event: EventView::of(&event)?, deliveries })
}

/// `POST /api/events/{id}/replay`: 202 with the new deliveries.
pub(in crate::http) async fn replay(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EventId>,
    OptionalJsonObject(mut fields): OptionalJsonObject,
) -> Result<Response, ApiError> {
    let endpoint = fields.optional("endpoint_id", |v| parsed("endpoint_id", v, rule::ENDPOINT));
    fields.finish(Some(()))?;
    let replayed = app
        .store
        .replay_event(tenant.org_id, id, endpoint, &tenant.actor(), app.clock.now())
        .await?;
    let replayed = replayed.map_err(ApiError::Delivery)?;
    app.wake.wake();
    let data = replayed.deliveries.into_iter().map(DeliveryView::from).collect();
    respond::json(StatusCode::ACCEPTED, &Replayed { data, skipped: replayed.skipped })
}

fn filter(query: &mut Query) -> EventFilter {
    let label_rule = "must be 1 to 255 bytes without control characters";
    EventFilter {
        event_type: query.take("type", rule::EVENT_TYPE),
        account_id: query.take_if("account_id", label_rule, |id: &String| is_label(id)),
        user_id: query.take_if("user_id", label_rule, |id: &String| is_label(id)),
        since: query.take("since", rule::MOMENT),
        until: query.take("until", rule::MOMENT),
    }
}

fn is_label(text: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

impl<'a> EventView<'a> {
    fn of(event: &'a Event) -> Result<Self, ApiError> {
        Ok(Self {
            id: event.id,
            r#type: event.event_type.as_str(),
            payload: serde_json::from_slice(&event.payload).map_err(ApiError::internal)?,
            dedup_id: event.dedup_id.as_deref(),
            account_id: event.account_id.as_deref(),
            user_id: event.user_id.as_deref(),
            timestamp: event.timestamp(),
            received_at: event.received_at,
            trace_id: TraceText(event.trace_id),
        })
    }
}

impl Serialize for TraceText {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
