//! Deliveries: where events stand on their way to endpoints; trying one again, repeating one, calling
//! one off.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use crate::domain::{
    Attempt, Delivery, DeliveryFilter, DeliveryId, DeliveryStatus, EndpointId, EventId, Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::json_object::EmptyBody;
use crate::http::query::{Query, rule};
use crate::http::respond;
use crate::http::state::AppState;

/// A delivery as its owner sees it.
#[derive(Serialize)]
pub(super) struct DeliveryView {
    id: DeliveryId,
    event_id: EventId,
    endpoint_id: EndpointId,
    status: DeliveryStatus,
    /// Attempts that have been recorded.
    attempt_count: u32,
    next_attempt_at: Option<Timestamp>,
    created_at: Timestamp,
    finished_at: Option<Timestamp>,
    /// The delivery that it repeats.
    replay_of: Option<DeliveryId>,
}

/// A delivery with what came of each attempt, first to last.
#[derive(Serialize)]
struct DeliveryDetail {
    #[serde(flatten)]
    delivery: DeliveryView,
    attempts: Vec<Attempt>,
}

/// `GET /api/deliveries`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    let filter = DeliveryFilter {
        status: query.take("status", "must be pending, delivered, dead or cancelled"),
        endpoint_id: query.take("endpoint_id", rule::ENDPOINT),
        event_id: query.take("event_id", "must be the id of an event"),
        since: query.take("since", rule::MOMENT),
        until: query.take("until", rule::MOMENT),
    };
    query.finish()?;
    let deliveries = app.store.deliveries(tenant.org_id, &filter, page).await?;
    respond::ok(&deliveries.map(DeliveryView::from))
}

/// `GET /api/deliveries/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<DeliveryId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let delivery = app.store.delivery(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    let attempts = app.store.attempts(tenant.org_id, id).await?;
    respond::ok(&DeliveryDetail { delivery: delivery.into(), attempts })
}

/// `POST /api/deliveries/{id}/retry`: 202 with the delivery, due now.
pub(in crate::http) async fn retry(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeliveryId>,
    _: EmptyBody,
) -> Result<Response, ApiError> {
    let retried =
        app.store.retry_delivery(tenant.org_id, id, &tenant.actor(), app.clock.now()).await?;
    let delivery = retried.map_err(ApiError::Delivery)?;
    respond::json(StatusCode::ACCEPTED, &DeliveryView::from(delivery))
}

/// `POST /api/deliveries/{id}/replay`: 202 with the new delivery.
pub(in crate::http) async fn replay(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeliveryId>,
    _: EmptyBody,
) -> Result<Response, ApiError> {
    let replayed =
        app.store.replay_delivery(tenant.org_id, id, &tenant.actor(), app.clock.now()).await?;
    let delivery = replayed.map_err(ApiError::Delivery)?;
    app.wake.wake();
    respond::json(StatusCode::ACCEPTED, &DeliveryView::from(delivery))
}

/// `POST /api/deliveries/{id}/cancel`: 200 with the delivery as it is now.
pub(in crate::http) async fn cancel(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeliveryId>,
    _: EmptyBody,
) -> Result<Response, ApiError> {
    let cancelled =
        app.store.cancel_delivery(tenant.org_id, id, &tenant.actor(), app.clock.now()).await?;
    let delivery = cancelled.map_err(ApiError::Delivery)?;
    app.delivery.evict_delivery(id);
    respond::ok(&DeliveryView::from(delivery))
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            event_id: delivery.event_id,
            endpoint_id: delivery.endpoint_id,
            status: delivery.status,
            attempt_count: delivery.attempts,
            next_attempt_at: delivery.next_attempt_at,
            created_at: delivery.created_at,
            finished_at: delivery.finished_at,
            replay_of: delivery.replay_of,
        }
    }
}
