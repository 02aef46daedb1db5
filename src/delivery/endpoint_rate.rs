//! The per-endpoint rate limiter: the generic cell rate algorithm (GCRA) over attempt starts.
//!
//! Attempts are spread evenly; an attempt that started slightly late is made up for. Pure: the time is a
//! parameter, and monotonic, so that a step of the wall clock neither stops an endpoint nor lets a burst go.

use std::time::Duration;

use crate::runtime::Monotonic;

/// How much lateness is made up for: the longest iteration of a busy dispatcher.
const LEEWAY: Duration = Duration::from_millis(50);

/// When the next attempt to an endpoint may start under its rate limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EndpointRate {
    /// When the next attempt would start if attempts were spread evenly.
    next: Monotonic,
}

impl EndpointRate {
    /// The state of an endpoint without attempts.
    pub(super) const fn new(now: Monotonic) -> Self {
        Self { next: now }
    }

    /// When the next attempt may start.
    pub(super) fn ready_at(self) -> Monotonic {
        self.next.minus(LEEWAY)
    }

    /// An attempt starts; at most `per_second` may start each second.
    pub(super) fn start(&mut self, per_second: u32, now: Monotonic) {
        // Idle time is not saved up.
        self.next = self.next.max(now).plus(Duration::from_secs(1) / per_second.max(1));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Monotonic = Monotonic::ZERO;

    proptest! {
        #[test]
        fn no_second_holds_more_than_the_rate_and_its_leeway(
            per_second in 1..500_u32, gaps in prop::collection::vec(0..30_000_u64, 1..800),
        ) {
            let (mut rate, mut now, mut started) = (EndpointRate::new(NOW), NOW, Vec::new());
            for gap in gaps {
                now = now.plus(Duration::from_micros(gap));
                while rate.ready_at() <= now {
                    rate.start(per_second, now);
                    started.push(now);
                }
            }
            let most = (per_second + 1 + per_second.div_ceil(20)) as usize;
            for (index, start) in started.iter().enumerate() {
                let end = start.plus(Duration::from_secs(1));
                let within = started[index..].iter().take_while(|at| **at < end).count();
                prop_assert!(within <= most, "{within} of {most}");
            }
        }

        #[test]
        fn frequent_polls_reach_the_whole_rate(per_second in 1..500_u32) {
            let (mut rate, mut now, mut started) = (EndpointRate::new(NOW), NOW, 0);
            for _ in 0..100 {
                now = now.plus(Duration::from_millis(40));
                while rate.ready_at() <= now {
                    rate.start(per_second, now);
                    started += 1;
                }
            }
            prop_assert!(started >= 4 * per_second, "{started} in four seconds");
        }
    }
}
