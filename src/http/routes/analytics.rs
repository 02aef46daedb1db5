//! Event metrics, of an organisation or of all, and usage.

use axum::extract::State;

use crate::api::analytics::{self, MetricsRequest};
use crate::api::views::{EndpointStats, EventMetrics, UsageView};
use crate::domain::{
    EndpointId, EventType, LabelCursor, ListCursor, MetricsGroup, Month, OrgId, Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{EventsRead, Id, OperatorRead, Scoped};
use crate::http::request::{ForwardPage, Label, LabelList, NoQuery, Number, query_fields};
use crate::http::respond::Json;
use crate::http::state::AppState;

type UsageLimit = Number<1, 100>;
type ListedMetrics = EventMetrics<ListCursor<LabelCursor>>;

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
    }
}

/// `GET /api/analytics/events`.
pub(in crate::http) async fn events(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    list: LabelList<MetricsQuery>,
) -> Result<Json<ListedMetrics>, ApiError> {
    let limit = list.page_limit();
    let LabelList { listing, filter, .. } = list;
    let MetricsQuery { group_by, from, to, r#type, account_id } = filter;
    let request = MetricsRequest {
        group_by: group_by.unwrap_or(MetricsGroup::Hour),
        from,
        to,
        event_type: r#type,
        account_id: account_id.map(|label| label.0),
        after: listing.after().cloned(),
        limit,
    };
    let found = analytics::events(app.replica_reads(), tenant.org_id, request).await?;
    Ok(Json(found.with_cursor(|cursor| listing.cursor(cursor, false))))
}

/// `GET /api/admin/analytics/events`: of one organisation, or of all together.
pub(in crate::http) async fn events_of_all(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    list: LabelList<AllMetricsQuery>,
) -> Result<Json<ListedMetrics>, ApiError> {
    let limit = list.page_limit();
    let LabelList { listing, filter, .. } = list;
    let AllMetricsQuery { org_id, group_by, from, to, r#type } = filter;
    let request = MetricsRequest {
        group_by: group_by.unwrap_or(MetricsGroup::Hour),
        from,
        to,
        event_type: r#type,
        account_id: None,
        after: listing.after().cloned(),
        limit,
    };
    let found = analytics::events_for_operator(app.replica_reads(), org_id, request).await?;
    Ok(Json(found.with_cursor(|cursor| listing.cursor(cursor, false))))
}

/// `GET /api/admin/usage`: the organisations with the most events in a month.
pub(in crate::http) async fn usage(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    LabelList { limit, listing, filter }: LabelList<UsageQuery, UsageLimit>,
) -> Result<Json<ForwardPage<UsageView>>, ApiError> {
    let UsageQuery { month, org_id } = filter;
    let month = month.unwrap_or_else(|| Month::of(app.subsystems().clock.now()));
    let limit = limit.map_or(USAGE_DEFAULT, |limit| limit.0);
    let page = analytics::usage(app.replica_reads(), month, org_id, listing.after(), limit).await?;
    Ok(Json(listing.forward_page(page)))
}

/// `GET /api/endpoints/{id}/stats`.
pub(in crate::http) async fn endpoint_stats(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<EndpointId>,
    _: NoQuery,
) -> Result<Json<EndpointStats>, ApiError> {
    let org = tenant.org_id;
    let look = |subsystems| async move { analytics::endpoint_stats(&subsystems, org, id).await };
    Ok(Json(app.look_up(look).await?))
}
