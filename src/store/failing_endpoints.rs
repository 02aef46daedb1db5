//! Endpoints that fail, of all organisations: for operators, who see whose receivers are down.

use super::endpoints::COLUMNS;
use super::engine::{Row, args};
use super::{Result, Store, System, endpoints};
use crate::domain::{Endpoint, FailingEndpoint, OrgId, Page, PageRequest};

impl Store {
    /// Those of an organisation that fail or are disabled, at most so many; those that fail first, and the longest ago.
    pub async fn failing_or_disabled_endpoints(
        &self,
        org: OrgId,
        limit: u32,
    ) -> Result<Vec<Endpoint>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM endpoints
             WHERE org_id = $1 AND removed_at IS NULL
               AND (failing_since IS NOT NULL OR disabled_reason IS NOT NULL)
             ORDER BY failing_since NULLS LAST, id LIMIT $2"
        );
        self.engine.list(sql, args![org, limit], |row| endpoints::read(row, &self.keyring)).await
    }
}

impl System<'_> {
    /// The endpoints that fail, by the time since when they do. One that works again, or is removed, leaves the list.
    pub async fn failing_endpoints(self, page: PageRequest) -> Result<Page<FailingEndpoint>> {
        let sql = "SELECT id, org_id, url, failing_since, last_failure_at, last_success_at, disabled_reason
             FROM endpoints WHERE failing_since IS NOT NULL AND removed_at IS NULL";
        self.0.page(page, "failing_since", sql.into(), args![], read).await
    }
}

fn read(row: &Row) -> Result<FailingEndpoint> {
    let url: String = row.get("url")?;
    Ok(FailingEndpoint {
        id: row.get("id")?,
        org_id: row.get("org_id")?,
        url: Endpoint::shown_url(&url),
        failing_since: row.get("failing_since")?,
        last_failure_at: row.get_opt("last_failure_at")?,
        last_success_at: row.get_opt("last_success_at")?,
        disabled_reason: row.get_opt("disabled_reason")?,
    })
}
