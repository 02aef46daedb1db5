//! Stream limits: how many long polls, event streams and exports are open at once, in total and per owner.
//!
//! They last far longer than other requests, so they hold no permit for reads and no connection to the store while they
//! wait, and have limits of their own. Half of the total is left to the other owners while one holds the rest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::byte_budget::Owner;
use crate::telemetry::Gauge;

/// The limits. Clones share what is open.
#[derive(Clone, Debug)]
pub(super) struct StreamLimits(Arc<Shared>);

/// The right to keep one open, given back on drop. It belongs into the future or the body that waits.
#[derive(Debug)]
pub(super) struct StreamPermit {
    limits: StreamLimits,
    owner: Owner,
}

/// Why no more may be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamsExhausted {
    /// The owner has this many open, which is its share.
    Share(usize),
    /// As many are open as may be in total.
    Total,
}

#[derive(Debug)]
struct Shared {
    total_max: usize,
    per_owner_max: usize,
    open: Mutex<OpenStreams>,
    gauge: Gauge,
}

#[derive(Debug, Default)]
struct OpenStreams {
    total: usize,
    /// Of owners that have any open.
    by_owner: HashMap<Owner, usize>,
}

impl StreamLimits {
    /// Limits of which nothing is used. An owner has at most half of the total, rounded up. `gauge` shows how many are
    /// open.
    pub(super) fn new(total_max: usize, per_owner_max: usize, gauge: Gauge) -> Self {
        let per_owner_max = per_owner_max.min(total_max.div_ceil(2));
        Self(Arc::new(Shared { total_max, per_owner_max, open: Mutex::default(), gauge }))
    }

    /// Opens one more.
    ///
    /// # Errors
    /// When the owner, or all of them together, have as many open as they may.
    pub(super) fn open(&self, owner: Owner) -> Result<StreamPermit, StreamsExhausted> {
        let Shared { total_max, per_owner_max, .. } = &*self.0;
        let mut open = self.lock();
        let of_owner = open.by_owner.get(&owner).copied().unwrap_or(0);
        if of_owner >= *per_owner_max {
            return Err(StreamsExhausted::Share(*per_owner_max));
        }
        if open.total >= *total_max {
            return Err(StreamsExhausted::Total);
        }
        open.total += 1;
        open.by_owner.insert(owner, of_owner + 1);
        self.show(&open);
        drop(open);
        Ok(StreamPermit { limits: self.clone(), owner })
    }

    fn lock(&self) -> MutexGuard<'_, OpenStreams> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In the lock, so that the last change is the one that stays.
    fn show(&self, open: &OpenStreams) {
        self.0.gauge.set(i64::try_from(open.total).unwrap_or(i64::MAX));
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.limits.lock();
        open.total -= 1;
        if let Some(of_owner) = open.by_owner.get_mut(&self.owner) {
            *of_owner -= 1;
            if *of_owner == 0 {
                open.by_owner.remove(&self.owner);
            }
        }
        self.limits.show(&open);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{OrgId, Timestamp};

    fn owner(number: i64) -> Owner {
        Owner::Org(OrgId::mint(Timestamp::from_micros(number)))
    }

    fn limits(total: usize, per_owner: usize) -> StreamLimits {
        StreamLimits::new(total, per_owner, Gauge::new("open", "streams").unwrap())
    }

    #[test]
    fn owner_has_its_share_and_all_have_the_total() {
        let limits = limits(5, 2);
        let (first, second) = (owner(1), owner(2));
        let open = |owner| limits.open(owner).unwrap();
        let mut held = vec![open(first), open(first), open(second), open(second)];
        assert_eq!(limits.open(first).unwrap_err(), StreamsExhausted::Share(2));
        held.push(open(Owner::Operators));
        assert_eq!(limits.open(owner(3)).unwrap_err(), StreamsExhausted::Total);
        assert_eq!(limits.0.gauge.get(), 5);
        held.clear();
        assert_eq!((limits.0.gauge.get(), limits.lock().by_owner.len()), (0, 0));
    }

    #[test]
    fn one_owner_leaves_half_to_the_others() {
        let limits = limits(3, 100);
        let first = owner(1);
        let _held = [limits.open(first).unwrap(), limits.open(first).unwrap()];
        assert_eq!(limits.open(first).unwrap_err(), StreamsExhausted::Share(2));
        assert!(limits.open(owner(2)).is_ok());
    }
}
