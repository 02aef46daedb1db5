//! Stopping: first softly, then hard, with every task accounted for.
//!
//! Soft stop: no new work is taken, what is in flight goes on. Hard stop: whatever still runs is
//! cancelled at its next await. A task that panics, or ends before the soft stop, stops the whole
//! process: half a server is worse than none, and its supervisor will start a whole one.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Background;

/// Tells a part when to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Shutdown {
    /// Resolves at the soft stop.
    pub async fn requested(&self) {
        self.soft.cancelled().await;
    }

    /// Whether the soft stop has come.
    pub fn is_requested(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Resolves at the hard stop.
    pub async fn forced(&self) {
        self.hard.cancelled().await;
    }

    /// Asks for the soft stop.
    pub fn request(&self) {
        self.soft.cancel();
    }
}

/// Owns the background tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    shutdown: Shutdown,
    tasks: TaskTracker,
    /// Where parts run; `None` is where they are spawned.
    background: Option<Handle>,
    failure: Arc<Mutex<Option<&'static str>>>,
}

impl Lifecycle {
    /// A lifecycle without tasks.
    #[expect(clippy::new_without_default, reason = "starting a lifecycle is a decision")]
    pub fn new() -> Self {
        let shutdown = Shutdown { soft: CancellationToken::new(), hard: CancellationToken::new() };
        Self { shutdown, tasks: TaskTracker::new(), background: None, failure: Arc::default() }
    }

    /// What parts are told to stop by.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Runs a part until it ends or the hard stop cancels it. One that ends before the soft stop,
    /// or panics, stops the process and is named by [`Self::failure`].
    pub fn spawn(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let guarded = self.guarded(name, part);
        match &self.background {
            Some(background) => self.tasks.spawn_on(guarded, background),
            None => self.tasks.spawn(guarded),
        };
    }

    /// The same lifecycle, for parts that are to run on the background threads.
    pub fn in_background(&self, background: &Background) -> Self {
        Self { background: Some(background.handle()), ..self.clone() }
    }

    fn guarded(
        &self,
        name: &'static str,
        part: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let guard = TaskGuard { name, lifecycle: self.clone() };
        async move {
            let guard = guard;
            tokio::select! {
                () = part => {}
                () = guard.lifecycle.shutdown.forced() => {}
            }
        }
    }

    /// The part that ended unexpectedly, if one did.
    pub fn failure(&self) -> Option<&'static str> {
        *self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until every part has ended by itself, at most for `timeout`, then stops the others
    /// hard. `true` when nothing had to be stopped.
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.shutdown.request();
        self.tasks.close();
        let drained = tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok();
        self.shutdown.hard.cancel();
        self.tasks.wait().await;
        drained
    }
}

/// Notices the end of a task, however it comes: also when a panic unwinds it.
struct TaskGuard {
    name: &'static str,
    lifecycle: Lifecycle,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.lifecycle.shutdown.is_requested() {
            tracing::error!(part = self.name, "a background part ended unexpectedly; stopping");
            let mut failure =
                self.lifecycle.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            failure.get_or_insert(self.name);
            self.lifecycle.shutdown.request();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn part_that_ends_by_itself_stops_the_process() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("short-lived", async {});
        lifecycle.shutdown().requested().await;
        assert_eq!(lifecycle.failure(), Some("short-lived"));
    }

    #[tokio::test]
    async fn part_that_panics_stops_the_process() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("clumsy", async { panic!("on purpose") });
        lifecycle.shutdown().requested().await;
        assert_eq!(lifecycle.failure(), Some("clumsy"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_outlives_the_timeout_is_stopped_hard() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("stubborn", std::future::pending());
        let stop = lifecycle.shutdown();
        lifecycle.spawn("polite", async move { stop.requested().await });
        assert!(!lifecycle.drain(Duration::from_secs(1)).await);
        assert_eq!(lifecycle.failure(), None);
    }
}
