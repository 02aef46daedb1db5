//! The store's upkeep, now and then.

use std::time::Duration;

use crate::runtime::{Clock, Shutdown};
use crate::store::SharedStore;

/// Between two rounds: partitions are made days ahead, so missing many rounds does no harm.
const INTERVAL: Duration = Duration::from_hours(1);

/// Keeps the store in order until the soft stop. The start has done the first round.
pub(super) async fn run(store: SharedStore, clock: Clock, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        if let Err(error) = store.maintain_across_orgs(clock.now()).await {
            tracing::warn!(%error, "upkeep of the store failed; it is tried again in an hour");
        }
    }
}
