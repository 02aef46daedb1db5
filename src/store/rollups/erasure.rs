//! Erases what the rollups hold of an account.

use super::fold;
use super::folded::ALL_ACCOUNTS;
use crate::domain::OrgId;
use crate::store::engine::{Tx, args};
use crate::store::{Result, Store};

/// Rows that a step deletes at most.
const DELETED_PER_STEP: u64 = 2_000;

/// What a step of an erasure did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::store) enum RollupErasure {
    /// It deleted so many rows, and there may be more.
    Deleted(u64),
    /// Nothing of the account is left, but for what is stored from now on.
    Done,
    /// A server folds deltas right now: try again in a moment.
    Busy,
}

/// Erases some of what the rollups hold of an account: its hours with their users, and its row. Deltas, which may name it,
/// are folded first. The sums of the organisation keep counting its events, without its name. Repeat it until nothing is
/// left.
pub(in crate::store) async fn erase_some(
    store: &Store,
    tx: &mut Tx<'_>,
    org: OrgId,
    account: &str,
) -> Result<RollupErasure> {
    if account == ALL_ACCOUNTS {
        return Ok(RollupErasure::Done);
    }
    if !fold::hold(tx).await? {
        return Ok(RollupErasure::Busy);
    }
    if !fold::fold_all_of(store, tx, org).await? {
        return Ok(RollupErasure::Deleted(0));
    }
    let hours = "DELETE FROM rollup_hours WHERE org_id = $1 AND account_id = $2 AND hour IN
                         (SELECT hour FROM rollup_hours WHERE org_id = $1 AND account_id = $2
                          ORDER BY hour LIMIT $3)";
    let mut deleted = tx.execute(hours, args![org, account, DELETED_PER_STEP]).await?;
    if deleted < DELETED_PER_STEP {
        let row = "DELETE FROM accounts WHERE org_id = $1 AND account_id = $2";
        deleted += tx.execute(row, args![org, account]).await?;
    }
    Ok(if deleted == 0 { RollupErasure::Done } else { RollupErasure::Deleted(deleted) })
}
