//! What the workers have read and not stored yet, for probes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::Timestamp;
use crate::journal::Seq;
use crate::runtime::{Clock, Heartbeat};

use super::ack_window::AckWindow;

/// Where a batch lies in the journal, and when its first event was accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) end: Seq,
    pub(super) received_at: Timestamp,
}

/// The batches between the journal and the store. Clones are the same backlog.
#[derive(Clone, Debug)]
pub struct Backlog {
    window: Arc<Mutex<AckWindow<Mark>>>,
    /// A batch was stored.
    pub progress: Heartbeat,
}

impl Backlog {
    /// A backlog without batches.
    pub fn new(clock: &Clock) -> Self {
        let window = Arc::new(Mutex::new(AckWindow::new()));
        Self { window, progress: Heartbeat::new(clock.clone()) }
    }

    /// When the oldest event was accepted whose deliveries are not planned yet; `None` when there is
    /// none.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.window().oldest().map(|mark| mark.received_at)
    }

    pub(super) fn window(&self) -> MutexGuard<'_, AckWindow<Mark>> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
