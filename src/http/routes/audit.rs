//! The audit log: an organisation's own, and all of it for operators.

use axum::extract::State;
use axum::response::Response;

use super::super::error::ApiError;
use super::super::extract::{KeysManage, OperatorRead, Scoped};
use super::super::query::Query;
use super::super::state::AppState;
use super::answer;

/// `GET /api/audit`.
pub(in super::super) async fn own(
    State(app): State<AppState>,
    tenant: Scoped<KeysManage>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    query.finish()?;
    answer::ok(&app.store.audit_log(tenant.org_id, page).await?)
}

/// `GET /api/admin/audit`: everything, or one organisation's, its creation and deletion with it.
pub(in super::super) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    mut query: Query,
) -> Result<Response, ApiError> {
    let page = query.page();
    let org = query.take("org_id", "must be the id of an organisation");
    query.finish()?;
    answer::ok(&match org {
        Some(org) => app.store.org_log_across_orgs(org, page).await?,
        None => app.store.audit_log_across_orgs(page).await?,
    })
}
