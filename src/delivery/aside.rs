//! Deliveries that are set aside: the store does not record their outcomes, so this server does not attempt them again,
//! unless it records them later.

use std::collections::{HashSet, VecDeque};

use crate::domain::DeliveryId;

/// Maximum deliveries that are set aside. Beyond it the one that was set aside first may be attempted again.
const ASIDE_MAX: usize = 4_096;

/// The deliveries, the last [`ASIDE_MAX`] of them.
#[derive(Debug, Default)]
pub(super) struct Aside {
    known: HashSet<DeliveryId>,
    /// The same, in the order in which they came.
    order: VecDeque<DeliveryId>,
}

impl Aside {
    pub(super) fn add(&mut self, delivery: DeliveryId) {
        if !self.known.insert(delivery) {
            return;
        }
        self.order.push_back(delivery);
        if self.order.len() > ASIDE_MAX
            && let Some(first) = self.order.pop_front()
        {
            self.known.remove(&first);
        }
    }

    pub(super) fn remove(&mut self, delivery: DeliveryId) {
        if self.known.remove(&delivery) {
            self.order.retain(|known| *known != delivery);
        }
    }

    pub(super) fn contains(&self, delivery: DeliveryId) -> bool {
        self.known.contains(&delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn last_deliveries_are_known_and_a_repeated_one_counts_once() {
        let mint = |n| DeliveryId::mint(Timestamp::from_micros(n));
        let (first, others) = (mint(0), (1..=4_096).map(mint).collect::<Vec<_>>());
        let mut aside = Aside::default();
        aside.add(first);
        aside.add(first);
        assert!(aside.contains(first));
        for other in &others {
            aside.add(*other);
        }
        assert!(!aside.contains(first));
        assert!(others.iter().all(|other| aside.contains(*other)));
        assert_eq!((aside.known.len(), aside.order.len()), (ASIDE_MAX, ASIDE_MAX));
        aside.remove(others[7]);
        aside.remove(first);
        assert!(!aside.contains(others[7]));
        assert_eq!((aside.known.len(), aside.order.len()), (ASIDE_MAX - 1, ASIDE_MAX - 1));
    }
}
