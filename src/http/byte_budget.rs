//! Byte budgets: how many bytes of request bodies, or of answers, may be in memory at once.
//!
//! A budget bounds the total and every owner's share: an owner may hold as much as is free for all the others. One
//! owner alone gets half of the budget, two get a third each, and something is left for the next one. Shares of a fixed
//! size would leave most of the budget of a quiet server unused, or let a few owners use up all of it.
//!
//! The only body or answer of its owner may exceed the share, so that the largest one passes: the total bounds it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::auth::Principal;
use crate::domain::{OrgId, Role};
use crate::telemetry::Gauge;

/// A budget. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ByteBudget(Arc<Shared>);

/// Bytes that are taken from a budget, given back on drop.
#[derive(Debug)]
pub(super) struct BytePermit {
    budget: ByteBudget,
    owner: Owner,
    bytes: usize,
}

/// Whose bytes they are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Owner {
    /// An organisation's.
    Org(OrgId),
    /// The operators'.
    Operators,
    /// Of callers without a key.
    Anyone,
}

/// Why a budget has nothing to give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exhausted {
    /// The owner holds its share.
    Share,
    /// All of it is taken.
    Total,
}

#[derive(Debug)]
struct Shared {
    bytes_max: usize,
    held: Mutex<BytesHeld>,
    gauge: Gauge,
}

#[derive(Debug, Default)]
struct BytesHeld {
    total: usize,
    /// By owners that hold any, at most one entry per permit.
    by_owner: HashMap<Owner, usize>,
}

impl Owner {
    /// The owner of what this caller sends and asks for.
    pub(super) fn of(principal: &Principal) -> Self {
        match principal.role {
            Role::Tenant(org) => Self::Org(org),
            Role::Operator => Self::Operators,
        }
    }
}

impl ByteBudget {
    /// A budget of which nothing is taken. `gauge` shows what is.
    pub(super) fn new(bytes_max: usize, gauge: Gauge) -> Self {
        Self(Arc::new(Shared { bytes_max, held: Mutex::default(), gauge }))
    }

    /// A permit for nothing yet.
    pub(super) fn permit(&self, owner: Owner) -> BytePermit {
        BytePermit { budget: self.clone(), owner, bytes: 0 }
    }

    /// Checks whether the owner could take `bytes` now. Takes nothing.
    #[cfg(test)]
    pub(super) fn check(&self, owner: Owner, bytes: usize) -> Result<(), Exhausted> {
        self.lock().check(self.0.bytes_max, owner, 0, bytes)
    }

    fn lock(&self) -> MutexGuard<'_, BytesHeld> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BytesHeld {
    /// Whether an owner may take `bytes` for something that holds `own` already.
    fn check(
        &self,
        bytes_max: usize,
        owner: Owner,
        own: usize,
        bytes: usize,
    ) -> Result<(), Exhausted> {
        let free = bytes_max.saturating_sub(self.total);
        let of_owner = self.by_owner.get(&owner).copied().unwrap_or(0);
        if of_owner > own && of_owner + bytes > free {
            return Err(Exhausted::Share);
        }
        if bytes > free { Err(Exhausted::Total) } else { Ok(()) }
    }
}

impl BytePermit {
    /// Takes as many bytes as are missing to `bytes`, or none.
    ///
    /// # Errors
    /// When the budget, or the owner's share, has less.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), Exhausted> {
        let more = bytes.saturating_sub(self.bytes);
        let budget = &self.budget;
        let mut held = budget.lock();
        held.check(budget.0.bytes_max, self.owner, self.bytes, more)?;
        take(budget, &mut held, self.owner, more);
        drop(held);
        self.bytes += more;
        Ok(())
    }

    /// Gives back what is more than `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less > 0 {
            give_back(&self.budget, self.owner, less);
            self.bytes -= less;
        }
    }

    /// Takes as many bytes as are missing to `bytes`, although the budget may have less.
    pub(super) fn overdraw_to(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes);
        take(&self.budget, &mut self.budget.lock(), self.owner, more);
        self.bytes += more;
    }
}

