//! Wake-ups of the consumers that wait for an inbox.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::EndpointId;

/// Which inboxes are waited for. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct InboxWakes(Arc<Mutex<HashMap<EndpointId, Waited>>>);

/// An inbox that is waited for.
#[derive(Debug, Default)]
struct Waited {
    notify: Arc<Notify>,
    waiters: usize,
}

/// A consumer that waits for an inbox.
#[derive(Debug)]
pub struct InboxWaiter {
    wakes: InboxWakes,
    inbox: EndpointId,
    notify: Arc<Notify>,
}

impl InboxWakes {
    /// Registers a consumer that waits. It misses no wake from here on.
    pub fn wait_for(&self, inbox: EndpointId) -> InboxWaiter {
        let mut waited = self.lock();
        let entry = waited.entry(inbox).or_default();
        entry.waiters += 1;
        let notify = Arc::clone(&entry.notify);
        drop(waited);
        InboxWaiter { wakes: self.clone(), inbox, notify }
    }

    /// Wakes consumers of an inbox, as many as there are events for them. Spurious wakes do no harm: a consumer looks,
    /// and waits again.
    pub fn wake(&self, inbox: EndpointId, events: usize) {
        let waited = self.lock();
        let Some(Waited { notify, waiters }) = waited.get(&inbox) else { return };
        for _ in 0..events.min(*waiters) {
            notify.notify_one();
        }
    }

    /// The inboxes that are waited for.
    pub fn waited(&self) -> Vec<EndpointId> {
        self.lock().keys().copied().collect()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, Waited>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InboxWaiter {
    /// Waits until there may be an event.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }
}

impl Drop for InboxWaiter {
    fn drop(&mut self) {
        let mut waited = self.wakes.lock();
        if let Some(entry) = waited.get_mut(&self.inbox) {
            entry.waiters -= 1;
            if entry.waiters == 0 {
                waited.remove(&self.inbox);
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
