//! The count of changes of an organisation's endpoints. An endpoint's version is the number of its last change, so
//! that whoever has endpoints in memory knows by one number whether they are up to date.

use super::Result;
use super::engine::{Tx, args};
use crate::domain::OrgId;

/// Counts a change of an organisation's endpoints and returns the new number, the `version` of the endpoints that
/// change. It locks the organisation, so it is the first statement of its transaction. 0 when there is no such
/// organisation.
pub(super) async fn next_version(tx: &mut Tx<'_>, org: OrgId) -> Result<u64> {
    let sql = "UPDATE orgs SET endpoints_version = endpoints_version + 1 WHERE id = $1
               RETURNING endpoints_version";
    let version = tx.find(sql, args![org], |row| row.get("endpoints_version")).await?;
    Ok(version.unwrap_or_default())
}
