//! A tenant's own keys: what operators can do with all keys, within one organisation and within what
//! the key that asks may do itself.
//!
//! A key of another organisation is not found. A key may give no scope away that it lacks: not to a
//! new key, and not by rotating one that has more, which would show that one's successor. It may
//! revoke any key of its organisation, since that takes away only.

use axum::extract::State;
use axum::response::Response;

use super::keys::{self, KeyView};
use crate::domain::{ApiKey, ApiKeyId, Role};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Id, KeysManage, Scoped, Tenant};
use crate::http::json_object::{JsonObject, OptionalJsonObject};
use crate::http::query::Query;
use crate::http::respond;
use crate::http::state::AppState;

const PLACE: &str = "/api/keys";

/// `GET /api/keys`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    keys::page_of(&app, &app.store.keys(tenant.org_id, page).await?)
}

/// `POST /api/keys`: 201 with the key's text.
pub(in crate::http) async fn create(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    fields: JsonObject,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let new = keys::new_key(fields, tenant.principal.scopes, now)?;
    keys::create(&app, Role::Tenant(tenant.org_id), new, &tenant.actor(), PLACE).await
}

/// `GET /api/keys/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Id(id): Id<ApiKeyId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    respond::ok(&KeyView::of(&own(&app, &tenant, id).await?, app.clock.now()))
}

/// `DELETE /api/keys/{id}`: the key stops working now. It stays listed.
pub(in crate::http) async fn revoke(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Id(id): Id<ApiKeyId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    own(&app, &tenant, id).await?;
    keys::end(&app, id, &tenant.actor()).await
}

/// `POST /api/keys/{id}/rotate`: 201 with the text of a key like the old one.
pub(in crate::http) async fn rotate(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Id(id): Id<ApiKeyId>,
    OptionalJsonObject(fields): OptionalJsonObject,
) -> Result<Response, ApiError> {
    let grace = keys::grace(fields)?;
    let old = own(&app, &tenant, id).await?;
    if !tenant.principal.scopes.include(old.scopes) {
        return Err(ApiError::ScopeRequired(old.scopes));
    }
    keys::replace(&app, old, grace, &tenant.actor(), PLACE).await
}

async fn own(app: &AppState, tenant: &Tenant, id: ApiKeyId) -> Result<ApiKey, ApiError> {
    let key = app.store.system().key(id).await?;
    key.filter(|key| key.role == Role::Tenant(tenant.org_id)).ok_or(ApiError::NotFound)
}
