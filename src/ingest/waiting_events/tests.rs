//! Turns, room and deferral, with a model that reads, reads again and stores in any order.

use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::domain::{EventId, TraceId};
use crate::ingest::metrics::{BacklogPriority, IngestMetrics};
use crate::ingest::org_order::{BatchPlace, OrgOrder};
use crate::journal::Extent;
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
        accept_span: None,
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
    let batch = decoded(order.next([org].into_iter()), &events);
    waiting.push(&batch, (org, is_ordered), events.into(), in_backlog(sizes.len()));
    batch
}

/// A batch of these events.
fn decoded(place: BatchPlace, events: &[Arc<Event>]) -> Arc<UnstoredBatch> {
    let batch = UnstoredBatch::unacknowledged(place, Timestamp::from_micros(0), 1);
    batch.decoded(events.iter().map(|event| event.org_id), events);
    Arc::new(batch)
}

/// Everything of these shares is stored.
fn store(waiting: &WaitingEvents, shares: impl IntoIterator<Item = Share>) {
    for share in shares {
        waiting.stored(share, &HashSet::new(), false);
    }
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
    store(&waiting, shares.into_iter().chain(rest));
    let queues = waiting.queues();
    assert_eq!((queues.by_org.len(), queues.turns.len(), queues.size.bytes), (1, 0, 0));
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
    store(&waiting, shares);
    assert!(first.is_stored());
    let shares = waiting.take(500, usize::MAX);
    assert_eq!(sizes(&shares), [(ordered, 100)]);
}

#[test]
fn ordered_events_wait_for_earlier_batches_that_are_sorted_later() {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    let ordered = org(1);
    let (early_events, fast_events) = ([event(ordered, 2)], [event(ordered, 3)]);
    let earlier = decoded(order.next([ordered].into_iter()), &early_events);
    let fast = decoded(order.next([ordered].into_iter()), &fast_events);
    let later = read(&waiting, &order, (ordered, true), &[1; 10]);
    assert!(waiting.take(500, usize::MAX).is_empty(), "those before are not stored");
    waiting.push(&earlier, (ordered, true), early_events.into(), in_backlog(1));
    let shares = waiting.take(500, usize::MAX);
    assert_eq!(sizes(&shares), [(ordered, 1)]);
    store(&waiting, shares);
    assert!(waiting.take(500, usize::MAX).is_empty(), "one in between is on the fast path");
    fast.stored(&fast_events);
    let shares = waiting.take(500, usize::MAX);
    assert_eq!(sizes(&shares), [(ordered, 10)]);
    store(&waiting, shares);
    assert!(later.is_stored());
}

/// What the store refused of an ordered organisation, with what is behind it, holds back its later shares; that of another
/// one holds back nothing.
#[test]
fn refused_event_holds_back_what_is_ordered_behind_it_alone() {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    let (ordered, other) = (org(1), org(2));
    let first = read(&waiting, &order, (ordered, true), &[1; 4]);
    read(&waiting, &order, (ordered, true), &[1; 1]);
    let mut shares = waiting.take(500, usize::MAX);
    let share = shares.pop().unwrap();
    let behind: HashSet<EventId> = share.events[1..].iter().map(|event| event.id).collect();
    waiting.stored(share, &behind, true);
    for left in (1..=3).rev() {
        assert!(waiting.take(500, usize::MAX).is_empty(), "{left} are not stored");
        let part = waiting.next_refused().now_or_never().unwrap();
        assert!(waiting.next_refused().now_or_never().is_none(), "one after the other");
        waiting.refused_again(part);
        waiting.settled(waiting.next_refused().now_or_never().unwrap());
    }
    assert!(first.is_stored());
    store(&waiting, waiting.take(500, usize::MAX));

    let batch = read(&waiting, &order, (other, false), &[1; 100]);
    let share = waiting.take(64, usize::MAX).remove(0);
    let refused: HashSet<EventId> = share.events[..2].iter().map(|event| event.id).collect();
    waiting.stored(share, &refused, false);
    let shares = waiting.take(500, usize::MAX);
    assert_eq!(sizes(&shares), [(other, 36)], "the others go on");
    store(&waiting, shares);
    assert!(!batch.is_stored());
    let parts = [(); 2].map(|()| waiting.next_refused().now_or_never().unwrap());
    for part in parts {
        waiting.settled(part);
    }
    assert!(batch.is_stored());
    assert_eq!(waiting.queues().by_org.len(), 0);
}

