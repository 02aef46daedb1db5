//! Organisations, for operators; `own_org` has the tenants' route.
//!
//! A change is forgotten by this process's caches before it is answered, so that a suspended or
//! deleted organisation's keys open nothing from then on; other instances hear of it, or notice it
//! within `AUTH_POLL_INTERVAL`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use crate::domain::{Org, OrgChange, OrgId, OrgLimit};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Id, OperatorRead, OperatorWrite, Scoped};
use crate::http::json_object::{self, Checked, EmptyBody, JsonObject};
use crate::http::query::Query;
use crate::http::respond;
use crate::http::state::AppState;

/// `POST /api/admin/orgs`.
pub(in crate::http) async fn create(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    mut fields: JsonObject,
) -> Result<Response, ApiError> {
    let name = fields.required("name", name);
    let limits = limits(&mut fields);
    let name = fields.finish(name)?;
    let now = app.clock.now();
    let mut org = Org::new(OrgId::mint(now), name, now);
    OrgChange { name: None, limits }.apply(&mut org);
    app.store.system().insert_org(&org, &operator.actor()).await?;
    respond::created(&format!("/api/admin/orgs/{}", org.id), &org)
}

/// `GET /api/admin/orgs`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    respond::ok(&app.store.system().orgs(page).await?)
}

/// `GET /api/admin/orgs/{id}`: also one that is being deleted, or was, with how far that is.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Id(id): Id<OrgId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    respond::ok(&app.store.org(id).await?.ok_or(ApiError::NotFound)?)
}

/// `PATCH /api/admin/orgs/{id}`: only the fields that are sent are changed.
pub(in crate::http) async fn change(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    mut fields: JsonObject,
) -> Result<Response, ApiError> {
    let change = OrgChange { name: fields.optional("name", name), limits: limits(&mut fields) };
    let change = fields.finish(Some(change))?;
    let now = app.clock.now();
    let changed = app.store.update_org(id, &change, &operator.actor(), now).await?;
    answer_change(&app, changed, StatusCode::OK).await
}

/// `POST /api/admin/orgs/{id}/suspend`.
pub(in crate::http) async fn suspend(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    _: EmptyBody,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let changed = app.store.suspend_org(id, true, &operator.actor(), now).await?;
    answer_change(&app, changed, StatusCode::OK).await
}

/// `POST /api/admin/orgs/{id}/resume`.
pub(in crate::http) async fn resume(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    _: EmptyBody,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let changed = app.store.suspend_org(id, false, &operator.actor(), now).await?;
    app.wake.wake();
    answer_change(&app, changed, StatusCode::OK).await
}

/// `DELETE /api/admin/orgs/{id}`: 202; nothing of it can be used any more, and what it has is deleted
/// in the background.
pub(in crate::http) async fn delete(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let now = app.clock.now();
    let changed = app.store.delete_org(id, &operator.actor(), now).await?;
    answer_change(&app, changed, StatusCode::ACCEPTED).await
}

/// Answers with an organisation that was changed, once nobody here goes by what it was.
async fn answer_change(
    app: &AppState,
    changed: Option<Org>,
    status: StatusCode,
) -> Result<Response, ApiError> {
    let org = changed.ok_or(ApiError::NotFound)?;
    app.authenticator.invalidate_changed().await?;
    respond::json(status, &org)
}

fn name(value: &Value) -> Checked<String> {
    json_object::string("name", value, |text| Org::check_name(text).map(|()| text.to_owned()))
}

/// Takes the limits that are named; `null` takes one away.
fn limits(fields: &mut JsonObject) -> Vec<(OrgLimit, Option<u32>)> {
    let take = |limit: OrgLimit| {
        let value = fields.nullable(limit.name(), |value| {
            json_object::number(limit.name(), value, &limit.range())
        });
        value.map(|value| (limit, value))
    };
    OrgLimit::ALL.into_iter().filter_map(take).collect()
}
