//! Whether the writer gets through: a disk that hangs neither fails a call nor returns from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use crate::journal::metrics::JournalMetrics;
use crate::runtime::{Clock, Monotonic};

/// A group that takes longer is a stall. A sync takes milliseconds, and on a busy network disk a second.
const STALLED_AFTER: Duration = Duration::from_secs(5);
/// The value of [`WriteWatch::begun`] while no group is written.
const NONE: i64 = -1;

/// Notes when the writer began with the group that it is writing. The writer itself cannot tell that it hangs, so
/// whoever asks for the journal's state does.
pub(super) struct WriteWatch {
    clock: Clock,
    metrics: Arc<JournalMetrics>,
    /// Microseconds of the monotonic clock.
    begun: AtomicI64,
    /// Whether the stall was logged.
    is_logged: AtomicBool,
}

impl WriteWatch {
    /// No group is written.
    pub(super) fn new(clock: &Clock, metrics: &Arc<JournalMetrics>) -> Self {
        Self {
            clock: clock.clone(),
            metrics: Arc::clone(metrics),
            begun: AtomicI64::new(NONE),
            is_logged: AtomicBool::new(false),
        }
    }

    /// Notes that a group is begun.
    pub(super) fn begin(&self) {
        self.begun.store(self.clock.monotonic().micros(), Ordering::SeqCst);
    }

    /// Notes that it is written, or has failed.
    pub(super) fn end(&self) {
        self.begun.store(NONE, Ordering::SeqCst);
        self.end_stall();
    }

    /// Whether the group in progress takes too long. Logs each stall once.
    pub(super) fn is_stalled(&self) -> bool {
        let begun = self.begun.load(Ordering::SeqCst);
        if begun == NONE {
            return false;
        }
        let waited = self.clock.monotonic().since(Monotonic::from_micros(begun));
        if waited < STALLED_AFTER {
            return false;
        }
        if !self.is_logged.swap(true, Ordering::SeqCst) {
            tracing::error!(?waited, "the journal's disk does not answer; appends wait for it");
            self.metrics.hookgate_journal_stalled.set(1);
            // It may have ended before the lines above.
            if self.begun.load(Ordering::SeqCst) != begun {
                self.end_stall();
            }
        }
        true
    }

    fn end_stall(&self) {
        if self.is_logged.swap(false, Ordering::SeqCst) {
            tracing::info!("the journal's disk answers again");
            self.metrics.hookgate_journal_stalled.set(0);
        }
    }
}
