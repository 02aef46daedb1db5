//! Events that were read and wait to be stored, by organisation.
//!
//! The journal is read in the order of acceptance. So that an organisation with a burst makes nobody behind it wait,
//! its events wait here while reading goes on, and organisations take turns. Memory is bounded by [`ROOM`]: an
//! organisation may use as much as half of what is left, so that some is always left for the next one. What it has
//! beyond that is deferred: reading goes on past it, and it is read again, in its order, once there is room. Only an
//! organisation that uses its room waits in the journal, behind others that do, but not behind one whose events the store
//! refuses: nothing more of that one may be stored for minutes ([`refused_events`](super::refused_events)).

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::deferred_batches::{DeferredBatch, DeferredBatches, WaitingSize};
use super::metrics::BacklogGuard;
use super::refused_events::{RefusedEvents, RefusedIds, RefusedPart};
use super::unstored_batch::UnstoredBatch;
use crate::domain::{Event, OrgId, Timestamp};

/// What may wait in memory, about: the batches that are being decoded come on top.
const ROOM: WaitingSize = WaitingSize { events: 50_000, bytes: 32 * 1024 * 1024 };
/// What an organisation may have there however little room is left.
const FEW: WaitingSize = WaitingSize { events: TURN_EVENTS, bytes: 64 * 1024 };
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
    size: WaitingSize,
    deferred: DeferredBatches,
    refused: RefusedEvents,
}

/// What waits of an organisation.
#[derive(Default)]
struct OrgQueue {
    parts: VecDeque<WaitingPart>,
    size: WaitingSize,
    /// Its shares that are being stored, and what the store refused of others.
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
    pub(super) org: OrgId,
    /// The events, in the order of their acceptance.
    pub(super) events: Vec<Arc<Event>>,
    /// Until the last share of the batch and the organisation is stored.
    in_backlog: Arc<BacklogGuard>,
}

impl WaitingEvents {
    /// Of whom the events of the batch that was read last have to be deferred, for want of room: of these organisations,
    /// which have so many.
    pub(super) fn without_room(
        &self,
        sizes: &HashMap<OrgId, WaitingSize>,
    ) -> HashMap<OrgId, WaitingSize> {
        let queues = self.queues();
        let has_none = |(org, size): &(&OrgId, &WaitingSize)| {
            queues.deferred.has(org) || !queues.has_room_for(org, **size)
        };
        sizes.iter().filter(has_none).map(|(org, size)| (*org, *size)).collect()
    }

    /// Defers events. To be called in the order of reading.
    pub(super) fn defer(&self, deferred: DeferredBatch) {
        self.queues().deferred.push(deferred);
        self.0.changed.notify_waiters();
    }

    /// Waits until there is room for what was deferred first, not counting what has to wait for refused events of its
    /// organisation. It stays deferred until [`Self::end_deferral`], before which this is not called again.
    pub(super) async fn next_deferred(&self) -> DeferredBatch {
        loop {
            self.wait_until(|queues| queues.next_deferred().is_some()).await;
            if let Some(deferred) = self.queues().next_deferred() {
                return deferred.clone();
            }
        }
    }

    /// What [`Self::next_deferred`] returned was pushed.
    pub(super) fn end_deferral(&self, deferred: &DeferredBatch) {
        self.queues().deferred.pop(deferred);
        self.0.changed.notify_waiters();
    }

    /// Adds what a batch has of an organisation, which `is_ordered` when it has ordered endpoints.
    pub(super) fn push(
        &self,
        batch: &Arc<UnstoredBatch>,
        (org, is_ordered): (OrgId, bool),
        events: VecDeque<Arc<Event>>,
        in_backlog: BacklogGuard,
    ) {
        let mut queues = self.queues();
        let sizes = events.iter().map(|event| WaitingSize::of_event(event));
        let size = sizes.fold(WaitingSize::default(), WaitingSize::plus);
        queues.size = queues.size.plus(size);
        let queue = queues.by_org.entry(org).or_default();
        queue.size = queue.size.plus(size);
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
        self.queues().size.events
    }

    /// Waits until more may be read.
    pub(super) async fn has_room(&self) {
        self.wait_until(|queues| {
            queues.has_room() && queues.deferred.has_room() && queues.refused.has_room()
        })
        .await;
    }

    /// Those of some organisations of which nothing is stored now, since the store refuses too much of theirs.
    pub(super) fn stopped(&self, orgs: impl Iterator<Item = OrgId>) -> HashSet<OrgId> {
        let queues = self.queues();
        orgs.filter(|org| queues.refused.is_full_of(*org)).collect()
    }

