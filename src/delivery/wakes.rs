//! Wake-ups of requests that wait: of consumers for an inbox, and for the outcome of a delivery.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::{DeliveryId, EndpointId};

/// Wakes consumers that wait for an inbox.
pub type InboxWakes = Wakes<EndpointId>;

/// Wakes requests that wait for the outcome of a delivery's next attempt.
pub type OutcomeWakes = Wakes<DeliveryId>;

/// What is waited for. Clones share it.
#[derive(Debug)]
pub struct Wakes<K>(Arc<Mutex<HashMap<K, Waited>>>);

/// Something that is waited for.
#[derive(Debug, Default)]
struct Waited {
    notify: Arc<Notify>,
    waiters: usize,
}

/// A request that waits.
#[derive(Debug)]
pub struct WakeWaiter<K: Copy + Eq + Hash> {
    wakes: Wakes<K>,
    awaited: K,
    notify: Arc<Notify>,
}

impl<K> Clone for Wakes<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Wakes<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Copy + Eq + Hash> Wakes<K> {
    /// Registers a request that waits. It misses no wake from here on.
    pub fn wait_for(&self, awaited: K) -> WakeWaiter<K> {
        let mut waited = self.lock();
        let entry = waited.entry(awaited).or_default();
        entry.waiters += 1;
        let notify = Arc::clone(&entry.notify);
        drop(waited);
        WakeWaiter { wakes: self.clone(), awaited, notify }
    }

    /// Wakes requests, at most as many as there are events for them. Spurious wakes do no harm: a request looks, and
    /// waits again.
    pub fn wake(&self, awaited: K, events: usize) {
        let waited = self.lock();
        let Some(Waited { notify, waiters }) = waited.get(&awaited) else { return };
        for _ in 0..events.min(*waiters) {
            notify.notify_one();
        }
    }

    /// All that is waited for.
    pub fn waited(&self) -> Vec<K> {
        self.lock().keys().copied().collect()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Waited>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Copy + Eq + Hash> WakeWaiter<K> {
    /// Waits until there may be what it waits for.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl<K: Copy + Eq + Hash> Drop for WakeWaiter<K> {
    fn drop(&mut self) {
        let mut waited = self.wakes.lock();
        if let Some(entry) = waited.get_mut(&self.awaited) {
            entry.waiters -= 1;
            if entry.waiters == 0 {
                waited.remove(&self.awaited);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::domain::Timestamp;

    #[tokio::test]
    async fn as_many_are_woken_as_there_are_events() {
        let wakes = InboxWakes::default();
        let [inbox, other] = [1, 2].map(|at| EndpointId::mint(Timestamp::from_micros(at)));
        let waiters = [wakes.wait_for(inbox), wakes.wait_for(inbox), wakes.wait_for(other)];
        let mut waiting = waiters.each_ref().map(|waiter| Box::pin(waiter.woken()));
        let mut woken =
            || waiting.each_mut().map(|waiting| waiting.as_mut().now_or_never().is_some());
        assert_eq!(woken(), [false; 3]);
        wakes.wake(inbox, 1);
        assert_eq!(woken(), [true, false, false]);
    }

    #[tokio::test]
    async fn wake_before_the_wait_is_not_missed_and_nothing_is_kept() {
        let wakes = InboxWakes::default();
        let inbox = EndpointId::mint(Timestamp::from_micros(1));
        wakes.wake(inbox, 5);
        let waiter = wakes.wait_for(inbox);
        assert!(waiter.woken().now_or_never().is_none(), "it was not waited for then");
        wakes.wake(inbox, 5);
        assert!(waiter.woken().now_or_never().is_some());
        assert_eq!(wakes.waited(), [inbox]);
        drop(waiter);
        assert!(wakes.is_empty());
    }
}
