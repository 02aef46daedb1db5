//! Ends the server when its journal is poisoned, so that a supervisor starts it again: only a new process can tell what
//! the disk holds.

use std::time::Duration;

use tokio::time::timeout;

use crate::journal::{Journal, JournalState};
use crate::runtime::Stopwatch;

/// Waits until the journal is poisoned and its durable records are stored, for at most `drain_max`. Requests are answered
/// meanwhile: posts with 503, and readiness is red. Returns what is left of `drain_max`.
///
/// Never resolves while the journal is sound.
pub(super) async fn drained(journal: &Journal, drain_max: Duration) -> Duration {
    journal.wait_poisoned().await;
    tracing::error!(
        ?drain_max,
        "the journal is poisoned and accepts nothing; storing what is durable, then exiting with an error for the \
         supervisor to start the server again"
    );
    let watch = Stopwatch::start();
    if timeout(drain_max, journal.wait_drained()).await.is_err() {
        let events = journal.status().items_waiting;
        tracing::warn!(
            events,
            "not every durable event could be stored in time; the rest resumes at the next start"
        );
    }
    drain_max.saturating_sub(watch.elapsed())
}

/// Whether the journal is poisoned.
pub(super) fn is_poisoned(journal: &Journal) -> bool {
    journal.status().state == JournalState::Poisoned
}
