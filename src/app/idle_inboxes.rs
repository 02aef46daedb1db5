//! Pauses inboxes that nobody reads, so that what waits in them does not grow for ever.

use std::time::Duration;

use crate::delivery::DeliveryHandle;
use crate::runtime::{Clock, Shutdown};
use crate::store::{Result, Store};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_mins(10);
/// Steps of a look at most.
const STEPS_MAX: usize = 100;

/// Pauses inboxes that nobody reads.
#[derive(Debug)]
pub(super) struct IdleInboxes {
    store: Store,
    clock: Clock,
    delivery: DeliveryHandle,
    idle_max: Duration,
}

impl IdleInboxes {
    /// Pauses those that nobody has read for `idle_max`.
    pub(super) const fn new(
        store: Store,
        clock: Clock,
        delivery: DeliveryHandle,
        idle_max: Duration,
    ) -> Self {
        Self { store, clock, delivery, idle_max }
    }

    /// Looks for them until the soft stop.
    pub(super) async fn run(self, shutdown: Shutdown) {
        loop {
            if let Err(error) = self.run_once().await {
                tracing::warn!(%error, "cannot pause inboxes that nobody reads, retrying");
            }
            if !shutdown.next_round(INTERVAL).await {
                return;
            }
        }
    }

    /// Pauses those that are idle now.
    async fn run_once(&self) -> Result<()> {
        let now = self.clock.now();
        for _ in 0..STEPS_MAX {
            let paused =
                self.store.system().pause_idle_inboxes(now.minus(self.idle_max), now).await?;
            if paused.is_empty() {
                break;
            }
            for (org, _) in paused {
                self.delivery.endpoints_changed(org).await;
            }
        }
        Ok(())
    }
}
