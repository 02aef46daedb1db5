//! How far the checkpoint may move, when workers finish out of order.

use std::collections::VecDeque;

/// Batches in the order they were read, and which of them are finished. Pure.
///
/// While the oldest one is not finished, those behind it add up, finished or not: whoever reads must
/// look at [`Self::len`] first.
#[derive(Debug)]
pub(super) struct AckWindow<P> {
    /// The number of the oldest batch in `batches`.
    oldest: u64,
    batches: VecDeque<Batch<P>>,
}

/// The number of a batch: what its worker finishes it by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BatchNumber(u64);

#[derive(Debug)]
struct Batch<P> {
    end: P,
    finished: bool,
}

impl<P: Copy> AckWindow<P> {
    /// A window without batches.
    pub(super) const fn new() -> Self {
        Self { oldest: 0, batches: VecDeque::new() }
    }

    /// Batches from the oldest one that is not finished to the one that was read last.
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether every batch before this one is finished.
    pub(super) const fn is_oldest(&self, number: BatchNumber) -> bool {
        self.oldest == number.0
    }

    /// The end of the oldest batch that is not finished; `None` when all are.
    pub(super) fn oldest(&self) -> Option<P> {
        self.batches.front().map(|batch| batch.end)
    }

    /// Adds the batch that was read next; everything before `end` belongs to it or to one before it.
    pub(super) fn add(&mut self, end: P) -> BatchNumber {
        self.batches.push_back(Batch { end, finished: false });
        BatchNumber(self.oldest + self.batches.len() as u64 - 1)
    }

    /// Marks a batch as finished. Returns the end of the run of finished batches when this moved it.
    pub(super) fn finish(&mut self, number: BatchNumber) -> Option<P> {
        let place = usize::try_from(number.0.checked_sub(self.oldest)?).ok()?;
        self.batches.get_mut(place)?.finished = true;
        let mut moved = None;
        while self.batches.front().is_some_and(|batch| batch.finished) {
            moved = self.batches.pop_front().map(|batch| batch.end);
            self.oldest += 1;
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn end_moves_only_over_what_is_finished() {
        let mut window = AckWindow::new();
        let [first, second, third] = [10, 20, 35].map(|end| window.add(end));
        assert!(window.is_oldest(first) && !window.is_oldest(second));
        assert_eq!(window.finish(second), None);
        assert_eq!(window.len(), 3);
        assert_eq!(window.finish(first), Some(20));
        assert!(window.is_oldest(third));
        assert_eq!(window.finish(first), None);
        assert_eq!(window.finish(third), Some(35));
        let fourth = window.add(40);
        assert_eq!(window.finish(fourth), Some(40));
        assert_eq!(window.len(), 0);
    }

    proptest! {
        #[test]
        fn whatever_the_order_the_end_stands_before_the_oldest_unfinished_batch(
            order in Just((0..20_usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut window = AckWindow::new();
            let numbers: Vec<_> = (0..order.len()).map(|end| window.add(end + 1)).collect();
            let mut finished = vec![false; order.len()];
            let mut end = 0;
            for place in order {
                finished[place] = true;
                let expected = finished.iter().take_while(|finished| **finished).count();
                let moved = window.finish(numbers[place]);
                prop_assert_eq!(moved, (expected > end).then_some(expected));
                end = expected;
            }
            prop_assert_eq!(end, finished.len());
        }
    }
}
