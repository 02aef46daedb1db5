//! A tenant's own keys: what operators can do with all keys, within one organisation and within the
//! caller's own scopes.
//!
//! A key of another organisation is not found. A key cannot grant a scope that it lacks: neither to a
//! new key, nor by rotating a key that has more, which would show that one's successor. It may revoke
//! any key of its organisation, since that only takes away.

use axum::extract::State;

use super::keys::{self, KeyRotation, KeySpec, NewKey};
use crate::api::views::{KeyView, NewKeyView};
use crate::domain::{ApiKey, ApiKeyId, Page, Role};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Id, KeysManage, Scoped, Tenant};
use crate::http::request::{Body, List, NoQuery, OptionalBody};
use crate::http::respond::{Created, Json, NoContent};
use crate::http::state::AppState;

/// The resource of tenants' routes.
const PATH: &str = "/api/keys";

/// `GET /api/keys`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    List { page, filter: () }: List,
) -> Result<Json<Page<KeyView>>, ApiError> {
    Ok(keys::page_of(&app, app.store.keys(tenant.org_id, page).await?))
}

/// `POST /api/keys`: 201 with the key's text.
pub(in crate::http) async fn create(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Body(new): Body<NewKey>,
) -> Result<Created<NewKeyView>, ApiError> {
    let spec = KeySpec::of(new, tenant.principal.scopes);
    keys::create(&app, Role::Tenant(tenant.org_id), spec, &tenant.actor(), PATH).await
}

/// `GET /api/keys/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Id(id): Id<ApiKeyId>,
    _: NoQuery,
) -> Result<Json<KeyView>, ApiError> {
    Ok(Json(KeyView::new(own(&app, &tenant, id).await?, app.clock.now())))
}

/// `DELETE /api/keys/{id}`: the key stops working now. It stays listed.
pub(in crate::http) async fn revoke(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Id(id): Id<ApiKeyId>,
    _: NoQuery,
) -> Result<NoContent, ApiError> {
    own(&app, &tenant, id).await?;
    keys::end(&app, id, &tenant.actor()).await
}

/// `POST /api/keys/{id}/rotate`: 201 with the text of a key like the old one.
pub(in crate::http) async fn rotate(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Id(id): Id<ApiKeyId>,
    OptionalBody(rotation): OptionalBody<KeyRotation>,
) -> Result<Created<NewKeyView>, ApiError> {
    let old = own(&app, &tenant, id).await?;
    if !tenant.principal.scopes.include(old.scopes) {
        return Err(ApiError::ScopeRequired(old.scopes));
    }
    keys::replace(&app, old, rotation.grace(), &tenant.actor(), PATH).await
}

async fn own(app: &AppState, tenant: &Tenant, id: ApiKeyId) -> Result<ApiKey, ApiError> {
    let key = app.store.system().key(id).await?;
    key.filter(|key| key.role == Role::Tenant(tenant.org_id)).ok_or(ApiError::NotFound)
}
