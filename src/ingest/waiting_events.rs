//! Events that were read and wait to be stored, by organisation.
//!
//! The journal is read in the order of acceptance. So that an organisation with a burst makes nobody behind it wait,
//! its events wait here while reading goes on, and organisations take turns. The number is bounded: beyond
//! [`EVENTS_MAX`] or [`BYTES_MAX`] nothing is read, and who comes then waits in the journal.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::metrics::BacklogGuard;
use super::unstored_batch::UnstoredBatch;
use crate::domain::{Event, OrgId, Timestamp};

/// Events that wait before nothing is read any more.
const EVENTS_MAX: usize = 50_000;
/// The same in bytes of memory.
const BYTES_MAX: usize = 32 * 1024 * 1024;
/// Bytes that an event takes beside its payload, about.
const EVENT_BYTES: usize = 512;
/// Events that are taken of an organisation in one turn.
const TURN_EVENTS: usize = 64;

/// The events that wait. Clones share them.
#[derive(Clone, Default)]
pub(super) struct WaitingEvents(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    changed: Notify,
}

#[derive(Default)]
struct Queues {
    by_org: HashMap<OrgId, OrgQueue>,
    /// Organisations with events, in the order of their turns.
    turns: VecDeque<OrgId>,
    events: usize,
    bytes: usize,
}

/// What waits of an organisation.
#[derive(Default)]
struct OrgQueue {
    parts: VecDeque<WaitingPart>,
    /// Its shares that are being stored.
    being_stored: usize,
    /// Whether it has ordered endpoints: its shares are stored one after the other.
    is_ordered: bool,
}

/// What waits of an organisation and a batch.
struct WaitingPart {
    batch: Arc<UnstoredBatch>,
    events: VecDeque<Arc<Event>>,
    in_backlog: Arc<BacklogGuard>,
}

/// Events of a batch and an organisation that were taken to be stored.
pub(super) struct Share {
    batch: Arc<UnstoredBatch>,
    org: OrgId,
    /// The events, in the order of their acceptance.
    pub(super) events: Vec<Arc<Event>>,
    /// Until the last share of the batch and the organisation is stored.
    _in_backlog: Arc<BacklogGuard>,
}

impl WaitingEvents {
    /// Adds what a batch has of an organisation, which `is_ordered` when it has ordered endpoints.
    pub(super) fn push(
        &self,
        batch: &Arc<UnstoredBatch>,
        (org, is_ordered): (OrgId, bool),
        events: VecDeque<Arc<Event>>,
        in_backlog: BacklogGuard,
    ) {
        let mut queues = self.queues();
        queues.events += events.len();
        queues.bytes += events.iter().map(|event| bytes_of(event)).sum::<usize>();
        let queue = queues.by_org.entry(org).or_default();
        let is_first = queue.parts.is_empty();
        queue.is_ordered = is_ordered;
        let in_backlog = Arc::new(in_backlog);
        // Batches are sorted by several workers at a time.
        let place = queue.parts.partition_point(|part| part.batch.is_before(batch));
        queue.parts.insert(place, WaitingPart { batch: Arc::clone(batch), events, in_backlog });
        if is_first {
            queues.turns.push_back(org);
        }
        drop(queues);
        self.0.changed.notify_waiters();
    }

    /// How many events wait.
    pub(super) fn len(&self) -> usize {
        self.queues().events
    }

    /// Waits until more may be read.
    pub(super) async fn has_room(&self) {
        self.wait_until(|queues| queues.events < EVENTS_MAX && queues.bytes < BYTES_MAX).await;
    }

    /// Waits until some events may be stored, and returns when the next ones were accepted.
    pub(super) async fn next_accepted_at(&self) -> Option<Timestamp> {
        self.wait_until(|queues| queues.next_turn().is_some()).await;
        let queues = self.queues();
        let (_, next) = queues.next_turn()?;
        Some(next.parts.front()?.batch.accepted_at())
    }

    /// Takes events of the organisations whose turn it is: at most so many, until their payloads have so many bytes.
    pub(super) fn take(&self, events_max: usize, bytes_max: usize) -> Vec<Share> {
        let mut queues = self.queues();
        let (mut shares, mut events, mut bytes) = (Vec::new(), 0, 0);
        while events < events_max && bytes < bytes_max {
            let Some(share) = queues.take_share(events_max - events, bytes_max - bytes) else {
                break;
            };
            events += share.events.len();
            bytes += share.events.iter().map(|event| event.payload.len()).sum::<usize>();
            shares.push(share);
        }
        drop(queues);
        self.0.changed.notify_waiters();
        shares
    }