fn take(budget: &ByteBudget, held: &mut BytesHeld, owner: Owner, bytes: usize) {
    if bytes > 0 {
        held.total += bytes;
        *held.by_owner.entry(owner).or_insert(0) += bytes;
        show(budget, held);
    }
}

/// In the lock, so that the last change is the one that stays.
fn show(budget: &ByteBudget, held: &BytesHeld) {
    budget.0.gauge.set(i64::try_from(held.total).unwrap_or(i64::MAX));
}

fn give_back(budget: &ByteBudget, owner: Owner, bytes: usize) {
    let mut held = budget.lock();
    held.total -= bytes;
    if let Some(of_owner) = held.by_owner.get_mut(&owner) {
        *of_owner -= bytes;
        if *of_owner == 0 {
            held.by_owner.remove(&owner);
        }
    }
    show(budget, &held);
}

impl Drop for BytePermit {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    fn budget(bytes_max: usize) -> ByteBudget {
        ByteBudget::new(bytes_max, Gauge::new("held", "bytes").unwrap())
    }

    fn org(number: i64) -> Owner {
        Owner::Org(OrgId::mint(Timestamp::from_micros(number)))
    }

    fn take(budget: &ByteBudget, owner: Owner, bytes: usize) -> Result<BytePermit, Exhausted> {
        let mut permit = budget.permit(owner);
        permit.grow_to(bytes).map(|()| permit)
    }

    /// Takes pieces of one byte until the budget refuses.
    fn flood(budget: &ByteBudget, owner: Owner) -> (Vec<BytePermit>, Exhausted) {
        let mut permits = Vec::new();
        loop {
            match take(budget, owner, 1) {
                Ok(permit) => permits.push(permit),
                Err(exhausted) => return (permits, exhausted),
            }
        }
    }

    #[test]
    fn owner_that_floods_leaves_as_much_to_the_others() {
        let budget = budget(120);
        let (first, refusal) = flood(&budget, org(1));
        assert_eq!((first.len(), refusal), (60, Exhausted::Share));
        let (second, refusal) = flood(&budget, org(2));
        assert_eq!((second.len(), refusal), (30, Exhausted::Share));
        let third = take(&budget, Owner::Operators, 30).unwrap();
        assert_eq!(take(&budget, Owner::Anyone, 1).unwrap_err(), Exhausted::Total);
        assert_eq!(budget.0.gauge.get(), 120);
        drop((first, second, third));
        assert!(budget.lock().by_owner.is_empty());
        assert_eq!((budget.lock().total, budget.0.gauge.get()), (0, 0));
    }

    #[test]
    fn only_permit_of_its_owner_may_take_all_that_is_free() {
        let (budget, owner) = (budget(100), org(1));
        let mut only = take(&budget, owner, 40).unwrap();
        only.grow_to(90).unwrap();
        assert_eq!(only.grow_to(101), Err(Exhausted::Total));
        assert_eq!(take(&budget, owner, 10).unwrap_err(), Exhausted::Share);
        assert_eq!(budget.check(org(2), 10), Ok(()));
        drop(only);
        let mut one = take(&budget, owner, 40).unwrap();
        let other = take(&budget, owner, 10).unwrap();
        assert_eq!(one.grow_to(90), Err(Exhausted::Share));
        drop(other);
        one.grow_to(90).unwrap();
    }

    #[test]
    fn permit_gives_back_what_it_shrinks_by() {
        let (budget, owner) = (budget(100), org(1));
        let mut permit = take(&budget, owner, 80).unwrap();
        permit.shrink_to(90);
        assert_eq!(budget.check(org(2), 21), Err(Exhausted::Total));
        permit.shrink_to(30);
        assert_eq!((budget.lock().total, budget.0.gauge.get()), (30, 30));
        permit.shrink_to(0);
        assert!(budget.lock().by_owner.is_empty());
        permit.grow_to(100).unwrap();
    }

    #[test]
    fn overdraft_counts() {
        let budget = budget(10);
        let mut over = budget.permit(Owner::Anyone);
        over.overdraw_to(25);
        assert_eq!(take(&budget, org(1), 1).unwrap_err(), Exhausted::Total);
        drop(over);
        take(&budget, org(1), 10).unwrap();
    }
}
