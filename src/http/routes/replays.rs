//! Replays of many: making one, watching it, calling it off. The work is done in the background.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use crate::domain::{DeadLetterFilter, EndpointId, ReplayId, Timestamp, Violation};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped, Tenant};
use crate::http::json_object::{self, Checked, EmptyBody, JsonObject, OptionalJsonObject};
use crate::http::query::{Query, rule};
use crate::http::respond;
use crate::http::state::AppState;
use crate::store::DeliveryRefusal;

/// `POST /api/dead-letters/replay`: 202 with the replay.
pub(in crate::http) async fn of_dead_letters(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    OptionalJsonObject(mut fields): OptionalJsonObject,
) -> Result<Response, ApiError> {
    let filter = DeadLetterFilter {
        endpoint_id: fields.optional("endpoint_id", |v| parsed("endpoint_id", v, rule::ENDPOINT)),
        reason: fields.optional("reason", |v| parsed("reason", v, rule::REASON)),
        event_type: fields.optional("type", |v| parsed("type", v, rule::EVENT_TYPE)),
        since: fields.optional("since", |v| moment("since", v)),
        until: fields.optional("until", |v| moment("until", v)),
        replayed: None,
    };
    let filter = fields.finish(Some(filter))?;
    start(&app, &tenant, &filter).await
}

/// `POST /api/endpoints/{id}/replay`: 202 with the replay.
pub(in crate::http) async fn of_endpoint(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    mut fields: JsonObject,
) -> Result<Response, ApiError> {
    let since = fields.required("since", |v| moment("since", v));
    let until = fields.optional("until", |v| moment("until", v));
    let filter =
        DeadLetterFilter { endpoint_id: Some(id), since, until, ..DeadLetterFilter::default() };
    let filter = fields.finish(Some(filter))?;
    let endpoint = app.store.endpoint(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    if endpoint.disabled_reason.is_some() {
        return Err(ApiError::Delivery(DeliveryRefusal::EndpointDisabled));
    }
    start(&app, &tenant, &filter).await
}

/// `GET /api/replays`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    respond::ok(&app.store.replays(tenant.org_id, page).await?)
}

/// `GET /api/replays/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<ReplayId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    respond::ok(&app.store.replay(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?)
}

/// `POST /api/replays/{id}/cancel`: what it has planned by then stays.
pub(in crate::http) async fn cancel(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<ReplayId>,
    _: EmptyBody,
) -> Result<Response, ApiError> {
    let ended =
        app.store.end_replay(tenant.org_id, id, None, &tenant.actor(), app.clock.now()).await?;
    respond::ok(&ended.ok_or(ApiError::NotFound)?)
}

async fn start(
    app: &AppState,
    tenant: &Tenant,
    filter: &DeadLetterFilter,
) -> Result<Response, ApiError> {
    let (by, now) = (tenant.actor(), app.clock.now());
    let replay = app.store.insert_replay(tenant.org_id, filter, &by, now).await?;
    let replay = replay.ok_or(ApiError::NotFound)?;
    app.replays.wake();
    respond::json(StatusCode::ACCEPTED, &replay)
}

/// Takes a string that is a value's text.
pub(super) fn parsed<T: std::str::FromStr>(field: &str, value: &Value, rule: &str) -> Checked<T> {
    json_object::string(field, value, |text| {
        text.parse().map_err(|_| Violation::new(field, "format", rule))
    })
}

fn moment(field: &str, value: &Value) -> Checked<Timestamp> {
    parsed(field, value, rule::MOMENT)
}
