//! Organisations, for operators; `own_org` has the tenants' route.

use axum::extract::State;

use crate::api::orgs;
use crate::domain::{Cursor, EventTypeRates, Org, OrgChange, OrgId, OrgLimit};
use crate::http::entity_tag::{EntityTag, IfMatch};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, Id, OperatorRead, OperatorWrite, Scoped};
use crate::http::request::{
    Body, EmptyBody, LimitValue, List, ListPage, MergePatch, Name, NoQuery, Patch, Positioned,
    json_fields,
};
use crate::http::respond::{Accepted, Created, Json};
use crate::http::state::AppState;

json_fields! {
    /// A new organisation.
    pub(in crate::http) struct NewOrg {
        /// Its name; not unique.
        required name: Name,
        /// Its limits.
        group limits: LimitFields,
        /// Events per minute by event type.
        nullable event_type_rates: EventTypeRates,
    }
}

json_fields! {
    /// A change of an organisation.
    pub(in crate::http) struct OrgPatch {
        /// Its name; not unique.
        optional name: Name,
        /// Its limits.
        group limits: LimitFields,
        /// Events per minute by event type; they replace all earlier ones.
        patch event_type_rates: EventTypeRates,
    }
}

json_fields! {
    /// Limits of an organisation; `null` follows the server's setting, or means no limit.
    pub(in crate::http) struct LimitFields {
        /// Events per minute.
        patch rate_limit_per_minute: LimitValue<{ OrgLimit::RatePerMinute as usize }>,
        /// Events at once.
        patch burst: LimitValue<{ OrgLimit::Burst as usize }>,
        /// Bytes of request bodies per minute.
        patch bytes_per_minute: LimitValue<{ OrgLimit::BytesPerMinute as usize }>,
        /// Events per calendar month, UTC.
        patch events_per_month: LimitValue<{ OrgLimit::EventsPerMonth as usize }>,
        /// Endpoints.
        patch endpoints_max: LimitValue<{ OrgLimit::Endpoints as usize }>,
        /// Active keys.
        patch keys_max: LimitValue<{ OrgLimit::Keys as usize }>,
        /// Bytes in one event's payload.
        patch payload_bytes_max: LimitValue<{ OrgLimit::PayloadBytes as usize }>,
        /// Deliveries, per minute, that accepted events become.
        patch deliveries_per_minute: LimitValue<{ OrgLimit::DeliveriesPerMinute as usize }>,
        /// Days that events and deliveries are kept.
        patch retention_days: LimitValue<{ OrgLimit::RetentionDays as usize }>,
        /// Days that payloads and response excerpts are kept; at most as many as events.
        patch payload_retention_days: LimitValue<{ OrgLimit::PayloadRetentionDays as usize }>,
    }
}

/// `POST /api/admin/orgs`.
pub(in crate::http) async fn create(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Body(NewOrg { name, limits, event_type_rates }): Body<NewOrg>,
) -> Result<(EntityTag, Created<Org>), ApiError> {
    let settings = OrgChange {
        name: Some(name.0),
        limits: limits.changes(),
        event_type_rates,
        own_event_type_rates: None,
    };
    let org = orgs::create(app.subsystems(), &settings, &operator.actor()).await?;
    let created = Created { location: format!("/api/admin/orgs/{}", org.id), body: org.clone() };
    Ok((EntityTag(org.revision()), created))
}

/// `GET /api/admin/orgs`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    List { page, listing, filter: () }: List,
) -> Result<Json<ListPage<Org>>, ApiError> {
    Ok(Json(listing.page(orgs::list(app.reads(), page).await?)))
}

/// `GET /api/admin/orgs/{id}`: also one that is being deleted, or was, with its progress.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Id(id): Id<OrgId>,
    _: NoQuery,
) -> Result<(EntityTag, Json<Org>), ApiError> {
    let org = orgs::one(app.reads(), id).await?;
    Ok((EntityTag(org.revision()), Json(org)))
}

/// `PATCH /api/admin/orgs/{id}`: changes the fields that are sent and differ.
pub(in crate::http) async fn change(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    if_match: IfMatch,
    patch: MergePatch<OrgPatch>,
) -> Result<(EntityTag, Json<Org>), ApiError> {
    let current = orgs::existing(app.subsystems(), id).await?;
    let subsystems = if_match.allow(app.subsystems(), &current.revision())?;
    let Some(OrgPatch { name, limits, event_type_rates }) = patch.against(&current)? else {
        return Ok(tagged(current));
    };
    let change = OrgChange {
        name: name.map(|name| name.0),
        limits: limits.changes(),
        event_type_rates: event_type_rates.or(EventTypeRates::default()),
        own_event_type_rates: None,
    };
    Ok(tagged(orgs::change(&subsystems, id, &change, &operator.actor()).await?))
}

/// `POST /api/admin/orgs/{id}/suspend`.
pub(in crate::http) async fn suspend(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    _: EmptyBody,
) -> Result<(EntityTag, Json<Org>), ApiError> {
    Ok(tagged(orgs::suspend(app.subsystems(), id, &operator.actor()).await?))
}

/// `POST /api/admin/orgs/{id}/resume`.
pub(in crate::http) async fn resume(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    _: EmptyBody,
) -> Result<(EntityTag, Json<Org>), ApiError> {
    Ok(tagged(orgs::resume(app.subsystems(), id, &operator.actor()).await?))
}

/// `DELETE /api/admin/orgs/{id}`: 202; its keys are refused from now on, and its data is deleted in
/// the background.
pub(in crate::http) async fn delete(
    State(app): State<AppState>,
    operator: Scoped<OperatorWrite>,
    Id(id): Id<OrgId>,
    if_match: IfMatch,
    _: NoQuery,
) -> Result<Accepted<Org>, ApiError> {
    let subsystems = if_match.guard(app.subsystems());
    Ok(Accepted(orgs::delete(&subsystems, id, &operator.actor()).await?))
}

/// An organisation with its tag.
fn tagged(org: Org) -> (EntityTag, Json<Org>) {
    (EntityTag(org.revision()), Json(org))
}

impl Positioned for Org {
    fn position(&self) -> Cursor {
        Cursor { at: self.created_at, id: self.id.uuid() }
    }
}

impl LimitFields {
    /// The limits that are named.
    pub(in crate::http) fn changes(self) -> Vec<(OrgLimit, Option<u32>)> {
        fn change<const LIMIT: usize>(
            patch: Patch<LimitValue<LIMIT>>,
        ) -> Option<(OrgLimit, Option<u32>)> {
            let value = patch.map(|value| value.0).into_option()?;
            Some((OrgLimit::ALL[LIMIT], value))
        }
        let Self {
            rate_limit_per_minute,
            burst,
            bytes_per_minute,
            events_per_month,
            endpoints_max,
            keys_max,
            payload_bytes_max,
            deliveries_per_minute,
            retention_days,
            payload_retention_days,
        } = self;
        let all = [
            change(rate_limit_per_minute),
            change(burst),
            change(bytes_per_minute),
            change(events_per_month),
            change(endpoints_max),
            change(keys_max),
            change(payload_bytes_max),
            change(deliveries_per_minute),
            change(retention_days),
            change(payload_retention_days),
        ];
        all.into_iter().flatten().collect()
    }
}
