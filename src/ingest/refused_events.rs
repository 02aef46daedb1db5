//! Refused events: the store can be reached and does not take them. They are retried from a queue, one at a time.
//!
//! One task retries them while the workers store other events. That the store takes others is the evidence that it refuses
//! these. Organisations take turns, since a retry may last until a time limit ends it. The queue is bounded: while an
//! organisation has [`ORG_ROOM`] in it, no more of its events are stored, and while the queue is full, nothing is read.
//! Batches in flight may exceed both bounds.
//!
//! Events of an organisation with ordered endpoints are settled in order: the next one is first tried when the one before it
//! is stored or set aside. So several refused events of one batch take two minutes each, one after the other. Their time
//! cannot run at once: whether the store refuses an event is known only by trying to store it, and a try that works would
//! store it out of order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::deferred_batches::WaitingSize;
use super::metrics::BacklogGuard;
use super::unstored_batch::UnstoredBatch;
use crate::domain::{Event, EventId, OrgId};
use crate::runtime::Monotonic;

/// What it holds at most, about.
const ROOM: WaitingSize = WaitingSize { events: 16_384, bytes: 16 * 1024 * 1024 };
/// What it holds of one organisation at most: a small part.
const ORG_ROOM: WaitingSize = WaitingSize { events: 64, bytes: 1024 * 1024 };
/// The pause after a failed retry: each event is retried about twice a second, with at least [`PAUSE_MIN`] between retries.
const PAUSE_MAX: Duration = Duration::from_millis(500);
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Refused events, each with the number of batches that had begun when it was refused.
pub(super) type RefusedIds = HashMap<EventId, u64>;

/// The queue.
#[derive(Default)]
pub(super) struct RefusedEvents {
    by_org: HashMap<OrgId, OrgRefused>,
    /// Organisations with parts to retry, in the order of their turns.
    turns: VecDeque<OrgId>,
    /// The number of parts to retry.
    parts: u32,
    size: WaitingSize,
}

/// The refused events of an organisation.
#[derive(Default)]
struct OrgRefused {
    /// To be retried.
    parts: VecDeque<RefusedPart>,
    /// With the part that is being retried.
    size: WaitingSize,
}

/// A refused event, and the events of its batch and organisation that must be stored after it.
pub(super) struct RefusedPart {
    batch: Arc<UnstoredBatch>,
    first: Arc<Event>,
    behind: VecDeque<Arc<Event>>,
    pub(super) refusal: RefusedSince,
    /// Set when the event had waited in memory, as part of a share.
    in_backlog: Option<Arc<BacklogGuard>>,
}

/// The number of the newest batch that the store has taken: of those with deliveries, and of all.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct TakenBatches {
    pub(super) with_deliveries: u64,
    pub(super) all: u64,
}

/// How long the store has refused an event while it took others.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct RefusedSince {
    /// How many batches had begun when it was first refused.
    begun: u64,
    /// When a batch that had begun later was first known to be stored.
    since: Option<Monotonic>,
}

impl RefusedSince {
    fn first_at(begun: u64) -> Self {
        Self { begun, since: None }
    }

    /// Notes a refused retry that began `at` this time, when the store had taken these batches. Returns how long the event has
    /// been refused since the store took a similar one that began later; `None` if it has taken none, since the cause may then
    /// concern everybody. One is enough: the bounds of this queue may keep all others waiting afterwards.
    pub(super) fn again(
        &mut self,
        has_deliveries: bool,
        taken: TakenBatches,
        at: Monotonic,
    ) -> Option<Duration> {
        let newest = if has_deliveries { taken.with_deliveries } else { taken.all };
        if newest > self.begun {
            self.since.get_or_insert(at);
        }
        self.since.map(|since| at.since(since))
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
        !self.size.fills(ROOM)
    }

    /// Whether an organisation has used up its part of the queue, so that no more of its events are stored.
    pub(super) fn is_full_of(&self, org: OrgId) -> bool {
        self.by_org.get(&org).is_some_and(|refused| refused.size.fills(ORG_ROOM))
    }

    /// Whether an organisation has any refused events.
    pub(super) fn has(&self, org: OrgId) -> bool {
        self.by_org.contains_key(&org)
    }

