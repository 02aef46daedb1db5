//! Histograms of times in fixed buckets, which add up over hours and endpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The upper bounds of the buckets, in milliseconds. Longer times are in one bucket more.
pub(super) const BOUNDS_MS: [u64; 37] = [
    1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1_000, 1_500, 2_000,
    3_000, 5_000, 7_000, 10_000, 15_000, 20_000, 30_000, 60_000, 120_000, 300_000, 600_000,
    1_800_000, 3_600_000, 7_200_000, 21_600_000, 43_200_000, 86_400_000,
];

/// A histogram of times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LatencyHistogram(
    /// How many times are in each bucket that has any.
    BTreeMap<u8, u64>,
);

impl LatencyHistogram {
    /// Adds a time.
    pub(super) fn observe(&mut self, ms: u64) {
        let bucket = BOUNDS_MS.partition_point(|bound| *bound < ms);
        *self.0.entry(u8::try_from(bucket).unwrap_or(u8::MAX)).or_default() += 1;
    }

    /// Adds the times of another one.
    pub(super) fn merge(&mut self, other: &Self) {
        for (bucket, times) in &other.0 {
            *self.0.entry(*bucket).or_default() += times;
        }
    }

    /// The time within which `percent` of all lie, in milliseconds, interpolated within its bucket; `None` without
    /// any. A time beyond the last bound counts as that bound.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        let all: u64 = self.0.values().sum();
        let rank = all.saturating_mul(percent).div_ceil(100).max(1);
        let mut below = 0;
        for (bucket, times) in &self.0 {
            if below + times >= rank {
                let bound = |bucket: usize| BOUNDS_MS.get(bucket).copied();
                let bucket = usize::from(*bucket);
                let upper = bound(bucket).or(BOUNDS_MS.last().copied())?;
                let lower = bucket.checked_sub(1).and_then(bound).unwrap_or(0).min(upper);
                return Some(lower + ((upper - lower) * (rank - below)).div_ceil(*times));
            }
            below += times;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_rise() {
        assert!(BOUNDS_MS.is_sorted_by(|lower, upper| lower < upper));
    }

    #[test]
    fn percentiles_lie_in_the_bucket_of_their_time() {
        let mut histogram = LatencyHistogram::default();
        assert_eq!(histogram.percentile(50), None);
        (1..=100).for_each(|ms| histogram.observe(ms));
        assert_eq!(histogram.percentile(50), Some(50));
        assert_eq!(histogram.percentile(99), Some(99));
        assert_eq!(histogram.percentile(100), Some(100));
        let mut slow = LatencyHistogram::default();
        slow.observe(u64::MAX);
        assert_eq!(slow.percentile(50), Some(86_400_000));
        let mut fast = LatencyHistogram::default();
        fast.observe(0);
        assert_eq!(fast.percentile(99), Some(1));
    }

    #[test]
    fn merged_histograms_have_the_times_of_both() {
        let (mut one, mut other) = (LatencyHistogram::default(), LatencyHistogram::default());
        one.observe(4);
        other.observe(4);
        other.observe(900);
        one.merge(&other);
        assert_eq!(one.0.values().sum::<u64>(), 3);
        assert_eq!(one.percentile(99), Some(1_000));
    }
}
