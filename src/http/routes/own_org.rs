//! Who a key is: its organisation, what it may do, and what is left of that.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use crate::domain::{ApiKeyId, Month, OrgId, OrgLimit, OrgLimits, Scopes, Timestamp};
use crate::http::error::ApiError;
use crate::http::extract::Tenant;
use crate::http::query::Query;
use crate::http::rate_limit;
use crate::http::respond;
use crate::http::state::{AppState, Settings};

/// An organisation as its own keys see it.
#[derive(Serialize)]
struct OwnOrgView {
    id: OrgId,
    name: String,
    created_at: Timestamp,
    key: OwnKeyView,
    limits: Limits,
    quotas: Quotas,
}

/// The key that asks.
#[derive(Serialize)]
struct OwnKeyView {
    id: ApiKeyId,
    name: String,
    scopes: Scopes,
    expires_at: Option<Timestamp>,
}

/// What may be sent.
#[derive(Serialize)]
struct Limits {
    /// Events a minute, its own limit or the default.
    events_per_minute: u32,
    /// Events at once.
    burst: u32,
    /// Events that may be sent now, as far as this server knows.
    events_left_now: u32,
    /// Bytes of bodies a minute; `null` for no limit.
    bytes_per_minute: Option<u32>,
    /// Bytes that may be sent now, as far as this server knows; `null` for no limit.
    bytes_left_now: Option<u32>,
    /// Bytes in a payload.
    event_bytes_max: usize,
    /// Events in a batch.
    batch_events_max: usize,
    /// Bytes in the body of a batch.
    batch_body_bytes_max: usize,
}

/// What may be had.
#[derive(Serialize)]
struct Quotas {
    events_this_month: Quota,
    /// When the month ends.
    month_ends_at: Timestamp,
    endpoints: Quota,
    keys: Quota,
}

#[derive(Serialize)]
struct Quota {
    /// `null` for no quota.
    limit: Option<u32>,
    used: u64,
    /// `null` for no quota.
    left: Option<u64>,
}

/// `GET /api/org`: any key of the organisation may ask.
pub(in crate::http) async fn own(
    State(app): State<AppState>,
    tenant: Tenant,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let now = app.clock.now();
    let principal = &tenant.principal;
    let org = app.store.org(tenant.org_id).await?.ok_or(ApiError::NotFound)?;
    let key = app.store.system().key(principal.key_id).await?.ok_or(ApiError::NotFound)?;
    let holdings = app.store.holdings(tenant.org_id, now).await?;
    let (rate, new_event) =
        (rate_limit::rate(&org.limits), app.settings().draft_limits(&org.limits));
    let left = app.limiter.state(tenant.org_id, rate);
    let bytes_per_minute = org.limits.get(OrgLimit::BytesPerMinute);
    let bytes_left = |limit| app.limiter.bytes_state(tenant.org_id, limit).remaining;
    let bytes_left_now = bytes_per_minute.map(bytes_left);
    respond::ok(&OwnOrgView {
        id: org.id,
        name: org.name,
        created_at: org.created_at,
        key: OwnKeyView {
            id: key.id,
            name: key.name,
            scopes: key.scopes,
            expires_at: key.expires_at,
        },
        limits: Limits {
            events_per_minute: left.limit,
            burst: left.burst,
            events_left_now: left.remaining,
            bytes_per_minute,
            bytes_left_now,
            event_bytes_max: new_event.payload_bytes_max,
            batch_events_max: Settings::BATCH_EVENTS_MAX,
            batch_body_bytes_max: Settings::BATCH_BODY_BYTES_MAX,
        },
        quotas: Quotas {
            events_this_month: Quota::of(
                &org.limits,
                OrgLimit::EventsPerMonth,
                principal.usage.events(),
            ),
            month_ends_at: Month::end(now),
            endpoints: Quota::of(&org.limits, OrgLimit::Endpoints, holdings.endpoints),
            keys: Quota::of(&org.limits, OrgLimit::Keys, holdings.keys),
        },
    })
}

impl Quota {
    fn of(limits: &OrgLimits, limit: OrgLimit, used: u64) -> Self {
        let limit = limits.get(limit);
        Self { limit, used, left: limit.map(|limit| u64::from(limit).saturating_sub(used)) }
    }
}