#[test]
fn organisation_with_too_many_refused_events_is_stopped_and_others_are_not() {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    let (broken, works) = (org(1), org(2));
    read(&waiting, &order, (broken, false), &[1; 100]);
    let share = waiting.take(64, usize::MAX).remove(0);
    let refused: HashSet<EventId> = share.events.iter().map(|event| event.id).collect();
    waiting.stored(share, &refused, false);
    read(&waiting, &order, (works, false), &[1; 5]);
    let shares = waiting.take(500, usize::MAX);
    assert_eq!(sizes(&shares), [(works, 5)]);
    store(&waiting, shares);
    assert_eq!(waiting.stopped([broken, works].into_iter()), HashSet::from([broken]));
    assert!(waiting.next_accepted_at().now_or_never().is_none());
    waiting.settled(waiting.next_refused().now_or_never().unwrap());
    assert_eq!(sizes(&waiting.take(500, usize::MAX)), [(broken, 36)]);

    let events: Vec<_> = (0..16).map(|number| event(org(10 + number), 1024 * 1024)).collect();
    let batch = decoded(order.next(events.iter().map(|event| event.org_id)), &events);
    let refused: HashSet<EventId> = events.iter().map(|event| event.id).collect();
    assert!(waiting.has_room().now_or_never().is_some());
    waiting.stored_at_once(&batch, events, &refused);
    assert!(waiting.has_room().now_or_never().is_none(), "nothing is read while it is full");
}

#[test]
fn nothing_is_read_while_too_much_waits() {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    assert!(waiting.has_room().now_or_never().is_some());
    read(&waiting, &order, (org(1), false), &[ROOM.bytes]);
    assert!(waiting.has_room().now_or_never().is_none());
    assert_eq!(waiting.take(1, 1).len(), 1);
    assert!(waiting.has_room().now_or_never().is_some());
    read(&waiting, &order, (org(1), false), &vec![0; ROOM.events]);
    assert!(waiting.has_room().now_or_never().is_none());
}

/// Events of an organisation, in number, that take nothing else.
fn so_many(org: OrgId, events: usize) -> HashMap<OrgId, WaitingSize> {
    HashMap::from([(org, WaitingSize { events, bytes: 0 })])
}

/// Lets batches of an organisation wait until there is no room for one more.
fn use_room(waiting: &WaitingEvents, order: &OrgOrder, org: OrgId, events: usize) {
    while waiting.without_room(&so_many(org, events)).is_empty() {
        read(waiting, order, (org, false), &vec![0; events]);
    }
}

#[test]
fn whatever_some_let_wait_there_is_room_for_others() {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    use_room(&waiting, &order, org(1), 500);
    assert!((ROOM.events / 3 - 500..=ROOM.events / 3).contains(&waiting.len()));
    for number in 2..6 {
        use_room(&waiting, &order, org(number), 500);
    }
    assert!(waiting.has_room().now_or_never().is_some());
    assert!(waiting.without_room(&so_many(org(20), 1_000)).is_empty());
    read(&waiting, &order, (org(20), false), &[0; 10]);
    assert!(waiting.without_room(&so_many(org(20), 10)).is_empty());
    assert!(waiting.without_room(&HashMap::new()).is_empty());
}

