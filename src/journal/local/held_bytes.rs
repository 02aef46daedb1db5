//! The bytes of organisations in batches that the reader returned: when an acknowledgement frees them.

use std::collections::BTreeMap;

use super::ack_window::BatchNumber;
use super::shares::OrgBytes;
use crate::domain::OrgId;

/// The bytes of each unacknowledged batch, and of the acknowledged batches behind it up to the next one. Pure.
///
/// The disk keeps what is behind the oldest unacknowledged batch, so the bytes of a batch are freed when every batch
/// before it is acknowledged, too. However many acknowledged ones are behind them, memory is bounded by the
/// unacknowledged ones: about as many as workers, and those that the caller leaves for later and bounds by itself.
#[derive(Debug, Default)]
pub(super) struct HeldBytes {
    batches: BTreeMap<BatchNumber, Box<[(OrgId, u64)]>>,
}

impl HeldBytes {
    /// Adds the batch that was read next.
    pub(super) fn add(&mut self, number: BatchNumber, bytes: OrgBytes) {
        self.batches.insert(number, bytes.into_iter().collect());
    }

    /// Acknowledges a batch. Returns the bytes that this frees.
    pub(super) fn ack(&mut self, number: BatchNumber) -> OrgBytes {
        let bytes = self.batches.remove(&number).unwrap_or_default();
        let Some((_, before)) = self.batches.range_mut(..number).next_back() else {
            return bytes.into_iter().collect();
        };
        let mut sum: OrgBytes = before.iter().copied().collect();
        for (org, bytes) in bytes {
            *sum.entry(org).or_default() += bytes;
        }
        *before = sum.into_iter().collect();
        OrgBytes::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::Timestamp;
    use crate::journal::local::ack_window::AckWindow;

    proptest! {
        #[test]
        fn bytes_are_freed_as_the_end_of_acknowledged_batches_moves(
            order in Just((0..20_usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let (mut window, mut held) = (AckWindow::default(), HeldBytes::default());
            let orgs = [(); 3].map(|()| OrgId::mint(Timestamp::from_micros(1)));
            let numbers = (1..=order.len() as u64).map(|below| {
                let number = window.add(below, 1);
                let other = orgs[1 + usize::try_from(below).unwrap() % 2];
                held.add(number, OrgBytes::from([(other, below), (orgs[0], 2)]));
                number
            });
            let numbers: Vec<_> = numbers.collect();
            let (mut freed, mut end) = (0, 0);
            for index in order {
                end = window.ack(numbers[index]).map_or(end, |acked| acked.below);
                freed += held.ack(numbers[index]).values().sum::<u64>();
                let expected: u64 = (1..=end).map(|below| 2 + below).sum();
                prop_assert_eq!(freed, expected);
            }
            prop_assert!(held.batches.is_empty());
        }
    }
}
