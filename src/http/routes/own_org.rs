//! The caller's own organisation: its key, its limits, and what is left of them.

use axum::extract::State;

use crate::api::views::{OwnKeyView, OwnLimits, OwnOrgView};
use crate::api::{keys, orgs};
use crate::domain::Org;
use crate::http::error::ApiError;
use crate::http::extract::Tenant;
use crate::http::read_limit::ReadPermit;
use crate::http::request::NoQuery;
use crate::http::respond::Json;
use crate::http::state::{AppState, Settings};

/// `GET /api/org`: any key of the organisation may ask.
pub(in crate::http) async fn own(
    State(app): State<AppState>,
    tenant: Tenant,
    _: ReadPermit,
    _: NoQuery,
) -> Result<Json<OwnOrgView>, ApiError> {
    let (subsystems, principal) = (app.reads(), &tenant.principal);
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
            rate_limit_per_minute: key.rate_limit_per_minute,
            expires_at: key.expires_at,
        },
        limits,
        quotas,
    }))
}

fn limits(app: &AppState, org: &Org) -> OwnLimits {
    let limiter = &app.limiter;
    let left = limiter.state(&limiter.events(org.id, &org.limits));
    let bytes = limiter.bytes(org.id, &org.limits).map(|limit| limiter.state(&limit));
    let deliveries = limiter.state(&limiter.deliveries(org.id, &org.limits));
    let writes = limiter.state(&limiter.writes(org.id));
    OwnLimits {
        events_per_minute: left.limit,
        burst: left.burst,
        events_left_now: left.remaining,
        bytes_per_minute: bytes.map(|bytes| bytes.limit),
        bytes_left_now: bytes.map(|bytes| bytes.remaining),
        deliveries_per_minute: deliveries.limit,
        deliveries_left_now: deliveries.remaining,
        event_type_rates: org.event_type_rates.clone(),
        changes_per_minute: writes.limit,
        changes_left_now: writes.remaining,
        event_bytes_max: app.settings().new_event_limits(&org.limits).payload_bytes_max,
        batch_events_max: Settings::BATCH_EVENTS_MAX,
        batch_body_bytes_max: app.settings().batch_bytes_max,
    }
}
