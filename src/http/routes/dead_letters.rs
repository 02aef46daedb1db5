//! Dead letters: lists, and replaying or removing one.

use axum::extract::State;

use crate::api::views::{DeadLetterReplay, StoredEvent};
use crate::domain::{
    DeadLetter, DeadLetterFilter, DeadLetterId, DeadReason, EndpointId, EventTypeFilter, Page,
    Timestamp,
};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::request::{EmptyBody, Flag, List, NoQuery, query_fields};
use crate::http::respond::{Accepted, Json, NoContent};
use crate::http::state::AppState;
use crate::ingest::{Requeued, requeue};
use crate::store::DeadLetterDeletion;

query_fields! {
    /// Which dead letters are listed.
    pub(in crate::http) struct DeadLetterQuery {
        /// Of deliveries to this endpoint.
        endpoint_id: EndpointId,
        /// With this reason.
        reason: DeadReason,
        /// Of events of this type: `user.login`, or a prefix such as `user.*`.
        r#type: EventTypeFilter,
        /// Given up at this time or later.
        since: Timestamp,
        /// Given up before this time.
        until: Timestamp,
        /// Replayed, or not replayed yet.
        replayed: Flag,
    }
}

/// `GET /api/dead-letters`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    List { page, filter }: List<DeadLetterQuery>,
) -> Result<Json<Page<DeadLetter>>, ApiError> {
    Ok(Json(app.store.dead_letters(tenant.org_id, &filter.into(), page).await?))
}

/// `GET /api/dead-letters/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<DeadLetterId>,
    _: NoQuery,
) -> Result<Json<DeadLetter>, ApiError> {
    app.store.dead_letter(tenant.org_id, id).await?.map(Json).ok_or(ApiError::NotFound)
}

/// `DELETE /api/dead-letters/{id}`: its delivery stays dead.
pub(in crate::http) async fn remove(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeadLetterId>,
    _: NoQuery,
) -> Result<NoContent, ApiError> {
    let (why, by, now) = (DeadLetterDeletion::Discarded, tenant.actor(), app.clock.now());
    let deleted = app.store.delete_dead_letter(tenant.org_id, id, why, &by, now).await?;
    if deleted { Ok(NoContent) } else { Err(ApiError::NotFound) }
}

/// `POST /api/dead-letters/{id}/replay`: 202 with the new delivery, or with the quarantined event that
/// could be stored this time.
pub(in crate::http) async fn replay(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeadLetterId>,
    _: EmptyBody,
) -> Result<Accepted<DeadLetterReplay>, ApiError> {
    let (org, by) = (tenant.org_id, tenant.actor());
    let letter = app.store.dead_letter(org, id).await?.ok_or(ApiError::NotFound)?;
    if let Some(delivery) = letter.delivery_id {
        let replayed = app.store.replay_delivery(org, delivery, &by, app.clock.now()).await?;
        let delivery = replayed.map_err(ApiError::Delivery)?;
        app.wake.wake();
        return Ok(Accepted(DeadLetterReplay::Delivery(delivery.into())));
    }
    let record = app.store.quarantined_record(org, id).await?.ok_or(ApiError::NotFound)?;
    match requeue(&app.store, record, app.clock.now()).await? {
        Requeued::Stored => {
            let (why, now) = (DeadLetterDeletion::Stored, app.clock.now());
            app.store.delete_dead_letter(org, id, why, &by, now).await?;
            app.wake.wake();
            let stored = StoredEvent { event_id: letter.event_id, status: "stored" };
            Ok(Accepted(DeadLetterReplay::Stored(stored)))
        }
        Requeued::Refused(why) => Err(ApiError::StillRefused(why)),
    }
}

impl From<DeadLetterQuery> for DeadLetterFilter {
    fn from(query: DeadLetterQuery) -> Self {
        let DeadLetterQuery { endpoint_id, reason, r#type, since, until, replayed } = query;
        let replayed = replayed.map(|replayed| replayed.0);
        Self { endpoint_id, reason, event_type: r#type, since, until, replayed }
    }
}
