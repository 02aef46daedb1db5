//! The order of batches, by organisation: what a batch has of an organisation is stored after what earlier batches
//! have of it, where that is asked for, and whatever they have of others.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::OrgId;

/// The batches that are being stored.
#[derive(Clone, Debug, Default)]
pub(super) struct OrgOrder(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    batches: Mutex<Batches>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Batches {
    /// By the order in which they were read: the organisations of which something may not be stored yet. `None`
    /// before a batch is decoded.
    unstored: BTreeMap<u64, Option<HashSet<OrgId>>>,
    read: u64,
}

/// A batch that is being stored. One that is dropped before it is stored, as its worker ends, holds those behind it for
/// ever: what it has would be stored after the next start, behind theirs.
#[derive(Debug)]
pub(super) struct BatchPlace {
    order: OrgOrder,
    number: u64,
}

impl OrgOrder {
    /// The place of a batch behind those before. To be called in the order of reading.
    pub(super) fn next(&self) -> BatchPlace {
        let mut batches = self.0.batches();
        let number = batches.read;
        batches.read += 1;
        batches.unstored.insert(number, None);
        BatchPlace { order: self.clone(), number }
    }
}

impl BatchPlace {
    /// Tells whose events the batch has.
    pub(super) fn set_orgs(&self, orgs: impl Iterator<Item = OrgId>) {
        self.change(|unstored| *unstored = Some(orgs.collect()));
    }

    /// The whole batch is stored.
    pub(super) fn all_stored(self) {
        self.order.0.batches().unstored.remove(&self.number);
        self.order.0.changed.notify_waiters();
    }

    /// Everything that the batch has of these organisations is stored.
    pub(super) fn stored(&self, orgs: &HashSet<OrgId>) {
        self.change(|unstored| {
            if let Some(unstored) = unstored {
                unstored.retain(|org| !orgs.contains(org));
            }
        });
    }

    /// Waits until everything that earlier batches have of these organisations is stored.
    pub(super) async fn wait_for_earlier(&self, orgs: &HashSet<OrgId>) {
        loop {
            let mut changed = pin!(self.order.0.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let is_stored = |unstored: &Option<HashSet<OrgId>>| {
                unstored.as_ref().is_some_and(|unstored| unstored.is_disjoint(orgs))
            };
            let waits = self
                .order
                .0
                .batches()
                .unstored
                .range(..self.number)
                .any(|(_, unstored)| !is_stored(unstored));
            if !waits {
                return;
            }
            changed.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Option<HashSet<OrgId>>)) {
        if let Some(unstored) = self.order.0.batches().unstored.get_mut(&self.number) {
            change(unstored);
        }
        self.order.0.changed.notify_waiters();
    }
}

impl Shared {
    fn batches(&self) -> MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn batch_waits_for_earlier_ones_with_the_same_organisation_alone() {
        let order = OrgOrder::default();
        let (one, other) = (OrgId::mint(Timestamp::from_micros(1)), OrgId::FIRST);
        let (ones, others) = (HashSet::from([one]), HashSet::from([other]));
        let (first, second, third) = (order.next(), order.next(), order.next());
        let waits =
            |place: &BatchPlace, orgs| place.wait_for_earlier(orgs).now_or_never().is_none();
        assert!(!waits(&first, &ones));
        assert!(waits(&second, &ones), "nobody knows yet what the first has");
        first.set_orgs([one, other].into_iter());
        second.set_orgs([one].into_iter());
        assert!(waits(&second, &ones) && waits(&third, &others));
        first.stored(&ones);
        assert!(!waits(&second, &ones) && waits(&third, &ones) && waits(&third, &others));
        first.all_stored();
        assert!(!waits(&third, &others) && waits(&third, &ones));
        let fourth = order.next();
        second.all_stored();
        assert!(!waits(&third, &ones));
        drop(third);
        assert!(waits(&fourth, &ones), "what the third has is not stored");
    }

    #[tokio::test]
    async fn waiting_batch_is_woken() {
        let order = OrgOrder::default();
        let orgs = HashSet::from([OrgId::FIRST]);
        let (first, second) = (order.next(), order.next());
        let mut waiting = Box::pin(second.wait_for_earlier(&orgs));
        assert!(waiting.as_mut().now_or_never().is_none());
        first.all_stored();
        waiting.await;
    }
}
