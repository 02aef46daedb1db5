//! Work in the background that is done step by step, each one transaction of the store: replays and erasures.

use std::time::Duration;

use crate::runtime::{Backoff, Shutdown, Stopwatch, Wake};
use crate::store::StoreError;

/// How often the store is polled for work, which another server may have left.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The longest wait while the store is unavailable.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(5);

/// Work that is done step by step.
pub(super) trait Steps: Sync {
    /// What is done, for the log.
    const WHAT: &'static str;

    /// Does the next step. `false` when there is none.
    fn step(&self) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// Works until the soft stop. After each step the task pauses for as long as the step took, so it uses at most half of
/// the store's time.
pub(super) async fn work<S: Steps>(steps: &S, wake: &Wake, shutdown: Shutdown) {
    let mut backoff = Backoff::new(POLL_INTERVAL, RETRY_WAIT_MAX);
    loop {
        let watch = Stopwatch::start();
        let step = steps.step().await;
        if step.is_ok() {
            backoff.reset();
        }
        let pause = match step {
            Ok(true) => watch.elapsed(),
            Ok(false) => POLL_INTERVAL,
            Err(error) => {
                tracing::warn!(%error, "cannot continue {}, retrying", S::WHAT);
                backoff.next_wait()
            }
        };
        tokio::select! {
            () = shutdown.requested() => return,
            () = wake.sleep(pause) => {}
        }
    }
}
