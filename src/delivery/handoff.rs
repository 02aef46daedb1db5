//! Where deliveries are handed over that are leased already.
//!
//! They come by two entries, so that a few for one organisation wait behind nobody's thousands. One whose lane
//! has its share is held for a moment, with the bulk behind it: a receiver that gets on makes
//! room by then, and a way through the store costs several writes. Behind a slow receiver that is in vain;
//! what is for it goes back to the store, it counts as crowded as long as something waits for it here,
//! and whoever plans deliveries leaves its in the store.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::domain::{EndpointId, LeasedDelivery};
use crate::runtime::Stopwatch;

/// Deliveries taken off a channel at a time.
const BATCH_MAX: usize = 256;
/// How long a delivery is held: longer than a busy store takes to record what makes the room.
const HOLD_MAX: Duration = Duration::from_millis(100);
/// How long nothing is held after that was in vain: slow receivers take a tenth of the others' time at
/// the most.
const HOLD_AGAIN: Duration = Duration::from_secs(1);

/// One part in so many of the room is for what comes by [`Priority::Express`].
const EXPRESS_SHARE: usize = 8;

/// How deliveries are handed over: what comes by one entry waits for nothing that came by the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Priority {
    /// A few for an organisation. What finds its lane full goes behind the bulk, so that nothing is held here.
    Express,
    /// Any number.
    Bulk,
}

impl Priority {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Express, Self::Bulk];
}

/// Where to hand deliveries over. Who leases reserves a permit first, so that nothing is leased that
/// nobody has room for.
#[derive(Clone, Debug)]
pub struct HandoffSenders {
    /// For organisations with few events in a batch.
    pub express: mpsc::Sender<LeasedDelivery>,
    /// For the others.
    pub bulk: mpsc::Sender<LeasedDelivery>,
}

/// Deliveries that were handed over and are in no lane yet.
#[derive(Debug)]
pub struct HandoffReceiver {
    queues: [HandoffQueue; Priority::ALL.len()],
    hold_timer: HoldTimer,
    crowded: HashSet<EndpointId>,
}

/// What came by one entry.
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

    /// Whether it may receive: nothing is held, and something may still come.
    fn receives(&self) -> bool {
        self.open && self.held.is_empty()
    }

    async fn receive(&mut self, room: usize) {
        self.open = self.deliveries.recv_many(&mut self.batch, room.min(BATCH_MAX)).await > 0;
        self.held.extend(self.batch.drain(..));
    }

    async fn rest(&mut self) -> Option<LeasedDelivery> {
        let delivery = self.deliveries.recv().await;
        self.open = delivery.is_some();
        delivery
    }
}

impl HandoffReceiver {
    /// An inbox for `capacity` deliveries, two at least, and where to hand them over.
    pub(super) fn with_capacity(capacity: usize) -> (HandoffSenders, Self) {
        let for_express = (capacity / EXPRESS_SHARE).max(1);
        let (express, from_express) = mpsc::channel(for_express);
        let (bulk, from_bulk) = mpsc::channel(capacity.saturating_sub(for_express).max(1));
        let queues = [HandoffQueue::new(from_express), HandoffQueue::new(from_bulk)];
        let inbox = Self { queues, hold_timer: HoldTimer::default(), crowded: HashSet::new() };
        (HandoffSenders { express, bulk }, inbox)
    }

    fn queue(&mut self, priority: Priority) -> &mut HandoffQueue {
        &mut self.queues[priority as usize]
    }

    /// Whether anything may still come.
    pub(super) fn is_open(&self) -> bool {
        self.queues.iter().any(|queue| queue.open)
    }

    /// Whether [`Self::receive`] has something to wait for.
    pub(super) fn receives(&self) -> bool {
        self.queues.iter().any(HandoffQueue::receives)
    }

    /// Deliveries that came by one entry and are in it.
    pub(super) fn len(&self, priority: Priority) -> usize {
        let queue = &self.queues[priority as usize];
        queue.deliveries.len() + queue.held.len()
    }

    /// Deliveries that were received and are held.
    pub(super) fn held(&self) -> usize {
        self.queues.iter().map(|queue| queue.held.len()).sum()
    }

    /// How much longer the first of those that are held may be; `None` when none is.
    pub(super) fn hold_left(&self) -> Option<Duration> {
        (self.held() > 0).then(|| self.hold_timer.left())
    }

    /// Waits for some of what is handed over, at most `room`, for [`Self::next`]; neither entry keeps the
    /// other from its turn. Nothing is received where something is held. May be cancelled.
    pub(super) async fn receive(&mut self, room: usize) {
        let [express, bulk] = &mut self.queues;
        tokio::select! {
            () = express.receive(room), if express.receives() => {}
            () = bulk.receive(room), if bulk.receives() => {}
            else => {}
        }
    }

