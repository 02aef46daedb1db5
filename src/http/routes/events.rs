//! Events: reading and replaying them. `post_events` accepts them.
//!
//! An event can be read once it is stored, usually milliseconds after its `202`.

use axum::extract::State;

use crate::api::views::{DeliveryView, EventDetail, EventView, ReplayedEvent};
use crate::domain::{
    DeliveryFilter, EndpointId, EventFilter, EventId, EventTypeFilter, Page, PageRequest, Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::request::{Label, List, NoQuery, OptionalBody, json_fields, query_fields};
use crate::http::respond::{Accepted, Json};
use crate::http::state::AppState;

pub(in crate::http) use super::post_events::{post_batch, post_one, post_raw};

/// Deliveries shown with an event at most; `/api/deliveries?event_id=` lists all of them.
const DELIVERIES_SHOWN_MAX: u32 = 100;

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
    let events = app.store.events(tenant.org_id, &filter.into(), page).await?;
    Ok(Json(events.map(EventView)))
}

/// `GET /api/events/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<EventId>,
    _: NoQuery,
) -> Result<Json<EventDetail>, ApiError> {
    let event = app.store.event(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?;
    let of_event = DeliveryFilter { event_id: Some(id), ..DeliveryFilter::default() };
    let newest = PageRequest { limit: DELIVERIES_SHOWN_MAX, after: None };
    let deliveries = app.store.deliveries(tenant.org_id, &of_event, newest).await?;
    let deliveries = deliveries.data.into_iter().map(DeliveryView::from).collect();
    Ok(Json(EventDetail { event: EventView(event), deliveries }))
}

/// `POST /api/events/{id}/replay`: 202 with the new deliveries.
pub(in crate::http) async fn replay(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EventId>,
    OptionalBody(EventReplay { endpoint_id }): OptionalBody<EventReplay>,
) -> Result<Accepted<ReplayedEvent>, ApiError> {
    let (by, now) = (tenant.actor(), app.clock.now());
    let replayed = app.store.replay_event(tenant.org_id, id, endpoint_id, &by, now).await?;
    let replayed = replayed.map_err(ApiError::Delivery)?;
    app.wake.wake();
    let data = replayed.deliveries.into_iter().map(DeliveryView::from).collect();
    Ok(Accepted(ReplayedEvent { data, skipped: replayed.skipped }))
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
