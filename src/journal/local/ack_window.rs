//! The window of unacknowledged batches: how far the checkpoint may move when batches are acknowledged out of
//! order.

use std::collections::VecDeque;

use crate::domain::Timestamp;

/// The batches that were read, from the oldest unacknowledged one on, in the order in which they were read. Pure.
///
/// While the oldest batch is not acknowledged, later ones add up, acknowledged or not: the reader checks
/// [`Self::len`] before it reads.
#[derive(Debug, Default)]
pub(super) struct AckWindow {
    /// The number of the oldest batch in `batches`.
    oldest: u64,
    batches: VecDeque<Entry>,
}

/// The number of a batch, counted from the start of the reader.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct BatchNumber(u64);

/// Everything below a position, as far as it was not acknowledged before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Acked {
    /// Every record below this seq is acknowledged.
    pub(super) below: u64,
    /// Items in the records that this acknowledgement added.
    pub(super) items: u64,
}

#[derive(Debug)]
struct Entry {
    /// The seq behind its last record, and the items in its records.
    end: Acked,
    accepted_at: Option<Timestamp>,
    acked: bool,
}

impl AckWindow {
    /// Batches from the oldest unacknowledged one to the one that was read last.
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    /// When the oldest unacknowledged batch was accepted, if that is known.
    pub(super) fn oldest_accepted_at(&self) -> Option<Timestamp> {
        self.batches.front()?.accepted_at
    }

    /// Adds the batch that was read next, which ends below the seq `below` and has `items` items.
    pub(super) fn add(&mut self, below: u64, items: u64) -> BatchNumber {
        let end = Acked { below, items };
        self.batches.push_back(Entry { end, accepted_at: None, acked: false });
        BatchNumber(self.oldest + self.batches.len() as u64 - 1)
    }

    /// Sets when an unacknowledged batch was accepted.
    pub(super) fn set_accepted_at(&mut self, number: BatchNumber, accepted_at: Timestamp) {
        if let Some(entry) = self.entry(number) {
            entry.accepted_at = Some(accepted_at);
        }
    }

    /// Acknowledges a batch. Returns how far that moved the end of the contiguous acknowledged batches, if it did.
    pub(super) fn ack(&mut self, number: BatchNumber) -> Option<Acked> {
        self.entry(number)?.acked = true;
        let mut moved: Option<Acked> = None;
        while let Some(Entry { end, .. }) = self.batches.pop_front_if(|entry| entry.acked) {
            let items = moved.map_or(0, |moved| moved.items) + end.items;
            moved = Some(Acked { below: end.below, items });
            self.oldest += 1;
        }
        moved
    }

    fn entry(&mut self, number: BatchNumber) -> Option<&mut Entry> {
        let index = usize::try_from(number.0.checked_sub(self.oldest)?).ok()?;
        self.batches.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn acked(below: u64, items: u64) -> Acked {
        Acked { below, items }
    }

    #[test]
    fn end_moves_only_over_acknowledged_batches() {
        let mut window = AckWindow::default();
        let [first, second, third] =
            [(10, 1), (20, 2), (35, 4)].map(|(below, items)| window.add(below, items));
        window.set_accepted_at(first, Timestamp::from_micros(7));
        assert_eq!(window.oldest_accepted_at(), Some(Timestamp::from_micros(7)));
        assert_eq!(window.ack(second), None);
        assert_eq!(window.len(), 3);
        assert_eq!(window.ack(first), Some(acked(20, 3)));
        assert_eq!(window.oldest_accepted_at(), None);
        assert_eq!(window.ack(first), None);
        assert_eq!(window.ack(third), Some(acked(35, 4)));
        let fourth = window.add(40, 8);
        assert_eq!(window.ack(fourth), Some(acked(40, 8)));
        assert_eq!(window.len(), 0);
    }

    proptest! {
        #[test]
        fn end_stands_before_the_oldest_unacknowledged_batch_in_any_order(
            order in Just((0..20_usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut window = AckWindow::default();
            let numbers: Vec<_> = (1..=order.len() as u64).map(|end| window.add(end, 1)).collect();
            let mut done = vec![false; order.len()];
            let mut end = 0;
            for index in order {
                done[index] = true;
                let expected = done.iter().take_while(|done| **done).count() as u64;
                let moved = window.ack(numbers[index]);
                let expected_move = (expected > end).then_some(acked(expected, expected - end));
                prop_assert_eq!(moved, expected_move);
                end = expected;
            }
            prop_assert_eq!(end, done.len() as u64);
        }
    }
}
