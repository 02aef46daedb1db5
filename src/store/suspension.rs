//! Suspends the endpoints of an organisation, and parks the deliveries of a disabled endpoint.
//!
//! A parked delivery has no due time: claims do not see it, and it uses up no attempts.

use super::Result;
use super::engine::{Tx, args};
use crate::domain::{EndpointId, OrgId, Timestamp};

/// Why the endpoints of a suspended organisation are disabled.
pub(super) const SUSPENDED: &str = "the organisation is suspended";

/// Disables endpoints that were enabled or added within this transaction, if the organisation is suspended or
/// being deleted; `true` when it is. A suspension waits for this transaction, or this one for it.
pub(super) async fn apply(tx: &mut Tx<'_>, org: OrgId) -> Result<bool> {
    let lock = tx.dialect().lock(" FOR SHARE");
    let sql = format!(
        "SELECT suspended_at IS NOT NULL OR deleting_since IS NOT NULL AS suspended
         FROM orgs WHERE id = $1{lock}"
    );
    if tx.find(sql, args![org], |row| row.get("suspended")).await? != Some(true) {
        return Ok(false);
    }
    disable_endpoints(tx, org).await?;
    Ok(true)
}

/// Disables the endpoints that are enabled, and notes that their owner did not do it.
pub(super) async fn disable_endpoints(tx: &mut Tx<'_>, org: OrgId) -> Result<()> {
    let sql = "UPDATE endpoints SET suspended = true, disabled_reason = $2
               WHERE org_id = $1 AND disabled_reason IS NULL RETURNING id";
    for endpoint in tx.list(sql, args![org, SUSPENDED], |row| row.get("id")).await? {
        park(tx, endpoint).await?;
    }
    Ok(())
}

/// Enables what [`disable_endpoints`] disabled, but for endpoints disabled for another reason since.
pub(super) async fn enable_endpoints(tx: &mut Tx<'_>, org: OrgId, now: Timestamp) -> Result<()> {
    let sql = "UPDATE endpoints SET disabled_reason = NULL
               WHERE org_id = $1 AND suspended AND disabled_reason = $2 RETURNING id";
    let enabled = tx.list(sql, args![org, SUSPENDED], |row| row.get("id")).await?;
    let clear = "UPDATE endpoints SET suspended = false WHERE org_id = $1 AND suspended";
    tx.execute(clear, args![org]).await?;
    for endpoint in enabled {
        unpark(tx, endpoint, now).await?;
    }
    Ok(())
}

/// Hides an endpoint's waiting deliveries from claims. Leased ones are parked by their outcome, or by
/// the claim that finds their lease lapsed.
pub(super) async fn park(tx: &mut Tx<'_>, endpoint: EndpointId) -> Result<()> {
    tx.execute(
        "UPDATE deliveries SET due_at = NULL
         WHERE endpoint_id = $1 AND status = 'pending' AND lease_token IS NULL",
        args![endpoint],
    )
    .await?;
    Ok(())
}

/// Makes an endpoint's parked deliveries due.
pub(super) async fn unpark(tx: &mut Tx<'_>, endpoint: EndpointId, now: Timestamp) -> Result<()> {
    tx.execute(
        "UPDATE deliveries SET due_at = $2
         WHERE endpoint_id = $1 AND status = 'pending' AND due_at IS NULL",
        args![endpoint, now],
    )
    .await?;
    Ok(())
}
