//! Folds deltas of counts into the rollups, in the background.
//!
//! # Fairness
//! A step is short, and after it the task pauses for a few times as long: storing events comes first. When very many
//! deltas wait, which makes reads slow, it takes half of the time.

use std::sync::Arc;
use std::time::Duration;

use super::AnalyticsMetrics;
use crate::runtime::{Backoff, Shutdown, Stopwatch};
use crate::store::{FoldCursor, Store, StoreError};

/// How long deltas are gathered: many of an organisation change the same rows.
const INTERVAL: Duration = Duration::from_secs(2);
/// The longest wait while the store is unavailable, or nothing can be folded.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(10);
/// A step is followed by a pause of so many times its length.
const PAUSE_FACTOR: u32 = 3;
/// From so many waiting deltas on, a pause is as long as its step.
const DELTAS_URGENT: u64 = 2_000;

/// Folds deltas.
pub struct RollupFolder {
    /// The store.
    pub store: Store,
    /// The metrics.
    pub metrics: Arc<AnalyticsMetrics>,
}

impl RollupFolder {
    /// Works until the soft stop. What is left is folded after the next start.
    pub async fn run(self, shutdown: Shutdown) {
        let mut backoff = Backoff::new(INTERVAL, RETRY_WAIT_MAX);
        let mut cursor = FoldCursor::default();
        loop {
            let pause = match self.run_once(&mut cursor).await {
                Ok(pause) => {
                    backoff.reset();
                    pause
                }
                Err(error) => {
                    let wait = backoff.next_wait();
                    tracing::warn!(%error, ?wait, "cannot fold counts into the rollups, retrying");
                    wait
                }
            };
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Folds one step and returns the pause that is due.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn run_once(&self, cursor: &mut FoldCursor) -> Result<Duration, StoreError> {
        let waiting = self.store.system().unfolded_deltas().await?;
        let gauge = &self.metrics.hookgate_rollup_deltas;
        gauge.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        if waiting == 0 {
            return Ok(INTERVAL);
        }
        let watch = Stopwatch::start();
        // Another server folds for this one, too.
        let folded = self.store.system().fold_next(cursor).await?;
        let Some(step) = folded else { return Ok(INTERVAL) };
        self.metrics.hookgate_rollup_fold_seconds.observe(watch.seconds());
        self.metrics.hookgate_rollup_records_folded_total.inc_by(step.records as u64);
        let factor = if waiting < DELTAS_URGENT { PAUSE_FACTOR } else { 1 };
        Ok(if step.more { watch.elapsed() * factor } else { INTERVAL })
    }
}