    /// How much longer than usual batches are gathered.
    pub(super) fn slowdown(&self) -> u32 {
        self.queues().deferred.slowdown()
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

    /// The events of a share are stored, but for those that the store `refused`: they are tried again, `in_order` if that
    /// is asked for.
    pub(super) fn stored(&self, share: Share, refused: &RefusedIds, in_order: bool) {
        let Share { batch, org, events, in_backlog } = share;
        let (refused, stored) = partition(events, refused);
        batch.stored(&stored);
        let mut queues = self.queues();
        let parts = queues.refused.push(&batch, refused, in_order, Some(&in_backlog));
        queues.end_shares(org, 1, parts);
        drop(queues);
        self.0.changed.notify_waiters();
    }

    /// Events of a batch that did not wait here are stored, but for those that the store `refused`.
    pub(super) fn stored_at_once(
        &self,
        batch: &Arc<UnstoredBatch>,
        events: Vec<Arc<Event>>,
        refused: &RefusedIds,
    ) {
        let (refused, stored) = partition(events, refused);
        batch.stored(&stored);
        if !refused.is_empty() {
            self.queues().refused.push(batch, refused, false, None);
        }
        self.0.changed.notify_waiters();
    }

    /// Takes what the store has refused and was tried last, once there is any.
    pub(super) async fn next_refused(&self) -> RefusedPart {
        loop {
            self.wait_until(|queues| !queues.refused.is_empty()).await;
            if let Some(part) = self.queues().refused.take() {
                return part;
            }
        }
    }

    /// The store has refused the first event of a part again. Returns how long to wait before the next is tried.
    pub(super) fn refused_again(&self, part: RefusedPart) -> Duration {
        let pause = self.queues().refused.put_back(part);
        self.0.changed.notify_waiters();
        pause
    }

    /// The first event of a part is stored or set aside.
    pub(super) fn settled(&self, part: RefusedPart) {
        let mut queues = self.queues();
        if let Some(org) = queues.refused.settled(part) {
            queues.end_shares(org, 1, 0);
        }
        drop(queues);
        self.0.changed.notify_waiters();
    }

    async fn wait_until(&self, condition: impl Fn(&mut Queues) -> bool) {
        loop {
            let mut changed = pin!(self.0.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if condition(&mut self.queues()) {
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
    /// Whether there is room for anybody.
    fn has_room(&self) -> bool {
        !self.size.fills(ROOM)
    }

    /// Whether an organisation may have so much more here. One of which nothing waits may, and so may one with a few.
    fn has_room_for(&self, org: &OrgId, more: WaitingSize) -> bool {
        let waiting = self.by_org.get(org).map_or_else(WaitingSize::default, |queue| queue.size);
        let both = waiting.plus(more);
        waiting.events == 0 || both.is_within(FEW) || both.is_half_of(ROOM.minus(self.size))
    }

    /// What was deferred first of what there is room for.
    fn next_deferred(&mut self) -> Option<&DeferredBatch> {
        if !self.has_room() {
            return None;
        }
        let Self { by_org, deferred, refused, .. } = self;
        deferred.part(|org| {
            let is_ordered = by_org.get(org).is_some_and(|queue| queue.is_ordered);
            refused.is_full_of(*org) || is_ordered && refused.has(*org)
        });
        let has_room = |first: &&DeferredBatch| {
            first.sizes.iter().all(|(org, size)| self.has_room_for(org, *size))
        };
        let ready = self.deferred.firsts().filter(has_room);
        ready.reduce(|one, other| if other.batch.is_before(&one.batch) { other } else { one })
    }

    /// The organisation whose turn it is: its place among the turns, and its queue.
    fn next_turn(&self) -> Option<(usize, &OrgQueue)> {
        if !self.refused.has_room() {
            return None;
        }
        self.turns.iter().enumerate().find_map(|(turn, org)| {
            let queue = self.by_org.get(org)?;
            let is_next = !queue.is_ordered || queue.is_next(*org);
            (is_next && !self.refused.is_full_of(*org)).then_some((turn, queue))
        })
    }

    /// So many shares of an organisation have ended, and so many begin.
    fn end_shares(&mut self, org: OrgId, ended: usize, begun: usize) {
        if let Some(queue) = self.by_org.get_mut(&org) {
            queue.being_stored = (queue.being_stored + begun).saturating_sub(ended);
            if queue.being_stored == 0 && queue.parts.is_empty() {
                self.by_org.remove(&org);
            }
        }
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
            self.size = self.size.minus(WaitingSize::of_event(&event));
            queue.size = queue.size.minus(WaitingSize::of_event(&event));
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
        Some(Share { batch, org, events, in_backlog })
    }
}

impl OrgQueue {
    /// Whether everything before its first events is stored.
    fn is_next(&self, org: OrgId) -> bool {
        self.being_stored == 0 && self.parts.front().is_some_and(|part| part.batch.is_first_of(org))
    }
}

/// The events that the store refused, with the number of batches that were begun by then, and the others, in their order.
#[expect(clippy::type_complexity, reason = "it is taken apart at once")]
fn partition(
    events: Vec<Arc<Event>>,
    refused: &RefusedIds,
) -> (Vec<(Arc<Event>, u64)>, Vec<Arc<Event>>) {
    let (mut at_fault, mut others) = (Vec::new(), Vec::with_capacity(events.len()));
    for event in events {
        match refused.get(&event.id) {
            Some(begun) => at_fault.push((event, *begun)),
            None => others.push(event),
        }
    }
    (at_fault, others)
}

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
