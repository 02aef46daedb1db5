//! Graceful shutdown: a soft stop, then a hard stop, with every task tracked.
//!
//! Soft stop: tasks start no new work and complete the work in flight. Hard stop: tasks that still run are cancelled at
//! their next await. A task that panics, or ends before the soft stop, stops the whole process: half a server is worse
//! than none, and the supervisor will start a whole one.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Background, Gate};

/// Tells a task when to stop. Cheap to clone.
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

    /// Whether the soft stop was requested.
    pub fn is_requested(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Waits `interval` for the next round of periodic work. `false` at the soft stop.
    pub async fn next_round(&self, interval: Duration) -> bool {
        tokio::select! {
            () = self.requested() => false,
            () = tokio::time::sleep(interval) => true,
        }
    }

    /// Resolves at the hard stop.
    pub async fn forced(&self) {
        self.hard.cancelled().await;
    }

    /// Requests the soft stop.
    pub fn request(&self) {
        self.soft.cancel();
    }
}

/// Owns the background tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    shutdown: Shutdown,
    tasks: TaskTracker,
    /// The runtime of the tasks; `None` for the one they are spawned from.
    background: Option<Handle>,
    /// Opens before a task starts; `None` for tasks that start at once.
    gate: Option<Gate>,
    failure: Arc<Mutex<Option<&'static str>>>,
}

impl Lifecycle {
    /// A lifecycle without tasks.
    #[expect(clippy::new_without_default, reason = "starting a lifecycle is a decision")]
    pub fn new() -> Self {
        let shutdown = Shutdown { soft: CancellationToken::new(), hard: CancellationToken::new() };
        let (tasks, failure) = (TaskTracker::new(), Arc::default());
        Self { shutdown, tasks, background: None, gate: None, failure }
    }

    /// The signal that stops the tasks.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Runs a task until it ends or the hard stop cancels it. A task that ends before the soft stop, or panics, stops
    /// the process and is named by [`Self::failure`].
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let guarded = self.guarded(name, task);
        match &self.background {
            Some(background) => self.tasks.spawn_on(guarded, background),
            None => self.tasks.spawn(guarded),
        };
    }

    /// The same lifecycle for tasks on the background threads.
    pub fn in_background(&self, background: &Background) -> Self {
        Self { background: Some(background.handle()), ..self.clone() }
    }

    /// The same lifecycle for tasks that start once `gate` is open. At the soft stop those that wait do not start.
    pub fn behind(&self, gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..self.clone() }
    }

    fn guarded(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let guard = TaskGuard { name, lifecycle: self.clone() };
        async move {
            let guard = guard;
            let shutdown = &guard.lifecycle.shutdown;
            if let Some(gate) = &guard.lifecycle.gate {
                tokio::select! {
                    biased;
                    () = gate.opened() => {}
                    () = shutdown.requested() => return,
                }
            }
            tokio::select! {
                () = task => {}
                () = guard.lifecycle.shutdown.forced() => {}
            }
        }
    }

    /// The task that ended unexpectedly, if one did.
    pub fn failure(&self) -> Option<&'static str> {
        *self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Requests the soft stop and waits up to `timeout` for every task to end, then cancels the others. `true` when none
    /// had to be cancelled.
    pub async fn drain(&self, timeout: Duration) -> bool {
        self.shutdown.request();
        self.tasks.close();
        let drained = tokio::time::timeout(timeout, self.tasks.wait()).await.is_ok();
        self.shutdown.hard.cancel();
        self.tasks.wait().await;
        drained
    }
}

/// Notices the end of a task, even when a panic unwinds it.
struct TaskGuard {
    name: &'static str,
    lifecycle: Lifecycle,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.lifecycle.shutdown.is_requested() {
            tracing::error!(task = self.name, "background task exited unexpectedly, stopping");
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
    async fn task_that_ends_before_the_soft_stop_stops_the_process() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("short-lived", async {});
        lifecycle.shutdown().requested().await;
        assert_eq!(lifecycle.failure(), Some("short-lived"));
    }

    #[tokio::test]
    async fn panicking_task_stops_the_process() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("clumsy", async { panic!("on purpose") });
        lifecycle.shutdown().requested().await;
        assert_eq!(lifecycle.failure(), Some("clumsy"));
    }

    #[tokio::test]
    async fn task_behind_a_gate_starts_once_it_is_open_or_not_at_all() {
        let lifecycle = Lifecycle::new();
        let (gate, never, started) = (Gate::new(), Gate::new(), Gate::new());
        let (starting, stop) = (started.clone(), lifecycle.shutdown());
        lifecycle.behind(&gate).spawn("opened", async move {
            starting.open();
            stop.requested().await;
        });
        lifecycle.behind(&never).spawn("closed", async { panic!("the gate was closed") });
        tokio::task::yield_now().await;
        assert!(!started.is_open());
        gate.open();
        started.opened().await;
        assert!(lifecycle.drain(Duration::from_mins(1)).await);
        assert_eq!(lifecycle.failure(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_outlive_the_timeout_are_cancelled() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("stubborn", std::future::pending());
        let stop = lifecycle.shutdown();
        lifecycle.spawn("polite", async move { stop.requested().await });
        assert!(!lifecycle.drain(Duration::from_secs(1)).await);
        assert_eq!(lifecycle.failure(), None);
    }
}
