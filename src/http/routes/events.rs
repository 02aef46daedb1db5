//! Events: reading and replaying them. `post_events` accepts them.
//!
//! An event can be read once it is stored, usually milliseconds after its `202`.

use axum::extract::State;

use crate::api::events;
use crate::api::views::{EventDetail, EventView, ReplayedEvent};
use crate::domain::{EndpointId, EventFilter, EventId, EventTypeFilter, Page, Timestamp};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::request::{Label, List, NoQuery, OptionalBody, json_fields, query_fields};
use crate::http::respond::{Accepted, Json};
use crate::http::state::AppState;

pub(in crate::http) use super::post_events::{post_batch, post_one, post_raw};

query_fields! {
    /// Which events are listed.
    pub(in crate::http) struct EventQuery {
        /// Of this type: `user.login`, or a prefix such as `user.*`.
        r#type: EventTypeFilter,
        /// Of this account.
        account_id: Label,
        /// Of this user.
        user_id: Label,
        /// Accepted at this time or later.
        since: Timestamp,
        /// Accepted before this time.
        until: Timestamp,
    }
}

json_fields! {
    /// Where an event is sent again.
    pub(in crate::http) struct EventReplay {
        /// To this endpoint; if left out, to every endpoint that received it.
        optional endpoint_id: EndpointId,
    }
}

/// `GET /api/events`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    List { page, filter }: List<EventQuery>,
) -> Result<Json<Page<EventView>>, ApiError> {
    let (org, filter) = (tenant.org_id, filter.into());
    let events = events::list(app.subsystems(), org, &filter, page).await?;
    Ok(Json(events.map(EventView)))
}

/// `GET /api/events/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<EventId>,
    _: NoQuery,
) -> Result<Json<EventDetail>, ApiError> {
    Ok(Json(events::one(app.subsystems(), tenant.org_id, id).await?))
}

/// `POST /api/events/{id}/replay`: 202 with the new deliveries.
pub(in crate::http) async fn replay(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EventId>,
    OptionalBody(EventReplay { endpoint_id }): OptionalBody<EventReplay>,
) -> Result<Accepted<ReplayedEvent>, ApiError> {
    let (org, by) = (tenant.org_id, tenant.actor());
    Ok(Accepted(events::replay(app.subsystems(), org, id, endpoint_id, &by).await?))
}

impl From<EventQuery> for EventFilter {
    fn from(query: EventQuery) -> Self {
        let EventQuery { r#type, account_id, user_id, since, until } = query;
        Self {
            event_type: r#type,
            account_id: account_id.map(|label| label.0),
            user_id: user_id.map(|label| label.0),
            since,
            until,
        }
    }
}
