//! A test event to one endpoint.
//!
//! It is an event and a delivery like any other, stored before the answer and sent by the real path:
//! the guard, the signature, the retries and the record are those of every webhook. Only its planning
//! differs: it goes to this endpoint, whatever its filters say, and to no other.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;

use crate::domain::{DeliveryId, EndpointId, Event, EventId, EventType};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, Id, Scoped};
use crate::http::json_object::{self, OptionalJsonObject};
use crate::http::rate_limit;
use crate::http::ratelimit_headers::{self, Counted};
use crate::http::request_context::RequestContext;
use crate::http::respond;
use crate::http::state::AppState;

/// The type of a test event that is given none.
const TYPE: &str = "hookgate.test";
const PAYLOAD: &[u8] = br#"{"test":true}"#;

/// Where to look for what became of it.
#[derive(Serialize)]
struct TestView {
    event_id: EventId,
    delivery_id: DeliveryId,
    status: &'static str,
}

/// `POST /api/endpoints/{id}/test`: 202 with the delivery to look at. It costs one event of the rate
/// limit.
pub(in crate::http) async fn send(
    State(app): State<AppState>,
    arrival: RequestContext,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    OptionalJsonObject(mut fields): OptionalJsonObject,
) -> Result<Response, ApiError> {
    let rule = "must be dot-separated words of letters, digits, '_' and '-', at most 128 bytes";
    let named = fields.nullable("type", |value| json_object::word("type", value, rule)).flatten();
    fields.finish(Some(()))?;
    let event_type: EventType = match named {
        Some(named) => named,
        None => TYPE.parse().map_err(ApiError::internal)?,
    };
    let quota = rate_limit::take(&app, &tenant, NonZeroU32::MIN)?;
    let now = app.clock.now();
    let event = Arc::new(Event {
        id: EventId::mint(now),
        org_id: tenant.org_id,
        event_type,
        payload: Bytes::from_static(PAYLOAD),
        dedup_id: None,
        account_id: None,
        user_id: None,
        occurred_at: None,
        received_at: now,
        trace_id: arrival.trace_id,
    });
    let planned = app.store.plan_event(tenant.org_id, id, &event, &tenant.actor(), now).await?;
    let delivery_id = planned.map_err(ApiError::Plan)?;
    app.wake.wake();
    app.metrics.http.events_ingested_total.inc();
    tenant.principal.usage.add(1);
    app.metrics.ingest.events_stored_total.inc();
    app.metrics.ingest.deliveries_planned_total.inc();
    let view = TestView { event_id: event.id, delivery_id, status: "accepted" };
    let mut response =
        respond::at(StatusCode::ACCEPTED, &format!("/api/deliveries/{delivery_id}"), &view)?;
    ratelimit_headers::write_headers(response.headers_mut(), Counted::Events, quota);
    Ok(response)
}
