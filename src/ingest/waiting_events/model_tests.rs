//! A model that reads, reads again, stores, and tries what was refused again, in any order.

use bytes::Bytes;
use futures_util::FutureExt;
use proptest::prelude::*;

use super::tests::{event, in_backlog, org};
use super::*;
use crate::ingest::org_order::OrgOrder;
use crate::journal::Extent;

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
            let (batch, deferred) = (Arc::clone(&batch), Arc::new(deferred));
            self.waiting.defer(DeferredBatch::new(batch, extent, deferred, sizes.len()));
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
        self.waiting.end_deferral(&deferred);
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
        let refused = share.events.iter().filter(is_refused).map(|event| (event.id, 0));
        let mut refused: RefusedIds = refused.collect();
        if let Some(first) = share.events.iter().position(|event| refused.contains_key(&event.id))
            && in_order
        {
            refused.extend(share.events[first..].iter().map(|event| (event.id, 0)));
        }
        let is_stored = |event: &&Arc<Event>| !refused.contains_key(&event.id);
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
        let queues = model.waiting.queues();
        prop_assert!(queues.by_org.is_empty() && queues.deferred.is_empty());
    }
}
