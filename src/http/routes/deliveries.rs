//! Deliveries: lists, attempts, and retrying, replaying or cancelling one.

use axum::extract::State;

use crate::api::Subsystems;
use crate::api::deliveries;
use crate::api::views::{DeliveryDetail, DeliveryView, EndpointAttemptView};
use crate::domain::{
    Cursor, DeliveryFilter, DeliveryId, DeliveryStatus, EndpointId, ErrorClass, EventId,
    EventTypeFilter, Timestamp, attempt_position,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::outcome_wait::{OutcomeWait, WaitQuery};
use crate::http::request::{
    EmptyBody, EmptyBodyAndParameters, FailedStatus, List, ListPage, NoQuery, Positioned,
    query_fields,
};
use crate::http::respond::{Accepted, Either, Json};
use crate::http::server::RequestDeadline;
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
        /// Of events of this type: `user.login`, or a prefix such as `user.*`, `user:*` or `user/*`.
        r#type: EventTypeFilter,
        /// Whose last attempt failed with this class of error.
        error_class: ErrorClass,
        /// Whose last attempt was answered with this status, which is none of 2xx.
        status_code: FailedStatus,
    }
}

/// `GET /api/deliveries`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    List { page, listing, filter }: List<DeliveryQuery>,
) -> Result<Json<ListPage<DeliveryView>>, ApiError> {
    let (org, filter) = (tenant.org_id, filter.filter());
    let page = deliveries::list(app.replica_reads(), org, &filter, page).await?;
    Ok(Json(listing.page(page.map(DeliveryView::from))))
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
    Ok(Json(app.look_up(look).await?))
}

query_fields! {
    /// Which attempts of an endpoint are listed.
    pub(in crate::http) struct AttemptQuery {
        /// Of deliveries that were created at this time or later.
        since: Timestamp,
        /// Of deliveries that were created before this time.
        until: Timestamp,
        /// Of deliveries whose last attempt failed with this class of error.
        error_class: ErrorClass,
    }
}

/// `GET /api/endpoints/{id}/attempts`.
pub(in crate::http) async fn attempts_of_endpoint(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<EndpointId>,
    List { page, listing, filter }: List<AttemptQuery>,
) -> Result<Json<ListPage<EndpointAttemptView>>, ApiError> {
    let AttemptQuery { since, until, error_class } = filter;
    let endpoint_id = Some(id);
    let filter = DeliveryFilter { endpoint_id, since, until, error_class, ..Default::default() };
    let org = tenant.org_id;
    let look = |subsystems: Subsystems| {
        let filter = filter.clone();
        async move { deliveries::attempts_of_endpoint(&subsystems, org, id, &filter, page).await }
    };
    Ok(Json(listing.page(app.look_up(look).await?)))
}

/// `POST /api/deliveries/{id}/retry`: 202 with the delivery, due now, or with `wait` 200 with its outcome.
pub(in crate::http) async fn retry(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeliveryId>,
    deadline: RequestDeadline,
    EmptyBodyAndParameters(wait): EmptyBodyAndParameters<WaitQuery>,
) -> Result<Either<Json<DeliveryDetail>, Accepted<DeliveryView>>, ApiError> {
    let wait = OutcomeWait::begin(&app, &tenant, deadline, &wait)?;
    let delivery = deliveries::retry(app.subsystems(), tenant.org_id, id, &tenant.actor()).await?;
    let outcome = match wait {
        Some(wait) => wait.outcome(&app, &tenant, id, delivery.attempts).await,
        None => None,
    };
    Ok(outcome.map_or_else(
        || Either::Second(Accepted(delivery.into())),
        |ended| Either::First(Json(ended)),
    ))
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

impl Positioned for DeliveryView {
    fn position(&self) -> Cursor {
        Cursor { at: self.created_at, id: self.id.uuid() }
    }
}

impl Positioned for EndpointAttemptView {
    fn position(&self) -> Cursor {
        attempt_position(self.delivery_id, self.attempt.number)
    }
}

impl DeliveryQuery {
    /// The deliveries that are asked for.
    pub(in crate::http) fn filter(self) -> DeliveryFilter {
        let Self {
            status,
            endpoint_id,
            event_id,
            since,
            until,
            r#type: event_type,
            error_class,
            status_code,
        } = self;
        let status_code = status_code.map(|code| code.0);
        DeliveryFilter {
            status,
            endpoint_id,
            event_id,
            since,
            until,
            event_type,
            error_class,
            status_code,
        }
    }
}
