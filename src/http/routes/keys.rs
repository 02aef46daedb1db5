//! API keys, for operators; `own_keys` has the tenants' routes.
//!
//! A key's text is in one answer only, that of its creation. A change is forgotten by this process's
//! caches before it is answered; other instances hear of it, or notice it within
//! `AUTH_POLL_INTERVAL`.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use crate::auth::IssuedKey;
use crate::domain::{
    Actor, ApiKey, ApiKeyId, Org, OrgId, OrgLimit, Page, Role, Scope, Scopes, Timestamp, Violation,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Id, OperatorRead, OperatorWrite, Scoped};
use crate::http::json_object::{self, Checked, JsonObject, OptionalJsonObject};
use crate::http::query::Query;
use crate::http::respond;
use crate::http::state::AppState;
use crate::store::{AddRefusal, Holdings};

const PLACE: &str = "/api/admin/keys";

/// A key as people see it: never its hash.
#[derive(Serialize)]
pub(super) struct KeyView<'a> {
    id: ApiKeyId,
    /// `tenant` or `operator`.
    role: &'static str,
    org_id: Option<OrgId>,
    name: &'a str,
    scopes: Scopes,
    /// Whether it works now.
    active: bool,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    /// To the minute, and known a minute later.
    last_used_at: Option<Timestamp>,
    /// The key that it was rotated to.
    replaced_by: Option<ApiKeyId>,
}

/// A new key, its text with it.
#[derive(Serialize)]
struct NewKeyView<'a> {
    #[serde(flatten)]
    record: KeyView<'a>,
    key: &'a str,
}

/// What a key is to be.
pub(super) struct NewKey {
    name: String,
    scopes: Scopes,
    expires_at: Option<Timestamp>,
}

/// `GET /api/admin/keys`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    page_of(&app, &app.store.system().keys(page).await?)
}

/// `GET /api/admin/orgs/{id}/keys`.
pub(in crate::http) async fn list_of_org(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Id(org): Id<OrgId>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    app.store.org(org).await?.ok_or(ApiError::NotFound)?;
    page_of(&app, &app.store.keys(org, page).await?)
}

/// `GET /api/admin/keys/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Id(id): Id<ApiKeyId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let key = app.store.system().key(id).await?.ok_or(ApiError::NotFound)?;
    respond::ok(&KeyView::of(&key, app.clock.now()))
}

/// `POST /api/admin/orgs/{id}/keys`: 201 with the key's text.
pub(in crate::http) async fn create_for_org(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(org): Id<OrgId>,
    fields: JsonObject,
) -> Result<Response, ApiError> {
    let new = new_key(fields, Scopes::TENANT, app.clock.now())?;
    create(&app, Role::Tenant(org), new, &operator.actor(), PLACE).await
}

/// `POST /api/admin/keys`: 201 with the text of a key for operators.
pub(in crate::http) async fn create_for_operator(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    fields: JsonObject,
) -> Result<Response, ApiError> {
    let new = new_key(fields, operator.principal.scopes, app.clock.now())?;
    create(&app, Role::Operator, new, &operator.actor(), PLACE).await
}

/// `DELETE /api/admin/keys/{id}`: the key stops working now. It stays listed.
pub(in crate::http) async fn revoke(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<ApiKeyId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    end(&app, id, &operator.actor()).await
}

/// `POST /api/admin/keys/{id}/rotate`: 201 with the text of a key like the old one, which goes on
/// working for `grace_seconds`, 0 unless it is named.
pub(in crate::http) async fn rotate(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<ApiKeyId>,
    OptionalJsonObject(fields): OptionalJsonObject,
) -> Result<Response, ApiError> {
    let grace = grace(fields)?;
    let old = app.store.system().key(id).await?.ok_or(ApiError::NotFound)?;
    if old.role == Role::Operator && !operator.principal.scopes.include(old.scopes) {
        return Err(ApiError::ScopeRequired(old.scopes));
    }
    replace(&app, old, grace, &operator.actor(), PLACE).await
}

/// Takes what a key is to be, with scopes of `grantable`: all of them unless some are named.
pub(super) fn new_key(
    mut fields: JsonObject,
    grantable: Scopes,
    now: Timestamp,
) -> Result<NewKey, ApiError> {
    let name = fields.required("name", |value| {
        json_object::string("name", value, |text| Org::check_name(text).map(|()| text.to_owned()))
    });
    let scopes = fields.nullable("scopes", |value| scopes(value, grantable)).flatten();
    let expires_at = fields.nullable("expires_at", |value| expires_at(value, now)).flatten();
    let scopes = scopes.unwrap_or(grantable);
    fields.finish(name.map(|name| NewKey { name, scopes, expires_at }))
}

