//! The fair semaphore: a few permits that many callers share, none of whom can hold them all.
//!
//! A caller that has none in progress takes any free permit. One that has some takes another only while more than
//! twice as many are free, so others still find one: of five permits a caller holds two at most, and only four
//! callers or more hold all five.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Grants by caller. Clones share their state, which is kept only of callers that hold one.
pub struct FairSemaphore<K>(Arc<Shared<K>>);

/// A permit, given back when it is dropped.
pub struct FairPermit<K: Hash + Eq> {
    semaphore: Arc<Shared<K>>,
    caller: K,
}

struct Shared<K> {
    grants: Mutex<Grants<K>>,
    given_back: Notify,
}

struct Grants<K> {
    free: usize,
    /// How many each caller holds.
    held: HashMap<K, usize>,
}

impl<K: Hash + Eq + Clone> FairSemaphore<K> {
    /// A semaphore of so many permits.
    pub fn new(permits: usize) -> Self {
        let grants = Mutex::new(Grants { free: permits, held: HashMap::new() });
        Self(Arc::new(Shared { grants, given_back: Notify::new() }))
    }

    /// Waits for a permit.
    pub async fn acquire(&self, caller: K) -> FairPermit<K> {
        loop {
            let mut given_back = pin!(self.0.given_back.notified());
            // From here on nothing that is given back is missed.
            given_back.as_mut().enable();
            if self.0.grants().take(&caller) {
                return FairPermit { semaphore: Arc::clone(&self.0), caller };
            }
            given_back.await;
        }
    }
}

impl<K> Shared<K> {
    fn grants(&self) -> MutexGuard<'_, Grants<K>> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone> Grants<K> {
    /// Takes a permit, unless that leaves too few to others.
    fn take(&mut self, caller: &K) -> bool {
        let held = self.held.get(caller).copied().unwrap_or_default();
        let may = self.free > 2 * held;
        if may {
            self.free -= 1;
            self.held.insert(caller.clone(), held + 1);
        }
        may
    }
}

impl<K: Hash + Eq> Drop for FairPermit<K> {
    fn drop(&mut self) {
        {
            let mut grants = self.semaphore.grants();
            grants.free += 1;
            if let Some(held) = grants.held.get_mut(&self.caller) {
                *held -= 1;
                if *held == 0 {
                    grants.held.remove(&self.caller);
                }
            }
        }
        self.semaphore.given_back.notify_waiters();
    }
}

impl<K> Clone for FairSemaphore<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> fmt::Debug for FairSemaphore<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairSemaphore").field("free", &self.0.grants().free).finish()
    }
}

impl<K: Hash + Eq> fmt::Debug for FairPermit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FairPermit").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Takes what a caller gets at once.
    fn take_all(semaphore: &FairSemaphore<u32>, caller: u32) -> Vec<FairPermit<u32>> {
        std::iter::from_fn(|| semaphore.acquire(caller).now_or_never()).collect()
    }

    #[test]
    fn no_caller_takes_all() {
        for permits in 1..100 {
            let semaphore = FairSemaphore::new(permits);
            let held = take_all(&semaphore, 0);
            assert!(held.len() <= permits.div_ceil(2), "{} of {permits}", held.len());
            let (other, third) = (take_all(&semaphore, 1), take_all(&semaphore, 2));
            assert!(permits < 4 || !third.is_empty(), "{} {}", held.len(), other.len());
        }
        let semaphore = FairSemaphore::new(5);
        let held: Vec<_> = (0..5).map(|caller| take_all(&semaphore, caller)).collect();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 1, 0]);
        drop(held);
        assert!(semaphore.0.grants().held.is_empty(), "only of holders something is kept");
    }

    #[tokio::test]
    async fn one_that_waits_gets_what_another_gives_back() {
        let semaphore = FairSemaphore::new(2);
        let (first, second) = (semaphore.acquire(1).await, semaphore.acquire(2).await);
        let mut waiting = Box::pin(semaphore.acquire(3));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        let third = waiting.await;
        assert!(semaphore.acquire(2).now_or_never().is_none());
        drop((second, third));
        assert_eq!(semaphore.0.grants().free, 2);
    }
}
