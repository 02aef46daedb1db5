//! The audit log: an organisation's own, and all of it for operators.

use axum::extract::State;
use axum::response::Response;

use crate::http::error::ApiError;
use crate::http::extract::{KeysManage, OperatorRead, Scoped};
use crate::http::query::Query;
use crate::http::respond;
use crate::http::state::AppState;

/// `GET /api/audit`.
pub(in crate::http) async fn own(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    respond::ok(&app.store.audit_log(tenant.org_id, page).await?)
}

/// `GET /api/admin/audit`: everything, or one organisation's, its creation and deletion with it.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    let org = query.take("org_id", "must be the id of an organisation");
    query.finish()?;
    respond::ok(&match org {
        Some(org) => app.store.system().org_log(org, page).await?,
        None => app.store.system().audit_log(page).await?,
    })
}
