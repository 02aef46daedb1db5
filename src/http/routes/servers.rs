//! Servers, their quarantines, and endpoints that fail: what operators look at when something is wrong.

use axum::extract::State;

use crate::api::servers;
use crate::api::views::{QuarantineView, ServerList};
use crate::domain::{Cursor, FailingEndpoint, PageRequest};
use crate::http::error::ApiError;
use crate::http::extract::{OperatorRead, Scoped};
use crate::http::request::{
    List, ListPage, NoQuery, PageLimit, Parameters, Positioned, query_fields,
};
use crate::http::respond::Json;
use crate::http::state::AppState;

query_fields! {
    /// How much of a quarantine is shown.
    pub(in crate::http) struct QuarantineQuery {
        /// Entries at most.
        limit: PageLimit,
    }
}

/// `GET /api/admin/servers`.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    _: NoQuery,
) -> Result<Json<ServerList>, ApiError> {
    Ok(Json(servers::list(app.reads()).await?))
}

/// `GET /api/admin/quarantine`: of the journal of the server that answers.
pub(in crate::http) async fn quarantine(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    Parameters(QuarantineQuery { limit }): Parameters<QuarantineQuery>,
) -> Result<Json<QuarantineView>, ApiError> {
    let max = limit.map_or(PageRequest::LIMIT_DEFAULT, |limit| limit.0);
    let max = usize::try_from(max).map_err(ApiError::internal)?;
    let contents = app.intake.quarantined(max).await.map_err(ApiError::internal)?;
    let this = app.subsystems().server.as_ref().map(|server| server.id);
    Ok(Json(QuarantineView::new(contents, this)))
}

/// `GET /api/admin/failing-endpoints`.
pub(in crate::http) async fn failing_endpoints(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    List { page, listing, filter: () }: List,
) -> Result<Json<ListPage<FailingEndpoint>>, ApiError> {
    let found = servers::failing_endpoints(app.reads(), page).await?;
    Ok(Json(listing.page(found)))
}

impl Positioned for FailingEndpoint {
    fn position(&self) -> Cursor {
        Cursor { at: self.failing_since, id: self.id.uuid() }
    }
}
