//! The handoff: receives leased deliveries from the ingest workers over two bounded senders.
//!
//! The fast channel is for organisations with few events, so that they do not queue behind another one's
//! thousands; the bulk channel is for the others. If a lane has its share, the head of the bulk queue is held
//! for up to 100 ms: a fast receiver makes room in that time, and a detour through the store costs several
//! writes. Behind a slow receiver holding does not help. Its deliveries are released to the store, and its
//! endpoint is marked as overflowed until its lane is empty: the ingest workers then leave new deliveries in
//! the store.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::{EndpointId, LeasedDelivery};
use crate::runtime::Stopwatch;

/// Maximum deliveries received from a channel at a time.
const BATCH_MAX: usize = 256;
/// How long the head of the queue is held: longer than a busy store takes to record an outcome.
const HOLD_MAX: Duration = Duration::from_millis(100);
/// How long nothing is held after a hold that made no progress, so that slow receivers delay the others for
/// at most a tenth of the time.
const HOLD_AGAIN: Duration = Duration::from_secs(1);

/// One part in this many of the capacity is for [`Priority::Fast`].
const FAST_SHARE: usize = 8;

/// The priority class of a handoff. Neither class waits for the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Priority {
    /// For organisations with few events. A delivery whose lane is full moves to the bulk queue, so nothing is
    /// held in this class.
    Fast,
    /// For the others.
    Bulk,
}

impl Priority {
    /// Both classes.
    pub(super) const ALL: [Self; 2] = [Self::Fast, Self::Bulk];
}

/// The sending ends of the handoff. A worker reserves permits before it leases, so that nothing is leased
/// for which there is no capacity.
#[derive(Clone, Debug)]
pub struct HandoffSenders {
    /// Fast: for organisations with few events in a batch.
    pub fast: mpsc::Sender<LeasedDelivery>,
    /// Bulk: for the others.
    pub bulk: mpsc::Sender<LeasedDelivery>,
}

/// The receiving end: deliveries that were handed off and are in no lane yet.
#[derive(Debug)]
pub struct HandoffReceiver {
    queues: [HandoffQueue; Priority::ALL.len()],
    hold_timer: HoldTimer,
    overflowed: HashSet<EndpointId>,
}

/// The queue of one priority class.
#[derive(Debug)]
struct HandoffQueue {
    deliveries: mpsc::Receiver<LeasedDelivery>,
    batch: Vec<LeasedDelivery>,
    held: VecDeque<LeasedDelivery>,
    open: bool,
}

impl HandoffQueue {
    fn new(deliveries: mpsc::Receiver<LeasedDelivery>) -> Self {
        Self {
            deliveries,
            batch: Vec::with_capacity(BATCH_MAX),
            held: VecDeque::with_capacity(BATCH_MAX),
            open: true,
        }
    }

    /// Whether it may receive: nothing is held, and a sender is left.
    fn receives(&self) -> bool {
        self.open && self.held.is_empty()
    }

    async fn receive(&mut self, free: usize) {
        self.open = self.deliveries.recv_many(&mut self.batch, free.min(BATCH_MAX)).await > 0;
        self.held.extend(self.batch.drain(..));
    }

    async fn drain(&mut self) -> Option<LeasedDelivery> {
        let delivery = self.deliveries.recv().await;
        self.open = delivery.is_some();
        delivery
    }
}

impl HandoffReceiver {
    /// Both ends of a handoff with this capacity, at least two.
    pub(super) fn with_capacity(capacity: usize) -> (HandoffSenders, Self) {
        let for_fast = (capacity / FAST_SHARE).max(1);
        let (fast, from_fast) = mpsc::channel(for_fast);
        let (bulk, from_bulk) = mpsc::channel(capacity.saturating_sub(for_fast).max(1));
        let queues = [HandoffQueue::new(from_fast), HandoffQueue::new(from_bulk)];
        let receiver =
            Self { queues, hold_timer: HoldTimer::default(), overflowed: HashSet::new() };
        (HandoffSenders { fast, bulk }, receiver)
    }

    fn queue(&mut self, priority: Priority) -> &mut HandoffQueue {
        &mut self.queues[priority as usize]
    }

    /// Whether a sender is left.
    pub(super) fn is_open(&self) -> bool {
        self.queues.iter().any(|queue| queue.open)
    }

    /// Whether [`Self::receive`] has something to wait for.
    pub(super) fn receives(&self) -> bool {
        self.queues.iter().any(HandoffQueue::receives)
    }

    /// Deliveries in the queue of one class.
    pub(super) fn len(&self, priority: Priority) -> usize {
        let queue = &self.queues[priority as usize];
        queue.deliveries.len() + queue.held.len()
    }

    /// Deliveries that were received and are in no lane yet.
    pub(super) fn held(&self) -> usize {
        self.queues.iter().map(|queue| queue.held.len()).sum()
    }

    /// How much longer the head of the queue may be held; `None` if nothing is held.
    pub(super) fn hold_left(&self) -> Option<Duration> {
        (self.held() > 0).then(|| self.hold_timer.left())
    }

    /// Receives at most `free` deliveries for [`Self::next`]. A class in which something is held receives
    /// nothing. Cancel safe.
    pub(super) async fn receive(&mut self, free: usize) {
        let [fast, bulk] = &mut self.queues;
        tokio::select! {
            () = fast.receive(free), if fast.receives() => {}
            () = bulk.receive(free), if bulk.receives() => {}
            else => {}
        }
    }

    /// [`Self::receive`] without waiting.
    pub(super) fn receive_now(&mut self, free: usize) {
        for queue in &mut self.queues {
            while queue.held.len() < free.min(BATCH_MAX)
                && let Ok(delivery) = queue.deliveries.try_recv()
            {
                queue.held.push_back(delivery);
            }
        }
    }

