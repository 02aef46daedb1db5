//! Events that the store does not take although it can be reached: a queue of parts that are tried again one after the
//! other, beside everything else.
//!
//! They keep no worker, so that what is read behind them is stored, and shows that the store takes others. The queue is
//! bounded: nothing more is stored of an organisation that has [`ORG_EVENTS_MAX`] events in it until one of them is
//! settled, and nothing is read while it is full. Batches that were being stored by then come on top.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::deferred_batches::WaitingSize;
use super::metrics::BacklogGuard;
use super::unstored_batch::UnstoredBatch;
use crate::domain::{Event, OrgId};
use crate::runtime::Monotonic;

/// What it holds at most, about.
const ROOM: WaitingSize = WaitingSize { events: 16_384, bytes: 16 * 1024 * 1024 };
/// Events of one organisation at most.
const ORG_EVENTS_MAX: usize = 64;
/// How long to wait after a try in vain: so long that each is tried about twice a second, but at least [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_millis(500);
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// The queue.
#[derive(Default)]
pub(super) struct RefusedEvents {
    parts: VecDeque<RefusedPart>,
    /// How many events an organisation has here.
    by_org: HashMap<OrgId, usize>,
    size: WaitingSize,
}

/// Events of one batch and organisation of which the first was refused; the others are stored after it.
pub(super) struct RefusedPart {
    batch: Arc<UnstoredBatch>,
    first: Arc<Event>,
    behind: VecDeque<Arc<Event>>,
    pub(super) refusal: RefusedSince,
    /// Where it is of a share of what waits.
    in_backlog: Option<Arc<BacklogGuard>>,
}

/// How many batches the store has taken: of those with deliveries, and in all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct TakenBatches {
    pub(super) with_deliveries: u64,
    pub(super) all: u64,
}

/// For how long the store is known to refuse an event while it takes others.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct RefusedSince {
    /// Batches that were taken before the last try.
    taken: Option<TakenBatches>,
    /// When it was first known to have taken others since it refused this one.
    since: Option<Monotonic>,
}

impl RefusedSince {
    /// Notes that a try was refused that began `at` this time, when so many batches were taken. Returns for how long the
    /// store has refused the event while it took others like it; `None` if it has taken none since the try before: then all
    /// may be refused for a reason that concerns everybody.
    pub(super) fn again(
        &mut self,
        has_deliveries: bool,
        taken: TakenBatches,
        at: Monotonic,
    ) -> Option<Duration> {
        let before = self.taken.replace(taken)?;
        let has_taken = if has_deliveries {
            taken.with_deliveries > before.with_deliveries
        } else {
            taken.all > before.all
        };
        has_taken.then(|| at.since(*self.since.get_or_insert(at)))
    }
}

impl RefusedPart {
    /// The event that was refused.
    pub(super) fn first(&self) -> &Arc<Event> {
        &self.first
    }
}

impl RefusedEvents {
    /// Whether more may be read.
    pub(super) const fn has_room(&self) -> bool {
        self.size.events < ROOM.events && self.size.bytes < ROOM.bytes
    }

    /// Whether an organisation has so many here that no more of it is to be stored.
    pub(super) fn is_full_of(&self, org: OrgId) -> bool {
        self.by_org.get(&org).is_some_and(|events| *events >= ORG_EVENTS_MAX)
    }

    /// Whether there is nothing to try.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Adds what a batch has of one organisation, as one part where it is stored `in_order`. Returns how many parts it
    /// makes.
    pub(super) fn push(
        &mut self,
        batch: &Arc<UnstoredBatch>,
        events: Vec<Arc<Event>>,
        in_order: bool,
        in_backlog: Option<&Arc<BacklogGuard>>,
    ) -> usize {
        for event in &events {
            *self.by_org.entry(event.org_id).or_default() += 1;
            self.size = self.size.plus(WaitingSize::of_event(event));
        }
        let before = self.parts.len();
        let mut events = VecDeque::from(events);
        while let Some(first) = events.pop_front() {
            let behind = if in_order { std::mem::take(&mut events) } else { VecDeque::new() };
            let (batch, in_backlog) = (Arc::clone(batch), in_backlog.cloned());
            let refusal = RefusedSince::default();
            self.parts.push_back(RefusedPart { batch, first, behind, refusal, in_backlog });
        }
        self.parts.len() - before
    }

    /// The part that was tried longest ago, to be tried.
    pub(super) fn take(&mut self) -> Option<RefusedPart> {
        self.parts.pop_front()
    }

    /// A part was tried in vain. Returns how long to wait before the next try.
    pub(super) fn put_back(&mut self, part: RefusedPart) -> Duration {
        self.parts.push_back(part);
        let parts = u32::try_from(self.parts.len()).unwrap_or(u32::MAX);
        (PAUSE_MAX / parts).max(PAUSE_MIN)
    }

    /// The first event of a part is stored or set aside: the one behind it is next. Returns the organisation of a share that
    /// has ended thereby.
    pub(super) fn settled(&mut self, part: RefusedPart) -> Option<OrgId> {
        let RefusedPart { batch, first, mut behind, refusal: _, in_backlog } = part;
        let org = first.org_id;
        batch.stored(std::slice::from_ref(&first));
        self.size = self.size.minus(WaitingSize::of_event(&first));
        if let Some(events) = self.by_org.get_mut(&org) {
            *events -= 1;
            if *events == 0 {
                self.by_org.remove(&org);
            }
        }
        let Some(first) = behind.pop_front() else { return in_backlog.map(|_| org) };
        let refusal = RefusedSince::default();
        self.parts.push_front(RefusedPart { batch, first, behind, refusal, in_backlog });
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn taken(with_deliveries: u64, all: u64) -> TakenBatches {
        TakenBatches { with_deliveries, all }
    }

    #[test]
    fn time_counts_only_while_others_of_the_kind_are_taken_between_two_tries() {
        let at = |minute: u64| Monotonic::ZERO.plus(Duration::from_mins(minute));
        let mut refusal = RefusedSince::default();
        assert_eq!(refusal.again(true, taken(5, 5), at(0)), None, "it may be the store");
        assert_eq!(refusal.again(true, taken(5, 9), at(5)), None, "others than it");
        assert_eq!(refusal.again(true, taken(6, 10), at(6)), Some(Duration::ZERO));
        assert_eq!(refusal.again(true, taken(6, 10), at(9)), None, "the store may have gone");
        assert_eq!(refusal.again(true, taken(7, 11), at(10)), Some(Duration::from_mins(4)));
        let mut refusal = RefusedSince::default();
        assert_eq!(refusal.again(false, taken(5, 5), at(0)), None);
        assert_eq!(refusal.again(false, taken(6, 6), at(1)), Some(Duration::ZERO));
    }
}
