//! Bulk replays and discards of dead letters: starting, watching and cancelling one. The work is done in the background.

use axum::extract::State;

use crate::api::replays;
use crate::domain::{
    Cursor, DeadLetterFilter, DeadReason, EndpointId, ErrorClass, EventId, EventTypeFilter, Replay,
    ReplayId, Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::request::{
    Body, EmptyBody, List, ListPage, NoQuery, OptionalBody, Positioned, Whole, json_fields,
};
use crate::http::respond::{Accepted, Json};
use crate::http::state::AppState;

json_fields! {
    /// Which dead letters are meant; all of them if nothing is named.
    pub(in crate::http) struct DeadLetterSelection {
        /// Of deliveries to this endpoint.
        optional endpoint_id: EndpointId,
        /// Of this event.
        optional event_id: EventId,
        /// With this reason.
        optional reason: DeadReason,
        /// Of events of this type: `user.login`, or a prefix such as `user.*`, `user:*` or `user/*`.
        optional r#type: EventTypeFilter,
        /// Given up at this time or later.
        optional since: Timestamp,
        /// Given up before this time.
        optional until: Timestamp,
        /// Replayed, or not replayed yet. A replay leaves out what was replayed, so it takes `false` alone.
        optional replayed: bool,
        /// Whose last attempt failed with this class of error.
        optional error_class: ErrorClass,
        /// Whose last attempt was answered with this status, which is none of 2xx.
        optional status_code: Whole<300, 999>,
    }
}

json_fields! {
    /// Which dead letters of an endpoint are replayed.
    pub(in crate::http) struct EndpointReplay {
        /// Given up at this time or later.
        required since: Timestamp,
        /// Given up before this time.
        optional until: Timestamp,
    }
}

/// `POST /api/dead-letters/replay`: 202 with the replay.
pub(in crate::http) async fn of_dead_letters(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    OptionalBody(selection): OptionalBody<DeadLetterSelection>,
) -> Result<Accepted<Replay>, ApiError> {
    let (org, by) = (tenant.org_id, tenant.actor());
    Ok(Accepted(replays::start(app.subsystems(), org, &selection.into(), &by).await?))
}

/// `POST /api/dead-letters/discard`: 202 with the job. The body is not optional, so that nobody discards all by
/// leaving it out.
pub(in crate::http) async fn discard(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Body(selection): Body<DeadLetterSelection>,
) -> Result<Accepted<Replay>, ApiError> {
    let (org, by) = (tenant.org_id, tenant.actor());
    Ok(Accepted(replays::start_discard(app.subsystems(), org, &selection.into(), &by).await?))
}

/// `POST /api/endpoints/{id}/replay`: 202 with the replay.
pub(in crate::http) async fn of_endpoint(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<EndpointId>,
    Body(EndpointReplay { since, until }): Body<EndpointReplay>,
) -> Result<Accepted<Replay>, ApiError> {
    let (org, by) = (tenant.org_id, tenant.actor());
    let started = replays::start_of_endpoint(app.subsystems(), org, id, since, until, &by);
    Ok(Accepted(started.await?))
}

/// `GET /api/replays`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    List { page, listing, filter: () }: List,
) -> Result<Json<ListPage<Replay>>, ApiError> {
    Ok(Json(listing.page(replays::list(app.reads(), tenant.org_id, page).await?)))
}

/// `GET /api/replays/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<ReplayId>,
    _: NoQuery,
) -> Result<Json<Replay>, ApiError> {
    Ok(Json(replays::one(app.reads(), tenant.org_id, id).await?))
}

/// `POST /api/replays/{id}/cancel`: deliveries that it has created already stay.
pub(in crate::http) async fn cancel(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<ReplayId>,
    _: EmptyBody,
) -> Result<Json<Replay>, ApiError> {
    let by = tenant.actor();
    Ok(Json(replays::cancel(app.subsystems(), tenant.org_id, id, &by).await?))
}

impl Positioned for Replay {
    fn position(&self) -> Cursor {
        Cursor { at: self.created_at, id: self.id.uuid() }
    }
}

impl From<DeadLetterSelection> for DeadLetterFilter {
    fn from(selection: DeadLetterSelection) -> Self {
        let DeadLetterSelection {
            endpoint_id,
            event_id,
            reason,
            r#type,
            since,
            until,
            replayed,
            error_class,
            status_code,
        } = selection;
        Self {
            endpoint_id,
            event_id,
            reason,
            event_type: r#type,
            since,
            until,
            replayed,
            error_class,
            status_code: status_code.and_then(|code| u16::try_from(code.0).ok()),
        }
    }
}
