//! The caller's own organisation: its key, its limits, and what is left of them.

use axum::extract::State;

use crate::api::views::{OwnKeyView, OwnLimits, OwnOrgView};
use crate::api::{keys, orgs};
use crate::domain::{Org, OrgLimit};
use crate::http::error::ApiError;
use crate::http::extract::Tenant;
use crate::http::rate_limit;
use crate::http::request::NoQuery;
use crate::http::respond::Json;
use crate::http::state::{AppState, Settings};

/// `GET /api/org`: any key of the organisation may ask.
pub(in crate::http) async fn own(
    State(app): State<AppState>,
    tenant: Tenant,
    _: NoQuery,
) -> Result<Json<OwnOrgView>, ApiError> {
    let (subsystems, principal) = (app.subsystems(), &tenant.principal);
    let org = orgs::one(subsystems, tenant.org_id).await?;
    let key = keys::one(subsystems, principal.key_id).await?;
    let limits = limits(&app, &org);
    let quotas = orgs::quotas(subsystems, &org, principal.usage.events()).await?;
    Ok(Json(OwnOrgView {
        id: org.id,
        name: org.name,
        created_at: org.created_at,
        key: OwnKeyView {
            id: key.id,
            name: key.name,
            scopes: key.scopes,
            expires_at: key.expires_at,
        },
        limits,
        quotas,
    }))
}

fn limits(app: &AppState, org: &Org) -> OwnLimits {
    let left = app.limiter.state(org.id, rate_limit::rate(&org.limits));
    let bytes_per_minute = org.limits.get(OrgLimit::BytesPerMinute);
    let bytes_left = |limit| app.limiter.bytes_state(org.id, limit).remaining;
    OwnLimits {
        events_per_minute: left.limit,
        burst: left.burst,
        events_left_now: left.remaining,
        bytes_per_minute,
        bytes_left_now: bytes_per_minute.map(bytes_left),
        event_bytes_max: app.settings().new_event_limits(&org.limits).payload_bytes_max,
        batch_events_max: Settings::BATCH_EVENTS_MAX,
        batch_body_bytes_max: Settings::BATCH_BODY_BYTES_MAX,
    }
}
