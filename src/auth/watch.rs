//! Notices keys that were changed elsewhere: by another instance, or by the command line.

use std::time::Duration;

use super::Authenticator;
use crate::runtime::{Shutdown, Wake};

/// Forgets changed keys until the soft stop, looking at once, at every wake and every `interval`. That
/// is how long a revoked key may still work here when it was revoked elsewhere.
pub async fn watch_changed_keys(
    authenticator: Authenticator,
    wake: Wake,
    interval: Duration,
    shutdown: Shutdown,
) {
    let mut reachable = true;
    loop {
        match authenticator.invalidate_changed().await {
            Ok(()) => reachable = true,
            Err(error) => {
                // Once an outage, not once a look; the next look goes on where the last good one
                // ended, so nothing is missed.
                if reachable {
                    tracing::warn!(%error, "cannot look for changed keys");
                }
                reachable = false;
            }
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = wake.sleep(interval) => {}
        }
    }
}
