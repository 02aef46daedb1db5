//! Notices keys that were changed elsewhere: by another instance, or by the command line.

use std::collections::HashSet;
use std::time::Duration;

use super::Authenticator;
use crate::runtime::{Clock, Shutdown, Wake};

/// How far each look goes back beyond the one before it: covers clocks that differ between machines
/// and changes that commit a while after they were stamped.
const OVERLAP: Duration = Duration::from_secs(10);

/// Forgets changed keys until the soft stop, looking at every wake and every `interval`. That is how
/// long a revoked key may still work here when it was revoked elsewhere.
pub async fn watch_changed_keys(
    authenticator: Authenticator,
    clock: Clock,
    wake: Wake,
    interval: Duration,
    shutdown: Shutdown,
) {
    let mut since = clock.now();
    let mut seen = HashSet::new();
    let mut reachable = true;
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = wake.sleep(interval) => {}
        }
        let started = clock.now();
        match authenticator.forget_changed(since.minus(OVERLAP), &mut seen).await {
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
