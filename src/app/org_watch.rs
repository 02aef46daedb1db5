//! Org watch: keeps a server's view of organisations and keys in step with the store.
//!
//! It listens for changes, polls for those it missed, flushes usage counters, deletes
//! organisations whose deletion was requested, looks whose changes are followed, and cancels deliveries of endpoints whose pending ones
//! were cancelled.

use std::time::Duration;

use crate::auth::{
    Authenticator, flush_usage_periodically, refresh_stale_keys, watch_changed_keys,
};
use crate::delivery::{DeliveryHandle, watch_changed_endpoints};
use crate::runtime::{Clock, Lifecycle, Shutdown, Stopwatch, Wake};
use crate::store::{Store, StoreError};

/// Time before a failed change listener, deletion or cancellation is tried again.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// Time between two looks for something to delete or cancel.
const STEP_POLL: Duration = Duration::from_secs(1);

/// What the tasks work with.
pub(super) struct OrgWatch {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) authenticator: Authenticator,
    pub(super) delivery: DeliveryHandle,
    pub(super) poll_interval: Duration,
}

impl OrgWatch {
    /// Starts the tasks: those that requests depend on in the foreground, the others in the background.
    pub(super) fn start(self, foreground: &Lifecycle, background: &Lifecycle) {
        let Self { store, clock, authenticator, delivery, poll_interval } = self;
        let (keys, endpoints) = (Wake::new(), Wake::new());
        let stop = || foreground.shutdown();
        foreground.spawn(
            "change listener",
            listen(store.clone(), [keys.clone(), endpoints.clone()], stop()),
        );
        foreground.spawn(
            "key watch",
            watch_changed_keys(authenticator.clone(), keys, poll_interval, stop()),
        );
        foreground.spawn("key refresh", refresh_stale_keys(authenticator.clone(), stop()));
        foreground.spawn(
            "endpoint watch",
            watch_changed_endpoints(store.clone(), delivery, endpoints, poll_interval, stop()),
        );
        foreground
            .spawn("usage flush", flush_usage_periodically(authenticator, clock.clone(), stop()));
        background.spawn("change log", refresh_followed(store.clone(), clock.clone(), stop()));
        background.spawn("org deletion", delete(store.clone(), clock.clone(), stop()));
        background.spawn("cancellation", cancel(store, clock, stop()));
    }
}

/// Wakes the watches at every change. Polling notices changes anyway, a little later.
async fn listen(store: Store, wakes: [Wake; 2], shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            ended = store.system().hint_changes(&wakes) => match ended {
                Ok(()) => tracing::debug!("LISTEN connection lost"),
                Err(error) => tracing::debug!(%error, "cannot listen for changes"),
            }
        }
        if stopped_within(RETRY_WAIT, &shutdown).await {
            return;
        }
    }
}

/// Deletes organisations step by step. Each step is a transaction that records its progress, so after a
/// crash the next process, or another instance, continues.
///
/// After each step the task pauses for as long as the step took, so it uses at most half of the store's time.
async fn delete(store: Store, clock: Clock, shutdown: Shutdown) {
    loop {
        let watch = Stopwatch::start();
        let wait = match step(&store, &clock).await {
            Ok(true) => watch.elapsed(),
            Ok(false) => STEP_POLL,
            Err(error) => {
                tracing::warn!(%error, "cannot delete an organisation; will retry");
                RETRY_WAIT
            }
        };
        if stopped_within(wait, &shutdown).await {
            return;
        }
    }
}

/// Cancels pending deliveries step by step, like [`delete`].
async fn cancel(store: Store, clock: Clock, shutdown: Shutdown) {
    loop {
        let watch = Stopwatch::start();
        let wait = match store.system().cancel_step(clock.now()).await {
            Ok(1..) => watch.elapsed(),
            Ok(0) => STEP_POLL,
            Err(error) => {
                tracing::warn!(%error, "cannot cancel deliveries; will retry");
                RETRY_WAIT
            }
        };
        if stopped_within(wait, &shutdown).await {
            return;
        }
    }
}

/// Deletes a bounded number of rows. `false` when there was nothing to delete.
async fn step(store: &Store, clock: &Clock) -> Result<bool, StoreError> {
    let Some(org) = store.system().delete_step(clock.now()).await? else { return Ok(false) };
    if let Some(deletion) = org.deletion.filter(|deletion| deletion.done_at.is_some()) {
        tracing::info!(org = %org.id, rows = deletion.rows, "organisation deleted");
    }
    Ok(true)
}

/// Looks once a second whose changes are to be logged.
async fn refresh_followed(store: Store, clock: Clock, shutdown: Shutdown) {
    while !stopped_within(STEP_POLL, &shutdown).await {
        if let Err(error) = store.system().refresh_followed(clock.now()).await {
            tracing::debug!(%error, "cannot look whose changes are followed");
        }
    }
}

/// Waits for `span`. `true` when the soft stop came first.
async fn stopped_within(span: Duration, shutdown: &Shutdown) -> bool {
    tokio::select! {
        () = shutdown.requested() => true,
        () = tokio::time::sleep(span) => false,
    }
}
