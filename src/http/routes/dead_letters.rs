//! Dead letters: lists, and replaying or removing one.

use axum::extract::State;

use crate::api::dead_letters;
use crate::api::views::DeadLetterReplay;
use crate::domain::{
    Cursor, DeadLetter, DeadLetterFilter, DeadLetterId, DeadReason, EndpointId, ErrorClass,
    EventId, EventTypeFilter, Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::request::{
    EmptyBody, FailedStatus, Flag, List, ListPage, NoQuery, Positioned, query_fields,
};
use crate::http::respond::{Accepted, Json, NoContent};
use crate::http::state::AppState;

query_fields! {
    /// Which dead letters are listed.
    pub(in crate::http) struct DeadLetterQuery {
        /// Of deliveries to this endpoint.
        endpoint_id: EndpointId,
        /// Of this event.
        event_id: EventId,
        /// With this reason.
        reason: DeadReason,
        /// Of events of this type: `user.login`, or a prefix such as `user.*`, `user:*` or `user/*`.
        r#type: EventTypeFilter,
        /// Given up at this time or later.
        since: Timestamp,
        /// Given up before this time.
        until: Timestamp,
        /// Replayed, or not replayed yet.
        replayed: Flag,
        /// Whose last attempt failed with this class of error.
        error_class: ErrorClass,
        /// Whose last attempt was answered with this status, which is none of 2xx.
        status_code: FailedStatus,
    }
}

/// `GET /api/dead-letters`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    List { page, listing, filter }: List<DeadLetterQuery>,
) -> Result<Json<ListPage<DeadLetter>>, ApiError> {
    let (org, filter) = (tenant.org_id, filter.filter());
    Ok(Json(listing.page(dead_letters::list(app.replica_reads(), org, &filter, page).await?)))
}

/// `GET /api/dead-letters/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<DeadLetterId>,
    _: NoQuery,
) -> Result<Json<DeadLetter>, ApiError> {
    let org = tenant.org_id;
    let look = |subsystems| async move { dead_letters::one(&subsystems, org, id).await };
    Ok(Json(app.look_up(look).await?))
}

/// `DELETE /api/dead-letters/{id}`: its delivery stays dead.
pub(in crate::http) async fn remove(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeadLetterId>,
    _: NoQuery,
) -> Result<NoContent, ApiError> {
    dead_letters::delete(app.subsystems(), tenant.org_id, id, &tenant.actor()).await?;
    Ok(NoContent)
}

/// `POST /api/dead-letters/{id}/replay`: 202 with the new delivery, or with the quarantined event that
/// could be stored this time.
pub(in crate::http) async fn replay(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeadLetterId>,
    _: EmptyBody,
) -> Result<Accepted<DeadLetterReplay>, ApiError> {
    let by = tenant.actor();
    Ok(Accepted(dead_letters::replay(app.subsystems(), tenant.org_id, id, &by).await?))
}

impl Positioned for DeadLetter {
    fn position(&self) -> Cursor {
        Cursor { at: self.created_at, id: self.id.uuid() }
    }
}

impl DeadLetterQuery {
    /// The dead letters that are asked for.
    pub(in crate::http) fn filter(self) -> DeadLetterFilter {
        let Self {
            endpoint_id,
            event_id,
            reason,
            r#type: event_type,
            since,
            until,
            replayed,
            error_class,
            status_code,
        } = self;
        let replayed = replayed.map(|replayed| replayed.0);
        let status_code = status_code.map(|code| code.0);
        DeadLetterFilter {
            endpoint_id,
            event_id,
            reason,
            event_type,
            since,
            until,
            replayed,
            error_class,
            status_code,
        }
    }
}