    /// The events of a share are stored.
    pub(super) fn stored(&self, share: &Share) {
        share.batch.stored(&share.events);
        let mut queues = self.queues();
        if let Some(queue) = queues.by_org.get_mut(&share.org) {
            queue.being_stored = queue.being_stored.saturating_sub(1);
            if queue.being_stored == 0 && queue.parts.is_empty() {
                queues.by_org.remove(&share.org);
            }
        }
        drop(queues);
        self.0.changed.notify_waiters();
    }

    /// Looks again at what may be stored: something was stored that did not wait here.
    pub(super) fn wake(&self) {
        self.0.changed.notify_waiters();
    }

    async fn wait_until(&self, condition: impl Fn(&Queues) -> bool) {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if condition(&self.queues()) {
                return;
            }
            changed.await;
        }
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    /// The organisation whose turn it is: its place among the turns, and its queue.
    fn next_turn(&self) -> Option<(usize, &OrgQueue)> {
        self.turns.iter().enumerate().find_map(|(turn, org)| {
            let queue = self.by_org.get(org)?;
            (!queue.is_ordered || queue.is_next(*org)).then_some((turn, queue))
        })
    }

    /// Takes the next share, of one organisation and one batch.
    fn take_share(&mut self, events_max: usize, bytes_max: usize) -> Option<Share> {
        let turn = self.next_turn()?.0;
        let org = self.turns.remove(turn)?;
        let queue = self.by_org.get_mut(&org)?;
        // What is ordered has no second share beside this one.
        let turn_events = if queue.is_ordered { events_max } else { TURN_EVENTS.min(events_max) };
        let part = queue.parts.front_mut()?;
        let (batch, in_backlog) = (Arc::clone(&part.batch), Arc::clone(&part.in_backlog));
        let (mut events, mut bytes) = (Vec::new(), 0);
        while events.len() < turn_events && bytes < bytes_max {
            let Some(event) = part.events.pop_front() else { break };
            self.events = self.events.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes_of(&event));
            bytes += event.payload.len();
            events.push(event);
        }
        if part.events.is_empty() {
            queue.parts.pop_front();
        }
        queue.being_stored += 1;
        if !queue.parts.is_empty() {
            self.turns.push_back(org);
        }
        Some(Share { batch, org, events, _in_backlog: in_backlog })
    }
}

impl OrgQueue {
    /// Whether everything before its first events is stored.
    fn is_next(&self, org: OrgId) -> bool {
        self.being_stored == 0 && self.parts.front().is_some_and(|part| part.batch.is_first_of(org))
    }
}