    /// The next received delivery of a class.
    pub(super) fn next(&mut self, priority: Priority) -> Option<LeasedDelivery> {
        self.queue(priority).held.pop_front()
    }

    /// Holds a delivery that was the next of the bulk queue, or returns it if it must not be held.
    pub(super) fn hold(&mut self, delivery: LeasedDelivery) -> Result<(), LeasedDelivery> {
        let is_overflowed = self.overflowed.contains(&delivery.endpoint.id);
        if is_overflowed || self.hold_timer.left().is_zero() {
            return Err(delivery);
        }
        self.hold_timer.begin();
        self.queue(Priority::Bulk).held.push_front(delivery);
        Ok(())
    }

    /// Appends a fast delivery to the bulk queue and returns its position there, counted from 1.
    pub(super) fn move_to_bulk(&mut self, delivery: LeasedDelivery) -> usize {
        let held = &mut self.queue(Priority::Bulk).held;
        held.push_back(delivery);
        held.len()
    }

    /// Notes that the head of the bulk queue found room in its lane.
    pub(super) fn made_progress(&mut self) {
        self.hold_timer.succeed();
    }

    /// Marks an endpoint as overflowed. `true` if it was not before.
    pub(super) fn mark_overflowed(&mut self, endpoint: EndpointId) -> bool {
        self.overflowed.insert(endpoint)
    }

    /// Keeps the overflowed endpoints for which `is_overflowed` holds. `true` if others were removed.
    pub(super) fn retain_overflowed(&mut self, is_overflowed: impl Fn(EndpointId) -> bool) -> bool {
        let before = self.overflowed.len();
        self.overflowed.retain(|endpoint| is_overflowed(*endpoint));
        self.overflowed.len() < before
    }

    /// The overflowed endpoints.
    pub(super) fn overflowed(&self) -> impl Iterator<Item = EndpointId> {
        self.overflowed.iter().copied()
    }

    /// Closes the channels and returns what was received. Senders with a permit may still use it.
    pub(super) fn close(&mut self) -> Vec<LeasedDelivery> {
        let close = |queue: &mut HandoffQueue| {
            queue.deliveries.close();
            std::mem::take(&mut queue.held)
        };
        self.queues.iter_mut().flat_map(close).collect()
    }

    /// The next delivery handed off after [`Self::close`]; `None` when every permit is used or dropped.
    pub(super) async fn drain(&mut self) -> Option<LeasedDelivery> {
        let [fast, bulk] = &mut self.queues;
        while fast.open || bulk.open {
            let delivery = tokio::select! {
                delivery = fast.drain(), if fast.open => delivery,
                delivery = bulk.drain(), if bulk.open => delivery,
            };
            if delivery.is_some() {
                return delivery;
            }
        }
        None
    }
}

/// Limits how long the head of the bulk queue is held: the time since the current or the last hold began.
#[derive(Clone, Copy, Debug, Default)]
struct HoldTimer(Option<Stopwatch>);

impl HoldTimer {
    fn left(self) -> Duration {
        match self.0.map(Stopwatch::elapsed) {
            Some(held) if held < HOLD_AGAIN => HOLD_MAX.saturating_sub(held),
            _ => HOLD_MAX,
        }
    }

    /// A hold begins or continues.
    fn begin(&mut self) {
        if self.0.is_none_or(|since| since.elapsed() >= HOLD_AGAIN) {
            self.0 = Some(Stopwatch::start());
        }
    }

    /// A hold made progress, unless its time was over before.
    fn succeed(&mut self) {
        if !self.left().is_zero() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::webhook::tests::delivery;
    use super::*;

    /// More than any test hands off.
    const CAPACITY: usize = 100;

    #[tokio::test]
    async fn held_bulk_delivery_does_not_delay_fast_deliveries() {
        let (senders, mut receiver) = HandoffReceiver::with_capacity(CAPACITY);
        senders.bulk.send(delivery()).await.unwrap();
        receiver.receive(CAPACITY).await;
        let head = receiver.next(Priority::Bulk).unwrap();
        let head_id = head.id;
        receiver.hold(head).unwrap();

        senders.bulk.send(delivery()).await.unwrap();
        let few = delivery();
        let few_id = few.id;
        senders.fast.send(few).await.unwrap();
        assert!(receiver.receives());
        receiver.receive(CAPACITY).await;
        assert_eq!(receiver.next(Priority::Fast).map(|delivery| delivery.id), Some(few_id));
        assert_eq!(receiver.len(Priority::Bulk), 2, "nothing is received behind what is held");
        assert_eq!(receiver.next(Priority::Bulk).map(|delivery| delivery.id), Some(head_id));
    }

    #[tokio::test]
    async fn closed_handoff_drains_deliveries_of_both_priorities() {
        let (senders, mut receiver) = HandoffReceiver::with_capacity(CAPACITY);
        let permits = [senders.fast.reserve_owned().await, senders.bulk.reserve_owned().await];
        assert!(receiver.close().is_empty());
        for permit in permits {
            permit.unwrap().send(delivery());
        }
        assert!(receiver.drain().await.is_some());
        assert!(receiver.drain().await.is_some());
        assert!(receiver.drain().await.is_none());
        assert!(!receiver.is_open());
    }

    #[tokio::test]
    async fn smallest_handoff_has_capacity_for_both_priorities() {
        let (senders, _receiver) = HandoffReceiver::with_capacity(0);
        assert_eq!((senders.fast.capacity(), senders.bulk.capacity()), (1, 1));
    }
}
