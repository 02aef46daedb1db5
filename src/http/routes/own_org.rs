//! The caller's own organisation: its key, its limits, and what is left of them.

use axum::extract::State;

use crate::api::views::{OwnKeyView, OwnLimits, OwnOrgView, OwnQuotas, QuotaView};
use crate::domain::{Month, Org, OrgLimit};
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
    let now = app.clock.now();
    let principal = &tenant.principal;
    let org = app.store.org(tenant.org_id).await?.ok_or(ApiError::NotFound)?;
    let key = app.store.system().key(principal.key_id).await?.ok_or(ApiError::NotFound)?;
    let holdings = app.store.holdings(tenant.org_id, now).await?;
    let quota = |limit, used| QuotaView::new(&org.limits, limit, used);
    Ok(Json(OwnOrgView {
        id: org.id,
        name: org.name.clone(),
        created_at: org.created_at,
        key: OwnKeyView {
            id: key.id,
            name: key.name,
            scopes: key.scopes,
            expires_at: key.expires_at,
        },
        limits: limits(&app, &org),
        quotas: OwnQuotas {
            events_this_month: quota(OrgLimit::EventsPerMonth, principal.usage.events()),
            month_ends_at: Month::end(now),
            endpoints: quota(OrgLimit::Endpoints, holdings.endpoints),
            keys: quota(OrgLimit::Keys, holdings.keys),
        },
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