/// The memory that an event takes, about.
fn bytes_of(event: &Event) -> usize {
    EVENT_BYTES + event.payload.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt;

    use super::*;
    use crate::domain::{EventId, TraceId};
    use crate::ingest::metrics::{BacklogPriority, IngestMetrics};
    use crate::ingest::org_order::OrgOrder;
    use crate::telemetry::Registry;

    fn org(number: i64) -> OrgId {
        OrgId::mint(Timestamp::from_micros(number * 1_000))
    }

    fn event(org_id: OrgId, payload: usize) -> Arc<Event> {
        let at = Timestamp::from_micros(0);
        Arc::new(Event {
            id: EventId::mint(at),
            org_id,
            event_type: "a.b".parse().unwrap(),
            payload: Bytes::from(vec![b'1'; payload]),
            dedup_id: None,
            account_id: None,
            user_id: None,
            occurred_at: None,
            received_at: at,
            trace_id: TraceId::mint(),
        })
    }

    fn in_backlog(events: usize) -> BacklogGuard {
        let metrics = IngestMetrics::register(&Registry::new()).unwrap();
        metrics.reading(BacklogPriority::Bulk, events)
    }

    /// Reads a batch of events, each of so many bytes, and lets all wait.
    fn read(
        waiting: &WaitingEvents,
        order: &OrgOrder,
        (org, is_ordered): (OrgId, bool),
        sizes: &[usize],
    ) -> Arc<UnstoredBatch> {
        let events: Vec<_> = sizes.iter().map(|size| event(org, *size)).collect();
        let at = Timestamp::from_micros(0);
        let batch = Arc::new(UnstoredBatch::unacknowledged(order.next(), at, &events));
        waiting.push(&batch, (org, is_ordered), events.into(), in_backlog(sizes.len()));
        batch
    }

    fn sizes(shares: &[Share]) -> Vec<(OrgId, usize)> {
        shares.iter().map(|share| (share.org, share.events.len())).collect()
    }

    #[test]
    fn organisations_take_turns() {
        let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
        let (many, few) = (org(1), org(2));
        read(&waiting, &order, (many, false), &[1; 500]);
        read(&waiting, &order, (many, false), &[1; 500]);
        read(&waiting, &order, (few, false), &[1; 3]);
        let shares = waiting.take(200, usize::MAX);
        assert_eq!(sizes(&shares), [(many, 64), (few, 3), (many, 64), (many, 64), (many, 5)]);
        assert_eq!(waiting.len(), 1_003 - 200);
        assert_eq!(waiting.take(usize::MAX, 100).len(), 2, "as many as have so many bytes");
        let rest = waiting.take(usize::MAX, usize::MAX);
        let taken: usize = rest.iter().map(|share| share.events.len()).sum();
        assert_eq!((taken, waiting.len()), (1_003 - 200 - 100, 0));
        assert!(waiting.next_accepted_at().now_or_never().is_none());
        shares.iter().chain(&rest).for_each(|share| waiting.stored(share));
        let queues = waiting.queues();
        assert_eq!((queues.by_org.len(), queues.turns.len(), queues.bytes), (1, 0, 0));
    }

    #[test]
    fn ordered_organisation_has_one_share_stored_at_a_time() {
        let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
        let (ordered, other) = (org(1), org(2));
        let first = read(&waiting, &order, (ordered, true), &[1; 100]);
        read(&waiting, &order, (ordered, true), &[1; 100]);
        read(&waiting, &order, (other, false), &[1; 10]);
        let shares = waiting.take(500, usize::MAX);
        assert_eq!(sizes(&shares), [(ordered, 100), (other, 10)]);
        assert!(waiting.take(500, usize::MAX).is_empty());
        assert!(waiting.next_accepted_at().now_or_never().is_none());
        waiting.stored(&shares[0]);
        assert!(first.is_stored());
        let shares = waiting.take(500, usize::MAX);
        assert_eq!(sizes(&shares), [(ordered, 100)]);
    }

    #[test]
    fn ordered_events_wait_for_earlier_batches_that_are_sorted_later() {
        let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
        let (ordered, earlier, fast) = (org(1), order.next(), order.next());
        let later = read(&waiting, &order, (ordered, true), &[1; 10]);
        assert!(waiting.take(500, usize::MAX).is_empty(), "nobody knows what those before have");
        let (early_events, fast_events) = ([event(ordered, 2)], [event(ordered, 3)]);
        let at = Timestamp::from_micros(0);
        let earlier = Arc::new(UnstoredBatch::unacknowledged(earlier, at, &early_events));
        let fast = UnstoredBatch::unacknowledged(fast, at, &fast_events);
        waiting.push(&earlier, (ordered, true), early_events.into(), in_backlog(1));
        let shares = waiting.take(500, usize::MAX);
        assert_eq!(sizes(&shares), [(ordered, 1)]);
        waiting.stored(&shares[0]);
        assert!(waiting.take(500, usize::MAX).is_empty(), "one in between is on the fast path");
        fast.stored(&fast_events);
        let shares = waiting.take(500, usize::MAX);
        assert_eq!(sizes(&shares), [(ordered, 10)]);
        waiting.stored(&shares[0]);
        assert!(later.is_stored());
    }

    #[test]
    fn nothing_is_read_while_too_much_waits() {
        let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
        assert!(waiting.has_room().now_or_never().is_some());
        read(&waiting, &order, (org(1), false), &[BYTES_MAX]);
        assert!(waiting.has_room().now_or_never().is_none());
        assert_eq!(waiting.take(1, 1).len(), 1);
        assert!(waiting.has_room().now_or_never().is_some());
        read(&waiting, &order, (org(1), false), &vec![0; EVENTS_MAX]);
        assert!(waiting.has_room().now_or_never().is_none());
    }
}
