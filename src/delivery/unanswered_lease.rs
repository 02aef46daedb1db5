//! The lease of a claim that the store did not answer.
//!
//! Its commit may have happened all the same: then it holds deliveries that nobody attempts, until the lease lapses.

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
    /// The store's; the next call tries again.
    pub(super) async fn release(&self, store: &Store, now: Timestamp) -> Result<bool> {
        let Some(token) = *self.token() else { return Ok(false) };
        let released = store.system().release_lease(token, now).await?;
        *self.token() = None;
        Ok(released > 0)
    }

    fn token(&self) -> MutexGuard<'_, Option<LeaseToken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
