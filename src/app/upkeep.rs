//! The store's upkeep, now and then.

use std::time::Duration;

use crate::runtime::{Clock, Shutdown};
use crate::store::SharedStore;

/// Between two rounds: partitions are made days ahead, so missing many rounds does no harm.
const INTERVAL: Duration = Duration::from_hours(1);
/// Between two checkpoints: what is written several times meanwhile is copied once.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the store in order until the soft stop. The start has done the first round.
pub(super) async fn run(store: SharedStore, clock: Clock, shutdown: Shutdown) {
    while every(INTERVAL, &shutdown).await {
        if let Err(error) = store.maintain_across_orgs(clock.now()).await {
            tracing::warn!(%error, "upkeep of the store failed; it is tried again in an hour");
        }
    }
}

/// Makes checkpoints until the soft stop, so that who writes need not.
pub(super) async fn checkpoint(store: SharedStore, shutdown: Shutdown) {
    let mut failing = false;
    while every(CHECKPOINT_INTERVAL, &shutdown).await {
        let result = store.checkpoint().await;
        let failed = result.is_err();
        if let Err(error) = result
            && !failing
        {
            tracing::warn!(%error, "a checkpoint of the store failed; whoever writes makes the next");
        }
        failing = failed;
    }
}

/// Waits for the next round; `false` at the soft stop.
async fn every(interval: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.requested() => false,
        () = tokio::time::sleep(interval) => true,
    }
}
