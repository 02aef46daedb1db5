//! API keys: a tenant's own to look at, and all of them for operators to manage.
//!
//! A key's text is in one answer only, that of its creation. A change is forgotten by this process's
//! caches before it is answered; other instances notice it within `AUTH_POLL_INTERVAL`.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use serde_json::Value;

use super::super::error::ApiError;
use super::super::extract::{Id, Operator, Tenant};
use super::super::fields::{self, Checked, Fields, OptionalFields};
use super::super::query::Query;
use super::super::state::AppState;
use super::answer;
use crate::auth::{IssuedKey, issue_key};
use crate::domain::{ApiKey, ApiKeyId, Org, OrgId, Page, Role, Timestamp, Violation};

/// The longest time that a rotated key may go on working: seven days.
const GRACE_SECONDS_MAX: u32 = 7 * 24 * 60 * 60;

/// A key as people see it: never its hash.
#[derive(Serialize)]
struct KeyView<'a> {
    id: ApiKeyId,
    /// `tenant` or `operator`.
    role: &'static str,
    org_id: Option<OrgId>,
    name: &'a str,
    /// Whether it works now.
    active: bool,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

/// A new key, its text with it.
#[derive(Serialize)]
struct NewKeyView<'a> {
    #[serde(flatten)]
    record: KeyView<'a>,
    key: &'a str,
}

/// `GET /api/keys`.
pub(in super::super) async fn own(
    State(app): State<AppState>,
    tenant: Tenant,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    page_of(&app, &app.store.keys(tenant.org_id, page).await?)
}

/// `GET /api/admin/keys`.
pub(in super::super) async fn list(
    State(app): State<AppState>,
    _: Operator,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    page_of(&app, &app.store.keys_across_orgs(page).await?)
}

/// `GET /api/admin/orgs/{id}/keys`.
pub(in super::super) async fn list_of_org(
    State(app): State<AppState>,
    _: Operator,
    Id(org): Id<OrgId>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    app.store.org(org).await?.ok_or(ApiError::NotFound)?;
    page_of(&app, &app.store.keys(org, page).await?)
}

/// `GET /api/admin/keys/{id}`.
pub(in super::super) async fn one(
    State(app): State<AppState>,
    _: Operator,
    Id(id): Id<ApiKeyId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let key = app.store.key_across_orgs(id).await?.ok_or(ApiError::NotFound)?;
    answer::ok(&KeyView::of(&key, app.clock.now()))
}

/// `POST /api/admin/orgs/{id}/keys`: 201 with the key's text.
pub(in super::super) async fn create_for_org(
    State(app): State<AppState>,
    _: Operator,
    Id(org): Id<OrgId>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let name = name(fields)?;
    app.store.org(org).await?.ok_or(ApiError::NotFound)?;
    create(&app, Role::Tenant(org), name).await
}

/// `POST /api/admin/keys`: 201 with the text of a key for operators.
pub(in super::super) async fn create_for_operator(
    State(app): State<AppState>,
    _: Operator,
    fields: Fields,
) -> Result<Response, ApiError> {
    create(&app, Role::Operator, name(fields)?).await
}

/// `DELETE /api/admin/keys/{id}`: the key stops working now. It stays listed.
pub(in super::super) async fn revoke(
    State(app): State<AppState>,
    _: Operator,
    Id(id): Id<ApiKeyId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let now = app.clock.now();
    if !app.store.expire_key_across_orgs(id, now, now).await? {
        return Err(ApiError::NotFound);
    }
    app.authenticator.forget(id).await;
    Ok(answer::no_content())
}

/// `POST /api/admin/keys/{id}/rotate`: 201 with the text of a key like the old one, which goes on
/// working for `grace_seconds`, 0 unless it is named.
pub(in super::super) async fn rotate(
    State(app): State<AppState>,
    _: Operator,
    Id(id): Id<ApiKeyId>,
    OptionalFields(mut fields): OptionalFields,
) -> Result<Response, ApiError> {
    let grace_seconds = fields.nullable("grace_seconds", grace_seconds).flatten().unwrap_or(0);
    fields.finish(Some(()))?;
    let old = app.store.key_across_orgs(id).await?.ok_or(ApiError::NotFound)?;
    let now = app.clock.now();
    if !old.is_active(now) {
        return Err(ApiError::KeyExpired);
    }
    let issued = issue_key(old.role, old.name, now).await?;
    let old_expires_at = now.plus(Duration::from_secs(u64::from(grace_seconds)));
    if !app.store.rotate_key_across_orgs(id, old_expires_at, &issued.record).await? {
        return Err(ApiError::NotFound);
    }
    app.authenticator.forget(id).await;
    created(&issued, now)
}

async fn create(app: &AppState, role: Role, name: String) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let issued = issue_key(role, name, now).await?;
    app.store.insert_key_across_orgs(&issued.record).await?;
    created(&issued, now)
}

fn created(issued: &IssuedKey, now: Timestamp) -> Result<Response, ApiError> {
    let record = KeyView::of(&issued.record, now);
    let location = format!("/api/admin/keys/{}", issued.record.id);
    let view = NewKeyView { record, key: issued.key.reveal() };
    Ok(answer::secret(answer::created(&location, &view)?))
}

fn page_of(app: &AppState, keys: &Page<ApiKey>) -> Result<Response, ApiError> {
    let now = app.clock.now();
    let data: Vec<_> = keys.data.iter().map(|key| KeyView::of(key, now)).collect();
    answer::ok(&Page { data, next_cursor: keys.next_cursor })
}

fn name(mut fields: Fields) -> Result<String, ApiError> {
    let name = fields.required("name", |value| {
        fields::string("name", value, |text| Org::check_name(text).map(|()| text.to_owned()))
    });
    fields.finish(name)
}

fn grace_seconds(value: &Value) -> Checked<u32> {
    fields::number("grace_seconds", value, |seconds| {
        if seconds <= GRACE_SECONDS_MAX {
            return Ok(());
        }
        Err(Violation::new("grace_seconds", "range", "must be at most 604800 seconds, seven days"))
    })
}

impl<'a> KeyView<'a> {
    fn of(key: &'a ApiKey, now: Timestamp) -> Self {
        Self {
            id: key.id,
            role: match key.role {
                Role::Tenant(_) => "tenant",
                Role::Operator => "operator",
            },
            org_id: key.role.org_id(),
            name: &key.name,
            active: key.is_active(now),
            created_at: key.created_at,
            expires_at: key.expires_at,
        }
    }
}
