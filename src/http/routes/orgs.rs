//! Organisations: a tenant's own, and all of them for operators.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use super::super::error::ApiError;
use super::super::extract::{Id, Operator, Tenant};
use super::super::fields::{self, Checked, Fields};
use super::super::query::Query;
use super::super::state::{AppState, Settings};
use super::answer;
use crate::domain::{Org, OrgChange, OrgId};

/// An organisation as its own keys see it.
#[derive(Serialize)]
struct OwnOrgView {
    #[serde(flatten)]
    org: Org,
    limits: Limits,
}

/// What an organisation may send.
#[derive(Serialize)]
struct Limits {
    /// Events a minute, its own limit or the default.
    events_per_minute: u32,
    /// Bytes in a payload.
    event_bytes_max: usize,
    /// Events in a batch.
    batch_events_max: usize,
    /// Bytes in the body of a batch.
    batch_body_bytes_max: usize,
}

/// `GET /api/org`.
pub(in super::super) async fn own(
    State(app): State<AppState>,
    tenant: Tenant,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let org = app.store.org(tenant.org_id).await?.ok_or(ApiError::NotFound)?;
    let default = app.settings().rate_limit_per_minute;
    let limits = Limits {
        events_per_minute: org.rate_limit_per_minute.unwrap_or(default),
        event_bytes_max: app.settings().event_bytes_max,
        batch_events_max: Settings::BATCH_EVENTS_MAX,
        batch_body_bytes_max: Settings::BATCH_BODY_BYTES_MAX,
    };
    answer::ok(&OwnOrgView { org, limits })
}

/// `POST /api/admin/orgs`.
pub(in super::super) async fn create(
    State(app): State<AppState>,
    _: Operator,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let name = fields.required("name", name);
    let rate_limit_per_minute = fields.nullable("rate_limit_per_minute", rate_limit).flatten();
    let name = fields.finish(name)?;
    let now = app.clock.now();
    let org = Org { id: OrgId::mint(now), name, rate_limit_per_minute, created_at: now };
    app.store.insert_org_across_orgs(&org).await?;
    answer::created(&format!("/api/admin/orgs/{}", org.id), &org)
}

/// `GET /api/admin/orgs`.
pub(in super::super) async fn list(
    State(app): State<AppState>,
    _: Operator,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    answer::ok(&app.store.orgs_across_orgs(page).await?)
}

/// `GET /api/admin/orgs/{id}`.
pub(in super::super) async fn one(
    State(app): State<AppState>,
    _: Operator,
    Id(id): Id<OrgId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    answer::ok(&app.store.org(id).await?.ok_or(ApiError::NotFound)?)
}

/// `PATCH /api/admin/orgs/{id}`. A new limit holds as soon as the change is noticed, which is within
/// `AUTH_POLL_INTERVAL` on every instance.
pub(in super::super) async fn change(
    State(app): State<AppState>,
    _: Operator,
    Id(id): Id<OrgId>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let change = OrgChange {
        name: fields.optional("name", name),
        rate_limit_per_minute: fields.nullable("rate_limit_per_minute", rate_limit),
    };
    let change = fields.finish(Some(change))?;
    answer::ok(
        &app.store.update_org(id, &change, app.clock.now()).await?.ok_or(ApiError::NotFound)?,
    )
}

fn name(value: &Value) -> Checked<String> {
    fields::string("name", value, |text| Org::check_name(text).map(|()| text.to_owned()))
}

fn rate_limit(value: &Value) -> Checked<u32> {
    fields::number("rate_limit_per_minute", value, Org::check_rate_limit)
}
