//! The order of batches, by organisation: what a batch has of an organisation is stored after what earlier batches
//! have of it, where that is asked for, and whatever they have of others.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::OrgId;

/// The batches that are being stored. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct OrgOrder(Arc<Mutex<Batches>>);

/// Batches are numbers here, in the order in which they were read.
#[derive(Debug, Default)]
struct Batches {
    read: u64,
    /// Those of which something of an organisation is not stored.
    unstored: HashMap<OrgId, BTreeSet<u64>>,
}

/// A batch that is being stored. One that is dropped before it is stored, as its worker ends, holds those behind it for
/// ever: what it has would be stored after the next start, behind theirs.
#[derive(Debug)]
pub(super) struct BatchPlace {
    order: OrgOrder,
    number: u64,
}

impl OrgOrder {
    /// The place of a batch with events of these organisations behind those before. To be called in the order of reading.
    pub(super) fn next(&self, orgs: impl Iterator<Item = OrgId>) -> BatchPlace {
        let mut batches = self.batches();
        let number = batches.read;
        batches.read += 1;
        for org in orgs {
            batches.unstored.entry(org).or_default().insert(number);
        }
        BatchPlace { order: self.clone(), number }
    }

    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BatchPlace {
    /// Everything that the batch has of an organisation is stored.
    pub(super) fn stored(&self, org: OrgId) {
        let mut batches = self.order.batches();
        if let Some(unstored) = batches.unstored.get_mut(&org) {
            unstored.remove(&self.number);
            if unstored.is_empty() {
                batches.unstored.remove(&org);
            }
        }
    }

    /// Whether the batch was read before another one.
    pub(super) const fn is_before(&self, other: &Self) -> bool {
        self.number < other.number
    }

    /// Whether everything that earlier batches have of an organisation is stored.
    pub(super) fn is_first_of(&self, org: OrgId) -> bool {
        self.order.batches().are_stored(org, self.number)
    }
}

impl Batches {
    /// Whether nothing of an organisation is missing in the batches before one.
    fn are_stored(&self, org: OrgId, before: u64) -> bool {
        let first = self.unstored.get(&org).and_then(|batches| batches.first());
        first.is_none_or(|first| *first >= before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn batch_waits_for_earlier_ones_with_the_same_organisation_alone() {
        let order = OrgOrder::default();
        let (one, other) = (OrgId::mint(Timestamp::from_micros(1)), OrgId::FIRST);
        let next = |orgs: &[OrgId]| order.next(orgs.iter().copied());
        let (first, second, third) = (next(&[one, other]), next(&[one]), next(&[one, other]));
        let waits = |place: &BatchPlace, org| !place.is_first_of(org);
        assert!(!waits(&first, one));
        assert!(waits(&second, one) && waits(&third, one) && waits(&third, other));
        first.stored(one);
        assert!(!waits(&second, one) && waits(&third, one) && waits(&third, other));
        first.stored(other);
        assert!(!waits(&third, other) && waits(&third, one));
        let fourth = next(&[]);
        second.stored(one);
        assert!(!waits(&third, one));
        drop(third);
        assert!(waits(&fourth, one), "what the third has is not stored");
    }
}
