//! The background tasks of authentication: polling for changed keys and flushing usage.

use std::time::Duration;

use tokio::time::timeout;

use super::authenticator::Authenticator;
use crate::domain::Month;
use crate::runtime::{Clock, Shutdown, Wake};
use crate::store::StoreError;

/// The time between two flushes.
const FLUSH_INTERVAL: Duration = Duration::from_mins(1);
/// How long a poll may take before the next one, on another connection, is tried.
const POLL_MAX: Duration = Duration::from_secs(10);

/// Invalidates changed keys until the soft stop: at once, at every wake and every `interval`, which
/// bounds how long a key that was revoked by another server or the command line still works here.
pub async fn watch_changed_keys(
    authenticator: Authenticator,
    wake: Wake,
    interval: Duration,
    shutdown: Shutdown,
) {
    let mut reachable = true;
    loop {
        let polled = timeout(POLL_MAX, authenticator.invalidate_changed()).await;
        match polled.unwrap_or_else(|_| Err(StoreError::no_answer())) {
            Ok(()) => reachable = true,
            Err(error) => {
                // Logged once per outage. The next poll continues where the last successful one ended, so
                // no change is missed.
                if reachable {
                    tracing::warn!(%error, "cannot poll for changed keys; will retry");
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

/// Flushes usage every minute and at the end of a month, until the soft stop. Usage after that is
/// flushed by the last step of the stop.
pub async fn flush_usage_periodically(
    authenticator: Authenticator,
    clock: Clock,
    shutdown: Shutdown,
) {
    loop {
        let now = clock.now();
        let wait = FLUSH_INTERVAL.min(Month::end(now).since(now)).max(Duration::from_millis(1));
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(wait) => {}
        }
        if let Err(error) = authenticator.flush_usage().await {
            tracing::warn!(%error, "cannot flush usage counters; will retry");
        }
    }
}
