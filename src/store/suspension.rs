//! Suspends the endpoints of an organisation. Their deliveries stay where they are: claims skip endpoints that
//! are disabled.
//!
//! Endpoints are locked in the order of their ids: outcomes lock some of them without their organisation.

use super::Result;
use super::endpoint_versions::next_version;
use super::engine::{Tx, args};
use crate::domain::{OrgId, Timestamp};

/// Why the endpoints of a suspended organisation are disabled.
pub(super) const SUSPENDED: &str = "the organisation is suspended";

/// Disables endpoints that were enabled or added within this transaction, if the organisation is suspended or
/// being deleted; `true` when it is. The transaction holds the lock on the organisation
/// ([`next_version`]), so a suspension comes before or after it.
pub(super) async fn apply(tx: &mut Tx<'_>, org: OrgId, version: u64) -> Result<bool> {
    let sql = "SELECT suspended_at IS NOT NULL OR deleting_since IS NOT NULL AS suspended
               FROM orgs WHERE id = $1";
    if tx.find(sql, args![org], |row| row.get("suspended")).await? != Some(true) {
        return Ok(false);
    }
    disable(tx, org, version).await?;
    Ok(true)
}

/// Disables the endpoints that are enabled, and notes that their owner did not do it.
pub(super) async fn disable_endpoints(tx: &mut Tx<'_>, org: OrgId) -> Result<()> {
    let version = next_version(tx, org).await?;
    disable(tx, org, version).await
}

async fn disable(tx: &mut Tx<'_>, org: OrgId, version: u64) -> Result<()> {
    let lock = tx.dialect().lock(" FOR NO KEY UPDATE");
    let sql = format!(
        "UPDATE endpoints SET suspended = true, disabled_reason = $2, version = $3
         WHERE id IN (SELECT id FROM endpoints
                      WHERE org_id = $1 AND disabled_reason IS NULL ORDER BY id{lock})"
    );
    tx.execute(sql, args![org, SUSPENDED, version]).await?;
    Ok(())
}

/// Enables what [`disable_endpoints`] disabled, but for endpoints disabled for another reason since. Inboxes count as
/// read at `now`: nobody could read them meanwhile.
pub(super) async fn enable_endpoints(tx: &mut Tx<'_>, org: OrgId, now: Timestamp) -> Result<()> {
    let version = next_version(tx, org).await?;
    let lock = tx.dialect().lock(" FOR NO KEY UPDATE");
    let sql = format!(
        "UPDATE endpoints
         SET suspended = false, version = $3,
             disabled_reason = CASE WHEN disabled_reason <> $2 THEN disabled_reason END,
             last_read_at = CASE WHEN last_read_at < $4 THEN $4 ELSE last_read_at END
         WHERE id IN (SELECT id FROM endpoints WHERE org_id = $1 AND suspended ORDER BY id{lock})"
    );
    tx.execute(sql, args![org, SUSPENDED, version, now]).await?;
    Ok(())
}
