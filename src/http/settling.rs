//! What a request with an `Idempotency-Key` still does when nobody waits for its answer any more.
//!
//! Such a request runs in a task of its own, which `REQUEST_TIMEOUT` does not end: otherwise its repeat would run it
//! again. An answer that the store does not take at once is offered again for a while. Both are bounded in number, and
//! the server waits for them at its stop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::error::ApiError;
use crate::runtime::{Backoff, Shutdown, Stopwatch};
use crate::store::Result as StoreResult;

/// Requests that run in tasks of their own. Further ones run with their connection, and end with it.
const RUNNING_MAX: usize = 1024;
/// Answers that are offered again at once: each is up to 128 KiB. Further ones are not kept.
const OFFERED_MAX: usize = 256;
/// For how long an answer is offered again.
const OFFERED_FOR: Duration = Duration::from_mins(10);
/// The first wait before it is; doubled up to [`RETRY_WAIT_MAX`].
const RETRY_WAIT: Duration = Duration::from_millis(100);
/// The longest wait.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(1);

/// Runs requests to their end, and offers their answers until they are kept. Clones share the bounds.
#[derive(Clone, Debug)]
pub(super) struct Settling {
    tasks: TaskTracker,
    running: Arc<Semaphore>,
    offered: Arc<Semaphore>,
    shutdown: Shutdown,
}

impl Settling {
    /// Nothing runs.
    pub(super) fn new(shutdown: Shutdown) -> Self {
        let permits = |max| Arc::new(Semaphore::new(max));
        let (running, offered) = (permits(RUNNING_MAX), permits(OFFERED_MAX));
        Self { tasks: TaskTracker::new(), running, offered, shutdown }
    }

    /// Runs work to its end, until the hard stop, also if the caller is dropped.
    ///
    /// # Errors
    /// Those of the work; when it panics, or the hard stop ends it.
    pub(super) async fn outlive<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
    ) -> Result<T, ApiError> {
        let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() else { return work.await };
        let shutdown = self.shutdown.clone();
        let running = self.tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                done = work => done,
                () = shutdown.forced() => Err(ApiError::internal("the server has stopped")),
            }
        });
        running.await.map_err(ApiError::internal)?
    }

    /// Offers an answer again until it is kept, for a while, and once more at the soft stop. `ended` is told the result.
    /// `false` when too many are offered already.
    pub(super) fn offer_again<F: Future<Output = StoreResult<()>> + Send>(
        &self,
        offer: impl Fn() -> F + Send + 'static,
        ended: impl FnOnce(StoreResult<()>) + Send + 'static,
    ) -> bool {
        let Ok(permit) = Arc::clone(&self.offered).try_acquire_owned() else { return false };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            let _permit = permit;
            let offering = offer_until_kept(&shutdown, offer);
            tokio::select! {
                result = offering => ended(result),
                () = shutdown.forced() => {}
            }
        });
        true
    }

    /// Resolves once nothing runs. Called once nothing more begins.
    pub(super) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn offer_until_kept<F: Future<Output = StoreResult<()>>>(
    shutdown: &Shutdown,
    offer: impl Fn() -> F,
) -> StoreResult<()> {
    let since = Stopwatch::start();
    let mut backoff = Backoff::new(RETRY_WAIT, RETRY_WAIT_MAX);
    loop {
        tokio::select! {
            () = backoff.sleep() => {}
            () = shutdown.requested() => {}
        }
        let is_last = shutdown.is_requested() || since.elapsed() >= OFFERED_FOR;
        let offered = offer().await;
        if is_last || offered.is_ok() {
            return offered;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::oneshot;

    use super::*;
    use crate::runtime::Lifecycle;
    use crate::store::StoreError;

    fn settling() -> (Settling, Lifecycle) {
        let lifecycle = Lifecycle::new();
        (Settling::new(lifecycle.shutdown()), lifecycle)
    }

    #[tokio::test]
    async fn work_goes_on_when_its_caller_is_gone() {
        let (settling, _lifecycle) = settling();
        let (go_on, waits) = oneshot::channel();
        let (done, is_done) = oneshot::channel();
        let mut running = Box::pin(settling.outlive(async move {
            waits.await.unwrap();
            done.send(()).unwrap();
            Ok(())
        }));
        assert!(futures_util::poll!(&mut running).is_pending());
        drop(running);
        go_on.send(()).unwrap();
        is_done.await.unwrap();
        settling.ended().await;
    }

    #[tokio::test]
    async fn hard_stop_ends_work() {
        let (settling, lifecycle) = settling();
        let mut running =
            Box::pin(settling.outlive(std::future::pending::<Result<(), ApiError>>()));
        assert!(futures_util::poll!(&mut running).is_pending());
        lifecycle.drain(Duration::ZERO).await;
        running.await.unwrap_err();
        settling.ended().await;
    }

    /// Offers an answer that is taken at the `taken_at`th time. Returns how often it was offered, and the result.
    async fn offered(settling: &Settling, taken_at: u32) -> (u32, StoreResult<()>) {
        let tries = Arc::new(AtomicU32::new(0));
        let (ended, has_ended) = oneshot::channel();
        let counted = Arc::clone(&tries);
        let offer = move || {
            let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
            let away = Err(StoreError::no_answer());
            std::future::ready(if number < taken_at { away } else { Ok(()) })
        };
        assert!(settling.offer_again(offer, |result| ended.send(result).unwrap()));
        let result = has_ended.await.unwrap();
        (tries.load(Ordering::SeqCst), result)
    }

    #[tokio::test(start_paused = true)]
    async fn answer_is_offered_until_it_is_kept_and_once_more_at_the_stop() {
        let (settling, lifecycle) = settling();
        let (tries, result) = offered(&settling, 20).await;
        assert!(tries == 20 && result.is_ok(), "{tries}");
        lifecycle.shutdown().request();
        let (tries, result) = offered(&settling, 3).await;
        assert!(tries == 1 && result.is_err(), "{tries}");
        settling.ended().await;
    }
}
