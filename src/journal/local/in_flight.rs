//! The batches in flight: returned by the reader, and not acknowledged yet.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ack_window::{AckWindow, BatchNumber};
use super::clamped;
use super::segments::Segments;
use crate::domain::Timestamp;
use crate::journal::metrics::JournalMetrics;
use crate::journal::{Ack, AckBackend};

/// Batches that are read and not acknowledged at most, counted from the oldest one. Many, since one event batch may
/// become a million deliveries and take minutes to store, while those behind it are stored at once; some 3 MiB.
const BATCHES_MAX: usize = 65_536;

/// The batches in flight, shared by the reader and their acknowledgements.
pub(super) struct InFlight {
    window: Mutex<AckWindow>,
    /// Notified whenever the oldest batch has been acknowledged.
    moved: Notify,
    segments: Arc<Segments>,
    metrics: Arc<JournalMetrics>,
}

/// The acknowledgement of one batch of a local journal.
pub(in crate::journal) struct LocalAck {
    number: BatchNumber,
    in_flight: Arc<InFlight>,
}

impl InFlight {
    /// No batches yet.
    pub(super) fn new(segments: Arc<Segments>, metrics: Arc<JournalMetrics>) -> Self {
        Self { window: Mutex::default(), moved: Notify::new(), segments, metrics }
    }

    /// Adds the batch that was read next. It has `items` items, and all records below the seq `below` belong to it
    /// or to one before it.
    pub(super) fn add(self: &Arc<Self>, below: u64, items: u64) -> Ack {
        let number = self.window().add(below, items);
        Ack(AckBackend::Local(LocalAck { number, in_flight: Arc::clone(self) }))
    }

    /// Waits until one more batch may be read.
    pub(super) async fn wait_for_capacity(&self) {
        self.wait_until(|window| window.len() < BATCHES_MAX).await;
    }

    /// When the oldest batch was accepted.
    pub(super) fn oldest_accepted_at(&self) -> Option<Timestamp> {
        self.window().oldest_accepted_at()
    }

    async fn wait_until(&self, condition: impl Fn(&AckWindow) -> bool) {
        loop {
            let mut moved = pin!(self.moved.notified());
            // Registered before the check, so that no move in between is missed.
            moved.as_mut().enable();
            if condition(&self.window()) {
                return;
            }
            moved.await;
        }
    }

    fn window(&self) -> MutexGuard<'_, AckWindow> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalAck {
    /// Acknowledges the batch, and moves the journal's end of acknowledged records where it is the oldest.
    pub(in crate::journal) fn ack(self) {
        let Self { number, in_flight } = self;
        let Some(acked) = in_flight.window().ack(number) else { return };
        let waiting = in_flight.segments.ack(acked);
        in_flight.metrics.event_queue_size.set(clamped(waiting));
        in_flight.moved.notify_waiters();
    }

    /// Waits until every batch before this one is acknowledged.
    pub(in crate::journal) async fn wait_until_oldest(&self) {
        self.in_flight.wait_until(|window| window.is_oldest(self.number)).await;
    }

    /// Sets when the batch's first record was accepted.
    pub(in crate::journal) fn set_accepted_at(&self, accepted_at: Timestamp) {
        self.in_flight.window().set_accepted_at(self.number, accepted_at);
    }
}
