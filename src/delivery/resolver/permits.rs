//! Permits of look-ups: a limit in total, and one per organisation below it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use crate::domain::OrgId;

/// The number of organisations at which those without look-ups are forgotten.
const ORGS_KEPT: usize = 1_024;

/// Grants permits. An organisation queues for its own permits first, and then for one of all: so it holds at most
/// its share of the permits, and of the places in the queue for them.
#[derive(Debug)]
pub(super) struct Permits {
    total: Arc<Semaphore>,
    per_org: usize,
    orgs: Mutex<HashMap<OrgId, Weak<Semaphore>>>,
}

/// The right to one look-up.
#[derive(Debug)]
pub(super) struct LookupPermit {
    _of_all: OwnedSemaphorePermit,
    _of_org: OwnedSemaphorePermit,
    /// Keeps the organisation's semaphore while any of its permits is in use.
    _org: Arc<Semaphore>,
}

impl Permits {
    pub(super) fn new(total: usize, per_org: usize) -> Self {
        Self { total: Arc::new(Semaphore::new(total)), per_org, orgs: Mutex::default() }
    }

    /// Waits for a permit, in the order of the requests.
    ///
    /// # Errors
    /// Never: the semaphores are not closed.
    pub(super) async fn acquire(&self, org: OrgId) -> Result<LookupPermit, AcquireError> {
        let semaphore = self.of_org(org);
        let of_org = Arc::clone(&semaphore).acquire_owned().await?;
        let of_all = Arc::clone(&self.total).acquire_owned().await?;
        Ok(LookupPermit { _of_all: of_all, _of_org: of_org, _org: semaphore })
    }

    fn of_org(&self, org: OrgId) -> Arc<Semaphore> {
        let mut orgs = self.orgs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(semaphore) = orgs.get(&org).and_then(Weak::upgrade) {
            return semaphore;
        }
        if orgs.len() >= ORGS_KEPT {
            orgs.retain(|_, semaphore| semaphore.strong_count() > 0);
        }
        let semaphore = Arc::new(Semaphore::new(self.per_org));
        orgs.insert(org, Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use crate::runtime::Clock;

    use super::*;

    #[tokio::test]
    async fn organisation_that_has_its_share_leaves_the_rest_to_others() {
        let permits = Permits::new(4, 2);
        let now = Clock::system().now();
        let (greedy, other) = (OrgId::mint(now), OrgId::mint(now));
        let mut held = Vec::new();
        for _ in 0..2 {
            held.push(permits.acquire(greedy).await.unwrap());
        }
        let mut waiting = Box::pin(permits.acquire(greedy));
        assert!(waiting.as_mut().now_or_never().is_none());
        let of_other = permits.acquire(other).now_or_never().unwrap().unwrap();
        assert!(waiting.as_mut().now_or_never().is_none(), "a permit of another is not for it");
        held.pop();
        assert!(waiting.now_or_never().is_some());
        drop(of_other);
    }

    #[tokio::test]
    async fn permits_in_total_are_bounded_and_given_back() {
        let permits = Permits::new(2, 2);
        let now = Clock::system().now();
        let orgs: Vec<OrgId> = (0..3).map(|_| OrgId::mint(now)).collect();
        let mut held = Vec::new();
        for org in &orgs[..2] {
            held.push(permits.acquire(*org).await.unwrap());
        }
        let mut waiting = Box::pin(permits.acquire(orgs[2]));
        assert!(waiting.as_mut().now_or_never().is_none());
        held.clear();
        assert!(waiting.now_or_never().is_some());
    }

    #[tokio::test]
    async fn organisations_without_lookups_are_forgotten() {
        let permits = Permits::new(1, 1);
        for _ in 0..3 * ORGS_KEPT {
            drop(permits.acquire(OrgId::mint(Clock::system().now())).await.unwrap());
        }
        assert!(permits.orgs.lock().unwrap().len() <= ORGS_KEPT);
    }
}
