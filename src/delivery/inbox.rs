//! Where deliveries are handed over that are leased already.
//!
//! One whose lane has its share is held for a moment, with those behind it: a receiver that gets on makes
//! room by then, and a way through the store costs several writes. Behind a slow receiver that is in vain;
//! what is for it goes back to the store, it counts as crowded as long as something waits for it here,
//! and whoever plans deliveries leaves its in the store.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::{EndpointId, LeasedDelivery};
use crate::runtime::Stopwatch;

/// Deliveries taken off the hand-over channel at a time.
const BATCH_MAX: usize = 256;
/// How long a delivery is held: longer than a busy store takes to record what makes the room.
const HOLD_MAX: Duration = Duration::from_millis(100);
/// How long nothing is held after that was in vain: slow receivers take a tenth of the others' time at
/// the most.
const HOLD_AGAIN: Duration = Duration::from_secs(1);

/// Deliveries that were handed over and are in no lane yet.
#[derive(Debug)]
pub(super) struct Inbox {
    deliveries: mpsc::Receiver<LeasedDelivery>,
    batch: Vec<LeasedDelivery>,
    held: VecDeque<LeasedDelivery>,
    patience: Patience,
    crowded: HashSet<EndpointId>,
    open: bool,
}

impl Inbox {
    pub(super) fn new(deliveries: mpsc::Receiver<LeasedDelivery>) -> Self {
        Self {
            deliveries,
            batch: Vec::with_capacity(BATCH_MAX),
            held: VecDeque::with_capacity(BATCH_MAX),
            patience: Patience::default(),
            crowded: HashSet::new(),
            open: true,
        }
    }

    /// Whether anything may still come.
    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// Deliveries in it.
    pub(super) fn len(&self) -> usize {
        self.deliveries.len() + self.held.len()
    }

    /// Whether deliveries are held: none are received meanwhile.
    pub(super) fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// How much longer the first one may be held.
    pub(super) fn hold_left(&self) -> Duration {
        self.patience.left()
    }

    /// Waits for some of what is handed over, at most `room`, for [`Self::next`]. May be cancelled.
    pub(super) async fn receive(&mut self, room: usize) {
        self.open = self.deliveries.recv_many(&mut self.batch, room.min(BATCH_MAX)).await > 0;
        self.held.extend(self.batch.drain(..));
    }

    /// The same without waiting.
    pub(super) fn receive_now(&mut self, room: usize) {
        while self.held.len() < room.min(BATCH_MAX)
            && let Ok(delivery) = self.deliveries.try_recv()
        {
            self.held.push_back(delivery);
        }
    }

    /// The next delivery, until there is none.
    pub(super) fn next(&mut self) -> Option<LeasedDelivery> {
        self.held.pop_front()
    }

    /// Holds a delivery that was the next, or gives it back if it is not to be held.
    pub(super) fn hold(&mut self, delivery: LeasedDelivery) -> Result<(), LeasedDelivery> {
        if self.crowded.contains(&delivery.endpoint.id) || self.patience.left().is_zero() {
            return Err(delivery);
        }
        self.patience.begin();
        self.held.push_front(delivery);
        Ok(())
    }

    /// Notes that a lane had room for what was the next.
    pub(super) fn has_moved(&mut self) {
        self.patience.succeed();
    }

    /// Notes that something for this endpoint goes back to the store. `true` if nothing had before.
    pub(super) fn crowd(&mut self, endpoint: EndpointId) -> bool {
        self.crowded.insert(endpoint)
    }

    /// Keeps of the crowded endpoints those that still are. `true` if some are not.
    pub(super) fn keep_crowded(&mut self, is_crowded: impl Fn(EndpointId) -> bool) -> bool {
        let before = self.crowded.len();
        self.crowded.retain(|endpoint| is_crowded(*endpoint));
        self.crowded.len() < before
    }

    /// The endpoints for which something went back to the store.
    pub(super) fn crowded(&self) -> impl Iterator<Item = EndpointId> {
        self.crowded.iter().copied()
    }

    /// Lets nobody hand over any more, and returns what is held. Who has reserved room may still use it.
    pub(super) fn close(&mut self) -> VecDeque<LeasedDelivery> {
        self.deliveries.close();
        std::mem::take(&mut self.held)
    }

    /// What is handed over after [`Self::close`]; `None` when all room was used or given up.
    pub(super) async fn rest(&mut self) -> Option<LeasedDelivery> {
        let delivery = self.deliveries.recv().await;
        self.open = delivery.is_some();
        delivery
    }
}

/// How long deliveries may be held: since when they are, or were the last time.
#[derive(Clone, Copy, Debug, Default)]
struct Patience(Option<Stopwatch>);

impl Patience {
    fn left(self) -> Duration {
        match self.0.map(Stopwatch::elapsed) {
            Some(held) if held < HOLD_AGAIN => HOLD_MAX.saturating_sub(held),
            _ => HOLD_MAX,
        }
    }

    /// Something is held, now or still.
    fn begin(&mut self) {
        if self.0.is_none_or(|since| since.elapsed() >= HOLD_AGAIN) {
            self.0 = Some(Stopwatch::start());
        }
    }

    /// It was not in vain, unless it had been before.
    fn succeed(&mut self) {
        if !self.left().is_zero() {
            self.0 = None;
        }
    }
}
