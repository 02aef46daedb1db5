//! Deletes an organisation, step by step.

use super::{Store, StoreError, on_engine};
use crate::domain::{Org, Timestamp};

/// Rows of one kind that a step of a deletion deletes at most, so that none holds its locks for long.
pub(super) const DELETED_PER_STEP: i64 = 2_000;

impl Store {
    /// Does one bounded step of the deletion that was begun first, and returns that organisation as it
    /// is now: with [`OrgDeletion::done_at`](crate::domain::OrgDeletion) when nothing of it is left but its
    /// row. `None` when there is nothing to delete, or another instance is at it.
    pub async fn delete_step_across_orgs(&self, now: Timestamp) -> Result<Option<Org>, StoreError> {
        on_engine!(self, delete_step(now))
    }
}