    /// Whether there is nothing to retry.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Adds events of one batch and organisation, as one part if they are stored `in_order`. Returns the number of parts.
    pub(super) fn push(
        &mut self,
        batch: &Arc<UnstoredBatch>,
        events: Vec<(Arc<Event>, u64)>,
        in_order: bool,
        in_backlog: Option<&Arc<BacklogGuard>>,
    ) -> usize {
        for (event, _) in &events {
            let size = WaitingSize::of_event(event);
            let refused = self.by_org.entry(event.org_id).or_default();
            refused.size = refused.size.plus(size);
            self.size = self.size.plus(size);
        }
        let mut parts = 0;
        let mut events = events.into_iter();
        while let Some((first, begun)) = events.next() {
            let mut behind = VecDeque::new();
            if in_order {
                behind.extend(events.by_ref().map(|(event, _)| event));
            }
            let (batch, in_backlog) = (Arc::clone(batch), in_backlog.cloned());
            let refusal = RefusedSince::first_at(begun);
            let part = RefusedPart { batch, first, behind, refusal, in_backlog };
            self.queue(part.first.org_id).push_back(part);
            parts += 1;
        }
        parts
    }

    /// Takes the part that was tried longest ago, of the organisation whose turn it is.
    pub(super) fn take(&mut self) -> Option<RefusedPart> {
        let org = self.turns.pop_front()?;
        let parts = &mut self.by_org.get_mut(&org)?.parts;
        let part = parts.pop_front()?;
        if !parts.is_empty() {
            self.turns.push_back(org);
        }
        self.parts -= 1;
        Some(part)
    }

    /// The parts of an organisation, to which one is added.
    fn queue(&mut self, org: OrgId) -> &mut VecDeque<RefusedPart> {
        self.parts += 1;
        let parts = &mut self.by_org.entry(org).or_default().parts;
        if parts.is_empty() {
            self.turns.push_back(org);
        }
        parts
    }

    /// Returns a part whose retry failed, and tells how long to wait before the next retry.
    pub(super) fn put_back(&mut self, part: RefusedPart) -> Duration {
        self.queue(part.first.org_id).push_back(part);
        (PAUSE_MAX / self.parts).max(PAUSE_MIN)
    }

    /// The first event of a part is stored or set aside, and the one behind it is next. Returns the organisation if this was the
    /// last event of a share.
    pub(super) fn settled(&mut self, part: RefusedPart) -> Option<OrgId> {
        let RefusedPart { batch, first, mut behind, refusal, in_backlog } = part;
        let org = first.org_id;
        batch.stored(std::slice::from_ref(&first));
        let size = WaitingSize::of_event(&first);
        self.size = self.size.minus(size);
        if let Some(refused) = self.by_org.get_mut(&org) {
            refused.size = refused.size.minus(size);
            if refused.size.events == 0 {
                self.by_org.remove(&org);
            }
        }
        let Some(first) = behind.pop_front() else { return in_backlog.map(|_| org) };
        // The store has taken others while this one waited for the one before it.
        let refusal = RefusedSince::first_at(refusal.begun);
        self.queue(org).push_front(RefusedPart { batch, first, behind, refusal, in_backlog });
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
    fn time_counts_once_another_of_the_kind_is_taken_that_was_begun_later() {
        let at = |minute: u64| Monotonic::ZERO.plus(Duration::from_mins(minute));
        let mut refusal = RefusedSince::first_at(5);
        assert_eq!(refusal.again(true, taken(5, 5), at(0)), None, "it was begun before");
        assert_eq!(refusal.again(true, taken(5, 9), at(5)), None, "others than it");
        assert_eq!(refusal.again(true, taken(6, 10), at(6)), Some(Duration::ZERO));
        // Everybody may wait for it now.
        assert_eq!(refusal.again(true, taken(6, 10), at(9)), Some(Duration::from_mins(3)));
        let mut refusal = RefusedSince::first_at(5);
        assert_eq!(refusal.again(false, taken(5, 5), at(0)), None);
        assert_eq!(refusal.again(false, taken(5, 6), at(1)), Some(Duration::ZERO));
    }
}
