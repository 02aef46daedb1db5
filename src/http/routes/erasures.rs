//! Erasures: requesting one and following it. The work is done in the background.

use axum::extract::State;

use crate::api::erasures;
use crate::domain::{Cursor, Erasure, ErasureId, ErasureSubject, EventId};
use crate::http::error::ApiError;
use crate::http::extract::{AccountId, Caller, DataErase, Id, Scoped};
use crate::http::request::{List, ListPage, NoQuery, Positioned};
use crate::http::respond::{Accepted, Json};
use crate::http::state::AppState;

/// `DELETE /api/events/{id}`: 202 with the erasure. The event may be one that is not stored yet.
pub(in crate::http) async fn of_event(
    State(app): State<AppState>,
    tenant: Scoped<DataErase>,
    Id(id): Id<EventId>,
    _: NoQuery,
) -> Result<Accepted<Erasure>, ApiError> {
    let (filter, by) = (ErasureSubject::Event(id), tenant.actor());
    let until = app.intake.now();
    Ok(Accepted(erasures::request(app.subsystems(), tenant.org_id, &filter, until, &by).await?))
}

/// `DELETE /api/accounts/{id}/data`: 202 with the erasure.
pub(in crate::http) async fn of_account(
    State(app): State<AppState>,
    tenant: Scoped<DataErase>,
    AccountId(account): AccountId,
    _: NoQuery,
) -> Result<Accepted<Erasure>, ApiError> {
    let (filter, by) = (ErasureSubject::Account(account), tenant.actor());
    let until = app.intake.now();
    Ok(Accepted(erasures::request(app.subsystems(), tenant.org_id, &filter, until, &by).await?))
}

/// `GET /api/erasures`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<DataErase>,
    List { page, listing, filter: () }: List,
) -> Result<Json<ListPage<Erasure>>, ApiError> {
    Ok(Json(listing.page(erasures::list(app.reads(), tenant.org_id, page).await?)))
}

/// `GET /api/erasures/{id}`.
pub(in crate::http) async fn one(
    State(app): State<AppState>,
    tenant: Scoped<DataErase>,
    Id(id): Id<ErasureId>,
    _: NoQuery,
) -> Result<Json<Erasure>, ApiError> {
    Ok(Json(erasures::one(app.reads(), tenant.org_id, id).await?))
}

impl Positioned for Erasure {
    fn position(&self) -> Cursor {
        Cursor { at: self.created_at, id: self.id.uuid() }
    }
}
