//! Bulk replays: starting, watching and cancelling one. The work is done in the background.

use axum::extract::State;

use crate::domain::{
    DeadLetterFilter, DeadReason, EndpointId, EventTypeFilter, Page, Replay, ReplayId, Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped, Tenant};
use crate::http::request::{Body, EmptyBody, List, NoQuery, OptionalBody, json_fields};
use crate::http::respond::{Accepted, Json};
use crate::http::state::AppState;
use crate::store::DeliveryRefusal;

json_fields! {
    /// Which dead letters are replayed; all of them if nothing is named.
    pub(in crate::http) struct DeadLettersReplay {
        /// Of deliveries to this endpoint.
        optional endpoint_id: EndpointId,
        /// With this reason.
        optional reason: DeadReason,
        /// Of events of this type: `user.login`, or a prefix such as `user.*`.
        optional r#type: EventTypeFilter,
        /// Given up at this time or later.
        optional since: Timestamp,
        /// Given up before this time.
        optional until: Timestamp,
    }
}

json_fields! {
    /// Which dead letters of an endpoint are replayed.
    pub(in crate::http) struct EndpointReplay {
        /// Given up at this time or later.
        required since: Timestamp,
        /// Given up before this time.
        optional until: Timestamp,
    }
}

/// `POST /api/dead-letters/replay`: 202 with the replay.
pub(in crate::http) async fn of_dead_letters(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    OptionalBody(replay): OptionalBody<DeadLettersReplay>,
) -> Result<Accepted<Replay>, ApiError> {
    let DeadLettersReplay { endpoint_id, reason, r#type, since, until } = replay;
    let event_type = r#type;
    let filter = DeadLetterFilter { endpoint_id, reason, event_type, since, until, replayed: None };
    start(&app, &tenant, &filter).await
}

/// `POST /api/endpoints/{id}/replay`: 202 with the replay.
pub(in crate::http) async fn of_endpoint(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    Body(EndpointReplay { since, until }): Body<EndpointReplay>,
) -> Result<Accepted<Replay>, ApiError> {
    let endpoint = app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    if endpoint.disabled_reason.is_some() {
        return Err(ApiError::Delivery(DeliveryRefusal::EndpointDisabled));
    }
    let (endpoint_id, since) = (Some(id), Some(since));
    let filter = DeadLetterFilter { endpoint_id, since, until, ..DeadLetterFilter::default() };
    start(&app, &tenant, &filter).await
}

/// `GET /api/replays`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    List { page, filter: () }: List,
) -> Result<Json<Page<Replay>>, ApiError> {
    Ok(Json(app.store.replays(tenant.org_id, page).await?))
}

/// `GET /api/replays/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<ReplayId>,
    _: NoQuery,
) -> Result<Json<Replay>, ApiError> {
    app.store.replay(tenant.org_id, id).await?.map(Json).ok_or(ApiError::NotFound)
}

/// `POST /api/replays/{id}/cancel`: deliveries that it has created already stay.
pub(in crate::http) async fn cancel(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<ReplayId>,
    _: EmptyBody,
) -> Result<Json<Replay>, ApiError> {
    let ended =
        app.store.end_replay(tenant.org_id, id, None, &tenant.actor(), app.clock.now()).await?;
    ended.map(Json).ok_or(ApiError::NotFound)
}

async fn start(
    app: &AppState,
    tenant: &Tenant,
    filter: &DeadLetterFilter,
) -> Result<Accepted<Replay>, ApiError> {
    let (by, now) = (tenant.actor(), app.clock.now());
    let replay = app.store.insert_replay(tenant.org_id, filter, &by, now).await?;
    let replay = replay.ok_or(ApiError::NotFound)?;
    app.replays.wake();
    Ok(Accepted(replay))
}
