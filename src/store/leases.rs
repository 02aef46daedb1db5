//! Leases: releases those of a previous run.

use super::engine::{Tx, args};
use super::{Store, StoreError};
use crate::domain::{InstanceId, LeaseToken, Timestamp};

impl Store {
    /// Makes all deliveries that a server has leased due at `now` and returns how many: for a server that
    /// starts again, whose earlier leases nobody uses any more.
    pub async fn release_leases_across_orgs(
        &self,
        instance: InstanceId,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let (least, greatest) = LeaseToken::range_of(instance);
        let mut tx = self.engine.begin().await?;
        // Each kind by its own index.
        let kinds = match tx {
            Tx::Sqlite(..) => [
                "UPDATE deliveries INDEXED BY deliveries_due SET due_at = $1, lease_token = NULL
                 WHERE status = 'pending' AND ordered = 0 AND due_at > $1
                   AND lease_token BETWEEN $2 AND $3",
                "UPDATE deliveries INDEXED BY deliveries_ordered SET due_at = $1, lease_token = NULL
                 WHERE status = 'pending' AND ordered = 1 AND due_at > $1
                   AND lease_token BETWEEN $2 AND $3",
            ],
            Tx::Postgres(_) => [
                "UPDATE deliveries SET due_at = $1, lease_token = NULL
                 WHERE finished_at IS NULL AND NOT ordered AND due_at > $1
                   AND lease_token BETWEEN $2 AND $3",
                "UPDATE deliveries SET due_at = $1, lease_token = NULL
                 WHERE finished_at IS NULL AND ordered AND due_at > $1
                   AND lease_token BETWEEN $2 AND $3",
            ],
        };
        let mut released = 0;
        for sql in kinds {
            released += tx.execute(sql, args![now, least.uuid(), greatest.uuid()]).await?;
        }
        tx.commit().await?;
        Ok(released)
    }
}