    /// The same without waiting.
    pub(super) fn receive_now(&mut self, room: usize) {
        for queue in &mut self.queues {
            while queue.held.len() < room.min(BATCH_MAX)
                && let Ok(delivery) = queue.deliveries.try_recv()
            {
                queue.held.push_back(delivery);
            }
        }
    }

    /// The next delivery that came by this entry, until there is none.
    pub(super) fn next(&mut self, priority: Priority) -> Option<LeasedDelivery> {
        self.queue(priority).held.pop_front()
    }

    /// Holds a delivery that was the next of the bulk, or gives it back if it is not to be held.
    pub(super) fn hold(&mut self, delivery: LeasedDelivery) -> Result<(), LeasedDelivery> {
        let is_crowded = self.crowded.contains(&delivery.endpoint.id);
        if is_crowded || self.hold_timer.left().is_zero() {
            return Err(delivery);
        }
        self.hold_timer.begin();
        self.queue(Priority::Bulk).held.push_front(delivery);
        Ok(())
    }

    /// Puts what came by express behind what is held of the bulk, and returns its place there, from 1 on.
    pub(super) fn put_behind(&mut self, delivery: LeasedDelivery) -> usize {
        let held = &mut self.queue(Priority::Bulk).held;
        held.push_back(delivery);
        held.len()
    }

    /// Notes that a lane had room for what was the next of the bulk.
    pub(super) fn has_moved(&mut self) {
        self.hold_timer.succeed();
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
    pub(super) fn close(&mut self) -> Vec<LeasedDelivery> {
        let close = |queue: &mut HandoffQueue| {
            queue.deliveries.close();
            std::mem::take(&mut queue.held)
        };
        self.queues.iter_mut().flat_map(close).collect()
    }

    /// What is handed over after [`Self::close`]; `None` when all room was used or given up.
    pub(super) async fn rest(&mut self) -> Option<LeasedDelivery> {
        let [express, bulk] = &mut self.queues;
        while express.open || bulk.open {
            let delivery = tokio::select! {
                delivery = express.rest(), if express.open => delivery,
                delivery = bulk.rest(), if bulk.open => delivery,
            };
            if delivery.is_some() {
                return delivery;
            }
        }
        None
    }
}

/// How long deliveries may be held: since when they are, or were the last time.
#[derive(Clone, Copy, Debug, Default)]
struct HoldTimer(Option<Stopwatch>);

impl HoldTimer {
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

#[cfg(test)]
mod tests {
    use super::super::webhook::tests::delivery;
    use super::*;

    /// More than any test hands over.
    const ROOM: usize = 100;

    #[tokio::test]
    async fn what_is_held_of_the_bulk_holds_up_nothing_else() {
        let (channels, mut inbox) = HandoffReceiver::with_capacity(ROOM);
        channels.bulk.send(delivery()).await.unwrap();
        inbox.receive(ROOM).await;
        let head = inbox.next(Priority::Bulk).unwrap();
        let head_id = head.id;
        inbox.hold(head).unwrap();

        channels.bulk.send(delivery()).await.unwrap();
        let few = delivery();
        let few_id = few.id;
        channels.express.send(few).await.unwrap();
        assert!(inbox.receives());
        inbox.receive(ROOM).await;
        assert_eq!(inbox.next(Priority::Express).map(|delivery| delivery.id), Some(few_id));
        assert_eq!(inbox.len(Priority::Bulk), 2, "nothing is received behind what is held");
        assert_eq!(inbox.next(Priority::Bulk).map(|delivery| delivery.id), Some(head_id));
    }

    #[tokio::test]
    async fn closed_inbox_gives_out_what_was_still_handed_over_by_either_entry() {
        let (channels, mut inbox) = HandoffReceiver::with_capacity(ROOM);
        let permits = [channels.express.reserve_owned().await, channels.bulk.reserve_owned().await];
        assert!(inbox.close().is_empty());
        for permit in permits {
            permit.unwrap().send(delivery());
        }
        assert!(inbox.rest().await.is_some());
        assert!(inbox.rest().await.is_some());
        assert!(inbox.rest().await.is_none());
        assert!(!inbox.is_open());
    }

    #[tokio::test]
    async fn smallest_inbox_has_room_at_both_entries() {
        let (channels, _inbox) = HandoffReceiver::with_capacity(0);
        assert_eq!((channels.express.capacity(), channels.bulk.capacity()), (1, 1));
    }
}
