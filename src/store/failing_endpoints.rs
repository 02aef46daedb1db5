//! Endpoints that fail, of all organisations: for operators, who see whose receivers are down.

use super::engine::{Row, args};
use super::page::{ListBounds, OrderSql};
use super::{Result, System};
use crate::domain::{Endpoint, FailingEndpoint, ListOrder, Page, PageRequest};

impl System<'_> {
    /// The endpoints that fail, by the time since when they do. One that works again, or is removed, leaves the list.
    pub async fn failing_endpoints(
        self,
        order: ListOrder,
        page: PageRequest,
    ) -> Result<Page<FailingEndpoint>> {
        let after = ListBounds { order, since: None, until: None }.start(page.after);
        let sql = format!(
            "SELECT id, org_id, url, failing_since, last_failure_at, last_success_at, disabled_reason
             FROM endpoints WHERE failing_since IS NOT NULL AND removed_at IS NULL {}",
            OrderSql::of(order).page("failing_since")
        );
        self.0.page_of(sql, "failing_since", (after, page.limit), args![], read).await
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
