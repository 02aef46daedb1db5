//! A tenant's own keys: what operators can do with all keys, within one organisation and within the
//! caller's own scopes.
//!
//! A key of another organisation is not found. A key cannot grant a scope that it lacks: neither to a
//! new key, nor by rotating a key that has more, which would show that one's successor. It may revoke
//! any key of its organisation, since that only takes away.

use axum::extract::State;

use super::keys::{KeyPatch, KeyRotation, NewKey, changed, created, page_of, shown};
use crate::api::keys;
use crate::api::views::{KeyView, NewKeyView};
use crate::domain::{ApiKeyId, Role};
use crate::http::entity_tag::{EntityTag, IfMatch};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Id, KeysManage, KeysRead, Scoped};
use crate::http::request::{Body, List, ListPage, MergePatch, NoQuery, OptionalBody};
use crate::http::respond::{Created, Json, NoContent, Secret};
use crate::http::state::AppState;

/// The resource of tenants' routes.
const PATH: &str = "/api/keys";

/// `GET /api/keys`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<KeysRead>,
    List { page, listing, filter: () }: List,
) -> Result<Json<ListPage<KeyView>>, ApiError> {
    Ok(page_of(&app, listing, keys::list_of_org(app.reads(), tenant.org_id, page).await?))
}

/// `POST /api/keys`: 201 with the key's text.
pub(in crate::http) async fn create(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Body(new): Body<NewKey>,
) -> Result<(EntityTag, Secret<Created<NewKeyView>>), ApiError> {
    let own = Role::Tenant(tenant.org_id);
    let spec = new.spec(own, tenant.principal.scopes);
    let issued = keys::create(app.subsystems(), spec, own, &tenant.actor()).await?;
    Ok(created(&app, issued, PATH))
}

/// `GET /api/keys/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<KeysRead>,
    Id(id): Id<ApiKeyId>,
    _: NoQuery,
) -> Result<(EntityTag, Json<KeyView>), ApiError> {
    Ok(shown(&app, keys::one_of_org(app.reads(), tenant.org_id, id).await?))
}

/// `PATCH /api/keys/{id}`: renames it.
pub(in crate::http) async fn change(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Id(id): Id<ApiKeyId>,
    if_match: IfMatch,
    patch: MergePatch<KeyPatch>,
) -> Result<(EntityTag, Json<KeyView>), ApiError> {
    let key = keys::one_of_org(app.subsystems(), tenant.org_id, id).await?;
    changed(&app, key, (if_match, patch), &tenant.actor()).await
}

/// `DELETE /api/keys/{id}`: the key stops working now. It stays listed.
pub(in crate::http) async fn revoke(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Id(id): Id<ApiKeyId>,
    if_match: IfMatch,
    _: NoQuery,
) -> Result<NoContent, ApiError> {
    keys::one_of_org(app.subsystems(), tenant.org_id, id).await?;
    keys::revoke(&if_match.guard(app.subsystems()), id, &tenant.actor()).await?;
    Ok(NoContent)
}

/// `POST /api/keys/{id}/rotate`: 201 with the text of a key like the old one.
pub(in crate::http) async fn rotate(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    Id(id): Id<ApiKeyId>,
    OptionalBody(rotation): OptionalBody<KeyRotation>,
) -> Result<(EntityTag, Secret<Created<NewKeyView>>), ApiError> {
    let old = keys::one_of_org(app.subsystems(), tenant.org_id, id).await?;
    if !tenant.principal.scopes.include(old.scopes) {
        return Err(ApiError::ScopeRequired(old.scopes));
    }
    let (grace, own, by) = (rotation.grace(), old.role, tenant.actor());
    let issued = keys::rotate(app.subsystems(), old, grace, own, &by).await?;
    Ok(created(&app, issued, PATH))
}