#[test]
fn what_is_deferred_is_read_again_in_its_order_before_what_is_behind_it() {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    let many = org(1);
    use_room(&waiting, &order, many, 500);
    for seq in 1..=2 {
        let sizes = waiting.without_room(&so_many(many, 500));
        let place = order.next([many].into_iter());
        let batch = UnstoredBatch::unacknowledged(place, Timestamp::from_micros(0), 2);
        let batch = Arc::new(batch);
        batch.decoded(std::iter::empty(), &[]);
        waiting.defer(DeferredBatch {
            batch,
            extent: Extent::of_seq(seq),
            sizes: Arc::new(sizes),
            orgs: 1,
        });
    }
    assert!(waiting.next_deferred().now_or_never().is_none());
    let shares = waiting.take(2_000, usize::MAX);
    assert_eq!(waiting.without_room(&so_many(many, 1)).len(), 1, "room is for the deferred first");
    for seq in 1..=2 {
        let deferred = waiting.next_deferred().now_or_never().unwrap();
        assert_eq!(deferred.extent, Extent::of_seq(seq));
        let events = vec![event(many, 0); 500];
        deferred.batch.decoded([many].into_iter(), &events);
        assert!(!deferred.batch.is_stored());
        waiting.push(&deferred.batch, (many, false), events.into(), in_backlog(500));
        waiting.end_deferral();
    }
    assert!(waiting.without_room(&so_many(many, 1)).is_empty());
    assert!(waiting.next_deferred().now_or_never().is_none());
    let rest = waiting.take(usize::MAX, usize::MAX);
    store(&waiting, shares.into_iter().chain(rest));
    assert_eq!((waiting.len(), waiting.queues().by_org.len()), (0, 0));
}

/// A batch as the journal has it: the events of some organisations, by their number.
type WrittenBatch = Vec<(usize, usize)>;

/// A server that reads, reads again, takes and stores in any order.
#[derive(Default)]
struct WaitingModel {
    waiting: WaitingEvents,
    order: OrgOrder,
    /// That of every event.
    payload: Option<Bytes>,
    batches: Vec<Arc<UnstoredBatch>>,
    journal: Vec<Vec<Arc<Event>>>,
    taken: Vec<Share>,
    stored: Vec<Arc<Event>>,
}

impl WaitingModel {
    /// An event of so many bytes takes a sixteenth of the room.
    const PAYLOAD_BYTES: usize = ROOM.bytes / 16;

    fn is_ordered(org_id: OrgId) -> bool {
        org_id == org(0)
    }

    /// Reads the next batch, if it may.
    fn read(&mut self, written: Option<&WrittenBatch>) -> bool {
        let Some(written) = written else { return false };
        if self.waiting.has_room().now_or_never().is_none() {
            return false;
        }
        let payload = self.payload.get_or_insert_with(|| vec![b'1'; Self::PAYLOAD_BYTES].into());
        let number = self.journal.iter().map(Vec::len).sum::<usize>();
        let orgs = written.iter().flat_map(|(of, events)| std::iter::repeat_n(*of, *events));
        let events: Vec<_> = orgs
            .enumerate()
            .map(|(index, of)| {
                let mut event = Arc::unwrap_or_clone(event(org(i64::try_from(of).unwrap()), 0));
                event.payload = payload.clone();
                event.received_at = Timestamp::from_micros(i64::try_from(number + index).unwrap());
                Arc::new(event)
            })
            .collect();
        let mut sizes = HashMap::<_, WaitingSize>::new();
        for event in &events {
            let size = sizes.entry(event.org_id).or_default();
            *size = size.plus(WaitingSize::of_event(event));
        }
        let place = self.order.next(sizes.keys().copied());
        let deferred = self.waiting.without_room(&sizes);
        let parts = 1 + usize::from(!deferred.is_empty());
        let at = Timestamp::from_micros(0);
        let batch = Arc::new(UnstoredBatch::unacknowledged(place, at, parts));
        let is_deferred = |event: &Arc<Event>| deferred.contains_key(&event.org_id);
        let now: Vec<_> = events.iter().filter(|event| !is_deferred(event)).cloned().collect();
        let now_orgs = sizes.keys().filter(|org| !deferred.contains_key(org)).copied();
        batch.decoded(now_orgs, &now);
        self.journal.push(events);
        self.batches.push(Arc::clone(&batch));
        if !deferred.is_empty() {
            let extent = Extent::of_seq(self.journal.len() as u64 - 1);
            let batch = Arc::clone(&batch);
            self.waiting.defer(DeferredBatch {
                batch,
                extent,
                sizes: Arc::new(deferred),
                orgs: sizes.len(),
            });
        }
        self.push(&batch, now);
        true
    }

