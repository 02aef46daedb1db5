//! Batches of which the events of some organisations were left in the journal, to be read again.
//!
//! They are read again in the order of reading, batch by batch, once there is room for all that was deferred of the batch.
//! An organisation whose events the store refuses may have no room for minutes. So what is deferred of it gets a queue of
//! its own, and the batches of the others go on; a batch is then read once more for each organisation of that kind.
//!
//! The bounds are for all together, since a journal is acknowledged in its order: what one organisation keeps waiting keeps
//! the bytes of everybody behind it. One that is stopped, and goes on posting, defers a part of each batch. At the pace of
//! [`slowdown`](DeferredBatches::slowdown), that fills [`DEFERRED_MAX`] in about 40 minutes, sooner where batches are full
//! sooner, and [`ORGS_MAX`] the sooner the more organisations post: with 500 in each batch within minutes. Then nothing is
//! read until something of it is stored or set aside.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::record::record_owner;
use super::unstored_batch::UnstoredBatch;
use crate::domain::{Event, OrgId};
use crate::journal::{Extent, Record};

/// Batches and organisations of which something is deferred at most, some 300 bytes each.
const DEFERRED_MAX: usize = 65_536;
/// Organisations in all of these batches at most, deferred or not: the journal keeps the bytes of each until its batch is
/// acknowledged, in 24 bytes.
const ORGS_MAX: usize = 1_000_000;
/// Bytes that an event takes beside its payload, about.
const EVENT_BYTES: usize = 512;

/// Events of a batch that were deferred: they lie in the journal.
#[derive(Clone)]
pub(super) struct DeferredBatch {
    pub(super) batch: Arc<UnstoredBatch>,
    pub(super) extent: Extent,
    /// Whose events, and what they take in memory.
    pub(super) sizes: Arc<HashMap<OrgId, WaitingSize>>,
    /// How many organisations the batch has events of.
    orgs: usize,
    /// How many other parts of the batch are deferred, each of an organisation with a queue of its own.
    others: Arc<AtomicUsize>,
}

/// What events take that wait in memory.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct WaitingSize {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// The deferred events, in the order of reading.
#[derive(Default)]
pub(super) struct DeferredBatches {
    batches: VecDeque<DeferredBatch>,
    /// What was deferred of organisations that keep nobody else waiting, before what [`Self::batches`] has of them.
    apart: HashMap<OrgId, VecDeque<DeferredBatch>>,
    /// In how many of them an organisation has events.
    by_org: HashMap<OrgId, usize>,
    /// The sum of these numbers.
    parts: usize,
    /// The organisations of the batches, each counted once in each.
    orgs: usize,
}

impl DeferredBatches {
    /// Whether one more may be added.
    pub(super) const fn has_room(&self) -> bool {
        self.parts < DEFERRED_MAX && self.orgs < ORGS_MAX
    }

    /// How much longer than usual batches are gathered, so that they are fewer: the fuller this is, the longer. A batch is
    /// gathered for at most 25 ms, since everybody's events wait for that, but in the last quarter, for 100 ms: what
    /// comes then is that nothing is read, and nobody's events are stored, until the backlog has gone down.
    pub(super) const fn slowdown(&self) -> u32 {
        let (parts, orgs) = (4 * self.parts / DEFERRED_MAX, 4 * self.orgs / ORGS_MAX);
        match if parts > orgs { parts } else { orgs } {
            0 => 1,
            1 => 5,
            2 => 6,
            _ => 25,
        }
    }

    /// Whether something of an organisation is deferred. Then everything behind it has to be.
    pub(super) fn has(&self, org: &OrgId) -> bool {
        self.by_org.contains_key(org)
    }

    /// Adds the batch that was read last.
    pub(super) fn push(&mut self, deferred: DeferredBatch) {
        for org in deferred.sizes.keys() {
            *self.by_org.entry(*org).or_default() += 1;
        }
        self.parts += deferred.sizes.len();
        self.orgs += deferred.orgs;
        self.batches.push_back(deferred);
    }

