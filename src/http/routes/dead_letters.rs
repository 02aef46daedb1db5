//! Dead letters: what was given up, and why.

use axum::extract::State;
use axum::response::Response;

use super::super::error::ApiError;
use super::super::extract::{EventsRead, Scoped};
use super::super::query::Query;
use super::super::state::AppState;
use super::answer;

/// `GET /api/dead-letters`.
pub(in super::super) async fn list(
    State(app): State<AppState>,
    tenant: Scoped<EventsRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    answer::ok(&app.store.dead_letters(tenant.org_id, page).await?)
}
