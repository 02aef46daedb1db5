//! A rate, and what a check against it tells.

use std::num::NonZeroU32;
use std::time::Duration;

/// The window of the limits.
pub(super) const WINDOW: Duration = Duration::from_mins(1);

/// How much per minute, and how much at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Per minute.
    pub per_minute: NonZeroU32,
    /// At once.
    pub burst: NonZeroU32,
}

/// A rate limit, and how much of it is left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateLimitState {
    /// Events (or what else is counted) per minute.
    pub limit: u32,
    /// Events at once.
    pub burst: u32,
    /// Events that may be posted now.
    pub remaining: u32,
    /// Time until all of `burst` may be posted again.
    pub reset: Duration,
}

/// The result of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RateDecision {
    /// The cost was taken.
    Allowed(RateLimitState),
    /// Nothing was taken; the same cost passes after `retry_after` if nothing else is posted.
    Denied {
        /// What is left.
        state: RateLimitState,
        /// The shortest wait after which the same cost can pass.
        retry_after: Duration,
    },
    /// The cost exceeds the burst and can never pass.
    ExceedsBurst(RateLimitState),
}

impl Rate {
    /// A rate with as much at once as per minute.
    pub const fn per_minute(per_minute: u32) -> Self {
        Self::with_burst(per_minute, per_minute)
    }

    /// A rate with this much at once. Zeros are ones.
    pub const fn with_burst(per_minute: u32, burst: u32) -> Self {
        Self { per_minute: at_least_one(per_minute), burst: at_least_one(burst) }
    }

    /// The time in which an empty bucket becomes full.
    pub(super) fn refill(self) -> Duration {
        self.time_of(self.burst.get())
    }

    /// The state with `remaining` left.
    pub(super) fn state(self, remaining: u32) -> RateLimitState {
        let (limit, burst) = (self.per_minute.get(), self.burst.get());
        let reset = self.time_of(burst.saturating_sub(remaining));
        RateLimitState { limit, burst, remaining, reset }
    }

    /// The time in which `cost` refills.
    pub(super) fn time_of(self, cost: u32) -> Duration {
        let nanos = u128::from(cost) * WINDOW.as_nanos() / u128::from(self.per_minute.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// What refills in `span`, rounded up.
    pub(super) fn refilled_in(self, span: Duration) -> u32 {
        let nanos = span.as_nanos().saturating_mul(u128::from(self.per_minute.get()));
        u32::try_from(nanos.div_ceil(WINDOW.as_nanos())).unwrap_or(u32::MAX)
    }
}

const fn at_least_one(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}
