//! Event metrics, of an organisation or of all, and usage.

use axum::extract::State;

use crate::api::analytics::{self, MetricsRequest};
use crate::api::views::{EndpointStats, EventMetrics, UsageView};
use crate::domain::{
    EndpointId, EventType, LabelCursor, LabelPage, MetricsGroup, Month, OrgId, Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{EventsRead, Id, OperatorRead, Scoped};
use crate::http::request::{Label, LabelList, NoQuery, Number, Parameters, query_fields};
use crate::http::respond::Json;
use crate::http::state::AppState;

type UsageLimit = Number<1, 100>;

/// Organisations on a page of usage by default.
const USAGE_DEFAULT: u32 = 10;

query_fields! {
    /// Which events are counted.
    pub(in crate::http) struct MetricsQuery {
        /// By what they are grouped.
        group_by: MetricsGroup,
        /// Events from this time on, to the minute; by default 24 hours before `to`.
        from: Timestamp,
        /// Events before this time; by default until now.
        to: Timestamp,
        /// Only of this type.
        r#type: EventType,
        /// Only of this account.
        account_id: Label,
    }
}

query_fields! {
    /// Which events of all organisations are counted.
    pub(in crate::http) struct AllMetricsQuery {
        /// Only of this organisation.
        org_id: OrgId,
        /// By what they are grouped.
        group_by: MetricsGroup,
        /// Events from this time on, to the minute; by default 24 hours before `to`.
        from: Timestamp,
        /// Events before this time; by default until now.
        to: Timestamp,
        /// Only of this type, with `org_id`.
        r#type: EventType,
    }
}

query_fields! {
    /// Whose usage is listed.
    pub(in crate::http) struct UsageQuery {
        /// The month in UTC; by default the current one.
        month: Month,
        /// Only of this organisation.
        org_id: OrgId,
        /// Organisations per page at most.
        limit: UsageLimit,
        /// `next_cursor` of the previous page.
        cursor: LabelCursor,
    }
}

/// `GET /api/analytics/events`.
pub(in crate::http) async fn events(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    LabelList { limit, after, filter }: LabelList<MetricsQuery>,
) -> Result<Json<EventMetrics>, ApiError> {
    let MetricsQuery { group_by, from, to, r#type, account_id } = filter;
    let request = MetricsRequest {
        group_by: group_by.unwrap_or(MetricsGroup::Hour),
        from,
        to,
        event_type: r#type,
        account_id: account_id.map(|label| label.0),
        after,
        limit,
    };
    Ok(Json(analytics::events(app.replica_reads(), tenant.org_id, request).await?))
}

/// `GET /api/admin/analytics/events`: of one organisation, or of all together.
pub(in crate::http) async fn events_of_all(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    LabelList { limit, after, filter }: LabelList<AllMetricsQuery>,
) -> Result<Json<EventMetrics>, ApiError> {
    let AllMetricsQuery { org_id, group_by, from, to, r#type } = filter;
    let request = MetricsRequest {
        group_by: group_by.unwrap_or(MetricsGroup::Hour),
        from,
        to,
        event_type: r#type,
        account_id: None,
        after,
        limit,
    };
    Ok(Json(analytics::events_for_operator(app.replica_reads(), org_id, request).await?))
}

/// `GET /api/admin/usage`: the organisations with the most events in a month.
pub(in crate::http) async fn usage(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Parameters(query): Parameters<UsageQuery>,
) -> Result<Json<LabelPage<UsageView>>, ApiError> {
    let UsageQuery { month, org_id, limit, cursor } = query;
    let month = month.unwrap_or_else(|| Month::of(app.subsystems().clock.now()));
    let limit = limit.map_or(USAGE_DEFAULT, |limit| limit.0);
    Ok(Json(analytics::usage(app.replica_reads(), month, org_id, cursor.as_ref(), limit).await?))
}

/// `GET /api/endpoints/{id}/stats`.
pub(in crate::http) async fn endpoint_stats(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<EndpointId>,
    _: NoQuery,
) -> Result<Json<EndpointStats>, ApiError> {
    Ok(Json(analytics::endpoint_stats(app.replica_reads(), tenant.org_id, id).await?))
}
