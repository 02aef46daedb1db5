//! How many attempts an endpoint may be sent in a second. Pure: it is told the time.
//!
//! The generic cell rate algorithm: attempts are spread evenly, one every so often, and what was
//! started a little late is made up for.

use std::time::Duration;

use crate::domain::Timestamp;

/// How much lateness may be made up for: as long as the dispatcher may take to come round.
const LEEWAY: Duration = Duration::from_millis(50);

/// When an endpoint may next be sent something, under its rate limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EndpointRate {
    /// When the next attempt would start if all were spread evenly.
    next: Timestamp,
}

impl EndpointRate {
    /// That of an endpoint nothing was sent to.
    pub(super) const fn new(now: Timestamp) -> Self {
        Self { next: now }
    }

    /// When the next attempt may start.
    pub(super) fn ready_at(self) -> Timestamp {
        self.next.minus(LEEWAY)
    }

    /// An attempt starts, at most `per_second` of which may.
    pub(super) fn start(&mut self, per_second: u32, now: Timestamp) {
        // Time in which nothing was sent is not saved up.
        self.next = self.next.max(now).plus(Duration::from_secs(1) / per_second.max(1));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_000_000_000);

    proptest! {
        #[test]
        fn no_second_holds_more_than_the_rate_and_its_leeway(
            per_second in 1..500_u32, gaps in prop::collection::vec(0..30_000_u64, 1..800),
        ) {
            let (mut pace, mut now, mut started) = (EndpointRate::new(NOW), NOW, Vec::new());
            for gap in gaps {
                now = now.plus(Duration::from_micros(gap));
                while pace.ready_at() <= now {
                    pace.start(per_second, now);
                    started.push(now);
                }
            }
            let most = (per_second + 1 + per_second.div_ceil(20)) as usize;
            for (place, start) in started.iter().enumerate() {
                let end = start.plus(Duration::from_secs(1));
                let within = started[place..].iter().take_while(|at| **at < end).count();
                prop_assert!(within <= most, "{within} of {most}");
            }
        }

        #[test]
        fn who_comes_round_often_enough_gets_the_whole_rate(per_second in 1..500_u32) {
            let (mut pace, mut now, mut started) = (EndpointRate::new(NOW), NOW, 0);
            for _ in 0..100 {
                now = now.plus(Duration::from_millis(40));
                while pace.ready_at() <= now {
                    pace.start(per_second, now);
                    started += 1;
                }
            }
            prop_assert!(started >= 4 * per_second, "{started} in four seconds");
        }
    }
}
