//! Wake-ups between tasks that do not know each other.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

/// Wakes one sleeping task. A wake is a hint that may come late, twice or never: the sleeper polls as well.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// A wake without a sleeper.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wakes the sleeper, or the next one to sleep.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Sleeps until woken, for at most `poll_interval`.
    pub async fn sleep(&self, poll_interval: Duration) {
        // The caller polls either way.
        let _ = tokio::time::timeout(poll_interval, self.0.notified()).await;
    }
}
