//! Deliveries: lists, and retrying, replaying or cancelling one.

use axum::extract::State;

use crate::api::deliveries;
use crate::api::views::{DeliveryDetail, DeliveryView};
use crate::domain::{
    DeliveryFilter, DeliveryId, DeliveryStatus, EndpointId, EventId, Page, Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::request::{EmptyBody, List, NoQuery, query_fields};
use crate::http::respond::{Accepted, Json};
use crate::http::state::AppState;

query_fields! {
    /// Which deliveries are listed.
    pub(in crate::http) struct DeliveryQuery {
        /// In this state.
        status: DeliveryStatus,
        /// To this endpoint.
        endpoint_id: EndpointId,
        /// Of this event.
        event_id: EventId,
        /// Created at this time or later.
        since: Timestamp,
        /// Created before this time.
        until: Timestamp,
    }
}

/// `GET /api/deliveries`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    List { page, filter }: List<DeliveryQuery>,
) -> Result<Json<Page<DeliveryView>>, ApiError> {
    let (org, filter) = (tenant.org_id, filter.into());
    let page = deliveries::list(app.replica_reads(), org, &filter, page).await?;
    Ok(Json(page.map(DeliveryView::from)))
}

/// `GET /api/deliveries/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<DeliveryId>,
    _: NoQuery,
) -> Result<Json<DeliveryDetail>, ApiError> {
    let org = tenant.org_id;
    let look = |subsystems| async move { deliveries::one(&subsystems, org, id).await };
    let (delivery, attempts) = app.look_up(look).await?;
    Ok(Json(DeliveryDetail { delivery: delivery.into(), attempts }))
}

/// `POST /api/deliveries/{id}/retry`: 202 with the delivery, due now.
pub(in crate::http) async fn retry(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeliveryId>,
    _: EmptyBody,
) -> Result<Accepted<DeliveryView>, ApiError> {
    let by = tenant.actor();
    Ok(Accepted(deliveries::retry(app.subsystems(), tenant.org_id, id, &by).await?.into()))
}

/// `POST /api/deliveries/{id}/replay`: 202 with the new delivery.
pub(in crate::http) async fn replay(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeliveryId>,
    _: EmptyBody,
) -> Result<Accepted<DeliveryView>, ApiError> {
    let by = tenant.actor();
    Ok(Accepted(deliveries::replay(app.subsystems(), tenant.org_id, id, &by).await?.into()))
}

/// `POST /api/deliveries/{id}/cancel`: 200 with the cancelled delivery.
pub(in crate::http) async fn cancel(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeliveryId>,
    _: EmptyBody,
) -> Result<Json<DeliveryView>, ApiError> {
    let by = tenant.actor();
    Ok(Json(deliveries::cancel(app.subsystems(), tenant.org_id, id, &by).await?.into()))
}

impl From<DeliveryQuery> for DeliveryFilter {
    fn from(query: DeliveryQuery) -> Self {
        let DeliveryQuery { status, endpoint_id, event_id, since, until } = query;
        Self { status, endpoint_id, event_id, since, until }
    }
}
