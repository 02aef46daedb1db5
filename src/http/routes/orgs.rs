//! Organisations, for operators; `own_org` has the tenants' route.
//!
//! A change is forgotten by this process's caches before it is answered, so that a suspended or
//! deleted organisation's keys open nothing from then on; other instances hear of it, or notice it
//! within `AUTH_POLL_INTERVAL`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;

use super::super::error::ApiError;
use super::super::extract::{Caller, Id, OperatorRead, OperatorWrite, Scoped};
use super::super::fields::{self, Checked, Fields, NoFields};
use super::super::query::Query;
use super::super::state::AppState;
use super::answer;
use crate::domain::{Org, OrgChange, OrgId, OrgLimit};

/// `POST /api/admin/orgs`.
pub(in super::super) async fn create(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let name = fields.required("name", name);
    let limits = limits(&mut fields);
    let name = fields.finish(name)?;
    let now = app.clock.now();
    let mut org = Org::new(OrgId::mint(now), name, now);
    OrgChange { name: None, limits }.apply(&mut org);
    app.store.insert_org_across_orgs(&org, &operator.actor()).await?;
    answer::created(&format!("/api/admin/orgs/{}", org.id), &org)
}

/// `GET /api/admin/orgs`.
pub(in super::super) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    answer::ok(&app.store.orgs_across_orgs(page).await?)
}

/// `GET /api/admin/orgs/{id}`: also one that is being deleted, or was, with how far that is.
pub(in super::super) async fn one(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Id(id): Id<OrgId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    answer::ok(&app.store.org(id).await?.ok_or(ApiError::NotFound)?)
}

/// `PATCH /api/admin/orgs/{id}`: only the fields that are sent are changed.
pub(in super::super) async fn change(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let change = OrgChange { name: fields.optional("name", name), limits: limits(&mut fields) };
    let change = fields.finish(Some(change))?;
    let now = app.clock.now();
    let changed = app.store.update_org(id, &change, &operator.actor(), now).await?;
    answer_change(&app, changed, StatusCode::OK).await
}

/// `POST /api/admin/orgs/{id}/suspend`.
pub(in super::super) async fn suspend(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    _: NoFields,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let changed = app.store.suspend_org(id, true, &operator.actor(), now).await?;
    answer_change(&app, changed, StatusCode::OK).await
}

/// `POST /api/admin/orgs/{id}/resume`.
pub(in super::super) async fn resume(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    _: NoFields,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let changed = app.store.suspend_org(id, false, &operator.actor(), now).await?;
    app.wake.wake();
    answer_change(&app, changed, StatusCode::OK).await
}

/// `DELETE /api/admin/orgs/{id}`: 202; nothing of it can be used any more, and what it has is deleted
/// in the background.
pub(in super::super) async fn delete(
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
    answer::json(status, &org)
}

fn name(value: &Value) -> Checked<String> {
    fields::string("name", value, |text| Org::check_name(text).map(|()| text.to_owned()))
}

/// Takes the limits that are named; `null` takes one away.
fn limits(fields: &mut Fields) -> Vec<(OrgLimit, Option<u32>)> {
    let take = |limit: OrgLimit| {
        let value = fields
            .nullable(limit.name(), |value| fields::number(limit.name(), value, &limit.range()));
        value.map(|value| (limit, value))
    };
    OrgLimit::ALL.into_iter().filter_map(take).collect()
}
