//! The concurrency limiter: how much of something a caller has in progress at once.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{ApiKeyId, OrgId};

/// Who reads: an organisation, or an operator's key, so that no tenant uses up an operator's reads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reader {
    /// An organisation, with any of its keys.
    Org(OrgId),
    /// An operator's key.
    Operator(ApiKeyId),
}

/// Limits by key. Clones share their state, which is kept only of keys with something in progress.
pub struct ConcurrencyLimiter<K>(Arc<InProgress<K>>);

struct InProgress<K> {
    per_key: usize,
    wait_max: Duration,
    semaphores: Mutex<HashMap<K, Arc<Semaphore>>>,
}

/// The right to have one in progress, until it is dropped.
pub struct ConcurrencyPermit<K: Hash + Eq> {
    limiter: Arc<InProgress<K>>,
    key: K,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Hash + Eq + Clone> ConcurrencyLimiter<K> {
    /// A limiter of `per_key` at once; more wait at most `wait_max`, in their order.
    pub fn new(per_key: usize, wait_max: Duration) -> Self {
        Self(Arc::new(InProgress { per_key, wait_max, semaphores: Mutex::default() }))
    }

    /// How many a key may have in progress.
    pub fn per_key(&self) -> usize {
        self.0.per_key
    }

    /// Waits for a permit; `None` when others have had them for too long.
    pub async fn acquire(&self, key: K) -> Option<ConcurrencyPermit<K>> {
        let semaphore = {
            let mut semaphores = self.0.semaphores();
            let new = || Arc::new(Semaphore::new(self.0.per_key));
            Arc::clone(semaphores.entry(key.clone()).or_insert_with(new))
        };
        let waiting = tokio::time::timeout(self.0.wait_max, semaphore.acquire_owned());
        let permit = Some(waiting.await.ok()?.ok()?);
        Some(ConcurrencyPermit { limiter: Arc::clone(&self.0), key, permit })
    }
}

impl<K> InProgress<K> {
    fn semaphores(&self) -> MutexGuard<'_, HashMap<K, Arc<Semaphore>>> {
        self.semaphores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq> Drop for ConcurrencyPermit<K> {
    fn drop(&mut self) {
        drop(self.permit.take());
        let mut semaphores = self.limiter.semaphores();
        // Whoever waits or has a permit holds the semaphore, too, and takes it out of the map under the lock.
        if semaphores.get(&self.key).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            semaphores.remove(&self.key);
        }
    }
}

impl<K> Clone for ConcurrencyLimiter<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> fmt::Debug for ConcurrencyLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InProgress { per_key, wait_max, .. } = &*self.0;
        f.debug_tuple("ConcurrencyLimiter").field(per_key).field(wait_max).finish()
    }
}

impl<K: Hash + Eq> fmt::Debug for ConcurrencyPermit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyPermit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_key_has_its_share_and_more_wait_for_a_while() {
        let limiter = ConcurrencyLimiter::new(2, Duration::from_millis(500));
        let first = limiter.acquire("a").await.unwrap();
        let _second = limiter.acquire("a").await.unwrap();
        assert!(limiter.acquire("a").await.is_none());
        let other = limiter.acquire("b").await.unwrap();
        let (third, ()) = tokio::join!(limiter.acquire("a"), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(first);
        });
        assert!(third.is_some());
        drop(other);
        assert_eq!(limiter.0.semaphores().len(), 1, "only what is in progress is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_of_a_caller_that_gave_up() {
        let limiter = ConcurrencyLimiter::new(1, Duration::from_millis(500));
        let only = limiter.acquire(1).await.unwrap();
        assert!(limiter.acquire(1).await.is_none());
        drop(only);
        assert!(limiter.0.semaphores().is_empty());
    }
}