    /// Whether nothing is deferred, and nothing is counted that was.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let Self { batches, apart, by_org, parts, orgs } = self;
        batches.is_empty() && apart.is_empty() && by_org.is_empty() && (*parts, *orgs) == (0, 0)
    }

    /// Gives organisations that are stopped a queue of their own, with what the batches that are next have of them. Whoever
    /// has one keeps it until it is empty, since what is in it comes first. Not to be called while a batch is read again.
    pub(super) fn part(&mut self, is_stopped: impl Fn(&OrgId) -> bool) {
        while let Some(first) = self.batches.front_mut() {
            let is_apart = |org: &OrgId| self.apart.contains_key(org) || is_stopped(org);
            if !first.sizes.keys().any(is_apart) {
                return;
            }
            let sizes = first.sizes.iter().map(|(org, size)| (*org, *size));
            let (apart, rest): (HashMap<_, _>, HashMap<_, _>) =
                sizes.partition(|(org, _)| is_apart(org));
            let parts_more = apart.len() - usize::from(rest.is_empty());
            first.others.fetch_add(parts_more, Ordering::Relaxed);
            first.batch.parted(parts_more);
            for (org, size) in apart {
                let sizes = Arc::new(HashMap::from([(org, size)]));
                let queue = self.apart.entry(org).or_default();
                queue.push_back(DeferredBatch { sizes, ..first.clone() });
            }
            if !rest.is_empty() {
                first.sizes = Arc::new(rest);
                return;
            }
            self.batches.pop_front();
        }
    }

    /// What is next: of the batches, and of each organisation with a queue of its own.
    pub(super) fn firsts(&self) -> impl Iterator<Item = &DeferredBatch> {
        self.batches.front().into_iter().chain(self.apart.values().filter_map(VecDeque::front))
    }

    /// One that was next waits in memory now.
    pub(super) fn pop(&mut self, first: &DeferredBatch) {
        let is_it = |other: Option<&DeferredBatch>| {
            other.is_some_and(|other| Arc::ptr_eq(&other.sizes, &first.sizes))
        };
        if is_it(self.batches.front()) {
            self.batches.pop_front();
        } else {
            self.apart.retain(|_, queue| {
                if is_it(queue.front()) {
                    queue.pop_front();
                }
                !queue.is_empty()
            });
        }
        self.parts -= first.sizes.len();
        if first.others.load(Ordering::Relaxed) == 0 {
            self.orgs -= first.orgs;
        } else {
            first.others.fetch_sub(1, Ordering::Relaxed);
        }
        for org in first.sizes.keys() {
            if let Some(left) = self.by_org.get_mut(org) {
                *left -= 1;
                if *left == 0 {
                    self.by_org.remove(org);
                }
            }
        }
    }
}

impl DeferredBatch {
    /// What was deferred of a batch with events of so many organisations.
    pub(super) fn new(
        batch: Arc<UnstoredBatch>,
        extent: Extent,
        sizes: Arc<HashMap<OrgId, WaitingSize>>,
        orgs: usize,
    ) -> Self {
        Self { batch, extent, sizes, orgs, others: Arc::default() }
    }

    /// Whether a record was deferred.
    pub(super) fn has(&self, record: &Record) -> bool {
        record_owner(&record.payload).is_some_and(|org| self.sizes.contains_key(&org))
    }
}

impl WaitingSize {
    /// What the events of a record take, about.
    pub(super) const fn of_record(record: &Record) -> Self {
        let events = record.items as usize;
        Self { events, bytes: events * EVENT_BYTES + record.payload.len() }
    }

    /// What an event takes, about.
    pub(super) const fn of_event(event: &Event) -> Self {
        Self { events: 1, bytes: EVENT_BYTES + event.payload.len() }
    }

    /// Both together.
    pub(super) const fn plus(self, other: Self) -> Self {
        Self { events: self.events + other.events, bytes: self.bytes + other.bytes }
    }

    /// What is left without the other.
    pub(super) const fn minus(self, other: Self) -> Self {
        Self {
            events: self.events.saturating_sub(other.events),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }

    /// Whether it is at most half of another.
    pub(super) const fn is_half_of(self, other: Self) -> bool {
        self.is_within(Self { events: other.events / 2, bytes: other.bytes / 2 })
    }

    /// Whether it fills what another one has room for, in events or bytes.
    pub(super) const fn fills(self, room: Self) -> bool {
        self.events >= room.events || self.bytes >= room.bytes
    }

    /// Whether it is at most another.
    pub(super) const fn is_within(self, other: Self) -> bool {
        self.events <= other.events && self.bytes <= other.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_gathered_for_longer_the_more_is_deferred() {
        let slowdown =
            |parts, orgs| DeferredBatches { parts, orgs, ..DeferredBatches::default() }.slowdown();
        assert_eq!(
            [0, 1, 2, 3].map(|quarter| slowdown(quarter * DEFERRED_MAX / 4, 0)),
            [1, 5, 6, 25]
        );
        assert_eq!(slowdown(DEFERRED_MAX / 4, ORGS_MAX / 2), 6, "the fuller of both");
    }
}
