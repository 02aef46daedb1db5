//! The batches in flight: returned by the reader, and not acknowledged yet.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ack_window::{AckWindow, BatchNumber};
use super::append_queue::AppendQueue;
use super::clamped;
use super::held_bytes::HeldBytes;
use super::segments::Segments;
use super::shares::OrgBytes;
use crate::domain::Timestamp;
use crate::journal::metrics::JournalMetrics;
use crate::journal::{Ack, AckBackend};

/// Batches that are read and not acknowledged at most, counted from the oldest one. Many, since one event batch may
/// become a million deliveries and take minutes to store, while those behind it are stored at once; some 3 MiB.
const BATCHES_MAX: usize = 65_536;

/// The batches in flight, shared by the reader and their acknowledgements.
pub(super) struct InFlight {
    state: Mutex<State>,
    /// Notified whenever the oldest batch has been acknowledged.
    moved: Notify,
    segments: Arc<Segments>,
    queue: Arc<AppendQueue>,
    metrics: Arc<JournalMetrics>,
}

#[derive(Default)]
struct State {
    window: AckWindow,
    held: HeldBytes,
    /// Whether the reader has returned every record there will be.
    reader_ended: bool,
}

/// The acknowledgement of one batch of a local journal.
pub(in crate::journal) struct LocalAck {
    number: BatchNumber,
    in_flight: Arc<InFlight>,
}

impl InFlight {
    /// No batches yet.
    pub(super) fn new(
        segments: Arc<Segments>,
        queue: Arc<AppendQueue>,
        metrics: Arc<JournalMetrics>,
    ) -> Self {
        Self { state: Mutex::default(), moved: Notify::new(), segments, queue, metrics }
    }

    /// Adds the batch that was read next. It has `items` items and these bytes of organisations, and all records below
    /// the seq `below` belong to it or to one before it.
    pub(super) fn add(self: &Arc<Self>, below: u64, items: u64, bytes: OrgBytes) -> Ack {
        let mut state = self.lock();
        let number = state.window.add(below, items);
        state.held.add(number, bytes);
        drop(state);
        Ack(AckBackend::Local(LocalAck { number, in_flight: Arc::clone(self) }))
    }

    /// Waits until one more batch may be read.
    pub(super) async fn wait_for_capacity(&self) {
        self.wait_until(|state| state.window.len() < BATCHES_MAX).await;
    }

    /// Notes that the reader has returned every record there will be.
    pub(super) fn end_reader(&self) {
        self.lock().reader_ended = true;
        self.moved.notify_waiters();
    }

    /// Waits until the reader has returned every record and every batch is acknowledged.
    pub(super) async fn wait_drained(&self) {
        self.wait_until(|state| state.reader_ended && state.window.len() == 0).await;
    }

    /// When the oldest batch was accepted.
    pub(super) fn oldest_accepted_at(&self) -> Option<Timestamp> {
        self.lock().window.oldest_accepted_at()
    }

    async fn wait_until(&self, condition: impl Fn(&State) -> bool) {
        loop {
            let mut moved = pin!(self.moved.notified());
            // Registered before the check, so that no move in between is missed.
            moved.as_mut().enable();
            if condition(&self.lock()) {
                return;
            }
            moved.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LocalAck {
    /// Acknowledges the batch, and moves the journal's end of acknowledged records where it is the oldest.
    pub(in crate::journal) fn ack(self) {
        let Self { number, in_flight } = self;
        let mut state = in_flight.lock();
        let (acked, freed) = (state.window.ack(number), state.held.ack(number));
        drop(state);
        let Some(acked) = acked else { return };
        let waiting = in_flight.segments.ack(acked);
        let unstored = in_flight.queue.give_back(&freed);
        in_flight.metrics.hookgate_journal_unstored_bytes.set(clamped(unstored));
        in_flight.metrics.event_queue_size.set(clamped(waiting));
        in_flight.moved.notify_waiters();
    }

    /// Sets when the batch's first record was accepted.
    pub(in crate::journal) fn set_accepted_at(&self, accepted_at: Timestamp) {
        self.in_flight.lock().window.set_accepted_at(self.number, accepted_at);
    }
}
