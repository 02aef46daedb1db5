//! The lease of a claim that the store did not answer.
//!
//! Its commit may have happened all the same: then it holds deliveries that nobody attempts, until the lease lapses. So it
//! is released before the next claim. Two cases are left to the lapse: a commit that PostgreSQL makes after that, for a
//! connection that it does not know to be lost yet; and a lease that the store does not release although it can be reached,
//! as where a row of it is damaged: that would stop every claim.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::{Lease, LeaseToken, Timestamp};
use crate::store::{Result, Store, StoreError};

/// The lease of the last claim, if its connection was lost. One is enough: nothing is claimed before it is released.
#[derive(Debug, Default)]
pub(super) struct UnansweredLease(Mutex<Option<LeaseToken>>);

impl UnansweredLease {
    /// Passes the answer to a claim on, and remembers its lease if the connection was lost.
    pub(super) fn note<T>(&self, lease: Lease, answer: Result<T>) -> Result<T> {
        if answer.as_ref().is_err_and(StoreError::is_connection) {
            *self.token() = Some(lease.token);
        }
        answer
    }

    /// Releases what is held under it. `true` if something was.
    ///
    /// # Errors
    /// When the store cannot be reached; the next call tries again.
    pub(super) async fn release(&self, store: &Store, now: Timestamp) -> Result<bool> {
        let Some(token) = *self.token() else { return Ok(false) };
        let released = match store.system().release_lease(token, now).await {
            Err(error) if error.is_connection() => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot release what an unanswered claim may hold; its lease lapses");
                0
            }
            Ok(released) => released,
        };
        *self.token() = None;
        Ok(released > 0)
    }

    fn token(&self) -> MutexGuard<'_, Option<LeaseToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
