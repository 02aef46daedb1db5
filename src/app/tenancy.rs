//! What a server does beside requests to keep organisations and keys as they are in the store: hears
//! of changes, writes down what is used, and deletes what is to be deleted.

use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Authenticator, flush_usage_periodically, watch_changed_keys};
use crate::delivery::SuspendedOrgs;
use crate::runtime::{Clock, Lifecycle, Shutdown, Wake};
use crate::store::{SharedStore, StoreError};

/// The pause before listening for hints again, or deleting again, after that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether there is an organisation to delete.
const DELETION_POLL: Duration = Duration::from_secs(1);

/// What the parts work with.
pub(super) struct Tenancy {
    pub(super) store: SharedStore,
    pub(super) clock: Clock,
    pub(super) authenticator: Authenticator,
    pub(super) suspended: SuspendedOrgs,
    pub(super) poll_interval: Duration,
}

impl Tenancy {
    /// Starts the parts: what others wait for on `lifecycle`, deleting on `behind`.
    pub(super) fn start(self, lifecycle: &Lifecycle, behind: &Lifecycle) {
        let Self { store, clock, authenticator, suspended, poll_interval } = self;
        let (keys, pauses) = (Wake::new(), Wake::new());
        let stop = || lifecycle.shutdown();
        lifecycle.spawn(
            "change hints",
            hear(Arc::clone(&store), [keys.clone(), pauses.clone()], stop()),
        );
        lifecycle.spawn(
            "key watch",
            watch_changed_keys(authenticator.clone(), keys, poll_interval, stop()),
        );
        lifecycle.spawn(
            "pause watch",
            suspended.watch(Arc::clone(&store), pauses, poll_interval, stop()),
        );
        lifecycle.spawn("usage", flush_usage_periodically(authenticator, clock.clone(), stop()));
        behind.spawn("deletion", delete(store, clock, stop()));
    }
}

/// Passes hints on. Without them changes are noticed by polling, a little later.
async fn hear(store: SharedStore, wakes: [Wake; 2], shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            ended = store.hint_changes_across_orgs(&wakes) => match ended {
                Ok(()) => tracing::debug!("the connection that hears of changes ended"),
                Err(error) => tracing::debug!(%error, "cannot hear of changes"),
            }
        }
        if paused(RETRY_PAUSE, &shutdown).await {
            return;
        }
    }
}

/// Deletes organisations step by step. Each step is a transaction that notes how far it is, so a
/// process that ends anywhere is followed by the next one, or by another instance.
async fn delete(store: SharedStore, clock: Clock, shutdown: Shutdown) {
    loop {
        let wait = match step(&store, &clock).await {
            Ok(true) if !shutdown.is_requested() => continue,
            Ok(_) => DELETION_POLL,
            Err(error) => {
                tracing::warn!(%error, "an organisation cannot be deleted now; it is tried again");
                RETRY_PAUSE
            }
        };
        if paused(wait, &shutdown).await {
            return;
        }
    }
}

/// Deletes a little. `false` when there was nothing to delete.
async fn step(store: &SharedStore, clock: &Clock) -> Result<bool, StoreError> {
    let Some(org) = store.delete_step_across_orgs(clock.now()).await? else { return Ok(false) };
    if let Some(deletion) = org.deletion.filter(|deletion| deletion.done_at.is_some()) {
        tracing::info!(org = %org.id, rows = deletion.rows, "an organisation is deleted");
    }
    Ok(true)
}

/// Waits. `true` when the soft stop came.
async fn paused(span: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.requested() => true,
        () = tokio::time::sleep(span) => false,
    }
}
