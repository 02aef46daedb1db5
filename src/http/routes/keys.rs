//! API keys, for operators; `own_keys` has the tenants' routes.
//!
//! A key's text is in one answer only, that of its creation.

use std::time::Duration;

use axum::extract::State;

use crate::api::keys::{self, KeySpec};
use crate::api::views::{KeyView, NewKeyView};
use crate::auth::IssuedKey;
use crate::domain::{Actor, ApiKey, ApiKeyId, Cursor, OrgId, OrgLimit, Page, Role, Scope, Scopes};
use crate::http::entity_tag::{EntityTag, IfMatch};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Id, OperatorRead, OperatorWrite, Scoped};
use crate::http::request::{
    Body, ExpiresAt, LimitValue, List, ListPage, MergePatch, Name, NoQuery, OptionalBody,
    OwnScopes, Positioned, RequestedList, TenantScopes, Whole, json_fields,
};
use crate::http::respond::{Created, Json, NoContent, Secret};
use crate::http::state::AppState;

/// The resource of operators' routes.
const PATH: &str = "/api/admin/keys";

json_fields! {
    /// A new key of the caller's kind.
    pub(in crate::http) struct NewKey {
        /// Its name.
        required name: Name,
        /// What it may do: some of the caller's scopes, or all of them if unset.
        nullable scopes: OwnScopes,
        /// Events per minute that may be sent with it; as many as its organisation may if unset. An operator's key sends none.
        nullable rate_limit_per_minute: LimitValue<{ OrgLimit::RatePerMinute as usize }>,
        /// When it expires, not after the key that asks; when that one does if unset.
        nullable expires_at: ExpiresAt,
    }
}

json_fields! {
    /// A new key of an organisation, created by an operator.
    pub(in crate::http) struct NewOrgKey {
        /// Its name.
        required name: Name,
        /// What it may do: some of the scopes of organisations' keys, or all of them if unset.
        nullable scopes: TenantScopes,
        /// Events per minute that may be sent with it; as many as its organisation may if unset.
        nullable rate_limit_per_minute: LimitValue<{ OrgLimit::RatePerMinute as usize }>,
        /// When it expires, not after the key that asks; when that one does if unset.
        nullable expires_at: ExpiresAt,
    }
}

json_fields! {
    /// A change of a key.
    pub(in crate::http) struct KeyPatch {
        /// Its name.
        optional name: Name,
    }
}

json_fields! {
    /// A rotation of a key.
    pub(in crate::http) struct KeyRotation {
        /// Seconds for which the old key works beside the new one; 0 if unset.
        nullable grace_seconds: Whole<0, { ApiKey::GRACE_SECONDS_MAX }>,
    }
}

/// `GET /api/admin/keys`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    List { page, listing, filter: () }: List,
) -> Result<Json<ListPage<KeyView>>, ApiError> {
    Ok(page_of(&app, listing, keys::list(app.reads(), page).await?))
}

/// `GET /api/admin/orgs/{id}/keys`.
pub(in crate::http) async fn list_of_org(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Id(org): Id<OrgId>,
    List { page, listing, filter: () }: List,
) -> Result<Json<ListPage<KeyView>>, ApiError> {
    Ok(page_of(&app, listing, keys::list_of_org(app.reads(), org, page).await?))
}

/// `GET /api/admin/keys/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Id(id): Id<ApiKeyId>,
    _: NoQuery,
) -> Result<(EntityTag, Json<KeyView>), ApiError> {
    Ok(shown(&app, keys::one(app.reads(), id).await?))
}

/// `POST /api/admin/orgs/{id}/keys`: 201 with the key's text.
pub(in crate::http) async fn create_for_org(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(org): Id<OrgId>,
    Body(new): Body<NewOrgKey>,
) -> Result<(EntityTag, Secret<Created<NewKeyView>>), ApiError> {
    let spec = new.spec(Role::Tenant(org));
    let issued = keys::create(app.subsystems(), spec, Role::Operator, &operator.actor()).await?;
    Ok(created(&app, issued, PATH))
}

/// `POST /api/admin/keys`: 201 with the text of a key for operators.
pub(in crate::http) async fn create_for_operator(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Body(new): Body<NewKey>,
) -> Result<(EntityTag, Secret<Created<NewKeyView>>), ApiError> {
    let spec = new.spec(Role::Operator, operator.principal.scopes);
    let issued = keys::create(app.subsystems(), spec, Role::Operator, &operator.actor()).await?;
    Ok(created(&app, issued, PATH))
}

/// `PATCH /api/admin/keys/{id}`: renames it.
pub(in crate::http) async fn change(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<ApiKeyId>,
    if_match: IfMatch,
    patch: MergePatch<KeyPatch>,
) -> Result<(EntityTag, Json<KeyView>), ApiError> {
    let key = keys::one(app.subsystems(), id).await?;
    changed(&app, key, (if_match, patch), &operator.actor()).await
}

