//! Turns, room, deferral and what the store refuses.

use bytes::Bytes;
use futures_util::FutureExt;

use super::*;
use crate::domain::{EventId, TraceId};
use crate::ingest::metrics::{BacklogPriority, IngestMetrics};
use crate::ingest::org_order::{BatchPlace, OrgOrder};
use crate::journal::Extent;
use crate::telemetry::Registry;

pub(super) fn org(number: i64) -> OrgId {
    OrgId::mint(Timestamp::from_micros(number * 1_000))
}

pub(super) fn event(org_id: OrgId, payload: usize) -> Arc<Event> {
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

pub(super) fn in_backlog(events: usize) -> BacklogGuard {
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
        waiting.stored(share, &RefusedIds::new(), false);
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
    let behind: RefusedIds = share.events[1..].iter().map(|event| (event.id, 0)).collect();
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
    let refused: RefusedIds = share.events[..2].iter().map(|event| (event.id, 0)).collect();
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
    let refused: RefusedIds = share.events.iter().map(|event| (event.id, 0)).collect();
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
    let refused: RefusedIds = events.iter().map(|event| (event.id, 0)).collect();
    assert!(waiting.has_room().now_or_never().is_some());
    waiting.stored_at_once(&batch, events, &refused);
    assert!(waiting.has_room().now_or_never().is_none(), "nothing is read while it is full");
}

#[test]
fn refused_events_are_retried_by_organisations_in_turn() {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    let (many, few) = (org(1), org(2));
    for (org, count) in [(many, 64), (few, 2)] {
        let events: Vec<_> = (0..count).map(|_| event(org, 1)).collect();
        let batch = decoded(order.next([org].into_iter()), &events);
        let refused: RefusedIds = events.iter().map(|event| (event.id, 0)).collect();
        waiting.stored_at_once(&batch, events, &refused);
    }
    let retried = [(); 6].map(|()| {
        let part = waiting.next_refused().now_or_never().unwrap();
        let org = part.first().org_id;
        waiting.refused_again(part);
        org
    });
    assert_eq!(retried, [many, few, many, few, many, few]);
}

#[test]
fn large_refused_events_of_one_organisation_leave_most_of_the_room_to_others() {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    let broken = org(1);
    read(&waiting, &order, (broken, false), &[512 * 1024; 3]);
    let share = waiting.take(2, usize::MAX).remove(0);
    let refused: RefusedIds = share.events.iter().map(|event| (event.id, 0)).collect();
    waiting.stored(share, &refused, false);
    assert_eq!(waiting.stopped([broken].into_iter()), HashSet::from([broken]));
    assert!(waiting.has_room().now_or_never().is_some());
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

/// Defers a batch of which nothing else was read.
fn defer(
    waiting: &WaitingEvents,
    place: BatchPlace,
    seq: u64,
    sizes: HashMap<OrgId, WaitingSize>,
) -> Arc<UnstoredBatch> {
    let batch = Arc::new(UnstoredBatch::unacknowledged(place, Timestamp::from_micros(0), 2));
    batch.decoded(std::iter::empty(), &[]);
    let (orgs, sizes) = (sizes.len(), Arc::new(sizes));
    waiting.defer(DeferredBatch::new(Arc::clone(&batch), Extent::of_seq(seq), sizes, orgs));
    batch
}

/// Reads again what was deferred of an organisation in the next batch, this many events, and returns which batch it is.
fn read_again(waiting: &WaitingEvents, (org, is_ordered): (OrgId, bool), events: usize) -> Extent {
    let deferred = waiting.next_deferred().now_or_never().unwrap();
    assert_eq!(*deferred.sizes, so_many(org, events));
    let events = vec![event(org, 0); events];
    deferred.batch.decoded([org].into_iter(), &events);
    waiting.push(&deferred.batch, (org, is_ordered), events.into(), in_backlog(1));
    waiting.end_deferral(&deferred);
    deferred.extent
}

/// The store refuses the first share of an organisation, which has no room for more, and of which four batches are deferred;
/// two of them have events of another.
fn others_are_read_again_while_refused_events_keep_one_waiting(is_ordered: bool, refused: usize) {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    let (broken, other) = (org(1), org(2));
    read(&waiting, &order, (broken, is_ordered), &[0; 64]);
    let share = waiting.take(64, usize::MAX).remove(0);
    let refused_ids: RefusedIds =
        share.events[64 - refused..].iter().map(|event| (event.id, 0)).collect();
    waiting.stored(share, &refused_ids, is_ordered);
    while waiting.without_room(&so_many(broken, 500)).is_empty() {
        read(&waiting, &order, (broken, is_ordered), &[0; 500]);
    }
    let both: HashMap<_, _> = so_many(broken, 500).into_iter().chain(so_many(other, 10)).collect();
    let mut batches = Vec::new();
    for seq in 1..=4 {
        let sizes = if seq % 2 == 0 { both.clone() } else { so_many(broken, 500) };
        let place = order.next(sizes.keys().copied());
        batches.push(defer(&waiting, place, seq, sizes));
    }
    for seq in [2, 4] {
        assert_eq!(read_again(&waiting, (other, false), 10), Extent::of_seq(seq));
    }
    assert!(waiting.next_deferred().now_or_never().is_none(), "it has no room");
    let shares = waiting.take(500, usize::MAX);
    assert_eq!(sizes(&shares), [(other, 10), (other, 10)]);
    store(&waiting, shares);
    assert!(!waiting.without_room(&so_many(broken, 1)).is_empty());
    assert!(waiting.without_room(&so_many(other, 1)).is_empty());

    let mut read = Vec::new();
    while batches.iter().any(|batch| !batch.is_stored()) {
        while let Some(part) = waiting.next_refused().now_or_never() {
            waiting.settled(part);
        }
        store(&waiting, waiting.take(500, usize::MAX));
        while waiting.next_deferred().now_or_never().is_some() {
            read.push(read_again(&waiting, (broken, is_ordered), 500));
        }
    }
    assert_eq!(read, [1, 2, 3, 4].map(Extent::of_seq), "in its order");
    let queues = waiting.queues();
    assert!(queues.by_org.is_empty() && queues.deferred.is_empty());
}

#[test]
fn what_is_deferred_behind_an_organisation_that_is_stopped_is_read_again() {
    others_are_read_again_while_refused_events_keep_one_waiting(false, 64);
}

#[test]
fn what_is_deferred_behind_an_ordered_organisation_with_a_refused_event_is_read_again() {
    others_are_read_again_while_refused_events_keep_one_waiting(true, 1);
}

#[test]
fn what_is_deferred_is_read_again_in_its_order_before_what_is_behind_it() {
    let (waiting, order) = (WaitingEvents::default(), OrgOrder::default());
    let many = org(1);
    use_room(&waiting, &order, many, 500);
    for seq in 1..=2 {
        let sizes = waiting.without_room(&so_many(many, 500));
        let place = order.next([many].into_iter());
        defer(&waiting, place, seq, sizes);
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
        waiting.end_deferral(&deferred);
    }
    assert!(waiting.without_room(&so_many(many, 1)).is_empty());
    assert!(waiting.next_deferred().now_or_never().is_none());
    let rest = waiting.take(usize::MAX, usize::MAX);
    store(&waiting, shares.into_iter().chain(rest));
    assert_eq!((waiting.len(), waiting.queues().by_org.len()), (0, 0));
}
