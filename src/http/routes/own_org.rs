//! The caller's own organisation: its key, its limits, and what is left of them. It may lower the rates of its event
//! types; no other limit is its own to set.

use axum::extract::State;

use crate::api::views::{OwnKeyView, OwnLimits, OwnOrgView};
use crate::api::{keys, orgs};
use crate::domain::{EventTypeRates, Org, OrgChange, OrgLimit};
use crate::http::entity_tag::{EntityTag, IfMatch};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, KeysManage, Scoped, Tenant};
use crate::http::read_limit::ReadPermit;
use crate::http::request::{MergePatch, NoQuery, json_fields};
use crate::http::respond::Json;
use crate::http::state::{AppState, Settings};

json_fields! {
    /// A change of the caller's organisation.
    pub(in crate::http) struct OwnOrgPatch {
        /// Events per minute by event type; they replace all earlier ones that the organisation has set. A rate
        /// above that of an operator, or of the organisation, changes nothing.
        patch own_event_type_rates: EventTypeRates,
    }
}

/// `GET /api/org`: any key of the organisation may ask.
pub(in crate::http) async fn own(
    State(app): State<AppState>,
    tenant: Tenant,
    _: ReadPermit,
    _: NoQuery,
) -> Result<(EntityTag, Json<OwnOrgView>), ApiError> {
    let org = orgs::one(app.reads(), tenant.org_id).await?;
    tagged(&app, &tenant, org).await
}

/// `PATCH /api/org`: changes what the organisation itself sets.
pub(in crate::http) async fn change(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    if_match: IfMatch,
    patch: MergePatch<OwnOrgPatch>,
) -> Result<(EntityTag, Json<OwnOrgView>), ApiError> {
    let org = orgs::existing(app.subsystems(), tenant.org_id).await?;
    let revision = org.revision();
    let subsystems = if_match.allow(app.subsystems(), &revision)?;
    let current = view(&app, &tenant, org).await?;
    let patch = patch.without(&OwnOrgView::MEASURED);
    let Some(OwnOrgPatch { own_event_type_rates }) = patch.against(&current)? else {
        return Ok((EntityTag(revision), Json(current)));
    };
    let own_event_type_rates = own_event_type_rates.or(EventTypeRates::default());
    let change = OrgChange { own_event_type_rates, ..OrgChange::default() };
    let changed = orgs::change(&subsystems, tenant.org_id, &change, &tenant.actor()).await?;
    tagged(&app, &tenant, changed).await
}

/// An organisation with its tag, in which neither its key nor what is left of its limits counts.
async fn tagged(
    app: &AppState,
    tenant: &Tenant,
    org: Org,
) -> Result<(EntityTag, Json<OwnOrgView>), ApiError> {
    let tag = EntityTag(org.revision());
    Ok((tag, Json(view(app, tenant, org).await?)))
}

async fn view(app: &AppState, tenant: &Tenant, org: Org) -> Result<OwnOrgView, ApiError> {
    let (subsystems, principal) = (app.reads(), &tenant.principal);
    let key = keys::one(subsystems, principal.key_id).await?;
    let limits = limits(app, &org);
    let quotas = orgs::quotas(subsystems, &org, principal.usage.events()).await?;
    Ok(OwnOrgView {
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
        own_event_type_rates: org.own_event_type_rates,
        quotas,
    })
}

fn limits(app: &AppState, org: &Org) -> OwnLimits {
    let limiter = &app.limiter;
    let left = limiter.state(&limiter.events(org.id, &org.limits));
    let bytes = limiter.bytes(org.id, &org.limits).map(|limit| limiter.state(&limit));
    let deliveries = limiter.state(&limiter.deliveries(org.id, &org.limits));
    let writes = limiter.state(&limiter.writes(org.id));
    let kept = app.subsystems().store.effective_limits(org);
    OwnLimits {
        events_per_minute: left.limit,
        burst: left.burst,
        events_left_now: left.remaining,
        bytes_per_minute: bytes.map(|bytes| bytes.limit),
        bytes_left_now: bytes.map(|bytes| bytes.remaining),
        deliveries_per_minute: deliveries.limit,
        deliveries_left_now: deliveries.remaining,
        event_type_rates: org.effective_event_type_rates(),
        retention_days: kept.get(OrgLimit::RetentionDays),
        payload_retention_days: kept.get(OrgLimit::PayloadRetentionDays),
        changes_per_minute: writes.limit,
        changes_left_now: writes.remaining,
        event_bytes_max: app.settings().new_event_limits(&org.limits).payload_bytes_max,
        batch_events_max: Settings::BATCH_EVENTS_MAX,
        batch_body_bytes_max: app.settings().batch_bytes_max,
    }
}
