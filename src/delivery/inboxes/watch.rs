//! Looks into the inboxes that consumers of this server wait for.

use std::time::Duration;

use crate::runtime::{Clock, Shutdown};
use crate::store::Store;

use crate::delivery::wakes::InboxWakes;

/// Time between two looks: how late a waiting consumer hears of what another server stored, at most.
const INTERVAL: Duration = Duration::from_millis(500);

/// Wakes consumers that wait when something may be received, until the soft stop.
pub async fn watch(wakes: InboxWakes, store: Store, clock: Clock, shutdown: Shutdown) {
    let mut is_failing = false;
    while shutdown.next_round(INTERVAL).await {
        let waited = wakes.waited();
        if waited.is_empty() {
            continue;
        }
        match store.inboxes_due(&waited, clock.schedule()).await {
            Ok(due) => {
                is_failing = false;
                for inbox in due {
                    wakes.wake(inbox, usize::MAX);
                }
            }
            Err(error) if !is_failing => {
                is_failing = true;
                tracing::warn!(%error, "cannot look into inboxes that are waited for, retrying");
            }
            Err(_) => {}
        }
    }
}