/// `DELETE /api/admin/keys/{id}`: the key stops working now. It stays listed.
pub(in crate::http) async fn revoke(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<ApiKeyId>,
    if_match: IfMatch,
    _: NoQuery,
) -> Result<NoContent, ApiError> {
    keys::revoke(&if_match.guard(app.subsystems()), id, &operator.actor()).await?;
    Ok(NoContent)
}

/// `POST /api/admin/keys/{id}/rotate`: 201 with the text of a key like the old one, which goes on
/// working for `grace_seconds`.
pub(in crate::http) async fn rotate(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<ApiKeyId>,
    OptionalBody(rotation): OptionalBody<KeyRotation>,
) -> Result<(EntityTag, Secret<Created<NewKeyView>>), ApiError> {
    let old = keys::one(app.subsystems(), id).await?;
    if old.role == Role::Operator && !operator.principal.scopes.include(old.scopes) {
        return Err(ApiError::ScopeRequired(old.scopes));
    }
    let (grace, by) = (rotation.grace(), operator.actor());
    let issued = keys::rotate(app.subsystems(), old, grace, Role::Operator, &by).await?;
    Ok(created(&app, issued, PATH))
}

/// Answers with a new key: 201 with its text.
pub(super) fn created(
    app: &AppState,
    issued: IssuedKey,
    path: &str,
) -> (EntityTag, Secret<Created<NewKeyView>>) {
    let location = format!("{path}/{}", issued.record.id);
    let tag = EntityTag(issued.record.revision());
    let body = NewKeyView::new(issued, app.subsystems().clock.now());
    (tag, Secret(Created { location, body }))
}

/// Answers with a page of keys.
pub(super) fn page_of(
    app: &AppState,
    listing: RequestedList,
    keys: Page<ApiKey>,
) -> Json<ListPage<KeyView>> {
    let now = app.subsystems().clock.now();
    Json(listing.page(keys.map(|key| KeyView::new(key, now))))
}

impl Positioned for KeyView {
    fn position(&self) -> Cursor {
        Cursor { at: self.created_at, id: self.id.uuid() }
    }
}

impl NewKey {
    /// A key with all scopes of `caller`, unless some are named. Looking into organisations must be named.
    pub(in crate::http) fn spec(self, role: Role, caller: Scopes) -> KeySpec {
        let Self { name, scopes, rate_limit_per_minute, expires_at } = self;
        KeySpec {
            role,
            name: name.0,
            scopes: scopes.map_or(caller.without(Scope::OperatorImpersonate), |scopes| scopes.0),
            rate_limit_per_minute: rate_limit_per_minute.map(|rate| rate.0),
            expires_at: expires_at.map(|at| at.0),
        }
    }
}

impl NewOrgKey {
    /// A key with all scopes of its role, unless some are named.
    pub(in crate::http) fn spec(self, role: Role) -> KeySpec {
        let Self { name, scopes, rate_limit_per_minute, expires_at } = self;
        KeySpec {
            role,
            name: name.0,
            scopes: scopes.map_or(Scopes::TENANT, |scopes| scopes.0),
            rate_limit_per_minute: rate_limit_per_minute.map(|rate| rate.0),
            expires_at: expires_at.map(|at| at.0),
        }
    }
}

impl KeyRotation {
    /// How long the old key goes on working.
    pub(in crate::http) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds.map_or(0, |seconds| seconds.0.into()))
    }
}

/// Changes a key as a patch says.
pub(super) async fn changed(
    app: &AppState,
    key: ApiKey,
    (if_match, patch): (IfMatch, MergePatch<KeyPatch>),
    by: &Actor,
) -> Result<(EntityTag, Json<KeyView>), ApiError> {
    let (id, revision, now) = (key.id, key.revision(), app.subsystems().clock.now());
    let subsystems = if_match.allow(app.subsystems(), &revision)?;
    let current = KeyView::new(key, now);
    let patch = patch.without(&KeyView::MEASURED).against(&current)?;
    let Some(Name(name)) = patch.and_then(|KeyPatch { name }| name) else {
        return Ok((EntityTag(revision), Json(current)));
    };
    let renamed = keys::rename(&subsystems, id, &name, by).await?;
    Ok((EntityTag(renamed.revision()), Json(KeyView::new(renamed, now))))
}

/// Answers with a key.
pub(super) fn shown(app: &AppState, key: ApiKey) -> (EntityTag, Json<KeyView>) {
    let now = app.subsystems().clock.now();
    (EntityTag(key.revision()), Json(KeyView::new(key, now)))
}