/// Makes a key: 201 with its text.
pub(super) async fn create(
    app: &AppState,
    role: Role,
    new: NewKey,
    by: &Actor,
    place: &str,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let room = room(app, role, now, |held| held.keys).await?;
    room.map_err(|refusal| ApiError::Add("keys", refusal))?;
    let mut issued = app.authenticator.issue_key(role, new.name, now).await?;
    issued.record.scopes = new.scopes;
    issued.record.expires_at = new.expires_at;
    let added = app.store.system().insert_key(&issued.record, by).await?;
    added.map_err(|refusal| ApiError::Add("keys", refusal))?;
    created(&issued, now, place)
}

/// Looks whether an organisation has room for one more of the keys that `used` picks, before it costs
/// a hash. Only the store's own look, which comes as it adds the key, is sure.
async fn room(
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

/// Ends a key now.
pub(super) async fn end(app: &AppState, id: ApiKeyId, by: &Actor) -> Result<Response, ApiError> {
    let now = app.clock.now();
    if !app.store.system().expire_key(id, now, by, now).await? {
        return Err(ApiError::NotFound);
    }
    app.authenticator.invalidate(id).await;
    Ok(respond::no_content())
}

/// Puts a key like it in the place of `old`, which goes on working for `grace`.
pub(super) async fn replace(
    app: &AppState,
    old: ApiKey,
    grace: Duration,
    by: &Actor,
    place: &str,
) -> Result<Response, ApiError> {
    let now = app.clock.now();
    old.check_rotation(now).map_err(ApiError::KeyRotation)?;
    if !grace.is_zero() {
        let room = room(app, old.role, now, |held| held.keys_in_grace).await?;
        room.map_err(|refusal| ApiError::KeyRotation(refusal.into()))?;
    }
    let mut issued = app.authenticator.issue_key(old.role, old.name, now).await?;
    issued.record.scopes = old.scopes;
    issued.record.expires_at = old.expires_at;
    // The hash took its time: the grace begins, and the old key must be good, now.
    let now = app.clock.now();
    let rotated = app.store.system().rotate_key(old.id, grace, &issued.record, by, now).await?;
    rotated.map_err(ApiError::KeyRotation)?;
    app.authenticator.invalidate(old.id).await;
    created(&issued, now, place)
}

fn created(issued: &IssuedKey, now: Timestamp, place: &str) -> Result<Response, ApiError> {
    let record = KeyView::of(&issued.record, now);
    let location = format!("{place}/{}", issued.record.id);
    let view = NewKeyView { record, key: issued.key.reveal() };
    respond::created(&location, &view)
}

/// Answers with a page of keys.
pub(super) fn page_of(app: &AppState, keys: &Page<ApiKey>) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let data: Vec<_> = keys.data.iter().map(|key| KeyView::of(key, now)).collect();
    respond::ok(&Page { data, next_cursor: keys.next_cursor })
}

/// Takes `grace_seconds`.
pub(super) fn grace(mut fields: JsonObject) -> Result<Duration, ApiError> {
    let seconds = fields.nullable("grace_seconds", grace_seconds).flatten().unwrap_or(0);
    fields.finish(Some(Duration::from_secs(u64::from(seconds))))
}

fn grace_seconds(value: &Value) -> Checked<u32> {
    json_object::number("grace_seconds", value, &(0..=ApiKey::GRACE_SECONDS_MAX))
}

/// Names every scope that is none, or that may not be granted.
fn scopes(value: &Value, grantable: Scopes) -> Checked<Scopes> {
    let most = Scope::ALL.len();
    let items = value.as_array().filter(|items| (1..=most).contains(&items.len()));
    let Some(items) = items else {
        let rule = format!("must be an array of 1 to {most} scopes");
        return Err(vec![Violation::new("scopes", "type", rule)]);
    };
    let mut all = Scopes::NONE;
    let mut faults = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let scope = item.as_str().and_then(|text| text.parse::<Scope>().ok());
        match scope.filter(|scope| grantable.include(Scopes::of(*scope))) {
            Some(scope) => all = all.with(scope),
            None => faults.push(Violation::new(
                format!("scopes[{index}]"),
                "scope",
                format!("must be a scope that the key which asks may grant: {grantable}"),
            )),
        }
    }
    if faults.is_empty() { Ok(all) } else { Err(faults) }
}

fn expires_at(value: &Value, now: Timestamp) -> Checked<Timestamp> {
    let rule = "must be an RFC 3339 date and time such as 2027-01-31T12:00:00Z, in the future";
    let at: Timestamp = json_object::word("expires_at", value, rule)?;
    if at > now { Ok(at) } else { Err(vec![Violation::new("expires_at", "range", rule)]) }
}

impl<'a> KeyView<'a> {
    /// A key as it is at `now`.
    pub(super) fn of(key: &'a ApiKey, now: Timestamp) -> Self {
        Self {
            id: key.id,
            role: match key.role {
                Role::Tenant(_) => "tenant",
                Role::Operator => "operator",
            },
            org_id: key.role.org_id(),
            name: &key.name,
            scopes: key.scopes,
            active: key.is_active(now),
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            replaced_by: key.replaced_by,
        }
    }
}
