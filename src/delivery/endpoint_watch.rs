//! The change feed of endpoints: applies changes by other servers and the command line.

use std::time::Duration;

use crate::domain::OrgId;
use crate::runtime::{Shutdown, Wake};
use crate::store::{ChangeMark, Result, Store};

use super::handle::DeliveryHandle;

/// Applies changed endpoints until the soft stop: at once, at every wake and every `interval`, which bounds how
/// long this server sends to what an endpoint was before somebody else changed it.
pub async fn watch_changed_endpoints(
    store: Store,
    delivery: DeliveryHandle,
    wake: Wake,
    interval: Duration,
    shutdown: Shutdown,
) {
    let mut mark = None;
    let mut is_reachable = true;
    loop {
        match poll(&store, &delivery, &mut mark).await {
            Ok(()) => is_reachable = true,
            Err(error) => {
                // Logged once per outage. The next poll continues where the last successful one ended, so no
                // change is missed.
                if is_reachable {
                    tracing::warn!(%error, "cannot poll for changed endpoints; will retry");
                }
                is_reachable = false;
            }
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = wake.sleep(interval) => {}
        }
    }
}

/// Applies what has changed since the mark. A database with a lower mark is another one, as after a failover to a standby
/// that was behind: it may lack what was read from the one before, and count its changes again.
async fn poll(
    store: &Store,
    delivery: &DeliveryHandle,
    mark: &mut Option<ChangeMark>,
) -> Result<()> {
    let changes = store.system().changed_endpoints(*mark).await?;
    if mark.is_some_and(|mark| changes.mark < mark) {
        delivery.database_changed();
    }
    let mut orgs: Vec<OrgId> = changes.changes.iter().map(|(org, _)| *org).collect();
    orgs.sort_unstable();
    orgs.dedup();
    for org in orgs {
        delivery.endpoints_changed(org).await;
    }
    *mark = Some(changes.mark);
    Ok(())
}
