//! The audit log: an organisation's own, and all of it for operators.

use axum::extract::State;

use crate::api::audit;
use crate::domain::{AuditEntry, Cursor, OrgId};
use crate::http::error::ApiError;
use crate::http::extract::{KeysRead, OperatorRead, Scoped};
use crate::http::request::{List, ListPage, Positioned, query_fields};
use crate::http::respond::Json;
use crate::http::state::AppState;

query_fields! {
    /// Which audit entries are listed.
    pub(in crate::http) struct AuditQuery {
        /// Of this organisation, its creation and deletion included.
        org_id: OrgId,
    }
}

/// `GET /api/audit`.
pub(in crate::http) async fn own(
    State(app): State<AppState>,
    tenant: Scoped<KeysRead>,
    List { page, listing, filter: () }: List,
) -> Result<Json<ListPage<AuditEntry>>, ApiError> {
    let entries = audit::list_of_org(app.reads(), tenant.org_id, page).await?;
    Ok(Json(listing.page(entries)))
}

/// `GET /api/admin/audit`: everything, or one organisation's entries.
pub(in crate::http) async fn list(
    State(app): State<AppState>,
    _: Scoped<OperatorRead>,
    List { page, listing, filter: AuditQuery { org_id } }: List<AuditQuery>,
) -> Result<Json<ListPage<AuditEntry>>, ApiError> {
    Ok(Json(listing.page(audit::list(app.reads(), org_id, page).await?)))
}

impl Positioned for AuditEntry {
    fn position(&self) -> Cursor {
        Cursor { at: self.at, id: self.id }
    }
}