    /// Reads again what was deferred, if there is room.
    fn read_again(&self) -> bool {
        let Some(deferred) = self.waiting.next_deferred().now_or_never() else { return false };
        let is_it = |index: &usize| Extent::of_seq(*index as u64) == deferred.extent;
        let events = self.journal[(0..self.journal.len()).find(is_it).unwrap()].iter();
        let events = events.filter(|event| deferred.sizes.contains_key(&event.org_id));
        let events: Vec<_> = events.cloned().collect();
        deferred.batch.decoded(deferred.sizes.keys().copied(), &events);
        self.push(&deferred.batch, events);
        self.waiting.end_deferral();
        true
    }

    fn push(&self, batch: &Arc<UnstoredBatch>, events: Vec<Arc<Event>>) {
        let mut by_org = HashMap::<_, VecDeque<_>>::new();
        for event in events {
            by_org.entry(event.org_id).or_default().push_back(event);
        }
        for (org, events) in by_org {
            let in_backlog = in_backlog(events.len());
            self.waiting.push(batch, (org, Self::is_ordered(org)), events, in_backlog);
        }
        let size = self.waiting.queues().size;
        // At most one batch is beyond it.
        assert!(size.bytes <= 2 * ROOM.bytes, "{size:?}");
    }

    fn take(&mut self, events_max: usize) -> bool {
        let shares = self.waiting.take(events_max, usize::MAX);
        let some = !shares.is_empty();
        self.taken.extend(shares);
        some
    }

    fn store(&mut self, choice: usize) -> bool {
        if self.taken.is_empty() {
            return false;
        }
        let share = self.taken.swap_remove(choice % self.taken.len());
        let in_order = Self::is_ordered(share.org);
        // The store refuses every fourth event.
        let is_refused = |event: &&Arc<Event>| event.received_at.micros() % 4 == 3;
        let refused = share.events.iter().filter(is_refused).map(|event| event.id);
        let mut refused: HashSet<EventId> = refused.collect();
        if let Some(first) = share.events.iter().position(|event| refused.contains(&event.id))
            && in_order
        {
            refused.extend(share.events[first..].iter().map(|event| event.id));
        }
        let is_stored = |event: &&Arc<Event>| !refused.contains(&event.id);
        self.stored.extend(share.events.iter().filter(is_stored).cloned());
        self.waiting.stored(share, &refused, in_order);
        true
    }

    /// Tries what was refused again.
    fn store_refused(&mut self, choice: usize) -> bool {
        let Some(part) = self.waiting.next_refused().now_or_never() else { return false };
        if choice % 2 == 1 {
            self.waiting.refused_again(part);
            return true;
        }
        self.stored.push(Arc::clone(part.first()));
        self.waiting.settled(part);
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_stored_once_and_what_is_ordered_in_its_order(
        written in proptest::collection::vec(proptest::collection::vec((0..4_usize, 1..5_usize), 1..3), 1..30),
        choices in proptest::collection::vec((0..5_usize, 0..8_usize), 0..200),
    ) {
        let (mut model, mut reads) = (WaitingModel::default(), written.iter());
        let mut next = reads.next();
        let mut choices = choices.into_iter();
        loop {
            let (first, choice) = choices.next().unwrap_or_default();
            let went_on = (first..first + 5).any(|action| match action % 5 {
                0 => {
                    let has_read = model.read(next);
                    if has_read {
                        next = reads.next();
                    }
                    has_read
                }
                1 => model.read_again(),
                2 => model.take(choice + 1),
                3 => model.store(choice),
                _ => model.store_refused(choice),
            });
            if !went_on {
                break;
            }
        }
        prop_assert!(next.is_none(), "reading has stopped");
        let number = |event: &Arc<Event>| event.received_at.micros();
        let ordered = model.stored.iter().filter(|event| WaitingModel::is_ordered(event.org_id));
        prop_assert!(ordered.map(number).is_sorted());
        let mut stored: Vec<_> = model.stored.iter().map(number).collect();
        stored.sort_unstable();
        let count: usize = model.journal.iter().map(Vec::len).sum();
        prop_assert_eq!(stored, (0..i64::try_from(count).unwrap()).collect::<Vec<_>>());
        prop_assert!(model.batches.iter().all(|batch| batch.is_stored()));
        prop_assert!(model.waiting.queues().by_org.is_empty());
    }
}
