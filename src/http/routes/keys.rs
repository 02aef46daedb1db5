//! API keys, for operators; `own_keys` has the tenants' routes.
//!
//! A key's text is in one answer only, that of its creation. A change invalidates this process's
//! caches before it is answered; other instances hear of it, or notice it within
//! `AUTH_POLL_INTERVAL`.

use std::time::Duration;

use axum::extract::State;

use crate::api::views::{KeyView, NewKeyView};
use crate::auth::IssuedKey;
use crate::domain::{Actor, ApiKey, ApiKeyId, OrgId, OrgLimit, Page, Role, Scopes, Timestamp};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Id, OperatorRead, OperatorWrite, Scoped};
use crate::http::request::{
    Body, ExpiresAt, List, Name, NoQuery, OptionalBody, OwnScopes, TenantScopes, Whole, json_fields,
};
use crate::http::respond::{Created, Json, NoContent};
use crate::http::state::AppState;
use crate::store::{AddRefusal, Holdings};

/// The resource of operators' routes.
const PATH: &str = "/api/admin/keys";

json_fields! {
    /// A new key of the caller's kind.
    pub(in crate::http) struct NewKey {
        /// Its name.
        required name: Name,
        /// What it may do: some of the caller's scopes, or all of them if unset.
        nullable scopes: OwnScopes,
        /// When it expires; never if unset.
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
        /// When it expires; never if unset.
        nullable expires_at: ExpiresAt,
    }
}

json_fields! {
    /// A rotation of a key.
    pub(in crate::http) struct KeyRotation {
        /// Seconds for which the old key works beside the new one; 0 if unset.
        nullable grace_seconds: Whole<0, { ApiKey::GRACE_SECONDS_MAX }>,
    }
}

/// What a key is to be.
pub(super) struct KeySpec {
    name: String,
    scopes: Scopes,
    expires_at: Option<Timestamp>,
}

/// `GET /api/admin/keys`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    List { page, filter: () }: List,
) -> Result<Json<Page<KeyView>>, ApiError> {
    Ok(page_of(&app, app.store.system().keys(page).await?))
}

/// `GET /api/admin/orgs/{id}/keys`.
pub(in crate::http) async fn list_of_org(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Id(org): Id<OrgId>,
    List { page, filter: () }: List,
) -> Result<Json<Page<KeyView>>, ApiError> {
    app.store.org(org).await?.ok_or(ApiError::NotFound)?;
    Ok(page_of(&app, app.store.keys(org, page).await?))
}

/// `GET /api/admin/keys/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Id(id): Id<ApiKeyId>,
    _: NoQuery,
) -> Result<Json<KeyView>, ApiError> {
    let key = app.store.system().key(id).await?.ok_or(ApiError::NotFound)?;
    Ok(Json(KeyView::new(key, app.clock.now())))
}

/// `POST /api/admin/orgs/{id}/keys`: 201 with the key's text.
pub(in crate::http) async fn create_for_org(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(org): Id<OrgId>,
    Body(NewOrgKey { name, scopes, expires_at }): Body<NewOrgKey>,
) -> Result<Created<NewKeyView>, ApiError> {
    let scopes = scopes.map_or(Scopes::TENANT, |scopes| scopes.0);
    let spec = KeySpec { name: name.0, scopes, expires_at: expires_at.map(|at| at.0) };
    create(&app, Role::Tenant(org), spec, &operator.actor(), PATH).await
}

/// `POST /api/admin/keys`: 201 with the text of a key for operators.
pub(in crate::http) async fn create_for_operator(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Body(new): Body<NewKey>,
) -> Result<Created<NewKeyView>, ApiError> {
    let spec = KeySpec::of(new, operator.principal.scopes);
    create(&app, Role::Operator, spec, &operator.actor(), PATH).await
}

/// `DELETE /api/admin/keys/{id}`: the key stops working now. It stays listed.
pub(in crate::http) async fn revoke(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<ApiKeyId>,
    _: NoQuery,
) -> Result<NoContent, ApiError> {
    end(&app, id, &operator.actor()).await
}

/// `POST /api/admin/keys/{id}/rotate`: 201 with the text of a key like the old one, which goes on
/// working for `grace_seconds`.
pub(in crate::http) async fn rotate(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<ApiKeyId>,
    OptionalBody(rotation): OptionalBody<KeyRotation>,
) -> Result<Created<NewKeyView>, ApiError> {
    let old = app.store.system().key(id).await?.ok_or(ApiError::NotFound)?;
    if old.role == Role::Operator && !operator.principal.scopes.include(old.scopes) {
        return Err(ApiError::ScopeRequired(old.scopes));
    }
    replace(&app, old, rotation.grace(), &operator.actor(), PATH).await
}

