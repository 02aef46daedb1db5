//! A test event to one endpoint.
//!
//! It is an event and a delivery like any other, stored before the answer and sent by the real path:
//! the SSRF guard, the signature, the retries and the records are those of every webhook. Only its
//! fan-out differs: it goes to this endpoint, whatever its filters say, and to no other.

use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::State;
use bytes::Bytes;

use crate::api::views::TestEvent;
use crate::domain::{EndpointId, Event, EventId, EventType};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, Id, Scoped};
use crate::http::rate_limit;
use crate::http::request::{OptionalBody, json_fields};
use crate::http::request_context::RequestContext;
use crate::http::respond::{Accepted, Location, RateLimitHeaders};
use crate::http::state::AppState;

/// The type of a test event unless the caller names one.
const TYPE: &str = "hookgate.test";
const PAYLOAD: &[u8] = br#"{"test":true}"#;

json_fields! {
    /// The test event.
    pub(in crate::http) struct TestRequest {
        /// Its type; `hookgate.test` if unset.
        nullable r#type: EventType,
    }
}

/// `POST /api/endpoints/{id}/test`: 202 with the delivery to look at. It costs one event of the rate
/// limit.
pub(in crate::http) async fn send(
    State(app): State<AppState>,
    context: RequestContext,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    OptionalBody(TestRequest { r#type }): OptionalBody<TestRequest>,
) -> Result<(Location, RateLimitHeaders, Accepted<TestEvent>), ApiError> {
    let event_type = match r#type {
        Some(event_type) => event_type,
        None => TYPE.parse().map_err(ApiError::internal)?,
    };
    let rate_limit = rate_limit::take(&app, &tenant, NonZeroU32::MIN)?;
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
        trace_id: context.trace_id,
    });
    let planned = app.store.plan_event(tenant.org_id, id, &event, &tenant.actor(), now).await?;
    let delivery_id = planned.map_err(ApiError::Plan)?;
    app.wake.wake();
    app.metrics.http.events_ingested_total.inc();
    tenant.principal.usage.add(1);
    app.metrics.ingest.events_stored_total.inc();
    app.metrics.ingest.deliveries_planned_total.inc();
    let location = Location(format!("/api/deliveries/{delivery_id}"));
    let view = TestEvent { event_id: event.id, delivery_id, status: "accepted" };
    Ok((location, RateLimitHeaders(rate_limit), Accepted(view)))
}
