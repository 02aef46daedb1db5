//! Looks into the inboxes that consumers of this server wait for, and pauses those that nobody reads.

use std::time::Duration;

use crate::domain::Timestamp;
use crate::runtime::{Clock, Shutdown};
use crate::store::{Result, Store};

use super::super::handle::DeliveryHandle;
use super::InboxWakes;

/// Time between two looks: how late a waiting consumer hears of what another server stored, at most.
const INTERVAL: Duration = Duration::from_millis(500);
/// Time between two looks for inboxes that nobody reads.
const IDLE_INTERVAL: Duration = Duration::from_mins(10);
/// Inboxes that are paused without a look at anything else, at most.
const STEPS_MAX: usize = 100;

/// Wakes consumers that wait when something may be received, until the soft stop.
pub async fn watch(wakes: InboxWakes, store: Store, clock: Clock, shutdown: Shutdown) {
    let mut is_failing = false;
    while every(INTERVAL, &shutdown).await {
        let waited = wakes.waited();
        if waited.is_empty() {
            continue;
        }
        match store.inboxes_due(&waited, clock.schedule()).await {
            Ok(due) => {
                is_failing = false;
                due.into_iter().for_each(|inbox| wakes.wake(inbox, usize::MAX));
            }
            Err(error) if !is_failing => {
                is_failing = true;
                tracing::warn!(%error, "cannot look into inboxes that are waited for, retrying");
            }
            Err(_) => {}
        }
    }
}

/// Pauses inboxes that nobody reads.
#[derive(Debug)]
pub struct IdleInboxes {
    store: Store,
    clock: Clock,
    delivery: DeliveryHandle,
    idle_max: Duration,
}

impl IdleInboxes {
    /// Pauses those that nobody has read for `idle_max`.
    pub const fn new(
        store: Store,
        clock: Clock,
        delivery: DeliveryHandle,
        idle_max: Duration,
    ) -> Self {
        Self { store, clock, delivery, idle_max }
    }

    /// Looks for them until the soft stop.
    pub async fn run(self, shutdown: Shutdown) {
        loop {
            if let Err(error) = self.run_once().await {
                tracing::warn!(%error, "cannot pause inboxes that nobody reads, retrying");
            }
            if !every(IDLE_INTERVAL, &shutdown).await {
                return;
            }
        }
    }

    /// Pauses those that are idle now, and returns how many.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run_once(&self) -> Result<usize> {
        let now: Timestamp = self.clock.now();
        let mut count = 0;
        for _ in 0..STEPS_MAX {
            let paused =
                self.store.system().pause_idle_inboxes(now.minus(self.idle_max), now).await?;
            if paused.is_empty() {
                break;
            }
            count += paused.len();
            for (org, _) in paused {
                self.delivery.endpoints_changed(org).await;
            }
        }
        Ok(count)
    }
}

/// Waits for the next round. `false` at the soft stop.
async fn every(interval: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.requested() => false,
        () = tokio::time::sleep(interval) => true,
    }
}
