//! Dead letters: what was given up, and why; replaying one, and putting one aside.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::deliveries::DeliveryView;
use crate::domain::{DeadLetterFilter, DeadLetterId, EventId};
use crate::http::error::ApiError;
use crate::http::extract::{Caller, EndpointsManage, EventsRead, Id, Scoped};
use crate::http::json_object::EmptyBody;
use crate::http::query::{Query, rule};
use crate::http::respond;
use crate::http::state::AppState;
use crate::ingest::{Requeued, requeue};
use crate::store::DeadLetterDeletion;

/// An event that had been refused and is stored now.
#[derive(Serialize)]
struct Stored {
    event_id: EventId,
    status: &'static str,
}

/// `GET /api/dead-letters`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    let filter = DeadLetterFilter {
        endpoint_id: query.take("endpoint_id", rule::ENDPOINT),
        reason: query.take("reason", rule::REASON),
        event_type: query.take("type", rule::EVENT_TYPE),
        since: query.take("since", rule::MOMENT),
        until: query.take("until", rule::MOMENT),
        replayed: query.take("replayed", "must be true or false"),
    };
    query.finish()?;
    respond::ok(&app.store.dead_letters(tenant.org_id, &filter, page).await?)
}

/// `GET /api/dead-letters/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    Id(id): Id<DeadLetterId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    respond::ok(&app.store.dead_letter(tenant.org_id, id).await?.ok_or(ApiError::NotFound)?)
}

/// `DELETE /api/dead-letters/{id}`: its delivery stays dead.
pub(in crate::http) async fn remove(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeadLetterId>,
    query: Query,
) -> Result<Response, ApiError> {
    query.finish()?;
    let (why, by, now) = (DeadLetterDeletion::Discarded, tenant.actor(), app.clock.now());
    let deleted = app.store.delete_dead_letter(tenant.org_id, id, why, &by, now).await?;
    if deleted { Ok(respond::no_content()) } else { Err(ApiError::NotFound) }
}

/// `POST /api/dead-letters/{id}/replay`: 202 with the new delivery, or with the event that could be
/// stored this time.
pub(in crate::http) async fn replay(
    State(app): State<AppState>,
    tenant: Scoped<EndpointsManage>,
    Id(id): Id<DeadLetterId>,
    _: EmptyBody,
) -> Result<Response, ApiError> {
    let (org, by) = (tenant.org_id, tenant.actor());
    let letter = app.store.dead_letter(org, id).await?.ok_or(ApiError::NotFound)?;
    if let Some(delivery) = letter.delivery_id {
        let replayed = app.store.replay_delivery(org, delivery, &by, app.clock.now()).await?;
        let delivery = replayed.map_err(ApiError::Delivery)?;
        app.wake.wake();
        return respond::json(StatusCode::ACCEPTED, &DeliveryView::from(delivery));
    }
    let record = app.store.quarantined_record(org, id).await?.ok_or(ApiError::NotFound)?;
    match requeue(&app.store, record, app.clock.now()).await? {
        Requeued::Stored => {
            let (why, now) = (DeadLetterDeletion::Stored, app.clock.now());
            app.store.delete_dead_letter(org, id, why, &by, now).await?;
            app.wake.wake();
            let stored = Stored { event_id: letter.event_id, status: "stored" };
            respond::json(StatusCode::ACCEPTED, &stored)
        }
        Requeued::Refused(why) => Err(ApiError::StillRefused(why)),
    }
}