/// Creates a key: 201 with its text.
pub(super) async fn create(
    app: &AppState,
    role: Role,
    spec: KeySpec,
    by: &Actor,
    path: &str,
) -> Result<Created<NewKeyView>, ApiError> {
    let now = app.clock.now();
    let quota = check_quota(app, role, now, |held| held.keys).await?;
    quota.map_err(|refusal| ApiError::Add("keys", refusal))?;
    let mut issued = app.authenticator.issue_key(role, spec.name, now).await?;
    issued.record.scopes = spec.scopes;
    issued.record.expires_at = spec.expires_at;
    let added = app.store.system().insert_key(&issued.record, by).await?;
    added.map_err(|refusal| ApiError::Add("keys", refusal))?;
    Ok(created(issued, now, path))
}

/// Checks an organisation's quota of the keys that `used` counts, before hashing one costs time. Only
/// the store's own check, within the transaction that adds the key, is exact.
async fn check_quota(
    app: &AppState,
    role: Role,
    now: Timestamp,
    used: impl FnOnce(Holdings) -> u64,
) -> Result<Result<(), AddRefusal>, ApiError> {
    let Role::Tenant(org) = role else { return Ok(Ok(())) };
    let found = app.store.org(org).await?.filter(|org| org.deletion.is_none());
    let org = found.ok_or(ApiError::NotFound)?;
    let Some(most) = org.limits.get(OrgLimit::Keys) else { return Ok(Ok(())) };
    let used = used(app.store.holdings(org.id, now).await?);
    Ok(if used < u64::from(most) { Ok(()) } else { Err(AddRefusal::OverQuota(most)) })
}

/// Revokes a key now.
pub(super) async fn end(app: &AppState, id: ApiKeyId, by: &Actor) -> Result<NoContent, ApiError> {
    let now = app.clock.now();
    if !app.store.system().expire_key(id, now, by, now).await? {
        return Err(ApiError::NotFound);
    }
    app.authenticator.invalidate(id).await;
    Ok(NoContent)
}

/// Replaces `old` by a key like it; `old` goes on working for `grace`.
pub(super) async fn replace(
    app: &AppState,
    old: ApiKey,
    grace: Duration,
    by: &Actor,
    path: &str,
) -> Result<Created<NewKeyView>, ApiError> {
    let now = app.clock.now();
    old.check_rotation(now).map_err(ApiError::KeyRotation)?;
    if !grace.is_zero() {
        let quota = check_quota(app, old.role, now, |held| held.keys_in_grace).await?;
        quota.map_err(|refusal| ApiError::KeyRotation(refusal.into()))?;
    }
    let mut issued = app.authenticator.issue_key(old.role, old.name, now).await?;
    issued.record.scopes = old.scopes;
    issued.record.expires_at = old.expires_at;
    // Hashing took its time: the grace period begins now, and the old key must be active now.
    let now = app.clock.now();
    let rotated = app.store.system().rotate_key(old.id, grace, &issued.record, by, now).await?;
    rotated.map_err(ApiError::KeyRotation)?;
    app.authenticator.invalidate(old.id).await;
    Ok(created(issued, now, path))
}

fn created(issued: IssuedKey, now: Timestamp, path: &str) -> Created<NewKeyView> {
    let location = format!("{path}/{}", issued.record.id);
    Created { location, body: NewKeyView::new(issued, now) }
}

/// Answers with a page of keys.
pub(super) fn page_of(app: &AppState, keys: Page<ApiKey>) -> Json<Page<KeyView>> {
    let now = app.clock.now();
    Json(keys.map(|key| KeyView::new(key, now)))
}

impl KeySpec {
    /// A key with all scopes of `caller`, unless some are named.
    pub(super) fn of(NewKey { name, scopes, expires_at }: NewKey, caller: Scopes) -> Self {
        let scopes = scopes.map_or(caller, |scopes| scopes.0);
        Self { name: name.0, scopes, expires_at: expires_at.map(|at| at.0) }
    }
}

impl KeyRotation {
    /// How long the old key goes on working.
    pub(super) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds.map_or(0, |seconds| seconds.0.into()))
    }
}
