//! Notices keys that were changed elsewhere: by another instance, or by the command line.

use std::time::Duration;

use super::Authenticator;
use crate::domain::Timestamp;
use crate::runtime::{Clock, Shutdown};
use crate::store::{SharedStore, StoreError};

/// How far each look goes back beyond the one before it: covers clocks that differ between machines
/// and changes that commit a while after they were stamped. Forgetting a key twice costs one read.
const OVERLAP: Duration = Duration::from_secs(10);

/// Forgets changed keys until the soft stop, looking every `interval`. That is how long a revoked
/// key may still work here when it was revoked elsewhere.
pub async fn watch_changed_keys(
    authenticator: Authenticator,
    store: SharedStore,
    clock: Clock,
    interval: Duration,
    shutdown: Shutdown,
) {
    let mut since = clock.now();
    let mut reachable = true;
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let started = clock.now();
        match forget_changed(&authenticator, &store, since).await {
            Ok(()) => {
                since = started;
                reachable = true;
            }
            Err(error) => {
                // Once an outage, not once a look; `since` stays, so nothing is missed.
                if reachable {
                    tracing::warn!(%error, "cannot look for changed keys");
                }
                reachable = false;
            }
        }
    }
}

async fn forget_changed(
    authenticator: &Authenticator,
    store: &SharedStore,
    since: Timestamp,
) -> Result<(), StoreError> {
    let changed = store.keys_changed_across_orgs(since.minus(OVERLAP)).await?;
    if !changed.is_empty() {
        authenticator.forget_all(&changed).await;
    }
    Ok(())
}
