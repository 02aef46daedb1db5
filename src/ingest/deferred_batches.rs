//! Batches of which the events of some organisations were left in the journal, to be read again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

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
    pub(super) orgs: usize,
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
    /// In how many of them an organisation has events.
    by_org: HashMap<OrgId, usize>,
    /// The sum of these numbers.
    parts: usize,
    /// The organisations of the batches, each counted in each.
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

    /// The one that was read first.
    pub(super) fn first(&self) -> Option<&DeferredBatch> {
        self.batches.front()
    }

    /// The first one waits in memory now.
    pub(super) fn pop(&mut self) {
        let Some(first) = self.batches.pop_front() else { return };
        self.parts -= first.sizes.len();
        self.orgs -= first.orgs;
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
