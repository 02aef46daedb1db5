//! Periodic store maintenance: partitions, expired rows and checkpoints.

use std::time::Duration;

use crate::runtime::{Clock, Shutdown};
use crate::store::Store;

/// Time between two rounds. Partitions are created days ahead, so missed rounds do no harm.
const INTERVAL: Duration = Duration::from_hours(1);
/// Time between two checkpoints. A page that is written several times meanwhile is copied once.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Maintains the store until the soft stop. The start has done the first round.
pub(super) async fn run(store: Store, clock: Clock, shutdown: Shutdown) {
    while every(INTERVAL, &shutdown).await {
        if let Err(error) = store.system().maintain(clock.now()).await {
            tracing::warn!(%error, "store maintenance failed; retrying in an hour");
        }
    }
}

/// Makes checkpoints until the soft stop, so that writers need not.
pub(super) async fn checkpoint(store: Store, shutdown: Shutdown) {
    let mut failing = false;
    while every(CHECKPOINT_INTERVAL, &shutdown).await {
        let result = store.checkpoint().await;
        let failed = result.is_err();
        if let Err(error) = result
            && !failing
        {
            tracing::warn!(%error, "store checkpoint failed; a writer makes the next one");
        }
        failing = failed;
    }
}

/// Waits for the next round. `false` at the soft stop.
async fn every(interval: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.requested() => false,
        () = tokio::time::sleep(interval) => true,
    }
}
